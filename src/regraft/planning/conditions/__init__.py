"""Conditions: codes of new conditions, fitted with all other weights unchanged, and inputs learned by gradient descent."""

from .adapting import Asked, fit_condition, fold, saved_to
from .fitting import Fitting
from .tuning import TunedInput, learn_input

__all__ = ["Asked", "Fitting", "TunedInput", "fit_condition", "fold", "learn_input", "saved_to"]
