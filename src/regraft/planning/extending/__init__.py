"""Extension of a network by the new classes of a data set, evaluated on a holdout set."""

from .extension import Asked, Extension, extended, figures_line

__all__ = ["Asked", "Extension", "extended", "figures_line"]
