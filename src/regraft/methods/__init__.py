"""Adaptation methods, one per file. A method selects the parameters to train; the training loop is the same for all."""

from . import bias, codes, lin, lora, scale_shift
from .contract import Method, Option, PreparedNetwork

__all__ = ["METHODS", "SWITCHES", "Method", "Option", "PreparedNetwork"]

METHODS: dict[str, Method] = {method.name: method for method in (bias.METHOD, scale_shift.METHOD, lora.METHOD, lin.METHOD, codes.METHOD)}
"""Strategy name -> method."""
SWITCHES = ("stay_near", "distill", "co_tuning")
"""Settings for any strategy that trains below the heads; each has a file of the same name in this package."""
