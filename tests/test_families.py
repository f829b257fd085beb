"""What is promised holds for PyTorch and Keras alike: one table of networks, one row a promise."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples

import regraft
from regraft.training import Checkpoint, loop

keras = pytest.importorskip("keras")
layers = keras.layers

PICTURES = np.random.default_rng(0).normal(size=(60, 8, 8, 1)).astype(np.float32)
LABELS = np.array(["cat", "dog", "bus"] * 20)
PICTURES[LABELS == "cat", :4] += 1
PICTURES[LABELS == "dog", :, :4] += 1


def functional() -> Any:
    entry = keras.Input((8, 8, 1))
    middle = layers.BatchNormalization(name="norm1")(layers.Conv2D(4, 3, name="conv1")(entry))
    middle = layers.Dropout(0.3)(layers.ReLU()(middle))
    middle = layers.BatchNormalization(name="norm2")(layers.Conv2D(4, 3, name="conv2")(middle))
    middle = layers.Dropout(0.3)(layers.Dense(8, activation="relu", name="fc1")(layers.Flatten()(middle)))
    return keras.Model(entry, layers.Dense(5, activation="softmax", name="fc2")(middle))


def sequential() -> Any:
    steps = [layers.Conv2D(4, 3, name="conv1"), layers.BatchNormalization(name="norm1"), layers.ReLU(), layers.Dropout(0.3)]
    steps += [layers.Conv2D(4, 3, name="conv2"), layers.BatchNormalization(name="norm2"), layers.Flatten()]
    return keras.Sequential([keras.Input((8, 8, 1)), *steps, layers.Dense(8, name="fc1"), layers.Dense(5, name="fc2"), layers.Softmax()])


@keras.saving.register_keras_serializable("regraft-tests")
class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.conv1, self.norm1 = layers.Conv2D(4, 3, name="conv1"), layers.BatchNormalization(name="norm1")
        self.conv2, self.norm2 = layers.Conv2D(4, 3, name="conv2"), layers.BatchNormalization(name="norm2")
        self.flat, self.drop = layers.Flatten(), layers.Dropout(0.3)
        self.fc1, self.fc2 = layers.Dense(8, name="fc1"), layers.Dense(5, activation="softmax", name="fc2")

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        middle = keras.ops.relu(self.norm1(self.conv1(inputs), training=training))
        middle = self.drop(self.flat(self.norm2(self.conv2(middle), training=training)), training=training)
        return self.fc2(self.fc1(middle))


def subclassed() -> Any:
    model = Subclassed()
    model(np.zeros((1, 8, 8, 1), np.float32))
    return model


def torch_cnn() -> Any:
    torch.manual_seed(0)
    return torch_examples.Cnn(5)


NETWORKS: dict[str, Callable[[], Any]] = {"torch": torch_cnn, "functional": functional, "sequential": sequential, "subclassed": subclassed}
every_network = pytest.mark.parametrize("name", NETWORKS)
QUICK: dict[str, Any] = {"epochs": 3, "learning_rate": 1e-2, "cache": "memory", "validation": 0, "patience": None}


def opened(name: str) -> tuple[regraft.Network, tuple[np.ndarray, np.ndarray]]:
    pictures = np.moveaxis(PICTURES, 3, 1) if name == "torch" else PICTURES
    return regraft.load(NETWORKS[name](), inputs=pictures.shape[1:]), (pictures, LABELS)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], *, but: str = "\0") -> bool:
    return all(torch.equal(first[key], second[key]) for key in first if but not in key)


@every_network
@pytest.mark.parametrize("cache", ["memory", None])
def test_frozen_layers_are_bit_equal_with_their_statistics_and_the_rest_learns(name: str, cache: str | None) -> None:
    net, data = opened(name)
    before = {key: value.clone() for key, value in net.state().items()}
    after = regraft.adapt(net, data, strategy="partial", frozen="norm1", **(QUICK | {"cache": cache})).network.state()
    for key in before:
        if key.startswith(("conv1", "norm1")):
            assert torch.equal(before[key], after[key]), key
    assert not torch.equal(
        before[next(key for key in before if key.startswith("conv2"))], after[next(key for key in after if key.startswith("conv2"))]
    )
    moving = [key for key in before if key.startswith("norm2") and ("mean" in key)]
    assert moving and not torch.equal(before[moving[0]], after[moving[0]])  # BatchNorm that is trained moves
    assert equal(before, net.state())  # the network given does not


@every_network
def test_the_cache_changes_cost_and_not_the_result(name: str) -> None:
    net, data = opened(name)
    cached, plain = (regraft.adapt(net, data, strategy="head", **(QUICK | {"cache": cache})) for cache in ("memory", None))
    assert cached.cost["frozen_forward_examples"] == len(LABELS) < plain.cost["frozen_forward_examples"]
    np.testing.assert_allclose(cached.network.logits(data[0]), plain.network.logits(data[0]), rtol=2e-3, atol=2e-4)


@every_network
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    net, data = opened(name)
    first, second = (regraft.adapt(net, data, strategy="full", seed=3, **QUICK).network.state() for _ in range(2))
    assert equal(first, second, but="seed_generator")


@pytest.mark.usefixtures("without_onnx_form")
@every_network
def test_a_run_that_is_killed_goes_on_to_the_same_weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = opened(name)
    options = QUICK | {"strategy": "partial", "frozen": "norm1", "views": 2, "refit": False}
    whole = regraft.adapt(net, data, **options)
    write, written = Checkpoint.write, []

    def dying(self: Checkpoint, content: dict[str, Any]) -> None:
        write(self, content)
        written.append(content.get("epoch"))
        if len(written) == 6:  # three epochs of the head, the choice of settings, two epochs of the rest
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        regraft.adapt(net, data, out=tmp_path / "out", **options)
    monkeypatch.setattr(Checkpoint, "write", write)
    resumed = regraft.adapt(net, data, out=tmp_path / "out", **options)
    assert equal(whole.network.state(), resumed.network.state(), but="seed_generator")
    assert [entry.get("train_loss") for entry in whole.history] == [entry.get("train_loss") for entry in resumed.history]


PREDICT = """
import json, os, sys, traceback
import keras, numpy as np, regraft, torch
for line in sys.stdin:
    child = os.fork()
    if child:
        print(os.waitpid(child, 0)[1], flush=True)
        continue
    try:
        folder, scores, name, items = json.loads(line)
        if name == "subclassed":  # the class fixes its number of outputs, so the folder is opened with it
            from tests.test_families import subclassed
        net = regraft.load(folder, architecture=subclassed if name == "subclassed" else None)
        np.save(scores, net.logits(np.load(items)))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
