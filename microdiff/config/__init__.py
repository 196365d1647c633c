"""What params.yaml can say. Values only: nothing here decides a byte of an artifact."""
