"""Result sections of the report: key metrics, comparison with baselines, learning curves and metrics per class."""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..console import duration
from ..words import FIGURES, counted, metric_words, number_words, with_interval
from .figures import Axis, Bar, interval_rows, legend
from .planes import (
    axis_of,
    confusion_cells,
    confusion_matrix,
    curve,
    dot,
    kept_epochs,
    line,
    line_chart,
    penalty_paths,
    plane,
    stage_starts,
    whisker,
)
from .verdict import baseline_name, difference_of, percent

Figure = dict[str, str]
MOST_CLASSES = 40  # Maximum number of classes shown individually
_MISCALIBRATED = 0.2  # Calibration error from which on the page warns


def figure(body: str, *, title: str, caption: str) -> Figure | None:
    """Return a figure with title and caption; None if `body` is empty."""
    return {"title": title, "body": body, "caption": caption} if body else None


def tiles(facts: Mapping[str, Any], part: str, *, figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return (name, value, note) of the key figures at the top of the page."""
    where = f"on {counted(figures['examples'], _PART.get(part, 'held-out') + ' example')}" if figures.get("examples") else ""
    found, cost = [], facts.get("cost") or {}
    strategy, network = facts.get("strategy") or {}, (facts.get("network") or {}).get("name")
    name, chosen = strategy.get("name"), strategy.get("chosen")
    if name:
        words = f"{name}: {chosen}" if chosen and chosen != name else str(name)
        found.append(("strategy", words, f"network: {network}" if network else ""))
    if cost.get("total") is not None:
        found.append(("total time", duration(cost["total"]), f"training {duration(cost['train'])}" if cost.get("train") else ""))
    return [*_score_tiles(facts.get("baselines") or {}, figures, where=where), *(found)]


_PART = {"holdout": "held-out", "test": "test"}


def _score_tiles(baselines: Mapping[str, Any], figures: Mapping[str, Any], *, where: str) -> list[tuple[str, str, str]]:
    key = "accuracy" if "accuracy" in figures else "mae"
    if figures.get(key) is None:
        return []
    shown, name = (percent, "accuracy") if key == "accuracy" else (number_words, "mean absolute error")
    interval = figures.get(f"{key}_interval")
    note = f"95 % interval {shown(interval[0])} to {shown(interval[1])}" if interval else ""
    found = [(f"{name} {where}".strip(), shown(figures[key]), note)]
    ranked = _ranked(baselines, figures)
    if ranked:
        best, other = ranked[0]
        beside = f"{baseline_name(best)}: {shown(other[key])}"
        found.append(("compared with the best baseline", difference_of(figures, other, key=key), beside))
    return found


def _ranked(baselines: Mapping[str, Any], figures: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    key = "accuracy" if "accuracy" in figures else "mae"
    usable = [(name, other) for name, other in baselines.items() if other and other.get(key) is not None]
    return sorted(usable, key=lambda entry: float(entry[1][key]), reverse=key == "accuracy")


def score_table(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics of all evaluation sets: their names in "parts", and "rows" of (name, one value per part)."""
    parts = {name: figures for name, figures in scores.items() if isinstance(figures, Mapping) and figures and name in ("holdout", "test")}
    parts = parts or ({"held out": scores} if scores else {})
    rows = []
    for key, words in FIGURES:
        if any(figures.get(key) is not None for figures in parts.values()):
            rows.append((words, [with_interval(figures, key) for figures in parts.values()]))
    for name in dict.fromkeys(name for figures in parts.values() for name in figures.get("metrics") or {}):
        rows.append((name, [metric_words(name, (figures.get("metrics") or {}).get(name)) for figures in parts.values()]))
    if rows:
        rows.insert(0, ("examples", [str(figures.get("examples", "–")) for figures in parts.values()]))
    return {"parts": [_PART.get(name, name) for name in parts], "rows": rows}


def remarks(figures: Mapping[str, Any]) -> list[str]:
    """Return warnings about metrics that a reader could misread: a log loss above chance, poor calibration, a negative R²."""
    found, loss, classes = [], figures.get("log_loss"), len(figures.get("per_class") or {})
    if loss is not None and classes > 1 and "confusion" in figures and loss > math.log(classes):
        found.append(
            f"The log loss ({number_words(loss)}) is higher than that of equal probabilities for all {counted(classes, 'class')} "
            f"({number_words(math.log(classes))}). The order of the classes may be right, but do not use the probabilities: "
            "the logits are not calibrated."
        )
    elif (figures.get("ece") or 0.0) > _MISCALIBRATED:
        found.append(f"The calibration error is {percent(figures['ece'])}: do not use the probabilities as chances of being right.")
    if figures.get("r2") is not None and figures["r2"] < 0:
        found.append(f"R² is negative ({number_words(figures['r2'])}): the mean of the targets predicts these examples better.")
    return found


def comparison(figures: Mapping[str, Any], baselines: Mapping[str, Any]) -> Figure | None:
    """Return the figure that compares the network with the baselines (name -> metrics on the same examples); None without baselines."""
    key = "accuracy" if "accuracy" in figures else "mae"
    ranked = _ranked(baselines, figures)
    if not ranked or figures.get(key) is None:
        return None
    share = key == "accuracy"
    bars = [_score_bar("adapted network", figures, key=key, strong=True)]
    bars += [_score_bar(baseline_name(name), other, key=key, strong=False) for name, other in ranked]
    axis = axis_of(ends_of(bars), name="accuracy" if share else "mean absolute error (lower is better)", percent=share)
    body = interval_rows(bars, title=f"{axis.name}: the adapted network and the baselines", axis=axis)
    caption = f"All on the same {figures.get('examples', '')} examples. Lines are 95 % intervals of each value alone."
    caption += (
        " The verdict compares the first two example by example, which shows smaller differences." if "difference" in ranked[0][1] else ""
    )
    return figure(body, title="Adapted network and baselines", caption=caption)


def _score_bar(name: str, figures: Mapping[str, Any], *, key: str, strong: bool) -> Bar:
    value, interval = float(figures[key]), figures.get(f"{key}_interval")
    return Bar(name, value, tuple(interval) if interval else None, metric_words(key, value), strong)


def ends_of(bars: Sequence[Bar]) -> list[float]:
    """Return the interval ends of `bars`, or their values without intervals."""
    return [end for bar in bars for end in (bar.interval or (bar.value,)) if end is not None]


def curves(history: Sequence[Mapping[str, Any]], *, kept_start: str | None = None) -> list[Figure]:
    """Return the curves of loss and accuracy over epochs."""
    losses = {"training": curve(history, "train_loss"), "validation": curve(history, "validation_loss")}
    accuracy = {"validation": curve(history, "validation_accuracy")}
    marks, kept = stage_starts(history), kept_epochs(history, kept_start=kept_start)
    body = line_chart({name: each for name, each in losses.items() if each}, title="Loss by epoch", name="loss", marks=marks, kept=kept)
    said = "Training loss that falls while validation loss rises is overfitting."
    said += " The weights of the marked epoch were kept: the one with the lowest validation loss" if kept else ""
    said += " (after temperature scaling)" if kept and any("calibrated_loss" in entry for entry in history) else ""
    said += "; of a refit, which has no validation set, the last one" if any(entry.get("phase") == "refit" for entry in history) else ""
    said += "." * bool(kept)
    found = [figure(body, title="Loss", caption=said)]
    body = line_chart(accuracy, title="Accuracy by epoch", name="accuracy", percent=True, marks=marks, kept=kept)
    found.append(figure(body, title="Accuracy", caption="On the validation set; it moves in steps of one example where they are few."))
    return [each for each in found if each]


def penalty_figure(history: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return the loss over the penalty of solved heads; None without any."""
    paths = [path for path in penalty_paths(history) if path]
    series = {"held-out examples" if len(paths) == 1 else f"head {number}": path for number, path in enumerate(paths, start=1)}
    kept = [min(path, key=lambda point: point[1])[0] for path in paths]
    body = line_chart(series, title="Loss by penalty", name="loss", kept=kept, over="penalty")
    caption = "The head was solved, not trained in epochs, once for each penalty on its class weights. The penalty with the lowest loss "
    caption += "on held-out examples was kept."
    return figure(body, title="Penalty of the head", caption=caption)


def class_figures(figures: Mapping[str, Any], reliability: Sequence[Mapping[str, Any]] = ()) -> list[Figure]:
    """Return the confusion matrix, the recall per class and the reliability diagram, as far as they are available."""
    found = [_confusion(figures), _recalls(figures), _reliability(reliability, error=figures.get("ece"))]
    return [each for each in found if each]


def _recalls(figures: Mapping[str, Any]) -> Figure | None:
    rows = [(name, row) for name, row in (figures.get("per_class") or {}).items() if row.get("recall") is not None]
    classes = len(rows)
    rows = sorted(rows, key=lambda entry: float(entry[1]["recall"]))[:MOST_CLASSES]
    bars = [Bar(name, row["recall"], tuple(row["interval"]), f"{percent(row['recall'])} of {row['examples']}") for name, row in rows]
    if not bars:
        return None
    body = interval_rows(bars, title="Recall, with 95 % intervals", axis=axis_of(ends_of(bars), name="recall", percent=True))
    unit = "class" if "confusion" in figures else "label"
    few = f"the {MOST_CLASSES} weakest of {classes}" if classes > MOST_CLASSES else f"weakest {unit} first"
    caption = f"Share of the examples of each {unit} that are predicted to have it, {few}."
    return figure(body, title=f"Recall by {unit}", caption=caption)


def _confusion(figures: Mapping[str, Any]) -> Figure | None:
    confusion, names = figures.get("confusion"), list(figures.get("per_class") or {})
    if not confusion or len(names) > MOST_CLASSES:
        return None
    body = confusion_matrix(confusion, names, title="Confusion matrix")
    caption = "Rows: true class. Columns: predicted class. Numbers are examples; colour is the share of the row, errors in orange."
    return figure(body, title="Confusion matrix", caption=caption)


def _reliability(bins: Sequence[Mapping[str, Any]], *, error: float | None) -> Figure | None:
    if len(bins) < 2:
        return None
    across = Axis("probability of the predicted class (mean of the bin)", 0.0, 1.0, percent=True)
    up = Axis("share that is correct", 0.0, 1.0, percent=True)
    points = [(across.at(entry["probability"]), up.at(entry["accuracy"])) for entry in bins]
    parts = [line([(0.0, 0.0), (100.0, 100.0)], "ideal")]
    for entry, (x, y) in zip(bins, points, strict=True):
        low, high = map(up.at, entry["interval"])
        hint = f"{counted(entry['examples'], 'example')}: {percent(entry['probability'])} said, {percent(entry['accuracy'])} correct"
        parts += [whisker(x, (low, high)), dot(x, y, kind="fill0", hint=hint)]
    body = legend([("dotted fill0", "a bin of examples, with 95 % interval"), ("ideal", "calibrated")])
    body += plane(parts, title="Reliability diagram", across=across, up=up, kind="square")
    caption = f"Points below the line: probabilities are too high. Calibration error {percent(error)}."
    return figure(body, title="Reliability of the probabilities", caption=caption)


def confused_pairs(confusion: Any, names: Sequence[str], *, count: int = 20) -> list[tuple[str, str, int, str]]:
    """Return the `count` most frequent errors: (true, predicted, number, share of the true class)."""
    cells, totals = confusion_cells(confusion), [0] * len(names)
    for i, _, number in cells:
        totals[i] += number
    errors = ((-number, i, j) for i, j, number in cells if i != j)
    return [(names[i], names[j], -less, percent(-less / totals[i])) for less, i, j in heapq.nsmallest(count, errors)]


def task_sections(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the content of the section of each task, from the `figures` of the evaluation set; empty for a single task."""
    return [
        {
            "name": str(name),
            "kind": str(task.get("kind") or ""),
            "rows": [("examples", str(task.get("examples", "–")))]
            + [(words, with_interval(task, key)) for key, words in FIGURES if task.get(key) is not None],
            "comparison": comparison(task, task.get("baselines") or {}),
            "labels": label_rows(task),
        }
        for name, task in (figures.get("tasks") or {}).items()
    ]


def label_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Return a table of the labels of a multi-label task, headings first; empty for other kinds."""
    labels = figures.get("per_class") or {}
    if "micro_f1" not in figures or not labels:
        return []
    limits = figures.get("thresholds") or [0.5] * len(labels)
    shown = ("precision", "recall", "average_precision")
    rows = [
        [str(name), f"{limit:.3f}", *(percent(row.get(key)) for key in shown), str(row.get("examples", "–"))]
        for (name, row), limit in zip(labels.items(), limits, strict=False)
    ]
    return [["label", "threshold", "precision", "recall", "average precision", "examples"], *rows]
