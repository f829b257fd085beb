"""Learning curves: the epochs of a history, where its stages begin, and which epochs were kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["curve", "epochs_of", "kept_epochs", "stage_starts"]


def epochs_of(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries of a `history` that are epochs; the others tell what short trainings came to."""
    return [entry for entry in history if entry.get("phase") != "search"]


def curve(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return one quantity over the epochs.

    Args:
        history: one mapping an epoch, over all stages.
        key: such as "train_loss".

    Returns:
        Points (epoch counted from 1 over all stages, value); epochs where the value is missing or not finite are left out.
    """
    points = [(float(number), entry.get(key)) for number, entry in enumerate(history, start=1)]
    return [(x, float(y)) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]


def stage_starts(history: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    """Return the epochs of `history` where a stage begins, with its name, and its run where there are several; nothing for one stage."""
    starts: dict[float, str] = {}
    several = len({entry.get("run", 1) for entry in history}) > 1
    before: object = None
    for number, entry in enumerate(history, start=1):
        stage, run, phase = entry.get("stage"), entry.get("run", 1), str(entry.get("phase", "train"))
        if stage is not None and (run, stage, phase) != before:
            words = str(stage) if phase == "train" else f"{stage}, {phase}"
            starts[float(number)] = f"run {run}: {words}" if several else words
        before = (run, stage, phase)
    return starts if len(starts) > 1 else {}


def kept_epochs(history: Sequence[Mapping[str, Any]], *, kept_start: str | None = None) -> list[float]:
    """Return the epochs whose weights were kept: of each stage the one with the lowest validation loss.

    Args:
        history: one mapping an epoch, over all stages.
        kept_start: the stage of which nothing was kept.

    Returns:
        Epochs counted from 1 over all stages; none of a stage without validation loss.
    """
    best: dict[object, tuple[float, float]] = {}
    for number, entry in enumerate(history, start=1):
        loss = entry.get("calibrated_loss", entry.get("validation_loss"))
        if isinstance(loss, int | float) and math.isfinite(loss) and entry.get("phase", "train") == "train":
            key = entry.get("run", 1), entry.get("stage")
            if entry.get("stage") != kept_start and loss < best.get(key, (math.inf, 0.0))[0]:
                best[key] = float(loss), float(number)
    return [epoch for _, epoch in best.values()]
