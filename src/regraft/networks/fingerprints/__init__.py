"""Digests of values and code, for the identity of caches that several processes share."""
