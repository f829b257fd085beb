"""From facts to what the template shows: every section as tables of words and finished figures, absent where there is nothing."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..console import duration
from .candidates import HEADINGS, candidate_rows
from .curves import curve, epochs_of, stage_starts
from .figures import Bar, heat_map, interval_bars, line_chart, stacked_bar
from .tasks import FIGURES, label_rows, number_words, percent, task_sections, with_interval
from .verdict import baseline_name, judged_part

__all__ = ["confused_pairs", "context"]

_HEADINGS = {
    "matched": "weights taken from the file",
    "reshaped": "of another size",
    "missing": "not in the file, left as they were",
    "unexpected": "in the file, no place for them",
    "kept": "rows carried over by name",
    "renamed": "rows carried over under a new name",
    "new": "rows that start anew",
    "dropped": "rows left behind",
}
_PARTS = {"training": "training", "validation": "validation (stops the training)", "holdout": "holdout (judges)", "test": "test (judges)"}
Confusion = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]
_CELL = ("true", "predicted", "count")
_MOST_CLASSES = 40
_MOST_BESIDE = 14  # classes up to which bars and matrix stand side by side


def context(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that the template shows.

    Args:
        facts: as for `write_report`.

    Returns:
        Words, tables (lists of rows) and figures (markup) by name; empty where the facts do not hold them.
    """
    part, figures = judged_part(facts.get("scores") or {})
    return {
        "title": str(facts.get("title") or "Adaptation report"),
        "verdict": str(facts["verdict"]),
        "created": str(facts.get("created") or ""),
        "tiles": _tiles(facts, part, figures=figures),
        "warnings": [str(warning) for warning in facts.get("warnings") or ()],
        "not_tried": [str(line) for line in facts.get("not_tried") or ()],
        "score_table": _score_table(facts.get("scores") or {}),
        "part": part or "held-out",
        "comparison": _comparison(figures, facts.get("baselines") or {}),
        "curves": _curves(epochs_of(facts.get("history") or ())),
        "history_table": _history_table(epochs_of(facts.get("history") or ())),
        "compared": _compared(facts.get("history") or ()),
        "tasks": task_sections(figures, _comparison),
        "labels": label_rows(figures),
        "recalls": _recalls(figures),
        "recall_title": _recall_title(len(figures.get("per_class") or {})),
        "many": len(figures.get("per_class") or {}) > _MOST_BESIDE,
        "confusion": _confusion(figures),
        "pairs": confused_pairs(figures.get("confusion") or (), list(figures.get("per_class") or {}), count=20),
        "worst": [_item(entry) for entry in facts.get("worst") or ()],
        "network": _words(facts.get("network") or {}, ("name", "family", "parameters", "blocks", "head")),
        "preprocessing": str(facts.get("preprocessing") or ""),
        "data": _data(facts.get("data") or {}),
        "strategy": _strategy(facts.get("strategy") or {}, facts.get("candidates") or ()),
        "account": _account(facts.get("account") or {}),
        "cost": _cost(facts.get("cost") or {}),
        "versions": [(str(name), str(version)) for name, version in (facts.get("versions") or {}).items()],
    }


def confused_pairs(confusion: Confusion, names: Sequence[str], *, count: int = 20) -> list[tuple[str, str, int, str]]:
    """Return the errors made most often.

    Args:
        confusion: the cells that are not 0, as `judge` gives them; or, of earlier versions, (C, C) counts, rows true.
        names: of the C classes.
        count: at most so many pairs.

    Returns:
        (true, predicted, items, share of the true class's items), the most frequent first.
    """
    cells, totals = _cells(confusion), [0] * len(names)
    for i, number in zip(cells["true"], cells["count"], strict=True):
        totals[i] += number
    errors = ((-number, i, j) for i, j, number in zip(*(cells[name] for name in _CELL), strict=True) if i != j)
    return [(names[i], names[j], -less, percent(-less / totals[i])) for less, i, j in heapq.nsmallest(count, errors)]


def _cells(confusion: Confusion) -> Mapping[str, Sequence[int]]:
    """Return the cells that are not 0, as `judge` gives them."""
    if isinstance(confusion, Mapping):
        return confusion
    cells = [(i, j, number) for i, row in enumerate(confusion) for j, number in enumerate(row) if number]
    return {name: [cell[at] for cell in cells] for at, name in enumerate(_CELL)}


