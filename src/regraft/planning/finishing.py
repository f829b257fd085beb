"""What follows training: believable probabilities, thresholds of labels, class statistics, and the whole history."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import DataError
from ..probes import UnknownJudge, choose_unknown, fit_temperature, log_loss, statistics_of
from ..tasks import fit_thresholds
from ..training import Feed, all_logits
from .job import Carried, Job

__all__ = ["calibrate_", "fit_thresholds_", "keep_statistics_", "merged_history", "note_idle_heads_"]

FEWEST = 20
"""Choosing items from which a temperature is fitted."""
WIDEST = 2048
"""Features up to which class statistics that take a pass of their own are of all of them; their scatter has the square of that many
numbers."""
FEWEST_OF_CLASS = 10
"""Items of each class, as far as there are so many, that class statistics are of at the least."""
WIDEST_HIDDEN, THINNED = 1024, 512
"""Features up to which all are looked at for unknown items, and to how many wider ones are thinned out evenly: classes are hidden in
turn, and each time two matrices of that size are factorised. On pictures of digits 512 of 1,522 features told as much as all."""
MOST_HIDDEN = 5000
"""Items with which classes are hidden in turn at most."""
WITHOUT_ITEMS = ("energy", "mahalanobis", "max_logit", "relative")
"""Scores of unknown items that need the class statistics alone."""
WIDEST_AT_HAND = 4096
"""The same where the features are in memory: 128 MiB of scatter."""
SHARE = 0.34
"""Of the training time that the pass for class statistics may take, where that is more than a second."""


def calibrate_(job: Job, carried: Carried) -> None:
    """Let the probabilities of trained heads be such as the choosing items say: scale their rows by one temperature each.

    Which class is the most probable stays as it was. Heads in closed form have their temperature from the items that were left out;
    heads that no training has changed are left alone, and so are those whose probabilities fit already.

    Source: Guo, Pleiss, Sun & Weinberger, ICML 2017, section 4.2.

    Args:
        job: with the trained network; gets a note of each temperature.
        carried: the feed to judge with.
    """
    validation = _held_out_rows(job)
    asked = [name for name, task in job.tasks.items() if name not in carried.solved and _is_trained(job, carried, task=task)]
    asked = [name for name in asked if job.data_of(name).task == "classification" and len(job.known(name, validation)) >= FEWEST]
    scores = _held_out(job, carried, rows=validation) if asked else {}
    for name in asked:
        data, known = job.data_of(name), job.known(name, validation)
        mine, targets = scores[job.tasks[name]][data.known[validation]].astype(np.float64), data.targets[known]
        factor = fit_temperature(mine, np.eye(mine.shape[1])[targets])
        before, after = log_loss(mine, targets), log_loss(factor * mine, targets)
        if after >= before:
            continue
        done = _scaled_(job, carried.feed, task=job.tasks[name], factor=factor, rows=validation[:64])
        gain = f"on the {len(known)} choosing items, log loss {before:.3g} becomes {after:.3g}"
        job.notes.append(
            f"Probabilities of {name!r}: the rows of the head were divided by a temperature of {1 / factor:.3g}; {gain}."
            if done
            else f"Probabilities of {name!r} were left as they are: its rows cannot be set. With a temperature of {1 / factor:.3g}, {gain}."
        )


def _held_out_rows(job: Job) -> np.ndarray:
    """Return which examples the network, before a training on all, had not learned from."""
    return job.parts.validation if job.held_out is None else job.held_out[1]


def _held_out(job: Job, carried: Carried, *, rows: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return the scores by task of these examples by a network that had not learned from them."""
    return all_logits(job.network, carried.feed, indices=rows) if job.held_out is None else job.held_out[0]


def _is_trained(job: Job, carried: Carried, *, task: str) -> bool:
    """Tell whether training has changed the rows of a head, or, where it is a probe that was tuned, what they read."""
    head, tuned = job.network.heads[task], "probe" in (job.plan.base, job.chosen.get("base"))
    if not carried.history or head.groups is not None:
        return False
    same = all(np.array_equal(now, before) for now, before in zip(job.network.rows(head.layer), (head.weight, head.bias), strict=True))
    return not same or (tuned and not _same_features(job, carried))


