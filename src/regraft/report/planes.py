"""Figures with two axes: curves over epochs, reliability diagram, learning curve, scatter plane and confusion matrix."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..words import counted
from .figures import Axis, legend, tag, text_tag

Point = tuple[float, float]
_MOST_DOTS = 30  # maximum number of points for a line with dots
_MANY_FOLD = 50.0  # a loss whose values differ by more than this factor gets a logarithmic axis


def plane(parts: Sequence[str], *, title: str, across: Axis, up: Axis, kind: str = "") -> str:
    """Return the marks `parts` within two labelled axes with ticks."""
    found = across.ticks(8)
    drawn = [rule(up.at(tick), kind="grid", level=True) for tick in up.ticks()]
    drawn += [text_tag("span", up.words(tick), class_="tick y", style=f"bottom:{up.at(tick):.2f}%") for tick in up.ticks()]
    for number, tick in enumerate(found):
        minor = " minor" if number % 2 and len(found) > 4 else ""
        drawn.append(text_tag("span", across.words(tick), class_=f"tick x{minor}", style=f"left:{across.at(tick):.2f}%"))
    area = tag("div", "".join([*drawn, *parts]), class_="area")
    names = text_tag("div", up.name, class_="unit"), text_tag("div", across.name, class_="unit across")
    return tag("div", names[0] + area + names[1], class_=f"plane {kind}".strip(), role="img", aria_label=title)


def line(points: Sequence[Point], kind: str) -> str:
    """Return a line through `points`, in per cent of the plane from the lower left. `kind` is its CSS class."""
    path = " ".join(f"{x:.2f},{100.0 - y:.2f}" for x, y in points)
    drawn = tag("polyline", points=path, class_=f"line {kind}", vector_effect="non-scaling-stroke")
    return tag("svg", drawn, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")


def dot(x: float, y: float, *, kind: str, hint: str = "") -> str:
    """Return a dot."""
    return tag("i", class_=f"dot {kind}".strip(), style=f"left:{x:.2f}%;bottom:{y:.2f}%", title=hint or None)


def whisker(x: float, ends: Point) -> str:
    """Return a vertical interval at `x` between two `ends`, in per cent of the plane from the lower left."""
    return tag("i", class_="whisker upright", style=f"left:{x:.2f}%;bottom:{ends[0]:.2f}%;height:{ends[1] - ends[0]:.2f}%")


def rule(at: float, *, kind: str, level: bool = False, words: str = "") -> str:
    """Return a line across the whole plane."""
    return text_tag("i", words, class_=f"{kind} {'level' if level else 'stands'}", style=f"{'bottom' if level else 'left'}:{at:.2f}%")


def axis_of(values: Sequence[float], *, name: str, percent: bool = False, log: bool = False) -> Axis:
    """Return an axis whose range fits `values`.
    It starts at 0 if that costs less than a third of the height. An axis in per cent stays between 0 and 1."""
    low, high = min(values), max(values)
    if log and low > 0 and high > _MANY_FOLD * low:
        return Axis(f"{name}, logarithmic", low / 1.2, high * 1.2, percent, log=True)
    room = (high - low) or abs(high) or 1.0
    bottom = 0.0 if 0.0 <= low < 0.5 * room else low - 0.08 * room
    top = high + 0.08 * room
    return Axis(name, max(bottom, 0.0), min(top, 1.0), percent) if percent else Axis(name, bottom, top)


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    name: str,
    percent: bool = False,
    marks: Mapping[float, str] | None = None,
    kept: Sequence[float] = (),
    over: str = "epoch",
) -> str:
    """Return a line chart over epochs, or `over` another quantity on a logarithmic axis, with a legend.
    `series`: name -> points (epoch, value), finite values only; `marks`: epoch -> what starts there, drawn as a numbered vertical line."""
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    values = [y for _, y in points]
    if not percent:
        # very large values would flatten the rest; they are drawn at the upper edge instead
        limit = 1000.0 * statistics.median(map(abs, values))
        values = [value for value in values if abs(value) <= limit] or list(values)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    spare = 0.03 * (last - first) or 0.5
    across = Axis(over, first - spare, last + spare, whole=True) if over == "epoch" else axis_of([first, last], name=over, log=True)
    up = axis_of(values, name=name, percent=percent, log=not percent)
    parts, entries = [], []
    for number, (which, each) in enumerate(series.items()):
        if each:
            entries.append((f"stroke{number % 6}", which))
            parts += _drawn(each, across, up=up, number=number, over=over)
    shown = {epoch: words for epoch, words in (marks or {}).items() if epoch <= last}
    for number, (epoch, words) in enumerate(shown.items(), start=1):
        parts.append(rule(across.at(epoch - 0.5 if epoch > first else epoch), kind="mark", words=str(number)))
        entries.append(("numbered", f"{number}: {words}"))
    kept = [epoch for epoch in kept if epoch <= last]
    if kept:
        parts += [rule(across.at(epoch), kind="kept") for epoch in kept]
        entries.append(("kept", f"{over} kept: {', '.join(f'{epoch:.3g}' for epoch in kept)}"))
    return legend(entries) + plane(parts, title=title, across=across, up=up)


def _drawn(points: Sequence[Point], across: Axis, *, up: Axis, number: int, over: str) -> list[str]:
    placed = [(across.at(x), up.at(y)) for x, y in points]
    drawn = [line(placed, f"stroke{number % 6}")]
    if len(points) <= _MOST_DOTS:
        hints = [f"{over} {x:.3g}: {up.words(y)}" for x, y in points]
        drawn += [dot(x, y, kind=f"fill{number % 6}", hint=hint) for (x, y), hint in zip(placed, hints, strict=True)]
    return drawn


def epochs_of(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries of a `history` that are epochs. The others hold results of short trial trainings, or penalties of solved heads."""
    return [entry for entry in history if entry.get("phase") != "search" and "penalty" not in entry]


