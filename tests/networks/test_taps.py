"""Networks that are read at several depths at once: values by hand, both families alike, saved and opened again."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from tests import torch_examples as examples
from tests.networks import keras_examples
from tests.networks.keras_examples import L, keras
from tests.zoo.torch_networks import FunctionalHead
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError
from regraft.networks.network import Head, Network, Tap, TapSlice
from regraft.networks.torch.family import open_torch

POOLS = ("mean", "std", "rows", "columns", "token")


class Signal(nn.Module):
    """Maps (N, C, L): the channels are not the last axis, though there are three."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.norm, self.head = nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.low(x)).relu().mean(2))


def transformer() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    return transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=3))


def plain_keras() -> Any:
    image = keras.Input((11, 9, 2))
    x = L.Conv2D(5, 3, padding="same", name="one")(image)
    x = L.Conv2D(6, 3, strides=2, activation="relu", name="two")(L.ReLU()(x))
    return keras.Model(image, L.Dense(3, name="scores")(L.GlobalAveragePooling2D()(x)))


NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "cnn": (examples.Cnn, (1, 8, 8)),
    "timm": (lambda: timm.create_model("test_resnet", num_classes=3), (3, 32, 32)),
    "transformer": (transformer, (3, 16, 16)),
    "recurrent": (examples.Recurrent, (6, 4)),
    "signal": (Signal, (2, 12)),
    "functional": (plain_keras, (11, 9, 2)),
    "sequential": (keras_examples.speaker_network, (40, 99, 1)),
    "nested": (keras_examples.nested_network, (16, 16, 3)),
}
CHANNELS_FIRST = {"signal", "cnn", "timm"}
_OPENED: dict[str, Network] = {}


def opened(name: str) -> Network:
    """Return a network of the table, its BatchNorm not at its start."""
    if name not in _OPENED:
        make, shape = NETWORKS[name]
        torch.manual_seed(0)
        net = regraft.load(make(), inputs=shape)
        for key, values in net.state().items():
            if "running_mean" in key or "moving_mean" in key:
                values.copy_(torch.linspace(-0.2, 0.2, len(values)))
        _OPENED[name] = net
    return _OPENED[name]


def points(net: Network) -> list[Tap]:
    return [Tap("input", POOLS), *(Tap(block.name, POOLS) for block in net.blocks)]


