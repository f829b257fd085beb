"""Matching of the weights in a file to the weights of a network."""

from .rules import ORDER, by_order, by_shape, match
from .weights import Matching, Weight, fill_

__all__ = ["ORDER", "Matching", "Weight", "by_order", "by_shape", "fill_", "match"]