def _tiles(facts: Mapping[str, Any], part: str, *, figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of the figures that are read first."""
    return [*_score_tiles(facts.get("baselines") or {}, figures, where=f"on the {part or 'held-out'} items"), *_effort_tiles(facts)]


def _score_tiles(baselines: Mapping[str, Any], figures: Mapping[str, Any], *, where: str) -> list[tuple[str, str, str]]:
    if "accuracy" not in figures:
        return [("mean absolute error", number_words(figures["mae"]), where)] if "mae" in figures else []
    interval = figures.get("accuracy_interval")
    note = f"95 %: {percent(interval[0])} to {percent(interval[1])}" if interval else where
    tiles = [(f"accuracy {where}", percent(figures["accuracy"]), note)]
    ranked = _ranked(baselines, figures)
    if ranked:
        name, best = ranked[0]
        gain = f"{100 * (figures['accuracy'] - best['accuracy']):+.1f} points".replace("-", "−")
        tiles.append(("over the best baseline", gain, f"{baseline_name(name)}: {percent(best['accuracy'])}"))
    return tiles


def _effort_tiles(facts: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    tiles, cost = [], facts.get("cost") or {}
    if cost.get("total") is not None:
        tiles.append(("time in all", duration(cost["total"]), f"of it training {duration(cost['train'])}" if "train" in cost else ""))
    strategy, network = (facts.get("strategy") or {}).get("name"), (facts.get("network") or {}).get("name")
    if strategy:
        chosen = (facts.get("strategy") or {}).get("chosen")
        words = f"{strategy}: {chosen}" if chosen and chosen != strategy else str(strategy)
        tiles.append(("strategy", words, f"on {network}" if network else ""))
    return tiles


def _ranked(baselines: Mapping[str, Any], figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    key = "accuracy" if "accuracy" in figures else "mae"
    usable = [(name, other) for name, other in baselines.items() if other and other.get(key) is not None]
    return sorted(usable, key=lambda entry: float(entry[1][key]), reverse=key == "accuracy")


def _score_table(scores: Mapping[str, Any]) -> dict[str, Any]:
    parts = {name: figures for name, figures in scores.items() if isinstance(figures, Mapping) and figures and name in ("holdout", "test")}
    parts = parts or ({"held out": scores} if scores else {})
    rows = []
    for key, words, share in FIGURES:
        if any(figures.get(key) is not None for figures in parts.values()):
            rows.append((words, [with_interval(figures, key, share=share) for figures in parts.values()]))
    if rows:
        rows.insert(0, ("items", [str(figures.get("items", "–")) for figures in parts.values()]))
    return {"parts": list(parts), "rows": rows}


def _comparison(figures: Mapping[str, Any], baselines: Mapping[str, Any]) -> str:
    key = "accuracy" if "accuracy" in figures else "mae"
    ranked = _ranked(baselines, figures)
    if not ranked or key not in figures:
        return ""
    share = key == "accuracy"
    bars = [_score_bar("the adapted network", figures, key=key, strong=True)]
    bars += [_score_bar(baseline_name(name), other, key=key, strong=False) for name, other in ranked]
    high = 1.0 if share else 1.1 * max((bar.interval[1] if bar.interval else bar.value or 0.0) for bar in bars)
    title = "Accuracy beside the baselines" if share else "Mean absolute error beside the baselines (lower is better)"
    return interval_bars(bars, title=title, high=high or 1.0, percent=share)


def _score_bar(name: str, figures: Mapping[str, Any], *, key: str, strong: bool) -> Bar:
    value, interval = float(figures[key]), figures.get(f"{key}_interval")
    words = percent(value) if key == "accuracy" else number_words(value)
    return Bar(name, value, tuple(interval) if interval else None, words, strong)


def _curves(history: Sequence[Mapping[str, Any]]) -> list[str]:
    losses = {"training loss": curve(history, "train_loss"), "validation loss": curve(history, "validation_loss")}
    accuracy = {"validation accuracy": curve(history, "validation_accuracy")}
    marks = stage_starts(history)
    loss = line_chart({name: line for name, line in losses.items() if line}, title="Loss by epoch", marks=marks)
    right = line_chart({name: line for name, line in accuracy.items() if line}, title="Accuracy by epoch", percent=True, marks=marks)
    return [figure for figure in (loss, right) if figure]


def _history_table(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    known = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds")
    keys = [key for key in known if any(key in entry for entry in history)]
    if not keys:
        return []
    runs = len({entry.get("run", 1) for entry in history}) > 1
    rows = [["epoch", "stage", *(["run"] if runs else []), *(key.replace("train_", "fit ").replace("_", " ") for key in keys)]]
    for number, entry in enumerate(history, start=1):
        which = [str(entry.get("run", 1))] if runs else []
        stage, phase = str(entry.get("stage", "")), str(entry.get("phase", "train"))
        rows.append([str(number), stage if phase == "train" else f"{stage}, {phase}", *which, *(_cell(entry.get(key)) for key in keys)])
    return rows


_COMPARED = {"learning_rate": "learning rate", "lowest": "of it at the lowest block", "batch_norm": "BatchNorm", "start": "heads"}


def _compared(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of the short trainings by which settings were chosen, headings first; nothing where there were none."""
    entries = [entry for entry in history if entry.get("phase") == "search" and entry.get("validation_loss") is not None]
    short = [entry for entry in entries if any(name in entry for name in ("lowest", "start"))]
    keys = ("stage", *_COMPARED, "epoch", "validation_loss")
    rows = [[_cell(one.get(key)) for key in keys] for one in short]
    return [["stage", *_COMPARED.values(), "epochs", "validation loss"], *rows] if rows else []


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.4g}" if math.isfinite(value) else "not finite"
    return "–" if value is None else str(value)


