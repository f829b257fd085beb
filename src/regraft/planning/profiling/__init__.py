"""Profile of a network on the user's data: how well each depth predicts the targets, and what follows from it."""

from .measuring import measure_profile
from .profile import Profile

__all__ = ["Profile", "measure_profile"]
