"""Probes of a profile on computed features: each depth alone, all depths jointly, neighbours, and the learning curve."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from ...heads.retarget import retargeted_rows
from ...networks.network import Head, Network
from ...probes.common import NEVER, spread_out
from ...probes.ridge import fit_ridge
from ...probes.statistics import fit_lda, fit_lda_probe, statistics_of
from .judging import Case, ProbeEvaluation, judged

SHARES = ((0.1, 5), (0.25, 3), (0.5, 2))  # Sizes of the learning curve as shares of the examples, with the number of draws of each
_COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class JointProbe:
    """Probe on all depths together."""

    method: str  # "ridge" or "shrinkage LDA", whichever is better on left-out examples
    held: ProbeEvaluation  # evaluation of this method
    others: dict[str, ProbeEvaluation]  # method -> evaluation, for all methods
    items: int  # number of examples that each fit used, for the learning curve


def alone(case: Case, features: np.ndarray) -> ProbeEvaluation:
    """Return the evaluation of ridge regression on the standardised features (N, d) of one depth."""
    mean, scale = spread_out(features, standardise=True, alike=False)
    probe = fit_ridge((features - mean) / scale, case.targets, kind=case.kind, classes=case.classes, groups=case.groups)
    return judged(case, probe.loo_scores)


def coordinates(features: np.ndarray) -> np.ndarray:
    """Return standardised features (N, D), or, if D > N, their coordinates (N, r) in the span of the examples.
    The coordinates keep distances and inner products. So ridge regression gives the same predictions, and shrinkage LDA does too, up to its
    estimate of the shrinkage. Both take a fraction of the time and memory."""
    mean, scale = spread_out(features, standardise=True, alike=False)
    count, width = features.shape
    if width <= count:
        return np.asarray((features - mean) / scale)
    gram = np.zeros((count, count))
    for start in range(0, width, _COLUMNS):
        part = slice(start, start + _COLUMNS)
        block = (features[:, part] - mean[part]) / scale[part]
        gram += block @ block.T
    squares, vectors = np.linalg.eigh(gram)
    kept = squares > max(float(squares[-1]), 1e-30) * count * np.finfo(np.float64).eps * 100
    kept[-1] = True
    return np.asarray(vectors[:, kept] * np.sqrt(np.maximum(squares[kept], 0)))


def joint_probe(case: Case, table: np.ndarray) -> JointProbe:
    """Evaluate ridge regression and, for classes, shrinkage LDA on all depths together. `table`: (N, r) from `coordinates`."""
    probe = fit_ridge(table, case.targets, kind=case.kind, classes=case.classes, groups=case.groups)
    others = {"ridge": judged(case, probe.loo_scores)}
    items = len(case)
    if case.kind == "classification":
        others["shrinkage LDA"] = judged(case, fit_lda_probe(table, case.targets, classes=case.classes, groups=case.groups).loo_scores)
    method = max(others, key=lambda name: others[name].value)
    return JointProbe(method, others[method], others, items if method == "ridge" else round(0.8 * items))


def curve_points(case: Case, table: np.ndarray, *, joint: JointProbe, seed: int) -> list[tuple[int, float, float]]:
    """Return the learning curve of the joint probe as (examples, figure, standard error), ascending.
    Each share of the examples is drawn a few times, stratified by class or by whole groups; the other examples evaluate. Shares with fewer
    than two examples per class on average are left out. `table`: (N, r) from `coordinates`."""
    draw, points = np.random.default_rng(seed), []
    for share, times in SHARES:
        if case.groups is None and share * len(case) < max(2 * case.classes, 6):
            continue
        sizes, held = [], []
        for _ in range(times):
            chosen = _drawn(case, share, draw=draw)
            if chosen.sum() >= 3 and (case.kind != "classification" or len(np.unique(case.targets[chosen])) > 1) and not chosen.all():
                rest = np.flatnonzero(~chosen)
                sizes.append(int(chosen.sum()))
                held.append(judged(case.taken(rest), _fitted_scores(case, table, chosen=np.flatnonzero(chosen), rest=rest, joint=joint)))
        if held:
            spread = float(np.var([part.value for part in held]) / len(held))
            error = float(np.sqrt(spread + np.mean([part.error**2 for part in held])))
            points.append((round(float(np.mean(sizes))), float(np.mean([part.value for part in held])), error))
    return [*points, (joint.items, joint.held.value, joint.held.error)]


def _drawn(case: Case, share: float, *, draw: np.random.Generator) -> np.ndarray:
    """Return which examples are in a random share, (N,) bool."""
    if case.groups is not None:
        order = draw.permutation(int(case.groups.max()) + 1)
        return np.isin(case.groups, order[: max(round(share * len(order)), 1)])
    rank = np.empty(len(case), np.int64)
    order = draw.permutation(len(case))
    if case.kind != "classification":
        rank[order] = np.arange(len(case))
        return np.asarray(rank < share * len(case))
    sizes = np.bincount(case.targets, minlength=case.classes)
    by_class = order[np.argsort(case.targets[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    rank[by_class] = np.arange(len(case)) - starts[case.targets[by_class]]
    return np.asarray(rank < np.maximum(np.round(share * sizes), 1)[case.targets])


def _fitted_scores(case: Case, table: np.ndarray, *, chosen: np.ndarray, rest: np.ndarray, joint: JointProbe) -> np.ndarray:
    """Return the predictions for the examples `rest` of the joint probe fitted to the examples `chosen`."""
    part = case.taken(chosen)
    if joint.method == "ridge":
        probe = fit_ridge(table[chosen], part.targets, kind=case.kind, classes=case.classes, groups=part.groups)
        return probe.scores(table[rest])
    names = [str(row) for row in range(case.classes)]
    weight, bias = fit_lda(statistics_of(table[chosen], part.targets, classes=names), balanced=False)
    return np.asarray(table[rest] @ weight.T + bias)


_POWERS = np.geomspace(0.1, 2.0, 24)
_DRAWS = 400


def _fit_curves(items: np.ndarray, values: np.ndarray, *, errors: np.ndarray) -> np.ndarray:
    """Fit a - b n^-c with a <= 1, b >= 0 and c from 0.1 to 2 by weighted least squares, to m learning curves at once.
    `items`: (k,) numbers of examples; `values`: (m, k) figures; `errors`: (k,) standard errors. Return (m, 3): a, b and c of each.
    Source: Cortes, Jackel, Solla, Vapnik & Denker, Learning Curves, NIPS 1993 (the power law)."""
    weights = 1 / np.square(np.maximum(errors, 1e-4))
    found, lowest = np.zeros((len(values), 3)), np.full(len(values), np.inf)
    for power in _POWERS:
        base = items**-power
        level, slope = _lines(base, values, weights=weights)
        loss = np.square(level[:, None] - slope[:, None] * base - values) @ weights
        better = loss < lowest
        found[better] = np.stack([level, slope, np.full(len(values), power)], axis=1)[better]
        lowest = np.minimum(loss, lowest)
    return found


def _lines(base: np.ndarray, values: np.ndarray, *, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best a <= 1 and b >= 0 of the fit a - b * base, (m,) each."""
    centre, middle = np.average(base, weights=weights), values @ weights / weights.sum()
    off = (base - centre) * weights
    slope = np.maximum(-(values - middle[:, None]) @ off / max(float(off @ (base - centre)), 1e-30), 0)
    level = middle + slope * centre
    ceiling = np.maximum((1 - values) @ (weights * base) / float((weights * base) @ base), 0)
    return np.minimum(level, 1.0), np.where(level > 1, ceiling, slope)


