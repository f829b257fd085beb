"""The training loop.

Read it from top to bottom: `train` -> `_epoch_` -> `_fit_step` -> `_loss`.
"""

import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from ..console import progress, say, summarize
from ..errors import SettingError
from ..freezing.spread import sent
from ..methods.stay_near import anchors_of, pull_back_
from ..networks.network import Network
from ..randomness import seeded
from ..words import counted, metric_words
from .callbacks import Callbacks
from .checkpoints import MemoryStore, Store
from .courses import Course, PlateauFactor, cosine_factor, monitored_by, most_epochs, patience_of, steady_factor, steps_of, value_of
from .feeds import Feed, Payload
from .objective import Objective
from .optimizers import make_optimizer, set_rate_
from .regularizing import dropped, l1_norm
from .settings import Settings
from .team import ALONE, Team, in_team

EVALUATION_BATCH = 256
USUAL_RATE = 1e-3  # Default learning rate, used if none is given or chosen
_STORED = ("rate", "start_loss", "epoch", "best_loss", "best_epoch", "best", "waited", "history")
"""Fields of `TrainingState` that a checkpoint holds as they are."""


@dataclass(frozen=True)
class Training:
    """Inputs of one training run.
    `on_epoch`: called with the history entry of every new epoch; an exception that it raises ends the training. `course`: number of
    (steady, falling) epochs of a training of known length; None: stop when the validation loss stops falling."""

    network: Network  # network whose trainable part is trained in place
    feed: Feed
    objective: Objective
    fit: np.ndarray  # (n,) indices of the training set
    validation: np.ndarray  # (m,) indices of the validation set, which chooses the epoch, the learning rate and when to stop; may be empty
    settings: Settings
    seed: int  # seed of the order of the examples, of dropout and of the views
    frozen: frozenset[str]  # layers that stay frozen during the whole training
    checkpoint: Store | None = None  # store to write checkpoints to and to resume from, or None
    stage: str = "train"  # name of the stage in the history, for example "head"
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    rates: Mapping[str, float] = field(default_factory=dict)  # learning-rate factors of single parameters, as in `make_optimizer`
    phase: str = "train"  # name of the phase in the history: "train", or "refit" for a training with known settings and length
    course: tuple[int, int] | None = None
    keep_start: bool = True  # whether to restore the initial weights if no epoch has a lower validation loss
    start: Mapping[str, Tensor] = field(default_factory=dict)  # the initial weights, if the caller holds a copy of them; saves another one
    until: int | None = None  # number of epochs after which to pause; the checkpoint continues the training later. None: train to the end
    begun: Mapping[str, Any] | None = None  # state of the same training to continue from if the checkpoint is empty
    tried: int = 0  # number of first epochs in which patience does not stop the training: the epochs of the comparison that chose it
    cluster: str | None = None  # "auto" for one process on each machine of the Ray cluster of this machine; None: this process alone
    team: Team = ALONE
    notes: list[str] = field(default_factory=list)  # receives sentences on machines of the cluster that were lost

    @property
    def initial_epoch(self) -> int:
        """Number of the last epoch of the network's earlier trainings; short trainings of comparisons and folds do not count."""
        kept = (entry for entry in self.network.history if not str(entry.get("phase", "")).startswith(("search", "fold")))
        return max((int(entry.get("epoch") or 0) for entry in kept if "train_loss" in entry), default=0)


@dataclass
class TrainingState:
    """State of a training; content of a checkpoint.
    `best_loss`: lowest loss of an epoch so far: on the validation set (after temperature scaling for classification), or on the training
    set if there is no validation set. `anchors`: parameter id -> value that `stay_near` pulls the parameter back to. Checkpoints leave it
    out: a resumed run starts from the same weights."""

    rate: float
    start_loss: float = math.inf  # validation loss before the first epoch; infinite without a validation set or if the start is not kept
    epoch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0  # number of epochs that had run when the best loss was reached
    best: dict[str, Tensor] = field(default_factory=dict)  # copy of the trained tensors at the best epoch
    waited: int = 0  # number of epochs since the best epoch
    course: Course = field(default_factory=Course)  # state of the schedule "auto"
    plateau: PlateauFactor = field(default_factory=PlateauFactor)  # state of the schedule "plateau"
    history: list[dict[str, Any]] = field(default_factory=list)
    anchors: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def kept_start(self) -> bool:
        """Whether no epoch was better than the initial weights."""
        return self.start_loss < self.best_loss


