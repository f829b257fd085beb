"""Plan of an adaptation, and its execution."""

from .carry_out import carry_out
from .plan import Plan, holdout_share, make_plan
from .result import Result

__all__ = ["Plan", "Result", "carry_out", "holdout_share", "make_plan"]