def by_hand(values: np.ndarray, pool: str, *, first: bool) -> np.ndarray:
    """Return one pool in float64, position by position."""
    if values.ndim == 2:
        return values
    whole = np.moveaxis(values, 1, -1) if first else values
    flat = whole.reshape(len(whole), -1, whole.shape[-1])
    if pool == "mean":
        return flat.sum(1) / flat.shape[1]
    if pool == "std":
        return np.sqrt(((flat - flat.mean(1, keepdims=True)) ** 2).mean(1) + 1e-6)
    if pool == "token":
        return whole[:, 0]
    line = whole.mean(2) if pool == "rows" else whole.mean(1)
    size, cells = line.shape[1], min(8, line.shape[1])
    means = [line[:, cell * size // cells : math.ceil((cell + 1) * size / cells)].mean(1) for cell in range(cells)]
    return np.concatenate(means, 1)


def raw_output(net: Network, block: str, batch: Tensor) -> np.ndarray:
    """Return the tensor at the end of a block, not pooled."""
    if block == "input":
        return batch.numpy().astype(float)
    ended = net.ended(block)
    ended.mode_(False)
    with torch.no_grad():
        result = ended.module(batch) if ended.family == "torch" else ended.module(batch, training=False)
    while not isinstance(result, Tensor):
        result = result[0]
    return result.numpy().astype(float)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_column_is_the_pool_it_is_called_by(name: str) -> None:
    net = opened(name)
    before = {key: value.clone() for key, value in net.state().items()}
    tapped = net.tapped(points(net))
    batch = torch.randn(3, *NETWORKS[name][1], generator=torch.Generator().manual_seed(1))
    tapped.mode_(False)
    with torch.no_grad():
        found = tapped.feature_batch(batch).numpy()
    assert not tapped.heads and all(torch.equal(value, before[key]) for key, value in net.state().items())
    assert [part.start for part in tapped.body.tap_slices] == [0, *(part.stop for part in tapped.body.tap_slices[:-1])]
    assert found.shape == (3, tapped.body.tap_slices[-1].stop)
    for part in tapped.body.tap_slices:
        values = raw_output(net, part.block, batch)
        first = values.ndim > 2 and (name in CHANNELS_FIRST or (name == "transformer" and values.ndim == 4))
        expected = {2: {"vector"}, 3: {"mean", "std", "token"}, 4: {"mean", "std", "rows", "columns"}}[values.ndim]
        assert {other.pool for other in tapped.body.tap_slices if other.block == part.block} == expected
        np.testing.assert_allclose(
            found[:, part.start : part.stop], by_hand(values, part.pool, first=first), rtol=1e-4, atol=1e-5, err_msg=str(part)
        )


def with_new_head(tapped: Network) -> Network:
    width = tapped.body.tap_slices[-1].stop
    weight = np.random.default_rng(0).normal(size=(2, width)).astype(np.float32)
    return tapped.with_head(Head("main", ("a", "b"), "classification", "linear", "", weight, np.zeros(2, np.float32)))


@pytest.mark.parametrize("name", ["cnn", "functional", "nested", pytest.param("signal", marks=pytest.mark.slow)])
def test_with_a_head_it_saves_and_opens_to_the_bit(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    tapped = opened(name).tapped(points(opened(name))[:-1])
    headed = with_new_head(tapped)
    batch = np.random.default_rng(1).normal(size=(5, *shape)).astype(np.float32)
    np.testing.assert_allclose(headed.logits(batch), tapped.features(batch) @ headed.head.weight.T, rtol=1e-4, atol=1e-4)
    assert headed.body.tap_slices == tapped.body.tap_slices
    for number, net in enumerate((headed,) if name == "cnn" else (tapped, headed)):  # to write PyTorch without its class takes seconds
        folder = net.save(tmp_path / str(number))
        again = regraft.load(folder, architecture=make) if net.family == "torch" else regraft.load(folder)
        assert again.body.tap_slices == net.body.tap_slices
        assert [block.name for block in again.blocks] == [block.name for block in net.blocks]
        assert np.array_equal(again.features(batch), net.features(batch))
    assert again.classes == ("a", "b")
    assert np.array_equal(again.logits(batch), headed.logits(batch))
    if headed.family == "torch":  # a class of the user's own: its program is beside it
        np.testing.assert_allclose(regraft.load(folder).logits(batch), headed.logits(batch), rtol=1e-5, atol=1e-5)


def test_the_keras_file_opens_without_regraft(tmp_path: Path) -> None:
    headed = with_new_head(opened("nested").tapped(points(opened("nested"))[:-1]))
    batch = torch.randn(3, 16, 16, 3)
    plain = keras.saving.load_model(headed.export(tmp_path / "net.keras"), compile=False, safe_mode=True)
    assert {type(layer).__module__.split(".")[0] for layer in plain.layers} == {"keras"}
    with torch.no_grad():
        assert torch.equal(plain(batch, training=False), headed.scores(batch)["main"])


def test_both_families_give_the_same_numbers() -> None:
    theirs = plain_keras()
    ours = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 6, 3, stride=2), nn.ReLU())
    with torch.no_grad():
        for layer, name in ((ours[0], "one"), (ours[2], "two")):
            kernel, bias = (torch.tensor(value) for value in theirs.get_layer(name).get_weights())
            layer.weight.copy_(kernel.permute(3, 2, 0, 1))
            layer.bias.copy_(bias)
    one, two = regraft.load(theirs), regraft.load(ours, inputs=(2, 11, 9))
    last = one.ended("one").blocks[0].name
    first = one.tapped([Tap("input", POOLS), Tap(last, POOLS)])
    second = two.tapped([Tap("input", POOLS), Tap("0", POOLS)])
    batch = np.random.default_rng(0).normal(2, 3, size=(4, 11, 9, 2)).astype(np.float32)
    assert [part[1:] for part in first.body.tap_slices] == [part[1:] for part in second.body.tap_slices]
    np.testing.assert_allclose(first.features(batch), second.features(batch.transpose(0, 3, 1, 2)), rtol=1e-5, atol=1e-5)


def test_gradients_flow_and_constants_have_one() -> None:
    for name in ("cnn", "functional"):
        tapped = opened(name).tapped([Tap(block.name, ("std", "rows")) for block in opened(name).blocks[:2]])
        tapped.freeze_([])
        tapped.mode_(False)
        tapped.feature_batch(torch.zeros(2, *NETWORKS[name][1])).sum().backward()
        own = [parameter for group in tapped.layer_parameters().values() for parameter in group.values()]
        assert own and all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in own)


