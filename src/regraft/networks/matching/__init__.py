"""Matching of the weights in a file to the weights of a network."""

from .rules import ORDER, by_order, by_shape, match
from .weights import Weight, WeightMatches, fill_

__all__ = ["ORDER", "Weight", "WeightMatches", "by_order", "by_shape", "fill_", "match"]
