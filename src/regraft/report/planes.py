"""Figures with two axes: curves by epoch, a reliability diagram, a learning curve with its forecast, a plane with a point on it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from .figures import Axis, legend, tag, text_tag

__all__ = ["axis_of", "dot", "line", "line_chart", "plane", "rule", "whisker"]

Point = tuple[float, float]
_MOST_DOTS = 30  # points of a line that are shown as dots
_MANY_FOLD = 50.0  # a loss that falls by more than this factor is drawn on a logarithmic axis


def plane(parts: Sequence[str], *, title: str, across: Axis, up: Axis, kind: str = "") -> str:
    """Return marks within two axes with ticks and names.

    Args:
        parts: marks, as of `line`, `dot`, `whisker` and `rule`.
        title: for those who do not see it.
    """
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
    """Return a line through `points` in per cent of the plane, from its lower left; `kind` is its CSS class."""
    path = " ".join(f"{x:.2f},{100.0 - y:.2f}" for x, y in points)
    drawn = tag("polyline", points=path, class_=f"line {kind}", vector_effect="non-scaling-stroke")
    return tag("svg", drawn, viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")


def dot(x: float, y: float, *, kind: str, hint: str = "") -> str:
    """Return a dot.

    Args:
        x: per cent of the plane from its left.
    """
    return tag("i", class_=f"dot {kind}".strip(), style=f"left:{x:.2f}%;bottom:{y:.2f}%", title=hint or None)


def whisker(x: float, ends: Point, *, kind: str = "") -> str:
    """Return an upright interval.

    Args:
        x: per cent of the plane from its left.
        ends: the lower and upper end, in per cent from the lower edge.
    """
    style = f"left:{x:.2f}%;bottom:{ends[0]:.2f}%;height:{ends[1] - ends[0]:.2f}%"
    return tag("i", class_=f"whisker upright {kind}".strip(), style=style)


def rule(at: float, *, kind: str, level: bool = False, words: str = "") -> str:
    """Return a line from edge to edge.

    Args:
        level: whether it lies, or else stands.
    """
    return text_tag("i", words, class_=f"{kind} {'level' if level else 'stands'}", style=f"{'bottom' if level else 'left'}:{at:.2f}%")


def axis_of(values: Sequence[float], *, name: str, percent: bool = False, log: bool = False) -> Axis:
    """Return an axis on which `values` fill the figure.

    It begins at 0 where that costs less than a third of the height. Shares stay between 0 and 1.

    Args:
        percent: whether they are shares, shown in per cent.
        log: whether the axis is logarithmic where values differ by large factors.
    """
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
) -> str:
    """Return lines over epochs, with a legend.

    Args:
        series: name -> points (epoch, value); values that are not finite must be left out.
        title: for those who do not see it.
        name: of the upright axis, with its unit.
        percent: whether values in [0, 1] are shown in per cent.
        marks: epoch -> what begins there, at an upright line with a number that the legend explains.

    Returns:
        Markup, or "" where no line has a point.
    """
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    values = [y for _, y in points]
    if not percent:
        # without those so large that they would flatten all the others: they are drawn at the upper edge
        limit = 1000.0 * statistics.median(map(abs, values))
        values = [value for value in values if abs(value) <= limit] or list(values)
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    spare = 0.03 * (last - first) or 0.5
    across = Axis("epoch", first - spare, last + spare, whole=True)
    up = axis_of(values, name=name, percent=percent, log=not percent)
    parts, entries = [], []
    for number, (which, each) in enumerate(series.items()):
        if each:
            entries.append((f"stroke{number % 6}", which))
            parts += _drawn(each, across, up=up, number=number)
    shown = {epoch: words for epoch, words in (marks or {}).items() if epoch <= last}
    for number, (epoch, words) in enumerate(shown.items(), start=1):
        parts.append(rule(across.at(epoch - 0.5 if epoch > first else epoch), kind="mark", words=str(number)))
        entries.append(("numbered", f"{number}: {words}"))
    if kept:
        parts += [rule(across.at(epoch), kind="kept") for epoch in kept]
        entries.append(("kept", f"epoch kept: {', '.join(f'{epoch:g}' for epoch in kept)}"))
    return legend(entries) + plane(parts, title=title, across=across, up=up)


def _drawn(points: Sequence[Point], across: Axis, *, up: Axis, number: int) -> list[str]:
    placed = [(across.at(x), up.at(y)) for x, y in points]
    drawn = [line(placed, f"stroke{number % 6}")]
    if len(points) <= _MOST_DOTS:
        hints = [f"epoch {x:g}: {up.words(y)}" for x, y in points]
        drawn += [dot(x, y, kind=f"fill{number % 6}", hint=hint) for (x, y), hint in zip(placed, hints, strict=True)]
    return drawn