def _scaled_(job: Job, feed: Feed, *, task: str, factor: float, rows: np.ndarray) -> bool:
    """Multiply the rows of a head; leave them, and say so, where they cannot be set or the scores do not follow (a cosine head)."""
    network, layer = job.network, job.network.heads[task].layer
    weight, bias = network.rows(layer)
    wanted = factor * all_logits(network, feed, indices=rows)[task]
    if not network.set_rows_(layer, factor * weight, bias=factor * bias):
        return False
    made = all_logits(network, feed, indices=rows)[task]
    if np.allclose(made, wanted, rtol=1e-2, atol=1e-2 * float(np.abs(wanted).max())):
        return True
    network.set_rows_(layer, weight, bias=bias)
    return False


def fit_thresholds_(job: Job, carried: Carried) -> None:
    """Give the multi-label heads their thresholds, fitted to the selection items, or else to the probe's leave-one-out scores.

    Args:
        job: with the trained network.
        carried: the feed to judge with.
    """
    asked = {name: task for name, task in job.tasks.items() if job.data_of(name).task == "multi-label"}
    validation, made = _held_out_rows(job), {}
    scores = _held_out(job, carried, rows=validation) if set(asked) - set(carried.solved) and len(validation) else {}
    for name, task in asked.items():
        data, known = job.data_of(name), job.known(name, validation)
        if len(known) and name not in carried.solved:
            made[task] = fit_thresholds(scores[task][data.known[validation]], data.targets[known])
        elif name in carried.solved:
            made[task] = carried.solved[name].thresholds(data.targets)
        elif name in job.solved:
            made[task] = job.solved[name].thresholds(data.targets)
    for task, limits in made.items():
        job.network.heads[task] = replace(job.network.heads[task], thresholds=tuple(map(float, limits)))


def keep_statistics_(job: Job, carried: Carried) -> None:
    """Keep the class statistics of the first head with the network: of the features of the fitting and selection items.

    Where the backbone was trained, its features are computed by one pass of the feed, of fewer items where all would take too long.
    `regraft.extend` needs them: without, it knows of the old classes their rows alone.

    Args:
        job: with the trained network.
        carried: with the source network's features, where they were computed, and the feed.
    """
    data, network, same = job.items.data, job.network, _same_features(job, carried)
    if job.tasks[data.name] != network.head.task:
        network.statistics = network.statistics if same else None  # of a head that was not trained
        network.unknown = network.unknown if same else None
        return
    network.statistics = network.unknown = None
    if data.task != "classification" or not job.plan.statistics:
        return
    rows = job.known(data.name, np.sort(np.concatenate([job.parts.training, job.parts.validation])))
    with job.clock.during("frozen"):
        at_hand = carried.head_features if carried.head_features is not None else carried.features if same else None
        if at_hand is not None:
            features, most = at_hand[rows], WIDEST_AT_HAND
        else:
            (features, rows), most = _features(job, carried, rows=rows), WIDEST
        every = 1 if features.shape[1] <= WIDEST_HIDDEN else -(-features.shape[1] // THINNED)
        network.statistics = _statistics(job, features.numpy(), rows=rows, most=most)
        network.unknown = _unknown_rule(job, features[:, ::every].numpy(), rows=rows, every=every)


def _unknown_rule(job: Job, features: np.ndarray, *, rows: np.ndarray, every: int) -> UnknownJudge | None:
    """Return how to tell items of no known class, chosen by hiding classes in turn; None, with a note, where that cannot be done."""
    data = job.items.data
    statistics = statistics_of(features, data.targets[rows], classes=data.classes)
    if (statistics.counts > 1).sum() < 3:
        job.notes.append("No rule for unknown items: it is learned by hiding classes in turn, which takes three of two items or more.")
        return None
    if len(rows) > MOST_HIDDEN:
        chosen = np.sort(np.random.default_rng(job.plan.seed).choice(len(rows), MOST_HIDDEN, replace=False))
        features, rows = features[chosen], rows[chosen]
    groups = None if data.groups is None else data.groups[rows]
    try:
        choice = choose_unknown(
            features, data.targets[rows], groups=groups, false_alarm=job.plan.false_alarm, names=WITHOUT_ITEMS, seed=job.plan.seed
        )
    except DataError as problem:
        job.notes.append(f"No rule for unknown items: {problem}")
        return None
    job.notes.append(
        f"Items of no known class: with classes hidden in turn, the score {choice.score!r} tells them with an area under the curve of "
        f"{choice.auroc[choice.score]:.2f}; at {choice.false_alarm:.0%} false alarms it finds {choice.detected[choice.score]:.0%}."
    )
    return UnknownJudge(choice, statistics, every=every)


def _same_features(job: Job, carried: Carried) -> bool:
    """Tell whether nothing below the heads was changed by training, moving averages included."""
    names = (name for name, tensor in job.network.state().items() if tensor.is_floating_point())
    trained = {name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0] for name in names}
    if carried.head_features is not None:
        return False
    return trained - carried.frozen <= set(job.network.head_layers) and job.plan.strategy != "scratch"


