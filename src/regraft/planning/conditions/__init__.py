"""Conditions: codes of new conditions, fitted with all other weights unchanged, and inputs learned by gradient descent."""

from .adapting import ConditionOptions, fit_condition, fold, saved_to
from .fitting import FitSettings
from .tuning import TunedInput, learn_input

__all__ = ["ConditionOptions", "FitSettings", "TunedInput", "fit_condition", "fold", "learn_input", "saved_to"]
