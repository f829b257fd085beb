"""HTML page of a profile, made from plain data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import duration
from ..words import counted, probe_error_words, probe_words
from .figures import Axis, Bar, interval_rows, legend, letters, text_tag
from .page import page_of, written
from .planes import axis_of, dot, line, plane, rule, whisker
from .plots import SURE
from .results import Figure, ends_of, figure

SIMILAR = 0.8  # Minimum share of the attainable figure above chance that the deepest features give on similar data
MANY = {"regression": 1000, "multi-label": 100, "classification": 100}
"""Kind of task -> minimum number of examples of a large data set, per class except for regression."""
_CORNERS = {
    ("small", "different"): "head on features of an earlier block",
    ("small", "similar"): "head on the deepest features",
    ("large", "different"): "fine-tune the whole network, or train it from scratch",
    ("large", "similar"): "fine-tune the whole network",
}


def write_profile(path: str | Path, facts: Mapping[str, Any]) -> Path:
    """Write a profile as one HTML file without scripts or external resources."""
    counts = [(name, f"{count:,}") for name, count in facts["counts"].items()]
    shown = {
        "title": f"Profile of {facts['network']}",
        "verdict": _verdict(facts),
        **{name: facts[name] for name in ("scenario", "advice", "agrees", "findings", "warnings", "notes")},
        "tiles": _tiles(facts),
        "depths": _depths(facts),
        "beside": _beside(facts),
        "plane": _scenario_plane(facts),
        "curve": _learning_curve(facts),
        "counts": counts[:40],
        "hidden": max(len(counts) - 40, 0),
        "seconds": [(name, duration(spent)) for name, spent in facts["seconds"].items()],
        "passed": f"{facts['passed']:,}",
    }
    return written(Path(path), page_of("profile.html", shown))


def _verdict(facts: Mapping[str, Any]) -> str:
    """Return the textbook advice, and whether the measurement agrees."""
    advice = f"{facts['advice'][:1].upper()}{facts['advice'][1:]}"
    if not facts["findings"]:
        return advice
    if facts["agrees"]:
        if facts["similarity"] is None:
            return f"{advice} {facts['findings'][0]}"
        return f"The usual advice for such data is: {facts['advice'].rstrip('.')}. The measurement does not contradict it."
    measured = facts["findings"][0].partition(": ")[2] or facts["findings"][0]
    return f"The usual advice for such data is: {facts['advice'].rstrip('.')}. The measurement disagrees: {measured}"


def _tiles(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    deepest, top = facts["depths"][-1], facts["beside"][0]
    share, holds, kind = facts["similarity"], facts["holds_to"], facts["kind"]
    where = "this is the deepest block" if holds == deepest["block"] else f"deeper blocks, up to '{deepest['block']}', give less"
    return [
        (
            f"{facts['metric']} of the deepest features",
            probe_words(deepest["value"], kind),
            f"± {probe_error_words(deepest['error'], kind)}, '{deepest['block']}'",
        ),
        (
            f"{facts['metric']} of all depths together",
            probe_words(top["value"], kind),
            f"± {probe_error_words(top['error'], kind)}, {top['name'].rpartition(', ')[2]}",
        ),
        ("deepest block where transfer holds", holds, where),
        ("similarity", "–" if share is None else f"{100 * share:.0f} %", "share of the attainable gain over chance, deepest features"),
    ]


def _depths(facts: Mapping[str, Any]) -> Figure | None:
    top, bars = facts["beside"][0], []
    for part in facts["depths"]:
        marks = [word for word, at in (("best", facts["best"]), ("transfer holds to here", facts["holds_to"])) if at == part["block"]]
        bars.append(_bar(facts, part, name=part["block"], mark=", ".join(marks), strong=bool(marks)))
    axis = _axis(facts, bars, also=[facts["chance"], top["value"]])
    entries = [
        ("joint", f"{top['name']}: {probe_words(top['value'], facts['kind'])}"),
        ("chance", f"chance level, without the input: {probe_words(facts['chance'], facts['kind'])}"),
    ]
    lines = {"joint": top["value"], "chance": facts["chance"]}
    body = legend(entries) + interval_rows(bars, title=f"{facts['metric']} by depth", axis=axis, lines=lines)
    caption = (
        f"One probe (ridge regression) per depth, from the input (top) to the head (bottom): {facts['held_out']} on "
        f"{counted(facts['judged'], 'example')}. ± is one standard error. Lines are 95 % intervals. If the values fall towards the bottom, "
        "the deep blocks discard information that your data need."
    )
    return figure(body, title=f"Probe {facts['metric']} by depth", caption=caption)


def _beside(facts: Mapping[str, Any]) -> Figure | None:
    bars = [_bar(facts, part, name=part["name"], mark=part["words"]) for part in facts["beside"]]
    body = interval_rows(bars, title="Other classifiers on the same examples", axis=_axis(facts, bars, also=[facts["chance"]]))
    return figure(
        body, title="Other methods on the same examples", caption="Evaluated in the same way as the depths. Lines are 95 % intervals."
    )


def _axis(facts: Mapping[str, Any], bars: Sequence[Bar], *, also: Sequence[float]) -> Axis:
    share = facts["kind"] != "regression"
    shown = [min(max(end, 0.0), 1.0) if share else max(end, -1.0) for end in [*ends_of(bars), *also]]
    return axis_of(shown, name=facts["metric"], percent=share)


def _bar(facts: Mapping[str, Any], part: Mapping[str, Any], *, name: str, mark: str = "", strong: bool = False) -> Bar:
    value, reach = part["value"], SURE * part["error"]
    words = probe_words(value, facts["kind"]) + (f" ± {probe_error_words(part['error'], facts['kind'])}" if part["error"] else "")
    return Bar(name, value, (value - reach, value + reach) if reach else None, f"{words}, {mark}" if mark else words, strong)


def _scenario_plane(facts: Mapping[str, Any]) -> Figure | None:
    """Return the size × similarity plane with a dot for the data; None without a similarity."""
    share, items = facts["similarity"], max(int(facts["per_class"]), 1)
    if share is None:
        return None
    many = MANY[facts["kind"]]
    unit = "examples" if facts["kind"] == "regression" else "examples per class (median)"
    across = Axis("similarity: share of the attainable gain over chance, deepest features", 0.0, 1.0, percent=True)
    up = Axis(f"{unit}, logarithmic", min(1.0 * many / 100, items / 2), max(100.0 * many, items * 2.0), log=True)
    middle, level = across.at(SIMILAR), up.at(many)
    parts, meant = [], []
    for letter, ((size, likeness), advice) in zip("ABCD", _CORNERS.items(), strict=True):
        left, bottom = (0.0, middle)[likeness == "similar"], (0.0, level)[size == "large"]
        right, top = (middle, 100.0)[likeness == "similar"], (level, 100.0)[size == "large"]
        style = f"left:{left:.2f}%;width:{right - left:.2f}%;bottom:{bottom:.2f}%;height:{top - bottom:.2f}%"
        own = (size, likeness) == (facts["size"], facts["likeness"])
        parts.append(text_tag("i", letter, class_="corner own" if own else "corner", style=style))
        meant.append((letter, f"{size}, {likeness}: {advice}", own))
    parts += [rule(middle, kind="border"), rule(level, kind="border", level=True)]
    parts.append(dot(across.at(share), up.at(items), kind="large fill1", hint=f"similarity {100 * share:.0f} %, {items:,} {unit}"))
    body = plane(parts, title="Your data by size and similarity", across=across, up=up) + letters(meant)
    caption = f"The dot shows your data: {100 * share:.0f} % similar, {items:,} {unit}. The letters show the textbook advice. The borders, "
    return figure(body, title="Scenario", caption=f"{caption}{100 * SIMILAR:.0f} % and {many:,}, are rules of thumb.")


def _learning_curve(facts: Mapping[str, Any]) -> Figure | None:
    """Return the metric over the number of examples, with intervals and the forecast; None for a single point."""
    points = facts["curve"]
    if len(points) < 2:
        return None
    share = facts["kind"] != "regression"
    shown = [(float(count), value, (value - SURE * error, value + SURE * error)) for count, value, error in points]
    ahead = _forecast(facts)
    ends = [end for _, _, interval in [*shown, *ahead] for end in interval]
    up = axis_of([min(max(end, 0.0), 1.0) if share else max(end, -1.0) for end in ends], name=facts["metric"], percent=share)
    across = Axis("examples to learn from", 0.0, 1.05 * max(count for count, _, _ in [*shown, *ahead]), whole=True)
    placed = [(across.at(count), up.at(value)) for count, value, _ in shown]
    parts = [whisker(across.at(count), (up.at(low), up.at(high))) for count, _, (low, high) in [*shown, *ahead]]
    parts.append(line(placed, "stroke0"))
    parts += [dot(x, y, kind="fill0") for x, y in placed]
    entries = [("stroke0", "measured, with 95 % intervals")]
    caption = "If the curve still rises at its end, more examples would help."
    if ahead:
        ((count, value, _),) = ahead
        end = across.at(count), up.at(value)
        parts += [line([placed[-1], end], "ahead"), dot(*end, kind="hollow")]
        entries.append(("ahead", f"forecast for {count:,.0f} examples"))
        caption += " The forecast is a power law through the measured points."
    body = legend(entries) + plane(parts, title=f"{facts['metric']} by the number of examples", across=across, up=up)
    return figure(body, title="What more examples would give: probe on all depths", caption=caption)


def _forecast(facts: Mapping[str, Any]) -> list[tuple[float, float, tuple[float, float]]]:
    """Return [(examples, value, interval)] of the forecast; empty without one."""
    if facts["gain"] is None or not facts["more"]:
        return []
    (count, value, _), (gain, low, high) = facts["curve"][-1], facts["gain"]
    later = count + facts["more"] * (1 if facts["kind"] == "regression" else max(len(facts["classes"]), 1))
    return [(float(later), value + gain, (value + low, value + high))]
