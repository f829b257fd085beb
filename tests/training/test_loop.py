"""The one loop: what it learns, when it stops, what it leaves frozen, and that it goes on after a kill."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples

from regraft.errors import SettingError
from regraft.freezing import frozen_up_to
from regraft.heads import branch
from regraft.networks.network import Network
from regraft.networks.torch.family import open_torch
from regraft.tasks import chosen_loss
from regraft.training import Checkpoint, Feed, Objective, Settings, TaskObjective, Training, train
from regraft.training.loop import TrainingState, _finished, _frozen_now, _note_


@dataclasses.dataclass(frozen=True)
class ArrayFeed(Feed):
    """Rows of one tensor through the whole network."""

    network: Network
    items: torch.Tensor
    views: int = 1

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Any:
        return self.items[indices] + torch.from_numpy(views).float().reshape(-1, 1, 1, 1)

    def scores(self, payload: Any) -> Any:
        return self.network.scores(payload)


def _training(settings: dict[str, Any] | None = None, *, frozen: Any = frozenset(), checkpoint: Any = None, **fields: Any) -> Training:
    torch.manual_seed(0)
    network = open_torch(examples.Cnn(), inputs=(1, 8, 8))
    X, y = examples.pictures(48)
    targets = torch.from_numpy(np.unique(y, return_inverse=True)[1])
    given = Settings.of({"epochs": 4, "batch_size": 8, "learning_rate": 0.01, "patience": None} | (settings or {}))
    layers = frozen_up_to(network, frozen) if isinstance(frozen, (int, str)) else frozen
    plain = {"class_weight": None} | fields
    objective = Objective((TaskObjective("main", chosen_loss(None, "classification"), targets, **plain),))
    return Training(
        network, ArrayFeed(network, torch.from_numpy(X)), objective, np.arange(36), np.arange(36, 48), given, 3, layers, checkpoint
    )


def _state(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.network.state().items()}


def test_the_loss_falls_and_the_history_tells_it() -> None:
    history = train(_training({"epochs": 12}))
    assert [entry["epoch"] for entry in history] == list(range(1, 13))
    assert history[-1]["train_loss"] < 0.6 * history[0]["train_loss"]
    assert {"stage", "validation_loss", "validation_accuracy", "learning_rate", "seconds"} <= history[0].keys()


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = _training(), _training(), dataclasses.replace(_training(), seed=4)
    for training in (first, second, other):
        train(training)
    assert examples.bit_equal(_state(first), _state(second))
    assert not examples.bit_equal(_state(first), _state(other))


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop", "nadam"])
@pytest.mark.parametrize("schedule", ["auto", "cosine", "plateau", "constant"])
def test_every_optimizer_learns_with_every_schedule(optimizer: str, schedule: str) -> None:
    rate = 0.05 if optimizer == "sgd" else 0.01
    history = train(_training({"optimizer": optimizer, "schedule": schedule, "learning_rate": rate, "epochs": 6}))
    assert min(entry["train_loss"] for entry in history) < history[0]["train_loss"]


def test_frozen_layers_stay_bit_equal_and_the_rest_moves() -> None:
    training = _training(frozen="conv2")
    before = _state(training)
    training.network.module.drop1.register_forward_hook(lambda module, _args, _out: seen.append(module.training))
    seen: list[bool] = []
    train(training)
    after = _state(training)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.split(".")[0] in {"conv1", "norm1", "conv2"}}
    assert seen
    assert not any(seen)  # dropout between frozen layers is off


def test_staged_unfreezing_opens_block_by_block_from_the_top() -> None:
    training = _training({"epochs": 4, "unfreeze_every": 1, "schedule": "constant"}, frozen="conv1")
    opened = [{"norm1", "conv2", "norm2", "fc1", "fc2"} - _frozen_now(training, epoch) for epoch in range(6)]
    assert opened == [
        {"fc2"},
        {"fc1", "fc2"},
        {"norm2", "fc1", "fc2"},
        {"conv2", "norm2", "fc1", "fc2"},
        {"norm1", "conv2", "norm2", "fc1", "fc2"},
        {"norm1", "conv2", "norm2", "fc1", "fc2"},
    ]
    states = [_state(training)]

    class Watching(Checkpoint):
        def write(self, content: dict[str, Any]) -> None:
            states.append({name: tensor.clone() for name, tensor in training.network.state().items()})

        def read(self) -> None:
            return None

    train(dataclasses.replace(training, checkpoint=Watching(Path("unused"), "run")))
    for epoch, (before, after) in enumerate(itertools.pairwise(states)):
        moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved == opened[epoch]  # BatchNorm statistics of closed blocks included


def test_staged_unfreezing_opens_all_heads_first() -> None:
    training = _training({"epochs": 4, "unfreeze_every": 1})
    both = branch(training.network, "mood", ("bad", "good"))
    layers = frozenset(layer.name for layer in both.layers)
    opened = [layers - _frozen_now(dataclasses.replace(training, network=both), epoch) for epoch in range(2)]
    assert opened == [{"fc2", "branches.mood"}, {"fc1", "fc2", "branches.mood"}]


def test_the_best_weights_are_restored() -> None:
    states: list[dict[str, torch.Tensor]] = []
    training = _training({"epochs": 5, "learning_rate": 0.5, "schedule": "constant", "optimizer": "sgd"})
    start = _state(training)

    class Watching(Checkpoint):
        def write(self, content: dict[str, Any]) -> None:
            states.append({name: tensor.clone() for name, tensor in training.network.state().items()})

        def read(self) -> None:
            return None

    history = train(dataclasses.replace(training, checkpoint=Watching(Path("unused"), "run")))
    losses = [entry["calibrated_loss"] for entry in history]
    best = states[int(np.nanargmin(losses))]
    assert examples.bit_equal(_state(training), best) or examples.bit_equal(_state(training), start)
    assert len({id(state) for state in states}) == 5


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "stops_after"),
    [
        ([1.0, 0.9, 0.8, 0.7], 1, 0.0, None),
        ([1.0, 0.9, 0.95, 0.91, 0.8], 2, 0.0, 4),
        ([1.0, 0.99, 0.98, 0.5], 2, 0.05, 3),
        ([1.0, 1.0, 1.0], None, 0.0, None),
        ([1.0, float("nan"), float("nan")], 2, 0.0, 3),
    ],
)
def test_early_stopping_on_made_histories(losses: list[float], patience: int | None, min_delta: float, stops_after: int | None) -> None:
    training = _training({"patience": patience, "min_delta": min_delta, "schedule": "constant", "epochs": 9})
    state = TrainingState(0.1)
    for loss in losses:
        if _finished(training, state, limit=9):
            break
        _note_(training, state, entry={"epoch": state.epoch + 1, "train_loss": 0.0, "validation_loss": loss})
    assert (state.epoch if _finished(training, state, limit=9) else None) == stops_after


def test_nothing_to_select_with_takes_the_fitting_loss() -> None:
    history = train(dataclasses.replace(_training(), validation=np.arange(0)))
    assert all("validation_loss" not in entry for entry in history)


@pytest.mark.parametrize("heavy", [0, 2])
def test_class_weights_move_the_answer(heavy: int) -> None:
    """Items that are all alike are given to the class that weighs most."""
    training = _training({"epochs": 6, "learning_rate": 0.05}, class_weight=torch.where(torch.arange(3) == heavy, 10.0, 1.0))
    alike = dataclasses.replace(training, feed=ArrayFeed(training.network, torch.zeros(48, 1, 8, 8)), validation=np.arange(0))
    train(alike)
    with torch.no_grad():
        assert (training.network.scores(torch.zeros(4, 1, 8, 8))["main"].argmax(1) == heavy).all()


def test_clipping_bounds_the_step() -> None:
    moved = []
    for clip in (1e-4, None):
        training = _training(
            {
                "optimizer": "sgd",
                "momentum": 0.0,
                "weight_decay": 0.0,
                "clip_norm": clip,
                "epochs": 1,
                "schedule": "constant",
                "layer_decay": 1.0,
            }
        )
        names = [name for name, _ in training.network.module.named_parameters()]
        before = _state(training)
        train(training)
        after = _state(training)
        moved.append(float(torch.cat([(after[name] - before[name]).flatten() for name in names]).norm()))
    assert moved[0] <= 0.01 * 1e-4 * 5 * 1.01  # rate x norm x steps
    assert moved[1] > 10 * moved[0]


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "settings",
    [{}, {"schedule": "plateau"}, {"epochs": 12, "patience": 1}, {"unfreeze_every": 2, "learning_rate": None, "optimizer": "sgd"}],
)
@pytest.mark.parametrize("after", [1, 3])
def test_a_run_goes_on_to_the_same_weights(tmp_path: Path, after: int, settings: dict[str, Any]) -> None:
    whole = _training({"epochs": 5} | settings, frozen="norm1")
    history = train(whole)

    class Dying(Checkpoint):
        def write(self, content: dict[str, Any]) -> None:
            super().write(content)
            if content["epoch"] == after:
                raise Killed

    with pytest.raises(Killed):
        train(_training({"epochs": 5} | settings, frozen="norm1", checkpoint=Dying(tmp_path / "x.pt", "run")))
    resumed = _training({"epochs": 5} | settings, frozen="norm1", checkpoint=Checkpoint(tmp_path / "x.pt", "run"))
    merged = train(resumed)
    assert examples.bit_equal(_state(whole), _state(resumed))
    assert [{k: v for k, v in entry.items() if k != "seconds"} for entry in merged] == [
        {k: v for k, v in entry.items() if k != "seconds"} for entry in history
    ]
    assert train(_training({"epochs": 5} | settings, frozen="norm1", checkpoint=Checkpoint(tmp_path / "x.pt", "run"))) == merged


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    train(_training(checkpoint=Checkpoint(tmp_path / "x.pt", "run")))
    with pytest.raises(SettingError, match="another plan"):
        train(_training(checkpoint=Checkpoint(tmp_path / "x.pt", "other")))
