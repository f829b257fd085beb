"""Conditions: codes for new ones, with all else left as it is, and inputs learned by gradient."""

from .adapting import Asked, adapt_condition, fold, saved_to
from .fitting import Fitting
from .tuning import TunedInput, tune_input

__all__ = ["Asked", "Fitting", "TunedInput", "adapt_condition", "fold", "saved_to", "tune_input"]
