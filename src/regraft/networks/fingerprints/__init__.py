"""Digests of values and code, for the identity of what is kept between processes."""
