"""The report's figures as inline SVG, drawn by a few small functions: no plotting library, no scripts.

Colours are CSS classes of the page, so that one drawing serves light and dark. Every name passes through `html.escape`.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Bar", "heat_map", "interval_bars", "line_chart", "nice_ticks", "stacked_bar", "svg", "tag", "text"]

_LONGEST = 38  # letters of a bar's name
_LETTER = 6.6  # mean width of a letter at 12 px


@dataclass(frozen=True)
class Bar:
    """One horizontal bar: a value with its interval.

    Attributes:
        name: what stands at its left.
        value: its length, in the unit of the axis; None where there is nothing to show.
        interval: (lo, hi), or None.
        words: what stands at its right.
        strong: whether it is the one that the figure is about.
    """

    name: str
    value: float | None
    interval: tuple[float, float] | None = None
    words: str = ""
    strong: bool = False


def tag(name: str, content: str = "", **attributes: object) -> str:
    """Return one SVG element.

    Args:
        name: of the element.
        content: markup that is escaped already.
        **attributes: `_` in a name becomes `-`, a final one is dropped; numbers are rounded to 0.1; values are escaped.

    Returns:
        The element as markup.
    """
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(_plain(value))}"' for key, value in attributes.items())
    return f"<{name}{shown}>{content}</{name}>" if content else f"<{name}{shown}/>"


def text(x: float, y: float, *, words: str, anchor: str = "start", kind: str = "", hint: str = "") -> str:
    """Return a line of text.

    Args:
        x: pixels from the left.
        y: of the base line, pixels from the top.
        words: what it says, not escaped yet.
        anchor: "start", "middle" or "end": which part of it stands at x.
        kind: CSS classes; "" for a label.
        hint: what appears under the pointer.

    Returns:
        Markup of one `<text>`.
    """
    inside = (tag("title", html.escape(hint)) if hint else "") + html.escape(words)
    return tag("text", inside, x=x, y=y, text_anchor=anchor, class_=kind or "label")


def svg(width: float, height: float, *, parts: Iterable[str], title: str) -> str:
    """Return a figure.

    Args:
        width: pixels.
        height: pixels.
        parts: its elements, as markup.
        title: what it shows, for those who do not see it.

    Returns:
        Markup of one `<svg>`.
    """
    inside = tag("title", html.escape(title)) + "".join(parts)
    return tag("svg", inside, viewBox=f"0 0 {width:g} {height:g}", width=width, height=height, role="img", aria_label=title)


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Return about `count` round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + k) * step, 12) for k in range(int((high - first * step) / step + 1e-9) + 1)]


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, percent: bool = False, marks: Mapping[float, str] | None = None
) -> str:
    """Return lines over epochs, with a legend.

    Args:
        series: name -> points (epoch, value); at most four lines; values that are not finite must be left out.
        title: for those who do not see it.
        percent: whether values in [0, 1] are shown in per cent.
        marks: epoch -> words at a dashed upright line.

    Returns:
        Markup, or "" where no line has a point.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    width, height, left, top, right, bottom = 500.0, 250.0, 48.0, 34.0, 12.0, 38.0
    (x0, x1), (y0, y1) = _span([x for x, _ in points]), _span([y for _, y in points])
    y0, y1 = (max(0.0, y0 - 0.05 * (y1 - y0)), min(1.0, y1 + 0.05 * (y1 - y0))) if percent else (min(0.0, y0), y1 * 1.05)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (x - x0) / (x1 - x0) * (width - left - right), height - bottom - (y - y0) / (y1 - y0) * (height - top - bottom)

    parts = []
    for y in nice_ticks(y0, y1):
        _, level = place(x0, y)
        parts.append(tag("line", x1=left, x2=width - right, y1=level, y2=level, class_="grid"))
        parts.append(text(left - 7, level + 4, words=f"{100 * y:g} %" if percent else f"{y:g}", anchor="end", kind="tick"))
    for epoch in dict.fromkeys(round(x) for x in nice_ticks(x0, x1, count=8) if x == round(x)):
        parts.append(text(place(epoch, y0)[0], height - bottom + 16, words=str(epoch), anchor="middle", kind="tick"))
    for x, words in (marks or {}).items():
        at = place(x, y0)[0]
        parts.append(tag("line", x1=at, x2=at, y1=top, y2=height - bottom, class_="mark"))
        parts.append(text(at + 4, top + 9, words=words, kind="tick"))
    parts.append(text((left + width - right) / 2, height - 4, words="epoch", anchor="middle", kind="tick"))
    for number, line in enumerate(series.values()):
        parts += _line([place(x, y) for x, y in line], number)
    return svg(width, height, parts=[*parts, *_legend(list(series), left)], title=title)


def interval_bars(bars: Sequence[Bar], *, title: str, high: float = 1.0, percent: bool = True, across: float = 420.0) -> str:
    """Return horizontal bars with whiskers for their intervals.

    Args:
        bars: from top to bottom.
        title: for those who do not see it.
        high: the right end of the axis; the left end is 0.
        percent: whether values in [0, 1] are shown in per cent.
        across: the length of the axis in pixels.

    Returns:
        Markup, or "" without bars.
    """
    if not bars:
        return ""
    longest = max(len(_short(bar.name, _LONGEST)) for bar in bars)
    left, right = 16 + _LETTER * longest, 24 + _LETTER * max(len(bar.words) for bar in bars)
    row = 26.0
    width, height = left + across + right, row * len(bars) + 26
    ticks = nice_ticks(0.0, high, count=4)
    parts = []
    for tick in ticks:
        at = left + across * tick / high
        parts.append(tag("line", x1=at, x2=at, y1=2, y2=row * len(bars) + 2, class_="grid"))
        parts.append(text(at, height - 6, words=f"{100 * tick:g} %" if percent else f"{tick:g}", anchor="middle", kind="tick"))
    for number, bar in enumerate(bars):
        parts += _bar(bar, row * number + 2, left=left, across=across, high=high)
    return svg(width, height, parts=parts, title=title)