def train(training: Training) -> list[dict[str, Any]]:
    """Train the part that is not frozen and leave the best weights in the network.
    Returns the history: one dict per epoch, including the epochs before a resume."""
    return trained(training).history


def trained(training: Training) -> TrainingState:
    """Train as `train` does and return the final state."""
    if training.cluster is None:
        return _trained(training, ALONE)
    kept = replace(training, checkpoint=training.checkpoint or MemoryStore())
    silent = replace(training.settings, callbacks=(), log_with=None)
    others = replace(training, checkpoint=None, on_epoch=None, begun=None, start={}, settings=silent, notes=[])
    start, rows = copied(_trained_tensors(training)), training.fit[:2]

    def scored(training: Training) -> list[Tensor]:
        training.network.mode_(False)
        return list(training.feed.scores(training.feed.batch(rows, np.zeros(len(rows), np.int64))).values())

    def begun() -> Training:
        restore_(_trained_tensors(training), start)  # a retry after the loss of a worker starts from the same weights
        return kept

    most = len(training.fit) // steps_of(training.settings, len(training.fit))
    content = partial(sent, others, [training.network], values=scored)
    return in_team(_trained, begun, sent=content, most=most, cluster=training.cluster, notes=training.notes)


def _trained(training: Training, team: Team) -> TrainingState:
    training = replace(training, team=team)
    mixed = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    settings, accelerator = training.settings, Accelerator(mixed_precision=mixed)
    training.network.freeze_(training.frozen)
    optimizer = make_optimizer(training.network, settings, rates=training.rates)
    anchors = anchors_of(training.network) if settings.stay_near else {}
    judged_start = training.keep_start and len(training.validation) > 0
    start = (training.start or copied(_trained_tensors(training))) if judged_start else {}
    state = _resumed(training, optimizer)
    if state is None:
        state = TrainingState(settings.learning_rate or USUAL_RATE)
        state.start_loss = loss_of(evaluate(training, training.validation), training.settings) if judged_start else math.inf
    state.anchors = anchors
    limit = _limit(training)
    stage = training.stage + ("" if training.phase == "train" else f", {training.phase}")
    with progress(stage, limit, logged=training.phase == "search") as advance:
        given = settings.callbacks if training.phase != "search" else ()
        told = Callbacks(given, training.network.module, first=training.initial_epoch, advance=advance)
        told.begin(epochs=limit, steps=steps_of(training.settings, len(training.fit)))
        advance(state.epoch)
        while not _finished(training, state, limit=limit):
            seed = int(np.random.SeedSequence([training.seed, state.epoch]).generate_state(1)[0])
            with seeded(seed + team.rank):
                _epoch_(training, state, optimizer=optimizer, accelerator=accelerator, seed=seed, told=told)
            if training.checkpoint is not None and (training.until is None or state.epoch == training.until):
                _save(training, state, optimizer=optimizer)
            if team.first(told.epoch_ended(state.history[-1])):
                state.history[-1]["stopped"] = True
                _save(training, state, optimizer=optimizer)
            if training.on_epoch is not None:
                training.on_epoch(state.history[-1])
    told.end(state.history[-1] if state.history else {})
    if state.history and training.phase != "search":
        summarize(_summary(training, state))
    if training.course is None and state.best:
        restore_(training.network.state(), start if state.kept_start else state.best)
    training.network.freeze_(training.frozen)
    training.network.mode_(False)
    return state