def expected_gain(points: Sequence[tuple[int, float, float]], now: int, *, later: int) -> tuple[float, float, float] | None:
    """Return the expected gain from `now` to `later` examples, with a 95 % interval (low, high); None for fewer than three points.
    The interval is a parametric bootstrap: the curve is fitted to 400 draws of the points with their errors.
    `points`: (examples, figure, standard error), ascending."""
    if len(points) < 3:
        return None
    items, values, errors = (np.array(column, np.float64) for column in zip(*points, strict=True))
    drawn = values + np.random.default_rng(0).standard_normal((_DRAWS, len(values))) * errors
    fits = _fit_curves(items, np.concatenate([values[None], drawn]), errors=errors)
    gains = fits[:, 1] * (now ** -fits[:, 2] - later ** -fits[:, 2])
    low, high = np.quantile(gains[1:], [0.025, 0.975])
    return float(gains[0]), float(min(low, gains[0])), float(max(high, gains[0]))


_AT_ONCE = 1024


def old_scores(network: Network, features: Tensor) -> np.ndarray | None:
    """Return the logits (N, S) of the classification head for its inputs, `features` (N, d); None if there is no such head."""
    head = network.head if network.heads else None
    if head is None or head.kind != "classification" or head.groups is not None or head.apart or len(head.weight) < 2:
        return None
    device = next(iter(network.state().values())).device
    network.mode_(False)
    with torch.no_grad():
        pieces = (features[start : start + _AT_ONCE].to(device) for start in range(0, len(features), _AT_ONCE))
        parts = [network.scores_of_features(piece)[network.head.task].float().cpu() for piece in pieces]
    return torch.cat(parts).numpy().astype(np.float64)