def penalty_paths(history: Sequence[Mapping[str, Any]]) -> list[list[Point]]:
    """Return points (penalty, loss on held-out examples) of each solved head in `history`, from the weakest penalty to the strongest."""
    paths: dict[tuple[int, object], list[Point]] = {}
    solution, before = 0, 0
    for entry in history:
        if "penalty" in entry:
            number = int(entry.get("epoch") or before + 1)
            solution, before = solution + (number <= before), number  # each time that heads are solved, the numbers start again
            paths.setdefault((solution, entry.get("task")), []).append((float(entry["penalty"]), float(entry["validation_loss"])))
    return [sorted(point for point in path if point[0] > 0 and math.isfinite(point[1])) for path in paths.values()]


def curve(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return points (epoch, value) of one quantity. Epochs count from 1 over all stages. Missing and non-finite values are left out."""
    points = [(float(number), entry.get(key)) for number, entry in enumerate(history, start=1)]
    return [(x, float(y)) for x, y in points if isinstance(y, int | float) and math.isfinite(y)]


def stage_starts(history: Sequence[Mapping[str, Any]]) -> dict[float, str]:
    """Return epoch -> stage name for each start of a stage in `history`, with the run if there are several; empty for a single stage."""
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
    """Return the epochs whose weights were kept, except in the stage `kept_start`.
    Of each stage, the one with the lowest validation loss; of a refit, which has no validation set, the last one."""
    best: dict[object, tuple[float, float]] = {}
    for number, entry in enumerate(history, start=1):
        if entry.get("phase") == "refit":
            best[entry.get("run", 1), entry.get("stage")] = (-math.inf, float(number))
        loss = entry.get("calibrated_loss", entry.get("validation_loss"))
        if isinstance(loss, int | float) and math.isfinite(loss) and entry.get("phase", "train") == "train":
            key = entry.get("run", 1), entry.get("stage")
            if entry.get("stage") != kept_start and loss < best.get(key, (math.inf, 0.0))[0]:
                best[key] = float(loss), float(number)
    return [epoch for _, epoch in best.values()]


CELL = ("true", "predicted", "count")
Confusion = Mapping[str, Sequence[int]]


def confusion_cells(confusion: Confusion) -> list[tuple[int, int, int]]:
    """Return (true, predicted, count) of the nonzero cells that `judge` returns; none of an empty mapping."""
    return list(zip(*(confusion.get(name, ()) for name in CELL), strict=True))


def confusion_matrix(confusion: Confusion, names: Sequence[str], *, title: str) -> str:
    """Return a confusion matrix, coloured by the share of each row, with a switch to sort classes by errors."""
    cells, count = confusion_cells(confusion), len(names)
    totals, errors = [0] * count, [0] * count
    for i, j, number in cells:
        totals[i] += number
        errors[i] += number * (i != j)
    ranked = sorted(range(count), key=lambda which: (-errors[which], which))
    place = {which: rank for rank, which in enumerate(ranked)}
    parts, flat = [], count <= 10 and max(map(len, names), default=0) <= 3  # short names need not stand upright
    for which, name in enumerate(names):
        own, other = which + 2, place[which] + 2
        hint = f"{name}: {counted(errors[which], 'error')} in {counted(totals[which], 'example')}"
        parts.append(text_tag("span", name, class_="name", style=f"--r:{own};--s:{other}", title=hint))
        parts.append(
            tag("span", text_tag("span", name), class_="head flat" if flat else "head", style=f"--c:{own};--d:{other}", title=name)
        )
    for i, j, number in cells:
        parts.append(_cell(i, j, number=number, share=number / totals[i], names=names, place=place))
    frame = tag("div", class_="frame")
    grid = tag("div", frame + "".join(parts), class_="cells", style=f"--n:{count}", role="img", aria_label=title)
    choices = (("as-given", "", "as given"), ("by-errors", None, "most errors first"))
    shown = [tag("label", tag("input", type="radio", name="order", class_=kind, checked=state) + words) for kind, state, words in choices]
    switch = tag("div", "Order of classes: " + "".join(shown), class_="switch")
    return tag("div", switch + tag("div", grid, class_="scroll", tabindex="0", role="group", aria_label=title), class_="matrix")


def _cell(i: int, j: int, *, number: int, share: float, names: Sequence[str], place: Mapping[int, int]) -> str:
    kind = ("cell right" if i == j else "cell wrong") + (" light" if share > 0.5 else "")
    style = f"--r:{i + 2};--c:{j + 2};--s:{place[i] + 2};--d:{place[j] + 2};--p:{10 + 90 * share:.0f}"
    hint = f"{names[i]}, predicted {names[j]}: {number} ({100 * share:.0f} %)"
    return tag("span", text_tag("b", str(number), class_=f"digits{min(len(str(number)), 4)}"), class_=kind, style=style, title=hint)
