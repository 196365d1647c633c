"""Step 2: from raw captions to the one that is encoded."""