def _recalls(figures: Mapping[str, Any]) -> str:
    rows = [(name, row) for name, row in (figures.get("per_class") or {}).items() if row.get("recall") is not None]
    if len(rows) > _MOST_CLASSES:
        rows = sorted(rows, key=lambda entry: float(entry[1]["recall"]))[:_MOST_CLASSES]
    bars = [Bar(name, row["recall"], tuple(row["interval"]), f"{percent(row['recall'])} of {row['items']}") for name, row in rows]
    return interval_bars(bars, title="Share of each class's items that were read correctly, with 95 % intervals", across=260.0)


def _recall_title(classes: int) -> str:
    return "read correctly" if classes <= _MOST_CLASSES else f"read correctly: the {_MOST_CLASSES} weakest of {classes} classes"


def _confusion(figures: Mapping[str, Any]) -> str:
    confusion, names = figures.get("confusion"), list(figures.get("per_class") or {})
    if not confusion or len(names) > _MOST_CLASSES:
        return ""
    table = [[0] * len(names) for _ in names]
    for i, j, number in zip(*(_cells(confusion)[name] for name in _CELL), strict=True):
        table[i][j] = number
    return heat_map(table, names, title="Confusion matrix: rows are the true classes, columns what the network read")


def _item(entry: Mapping[str, Any]) -> dict[str, str]:
    media, kind = str(entry.get("media") or ""), str(entry.get("media_kind") or "text")
    safe = media.startswith(("data:image/", "data:audio/"))  # anything else could fetch, or run
    shown = {key: str(entry.get(key, "") if entry.get(key) is not None else "") for key in ("name", "true", "predicted", "text")}
    chance = "" if entry.get("probability") is None else percent(entry["probability"])
    return shown | {"media": media if safe else "", "kind": kind if safe else "text", "probability": chance}


def _words(facts: Mapping[str, Any], order: Sequence[str]) -> list[tuple[str, str]]:
    keys = [key for key in order if key in facts] + [key for key in facts if key not in order]
    return [(key.replace("_", " "), _phrase(facts[key])) for key in keys if facts[key] is not None]


def _phrase(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_phrase(part)}" for key, part in value.items())
    return ", ".join(_phrase(part) for part in value) if isinstance(value, list | tuple) else str(value)


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    counts = {str(name): int(count) for name, count in (data.get("counts") or {}).items()}
    most = max(counts.values(), default=0)
    bars = [Bar(name, float(count), None, str(count)) for name, count in list(counts.items())[:_MOST_CLASSES]]
    classes = data.get("classes")
    split = {_PARTS.get(name, name): float(items) for name, items in (data.get("split") or {}).items()}
    shown = {"items": data.get("items"), "classes": len(classes) if isinstance(classes, list | tuple) else classes}
    return {
        "words": _words({key: value for key, value in shown.items() if value is not None}, ("items", "classes")),
        "split": stacked_bar(split, title="How the items were split", unit="items"),
        "counts": interval_bars(bars, title="Items of each class", high=float(most or 1), percent=False),
        "hidden": max(0, len(counts) - _MOST_CLASSES),
        "notes": [str(note) for note in data.get("notes") or ()],
    }


def _strategy(strategy: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "headings": HEADINGS,
        "candidates": candidate_rows(candidates),
        "name": str(strategy.get("name") or ""),
        "reasons": [str(reason) for reason in strategy.get("reasons") or ()],
        "settings": _words(strategy.get("settings") or {}, ()),
    }


def _account(account: Mapping[str, Any]) -> dict[str, Any]:
    rules: dict[str, int] = {}
    for rule in (account.get("rules") or {}).values():
        rules[str(rule)] = rules.get(str(rule), 0) + 1
    rows = [(key, _HEADINGS[key], [_phrase(name) for name in account[key]]) for key in _HEADINGS if account.get(key)]
    figures = [(str(name).replace("_", " "), f"{value:.4g}") for name, value in (account.get("figures") or {}).items()]
    return {"rows": rows, "rules": list(rules.items()), "figures": figures, "notes": [str(note) for note in account.get("notes") or ()]}


def _cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    names = {"read": "reading", "frozen": "frozen part", "train": "training"}
    parts = {words: float(cost[key]) for key, words in names.items() if cost.get(key) is not None}
    rest = float(cost.get("total") or 0.0) - sum(parts.values())
    if rest > 0.05:
        parts["the rest"] = rest
    items = cost.get("frozen_forward_items")
    return {"bar": stacked_bar(parts, title="Where the time went"), "forwarded": "" if items is None else _phrase(items)}
