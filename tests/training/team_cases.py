"""Two processes train as one does: the same losses, steps and choices, whatever the loss, in both families."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import regraft
from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.scale import WorkerLostError
from regraft.tasks import chosen_loss
from regraft.training import Objective, Settings, TaskObjective, Training, WholeFeed, loop, team
from regraft.training.loop import TrainingState, trained
from regraft.training.recipe import _moving_statistics
from regraft.training.team import ALONE, Team

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the second process is a fork of this one")


@contextmanager
def _two() -> Iterator[Team]:
    """Be the first of two processes, of which the other does the same and ends."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    child = os.fork()
    if child == 0:
        try:
            with team._group(TCPStore("127.0.0.1", store.port, is_master=False), 1, size=2) as other:
                yield other
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    with team._group(store, 0, size=2) as first:
        yield first
    os.waitpid(child, 0)


def _forked(work: Callable[[Any, Team], Any], begun: Callable[[], Any], **_named: Any) -> Any:
    with _two() as processes:
        return work(begun(), processes)


def _training(family: str, settings: dict[str, Any], **fields: Any) -> Training:
    X, y = examples.pictures(48)
    torch.manual_seed(0)
    norm = fields.pop("norm", False)  # a bias below one has no gradient but rounding, of which Adam makes whole steps
    middle: list[Any]
    if family == "torch":
        middle = [torch.nn.BatchNorm2d(4)] if norm else []
        layers = [torch.nn.Conv2d(1, 4, 3, bias=not norm), *middle, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
        network = regraft.load(torch.nn.Sequential(*layers, torch.nn.Linear(4, 3)), inputs=(1, 8, 8))
    else:
        keras = pytest.importorskip("keras")
        keras.utils.set_random_seed(0)
        middle = [keras.layers.BatchNormalization()] if norm else []
        layers = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, use_bias=not norm), *middle, keras.layers.ReLU()]
        layers.append(keras.layers.GlobalAveragePooling2D())
        network, X = regraft.load(keras.Sequential([*layers, keras.layers.Dense(3)])), np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    data = read((X, y))
    items = PreparedData(data, preprocessing_from_dict({"kind": "array", "shape": list(X.shape[1:])}))
    targets = torch.from_numpy(np.where(np.arange(48) % 11, np.unique(y, return_inverse=True)[1], -1))  # some are not known
    weights = torch.tensor([0.2, 1.0, 3.0]) if fields.pop("weighted", False) else None
    objective = Objective((TaskObjective(network.head.task, chosen_loss(None, "classification"), targets, weights),))
    given = Settings.of({"epochs": 3, "batch_size": 8, "learning_rate": 3e-3, "patience": None} | settings)
    feed = WholeFeed(network, items, 1, torch.device("cpu"))
    made = Training(network, feed, objective, np.arange(35), np.arange(35, 48), given, 3, frozenset(), **fields)
    return replace(made, frozen=_moving_statistics(made)) if given.batch_norm == "frozen" else made


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "class weights, clipping, l1": {"clip_norm": 0.1, "l1": 1e-3, "label_smoothing": 0.1, "weighted": True},
    "stay near, unfreezing": {"stay_near": 0.1, "unfreeze_every": 1},
    "small and unequal parts": {"batch_size": 3},
    "BatchNorm": {"norm": True},
    "BatchNorm, parts of one": {"norm": True, "batch_size": 3, "epochs": 1},
    "BatchNorm with frozen statistics": {"norm": True, "batch_norm": "frozen"},
}


def _same(one: TrainingState, two: TrainingState, *, off: float = 2e-6) -> None:
    assert (one.epoch, one.best_epoch) == (two.epoch, two.best_epoch)
    for first, second in zip(one.history, two.history, strict=True):
        assert first.keys() == second.keys()
        for name in [name for name, value in first.items() if isinstance(value, float) and name != "seconds"]:
            assert second[name] == pytest.approx(first[name], abs=off), name


@pytest.mark.parametrize("named", CASES)
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_two_processes_train_as_one(family: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "in_team", _forked)
    given = dict(CASES[named])
    own = {name: given.pop(name, False) for name in ("weighted", "norm")}
    one, two = (_training(family, given, **own, cluster=cluster) for cluster in (None, "auto"))
    _same(trained(one), trained(two))
    pairs = zip(one.network.state().values(), two.network.state().values(), strict=True)
    assert all(torch.allclose(first.float(), second.float(), atol=1e-5) for first, second in pairs)


def test_a_lost_process_is_said_and_the_training_goes_on_with_those_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process ends in the second epoch; the first epoch is not trained again."""
    seen: list[int] = []

    def lost(work: Any, begun: Any, **_named: Any) -> Any:
        with pytest.raises(WorkerLostError), _two() as processes:
            if processes.rank:
                again = begun()
                work(replace(again, on_epoch=lambda entry: os._exit(0) if entry["epoch"] == 2 else None), processes)
            work(replace(begun(), on_epoch=lambda entry: seen.append(entry["epoch"])), processes)
        return work(replace(begun(), on_epoch=lambda entry: seen.append(entry["epoch"])), ALONE)

    monkeypatch.setattr(loop, "in_team", lost)
    one, two = (_training("torch", {}, cluster=cluster) for cluster in (None, "auto"))
    _same(trained(one), trained(two))
    assert seen == [1, 2, 3]


def test_what_keeps_its_batches_small_has_no_more_processes_than_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    monkeypatch.setattr(loop, "in_team", lambda work, begun, **named: found.append(named["most"]) or work(begun(), ALONE))
    trained(_training("torch", {"batch_size": 3, "epochs": 1}, cluster="auto"))
    assert found == [35 // 12]
