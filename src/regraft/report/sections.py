"""Convert the report data to the variables of the template: tables of text and finished figures, empty where data are missing."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..console import duration, passed, spent
from ..words import ENTRIES, HEADINGS, account_figures, candidate_rows, estimate_words, outcomes, was_tried
from .figures import Axis, Bar, interval_rows, stacked_bar
from .planes import axis_of, epochs_of, line_chart
from .results import (
    MOST_CLASSES,
    Figure,
    class_figures,
    comparison,
    confused_pairs,
    curves,
    ends_of,
    figure,
    label_rows,
    penalty_figure,
    remarks,
    score_table,
    task_sections,
    tiles,
)
from .verdict import in_short, judged_part, percent, verdict

_PARTS = {"training": "training", "validation": "validation (chooses the epoch)", "holdout": "held out (judges)", "test": "test (judges)"}
_SAME = "higher than that of equal probabilities"  # Part of a warning that the result already gives in other words


def context(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return all variables of the template."""
    part, figures = judged_part(facts.get("scores") or {})
    history = epochs_of(facts.get("history") or ())
    names = list(figures.get("per_class") or {})
    said, result = str(facts["verdict"]), verdict(facts.get("scores") or {}, facts.get("baselines") or {})
    before, headline, after = said.partition(result)  # what changes the meaning of the result stands before it
    warnings = [str(warning) for warning in facts.get("warnings") or ()]
    first = [warning for warning in warnings if in_short(warning) in before]
    for warning in first:  # each stands once, as a whole
        before = before.replace(in_short(warning), "")
    found = [_sentence(" ".join(before.split()))] if headline and before.strip() else []
    found += map(_sentence, first)
    if facts.get("kept_start"):
        found.append(f"Nothing of the training {str(facts['kept_start'])!r} was kept: no epoch was better than the network before it.")
    found += [_sentence(warning) for warning in warnings if warning not in first]
    return {
        "title": str(facts.get("title") or "Adaptation report"),
        "verdict": f"{headline}{after}" or said,
        "created": str(facts.get("created") or ""),
        "tiles": tiles(facts, part, figures=figures),
        "warnings": found + [one for one in remarks(figures) if not any(_SAME in one and _SAME in said for said in found)],
        "score_table": score_table(facts.get("scores") or {}),
        "comparison": comparison(figures, facts.get("baselines") or {}),
        "curves": [*curves(history, kept_start=facts.get("kept_start")), *filter(None, [penalty_figure(facts.get("history") or ())])],
        "history_table": _history_table(history),
        "compared": _compared(facts.get("history") or ()),
        "tasks": task_sections(figures),
        "labels": label_rows(figures),
        "class_figures": class_figures(figures, facts.get("reliability") or ()),
        "pairs": confused_pairs(figures.get("confusion") or {}, names, count=10),
        "worst": [_item(entry) for entry in facts.get("worst") or ()],
        "network": _words(facts.get("network") or {}, ("name", "family", "parameters", "blocks", "head")),
        "preprocessing": str(facts.get("preprocessing") or ""),
        "data": _data(facts.get("data") or {}),
        "strategy": _strategy(facts.get("strategy") or {}, facts.get("candidates") or ()),
        "account": _account(facts.get("account") or {}),
        "cost": _cost(facts.get("cost") or {}),
        "call": str(facts.get("call") or ""),
        "versions": [(str(name), str(version)) for name, version in (facts.get("versions") or {}).items()],
    }


def _sentence(warning: str) -> str:
    plain = warning.removeprefix("Warning: ").strip()
    return plain[:1].upper() + plain[1:]


