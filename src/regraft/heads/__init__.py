"""Changing a network's head, rows matched by class name."""

from .retarget import retarget, retargeted_rows

__all__ = ["retarget", "retargeted_rows"]
