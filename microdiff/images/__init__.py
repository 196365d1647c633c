"""Decode, reduce, crop and store pictures."""
