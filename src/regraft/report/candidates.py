"""What was compared before one way was chosen, as words: for the report, and for a printed plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["HEADINGS", "NOT_TRIED", "candidate_rows", "was_tried"]

HEADINGS = ("candidate", "predicted", "took", "estimate (95 %)", "what came of it")
NOT_TRIED = "not tried"
"""First words of what came of a candidate that was not tried; the reason follows after a colon."""


def candidate_rows(candidates: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """Return a row of words for each candidate, in the order of `HEADINGS`; empty where something is not known.

    What has not been measured but is only taken for possible has "perhaps" before its estimate.

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


def _seconds(value: Any) -> str:
    return "" if value is None else f"{value:.1f} s"


def _estimate(one: Mapping[str, Any]) -> str:
    if one.get("estimate") is None:
        return ""
    share = one.get("figure", "accuracy") == "accuracy"
    middle, low, high = (100 * value if share else value for value in (one["estimate"], *(one.get("interval") or [one["estimate"]] * 2)))
    said = f"{middle:.1f} % ({low:.1f} to {high:.1f} %)" if share else f"{one['figure']} {middle:.4g} ({low:.4g} to {high:.4g})"
    return said if was_tried(one) else f"perhaps {said}"
