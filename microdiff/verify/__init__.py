"""Verify artifacts: every byte against manifests and DVC, every count and key against the steps around it."""
