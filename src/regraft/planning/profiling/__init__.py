"""The profile: what each depth of a network knows of the user's data, and what follows from it."""

from .measuring import measure_profile
from .profile import Beside, Depth, Profile

__all__ = ["Beside", "Depth", "Profile", "measure_profile"]
