"""Evaluation of an adapted network and its baselines on examples that chose nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data import ArrayPreprocessing, Dataset
from ..data.items import mean_of_windows, take
from ..files.room import release_pages
from ..networks.network import Network
from ..probes.trees import MOST_BOOSTED, tree_scores
from ..report import picture_uri, sound_uri
from ..tasks import chosen_figures, judge, paired_difference, reliability
from ..training import Feed, all_logits
from .passes import feed_of
from .preparing import output_names
from .setup import Log, Outcome, Setup, Source

WORST = 12
BINS = 10  # Number of bins of a reliability diagram
FEWEST_OF_TABLE, FEWEST_ROWS = 20, 100  # Smallest number of examples of a table, and of an array, for trees as a baseline
MOST_COLUMNS = 1000  # Largest number of columns for trees as a baseline
LEAST_IN_BIN = 8  # Smallest average number of examples in a bin; with fewer, an interval says nothing


class TaskEvaluation:
    """Evaluation of one task.
    `scores`: (n, C) logits of the evaluated examples with a known target; for windows over recordings, the mean of each recording. `data`:
    these examples, or the recordings, with the targets of this task only. `examples`: the m examples before windows are joined to
    recordings. `rows`: (m,) positions of these examples among all evaluated ones. `thresholds`: thresholds of labels, or None. `figures`:
    result of `judge`, with "metrics" if some are wanted."""

    def __init__(
        self, scores: np.ndarray, data: Dataset, *, rows: np.ndarray, thresholds: Sequence[float] | None = None, metrics: Sequence[Any] = ()
    ) -> None:
        self.examples = data
        self.scores = mean_of_windows(scores, data.items)
        self.data = data.recordings()
        self.rows = rows
        self.thresholds = thresholds
        self.metrics = tuple(metrics)
        data, scores = self.data, self.scores
        self.figures = judge(scores, data.targets, output_names(data), kind=data.task, thresholds=thresholds)
        if metrics:
            found = chosen_figures(metrics, scores, targets=data.targets, kind=data.task)
            self.figures["metrics"] = {name: None if np.isnan(value) else value for name, value in found.items()}

    @property
    def right(self) -> np.ndarray:
        """(n,) whether each example is classified correctly."""
        return np.asarray(self.scores.argmax(1) == self.data.targets)

    def beside(self, scores: np.ndarray, thresholds: np.ndarray | None = None) -> TaskEvaluation:
        """Return the evaluation of other logits, (n, C) or (m, C), of the same examples, for labels with `thresholds` (C,)."""
        limits = None if thresholds is None else thresholds.tolist()
        data = self.examples if len(scores) == len(self.examples) else self.data
        return TaskEvaluation(np.array(scores), data, rows=self.rows, thresholds=limits, metrics=self.metrics)


ByTask = dict[str, TaskEvaluation]  # Task of the data -> its evaluation


def judged(  # over the limit: a network on some examples of its data
    network: Network, feed: Feed, *, tasks: Mapping[str, str], data: Dataset, indices: np.ndarray, metrics: Sequence[Any] = ()
) -> ByTask:
    """Evaluate a network on the examples `indices`, each task on those whose target is known; a task without known targets is left out.
    `tasks` maps tasks of the data to tasks of the network."""
    scores, found = all_logits(network, feed, indices=indices), ByTask()
    for name, task in tasks.items():
        known = data.targets_of(name).known[indices] if name in data.tasks else np.zeros(0, bool)
        if known.any():
            own, limits = data.of_task(name).subset(indices[known]), network.heads[task].thresholds
            wanted = metrics if name == data.name else ()
            found[name] = TaskEvaluation(scores[task][known], own, rows=np.flatnonzero(known), thresholds=limits, metrics=wanted)
    return found


def judged_parts(setup: Setup, log: Log, *, outcome: Outcome) -> dict[str, ByTask]:
    """Evaluate the adapted network on the holdout set and on the test set; return them as "holdout" and "test", without empty sets.
    Baselines are evaluated on the last of the two."""
    network, tasks, holdout, found = outcome.network, setup.tasks, setup.parts.holdout, dict[str, ByTask]()
    wanted = setup.settings.metrics
    if len(holdout):
        found["holdout"] = judged(network, outcome.feed, tasks=tasks, data=setup.items.data, indices=holdout, metrics=wanted)
    if setup.test is not None:
        feed = outcome.test_feed or feed_of(setup.on(network), log, frozen=outcome.frozen, items=setup.test)
        found["test"] = judged(network, feed, tasks=tasks, data=setup.test.data, indices=np.arange(len(setup.test)), metrics=wanted)
    return found


def scores_of(setup: Setup, source: Source, *, parts: Mapping[str, ByTask]) -> dict[str, Any]:
    """Return the figures of each part as plain data: those of the first task and, with several tasks, those of each under "tasks".
    In the last part, each further task has "baselines" among its figures."""
    first, last = setup.items.data.name, list(parts)[-1]
    if len(setup.tasks) == 1:
        return {part: found[first].figures for part, found in parts.items()}
    scores: dict[str, Any] = {}
    for part, found in parts.items():
        tasks = {name: {"kind": task.data.task, **task.figures} for name, task in found.items()}
        for name, task in found.items():
            if name != first and part == last:
                tasks[name]["baselines"] = baselines(setup, source, adapted=task)
        scores[part] = {**found[first].figures, "tasks": tasks}
    return scores


def blind_scores(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return the logits (C,) of the best constant prediction: the shares of the classes or labels, or the mean.
    It is computed from the examples `rows` (n,), n >= 1."""
    if data.task == "classification":
        counts = np.bincount(data.targets[rows], minlength=len(data.classes))
        return np.asarray(np.log((counts + 1e-3) / counts.sum()))
    mean = np.atleast_1d(data.targets[rows].mean(0))
    return np.asarray(np.log((mean + 1e-6) / (1 - mean + 1e-6)) if data.task == "multi-label" else mean)


