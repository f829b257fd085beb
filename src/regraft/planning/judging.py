"""Judge an adapted network on items that chose nothing, beside its baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..data import Dataset, Prepared
from ..report import picture_uri, sound_uri
from ..tasks import judge, paired_difference
from ..training import Feed, raw_scores
from .job import Job
from .preparing import output_names
from .strategies import Carried

__all__ = ["Judged", "baselines", "compared_with", "judged", "judged_parts", "worst_items"]

WORST = 12


class Judged:
    """Raw scores (n, C) of the judging items, the data with their targets, and the figures."""

    def __init__(self, scores: np.ndarray, data: Dataset) -> None:
        self.scores = scores
        self.data = data
        self.figures = judge(scores, data.targets, output_names(data), kind=data.task)

    @property
    def right(self) -> np.ndarray:
        """(n,) whether each item is classified rightly."""
        return np.asarray(self.scores.argmax(1) == self.data.targets)


def judged(job: Job, feed: Feed, *, items: Prepared, indices: np.ndarray) -> Judged:
    """Judge the job's network on some items.

    Args:
        job: with the adapted network.
        feed: over `items`.
        items: the prepared items of the feed.
        indices: which of them judge.

    Returns:
        Scores and figures.
    """
    return Judged(raw_scores(job.network, feed, task=job.network.head.task, indices=indices), items.data.subset(indices))


def judged_parts(job: Job, carried: Carried) -> dict[str, Judged]:
    """Judge the job's network on the valid part and, where there is one, on the test set; the last of them is what baselines meet.

    Args:
        job: with the adapted network.
        carried: the feed to judge with.

    Returns:
        "valid" and, where there is a test set, "test".
    """
    found = {"valid": judged(job, carried.feed, items=job.items, indices=job.parts.valid)}
    if job.test is not None:
        found["test"] = judged(job, job.feed(carried.frozen, job.test), items=job.test, indices=np.arange(len(job.test)))
    return found


def baselines(job: Job, carried: Carried, *, adapted: Judged) -> dict[str, Mapping[str, Any]]:
    """Return what needs no training, judged on the same items: majority class, nearest class mean (or the
    mean target), and the closed-form probe.

    Args:
        job: gives the items to learn from.
        carried: with the source network's features, where they were computed.
        adapted: the judged network, to compare with.

    Returns:
        name -> figures, with the paired difference to the adapted network.
    """
    data, fit = job.items.data, job.parts.fit
    found = _probe_baseline(job, adapted=adapted)
    if data.task != "classification":
        mean = np.broadcast_to(data.targets[fit].mean(0).reshape(1, -1), adapted.scores.shape)
        kind = data.task
        scores = np.log((mean + 1e-6) / (1 - mean + 1e-6)) if kind == "multi-label" else mean
        return {**found, "mean": judge(scores, adapted.data.targets, output_names(data), kind=kind)}
    counts = np.bincount(data.targets[fit], minlength=len(data.classes))
    found["majority"] = _compared(np.broadcast_to(np.log((counts + 1e-3) / counts.sum()), adapted.scores.shape), adapted)
    if carried.features is not None and job.judging_features is not None:
        found["class_mean"] = _compared(_class_mean_scores(carried.features, job.judging_features, job=job), adapted)
    return found


def _probe_baseline(job: Job, *, adapted: Judged) -> dict[str, Mapping[str, Any]]:
    """Return the figures of the closed-form probe on the source network's features, where it was solved."""
    if job.probe is None or job.judging_features is None:
        return {}
    scores = job.judging_features.numpy() @ job.probe.weight.T + job.probe.bias
    return {"probe": compared_with(Judged(scores, adapted.data), adapted)}


def _class_mean_scores(features: torch.Tensor, judging: torch.Tensor, *, job: Job) -> np.ndarray:
    """Return minus the squared distance to each class mean, in units of the mean distance within classes, (n, C)."""
    data, fit = job.items.data, job.parts.fit
    targets, count = torch.from_numpy(data.targets[fit]), len(data.classes)
    sums, squares = torch.zeros(count, features.shape[1], dtype=torch.float64), 0.0
    for start in range(0, len(fit), 1024):
        rows, classes = features[fit[start : start + 1024]].double(), targets[start : start + 1024]
        sums.index_add_(0, classes, rows)
        squares += float(rows.square().sum())
    counts = torch.bincount(targets, minlength=count).double()[:, None]
    means = sums / counts
    within = max((squares - float((counts * means.square()).nan_to_num().sum())) / len(fit), 1e-12)
    distances = torch.cdist(judging.double(), means).square()
    return np.asarray((-distances / within * features.shape[1] ** 0.5).nan_to_num(-1e6).numpy())


def _compared(scores: np.ndarray, adapted: Judged) -> dict[str, Any]:
    other = Judged(np.array(scores), adapted.data)
    return {**other.figures, "difference": paired_difference(adapted.right, other.right)}


def compared_with(other: Judged, adapted: Judged) -> dict[str, Any]:
    """Return the figures of another network on the same items.

    Args:
        other: judged.
        adapted: to compare with.

    Returns:
        Figures, with the paired difference to the adapted network where there is one.
    """
    if adapted.data.task != "classification":
        return other.figures
    return {**other.figures, "difference": paired_difference(adapted.right, other.right)}


def worst_items(result: Judged) -> list[dict[str, Any]]:
    """Return the wrongly classified items that the network was surest of, for the report.

    Args:
        result: a judged classification.

    Returns:
        Name, true and predicted class, probability, and the item itself as picture, sound or text where it can be shown.
    """
    if result.data.task != "classification":
        return []
    chances = torch.from_numpy(result.scores).double().softmax(1).numpy()
    wrong = np.flatnonzero(~result.right)
    order = wrong[np.argsort(-chances[wrong].max(1))][:WORST]
    return [_shown(result, int(index), chances=chances) for index in order]


def _shown(result: Judged, index: int, *, chances: np.ndarray) -> dict[str, Any]:
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
