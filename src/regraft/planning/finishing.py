"""Work after training: calibration, label thresholds, class statistics and the merged history."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError
from ..files.room import taken
from ..networks.network import Network
from ..probes import ClassStatistics, UnknownJudge, choose_unknown, fit_temperature, held_out_factors, log_loss, statistics_of
from ..tasks import fit_thresholds
from ..training import all_logits
from ..words import counted
from .passes import features_of
from .setup import Log, Outcome, Setup

AT_ONCE = 2**16  # Number of examples whose features are in memory at once
FEWEST = 20  # Smallest size of the validation set for fitting a temperature
WIDEST = 2048
"""Largest number of features of which all enter class statistics that need their own pass; their scatter matrix is of the squared size."""
FEWEST_OF_CLASS = 10  # Smallest number of examples of each class in the class statistics, if the class has so many
WIDEST_HIDDEN, THINNED = 1024, 512
"""Features up to which all are used for out-of-distribution detection, and the number to which wider ones are thinned evenly.

Detection is tuned by hiding classes in turn, and each time two matrices of that size are factorised. On pictures of digits, 512 of 1,522
features did as well as all.
"""
MOST_HIDDEN = 2000  # Largest number of examples for hiding classes in turn; their features are stored if the score compares with them
WIDEST_AT_HAND = 4096  # As `WIDEST`, if the features are in memory: 128 MiB of scatter
MOST_COMPARED = 5000  # Smallest number of examples, if there are more, whose logits are compared with held-out ones
SHARE = 0.34  # Share of the training time that the pass for class statistics may take, if that is more than a second


def leave_ready_(network: Network) -> None:
    """Reset a `network` for the user: nothing frozen, held or marked as fresh, inference mode, heads read from its layers."""
    network.body.untrained = frozenset()
    network.body.hold_(None)
    network.freeze_(frozenset())
    network.mode_(False)
    network.body.refresh_heads_()


def calibrate_(setup: Setup, log: Log, *, outcome: Outcome) -> None:
    """Calibrate the probabilities of trained heads: divide the class weights of each head by one temperature, fitted on the validation set.
    The predicted class does not change. Closed-form heads are already calibrated on their leave-one-out logits. Heads that training did not
    change and heads whose log loss does not improve are left alone.
    Source: Guo, Pleiss, Sun & Weinberger, ICML 2017, section 4.2."""
    validation = _held_out_rows(setup, outcome)
    asked = [name for name, task in setup.tasks.items() if name not in outcome.solved and _is_trained(setup, outcome, task=task)]
    asked = [name for name in asked if setup.data_of(name).task == "classification" and len(setup.known(name, validation)) >= FEWEST]
    scores = _held_out(outcome, validation) if asked else {}
    for name in asked:
        data, known = setup.data_of(name), setup.known(name, validation)
        mine, targets = scores[setup.tasks[name]][data.known[validation]].astype(np.float64), data.targets[known]
        factor = fit_temperature(mine, np.eye(mine.shape[1])[targets])
        before, after = log_loss(mine, targets), log_loss(factor * mine, targets)
        if after >= before:
            continue
        done = _scaled_(outcome, task=setup.tasks[name], factor=factor, rows=validation[:64])
        scores[setup.tasks[name]][:] *= factor if done else 1  # stored logits stay equal to those of the head
        where = "of the validation set" if np.isin(known, setup.parts.validation).all() else "to learn from, each left out in turn"
        gain = f"on the {counted(len(known), 'example')} {where}, log loss {before:.3g} becomes {after:.3g}"
        log.notes.append(
            f"Probabilities of {name!r}: the class weights were divided by a temperature of {1 / factor:.3g}; {gain}."
            if done
            else f"Probabilities of {name!r} were left: its class weights cannot be set. With a temperature of {1 / factor:.3g}, {gain}."
        )


def _held_out_rows(setup: Setup, outcome: Outcome) -> np.ndarray:
    """Return the examples that the network had not learned from before any training on all examples."""
    return setup.parts.validation if outcome.held_out is None else outcome.held_out[1]


def _held_out(outcome: Outcome, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the logits by task of these examples, from a network that had not learned from them."""
    return all_logits(outcome.network, outcome.feed, indices=rows) if outcome.held_out is None else outcome.held_out[0]


def _is_trained(setup: Setup, outcome: Outcome, *, task: str) -> bool:
    """Tell whether training changed the class weights of a head or, for a tuned probe, the features that it reads."""
    head, tuned = outcome.network.heads[task], "probe" in (setup.plan.base, outcome.chosen.get("base"))
    if not outcome.history or head.groups is not None:
        return False
    same = all(np.array_equal(now, before) for now, before in zip(outcome.network.rows(head.layer), (head.weight, head.bias), strict=True))
    return not same or (tuned and not _same_features(setup, outcome))


