"""Step 3: from pictures and captions to latents."""
