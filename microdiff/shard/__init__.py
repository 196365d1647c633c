"""Step 4: from latents to MDS shards."""