def _scaled_(outcome: Outcome, *, task: str, factor: float, rows: np.ndarray) -> bool:
    """Multiply the class weights of a head; return False, without a change, if the logits do not follow (cosine head)."""
    network, feed, layer = outcome.network, outcome.feed, outcome.network.heads[task].layer
    weight, bias = network.rows(layer)
    wanted = factor * all_logits(network, feed, indices=rows)[task]
    if not network.set_rows_(layer, factor * weight, bias=factor * bias):
        return False
    made = all_logits(network, feed, indices=rows)[task]
    if np.allclose(made, wanted, rtol=1e-2, atol=1e-2 * float(np.abs(wanted).max())):
        return True
    network.set_rows_(layer, weight, bias=bias)
    return False


def fit_thresholds_(setup: Setup, outcome: Outcome) -> None:
    """Fit the thresholds of multi-label heads on the validation set, or on the probe's leave-one-out logits if there is none."""
    asked = {name: task for name, task in setup.tasks.items() if setup.data_of(name).task == "multi-label"}
    validation, made = _held_out_rows(setup, outcome), {}
    scores = _held_out(outcome, validation) if set(asked) - set(outcome.solved) and len(validation) else {}
    for name, task in asked.items():
        data, known = setup.data_of(name), setup.known(name, validation)
        if len(known) and name not in outcome.solved:
            made[task] = fit_thresholds(scores[task][data.known[validation]], data.targets[known])
        elif name in outcome.solved:
            made[task] = outcome.solved[name].thresholds(data.targets)
        elif name in outcome.source.probes:
            made[task] = outcome.source.probes[name].thresholds(data.targets)
    for task, limits in made.items():
        outcome.network.heads[task] = replace(outcome.network.heads[task], thresholds=tuple(map(float, limits)))


