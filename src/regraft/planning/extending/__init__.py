"""Extension of a network by the new classes of a data set, evaluated on a holdout set."""

from .extension import Extension, ExtensionOptions, extended, figures_line

__all__ = ["Extension", "ExtensionOptions", "extended", "figures_line"]
