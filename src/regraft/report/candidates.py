"""What was compared before one way was chosen, as words: for the report, and for a printed plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import Bar, interval_rows
from .planes import axis_of

__all__ = ["HEADINGS", "NOT_TRIED", "candidate_figure", "candidate_rows", "outcomes", "was_tried"]

HEADINGS = ("candidate", "time expected", "time taken", "estimate (95 % interval)", "outcome")
NOT_TRIED = "not tried"
"""First words of what came of a candidate that was not tried; the reason follows after a colon."""


def candidate_rows(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Return a row of words for each candidate, in the order of `HEADINGS`; empty where something is not known.

    Of what was not tried no estimate is shown.

    Args:
        candidates: with "name", "predicted" and "seconds", "estimate" with its "interval" and "figure" ("accuracy" or "loss"), "why".
    """
    return [
        (str(one.get("name", "")), _seconds(one.get("predicted")), _seconds(one.get("seconds")), _estimate(one), str(one.get("why", "")))
        for one in candidates
    ]


def was_tried(candidate: Mapping[str, Any]) -> bool:
    """Tell whether a `candidate`, as plain data, was tried, so that its estimate is measured."""
    return not str(candidate.get("why", "")).startswith(NOT_TRIED)


def candidate_figure(candidates: Sequence[Mapping[str, Any]]) -> dict[str, str] | None:
    """Return the estimates of what was tried, as dots with intervals; None where there are none.

    Args:
        candidates: as for `candidate_rows`.
    """
    tried = [one for one in candidates if was_tried(one) and one.get("estimate") is not None]
    kind = next((str(one.get("figure", "accuracy")) for one in tried), "accuracy")
    tried = [one for one in tried if one.get("figure", "accuracy") == kind]
    bars = []
    for one in tried:
        interval = tuple(one["interval"]) if one.get("interval") else None
        chosen = str(one.get("why", "")).startswith("chosen")
        bars.append(Bar(str(one.get("name", "")), one["estimate"], interval, _estimate(one), chosen))
    if not bars:
        return None
    ends = [end for bar in bars for end in (bar.interval or (bar.value,)) if end is not None]
    axis = axis_of(ends, name=f"{kind} on validation items", percent=kind == "accuracy")
    body = interval_rows(bars, title="Estimates of the candidates that were tried", axis=axis)
    caption = "Only what was tried has an estimate. Lines are 95 % intervals; trials are short, so that these are no final figures."
    return {"title": "Candidates that were compared", "body": body, "caption": caption}


def outcomes(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return (names of candidates, the outcome that they came to), each outcome once.

    Args:
        candidates: as for `candidate_rows`.
    """
    found: dict[str, list[str]] = {}
    for one in candidates:
        if one.get("why"):
            found.setdefault(str(one["why"]), []).append(str(one.get("name", "")))
    return [(", ".join(names), why) for why, names in found.items()]


def _seconds(value: Any) -> str:
    return "" if value is None else f"{value:.1f} s"


def _estimate(one: Mapping[str, Any]) -> str:
    if one.get("estimate") is None or not was_tried(one):
        return ""
    share = one.get("figure", "accuracy") == "accuracy"
    middle, low, high = (100 * value if share else value for value in (one["estimate"], *(one.get("interval") or [one["estimate"]] * 2)))
    return f"{middle:.1f} % ({low:.1f} to {high:.1f} %)" if share else f"{one['figure']} {middle:.4g} ({low:.4g} to {high:.4g})"