"""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Callable[..., None]]:
    """Return what predicts in a new process: the child of one that has imported the libraries and nothing of the tests."""
    command = [sys.executable, "-c", PREDICT]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:

        def predict(*job: Any) -> None:
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps([str(part) for part in job]), file=process.stdin, flush=True)
            assert process.stdout.readline() == "0\n"

        yield predict


@every_network
def test_another_process_opens_the_folder_and_gives_the_same_scores(name: str, tmp_path: Path, elsewhere: Any) -> None:
    net, data = opened(name)
    result = regraft.adapt(net, data, strategy="head", out=tmp_path / "out", **QUICK)
    np.save(tmp_path / "items.npy", data[0])
    elsewhere(tmp_path / "out", tmp_path / "scores.npy", name, tmp_path / "items.npy")
    allowed = 1e-5 if name == "torch" else 0  # ONNX Runtime sums in another order
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), result.network.logits(data[0]), rtol=allowed, atol=allowed)
    if name == "subclassed":
        with pytest.raises(regraft.RegraftError, match="architecture="):
            regraft.load(tmp_path / "out")
    elif name != "torch":  # and plain Keras opens the file, with the softmax inside
        model = keras.models.load_model(tmp_path / "out" / "network.keras")
        np.testing.assert_allclose(model.predict(data[0], verbose=0), result.network.predict(data[0]).probabilities, atol=1e-6)


@every_network
def test_staged_unfreezing_opens_the_head_first(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more epochs a stage than epochs in all, only the head has been opened: all else is bit-equal, statistics too."""
    net, data = opened(name)
    before = {key: value.clone() for key, value in net.state().items()}
    options = QUICK | {
        "learning_rate": 1e-3,
        "optimizer": "nadam",
        "schedule": "plateau",
        "layer_decay": 0.5,
        "clip_norm": 1.0,
        "class_weight": "balanced",
    }
    closed = regraft.adapt(net, data, strategy="full", unfreeze_every=9, **options).network.state()
    assert all(torch.equal(before[key], closed[key]) for key in before if not key.startswith("fc2") and "seed" not in key)
    steps: list[set[str]] = []
    inner = loop._fit_step

    def watching(training: Any, *args: Any, **named: Any) -> float:
        parameters = training.network.layer_parameters()
        steps.append({layer for layer, own in parameters.items() if any(value.requires_grad for value in own.values())})
        return inner(training, *args, **named)

    monkeypatch.setattr(loop, "_fit_step", watching)
    regraft.adapt(net, data, strategy="full", unfreeze_every=1, **options)
    stages = [opened for index, opened in enumerate(steps) if index == 0 or opened != steps[index - 1]]
    assert stages[:2] == [{"fc2"}, {"fc1", "fc2"}] and stages[1] < stages[2] and "conv1" not in stages[2]


