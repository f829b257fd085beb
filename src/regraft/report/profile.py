"""The page and the plot of a profile, made from plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import duration
from ..errors import optional_import
from .figures import Bar, interval_bars, nice_ticks, svg, tag, text
from .page import rendered

__all__ = ["learning_curve", "plot_profile", "scenario_plane", "write_profile"]

_SURE = 1.96
_CORNERS = (
    ("small, different", "head on earlier features"),
    ("small, similar", "head on the deepest features"),
    ("large, different", "fine-tune all, or from scratch"),
    ("large, similar", "fine-tune all"),
)


def write_profile(path: str | Path, facts: Mapping[str, Any]) -> Path:
    """Write a profile as one HTML file: no scripts, nothing fetched from elsewhere.

    Args:
        path: the file to write.
        facts: as of `Profile.to_dict`.

    Returns:
        The file.
    """
    counts = [(name, f"{count:,}") for name, count in facts["counts"].items()]
    shown = {
        "title": f"Profile of {facts['network']}",
        "verdict": facts["findings"][0] if facts["findings"] else facts["scenario"],
        "scenario": facts["scenario"],
        "advice": facts["advice"],
        "agrees": facts["agrees"],
        "findings": list(facts["findings"]),
        "warnings": list(facts["warnings"]),
        "notes": list(facts["notes"]),
        "tiles": _tiles(facts),
        "metric": facts["metric"],
        "held_out": facts["held_out"],
        "judged": f"{facts['judged']:,}",
        "depths": interval_bars(_depth_bars(facts), title=f"{facts['metric']} by depth", across=380.0),
        "beside": interval_bars([_bar(facts, part, name=part["name"]) for part in facts["beside"]], title="Beside it", across=300.0),
        "words": [(part["name"], part["words"]) for part in facts["beside"] if part["words"]],
        "plane": scenario_plane(facts),
        "curve": learning_curve(facts),
        "counts": counts[:40],
        "hidden": max(len(counts) - 40, 0),
        "seconds": [(name, duration(spent)) for name, spent in facts["seconds"].items()],
        "passed": f"{facts['passed']:,}",
    }
    return rendered(path, "profile.html", content=shown)


def _said(facts: Mapping[str, Any], value: float) -> str:
    return f"{value:.3f}" if facts["kind"] == "regression" else f"{100 * value:.1f} %"


def _tiles(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    deepest, top = facts["depths"][-1], facts["beside"][0]
    share = facts["similarity"]
    tiles = [
        (f"{facts['metric']}, deepest features", _said(facts, deepest["value"]), f"± {_error(facts, deepest)}, '{deepest['block']}'"),
        (f"{facts['metric']}, all depths", _said(facts, top["value"]), f"± {_error(facts, top)}, {top['name'].rpartition(', ')[2]}"),
        ("transfer holds to", facts["holds_to"], f"of {len(facts['depths'])} depths"),
        ("similarity", "–" if share is None else f"{100 * share:.0f} %", "of the attainable is in the deepest features"),
    ]
    return tiles


def _error(facts: Mapping[str, Any], part: Mapping[str, Any]) -> str:
    return f"{part['error']:.3f}" if facts["kind"] == "regression" else f"{100 * part['error']:.1f}"


def _depth_bars(facts: Mapping[str, Any]) -> list[Bar]:
    bars = []
    for part in facts["depths"]:
        marks = [word for word, at in (("best", facts["best"]), ("holds to here", facts["holds_to"])) if at == part["block"]]
        bars.append(_bar(facts, part, name=part["block"], mark=", ".join(marks), strong=bool(marks)))
    return bars


def _bar(facts: Mapping[str, Any], part: Mapping[str, Any], *, name: str, mark: str = "", strong: bool = False) -> Bar:
    value, reach = part["value"], _SURE * part["error"]
    words = f"{_said(facts, value)} ± {_error(facts, part)}" if part["error"] else _said(facts, value)
    return Bar(name, max(value, 0.0), (value - reach, value + reach) if reach else None, f"{words}, {mark}" if mark else words, strong)


def scenario_plane(facts: Mapping[str, Any]) -> str:
    """Return the size × similarity plane with the data on it, as markup; "" without a similarity.

    Args:
        facts: as of `Profile.to_dict`.
    """
    share = facts["similarity"]
    if share is None:
        return ""
    width, height, left, top = 460.0, 250.0, 26.0, 8.0
    across, down = width - left - 8, height - top - 34
    middle = {"x": left + 0.5 * across, "y": top + 0.5 * down}
    parts = [tag("rect", x=left, y=top, width=across, height=down, class_="frame")]
    parts.append(tag("line", x1=middle["x"], x2=middle["x"], y1=top, y2=top + down, class_="grid"))
    parts.append(tag("line", x1=left, x2=left + across, y1=middle["y"], y2=middle["y"], class_="grid"))
    for number, (name, advice) in enumerate(_CORNERS):
        x, y = left + 10 + (number % 2) * across / 2, top + 20 + (number < 2) * down / 2
        own = name == f"{facts['size']}, {facts['likeness']}"
        parts += [text(x, y, words=name, kind="label strong" if own else "label"), text(x, y + 16, words=advice, kind="tick")]
    right = facts["likeness"] == "similar"
    x = left + across * (0.5 + 0.5 * (share - 0.8) / 0.2 * 0.9 if right else 0.5 * share / 0.8)  # 0.8 stands in the middle
    y = middle["y"] + down * (0.25 if facts["size"] == "small" else -0.25) + 18
    parts.append(
        tag(
            "circle",
            tag("title", f"similarity {100 * share:.0f} %"),
            cx=min(max(x, left + 8), left + across - 8),
            cy=y,
            r=7,
            class_="fill1",
        )
    )
    parts.append(text(left + across / 2, height - 8, words="similarity →", anchor="middle", kind="tick"))
    parts.append(
        tag("g", text(0, 0, words="size →", anchor="middle", kind="tick"), transform=f"translate(14,{middle['y']:.0f}) rotate(-90)")
    )
    return svg(width, height, parts=parts, title="Where the data stand: size and similarity")


def learning_curve(facts: Mapping[str, Any]) -> str:
    """Return the figure by the number of items, with its whiskers, as markup; "" for a single point.

    Args:
        facts: as of `Profile.to_dict`.
    """
    points = facts["curve"]
    if len(points) < 2:
        return ""
    width, height, left, top, low_edge = 460.0, 250.0, 52.0, 12.0, 36.0
    most = max(point[0] for point in points)
    low = max(min(value - _SURE * error for _, value, error in points), -0.2)
    high = min(max(value + _SURE * error for _, value, error in points), 1.0)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)

    def place(count: float, value: float) -> tuple[float, float]:
        down = (value - low) / max(high - low, 1e-9)
        return left + count / most * (width - left - 16), height - low_edge - down * (height - low_edge - top)

    parts = []
    for tick in nice_ticks(low, high):
        level = place(0, tick)[1]
        parts.append(tag("line", x1=left, x2=width - 16, y1=level, y2=level, class_="grid"))
        parts.append(text(left - 7, level + 4, words=_tick(facts, tick), anchor="end", kind="tick"))
    for count, value, error in points:
        (x, y), half = place(count, value), _SURE * error
        ends = [place(count, min(max(edge, low), high))[1] for edge in (value - half, value + half)]
        parts.append(tag("path", d=f"M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}", class_="whisker"))
        parts.append(tag("circle", cx=x, cy=y, r=3.5, class_="fill0"))
        parts.append(text(x, height - low_edge + 16, words=f"{count:,}", anchor="middle", kind="tick"))
    line = " ".join("{:.1f},{:.1f}".format(*place(count, value)) for count, value, _ in points)
    parts.insert(0, tag("polyline", points=line, class_="line line0"))
    parts.append(text((left + width) / 2, height - 4, words="items to learn from", anchor="middle", kind="tick"))
    return svg(width, height, parts=parts, title=f"{facts['metric']} by the number of items, with 95 % intervals")


def _tick(facts: Mapping[str, Any], value: float) -> str:
    return f"{value:g}" if facts["kind"] == "regression" else f"{100 * value:.4g} %"


def plot_profile(facts: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the figures by depth, and the learning curve, with matplotlib.

    Args:
        facts: as of `Profile.to_dict`.
        path: the file to write; its ending chooses the format (.png, .pdf, .svg).

    Returns:
        The path.
    """
    depths, points, scale = facts["depths"], facts["curve"], 1.0 if facts["kind"] == "regression" else 100.0
    figure = optional_import("matplotlib.figure", "report", purpose="A plot of the profile").Figure(
        figsize=(max(6.0, 0.3 * len(depths) + 3) + 4.2 * (len(points) > 1), 4.2), layout="constrained"
    )
    ratios = {"width_ratios": [max(6.0, 0.3 * len(depths) + 3), 4.2]} if len(points) > 1 else {}
    panels = figure.subplots(1, 1 + (len(points) > 1), squeeze=False, gridspec_kw=ratios)[0]
    unit = facts["metric"] if scale == 1.0 else f"{facts['metric']} (%)"
    _draw_depths(panels[0], facts, scale=scale)
    panels[0].set_ylabel(unit)
    if len(points) > 1:
        items, values, errors = zip(*points, strict=True)
        panels[1].errorbar(items, _scaled(values, scale), yerr=_scaled(errors, _SURE * scale), marker="o", markersize=4, capsize=3)
        panels[1].set(xlabel="items to learn from", ylabel=unit, title="all depths together")
        panels[1].grid(alpha=0.25)
    figure.savefig(path, dpi=150)
    return Path(path)


def _draw_depths(axes: Any, facts: Mapping[str, Any], *, scale: float) -> None:
    depths = facts["depths"]
    values, errors = [part["value"] for part in depths], [part["error"] for part in depths]
    axes.errorbar(
        range(len(depths)),
        _scaled(values, scale),
        yerr=_scaled(errors, _SURE * scale),
        marker="o",
        markersize=4,
        capsize=3,
        label="each depth alone",
    )
    first = facts["beside"][0]
    axes.axhline(scale * first["value"], linestyle="--", linewidth=1.2, color="tab:green", label=first["name"])
    axes.axhline(scale * facts["chance"], linestyle=":", linewidth=1.2, color="gray", label="chance")
    at = next(number for number, part in enumerate(depths) if part["block"] == facts["holds_to"])
    axes.axvline(at, linestyle=":", linewidth=1, color="tab:orange", label="transfer holds to here")
    axes.set_xticks(range(len(depths)), [part["block"] for part in depths], rotation=60, ha="right", fontsize=7)
    axes.set_title(f"{facts['network']}: {facts['held_out']} on {facts['judged']:,} items", fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.grid(alpha=0.25)


def _scaled(values: Sequence[float], scale: float) -> list[float]:
    return [scale * value for value in values]
