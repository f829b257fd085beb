"""Conversion between the families: Keras graphs as PyTorch modules, and PyTorch programs as Keras graphs."""