def _limit(training: Training) -> int:
    """Return the maximum number of epochs."""
    return (
        sum(training.course) if training.course else most_epochs(training.settings, len(training.fit), judged=len(training.validation) > 0)
    )


def _finished(training: Training, state: TrainingState, *, limit: int) -> bool:
    """Return whether the training is over. Start the falling part of the schedule "auto" when it is due."""
    settings = training.settings
    if state.epoch >= limit or (training.until is not None and state.epoch >= training.until):
        return True
    if state.history and state.history[-1].get("stopped"):
        return True
    patience = patience_of(settings, len(training.fit))
    waited = patience is not None and state.waited >= patience and state.epoch >= training.tried
    if settings.schedule != "auto":
        return training.course is None and waited
    course = state.course
    if not course.falls and training.course is not None:
        if state.epoch >= training.course[0]:
            course.fall_(state.epoch, epochs=training.course[1])
    elif not course.falls and (waited or state.epoch >= Course.steady(limit)):
        judged = len(training.validation) > 0
        course.fall_(state.epoch, epochs=min(Course.falling(state.best_epoch if judged else state.epoch), limit - state.epoch))
        if judged:  # the training loss does not show which epoch generalises best
            course.turned = state.best_epoch
            restore_(_trained_tensors(training), state.best)
    return course.is_over(state.epoch)


def _epoch_(  # over the limit: what an epoch is made of
    training: Training, state: TrainingState, *, optimizer: Optimizer, accelerator: Accelerator, seed: int, told: Callbacks
) -> None:
    """Run one epoch: train, evaluate, record."""
    began, settings, network = time.perf_counter(), training.settings, training.network
    network.body.reseed_(seed + training.team.rank)
    network.freeze_(_frozen_now(training, state.epoch))
    network.mode_(True)
    parts = _shuffled(training, seed)
    first_step, losses = state.epoch * len(parts), []
    told.call("on_epoch_begin", told.first + state.epoch, {})
    shares = [(training.team.part(indices), training.team.part(views)) for indices, views in parts]
    for number, ((indices, _), payload) in enumerate(zip(parts, training.feed.batches(shares), strict=True)):
        rate = _rate(training, state, step=first_step + number, each=len(parts))
        set_rate_(optimizer, rate)
        told.call("on_train_batch_begin", number, {})
        loss = _fit_step(training, optimizer, accelerator=accelerator, indices=indices, payload=payload)
        told.step_ended(number, loss, of=len(parts))
        losses.append(loss * len(indices))
        if state.anchors:
            pull_back_(optimizer.param_groups, state.anchors, strength=settings.stay_near)
    entry = {
        "stage": training.stage,
        "phase": training.phase,
        "epoch": told.first + state.epoch + 1,
        "train_loss": sum(losses) / len(training.fit),
    }
    parameters = {name for names in training.network.layer_parameters().values() for name in names}
    changed = _trained_tensors(training)
    averages = [tensor for name, tensor in changed.items() if name not in parameters and tensor.is_floating_point()]
    training.team.level_([tensor for name, tensor in changed.items() if name in parameters], averages)
    judged = evaluate(training, training.validation)
    entry |= {key: value for key, value in judged.items() if key not in entry}  # a task may be called "train"
    entry |= {"learning_rate": rate, "seconds": round(time.perf_counter() - began, 3)}
    _note_(training, state, entry=training.team.first(entry))


