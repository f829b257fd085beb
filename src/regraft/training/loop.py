"""The one training loop.

Read it from `train` down: `train` -> `_epoch_` -> `_fit_step` -> `_loss` is the road to the loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from ..console import progress, say
from ..methods.stay_near import anchors_of, pull_back_
from ..networks.contract import Network
from ..randomness import seeded
from .checkpoints import Checkpoint
from .feeds import Feed, Payload
from .objective import Objective
from .optimizers import PlateauFactor, cosine_factor, make_optimizer, set_rate_
from .regularizing import dropped, l1_norm
from .settings import Settings

__all__ = [
    "Trained",
    "Training",
    "all_raw_scores",
    "evaluate",
    "find_rate",
    "pick_rate",
    "raw_scores",
    "train",
    "trained_tensors",
]

EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Training:
    """All that one training needs.

    Attributes:
        network: whose trainable part is trained, in place.
        feed: batches and scores.
        objective: what is minimised.
        fit: (n,) indices of the items to learn from.
        select: (m,) indices of the items that choose the epoch, the rate and when to stop; may be empty.
        settings: how it goes.
        seed: decides the order of the items, dropout and views.
        frozen: layers that stay frozen from the first epoch to the last.
        checkpoint: where to go on from, or None.
        stage: a word for the history, such as "head".
        on_epoch: told of every new epoch's entry in the history; what it raises ends the training.
        rates: factors of the learning rate of single parameters, as of `make_optimizer`.
        anchors: name as in `state()` -> where `stay_near` pulls to; None: to the weights before this training.
        paired: whether a range test compares each loss with that of the same batch before anything has changed.
    """

    network: Network
    feed: Feed
    objective: Objective
    fit: np.ndarray
    select: np.ndarray
    settings: Settings
    seed: int
    frozen: frozenset[str]
    checkpoint: Checkpoint | None = None
    stage: str = "train"
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    anchors: Mapping[str, Tensor] | None = None
    paired: bool = False


@dataclass
class Trained:
    """Where a training stands; what a checkpoint holds.

    Attributes:
        rate: learning rate of the head.
        epoch: number of the next epoch.
        best_loss: lowest selection loss so far (fit loss, where nothing was kept for selection).
        best: copy of the trained tensors at that epoch.
        waited: epochs since then.
        plateau: state of the schedule "plateau".
        history: one dict an epoch.
        anchors: id of a parameter -> where it is pulled back to; none in a checkpoint, for a run goes on from the same start.
    """

    rate: float
    epoch: int = 0
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    waited: int = 0
    plateau: PlateauFactor = field(default_factory=PlateauFactor)
    history: list[dict[str, Any]] = field(default_factory=list)
    anchors: Mapping[int, Tensor] = field(default_factory=dict)


def train(training: Training) -> list[dict[str, Any]]:
    """Train the part that is not frozen, and leave the best weights in the network.

    Args:
        training: all that it needs.

    Returns:
        The history: one dict an epoch, over all resumes.
    """
    settings, accelerator = training.settings, Accelerator(mixed_precision=_precision())
    training.network.freeze_(training.frozen)
    optimizer = make_optimizer(training.network, settings, rates=training.rates)
    anchors = anchors_of(training.network, training.anchors) if settings.stay_near else {}
    state = _resumed(training, optimizer)
    if state is None:
        rate = settings.learning_rate or _found_rate(training, accelerator)
        start = evaluate(training, training.select).get("select_loss", math.inf)
        state = Trained(rate, best_loss=start, best=_copied(trained_tensors(training)))
    state.anchors = anchors
    with progress(training.stage, settings.epochs) as advance:
        advance(state.epoch)
        while state.epoch < settings.epochs and not _finished(state, settings):
            seed = int(np.random.SeedSequence([training.seed, state.epoch]).generate_state(1)[0])
            with seeded(seed):
                _epoch_(training, state, optimizer=optimizer, accelerator=accelerator, seed=seed)
            advance(1)
            if training.checkpoint is not None:
                _save(training, state, optimizer=optimizer)
            if training.on_epoch is not None:
                training.on_epoch(state.history[-1])
    _restore_(trained_tensors(training), state.best)
    training.network.freeze_(training.frozen)
    training.network.mode_(False)
    return state.history


def _precision() -> str:
    """Mixed precision where the device has it."""
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"


def _finished(state: Trained, settings: Settings) -> bool:
    return settings.patience is not None and state.waited >= settings.patience


def _epoch_(training: Training, state: Trained, *, optimizer: Optimizer, accelerator: Accelerator, seed: int) -> None:
    """Run one epoch: fit, evaluate, take note."""
    began, settings, network = time.perf_counter(), training.settings, training.network
    network.reseed_(seed)
    network.freeze_(_frozen_now(training, state.epoch))
    network.mode_(True)
    parts = _shuffled(training, seed)
    first_step, steps = state.epoch * len(parts), settings.epochs * len(parts)
    losses = []
    for number, (indices, payload) in enumerate(training.feed.batches(parts)):
        set_rate_(optimizer, state.rate * _factor(settings, state, step=first_step + number, steps=steps))
        losses.append(_fit_step(training, optimizer, accelerator=accelerator, indices=indices, payload=payload) * len(indices))
        if state.anchors:
            pull_back_(optimizer.param_groups, state.anchors, strength=settings.stay_near)
    entry = {"stage": training.stage, "epoch": state.epoch + 1, "train_loss": sum(losses) / len(training.fit)}
    judged = evaluate(training, training.select)
    entry |= {key: value for key, value in judged.items() if key not in entry}  # a task may be called "train"
    entry |= {"learning_rate": state.rate * _factor(settings, state, step=first_step + len(parts) - 1, steps=steps)}
    entry |= {"seconds": round(time.perf_counter() - began, 3)}
    _note_(training, state, entry=entry)


def _fit_step(training: Training, optimizer: Optimizer, *, accelerator: Accelerator, indices: np.ndarray, payload: Payload) -> float:
    """Learn from one batch and return its loss."""
    loss = _loss(training, accelerator, indices=indices, payload=payload)
    accelerator.backward(loss)
    if training.settings.clip_norm is not None:
        accelerator.clip_grad_norm_(
            [parameter for group in optimizer.param_groups for parameter in group["params"]], training.settings.clip_norm
        )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _loss(training: Training, accelerator: Accelerator, *, indices: np.ndarray, payload: Payload) -> Tensor:
    """Return the loss of one batch."""
    with accelerator.autocast(), dropped(training.network, training.settings.dropout):
        scores = training.feed.scores(payload)
    loss = training.objective(scores, indices)
    return loss + training.settings.l1 * l1_norm(training.network) if training.settings.l1 else loss


def _factor(settings: Settings, state: Trained, *, step: int, steps: int) -> float:
    if settings.schedule == "cosine":
        return cosine_factor(step, steps, warmup=settings.warmup)
    return state.plateau.factor if settings.schedule == "plateau" else 1.0


def _shuffled(training: Training, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the batches of one epoch: item indices in random order, and a view for each of them."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(training.fit)
    views = generator.integers(0, training.feed.views, len(order)) if training.feed.views > 1 else np.zeros(len(order), np.int64)
    count = max(1, round(len(order) / training.settings.batch_size))
    return list(zip(np.array_split(order, count), np.array_split(views, count), strict=True))


def _frozen_now(training: Training, epoch: int) -> frozenset[str]:
    """Return the layers that are frozen in this epoch: staged unfreezing opens the heads first, then block by block from the top."""
    every = training.settings.unfreeze_every
    if every is None:
        return training.frozen
    heads = set(training.network.head_layers)
    below = [block for block in training.network.blocks if not training.frozen.issuperset(block.layers) and heads.isdisjoint(block.layers)]
    closed = below[: max(0, len(below) - epoch // every)]
    return training.frozen.union(*(block.layers for block in closed))


def evaluate(training: Training, indices: np.ndarray) -> dict[str, float]:
    """Judge some items in inference mode.

    Args:
        training: with network, feed and objective.
        indices: (n,) which items.

    Returns:
        As `Objective.figures`; nothing where there are no items.
    """
    if not len(indices):
        return {}
    return training.objective.figures(all_raw_scores(training.network, training.feed, indices=indices), indices)


def raw_scores(network: Network, feed: Feed, *, task: str, indices: np.ndarray) -> np.ndarray:
    """Return the raw scores (n, C) of some items in inference mode, view 0.

    Args:
        network: whose mode is set to inference.
        feed: gives batches and scores.
        task: name of the head.
        indices: (n,).

    Returns:
        (n, C) float32.
    """
    return all_raw_scores(network, feed, indices=indices)[task]


def all_raw_scores(network: Network, feed: Feed, *, indices: np.ndarray) -> dict[str, np.ndarray]:
    """Return the raw scores of every task of some items in inference mode, view 0, from one pass.

    Args:
        network: whose mode is set to inference.
        feed: gives batches and scores.
        indices: (n,), one or more.

    Returns:
        Task -> (n, C) float32.
    """
    network.mode_(False)
    parts = [(part, np.zeros(len(part), np.int64)) for part in _consecutive(indices)]
    with torch.inference_mode():
        made = [{task: scores.float().cpu().numpy() for task, scores in feed.scores(payload).items()} for _, payload in feed.batches(parts)]
    return {task: np.concatenate([part[task] for part in made]) for task in made[0]}


def _consecutive(indices: np.ndarray) -> list[np.ndarray]:
    return [indices[start : start + EVALUATION_BATCH] for start in range(0, len(indices), EVALUATION_BATCH)]


def _note_(training: Training, state: Trained, *, entry: dict[str, Any]) -> None:
    """Add an epoch to the history; keep its weights if they are the best so far."""
    state.history.append(entry)
    state.epoch += 1
    loss = entry.get("select_loss", entry["train_loss"])
    state.plateau.see_(loss)
    if loss < state.best_loss - training.settings.min_delta:
        state.best_loss, state.waited = loss, 0
        state.best = _copied(trained_tensors(training))
    else:
        state.waited += 1
    say(
        f"{training.stage} epoch {entry['epoch']}: "
        + ", ".join(f"{key} {value:.4g}" for key, value in entry.items() if isinstance(value, float))
    )


def trained_tensors(training: Training) -> dict[str, Tensor]:
    """Return the tensors that a training may change: all of the network's state but the frozen layers', the singly frozen ones, and the
    moving averages beside the latter."""
    frozen, state = training.frozen, training.network.state()
    still = {name.rpartition(".")[0] for name in frozen if name in state}  # layers of which a part is frozen run as in inference
    parameters = {name for names in training.network.layer_parameters().values() for name in names} if still else set()
    return {
        name: tensor
        for name, tensor in state.items()
        if name not in frozen and (layer := name.rpartition(".")[0]) not in frozen and (layer not in still or name in parameters)
    }


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _restore_(tensors: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def _save(training: Training, state: Trained, *, optimizer: Optimizer) -> None:
    content = {"tensors": _copied(trained_tensors(training)), "optimizer": optimizer.state_dict(), "best": state.best}
    plain = {"rate": state.rate, "epoch": state.epoch, "best_loss": state.best_loss, "waited": state.waited, "history": state.history}
    plateau = {"factor": state.plateau.factor, "best": state.plateau.best, "waited": state.plateau.waited}
    if training.checkpoint is not None:
        training.checkpoint.write({**content, **plain, "plateau": plateau})


def _resumed(training: Training, optimizer: Optimizer) -> Trained | None:
    """Put network and optimizer where the checkpoint left them, if there is one."""
    saved = training.checkpoint.read() if training.checkpoint is not None else None
    if saved is None:
        return None
    _restore_(trained_tensors(training), saved["tensors"])
    optimizer.load_state_dict(saved["optimizer"])
    plain = {name: saved[name] for name in ("rate", "epoch", "best_loss", "best", "waited", "history")}
    return Trained(**plain, plateau=PlateauFactor(**saved["plateau"]))


# ── learning-rate range test ───────────────────────────────────────────────────────────────────────────────────────────

RANGE = (1e-6, 1.0)
RANGE_STEPS = 60


def find_rate(training: Training) -> float:
    """Return the learning rate of the head that a range test finds; the network is left as it was.

    Args:
        training: all that training needs.
    """
    training.network.freeze_(training.frozen)
    return _found_rate(training, Accelerator(mixed_precision=_precision()))


def _found_rate(training: Training, accelerator: Accelerator) -> float:
    """Pick a learning rate by raising it step by step and watching the loss, then put everything back.

    Source: Smith, WACV 2017, section 3.3. Deviations: the rate taken is a tenth of the highest one with a loss near the lowest; the
    test ends when the loss is above four times its lowest; rates above 0.01 are not taken with adaptive optimizers. Where the training is
    `paired`, the batches are first evaluated without learning: a good network's losses differ more by batch than by what a step does.

    Args:
        training: all that training needs.
        accelerator: runs the steps.

    Returns:
        The learning rate of the head.
    """
    before, one_epoch = _copied(trained_tensors(training)), _shuffled(training, training.seed)
    parts = [one_epoch[step % len(one_epoch)] for step in range(RANGE_STEPS)]
    beyond = np.zeros(RANGE_STEPS)
    if training.paired:
        with seeded(training.seed):
            plain = _plain_losses(training, accelerator, parts=parts)
        beyond = plain - plain.mean()
        _restore_(trained_tensors(training), before)  # statistics of BatchNorm have moved
    rates = np.geomspace(*RANGE, RANGE_STEPS)
    with seeded(training.seed):  # as before: two runs over the same batches draw the same numbers
        losses = _swept(training, accelerator, parts=parts, rates=rates, beyond=beyond)
    _restore_(trained_tensors(training), before)
    return pick_rate(rates[: len(losses)], losses, highest=1.0 if training.settings.optimizer == "sgd" else 0.01)


def _begin_test_(training: Training) -> None:
    training.network.reseed_(training.seed)
    training.network.mode_(True)


def _plain_losses(training: Training, accelerator: Accelerator, *, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the losses of batches in training mode while nothing is learned."""
    _begin_test_(training)
    batches = training.feed.batches(parts)
    return np.array([float(_loss(training, accelerator, indices=indices, payload=payload).detach()) for indices, payload in batches])


