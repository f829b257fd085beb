"""Closed-form heads on features from several depths, and the network that has one of them as its head."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from ...errors import NetworkError, SettingError, near_names
from ...networks.network import Head, Network, TapSlice
from ...networks.parts.taps import INPUT, VECTOR
from ...probes import LinearProbe, fit_ridge, fit_temperature
from ...probes.common import HiddenLayer, centred
from ...words import counted
from ..preparing import output_names
from ..setup import Setup
from ..tap_features import TapFeatures
from .solving import (
    OLD_AND_RIDGE,
    OLD_ROWS,
    WORDS,
    ProbeHeads,
    by_discriminants,
    columns_of,
    drawn,
    gain_of,
    groups_of,
    judged_probe,
    solved_probe,
)

JOINT = "all depths"
WIDEST_ALONE = 5000
"""Number of features up to which discriminant analysis can be chosen by name: it inverts a matrix of that size for each fold."""
_PLAIN = ("mean", "std", "token", VECTOR)
_PLAIN_NAME = f"{JOINT}, means and deviations"


def _by_ridge(setup: Setup, tapped: TapFeatures, *, rows: np.ndarray) -> list[ProbeHeads]:
    """Return ridge regression on each depth alone and on sets of all depths together."""
    blocks = list(dict.fromkeys(part.block for part in tapped.slices))
    sets = {block: tuple(part for part in tapped.slices if part.block == block) for block in blocks}
    if len(blocks) > 1:
        sets[JOINT] = tapped.slices
        sets[f"{JOINT}, without the input"] = tuple(part for part in tapped.slices if part.block != INPUT)
        sets[_PLAIN_NAME] = tuple(part for part in tapped.slices if part.pool in _PLAIN)
    made: list[ProbeHeads] = []
    for name, slices in sets.items():
        if slices and slices not in [other.slices for other in made]:
            made.append(solved_probe(setup, tapped, name, slices=slices, rows=rows))
    return made


def probes_of(setup: Setup, tapped: TapFeatures, *, rows: np.ndarray) -> list[ProbeHeads]:
    """Return a probe for each depth and for sets of all depths, by ridge regression or discriminant analysis, whichever is better.
    For classification, their weighted mean is appended."""
    made = _by_ridge(setup, tapped, rows=rows)
    promising = [best_of(part) for part in ([one for one in made if one.joint], [one for one in made if not one.joint]) if part]
    promising += [one for one in made if one.name == _PLAIN_NAME and one not in promising]
    further = {one.name: by_discriminants(setup, tapped, probed=one, rows=rows) for one in promising}
    old = _old_rows(setup, tapped, rows=rows)
    every = [*made, *(other for found in further.values() for other in found), *old]
    found = [*(best_of([one, *further.get(one.name, ())]) for one in made), *stacked(setup, tapped, members=every)]
    return [*found, *old] if setup.items.data.task == "regression" else found


def best_of(found: Sequence[ProbeHeads]) -> ProbeHeads:
    """Return the probe with the lowest held-out loss among those whose error is within half a standard error of the lowest.
    A probe on several depths wins unless one on a single depth is better by a whole standard error: among many depths, one may look best by
    chance. The weighted mean wins unless another is better by a whole standard error or by one example. The old head of a regression wins
    unless the best of the others is better by a standard error of their difference: its errors are of numbers that chose nothing, while the
    leave-one-out errors of the others have chosen the penalty.
    Source: the one-standard-error rule (Breiman et al., Classification and Regression Trees, 1984, section 3.4.3)."""
    old = next((one for one in found if one.of_old), None)
    if old is not None:
        others = [one for one in found if one is not old]
        return best_of(others) if others and _is_better(best_of(others), old) else old
    lowest = min(found, key=lambda one: (one.error, one.loss))
    weighed = next((one for one in found if one.members), None)
    if weighed is not None and weighed.error <= lowest.error + max(lowest.standard_error, weighed.standard_error, 1 / len(weighed.errors)):
        return weighed
    joint = [one for one in found if one.joint and one.error <= lowest.error + lowest.standard_error]
    best = min((one.error for one in joint), default=lowest.error)
    return min((one for one in joint or found if one.error <= best + 0.5 * lowest.standard_error), key=lambda one: one.loss)


def _is_better(one: ProbeHeads, other: ProbeHeads) -> bool:
    """Return whether the errors of a probe are lower by more than the standard error of the difference."""
    if len(one.errors) == len(other.errors):
        gain, error = gain_of(one.errors, other.errors, unit=0.0)
        return gain > error
    return one.error + max(one.standard_error, other.standard_error) < other.error  # they were judged on different draws


def probe_at(setup: Setup, tapped: TapFeatures, *, rows: np.ndarray) -> ProbeHeads:
    """Return the probe that the plan names: on its block alone, or the best one on all depths together."""
    asked, method = setup.plan.frozen, setup.plan.probe
    if asked is None and method == "auto":
        found = probes_of(setup, tapped, rows=rows)
        return best_of([one for one in found if one.joint or one.of_old] or found)
    if asked is None:
        found = _by_ridge(setup, tapped, rows=rows)
        narrow = [one for one in found if method != "lda" or len(one.columns) <= WIDEST_ALONE]
        narrow = narrow or [min(found, key=lambda one: len(one.columns))]
        plain = best_of([one for one in narrow if one.joint] or narrow)
    else:
        block = block_of(setup.network, asked)
        slices = tuple(part for part in tapped.slices if part.block == block)
        if not slices:
            known = list(dict.fromkeys(part.block for part in tapped.slices))
            raise SettingError(f"frozen={asked!r}: the block {block!r} gives no numbers that a probe can read{near_names(block, known)}")
        plain = solved_probe(setup, tapped, block, slices=slices, rows=rows)
    if method == "ridge":
        return plain
    if method == "auto":
        old = _old_rows(setup, tapped, rows=rows) if setup.items.data.task == "regression" else []
        further = by_discriminants(setup, tapped, probed=plain, rows=rows)
        return best_of([plain, *further, *(one for one in old if one.name == plain.name)])
    return solved_probe(setup, tapped, plain.name, slices=plain.slices, rows=rows, method=WORDS[method])


def block_of(network: Network, asked: int | str) -> str:
    """Return the name of the block that `asked` names or numbers, or "input"; `SettingError` if there is none."""
    names = [block.name for block in network.blocks]
    if isinstance(asked, int):
        if not 1 <= asked <= len(names):
            raise SettingError(
                f"frozen={asked}: this network has {counted(len(names), 'block')}; a probe reads one of 1 to {len(names)}, or a name."
            )
        return names[asked - 1]
    if asked not in [*names, INPUT]:
        raise SettingError(f"frozen={asked!r}: the network has no block of that name{near_names(asked, [INPUT, *names])}")
    return asked


def refitted(setup: Setup, tapped: TapFeatures, *, probed: ProbeHeads, rows: np.ndarray) -> ProbeHeads:
    """Return the same kind of probe on the same features, fitted to other examples."""
    if probed.members:
        members = [refitted(setup, tapped, probed=one, rows=rows) for one in probed.members]
        return stacked(setup, tapped, members=members, name=probed.name)[0]
    if probed.of_old:
        return _old_rows(setup, tapped, rows=rows)[0]
    if probed.method == WORDS["lda"]:
        return by_discriminants(setup, tapped, probed=probed, rows=rows)[0]
    return solved_probe(setup, tapped, probed.name, slices=probed.slices, rows=rows)


def probed_network(setup: Setup, probed: ProbeHeads) -> Network:
    """Return the setup's network with the heads `probed`; further tasks are branches."""
    network = setup.network.tapped(probed.taps)
    found = [(part.block, part.pool, part.stop - part.start) for part in network.body.tap_slices]
    wanted = [(part.block, part.pool, part.stop - part.start) for part in probed.slices]
    if found != wanted:
        raise NetworkError(f"The blocks of the network give {found[:3]} …; expected {wanted[:3]} …. Read it anew, without its cache.")
    order = list(setup.network.heads)
    for name, task in sorted(setup.tasks.items(), key=lambda pair: order.index(pair[1])):
        probe, head = probed.probes[name], setup.network.heads[task]
        network = with_rows(network, head, probe=probe, layer=probed.layer)
    network.preprocessing, network.account = setup.network.preprocessing, setup.network.account
    return network


