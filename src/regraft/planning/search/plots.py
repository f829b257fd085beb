"""Two plots of a search: trials over parallel axes, and what matters."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, optional_import
from ...files.formats import reason_of
from ...files.text import printable
from ...files.writing import write_bytes

__all__ = ["plot_importances", "plot_trials", "positions"]


def positions(values: Sequence[Any], *, log: bool) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return where values stand on an axis from 0 to 1, and its labels.

    Args:
        values: numbers, or anything else, which is put at equal distances.

    Returns:
        A place for each value, None for None's that stand for "absent" (the empty word); and (place, label).
    """
    shown = [value for value in values if value != ""]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in shown) and shown:
        scaled = [math.log(value) if log else float(value) for value in shown]
        low, span = min(scaled), (max(scaled) - min(scaled)) or 1.0
        places = [None if value == "" else ((math.log(value) if log else float(value)) - low) / span for value in values]
        ends = {min(shown): 0.0, max(shown): 1.0 if max(scaled) > low else 0.0}
        return places, [(place, f"{value:.3g}") for value, place in ends.items()]
    words = sorted({str(value) for value in shown})
    at = {word: index / max(len(words) - 1, 1) for index, word in enumerate(words)}
    return [None if value == "" else at[str(value)] for value in values], [(place, word) for word, place in at.items()]


def plot_trials(points: Sequence[Mapping[str, Any]], path: str | Path, *, names: Sequence[str], logs: Sequence[str]) -> Path:
    """Draw trials as lines over parallel axes.

    Args:
        points: name -> value, best first.
        path: the file to write; its ending chooses the format.

    Returns:
        The path.

    Raises:
        DataError: if there is no trial.
    """
    if not points:
        raise DataError(f"Nothing to draw: none of 0 finished trials has values of {', '.join(names)}.")
    used = [name for name in names if any(name in point for point in points)]
    axes_of = {name: positions([point.get(name, "") for point in points], log=name in logs) for name in used}
    figure = _figure(1.3 * len(used) + 1)
    axes = figure.subplots()
    for number in range(len(points) - 1, -1, -1):
        places = [(index, axes_of[name][0][number]) for index, name in enumerate(used)]
        line = [(index, place) for index, place in places if place is not None]
        share = 1 - number / len(points)
        axes.plot(*zip(*line, strict=True), color="tab:blue", alpha=0.15 + 0.75 * share**2, linewidth=0.8 + share, marker=".")
    for index, name in enumerate(used):
        axes.axvline(index, color="gray", linewidth=0.8, zorder=0)
        for place, label in axes_of[name][1]:
            axes.annotate(label, (index, place), textcoords="offset points", xytext=(4, 2), fontsize=7)
    axes.set_xticks(range(len(used)), used, rotation=20, ha="right")
    axes.set_yticks([])
    axes.set_frame_on(False)
    return _saved(figure, Path(path))


def plot_importances(importances: Mapping[str, float], path: str | Path) -> Path:
    """Draw shares as bars.

    Args:
        importances: name -> share.
        path: the file to write; its ending chooses the format.

    Returns:
        The path.

    Raises:
        DataError: if there are none.
    """
    if not importances:
        raise DataError(f"Nothing to draw: importances={dict(importances)}; they take four finished trials or more with different figures.")
    ordered = sorted(importances.items(), key=lambda pair: pair[1])
    figure = _figure(5)
    axes = figure.subplots()
    axes.barh([name for name, _ in ordered], [share for _, share in ordered], color="tab:blue")
    axes.set(xlabel="share of the spread that it explains")
    return _saved(figure, Path(path))


def _figure(width: float) -> Any:
    """Return an empty figure that leaves the user's own figures and backend alone."""
    return optional_import("matplotlib.figure", "report", purpose="A plot of the search").Figure(figsize=(width, 3.6), layout="constrained")


def _saved(figure: Any, path: Path) -> Path:
    """Write a figure, whole or not at all: a link that stands at its path is replaced, and what it points to stays."""
    content = io.BytesIO()
    try:
        figure.savefig(content, dpi=150, format=path.suffix[1:] or None)
        write_bytes(path, content.getvalue())
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not know
        raise DataError(
            f"The plot {printable(path)!r} cannot be written: {reason_of(error)}. Give another path, such as 'plot.png'."
        ) from error
    return path