def _statistics(job: Job, features: np.ndarray, *, rows: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Return the class statistics of features (n, d), as arrays; of more than `most`, those of every so many and of the scores."""
    data, every = job.items.data, 1
    if features.shape[1] > most:
        weight, bias = job.network.rows(job.network.head.layer)
        every = -(-features.shape[1] // THINNED)
        features = np.concatenate([features[:, ::every], features @ weight.T + bias], axis=1)
    return replace(statistics_of(features, data.targets[rows], classes=data.classes), every=every).to_arrays()


def _features(job: Job, carried: Carried, *, rows: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Return the features of some items by a pass of the feed, and which items: fewer of each class, drawn, where all take too long."""
    allowed = max(1.0, SHARE * job.clock.seconds["train"])
    began = time.perf_counter()
    job.features(carried.feed, rows[:64])
    expected = (time.perf_counter() - began) * len(rows) / min(len(rows), 64)
    if expected > allowed:
        targets, draw = job.items.data.targets[rows], np.random.default_rng(job.plan.seed)
        each = max(int(allowed / expected * len(rows) / len(np.unique(targets))), FEWEST_OF_CLASS)
        order = draw.permutation(len(rows))
        kept = np.concatenate([order[targets[order] == row][:each] for row in np.unique(targets)])
        job.notes.append(
            f"Class statistics are of {len(kept):,} of {len(rows):,} items, drawn by class: a pass over all of them would take "
            f"{expected:.0f} s for {job.clock.seconds['train']:.0f} s of training."
        )
        rows = rows[np.sort(kept)]
    return job.features(carried.feed, rows), rows


def note_idle_heads_(job: Job, carried: Carried) -> None:
    """Take note of the heads that were left alone although what they read was trained.

    Args:
        job: with the trained network.
        carried: the layers that stayed frozen.
    """
    idle = [task for task, head in job.network.heads.items() if head.groups is None and head.layer in job.idle_layers]
    if idle and not _same_features(job, carried):
        job.notes.append(
            f"The data have no targets of {', '.join(map(repr, idle))}: these heads were left as they are, but the features that they "
            "read were trained, so that they may be worse now."
        )


def merged_history(earlier: Sequence[Mapping[str, Any]], history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of earlier trainings, then those of this one; "run" counts the trainings from 1.

    Args:
        earlier: entries as a network keeps them; those without "run" are of the first.
        history: one mapping an epoch.
    """
    before = [{"run": 1, **entry} for entry in earlier]
    run = 1 + max((int(entry["run"]) for entry in before), default=0)
    return before + [{"run": run, **entry} for entry in history]
