"""Plots in files of their own, by matplotlib: a profile, the trials and the importances of a search."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, optional_import
from ..files.formats import reason_of
from ..files.text import printable
from ..files.writing import write_bytes
from ..words import counted

SURE = 1.96  # Half-width of a 95 % interval, in standard errors
_DOTS = {"marker": "o", "markersize": 4, "capsize": 3}


def new_figure(width: float, height: float = 3.6) -> Any:
    """Return an empty figure, in inches, independent of the user's figures and backend."""
    return optional_import("matplotlib.figure", "report", purpose="A plot").Figure(figsize=(width, height), layout="constrained")


def saved_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure atomically, in the format of the suffix (.png, .pdf, .svg). A link at the path is replaced; its target stays."""
    path, content = Path(path), io.BytesIO()
    try:
        figure.savefig(content, dpi=150, format=path.suffix[1:] or None)
        write_bytes(path, content.getvalue())
    except (OSError, ValueError) as error:  # ValueError: a file extension that matplotlib does not know
        raise DataError(
            f"The plot {printable(path)!r} cannot be written: {reason_of(error)}. Give another path, such as 'plot.png'."
        ) from error
    return path


def positions(values: Sequence[Any], *, log: bool) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return the positions of values on an axis from 0 to 1, and the axis labels as (position, label).
    The position of "" (absent) is None. `log`: logarithmic axis for numbers."""
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
    """Plot trials as lines over parallel axes. `points`: name -> value of each trial, best first; `logs`: names with a log axis.
    A line is dotted where a trial has no value, so that it does not seem to have the one that it crosses."""
    if not points:
        raise DataError("Nothing to draw: no trial is finished. Look at the errors of the trials, or raise their number.")
    used = [name for name in names if any(name in point for point in points)]
    axes_of = {name: positions([point.get(name, "") for point in points], log=name in logs) for name in used}
    figure = new_figure(1.3 * len(used) + 1)
    axes = figure.subplots()
    for number in range(len(points) - 1, -1, -1):
        places = [axes_of[name][0][number] for name in used]
        line = [math.nan if place is None else place for place in places]
        share = 1 - number / len(points)
        look = {"color": "tab:blue", "alpha": 0.15 + 0.75 * share**2}
        axes.plot(line, linewidth=0.8 + share, marker=".", **look)
        known = [(index, place) for index, place in enumerate(places) if place is not None]
        axes.plot(*zip(*known, strict=True), linestyle=":", linewidth=0.8, **look)
    for index, name in enumerate(used):
        axes.axvline(index, color="gray", linewidth=0.8, zorder=0)
        for place, label in axes_of[name][1]:
            axes.annotate(label, (index, place), textcoords="offset points", xytext=(4, 2), fontsize=7)
    axes.set_xticks(range(len(used)), used, rotation=20, ha="right")
    axes.set_yticks([])
    axes.set_frame_on(False)
    axes.set_title("A line for each trial, better ones darker; dotted where a setting has no effect", fontsize=9, loc="left")
    return saved_figure(figure, path)


def plot_importances(
    importances: Mapping[str, float], path: str | Path, *, intervals: Mapping[str, tuple[float, float]] | None = None
) -> Path:
    """Plot importances (name -> share) as bars, with their 95 % intervals if they are given."""
    if not importances:
        raise DataError("Nothing to draw: importances need four finished trials or more with different figures. Raise their number.")
    ordered = sorted(importances.items(), key=lambda pair: pair[1])
    figure = new_figure(5.0)
    axes = figure.subplots()
    ends = [(intervals or {}).get(name, (share, share)) for name, share in ordered]
    reach = [(share - low, high - share) for (_, share), (low, high) in zip(ordered, ends, strict=True)]
    axes.barh(
        [name for name, _ in ordered], [share for _, share in ordered], xerr=list(zip(*reach, strict=True)), color="tab:blue", capsize=3
    )
    axes.set(xlabel="importance, with 95 % interval")
    return saved_figure(figure, path)


def plot_profile(facts: Mapping[str, Any], path: str | Path) -> Path:
    """Plot the metric of a profile by depth, and its learning curve."""
    points, scale, width = facts["curve"], 1.0 if facts["kind"] == "regression" else 100.0, max(6.0, 0.3 * len(facts["depths"]) + 3)
    figure = new_figure(width + 4.2 * (len(points) > 1), 4.2)
    ratios = {"width_ratios": [width, 4.2]} if len(points) > 1 else {}
    panels = figure.subplots(1, 1 + (len(points) > 1), squeeze=False, gridspec_kw=ratios)[0]
    unit = facts["metric"] if scale == 1.0 else f"{facts['metric']} (%)"
    _draw_depths(panels[0], facts, scale=scale)
    panels[0].set_ylabel(unit)
    if len(points) > 1:
        items, values, errors = np.array(points).T
        panels[1].errorbar(items, scale * values, yerr=SURE * scale * errors, **_DOTS)
        panels[1].set(xlabel="examples to learn from", ylabel=unit, title="all depths together")
        panels[1].grid(alpha=0.25)
    return saved_figure(figure, path)


def _draw_depths(axes: Any, facts: Mapping[str, Any], *, scale: float) -> None:
    depths = facts["depths"]
    values, errors = np.array([(part["value"], part["error"]) for part in depths]).T
    axes.errorbar(range(len(depths)), scale * values, yerr=SURE * scale * errors, label="each depth alone", **_DOTS)
    first = facts["beside"][0]
    axes.axhline(scale * first["value"], linestyle="--", linewidth=1.2, color="tab:green", label=first["name"])
    axes.axhline(scale * facts["chance"], linestyle=":", linewidth=1.2, color="gray", label="chance")
    at = next(number for number, part in enumerate(depths) if part["block"] == facts["holds_to"])
    axes.axvline(at, linestyle=":", linewidth=1, color="tab:orange", label="transfer holds to here")
    axes.set_xticks(range(len(depths)), [part["block"] for part in depths], rotation=60, ha="right", fontsize=7)
    axes.set_title(f"{facts['network']}: {facts['held_out']} on {counted(facts['judged'], 'example')}", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)
