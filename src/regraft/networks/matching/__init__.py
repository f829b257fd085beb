"""Which weight of a file belongs to which weight of a network."""

from .alignment import alignments, count_alignments
from .rules import match
from .weights import Matching, Weight, numbers_note

__all__ = ["Matching", "Weight", "alignments", "count_alignments", "match", "numbers_note"]