def with_rows(network: Network, head: Head, *, probe: LinearProbe, layer: HiddenLayer | None) -> Network:
    """Return a network with a solved head, behind a further layer if one is given."""
    weight, bias = probe.weight.astype(np.float32), probe.bias.astype(np.float32)
    solved = replace(head, layer="", parts=(), groups=None, thresholds=None, weight=weight, bias=bias)
    if layer is None:
        return network.with_head(solved)
    below = network.with_head(replace(solved, classes=None, weight=layer.weight, bias=layer.bias))
    return below.with_stack(solved, layer.activation)


STACKED = "all depths, weighed"
SHRINK = 10.0
"""Strength of the penalty towards `_prior`, in nats for all examples together: few examples cannot determine a dozen weights."""
LEAST = 0.01  # Share of the total weight below which a head is left out
MOST_WEIGHED = 4000  # Largest number of examples for fitting the weights; more change only their third digit


def stacked(setup: Setup, tapped: TapFeatures, *, members: Sequence[ProbeHeads], name: str = STACKED) -> list[ProbeHeads]:
    """Return the weighted mean of some heads, with weights fitted to their held-out logits.
    Source: stacking (Wolpert, Neural Networks 5, 1992) with non-negative weights (Breiman, Machine Learning 24, 1996).
    Deviations: log loss instead of squared error, and a penalty towards `_prior`."""
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


def _prior(members: Sequence[ProbeHeads]) -> np.ndarray:
    """Return the prior weights (M,) of some heads: one half for the old head, the other half in equal parts; all equal without an old head.
    No example has chosen anything about the old head. The held-out logits of the others also chose their penalties and methods, so that
    with 30 examples their errors are too low."""
    old = np.array([one.of_old for one in members])
    shares = np.where(old, 1.0, 1.0 / max(np.sum(~old), 1))
    return np.asarray(shares / shares.sum())


