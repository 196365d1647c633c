"""The bytes of a batch: which runs of which shard files they are, and reading them."""
