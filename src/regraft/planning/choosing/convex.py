"""The strategy "head" without an epoch loop: heads solved by a convex solver on their features."""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...freezing import frozen_up_to_head
from ...probes import LinearProbe, fit_logistic, fit_ridge, fit_temperature
from ...training import Feed, HeadFeed
from ...words import counted
from ..plan import THROUGH_LAYERS
from ..setup import ClosedFormHead, Log, Outcome, Setup, Source
from ..starting import solved_heads_of, start_from_
from .probing import with_rows
from .solving import WORDS, drawn, gain_of, groups_of, held_out_loss, item_errors, logistic_loss, named_probe, through_layer

FOLDED = 2000  # Number of examples up to which cross-validation on all of them chooses the penalty; above, the validation set does
MOST_NUMBERS = 2**28  # Largest table of features for the solver, 1 GiB; above, the loop runs


def loop_reason(setup: Setup) -> str:
    """Return the parts of a `setup` that need an epoch loop, such as "dropout=0.2"; empty if the heads can be solved."""
    changed = list(setup.plan.of_the_loop())
    changed += ["a network that draws at random"] if setup.network.body.draws else []
    changed += ["sample_weight"] if setup.items.data.weights is not None else []
    changed += ["a further loss"] if setup.additions.terms or setup.additions.share != 1.0 else []
    wide = len(setup.items) * setup.network.head.features
    changed += [f"{counted(len(setup.items), 'example')} of {setup.network.head.features:,} features"] if wide > MOST_NUMBERS else []
    return ", ".join(changed)


def solved_heads(  # over the limit: what an outcome is made of
    setup: Setup, log: Log, *, feed: Feed, frozen: frozenset[str], source: Source, keep: bool = False
) -> Outcome | None:
    """Solve the heads on their features, with the penalty that held-out examples choose, fitted to training and validation set.
    Classes use multinomial logistic regression, labels one logistic regression each, and regression uses ridge with its exact leave-one-out
    error, unless the plan names another probe. If class weights were carried over, the penalty is also tried on the distance from them, and
    they may also stay unchanged. The lowest held-out loss wins. With `keep` they stay unchanged without a comparison.
    The heads of the setup's network change in place. `source` holds their features (N, d). The history has one entry per penalty. Returns
    None if a head is not a plain linear layer; then the loop must train it."""
    features = source.features
    if features is None:
        return None
    source = replace(source, probes=solved_heads_of(setup, features))
    if setup.plan.probe in THROUGH_LAYERS:
        return _through_layer(setup, log, features=features, source=source)
    rows_before = {task: setup.network.rows(setup.network.heads[task].layer) for task in setup.tasks.values()}
    solved, history = dict[str, ClosedFormHead](), list[dict[str, Any]]()
    for name, task in setup.open_tasks.items():
        began = time.perf_counter()
        with log.clock.during("solve"):
            found = _kept(setup, name, rows=setup.known(name, setup.parts.learned_from), features=features) if keep else None
            found = found or _solved(setup, name, features=features)
        if found is None or not start_from_(setup, task, solved=ClosedFormHead(found.probe, found.rows), feed=feed, features=features):
            for layer_task, (weight, bias) in rows_before.items():
                setup.network.set_rows_(setup.network.heads[layer_task].layer, weight, bias=bias)
            return None
        solved[name] = ClosedFormHead(found.probe, found.rows)
        history += found.entries(name, before=len(history), seconds=time.perf_counter() - began)
        log.notes.append(found.words(name, several=len(setup.tasks) > 1))
    return Outcome(setup.network, feed, frozen, history, source, solved=solved)