def shared_rows(head: Head, classes: tuple[str, ...]) -> np.ndarray:
    """Return, for each new class, the index of the old class of the same name, or -1, (C,)."""
    numbers = np.arange(1, len(head.weight) + 1, dtype=np.float32)[:, None]
    counted = replace(head, weight=numbers, bias=np.zeros(len(numbers), np.float32))
    return np.asarray(retargeted_rows(counted, classes)[0].weight[:, 0].astype(np.int64) - 1)


def mapped_scores(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the logits (N, C) of the new classes from the old classes of the same names. A class without one is never the highest.
    `scores`: (N, S) logits of the old head; `rows`: (C,) from `shared_rows`, at least one of them not -1."""
    found = scores[:, np.maximum(rows, 0)]
    found[:, rows < 0] = found[:, rows >= 0].min(axis=1, keepdims=True) - NEVER
    return np.asarray(found)


def relation_scores(scores: np.ndarray, targets: np.ndarray, *, classes: int, groups: np.ndarray | None) -> np.ndarray:
    """Return the probability (N, C) of each new class t from the old head: the sum over old classes s of p(s | x) P(t | s).
    P(t | s) is estimated without the example (or the group) that is predicted.
    `scores`: (N, S) logits of the old head; `targets`: (N,) class indices; `groups`: (N,) group numbers from 0, or None.
    Source: Nguyen, Hassner, Seeger & Archambeau, ICML 2020, section 3 (the empirical predictor of LEEP); You, Kou, Long & Wang, Co-Tuning,
    NeurIPS 2020, section 4.1 (the relation of classes)."""
    chances = softmax(scores, axis=1)
    wanted = np.eye(classes)[targets]
    together, every = wanted.T @ chances, np.maximum(chances.sum(axis=0), 1e-12)
    if groups is None:
        relative = chances / np.maximum(every - chances, 1e-12)
        own = (relative * chances).sum(axis=1)
        found = relative @ together.T
        found[np.arange(len(targets)), targets] -= own
        return np.asarray(found)
    found = np.empty((len(targets), classes))
    for group in range(int(groups.max()) + 1):
        inside = groups == group
        rest = together - wanted[inside].T @ chances[inside]
        found[inside] = chances[inside] @ (rest / np.maximum(rest.sum(axis=0), 1e-12)).T
    return found