@every_network
def test_the_heads_copy_of_its_rows_is_the_trained_one(name: str) -> None:
    net, data = opened(name)
    adapted = regraft.adapt(net, data, strategy="head", **QUICK).network
    features = adapted.features(data[0])
    np.testing.assert_allclose(features @ adapted.head.weight.T + adapted.head.bias, adapted.logits(data[0]), rtol=1e-4, atol=1e-4)
    row, bias = adapted.head.row("Dog ")
    np.testing.assert_array_equal(row, adapted.head.weight[list(adapted.classes).index("dog")])
    assert bias == adapted.head.bias[list(adapted.classes).index("dog")]


@every_network
def test_the_heads_copy_of_its_rows_is_the_drawn_one(name: str) -> None:
    net, _ = opened(name)
    drawn = net.reinitialised(3)
    weight, bias = drawn.rows(drawn.head.layer)
    assert np.array_equal(drawn.head.weight, weight) and np.array_equal(drawn.head.bias, bias)
    assert not np.array_equal(drawn.head.weight, net.head.weight)


@every_network
def test_short_forms_say_what_it_is(name: str) -> None:
    net, (pictures, labels) = opened(name)
    assert "5 outputs without names" in repr(net) and "blocks" in repr(net) and len(repr(net)) < 200
    told = repr(regraft.retarget(net, ["cat", "dog", "bus", "car", "cow", "hen"]))
    assert "main: classification, 6 classes (cat, dog, bus, car, cow and 1 more)" in told
    data = regraft.read((pictures, labels))
    assert repr(data) == "<Dataset of 60 examples (array); main: classification, 3 classes (bus, cat, dog)>"
    result = regraft.adapt(net, data, strategy="head", **QUICK)
    assert repr(result) == f"<Result of strategy 'head': {result.verdict}>"
    assert repr(result.history).startswith(f"<History of {len(result.history)} epochs") and "loss" in result.history._repr_html_()
    assert repr(result.account) == "<Account: 3 new, 5 dropped>" and "dropped" in result.account._repr_html_()


@every_network
def test_a_history_by_column_as_keras_has_it(name: str) -> None:
    net, data = opened(name)
    result = regraft.adapt(net, data, strategy="full", **QUICK | {"validation": 0.2, "refit": False})
    columns = dict(result.history)
    assert columns["loss"] == [entry["train_loss"] for entry in result.history if entry["phase"] == "train"]
    assert set(columns) == {"loss", "val_loss", "val_accuracy", "learning_rate"} and len(set(map(len, columns.values()))) == 1
    for key, values in dict(result.history).items():
        columns[key] += values
    assert result.history[0]["epoch"] == 1 and result.history[-1:][0] == result.history[-1]
    with pytest.raises(KeyError, match="has the columns 'loss'"):
        result.history["accuracy"]
    frame = result.history.to_frame()
    assert len(frame) == len(result.history) and "train_loss" in frame.columns


@every_network
def test_epochs_go_on_counting_over_two_trainings(name: str) -> None:
    net, data = opened(name)
    quick, told = QUICK | {"validation": 0.2, "refit": False, "epochs": 2}, list[int]()
    first = regraft.adapt(net, data, strategy="head", **quick)
    second = regraft.adapt(first.network, data, strategy="head", callbacks=lambda epoch, logs: told.append(epoch), **quick)
    assert first.history.epoch == [0, 1] and second.history.epoch == told == [2, 3]
    assert [(entry["run"], entry["epoch"]) for entry in second.history] == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert second.history.to_frame()["epoch"].tolist() == [1, 2, 3, 4]
    assert dict(second.history)["loss"] == [entry["train_loss"] for entry in second.history[2:]]
    third = regraft.adapt(second.network, data, strategy="full", **quick)  # rates are compared in it
    assert min(third.history.epoch) == 4 and len(third.history.epoch) == len(third.history["loss"])


@pytest.mark.parametrize("name", ["torch", "functional", "sequential"])
@pytest.mark.usefixtures("without_onnx_form")
def test_an_adapted_network_is_adapted_again(name: str, tmp_path: Path) -> None:
    """By the default strategy too, whose head reads several depths; then by a third one, from its folder."""
    net, data = opened(name)
    first = regraft.adapt(net, data, strategy="probe", cache="memory").network
    second = regraft.adapt(first, data, strategy="auto", **QUICK).network
    assert regraft.profile(first, data, cache="memory").summary()
    own = {"architecture": NETWORKS[name]()} if name == "torch" else {}
    third = regraft.adapt(regraft.load(second.save(tmp_path / "second"), **own), data, strategy="probe", cache="memory").network
    again = regraft.load(third.save(tmp_path / "third"), **own)
    assert np.allclose(again.logits(data[0]), third.logits(data[0]), atol=1e-5)
    for made in (first, second, third):
        assert (np.array(made.predict(data[0]).labels) == data[1]).mean() > 0.8