@dataclass(frozen=True, eq=False)
class _SolvedHead:
    """Solved head of one task."""

    probe: LinearProbe  # the head; its held-out logits are those of `rows`
    rows: np.ndarray  # (n,) held-out examples on which it was evaluated
    fitted: int
    method: str

    def entries(self, name: str, *, before: int, seconds: float) -> list[dict[str, Any]]:
        """Return a history entry of the task `name` for each penalty; `before` is the number of earlier entries."""
        each = round(seconds / max(len(self.probe.path), 1), 3)
        return [
            {"stage": "head", "task": name, "epoch": before + number, "penalty": penalty, "validation_loss": loss, "seconds": each}
            for number, (penalty, loss) in enumerate(self.probe.path, start=1)
        ]

    def words(self, name: str, *, several: bool) -> str:
        """Return a sentence for the report."""
        head = f"The head of {name!r}" if several else "The head"
        if self.method == _KEPT:
            return f"{head} keeps its class weights: no solved head has a lower loss on {counted(len(self.rows), 'held-out example')}."
        by = {"leave-one-out": "leaving each example out", "leave-group-out": "leaving each group out", "validation set": "validation set"}
        judged = by.get(self.probe.held_out, self.probe.held_out)
        tried = f"the penalty {self.probe.penalty:.3g} of {len(self.probe.path)} by {judged}, " if self.probe.path else ""
        return f"{head} was solved by {self.method}: {tried}then fitted to {counted(self.fitted, 'example')}."


_KEPT = "the class weights that were carried over"
_FROM_KEPT = "ridge regression on what the class weights that were carried over leave over"


def _solved(setup: Setup, name: str, *, features: Tensor) -> _SolvedHead | None:
    """Return the solved head of one task; None if there are too few examples or classes, or the head is derived from another."""
    data, rows = setup.data_of(name), setup.known(name, setup.parts.learned_from)
    few = len(rows) < 3 or (data.task == "classification" and len(np.unique(data.targets[rows])) < 2)
    if few or setup.network.heads[setup.tasks[name]].groups is not None:
        return None
    table = features[rows].numpy()
    if setup.plan.probe not in ("auto", "logistic") and data.task != "regression":
        return _SolvedHead(named_probe(setup, name, rows=rows, table=table), rows, len(rows), WORDS[setup.plan.probe])
    if data.task == "regression":
        return _numbers(setup, name, rows=rows, features=features)
    judges = None if len(rows) <= FOLDED or not len(setup.parts.validation) else np.flatnonzero(np.isin(rows, setup.parts.validation))
    judges = None if judges is None or not len(judges) else judges
    judged = rows if judges is None else rows[judges]
    every = [_logistic(setup, name, rows=rows, table=table, judges=judges, base=base) for base in _bases(setup, name)]
    found = [_SolvedHead(probe, judged, len(rows), WORDS["logistic"]) for probe in every]
    kept = _kept(setup, name, rows=judged, features=features)
    found += [] if kept is None else [kept]
    return min(found, key=lambda one: held_out_loss(setup, name, probe=one.probe, rows=one.rows))