def _history_table(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    known = ("train_loss", "validation_loss", "validation_accuracy", "learning_rate", "seconds")
    keys = [key for key in known if any(key in entry for entry in history)]
    if not keys:
        return []
    runs = len({entry.get("run", 1) for entry in history}) > 1
    rows = [["epoch", "stage", *(["run"] if runs else []), *(key.replace("train_", "training ").replace("_", " ") for key in keys)]]
    for number, entry in enumerate(history, start=1):
        which = [str(entry.get("run", 1))] if runs else []
        stage, phase = str(entry.get("stage", "")), str(entry.get("phase", "train"))
        rows.append([str(number), stage if phase == "train" else f"{stage}, {phase}", *which, *(_cell(entry.get(key)) for key in keys)])
    return rows


_COMPARED = {"learning_rate": "learning rate", "lowest": "of it at the lowest block", "batch_norm": "BatchNorm", "start": "heads"}


def _compared(history: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of the short trainings that selected settings, headings first; empty without any."""
    entries = [entry for entry in history if entry.get("phase") == "search" and entry.get("validation_loss") is not None]
    short = [entry for entry in entries if any(name in entry for name in ("lowest", "start"))]
    keys = ("stage", *_COMPARED, "epoch", "validation_loss")
    rows = [[_cell(one.get(key)) for key in keys] for one in short]
    return [["stage", *_COMPARED.values(), "epochs", "validation loss"], *rows] if rows else []


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:.4g}" if math.isfinite(value) else "not finite"
    return "–" if value is None else str(value)


def _item(entry: Mapping[str, Any]) -> dict[str, str]:
    media, kind = str(entry.get("media") or ""), str(entry.get("media_kind") or "text")
    safe = media.startswith(("data:image/", "data:audio/"))  # other URIs could load resources or run code
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
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_phrase(part)}" for key, part in value.items())
    return ", ".join(_phrase(part) for part in value) if isinstance(value, list | tuple) else str(value)


def _data(data: Mapping[str, Any]) -> dict[str, Any]:
    counts = {str(name): int(count) for name, count in (data.get("counts") or {}).items()}
    classes = data.get("classes")
    split = {_PARTS.get(name, name): float(items) for name, items in (data.get("split") or {}).items()}
    shown = {"examples": data.get("examples"), "classes": len(classes) if isinstance(classes, list | tuple) else classes}
    body = stacked_bar(split, title="How the examples were split", said={name: _phrase(int(items)) for name, items in split.items()})
    return {
        "words": _words({key: value for key, value in shown.items() if value}, ("examples", "classes")),
        "split": figure(body, title="Split", caption="Examples by what they were used for."),
        "counts": _class_counts(counts),
        "hidden": max(0, len(counts) - MOST_CLASSES),
        "read": [(str(name), str(words)) for name, words in data.get("read") or ()],
        "notes": [str(note) for note in data.get("notes") or ()],
    }


def _class_counts(counts: Mapping[str, int]) -> Figure | None:
    bars = [Bar(name, float(count), None, _phrase(count)) for name, count in list(counts.items())[:MOST_CLASSES]]
    axis = Axis("examples", 0.0, float(max(counts.values(), default=0) or 1), whole=True)
    body = interval_rows(bars, title="Examples of each class", axis=axis, filled=True)
    return figure(body, title="Examples by class", caption="Classes with few examples are learned and judged less surely.")


def _strategy(strategy: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "headings": HEADINGS,
        "candidates": candidate_rows(candidates),
        "compared": _candidate_figure(candidates),
        "trials": _trial_curves(candidates),
        "outcomes": outcomes(candidates),
        "name": str(strategy.get("name") or ""),
        "chosen": str(strategy.get("chosen") or ""),
        # warnings are shown at the top of the page
        "reasons": [str(reason) for reason in strategy.get("reasons") or () if not str(reason).startswith("Warning: ")],
        "settings": _words(strategy.get("settings") or {}, ()),
    }


def _account(account: Mapping[str, Any]) -> dict[str, Any]:
    rules = Counter(map(str, (account.get("rules") or {}).values()))
    rows = [(key, ENTRIES[key], [_phrase(name) for name in account[key]]) for key in ENTRIES if account.get(key)]
    figures = list(account_figures(account.get("figures") or {}).items())
    return {"rows": rows, "rules": list(rules.items()), "figures": figures, "notes": [str(note) for note in account.get("notes") or ()]}


def _cost(cost: Mapping[str, Any]) -> dict[str, Any]:
    parts = spent(cost)
    body = stacked_bar(parts, title="Where the time went", said={name: duration(size) for name, size in parts.items()})
    caption = f"Total {duration(float(cost['total']))}." if cost.get("total") is not None else ""
    return {"bar": figure(body, title="Time by step", caption=f"{caption}{passed(cost)}".strip())}


def _candidate_figure(candidates: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return the figure of the estimates of tried candidates, with intervals; None without any."""
    tried = [one for one in candidates if was_tried(one) and one.get("estimate") is not None]
    kind = next((str(one.get("figure", "accuracy")) for one in tried), "accuracy")
    tried = [one for one in tried if one.get("figure", "accuracy") == kind]
    bars = [
        Bar(
            str(one.get("name", "")),
            one["estimate"],
            tuple(one["interval"]) if one.get("interval") else None,
            estimate_words(one),
            str(one.get("why", "")).startswith("chosen"),
        )
        for one in tried
    ]
    if not bars:
        return None
    axis = axis_of(ends_of(bars), name=f"{kind} on validation examples", percent=kind == "accuracy")
    body = interval_rows(bars, title="Estimates of the candidates that were tried", axis=axis)
    caption = "Only what was tried has an estimate. Lines are 95 % intervals; trials are short, so that these are no final figures."
    return figure(body, title="Candidates that were compared", caption=caption)


def _trial_curves(candidates: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return the figure of the losses of the trials by epoch; None without any."""
    losses = {str(one.get("name", "")): one.get("losses") or () for one in candidates}
    series = {name: [(float(epoch), float(loss)) for epoch, loss in enumerate(each, start=1)] for name, each in losses.items() if each}
    body = line_chart(series, title="Loss of the trials by epoch", name="loss")
    caption = "On the validation set, after each epoch of the short training that compares a candidate with the others; lower is better."
    return figure(body, title="Trials", caption=caption)
