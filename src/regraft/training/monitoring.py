"""By which figure of an epoch the best one is chosen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["monitor_problem", "monitored_by", "value_of"]

_FALLING = ("loss", "error", "rmse", "mae", "mse")
"""How names of figures end that are better the lower they are, where nobody says."""


def monitored_by(monitor: str | None, mode: str) -> tuple[str | None, float]:
    """Return the name in the history of what chooses the epoch, and 1.0 or -1.0, which makes the lowest the best.

    Args:
        monitor: a name as in the history or in Keras ("val_accuracy", "loss"), or of a metric alone; None for the usual loss.
        mode: "min", "max", or "auto": by the name.

    Example:
        >>> monitored_by("val_accuracy", "auto")
        ('validation_accuracy', -1.0)
    """
    if monitor is None:
        return None, 1.0
    name = "train_loss" if monitor == "loss" else monitor.replace("val_", "validation_", 1) if monitor.startswith("val_") else monitor
    name = name if name.startswith(("validation_", "train_")) or name.endswith(("_loss", "_accuracy")) else f"validation_{name}"
    falls = mode == "min" or (mode == "auto" and name.endswith(_FALLING) and "neg_" not in name)
    return name, 1.0 if falls else -1.0


def monitor_problem(monitor: str | None, *, known: Iterable[str]) -> str:
    """Return what is wrong with a `monitor` where the history has the figures `known`, or ""."""
    name, _ = monitored_by(monitor, "auto")
    figures = list(known)
    return "" if name is None or name in figures else f"monitor={monitor!r} is no figure of an epoch; here these are: {', '.join(figures)}"


def value_of(entry: Mapping[str, Any], *names: str) -> float:
    """Return the first of these figures that an `entry` has; infinite where it has none, or no finite one."""
    value = next((entry[name] for name in names if name in entry), math.inf)
    return float(value) if math.isfinite(value) else math.inf