def _swept(  # over the limit: the batches of the test, the rate at each, and what its loss is compared with
    training: Training, accelerator: Accelerator, *, parts: Sequence[tuple[np.ndarray, np.ndarray]], rates: np.ndarray, beyond: np.ndarray
) -> list[float]:
    """Return the losses of steps at these rates, less what their batches have beyond the mean, until they explode."""
    _begin_test_(training)
    # parameters with a factor of their own would explode first, and decide for all others
    optimizer = make_optimizer(training.network, training.settings, rates=dict.fromkeys(training.rates, 1.0))
    losses: list[float] = []
    for step, (indices, payload) in enumerate(training.feed.batches(parts)):
        set_rate_(optimizer, float(rates[step]))
        loss = _fit_step(training, optimizer, accelerator=accelerator, indices=indices, payload=payload)
        losses.append(max(loss - float(beyond[step]), 1e-6))
        if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses) + 1e-3:
            break
    return losses


def pick_rate(rates: Sequence[float] | np.ndarray, losses: Sequence[float], *, highest: float) -> float:
    """Return a tenth of the highest rate at which the smoothed loss is within 2 % of its lowest.

    On a plateau, where the loss says nothing until it explodes, that is a tenth of the last rate before the explosion.

    Args:
        rates: rising.
        losses: at these rates, as many.
        highest: no rate above it is returned.

    Returns:
        The rate, within [1e-5, highest].
    """
    smoothed, average = [], losses[0]
    for step, loss in enumerate(losses):
        average = 0.8 * average + 0.2 * (loss if math.isfinite(loss) else max(losses[:step], default=1.0) * 4)
        smoothed.append(average)
    good = np.flatnonzero(np.array(smoothed) <= min(smoothed) * 1.02)
    return float(np.clip(rates[int(good[-1])] / 10, 1e-5, highest))
