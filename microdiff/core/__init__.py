"""What every package uses and what decides no byte of an artifact: files, ledger, progress, code fingerprint."""