def keep_statistics_(setup: Setup, log: Log, *, outcome: Outcome) -> None:
    """Store the class statistics of the first head with the network, from the features of the training and validation set.
    If the backbone was trained, one pass of the feed computes the features, of fewer examples if all would take too long. `regraft.extend`
    needs the statistics: without them it knows only the class weights of the old classes."""
    data, network, same = setup.items.data, outcome.network, _same_features(setup, outcome)
    if setup.tasks[data.name] != network.head.task:
        network.statistics = network.statistics if same else None  # they belong to a head that was not trained
        network.unknown = network.unknown if same else None
        return
    network.statistics = network.unknown = None
    if data.task != "classification" or not setup.plan.statistics:
        return
    rows = setup.known(data.name, setup.parts.learned_from)
    with log.clock.during("statistics"):
        at_hand = outcome.head_features if outcome.head_features is not None else outcome.source.features if same else None
        if at_hand is not None:
            features, at, most = at_hand, rows, WIDEST_AT_HAND
        else:
            features, rows = _features(setup, log, outcome=outcome, rows=rows)
            at, most = np.arange(len(rows)), WIDEST
        every = 1 if features.shape[1] <= WIDEST_HIDDEN else -(-features.shape[1] // THINNED)
        table = _Table(features, at, data.targets[rows], tuple(data.classes))
        network.statistics = _statistics(setup, outcome, table=table, most=most).to_arrays()
        network.unknown = _unknown_rule(setup, log, table=table, rows=rows, every=every)


@dataclass(frozen=True, eq=False)
class _Table:
    """Rows `at` (n,) of `features` (N, d), which may be in a file, and their `targets` (n,)."""

    features: Tensor
    at: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...]

    def of(self, chosen: np.ndarray) -> np.ndarray:
        return taken(self.features.numpy(), self.at[chosen])

    def statistics(self, read: Callable[[np.ndarray], np.ndarray]) -> ClassStatistics:
        """Return the class statistics of `read(features)`, computed block by block."""
        blocks = np.array_split(np.arange(len(self.at)), -(-len(self.at) // AT_ONCE) or 1)
        parts = (statistics_of(read(self.of(block)), self.targets[block], classes=self.classes) for block in blocks)
        return reduce(ClassStatistics.joined, parts)


def _unknown_rule(setup: Setup, log: Log, *, table: _Table, rows: np.ndarray, every: int) -> UnknownJudge | None:
    """Return a rule for out-of-distribution examples, tuned by hiding classes in turn; None, with a note, if that is impossible."""
    data, chosen = setup.items.data, np.arange(len(rows))
    statistics = table.statistics(lambda features: features[:, ::every])
    if (statistics.counts > 1).sum() < 3:
        log.notes.append(
            "No rule for unknown examples: it is learned by hiding classes in turn, which takes three classes of two examples or more."
        )
        return None
    if len(rows) > MOST_HIDDEN:
        chosen = np.sort(np.random.default_rng(setup.plan.seed).choice(len(rows), MOST_HIDDEN, replace=False))
    features, rows = table.of(chosen)[:, ::every], rows[chosen]
    groups = None if data.groups is None else data.groups[rows]
    try:
        choice = choose_unknown(features, data.targets[rows], groups=groups, false_alarm=setup.plan.false_alarm, seed=setup.plan.seed)
    except DataError as problem:
        log.notes.append(f"No rule for unknown examples: {problem}")
        return None
    log.notes.append(choice.described())
    return UnknownJudge(choice, statistics, every=every, reference=features.astype(np.float32))


def _same_features(setup: Setup, outcome: Outcome) -> bool:
    """Tell whether training left everything below the heads unchanged, including moving averages."""
    names = (name for name, tensor in outcome.network.state().items() if tensor.is_floating_point())
    trained = {name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0] for name in names}
    if outcome.head_features is not None:
        return False
    return trained - outcome.frozen <= set(outcome.network.head_layers) and setup.plan.strategy != "scratch"


def _statistics(setup: Setup, outcome: Outcome, *, table: _Table, most: int) -> ClassStatistics:
    """Return the class statistics of features (n, d); of more than `most` features, those of an even selection and of the logits."""
    (weight, bias), width = outcome.network.rows(outcome.network.head.layer), table.features.shape[1]
    some = np.arange(0, len(table.at), max(len(table.at) // MOST_COMPARED, 1))
    seen = table.of(some) @ weight.T + bias, table.targets[some]
    every = 1 if width <= most else -(-width // THINNED)

    def read(features: np.ndarray) -> np.ndarray:
        return features if every == 1 else np.concatenate([features[:, ::every], features @ weight.T + bias], axis=1)

    found = table.statistics(read)
    return replace(found, every=every, held_out=held_out_factors(seen, _unseen(setup, outcome)))


def _unseen(setup: Setup, outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Return the first head's logits (n, C) of examples that it was not fitted to, and their targets (n,); n may be 0."""
    data, solved = setup.items.data, outcome.solved.get(setup.items.data.name)
    if solved is not None:
        return solved.probe.loo_scores, data.targets[solved.rows]
    rows = _held_out_rows(setup, outcome)
    scores, kept = _held_out(outcome, rows)[setup.tasks[data.name]] if len(rows) else np.zeros((0, 1)), data.known[rows]
    return scores[kept], data.targets[rows[kept]]


def _features(setup: Setup, log: Log, *, outcome: Outcome, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Compute the features of some examples by a pass of the feed; return them and the examples, fewer per class if all take too long."""
    trained = log.clock.seconds["train"] + log.clock.seconds["compare"]
    allowed = max(1.0, SHARE * trained)
    began = time.perf_counter()
    features_of(outcome.network, outcome.feed, indices=rows[:64])
    expected = (time.perf_counter() - began) * len(rows) / min(len(rows), 64)
    if expected > allowed:
        targets, draw = setup.items.data.targets[rows], np.random.default_rng(setup.plan.seed)
        each = max(int(allowed / expected * len(rows) / len(np.unique(targets))), FEWEST_OF_CLASS)
        order = draw.permutation(len(rows))
        kept = np.concatenate([order[targets[order] == row][:each] for row in np.unique(targets)])
        log.notes.append(
            f"Class statistics are of {len(kept):,} of {counted(len(rows), 'example')}, drawn by class: a pass over all of them would take "
            f"{expected:.0f} s for {trained:.0f} s of training."
        )
        rows = rows[np.sort(kept)]
    return features_of(outcome.network, outcome.feed, indices=rows), rows


def note_idle_heads_(setup: Setup, log: Log, *, outcome: Outcome) -> None:
    """Note the heads that were left unchanged although the features that they read were trained."""
    idle_layers = setup.on(outcome.network).idle_layers
    idle = [task for task, head in outcome.network.heads.items() if head.groups is None and head.layer in idle_layers]
    if idle and not _same_features(setup, outcome):
        log.notes.append(
            f"The data have no targets of {', '.join(map(repr, idle))}: these heads were left as they are, but the features that they "
            "read were trained, so that they may be worse now."
        )


def merged_history(earlier: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of earlier trainings, then those of this one; "run" counts the trainings from 1."""
    before = [{"run": 1, **entry} for entry in earlier]
    run = 1 + max((int(entry["run"]) for entry in before), default=0)
    return before + [{"run": run, **entry} for entry in history]
