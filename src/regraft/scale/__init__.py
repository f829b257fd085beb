"""Work on many machines, by Ray."""

from .ray import check_cluster, on_cluster, packed, unpacked

__all__ = ["check_cluster", "on_cluster", "packed", "unpacked"]
