"""Several closed-form heads weighed into one: still a single linear head, and better than any of them where none stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from ...networks.contract import TapSlice
from ...probes import LinearProbe, fit_temperature
from ...probes.common import centred
from ..setup import Setup
from ..tapped import Tapped
from .solving import Probed, columns_of, judged_probe

__all__ = ["OLD_ROWS", "STACKED", "old_rows", "stacked", "stacking_weights"]

STACKED = "all depths, weighed"
OLD_ROWS = "the rows of the old head"
SHRINK = 10.0
"""How strongly the weights are drawn to equal ones, in nats for all items together: a handful of items say little about a dozen weights."""
LEAST = 0.01
"""Share of all weights below which a head is left out."""
MOST_WEIGHED = 4000
"""Items that the weights are fitted to; more change them in their third digit."""


def stacked(setup: Setup, tapped: Tapped, *, members: Sequence[Probed], name: str = STACKED) -> list[Probed]:
    """Return the weighed mean of some heads, the weights fitted to their held-out scores.

    Source: stacking (Wolpert, Neural Networks 5, 1992) with weights that are not negative (Breiman, Machine Learning 24, 1996).
    Deviations: the log-loss takes the place of the squared error, and the weights are drawn to equal ones.

    Args:
        members: heads of the same tasks; those fitted to other items than the best of them are left out.

    Returns:
        One probe on all features that any of them reads; none where a task has no classes, or fewer than two heads remain.
    """
    best = min(members, key=lambda one: one.loss)
    alike = [one for one in members if all(np.array_equal(one.rows[task], best.rows[task]) for task in setup.tasks)]
    if {setup.data_of(task).task for task in setup.tasks} != {"classification"} or len(alike) < 2:
        return []
    weights = {task: _weights_of(setup, task, members=alike) for task in setup.tasks}
    used = [index for index in range(len(alike)) if any(given[index] > LEAST * given.sum() for given in weights.values())]
    starts = {part.start for index in used for part in alike[index].slices}
    slices = tuple(part for part in tapped.slices if part.start in starts)
    kept = [alike[index] for index in used]
    probes = {task: _joined(setup, task, members=kept, weights=given[used], slices=slices) for task, given in weights.items()}
    blocks = {part.block for part in slices}
    name, method = name if len(blocks) > 1 else blocks.pop(), f"a weighed mean of {len(kept)}"
    return [replace(judged_probe(setup, name, slices=slices, method=method, probes=probes, rows=best.rows), members=tuple(kept))]


def stacking_weights(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the weights with the lowest log-loss of the weighed sum of `scores`, none of them negative.

    Args:
        scores: (M, n, C) held-out raw scores of M heads.
        targets: (n,) class indices.

    Returns:
        (M,) weights, drawn to 1 / M each.
    """
    heads, count = len(scores), len(targets)
    equal, rows, truth = 1.0 / heads, np.arange(count), np.zeros(scores.shape[1:])
    truth[rows, targets] = 1.0

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(np.tensordot(weights, scores, 1), axis=1)
        away = weights - equal
        slope = np.tensordot(scores, np.exp(logs) - truth, 2)
        return float(SHRINK * away @ away - logs[rows, targets].sum()) / count, (slope + 2 * SHRINK * away) / count

    found = minimize(loss, np.full(heads, equal), jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * heads)
    return np.asarray(found.x) if found.x.sum() > 0 else np.full(heads, equal)


def old_rows(setup: Setup, tapped: Tapped, *, rows: np.ndarray) -> list[Probed]:
    """Return the old head as a probe, calibrated, where it has all classes and reads something that was tapped; else nothing.

    Args:
        setup: its network has the rows that were carried over.
        rows: the items (n,) to calibrate it on; it has not seen them.
    """
    data, task = setup.items.data, setup.tasks[setup.items.data.name]
    head, read = setup.network.heads[task], _read_by_head(tapped)
    if len(setup.tasks) > 1 or not setup.keeps_classes or read is None:
        return []
    known = setup.known(data.name, rows)
    if head.groups is not None or head.weight.shape != (len(data.classes), read.stop - read.start):
        return []
    features = tapped.features[:, read.start : read.stop][known].numpy()
    scores = (features @ head.weight.T + head.bias).astype(np.float64)
    factor = fit_temperature(scores, np.eye(len(data.classes))[data.targets[known]])
    probe = LinearProbe(factor * head.weight, factor * head.bias, 0.0, factor * scores, factor)
    return [judged_probe(setup, read.block, slices=(read,), method=OLD_ROWS, probes={data.name: probe}, rows={data.name: known})]


def _read_by_head(tapped: Tapped) -> TapSlice | None:
    """Return which of the features are those that the head reads, found by their values."""
    wanted = tapped.head_features
    if wanted is None:
        return None
    few = wanted[:64]
    scale = float(few.abs().max()) + 1e-12
    alike = (part for part in tapped.slices if part.stop - part.start == wanted.shape[1])
    return next((part for part in alike if float((tapped.features[:64, part.start : part.stop] - few).abs().max()) < 1e-4 * scale), None)


def _weights_of(setup: Setup, task: str, *, members: Sequence[Probed]) -> np.ndarray:
    rows = members[0].rows[task]
    drawn = np.random.default_rng(setup.plan.seed).permutation(len(rows))[:MOST_WEIGHED]
    scores = np.stack([one.probes[task].loo_scores[drawn] for one in members]).astype(np.float64)
    return stacking_weights(scores, setup.data_of(task).targets[rows[drawn]])


def _joined(setup: Setup, task: str, *, members: Sequence[Probed], weights: np.ndarray, slices: Sequence[TapSlice]) -> LinearProbe:
    """Return the weighed sum of the heads of one task, calibrated, on the features of all of them."""
    columns, first = columns_of(slices), members[0].probes[task]
    weight, bias, scores = np.zeros((len(first.bias), len(columns))), np.zeros(len(first.bias)), np.zeros(first.loo_scores.shape)
    for share, one in zip(weights, members, strict=True):
        probe = one.probes[task]
        weight[:, np.searchsorted(columns, one.columns)] += share * probe.weight
        bias += share * probe.bias
        scores += share * probe.loo_scores
    truth = np.eye(len(bias))[setup.data_of(task).targets[members[0].rows[task]]]
    factor = fit_temperature(scores, truth)
    weight, bias = centred(weight, bias)  # the rows of an old head have something in common that no softmax sees
    held_out = members[0].probes[task].held_out
    return LinearProbe(factor * weight, factor * bias, 0.0, factor * scores, factor, held_out)
