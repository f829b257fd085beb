"""How parameters change: one method a file, a pure function first. A method chooses what is trained; the loop is the same for all."""

from . import bias, codes, lin, lora, scale_shift
from .contract import Begun, Method, Option

__all__ = ["METHODS", "SWITCHES", "Begun", "Method", "Option"]

METHODS: dict[str, Method] = {method.name: method for method in (bias.METHOD, scale_shift.METHOD, lora.METHOD, lin.METHOD, codes.METHOD)}
"""Name of a strategy -> method."""
SWITCHES = ("stay_near", "distill", "co_tuning")
"""Settings that any strategy takes which trains below the heads; each has a file of its name here."""