def heat_map(table: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> str:
    """Return a confusion matrix, each row coloured by its own shares.

    Args:
        table: (C, C) counts; rows are true, columns predicted.
        names: of the C classes.
        title: for those who do not see it.

    Returns:
        Markup; counts stand in the cells where there is room, and in a hint for each cell that is not 0.
    """
    side = max(14.0, min(36.0, 560.0 / max(len(names), 1)))
    shown = [_short(name, 16) for name in names]
    margin = 16 + _LETTER * max(map(len, shown), default=0)
    slope = margin if side < 30 or max(map(len, shown), default=0) * _LETTER > side else 22.0
    size = side * len(names)
    parts = [tag("rect", x=margin, y=slope, width=size, height=size, class_="frame")]
    for row, counts in enumerate(table):
        y = slope + side * row
        parts.append(text(margin - 6, y + side / 2 + 4, words=shown[row], anchor="end", hint=names[row]))
        parts.append(_column_name(margin + side * (row + 0.5), slope, words=shown[row], upright=slope != 22.0))
        for column, count in enumerate(counts):
            share = count / (sum(counts) or 1)
            parts.append(_cell(margin + side * column, y, side=side, share=share, hint=f"{names[row]} read as {names[column]}: {count}"))
            if count and side >= 20:
                parts.append(_number(margin + side * (column + 0.5), y + side / 2 + 4, words=str(count), light=share > 0.45))
    return svg(margin + size + 8, slope + size + 8, parts=parts, title=title)


def stacked_bar(parts: Mapping[str, float], *, title: str, unit: str = "s") -> str:
    """Return one bar cut into parts, with a legend below.

    Args:
        parts: name -> size >= 0.
        title: for those who do not see it.
        unit: behind each number of the legend.

    Returns:
        Markup, or "" where all parts are 0.
    """
    total = sum(parts.values())
    if total <= 0:
        return ""
    width, at = 420.0, 0.0
    drawn = []
    for number, (name, size) in enumerate(parts.items()):
        length, y = width * size / total, 34.0 + 19 * number
        words = f"{name}: {size:{'.0f' if size == round(size) else '.1f'}} {unit} ({100 * size / total:.0f} %)"
        drawn.append(tag("rect", tag("title", html.escape(words)), x=at, y=0, width=length, height=20, class_=f"fill{number % 4}"))
        drawn.append(tag("rect", x=0, y=y, width=10, height=10, rx=2, class_=f"fill{number % 4}"))
        drawn.append(text(17, y + 9, words=words))
        at += length
    return svg(width, 34 + 19 * len(parts), parts=drawn, title=title)


def _plain(value: object) -> str:
    return f"{round(value, 1):g}" if isinstance(value, float) else str(value)


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _line(points: Sequence[tuple[float, float]], number: int) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    drawn = [tag("polyline", points=path, class_=f"line line{number % 4}")]
    if len(points) <= 40:
        drawn += [tag("circle", cx=x, cy=y, r=2.5, class_=f"fill{number % 4}") for x, y in points]
    return drawn


def _legend(names: Sequence[str], left: float) -> list[str]:
    drawn, at = [], left
    for number, name in enumerate(names):
        drawn.append(tag("line", x1=at, x2=at + 18, y1=12, y2=12, class_=f"line line{number % 4}"))
        drawn.append(text(at + 24, 16, words=name))
        at += 44 + _LETTER * len(name)
    return drawn


def _bar(bar: Bar, y: float, *, left: float, across: float, high: float) -> list[str]:
    kind = "label strong" if bar.strong else "label"
    drawn = [text(left - 8, y + 16, words=_short(bar.name, _LONGEST), anchor="end", hint=bar.name, kind=kind)]
    if bar.value is not None:
        length = across * min(max(bar.value / high, 0.0), 1.0)
        drawn.append(tag("rect", x=left, y=y + 5, width=length, height=15, rx=2, class_="fill0" if bar.strong else "weak"))
    if bar.interval is not None:
        low, top = (left + across * min(max(edge / high, 0.0), 1.0) for edge in bar.interval)
        path = f"M{low:.1f} {y + 8:.1f}v9M{low:.1f} {y + 12.5:.1f}H{top:.1f}M{top:.1f} {y + 8:.1f}v9"
        drawn.append(tag("path", d=path, class_="whisker"))
    drawn.append(text(left + across + 12, y + 16, words=bar.words, kind=kind))
    return drawn


def _column_name(x: float, y: float, *, words: str, upright: bool) -> str:
    if not upright:
        return text(x, y - 8, words=words, anchor="middle")
    return tag("g", text(0, 0, words=words), transform=f"translate({x + 4:.1f},{y - 6:.1f}) rotate(-90)")


def _cell(x: float, y: float, *, side: float, share: float, hint: str) -> str:
    if share <= 0:
        return ""
    inside, depth = tag("title", html.escape(hint)), f"{0.08 + 0.92 * share:.2f}"
    return tag("rect", inside, x=x + 0.5, y=y + 0.5, width=side - 1, height=side - 1, class_="fill0", fill_opacity=depth)


def _number(x: float, y: float, *, words: str, light: bool) -> str:
    return text(x, y, words=words, anchor="middle", kind="cell light" if light else "cell")
