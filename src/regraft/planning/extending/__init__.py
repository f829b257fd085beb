"""Extend a network with the classes that data show, and judge it on examples that chose nothing."""

from .extension import Asked, Extension, extended, figures_line

__all__ = ["Asked", "Extension", "extended", "figures_line"]
