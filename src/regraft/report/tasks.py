"""Figures as words, and the sections of the single tasks where the data have several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["FIGURES", "label_rows", "number_words", "percent", "task_sections", "with_interval"]

FIGURES = (
    ("accuracy", "accuracy", True),
    ("macro_f1", "macro F1", True),
    ("micro_f1", "micro F1", True),
    ("map", "mean average precision", True),
    ("mae", "mean absolute error", False),
    ("rmse", "root mean square error", False),
    ("r2", "R²", False),
    ("log_loss", "log loss (nats)", False),
    ("ece", "calibration error", True),
    ("brier", "Brier score", False),
)


def percent(share: float | None) -> str:
    """Return `share` in per cent with one decimal, "–" for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def number_words(value: float | None) -> str:
    """Return `value` with four digits, "–" for None."""
    return "–" if value is None else f"{value:.4g}"


def with_interval(figures: Mapping[str, Any], key: str, *, share: bool) -> str:
    """Return a figure and its interval, where there is one.

    Args:
        figures: what `judge` gave.
        share: whether it is shown in per cent.

    Returns:
        Such as "90.0 %  (86.0 % to 93.0 %)".
    """
    value, interval = figures.get(key), figures.get(f"{key}_interval")
    shown = percent if share else number_words
    return shown(value) + (f"  ({shown(interval[0])} to {shown(interval[1])})" if interval else "")


def task_sections(
    figures: Mapping[str, Any], comparison: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, str] | None]
) -> list[dict[str, Any]]:
    """Return what the section of each task shows; nothing where there is only one.

    Args:
        figures: of the part that judges; "tasks" holds those of each task, and among them "kind" and "baselines".

    Returns:
        Name, kind, rows of figures, the comparison (a figure, None without baselines) and the rows of `label_rows`.
    """
    return [
        {
            "name": str(name),
            "kind": str(task.get("kind") or ""),
            "rows": [("items", str(task.get("items", "–")))]
            + [(words, with_interval(task, key, share=share)) for key, words, share in FIGURES if task.get(key) is not None],
            "comparison": comparison(task, task.get("baselines") or {}),
            "labels": label_rows(task),
        }
        for name, task in (figures.get("tasks") or {}).items()
    ]


def label_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of the labels of a multi-label task, headings first; nothing for other kinds.

    Args:
        figures: what `judge` gave; "thresholds" are one for each label, 0.5 where there are none.
    """
    labels = figures.get("per_class") or {}
    if "micro_f1" not in figures or not labels:
        return []
    limits = figures.get("thresholds") or [0.5] * len(labels)
    shown = ("precision", "recall", "average_precision")
    rows = [
        [str(name), f"{limit:.3f}", *(percent(row.get(key)) for key in shown), str(row.get("items", "–"))]
        for (name, row), limit in zip(labels.items(), limits, strict=False)
    ]
    return [["label", "said from", "precision", "recall", "average precision", "examples"], *rows]