def test_filling_is_left_out_of_mean_and_deviation() -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    sample = {"input_ids": torch.randint(0, 30, (2, 7)), "attention_mask": torch.tensor([[1] * 7, [1] * 4 + [0] * 3])}
    net = open_torch(transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)), sample=sample)
    tapped = net.tapped([Tap("input"), Tap("bert.embeddings", POOLS)])
    assert {part.block for part in tapped.body.tap_slices} == {"bert.embeddings"}  # token ids are no features
    whole, short = ({key: tensor[1:, :size] for key, tensor in sample.items()} for size in (7, 4))
    tapped.mode_(False)
    with torch.no_grad():
        torch.testing.assert_close(tapped.feature_batch(whole), tapped.feature_batch(short))
    ids = keras.Input((None,), dtype="int32")
    x = L.LSTM(3, return_sequences=True)(L.Embedding(9, 4, mask_zero=True, name="table")(ids))
    masked = regraft.load(keras.Model(ids, L.Dense(2)(L.GlobalAveragePooling1D()(x))), inputs=(6,)).tapped([Tap("table", POOLS)])
    with torch.no_grad():
        filled, plain = (masked.feature_batch(torch.tensor([ids])) for ids in ([3, 1, 5, 0, 0, 0], [3, 1, 5]))
    torch.testing.assert_close(filled, plain)


def test_blocks_stay_and_heads_train() -> None:
    for name in ("cnn", "functional"):
        net = opened(name)
        headed = with_new_head(net.tapped(points(net)[:-1]))
        assert len(headed.blocks) == len(net.blocks)  # the pooling does not hold them together as one
        batch = np.random.default_rng(2).normal(size=(24, *NETWORKS[name][1])).astype(np.float32)
        batch[::2] += 1.5
        labels = ["a", "b"] * 12
        result = regraft.adapt(headed, (batch, labels), strategy="head", epochs=12, seed=0)
        assert result.network.body.tap_slices == headed.body.tap_slices
        assert np.mean(np.array(result.network.predict(batch).labels) == labels) > 0.9


def test_other_pools_are_another_structure() -> None:
    for name in ("cnn", "functional"):
        net = opened(name)
        block = net.blocks[0].name
        found = {net.tapped([Tap(block, (pool,))]).body.structure([]) for pool in ("mean", "rows", "columns")}
        assert len(found) == 3


@pytest.mark.parametrize("name", ["timm", "functional", "sequential", "nested"])
def test_a_network_whose_head_reads_taps_is_tapped_again(name: str) -> None:
    """As an adapted network is adapted once more: its blocks give what they gave, also beside the taps that its head reads."""
    net = opened(name)
    heads = set(net.head_layers)
    before = [Tap("input", POOLS), *(Tap(block.name, POOLS) for block in net.blocks if heads.isdisjoint(block.layers))]
    tapped = net.tapped(before)
    headed = with_new_head(tapped)
    heads = set(headed.head_layers)
    blocks = [block.name for block in headed.blocks if heads.isdisjoint(block.layers)]
    beside = [Tap(block.name, ("mean",)) for block in headed.blocks if not heads.isdisjoint(block.layers)]
    again = headed.tapped([Tap("input", POOLS), *(Tap(block, POOLS) for block in blocks), *beside])
    batch = torch.randn(3, *NETWORKS[name][1], generator=torch.Generator().manual_seed(1))
    for one in (tapped, again):
        one.mode_(False)
    with torch.no_grad():
        first, second = tapped.feature_batch(batch), again.feature_batch(batch)
    assert torch.equal(second[:, : first.shape[1]], first) and second.shape[1] > first.shape[1]
    told = [(part.pool, part.start, part.stop) for part in tapped.body.tap_slices]
    assert [(part.pool, part.start, part.stop) for part in again.body.tap_slices][: len(told)] == told


