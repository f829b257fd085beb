"""Records in words, as the terminal and the report show them: candidates of a choice, entries and figures of an account."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .console import duration

HEADINGS = ("candidate", "time expected", "time taken", "estimate (95 % interval)", "outcome")
ENTRIES = {
    "matched": "weights taken from the file",
    "reshaped": "weights of another size",
    "missing": "not in the file: unchanged",
    "unexpected": "in the file, but not in the network",
    "kept": "class weights carried over by name",
    "renamed": "class weights under a new name",
    "new": "class weights of new classes",
    "dropped": "old class weights that were removed",
    "frozen": "layers that no training changes",
}
"""Entry of an account -> its meaning."""
NOT_TRIED = "not tried"  # Prefix of the outcome of a candidate that was not tried. The reason follows after a colon


def candidate_rows(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Return the cells of each candidate as text, in the order of `HEADINGS`, with "" for unknown values. A candidate that was
    not tried shows no estimate. Keys: "name", "predicted", "seconds", "estimate", "interval", "figure" ("accuracy" or "loss"), "why"."""
    return [
        (
            str(one.get("name", "")),
            "" if one.get("predicted") is None else duration(one["predicted"]),
            "" if one.get("seconds") is None else duration(one["seconds"]),
            estimate_words(one),
            str(one.get("why", "")),
        )
        for one in candidates
    ]


_JUDGED = ("accuracy", "macro_f1", "micro_f1", "map", "ece", "recall", "precision", "average_precision")
SHARES = frozenset([*_JUDGED, "old_accuracy", "new_accuracy", "harmonic_mean"])
"""Metrics of regraft that are shown in per cent, everywhere."""
_SMALLEST = 5e-5  # Metrics that are smaller are shown as 0, except those in the unit of the targets
_IN_UNITS = ("mae", "rmse")
_SHARE = re.compile(r"(?:^|_)(?:accuracy|f1|precision|recall|jaccard)(?:_|$)")
"""Names of scorers of scikit-learn, and of metrics of the user, that are shown in per cent as well: "f1_macro", "validation_accuracy"."""
FIGURES = (
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("micro_f1", "micro F1"),
    ("map", "mean average precision"),
    ("mae", "mean absolute error"),
    ("rmse", "root mean square error"),
    ("r2", "R²"),
    ("log_loss", "log loss (nats)"),
    ("ece", "calibration error"),
    ("brier", "Brier score"),
)
"""Key of a metric and its name."""
_FIGURES = {"max_score_change": "largest change of an old logit", "proved_on_examples": "checked on examples"}


def account_figures(figures: Mapping[str, float]) -> dict[str, str]:
    """Return the figures of an account as text, by their names in words."""
    return {_FIGURES.get(name, name.replace("_", " ")): metric_words(name, value) for name, value in figures.items()}


def counted(number: int, noun: str, *, verb: str = "", of: int | None = None) -> str:
    """Return a number with its noun and the verb behind it, if any. The noun is given in the singular, the verb in the plural:
    "1 class", "2,000 classes", "1 copy is", "2 texts hold"; with `of`, the number of all, "1 of 40 recordings ends"."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun[:-1]}ies" if noun.endswith(("py", "ry", "ty")) else f"{noun}s"
    said = f"{number:,} {noun if number == 1 else plural}" if of is None else f"{number:,} of {counted(of, noun)}"
    return f"{said} {_SINGULAR.get(verb, f'{verb}s') if number == 1 else verb}" if verb else said


_SINGULAR = {"are": "is", "were": "was", "have": "has", "do": "does"}
"""Plural of a verb -> its singular, where that is not the plural with an "s"."""


def metric_words(name: str, value: float | None) -> str:
    """Return the value of a metric as text: a share in per cent with one decimal, any other as `number_words` does."""
    if value is not None and abs(value) < _SMALLEST and name in dict(FIGURES) and name not in _IN_UNITS:
        return "0.0 %" if name in SHARES else "0.0000"
    share = value is not None and 0 <= value <= 1 and (name in SHARES or _SHARE.search(name))
    return f"{100 * value:.1f} %" if share and value is not None else number_words(value)


def with_interval(figures: Mapping[str, Any], key: str) -> str:
    """Return a metric of `judge` with its interval, if any, as text: "90.0 %  (86.0 % to 93.0 %)" for a share."""
    value, interval = figures.get(key), figures.get(f"{key}_interval")
    return metric_words(key, value) + (f"  ({metric_words(key, interval[0])} to {metric_words(key, interval[1])})" if interval else "")


def probe_words(value: float, kind: str) -> str:
    """Return a figure of a profile as text: in per cent, or as a number for regression."""
    return f"{value:.3f}" if kind == "regression" else f"{100 * value:.1f} %"


def probe_error_words(error: float, kind: str) -> str:
    """Return the standard error of a figure of a profile as text: in points, or as a number for regression."""
    return f"{error:.3f}" if kind == "regression" else f"{100 * error:.1f}"


def number_words(value: float | None) -> str:
    """Return a value with four significant digits and without an exponent, "–" for None and NaN."""
    return "–" if value is None or value != value else f"{value:.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def value_words(value: object) -> str:
    """Return the value of a setting as text: numbers that are not whole with four significant digits, all else as in Python."""
    return f"{value:.4g}" if isinstance(value, float) else repr(value)


def was_tried(candidate: Mapping[str, Any]) -> bool:
    """Return whether a candidate was tried, so that its estimate is measured."""
    return not str(candidate.get("why", "")).startswith(NOT_TRIED)


def outcomes(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return pairs (candidate names, shared outcome), each outcome once."""
    found: dict[str, list[str]] = {}
    for one in candidates:
        if one.get("why"):
            found.setdefault(str(one["why"]), []).append(str(one.get("name", "")))
    return [(", ".join(names), why) for why, names in found.items()]


def estimate_words(one: Mapping[str, Any]) -> str:
    """Return a candidate's estimate with its interval as text; "" if it was not tried."""
    if one.get("estimate") is None or not was_tried(one):
        return ""
    share = one.get("figure", "accuracy") == "accuracy"
    middle, low, high = (100 * value if share else value for value in (one["estimate"], *(one.get("interval") or [one["estimate"]] * 2)))
    if share:
        return f"{middle:.1f} % ({low:.1f} to {high:.1f} %)"
    return f"{one['figure']} {number_words(middle)} ({number_words(low)} to {number_words(high)})"