def baselines(setup: Setup, source: Source, *, adapted: TaskEvaluation) -> dict[str, Mapping[str, Any]]:
    """Return the figures of the baselines on the same examples, with the paired difference to the adapted network.
    Baselines: majority class and nearest class mean, or the mean target; the closed-form probe; for tables, trees on the raw columns. None
    of them trains a network."""
    data = setup.data_of(adapted.data.name)
    fit = setup.known(data.name, setup.parts.training)
    found = _probe_baseline(source, data, adapted=adapted)
    if not len(fit):
        return found
    found |= _tree_baseline(setup, data, adapted=adapted)
    blind = np.broadcast_to(blind_scores(data, fit), adapted.scores.shape)
    if data.task != "classification":
        return {**found, "mean": adapted.beside(blind).figures}
    found["majority"] = compared_with(adapted.beside(blind), adapted)
    if source.features is not None and source.judging is not None:
        means = _class_mean_scores(source.features, source.judging[adapted.rows], data=data, fit=fit)
        found["class_mean"] = compared_with(adapted.beside(means), adapted)
    return found


def _probe_baseline(source: Source, data: Dataset, *, adapted: TaskEvaluation) -> dict[str, Mapping[str, Any]]:
    """Return the figures of the closed-form probe on the source network's features, if it was solved."""
    solved = source.probes.get(data.name)
    if solved is None or source.judging is None:
        return {}
    scores = source.judging[adapted.rows].numpy() @ solved.probe.weight.T + solved.probe.bias
    limits = None if adapted.thresholds is None else solved.thresholds(data.targets)  # each head needs its own label thresholds
    return {"probe": compared_with(adapted.beside(scores, limits), adapted)}


