"""Find, load and run image and text encoders."""