def _stacking_weights(scores: np.ndarray, targets: np.ndarray, *, prior: np.ndarray) -> np.ndarray:
    """Return the non-negative weights (M,) that minimise the log loss of the weighted sum of `scores`, with a penalty towards the `prior`.
    `scores` (M, n, C) are the held-out logits of M heads; `targets` (n,) are class indices."""
    count = len(targets)
    rows, truth = np.arange(count), np.zeros(scores.shape[1:])
    truth[rows, targets] = 1.0

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(np.tensordot(weights, scores, 1), axis=1)
        away = weights - prior
        slope = np.tensordot(scores, np.exp(logs) - truth, 2)
        return float(SHRINK * away @ away - logs[rows, targets].sum()) / count, (slope + 2 * SHRINK * away) / count

    found = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(prior))
    return np.asarray(found.x) if found.x.sum() > 0 else prior


def _old_rows(setup: Setup, tapped: TapFeatures, *, rows: np.ndarray) -> list[ProbeHeads]:
    """Return the old head as a probe, if it has all classes and its features were read; else an empty list.
    It is calibrated on the examples `rows` (n,), which it has not seen; for numbers, ridge regression on what it leaves over is added where
    that lowers the leave-one-out error by more than its standard error.
    Source: regularised least squares on residuals of the source predictor (Kuzborskij & Orabona, ICML 2013)."""
    data, task = setup.items.data, setup.tasks[setup.items.data.name]
    head, read = setup.network.heads[task], _read_by_head(tapped)
    if len(setup.tasks) > 1 or not setup.keeps_classes or read is None:
        return []
    known = setup.known(data.name, rows)
    numbers = data.task == "regression"
    if head.groups is not None or head.weight.shape != (len(output_names(data)), read.stop - read.start) or (numbers and len(known) < 3):
        return []
    known = drawn(known, read.stop - read.start, seed=setup.plan.seed) if numbers else known
    features = tapped.features[:, read.start : read.stop][known].numpy()
    scores = (features @ head.weight.T + head.bias).astype(np.float64)
    factor = 1.0 if numbers else fit_temperature(scores, np.eye(len(data.classes))[data.targets[known]])
    probe = LinearProbe(factor * head.weight, factor * head.bias, 0.0, factor * scores, factor)

    def judged(method: str, probe: LinearProbe) -> ProbeHeads:
        return judged_probe(setup, read.block, slices=(read,), method=method, probes={data.name: probe}, rows={data.name: known})

    old = judged(OLD_ROWS, probe)
    if not numbers:
        return [old]
    groups, left = groups_of(setup, data.name, rows=known), data.targets[known].reshape(scores.shape) - scores
    rest: LinearProbe = fit_ridge(features, left, kind=data.task, groups=groups)
    own = {"weight": head.weight + rest.weight, "bias": head.bias + rest.bias, "loo_scores": scores + rest.loo_scores}
    corrected = judged(OLD_AND_RIDGE, replace(rest, **own))
    return [corrected if _is_better(corrected, old) else old]


def _read_by_head(tapped: TapFeatures) -> TapSlice | None:
    """Return the slice of the features that the head reads, found by comparing values."""
    wanted = tapped.head_features
    if wanted is None:
        return None
    few = wanted[:64]
    scale = float(few.abs().max()) + 1e-12
    alike = (part for part in tapped.slices if part.stop - part.start == wanted.shape[1])
    return next((part for part in alike if float((tapped.features[:64, part.start : part.stop] - few).abs().max()) < 1e-4 * scale), None)


def _weights_of(setup: Setup, task: str, *, members: Sequence[ProbeHeads]) -> np.ndarray:
    rows = members[0].rows[task]
    drawn = np.random.default_rng(setup.plan.seed).permutation(len(rows))[:MOST_WEIGHED]
    scores = np.stack([one.probes[task].loo_scores[drawn] for one in members]).astype(np.float64)
    return _stacking_weights(scores, setup.data_of(task).targets[rows[drawn]], prior=_prior(members))


def _joined(setup: Setup, task: str, *, members: Sequence[ProbeHeads], weights: np.ndarray, slices: Sequence[TapSlice]) -> LinearProbe:
    """Return the weighted sum of the heads of one task on the features of all of them, calibrated."""
    columns, first = columns_of(slices), members[0].probes[task]
    weight, bias, scores = np.zeros((len(first.bias), len(columns))), np.zeros(len(first.bias)), np.zeros(first.loo_scores.shape)
    for share, one in zip(weights, members, strict=True):
        probe = one.probes[task]
        weight[:, np.searchsorted(columns, one.columns)] += share * probe.weight
        bias += share * probe.bias
        scores += share * probe.loo_scores
    truth = np.eye(len(bias))[setup.data_of(task).targets[members[0].rows[task]]]
    factor = fit_temperature(scores, truth)
    weight, bias = centred(weight, bias)  # old class weights may share an offset that does not affect a softmax
    held_out = members[0].probes[task].held_out
    return LinearProbe(factor * weight, factor * bias, 0.0, factor * scores, factor, held_out)
