"""Decoding of examples: files and their kinds, pixels, and decoder threads."""
