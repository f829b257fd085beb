"""The verdict: a short statement on the quality of the network, from metrics with intervals."""

import math
from collections.abc import Mapping
from typing import Any

from ..words import counted

_NOISE = " The difference is not significant."
_UNCLEAR = "no clear difference"
_NAMES = {
    "boosting": "gradient boosting on the raw columns",
    "class_mean": "the nearest class mean",
    "forest": "a random forest on the raw columns",
    "knn": "the nearest neighbours",
    "lda": "the closed-form probe (LDA)",
    "majority": "the majority class",
    "mean": "the mean of the targets",
    "nearest_class_mean": "the nearest class mean",
    "nearest_mean": "the nearest class mean",
    "probe": "the closed-form probe of the deepest features",
    "ridge": "the closed-form probe (ridge)",
    "scratch": "the same network trained from scratch",
    "source": "the original network",
}
_TREES = ("boosting", "forest")
_CONSTANT = ("majority", "mean")  # baselines that ignore the input


def verdict(scores: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a short statement on how good the adapted network is and whether it is better than the best baseline.
    `baselines`: name -> result of `judge` on the same examples. If an entry has "difference", the result of `paired_difference(adapted,
    baseline)`, it is used instead of the unpaired interval."""
    part, figures = judged_part(scores)
    shown = counted(figures.get("examples", 0), f"{'test' if part == 'test' else 'held-out'} example")
    if "accuracy" in figures:
        return _of_accuracy(figures, {name: other for name, other in baselines.items() if "accuracy" in other}, shown=shown)
    if "mae" in figures:
        return _of_error(figures, {name: other for name, other in baselines.items() if "mae" in other}, shown=shown)
    return "The adapted network has not been evaluated: there are no held-out examples."


def in_short(warning: str) -> str:
    """Return a warning as it stands in the verdict: of equal examples, their number alone."""
    number = warning.partition(" (")[0]
    return f"{number}: the figures may be better than on new examples." if "equal, byte by byte" in warning else warning


def judged_part(scores: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the metrics of the evaluation set: "test" if present, else "holdout", else ("", `scores`)."""
    for name in ("test", "holdout"):
        if isinstance(scores.get(name), Mapping) and scores[name]:
            return name, scores[name]
    return "", scores


def percent(share: float | None) -> str:
    """Return `share` in per cent with one decimal, "–" for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def baseline_name(name: str) -> str:
    """Return the display name of a baseline."""
    return _NAMES.get(name, name.replace("_", " "))


def _difference_interval(figures: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95 % interval (lo, hi) of the difference of two accuracies, `figures` minus `other`, from their own intervals.

    For two networks evaluated on the same examples it is conservative: it is wider than the paired interval if their errors are positively
    correlated.

    Source:
        Newcombe 1998, Statistics in Medicine 17:873-890, method 10.
    """
    first, (low, high) = figures["accuracy"], figures.get("accuracy_interval", (0.0, 1.0))
    second, (least, most) = other["accuracy"], other.get("accuracy_interval", (0.0, 1.0))
    difference = first - second
    return difference - math.hypot(first - low, most - second), difference + math.hypot(high - first, second - least)


def _of_accuracy(figures: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]], *, shown: str) -> str:
    share = percent(figures["accuracy"])
    what = f"predicts {share} of the labels of" if "micro_f1" in figures else f"classifies {share} of"
    said = f"The adapted network {what} the {shown} correctly"
    if "accuracy_interval" in figures:
        low, high = figures["accuracy_interval"]
        said += f" (95 % interval {100 * low:.1f} to {percent(high)})"
    if not baselines:
        return said + ". No baseline was run."
    best = max(baselines, key=lambda name: float(baselines[name]["accuracy"]))
    said += "." + _against(figures, baselines[best], name=baseline_name(best))
    if "majority" in baselines and best != "majority":
        said += f" The majority class gives {percent(baselines['majority']['accuracy'])}."
    return said + (_no_network(best) if _bounds(figures, baselines[best])[1] < 0 else "")


def _no_network(best: str) -> str:
    return f" For this table, use {baseline_name(best)} instead of a network." if best in _TREES else ""


def _bounds(figures: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies: the paired one if available."""
    paired = other.get("difference")
    low, high = paired["interval"] if isinstance(paired, Mapping) else _difference_interval(figures, other)
    return low, high


def difference_of(figures: Mapping[str, Any], other: Mapping[str, Any], *, key: str) -> str:
    """Return the difference of two networks as text: "+1.7 points", "12 % lower error", or "no clear difference" if not significant."""
    if key == "accuracy":
        low, high = _bounds(figures, other)
        points = round(100 * (figures[key] - other[key]), 1)
        return f"{points:+.1f} points".replace("-", "−") if points and (low > 0 or high < 0) else _UNCLEAR
    share = round(100 * (figures[key] / other[key] - 1)) if other[key] else 0
    clear = share and _apart(figures.get("mae_interval"), other.get("mae_interval"))
    return f"{abs(share)} % {'higher' if share > 0 else 'lower'} error" if clear else _UNCLEAR


def _against(figures: Mapping[str, Any], other: Mapping[str, Any], *, name: str) -> str:
    difference = figures["accuracy"] - other["accuracy"]
    low, high = _bounds(figures, other)
    points = f"{100 * abs(difference):.1f} points"
    if high < 0:
        return f" But {name} is better: {percent(other['accuracy'])}, {points} more."
    if low > 0:
        return f" This is {points} above {name}."
    if f"{100 * abs(difference):.1f}" == "0.0":
        return f" This is no better than {name}."
    return f" This is {points} {'above' if difference > 0 else 'below'} {name}." + _NOISE


def _of_error(figures: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]], *, shown: str) -> str:
    said = f"The adapted network has a mean absolute error of {figures['mae']:.3g} on {shown}"
    if "mae_interval" in figures:
        low, high = figures["mae_interval"]
        said += f" (95 % interval {low:.3g} to {high:.3g})"
    if not baselines:
        return said + ". No baseline was run."
    best = min(baselines, key=lambda name: float(baselines[name]["mae"]))
    other = baselines[best]
    apart = _apart(figures.get("mae_interval"), other.get("mae_interval"))
    lower = round(100 * (1 - figures["mae"] / other["mae"])) if other["mae"] else 0
    if lower > 0 or (apart and figures["mae"] < other["mae"]):
        said += f". This is {lower or 'less than 1'} % lower than the error of {baseline_name(best)} ({other['mae']:.3g})."
    elif lower == 0 and (not apart or figures["mae"] == other["mae"]):
        return said + f". This is no better than {baseline_name(best)} ({other['mae']:.3g})." + _constant_error(baselines, best)
    elif apart:
        said += f". But {baseline_name(best)} is better: its error is {other['mae']:.3g}."
    else:
        said += f". The error of {baseline_name(best)} is not higher: {other['mae']:.3g}."
    said += "" if apart else _NOISE
    said += _constant_error(baselines, best)
    return said + (_no_network(best) if apart and other["mae"] < figures["mae"] else "")


def _constant_error(baselines: Mapping[str, Mapping[str, Any]], best: str) -> str:
    """Return a sentence on the error of the constant prediction, "" if it is the `best` baseline or was not run."""
    constant = next((name for name in _CONSTANT if name in baselines and name != best), None)
    return f" The error of {baseline_name(constant)} is {baselines[constant]['mae']:.3g}." if constant else ""


def _apart(first: Any, second: Any) -> bool:
    return first is None or second is None or first[1] < second[0] or second[1] < first[0]
