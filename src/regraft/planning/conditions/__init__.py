"""Conditions: codes of new conditions, fitted with all other weights unchanged, and inputs learned by gradient descent."""

from .adapting import Asked, adapt_condition, fold, saved_to
from .fitting import Fitting
from .tuning import TunedInput, tune_input

__all__ = ["Asked", "Fitting", "TunedInput", "adapt_condition", "fold", "saved_to", "tune_input"]