def _fit_step(training: Training, optimizer: Optimizer, *, accelerator: Accelerator, indices: np.ndarray, payload: Payload) -> float:
    """Take one optimizer step on a batch and return its loss."""
    try:
        loss = _loss(training, accelerator, indices=indices, payload=payload)
    except ValueError as error:
        if len(indices) > 1 or isinstance(error, SettingError):
            raise
        raise SettingError(
            f"A batch of one example cannot train BatchNorm by its own statistics (batch_size={training.settings.batch_size}): {error}. "
            "Choose batch_norm='frozen', or a larger batch_size."
        ) from error
    accelerator.backward(loss)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    training.team.sum_gradients_(parameters)
    if training.settings.clip_norm is not None:
        accelerator.clip_grad_norm_(parameters, training.settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _loss(training: Training, accelerator: Accelerator, *, indices: np.ndarray, payload: Payload) -> Tensor:
    """Return the loss of one batch."""
    with accelerator.autocast(), dropped(training.network, training.settings.dropout), training.team.statistics(training.network):
        scores = training.feed.scores(payload)
    loss = training.objective(training.team.whole(scores, len(indices)), indices)
    l1: float = training.settings.l1
    if not l1:
        return loss
    norm = l1_norm(training.network)
    return loss + l1 * (norm.detach() if training.team.rank else norm)


def _rate(training: Training, state: TrainingState, *, step: int, each: int) -> float:
    """Return the learning rate of the head at a step. `each`: steps per epoch."""
    decay, lowest = training.settings.decay, float(training.settings.min_learning_rate)
    rate: float = state.rate * _factor(training, state, step=step, each=each) / (1 + decay * step)
    return max(rate, min(lowest, state.rate))


def _factor(training: Training, state: TrainingState, *, step: int, each: int) -> float:
    """Return the schedule's factor of the learning rate at a step. `each`: steps per epoch."""
    settings = training.settings
    if settings.schedule == "auto":
        return steady_factor(step, each, warmup=settings.warmup, course=state.course)
    if settings.schedule == "cosine":
        return cosine_factor(step, _limit(training) * each, warmup=settings.warmup)
    return state.plateau.factor if settings.schedule == "plateau" else 1.0


def _shuffled(training: Training, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the batches of one epoch: example indices in random order, with a random view for each example."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(training.fit)
    views = generator.integers(0, training.feed.views, len(order)) if training.feed.views > 1 else np.zeros(len(order), np.int64)
    count = steps_of(training.settings, len(training.fit))
    return list(zip(np.array_split(order, count), np.array_split(views, count), strict=True))


def _frozen_now(training: Training, epoch: int) -> frozenset[str]:
    """Return the layers that are frozen in this epoch. Staged unfreezing trains the heads first, then adds blocks from the top down."""
    every = training.settings.unfreeze_every
    if every is None:
        return training.frozen
    heads = set(training.network.head_layers)
    below = [block for block in training.network.blocks if not training.frozen.issuperset(block.layers) and heads.isdisjoint(block.layers)]
    closed = below[: max(0, len(below) - epoch // every)]
    return training.frozen.union(*(block.layers for block in closed))


def evaluate(training: Training, indices: np.ndarray) -> dict[str, float]:
    """Evaluate the network on some examples in inference mode.

    Args:
        training: training with network, feed and objective.
        indices: (n,) indices of the examples.

    Returns:
        The figures of `Objective.figures`; empty if there are no examples.
    """
    if not len(indices):
        return {}
    team = training.team
    found = all_logits(training.network, training.feed, indices=indices, team=team)
    return team.first({} if team.rank else training.objective.figures(found, indices))


def loss_of(entry: Mapping[str, Any], settings: Settings) -> float:
    """Return the figure of a history `entry` that compares epochs; lower is better."""
    name, sign = monitored_by(settings.monitor, settings.mode)
    if name is None or name not in entry:
        return value_of(entry, "calibrated_loss", "validation_loss", "train_loss")
    return value_of({name: sign * entry[name]}, name)


def all_logits(network: Network, feed: Feed, *, indices: np.ndarray, team: Team = ALONE) -> dict[str, np.ndarray]:
    """Return the logits of the examples `indices` (n,), n >= 1: task -> (n, C) float32. One pass over view 0 in inference mode."""
    network.mode_(False)
    consecutive = [indices[start : start + EVALUATION_BATCH] for start in range(0, len(indices), EVALUATION_BATCH)]
    parts = team.dealt([(part, np.zeros(len(part), np.int64)) for part in consecutive])
    with torch.no_grad():
        made = [{task: scores.float().cpu().numpy() for task, scores in feed.scores(payload).items()} for payload in feed.batches(parts)]
    made = team.collected(made)
    return {task: np.concatenate([part[task] for part in made]) for task in made[0]}


def _note_(training: Training, state: TrainingState, *, entry: dict[str, Any]) -> None:
    """Add an epoch to the history and keep a copy of its weights if they are the best so far."""
    state.history.append(entry)
    state.epoch += 1
    settings = training.settings
    loss = loss_of(entry, settings)
    state.plateau.see_(loss, factor=settings.plateau_factor, patience=settings.plateau_patience)
    if training.course is None and (loss < state.best_loss - settings.min_delta or not state.best):
        state.best_loss, state.best_epoch, state.waited = loss, state.epoch, 0
        state.best = copied(_trained_tensors(training))
    else:
        state.waited += 1
    if training.phase == "search":  # the comparison prints its own line
        return
    phase = "" if training.phase == "train" else f", {training.phase},"
    say(f"{training.stage}{phase} epoch {entry['epoch']}: {_figures(entry)}", frequent=True)


def _figures(entry: Mapping[str, Any]) -> str:
    told = {name: value for name, value in entry.items() if isinstance(value, float) and name != "seconds"}
    return ", ".join(f"{name.replace('_', ' ')} {metric_words(name, value)}" for name, value in told.items())


def _summary(training: Training, state: TrainingState) -> str:
    """Return the end of a finished training, with one epoch or more, in one line: the best epoch, or the last one of a known length."""
    phase = "" if training.phase == "train" else f", {training.phase}"
    said = f"{training.stage}{phase}: {counted(state.epoch, 'epoch')}"
    if training.course is None and state.kept_start:
        return f"{said}, none better than the start"
    which, entry = ("last", state.history[-1]) if training.course else ("best", state.history[state.best_epoch - 1])
    return f"{said}, {which} epoch {entry['epoch']}: {_figures(entry)}"


def _trained_tensors(training: Training) -> dict[str, Tensor]:
    """Return the tensors of the network's state that a training may change.
    Left out are frozen layers, individually frozen tensors, and the moving averages in the layers of the latter."""
    frozen, state = training.frozen, training.network.state()
    still = {name.rpartition(".")[0] for name in frozen if name in state}  # partly frozen layers run in inference mode
    parameters = {name for names in training.network.layer_parameters().values() for name in names} if still else set()
    return {
        name: tensor
        for name, tensor in state.items()
        if name not in frozen and (layer := name.rpartition(".")[0]) not in frozen and (layer not in still or name in parameters)
    }


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies of `tensors`."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def restore_(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy the `saved` values into the `tensors` of the same names, in place."""
    with torch.no_grad():
        for name, values in saved.items():
            tensors[name].copy_(values)


def _save(training: Training, state: TrainingState, *, optimizer: Optimizer) -> None:
    if training.checkpoint is None:
        return
    plain = {name: getattr(state, name) for name in _STORED} | {"course": asdict(state.course), "plateau": asdict(state.plateau)}
    tensors = {"tensors": copied(_trained_tensors(training)), "optimizer": deepcopy(optimizer.state_dict())}
    training.checkpoint.write({**tensors, **plain, "history": list(state.history)})


def _resumed(training: Training, optimizer: Optimizer) -> TrainingState | None:
    """Restore network and optimizer from the checkpoint, or else from `training.begun`; return None if there is neither."""
    saved = training.team.first((training.checkpoint.read() if training.checkpoint is not None else None) or training.begun)
    if saved is None:
        return None
    restore_(_trained_tensors(training), saved["tensors"])
    optimizer.load_state_dict(saved["optimizer"])
    plain = {name: saved[name] for name in _STORED} | {"history": [entry | {"phase": training.phase} for entry in saved["history"]]}
    return TrainingState(**plain, course=Course(**saved["course"]), plateau=PlateauFactor(**saved["plateau"]))