def _tree_baseline(setup: Setup, data: Dataset, *, adapted: TaskEvaluation) -> dict[str, Mapping[str, Any]]:
    """Return the figures of trees on the raw columns of a table; nothing for other data, several labels, or few examples."""
    fit = setup.known(data.name, setup.parts.learned_from)
    own = setup.items.preprocessing
    tokens = isinstance(own, ArrayPreprocessing) and own.integers
    if data.task == "multi-label" or not data.has_rows or tokens or len(fit) < (FEWEST_OF_TABLE if data.table else FEWEST_ROWS):
        return {}
    if len(fit) > MOST_BOOSTED:
        fit = np.sort(np.random.default_rng(setup.plan.seed).choice(fit, MOST_BOOSTED, replace=False))
    rows, others = _raw_rows(data, fit), _raw_rows(adapted.examples, np.arange(len(adapted.examples)))
    if rows.shape[1] > MOST_COLUMNS or (data.task == "classification" and len(np.unique(data.targets[fit])) < 2):
        return {}
    weights = None if data.weights is None else data.weights[fit]
    name, scores = tree_scores(rows, data.targets[fit], others, classes=len(data.classes), weights=weights, seed=setup.plan.seed)
    return {name: compared_with(adapted.beside(scores), adapted)}


def _raw_rows(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return the raw numbers of some examples, (n, k), with their columns appended."""
    items = np.asarray(take(data.items, rows), np.float32)
    return items if data.columns is None else np.hstack([items, data.columns[rows]])


def _class_mean_scores(features: torch.Tensor, judging: torch.Tensor, *, data: Dataset, fit: np.ndarray) -> np.ndarray:
    """Return minus the squared distance to each class mean, in units of the mean distance within classes, (n, C)."""
    targets, count = torch.from_numpy(data.targets[fit]), len(data.classes)
    sums, squares = torch.zeros(count, features.shape[1], dtype=torch.float64), 0.0
    for start in range(0, len(fit), 1024):
        rows, classes = features[fit[start : start + 1024]].double(), targets[start : start + 1024]
        sums.index_add_(0, classes, rows)
        squares += float(rows.square().sum())
        release_pages()
    counts = torch.bincount(targets, minlength=count).double()[:, None]
    means = sums / counts
    within = max((squares - float((counts * means.square()).nan_to_num().sum())) / len(fit), 1e-12)
    distances = torch.cdist(judging.double(), means).square()
    return np.asarray((-distances / within * features.shape[1] ** 0.5).nan_to_num(-1e6).numpy())


def compared_with(other: TaskEvaluation, adapted: TaskEvaluation) -> dict[str, Any]:
    """Return the figures of another evaluation on the same examples; for classification with the paired difference."""
    if adapted.data.task != "classification":
        return other.figures
    return {**other.figures, "difference": paired_difference(adapted.right, other.right)}


def worst_items(result: TaskEvaluation) -> list[dict[str, Any]]:
    """Return the wrongly classified examples with the highest predicted probability, for the report."""
    if result.data.task != "classification":
        return []
    chances = torch.from_numpy(result.scores).double().softmax(1).numpy()
    wrong = np.flatnonzero(~result.right)
    order = wrong[np.argsort(-chances[wrong].max(1))][:WORST]
    return [_shown(result, int(index), chances=chances) for index in order]


def reliability_of(result: TaskEvaluation) -> list[dict[str, Any]]:
    """Return the points of a reliability diagram, for the report; nothing for tasks other than classification."""
    if result.data.task != "classification":
        return []
    chances = torch.from_numpy(result.scores).double().softmax(1).numpy()
    return reliability(chances, result.data.targets, bins=min(BINS, max(len(chances) // LEAST_IN_BIN, 1)))


def _shown(result: TaskEvaluation, index: int, *, chances: np.ndarray) -> dict[str, Any]:
    data, predicted = result.data, int(chances[index].argmax())
    shown = {"name": data.name_of(index), "true": data.classes[int(data.targets[index])], "predicted": data.classes[predicted]}
    item = data[index]
    media, kind, text = None, "text", None
    if data.kind == "image" or (data.kind == "array" and np.ndim(item) >= 2):
        media, kind = picture_uri(item), "image"
    elif data.kind == "audio":
        media, kind = (sound_uri(item) if not isinstance(item, np.ndarray) else None), "audio"
    elif data.kind == "text":
        text = str(item)
    return {**shown, "probability": float(chances[index, predicted]), "media": media, "media_kind": kind, "text": text}
