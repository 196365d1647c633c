"""What the stage scripts besides the four steps call."""
