"""The formats on disk: what one step writes and the next, verify and the loader read."""
