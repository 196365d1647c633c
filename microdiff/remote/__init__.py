"""Shards on a DVC remote, found through git and DVC files."""
