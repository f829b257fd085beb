"""Elements of the figures: HTML positioned in per cent of the available space, so that text keeps its size.

No plotting library and no scripts. Colours are CSS classes of the page, so the same figure works in light and dark mode. All names pass
through `html.escape`.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "Bar", "interval_rows", "legend", "letters", "nice_ticks", "stacked_bar", "tag", "text_tag", "track_marks"]

_EMPTY = ("input",)  # elements without content
_MINOR = 4  # with more ticks, every second one is hidden in narrow figures


@dataclass(frozen=True)
class Axis:
    """Axis of a figure."""

    name: str  # label with unit
    low: float  # value at the left or lower end
    high: float
    percent: bool = False  # whether values in [0, 1] are shown in per cent
    log: bool = False
    whole: bool = False  # whether ticks are whole numbers only

    def at(self, value: float) -> float:
        """Return the position of `value` in per cent of the axis, clipped to [0, 100]."""
        low, high, middle = (math.log(max(each, 1e-300)) if self.log else each for each in (self.low, self.high, value))
        return min(max(100.0 * (middle - low) / ((high - low) or 1.0), 0.0), 100.0)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round tick values."""
        if not self.log:
            found = nice_ticks(self.low, self.high, count=count)
            return [value for value in found if not self.whole or value == round(value)]
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1, 2, 5) if len(decades) < 4 else (1,)
        every = [factor * 10.0**power for power in decades for factor in factors]
        return [value for value in every if self.low * 0.999 <= value <= self.high * 1.001]

    def words(self, value: float) -> str:
        """Return `value` as a tick label."""
        shown = 100.0 * value if self.percent else value
        said = f"{shown:,.0f}" if abs(shown) >= 1000 and shown == round(shown) else f"{shown:.6g}"
        return f"{said} %" if self.percent else said


@dataclass(frozen=True)
class Bar:
    """One row of a figure: a value with its interval."""

    name: str
    value: float | None  # value in the unit of the axis; None for an empty row
    interval: tuple[float, float] | None = None  # (lo, hi), or None
    words: str = ""
    strong: bool = False  # whether the row is highlighted


def tag(name: str, content: str = "", /, **attributes: object) -> str:
    """Return an HTML element.
    In names of `**attributes`, `_` becomes `-` and a trailing `_` is dropped. Values are escaped. Attributes that are None are left out."""
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    shown = "".join(f' {key}="{html.escape(str(value))}"' for key, value in given)
    return f"<{name}{shown} />" if name in _EMPTY else f"<{name}{shown}>{content}</{name}>"


def text_tag(name: str, words: str, /, **attributes: object) -> str:
    """Return an HTML element with escaped text."""
    return tag(name, html.escape(words), **attributes)


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Return about `count` round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round((first + k) * step, 12) for k in range(int((high - first * step) / step + 1e-9) + 1)]


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return the legend of a figure from `entries` (CSS classes of the mark, meaning). It wraps in narrow figures."""
    return tag("ul", "".join(tag("li", tag("i", class_=f"key {kind}") + html.escape(words)) for kind, words in entries), class_="legend")


def letters(entries: Iterable[tuple[str, str, bool]]) -> str:
    """Return the key to the letters in a figure, one per line, from `entries` (letter, meaning, whether it is highlighted)."""
    lines = (tag("li", text_tag("b", letter) + html.escape(words), class_="own" if own else None) for letter, words, own in entries)
    return tag("ul", "".join(lines), class_="legend letters")


def interval_rows(bars: Sequence[Bar], *, title: str, axis: Axis, filled: bool = False, lines: Mapping[str, float] | None = None) -> str:
    """Return one row per value: name, dot with a whisker for the interval (or a filled bar from the left), and text.
    `lines`: CSS class -> value of a vertical line through all rows."""
    if not bars:
        return ""
    ticks = axis.ticks(4)
    grid = labels = ""
    for number, tick in enumerate(ticks):
        minor, place = " minor" if number % 2 and len(ticks) > _MINOR else "", f"left:{axis.at(tick):.2f}%"
        grid += tag("i", class_=f"grid{minor}", style=place)
        labels += text_tag("span", axis.words(tick), class_=f"tick{minor}", style=place)
    grid += "".join(tag("i", class_=f"grid {kind}", style=f"left:{axis.at(value):.2f}%") for kind, value in (lines or {}).items())
    rows = []
    for bar in bars:
        drawn = tag("span", grid + track_marks(bar, axis, filled=filled), class_="track")
        said = text_tag("span", bar.name, class_="name") + text_tag("span", bar.words, class_="value")
        rows.append(tag("div", said + drawn, class_="row strong" if bar.strong else "row"))
    rows.append(tag("div", tag("span", labels + text_tag("span", axis.name, class_="unit"), class_="track"), class_="row axis"))
    return tag("div", "".join(rows), class_="rows", role="group", aria_label=title)


def track_marks(bar: Bar, axis: Axis, *, filled: bool = False) -> str:
    """Return the marks of one row."""
    drawn = ""
    if bar.interval is not None:
        low, high = map(axis.at, bar.interval)
        drawn += tag("i", class_="whisker", style=f"left:{low:.2f}%;width:{high - low:.2f}%")
    if bar.value is not None and filled:
        drawn += tag("i", class_="bar", style=f"width:{axis.at(bar.value):.2f}%")
    elif bar.value is not None:
        drawn += tag("i", class_="dot", style=f"left:{axis.at(bar.value):.2f}%")
    return drawn


def stacked_bar(parts: Mapping[str, float], *, title: str, said: Mapping[str, str]) -> str:
    """Return a stacked bar and a line with the share of each part. `parts`: name -> size >= 0; `said`: name -> size as text."""
    total = sum(parts.values())
    if total <= 0:
        return ""
    pieces = lines = ""
    for number, (name, size) in enumerate(parts.items()):
        fill, share = f"fill{number % 6}", 100.0 * size / total
        pieces += tag("i", class_=fill, style=f"width:{share:.2f}%", title=f"{name}: {said[name]}")
        words = text_tag("span", name) + text_tag("b", said[name]) + text_tag("span", f"{share:.0f} %", class_="soft")
        lines += tag("li", tag("i", class_=f"key {fill}") + words)
    return tag("div", tag("div", pieces, class_="stack", role="img", aria_label=title) + tag("ul", lines, class_="parts"))
