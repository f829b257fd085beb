"""Edits of networks, written once for every family."""
