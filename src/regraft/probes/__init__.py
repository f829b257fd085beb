"""Heads solved in closed form on features."""

from .ridge import RidgeProbe, fit_ridge

__all__ = ["RidgeProbe", "fit_ridge"]