class InParts(Signal):
    """Calls its last layers for some examples at a time; without a size, for single ones."""

    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.size, self.hidden = size, nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.low(x)).relu().mean(2)
        if self.size is None:
            return torch.stack([self.head(self.hidden(row)) for row in maps])
        return torch.cat([self.head(self.hidden(part)) for part in maps.split(self.size)])


@pytest.mark.parametrize("size", [3, 2, 1, None])
def test_layers_that_are_called_for_parts_of_a_batch_are_read_whole(size: int | None) -> None:
    torch.manual_seed(0)
    nets = [regraft.load(InParts(each), classes=["a", "b", "c"], inputs=(2, 12)) for each in (99, size)]
    nets[1].module.load_state_dict(nets[0].module.state_dict())
    batch = np.random.default_rng(0).normal(size=(30, 2, 12)).astype(np.float32)
    taps = [Tap("low", ("mean", "rows")), Tap("hidden", ("mean",)), Tap("head", ("mean",))]
    whole, parts = (net.tapped([tap for tap in taps if tap.block in {one.name for one in net.blocks}]) for net in nets)
    assert whole.body.tap_slices == parts.body.tap_slices
    np.testing.assert_allclose(parts.features(batch), whole.features(batch), atol=1e-6)
    ends = [regraft.cut(net, "hidden").features(batch) for net in nets]
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-6)
    labels = np.where(batch.mean((1, 2)) > 0, "u", "v")
    assert regraft.adapt(nets[1], (batch, labels), strategy="probe", cache="memory").network.classes == ("u", "v")


def test_what_is_not_there_is_said() -> None:
    net = opened("cnn")
    for wrong, words in (
        ([], "no points"),
        ([Tap("conv")], "conv1"),
        ([Tap("conv1", ("median",))], "'median'"),
        ([Tap("conv1", ())], "expected some of mean"),
        ([Tap("conv1"), Tap("conv1", ("rows",))], "conv1.* twice"),
        ([Tap("conv1", ("token",))], "None of these outputs can be read"),
    ):
        with pytest.raises(NetworkError, match=words):
            net.tapped(wrong)
    for name in ("cnn", "functional"):
        with pytest.raises(NetworkError, match="input is read beside its blocks"):
            opened(name).tapped([Tap("input")]).with_channels(4)


def test_columns_speak_only_of_features() -> None:
    for name in ("cnn", "functional"):
        net = opened(name)
        assert net.body.tap_slices == ()
        headed = with_new_head(net.tapped([Tap("input", ("mean",))]))
        assert headed.body.tap_slices == (TapSlice("input", "mean", 0, NETWORKS[name][1][-1 if name == "functional" else 0]),)
        stacked = headed.with_stack(replace(headed.head, weight=np.zeros((2, 2), np.float32)), "relu")
        assert stacked.body.tap_slices == ()


@pytest.mark.parametrize("outer", ["ended", "tapped"])
def test_a_network_that_stops_early_is_read_at_its_end(outer: str) -> None:
    """The run of the outer network ends, not that of the one inside it."""
    net = regraft.load(FunctionalHead(), inputs=(3, 16, 16))
    inner = net.ended("conv2") if outer == "ended" else net.tapped([Tap("conv2", ("mean",))])
    batch = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    again = inner.tapped([Tap("input", ("mean",)), Tap("conv2", ("mean",))])
    again.mode_(False)
    with torch.no_grad():
        assert torch.allclose(again.feature_batch(batch)[:, 3:], net.tapped([Tap("conv2", ("mean",))]).feature_batch(batch), atol=1e-5)
