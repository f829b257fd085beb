"""Learning curves as a PNG, for papers and slides; the page draws its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, optional_import

__all__ = ["curve", "epochs_of", "kept_epochs", "plot_history", "stage_starts"]


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


def plot_history(history: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw loss and accuracy by epoch with matplotlib.

    Args:
        history: one mapping an epoch with "train_loss", "validation_loss", "validation_accuracy", where they apply.
        path: the file to write; its ending chooses the format (.png, .pdf, .svg).

    Returns:
        The path.

    Raises:
        DataError: if no epoch has any of the three.
    """
    history = epochs_of(history)
    losses = {"training": curve(history, "train_loss"), "validation": curve(history, "validation_loss")}
    accuracy = {"validation": [(x, 100.0 * y) for x, y in curve(history, "validation_accuracy")]}
    panels = [(name, lines) for name, lines in (("loss", losses), ("accuracy (%)", accuracy)) if any(lines.values())]
    if not panels:
        raise DataError(f"Nothing to draw: none of {len(history)} epochs has a train_loss, validation_loss or validation_accuracy.")
    figure = optional_import("matplotlib.figure", "report", purpose="A plot of the history").Figure(
        figsize=(5 * len(panels), 3.4), layout="constrained"
    )
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, points in lines.items():
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=label)
        for start in stage_starts(history):
            axes.axvline(start, linestyle=":", linewidth=1, color="gray")
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend(frameon=False)
        axes.grid(alpha=0.25)
    figure.savefig(path, dpi=150)
    return Path(path)
