"""Step 1: from a source to the raw artifact."""
