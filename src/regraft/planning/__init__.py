"""Plan of an adaptation, and its execution."""

from .carry_out import carry_out
from .plan import Plan, make_plan
from .result import Result

__all__ = ["Plan", "Result", "carry_out", "make_plan"]