def _bases(setup: Setup, name: str) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Return the centres of the penalty: zero and, if some were carried over, the class weights of the present head."""
    task = setup.tasks[name]
    weight, bias = setup.network.rows(setup.network.heads[task].layer)
    carried = np.setdiff1d(np.arange(len(weight)), setup.new_rows.get(task, np.zeros(0, np.int64)))
    return [None, (weight.astype(np.float64), bias.astype(np.float64))] if len(carried) and weight[carried].any() else [None]


def _logistic(  # over the limit: what a head is solved from
    setup: Setup, name: str, *, rows: np.ndarray, table: np.ndarray, judges: np.ndarray | None, base: tuple[np.ndarray, np.ndarray] | None
) -> LinearProbe:
    data, groups = setup.data_of(name), groups_of(setup, name, rows=rows) if judges is None else None
    loss = logistic_loss(setup, name)
    if base is not None:
        loss = replace(loss, offset=table @ base[0].T + base[1])
    probe = fit_logistic(table, data.targets[rows], classes=len(data.classes), groups=groups, loss=loss, judges=judges)
    if base is None:
        return probe
    factor = probe.temperature
    return replace(probe, weight=probe.weight + factor * base[0], bias=probe.bias + factor * base[1])


def _kept(setup: Setup, name: str, *, rows: np.ndarray, features: Tensor) -> _SolvedHead | None:
    """Return the present head, of classes with a fitted temperature, if all its class weights were carried over."""
    task, data = setup.tasks[name], setup.data_of(name)
    if len(setup.new_rows.get(task, np.zeros(1))):
        return None
    weight, bias = (part.astype(np.float64) for part in setup.network.rows(setup.network.heads[task].layer))
    scores = features[rows].numpy() @ weight.T + bias
    truth = np.eye(len(bias))[data.targets[rows]] if data.task == "classification" else data.targets[rows]
    factor = 1.0 if data.task == "regression" else fit_temperature(scores, truth, kind=data.task)
    return _SolvedHead(LinearProbe(factor * weight, factor * bias, 0.0, factor * scores, factor), rows, 0, _KEPT)


def _numbers(setup: Setup, name: str, *, rows: np.ndarray, features: Tensor) -> _SolvedHead:
    """Return the head of numbers with the lowest held-out error, by ridge regression on the features as they are or standardised, from zero
    or from the class weights that were carried over. Without new outputs, these weights stay as they are where that error is not lower than
    theirs by more than the standard error of the difference.
    Source: regularised least squares on residuals of the source predictor (Kuzborskij & Orabona, ICML 2013)."""
    groups, found, table = groups_of(setup, name, rows=rows), list[_SolvedHead](), features[rows].numpy()
    targets = setup.data_of(name).targets[rows].reshape(len(rows), -1)
    for base in _bases(setup, name):
        given = np.zeros(targets.shape) if base is None else table @ base[0].T + base[1]
        for standardise in (True, False):
            probe: LinearProbe = fit_ridge(table, targets - given, kind="regression", groups=groups, standardise=standardise)
            if base is not None:
                probe = replace(probe, weight=probe.weight + base[0], bias=probe.bias + base[1], loo_scores=probe.loo_scores + given)
            found.append(_SolvedHead(probe, rows, len(rows), "ridge regression" if base is None else _FROM_KEPT))
    best = min(found, key=lambda one: held_out_loss(setup, name, probe=one.probe, rows=rows))
    kept = _kept(setup, name, rows=rows, features=features)
    if kept is None:
        return best
    some = drawn(np.arange(len(rows)), seed=setup.plan.seed)
    made, before = (item_errors(setup, one.probe.loo_scores[some], rows=rows[some], task=name) for one in (best, kept))
    gain, error = gain_of(made, before, unit=0.0)
    return best if gain > error else kept


def _through_layer(setup: Setup, log: Log, *, features: Tensor, source: Source) -> Outcome:
    """Put an untrained layer before the head, and solve the head on its outputs."""
    (name, task), *_ = setup.tasks.items()
    rows, method = drawn(setup.known(name, setup.parts.learned_from), features.shape[1], seed=setup.plan.seed), WORDS[setup.plan.probe]
    with log.clock.during("solve"):
        made = through_layer(setup, name, rows=rows, features=features[rows].numpy(), method=method)
        layer, probe = made.layer, made.head
        hidden = torch.from_numpy(layer.apply(features.numpy()))
    lost = [other for other in setup.network.heads if other != task]
    if lost:
        log.notes.append(f"The heads {', '.join(map(repr, lost))} read other features than the new layer gives, and were left out.")
    network = with_rows(setup.network, setup.network.heads[task], probe=probe, layer=layer)
    network.account, network.preprocessing = setup.network.account, setup.network.preprocessing
    network.body.move_(setup.device)
    log.notes.append(f"The head is {method}: it reads {len(layer.bias):,} features that a further layer makes of {features.shape[1]:,}.")
    test_feed = None
    if setup.test is not None and source.judging is not None:
        test_feed = HeadFeed(network, torch.from_numpy(layer.apply(source.judging.numpy())), setup.device)
    return Outcome(
        network,
        HeadFeed(network, hidden, setup.device),
        frozen_up_to_head(network),
        source=source,
        head_features=hidden,
        test_feed=test_feed,
        solved={name: ClosedFormHead(probe, rows)},
    )
