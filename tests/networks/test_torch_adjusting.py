"""Scales and shifts by channel, low-rank changes and an entrance in PyTorch networks: exact at first, and folded away again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from tests import torch_examples as examples
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError
from regraft.networks.edits import AddedBiases
from regraft.networks.network import Network, Tap
from regraft.networks.torch.family import open_torch
from regraft.networks.torch.sites import fold_

Inputs = Tensor | dict[str, Tensor]


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 7, bias=False), nn.ReLU(inplace=True), nn.Linear(7, 3)
    )


def bert() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    return transformers.BertForSequenceClassification(
        transformers.BertConfig(vocab_size=50, num_labels=3, max_position_embeddings=16, **sizes)
    )


def gpt() -> nn.Module:
    settings = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=16, num_labels=3, pad_token_id=0)
    return transformers.GPT2ForSequenceClassification(settings)


def encoder() -> nn.Module:
    """A layer that PyTorch fuses in inference, reading the weights of the layers in it."""
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, 3))


class Windows(nn.Module):
    """Two rows for each item, as windows of a picture; and the same rows once more in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.by_item, self.by_view, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(-1, 2, 3)
        one = self.by_item(parts.flatten(0, 1)).reshape(-1, 8)
        first, second = self.by_view(parts.transpose(0, 1).flatten(0, 1)).chunk(2)
        return self.head(torch.cat([one, first, second], 1).relu())


class Tied(nn.Module):
    """Two layers that share a weight, one whose weight is computed, one that follows a ReLU in place, and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.computed = nn.Linear(6, 6), nn.Linear(6, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))
        self.two.weight = self.one.weight
        self.plain, self.act, self.norm, self.head = nn.Linear(6, 6), nn.ReLU(inplace=True), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.one(x).relu())
        return self.head(self.norm(self.act(self.plain(self.computed(x)))))


TOKENS = {"input_ids": torch.arange(14).reshape(2, 7), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "mlp": (mlp, (6,)),
    "cnn": (examples.Cnn, (1, 8, 8)),
    "normact": (lambda: timm.create_model("test_efficientnet", num_classes=3), (3, 32, 32)),
    "bert": (bert, TOKENS),
    "gpt": (gpt, TOKENS),
    "twice": (examples.Twice, (6,)),
    "encoder": (encoder, (5, 8)),
    "windows": (Windows, (6,)),
}


@cache
def _opened(name: str) -> Network:
    make, inputs = NETWORKS[name]
    torch.manual_seed(0)
    module = make()
    for norm in module.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.weight, 1, 0.1)
    return open_torch(module, sample=inputs) if isinstance(inputs, dict) else open_torch(module, inputs=inputs)


def opened(name: str) -> Network:
    """Return a network of the table, its BatchNorm not at its start."""
    return _opened(name).copy()


def scores(network: Network, inputs: Inputs | None = None) -> dict[str, Tensor]:
    network.mode_(False)
    with torch.no_grad():
        return dict(network.scores(network.sample if inputs is None else inputs))


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[task], other[task]) for task in one)


def near(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return all(torch.allclose(one[task], other[task], rtol=1e-5, atol=2e-6 * max(1.0, float(one[task].abs().max()))) for task in one)


def shaken_(network: Network, part: str) -> None:
    """Move the parameters with `part` in their names."""
    found = [parameter for name, parameter in network.module.named_parameters() if part in name]
    assert found
    with torch.no_grad():
        for parameter in found:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp", [("1", 8), ("3", 7)]),
        ("cnn", [("norm1", 4), ("norm2", 6), ("fc1", 8)]),
        ("twice", [("shared", 6), ("mid", 5)]),
        ("windows", [("by_item", 4)]),
    ],
)
def test_points_stand_behind_the_norm_and_before_the_activation(name: str, expected: list[tuple[str, int]]) -> None:
    assert [(point.name, point.channels) for point in opened(name).points()] == expected


def test_points_have_the_block_of_their_layer() -> None:
    net = opened("normact")
    blocks = {block.name: block.layers for block in net.blocks}
    found = net.points()
    assert found[0].name == "bn1" and found[-1].name == "bn2" and len(found) == 17
    assert all(point.name in blocks[point.block] for point in found)


def test_layers_that_cannot_be_folded_are_no_points() -> None:
    net = open_torch(Tied(), inputs=(6,))
    assert [point.name for point in net.points()] == ["plain"], "shared and computed weights; a BatchNorm behind an activation"
    weights = open_torch(timm.create_model("test_nfnet", num_classes=3), inputs=(3, 32, 32)).points()
    assert weights and not any("conv" in point.name for point in weights), "standardised weights"


def test_a_network_that_is_recurrent_alone_has_no_points() -> None:
    net = open_torch(examples.Recurrent(), inputs=(5, 4))
    assert net.points() == ()
    with pytest.raises(NetworkError, match="has no linear layer or convolution before its head"):
        net.coded(regraft.networks.network.Coding(3, ("a",)))
    with pytest.raises(NetworkError, match="received no points"):
        net.adjusted((), form="lhuc")


@pytest.mark.parametrize("form", ["lhuc", "film"])
@pytest.mark.parametrize("name", NETWORKS)
def test_adjustments_change_nothing_at_first_and_fold_into_the_weights(name: str, form: str) -> None:
    net = opened(name)
    before, plain = {key: value.clone() for key, value in net.state().items()}, scores(net)
    training = net.adjusted(net.points(), form=form)
    assert near(scores(training), plain) if name == "encoder" else same(scores(training), plain)
    new = [layer.name for layer in training.layers if layer.kind == "Adjustment"]
    assert new == [f"adjusting.{index}" for index in range(len(net.points()))]
    assert len(training.blocks) == len(net.blocks)
    shaken_(training, "adjusting")
    moved = scores(training)
    assert not near(moved, plain)
    settled = training.settled()
    assert near(scores(settled), moved)
    assert [layer.name for layer in settled.layers] == [layer.name for layer in net.layers]
    assert [layer.name for layer in settled.settled().layers] == [layer.name for layer in net.layers]
    added = settled.state().keys() - net.state().keys()
    assert added == ({"3.bias"} if (name, form) == ("mlp", "film") else set())
    assert all(torch.equal(value, before[key]) for key, value in net.state().items()), "the network given is as it was"


@pytest.mark.usefixtures("without_onnx_form")
def test_settled_networks_are_saved_with_the_biases_that_were_made(tmp_path: Path) -> None:
    net = opened("mlp")
    training = net.adjusted(net.points(), form="film")
    shaken_(training, "adjusting")
    with pytest.raises(NetworkError, match="save what settled"):
        training.save(tmp_path / "training")
    settled = training.settled()
    settled.preprocessing = regraft.load(mlp(), inputs=(6,)).preprocessing
    again = regraft.load(settled.save(tmp_path / "net"), architecture=mlp)
    assert same(scores(again), scores(settled))
    assert settled.edits == (AddedBiases(("3",)),)


def test_adjusting_is_refused_by_name() -> None:
    net = opened("mlp")
    with pytest.raises(NetworkError, match="form='flim' is unknown; did you mean 'film'"):
        net.adjusted(net.points(), form="flim")
    with pytest.raises(NetworkError, match="training form"):
        net.adjusted(net.points(), form="film").adjusted(net.points(), form="film")


def test_adjustments_and_heads_and_taps_go_together() -> None:
    net = opened("cnn")
    head = copy.copy(net.head)
    both = net.with_head(type(head)("other", None, head.kind, "linear", "", head.weight[::-1].copy(), head.bias))
    training = both.adjusted(both.points(), form="film")
    assert same(scores(training), scores(both))
    shaken_(training, "adjusting")
    assert near(scores(training.settled()), scores(training)) and list(training.settled().heads) == ["main", "other"]
    block = next(block.name for block in training.blocks if any(name.endswith("norm1") for name in block.layers))
    tapped, ended = training.tapped([Tap(block, ("mean",))]), training.ended(block)
    for short in (tapped, ended):
        short.mode_(False)
    assert torch.allclose(tapped.feature_batch(training.sample), ended.feature_batch(training.sample), atol=1e-6)
    assert not torch.allclose(tapped.feature_batch(net.sample), both.tapped([Tap(block, ("mean",))]).feature_batch(net.sample))


def test_fold_by_hand() -> None:
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert not fold_(layer, scale=torch.tensor([2.0, 0.5])) and layer.bias is None
    assert layer.weight.tolist() == [[2.0, 4.0], [1.5, 2.0]]
    assert not fold_(layer, shift=torch.zeros(2)) and layer.bias is None
    assert fold_(layer, shift=torch.tensor([1.0, -1.0]))
    assert layer(torch.tensor([[1.0, 1.0]])).tolist() == [[7.0, 2.5]]


def linear_layers(net: Network) -> list[str]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    chosen = [name for name, module in net.modules().items() if isinstance(module, kinds) or type(module).__name__ == "Conv1D"]
    grouped = {name for name in chosen if getattr(net.modules()[name], "groups", 1) != 1}
    return [name for name in chosen if name not in {*net.head_layers, *grouped} and "self_attn" not in name]


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "windows"])
def test_low_rank_changes_begin_at_zero_and_are_added_to_the_weights(name: str) -> None:
    pytest.importorskip("peft")
    net = opened(name)
    layers, plain = linear_layers(net), scores(net)
    state = torch.random.get_rng_state()
    training = net.low_rank(2, alpha=3, layers=layers)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert near(scores(training), plain) if name == "encoder" else same(scores(training), plain)
    again = net.low_rank(2, alpha=3, layers=layers).state()
    assert all(torch.equal(value, again[key]) for key, value in training.state().items()), "A is the same every time"
    training.freeze_([layer.name for layer in training.layers if "lora_" not in layer.name])
    live = {key for key, parameter in training.module.named_parameters() if parameter.requires_grad}
    assert live == {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}
    shaken_(training, "lora_B")
    moved = scores(training)
    assert not near(moved, plain)
    settled = training.settled()
    assert near(scores(settled), moved) and settled.state().keys() == net.state().keys()
    assert settled.layers == net.layers and settled.blocks == net.blocks
    assert all(parameter.requires_grad for key, parameter in settled.module.named_parameters() if key.rpartition(".")[0] in layers)


def test_low_rank_is_refused_by_name() -> None:
    pytest.importorskip("peft")
    net = opened("cnn")
    with pytest.raises(NetworkError, match=r"'norm1', a BatchNorm2d; 'fc2', a head"):
        net.low_rank(2, alpha=4, layers=["norm1", "fc2"])
    with pytest.raises(NetworkError, match="no layer of that name; did you mean 'conv1'"):
        net.low_rank(2, alpha=4, layers=["cnov1"])
    with pytest.raises(NetworkError, match="nothing to change"):
        net.low_rank(2, alpha=4, layers=[])
    with pytest.raises(NetworkError, match="rank=0"):
        net.low_rank(0, alpha=4, layers=["fc1"])
    grouped = next(name for name, module in opened("normact").modules().items() if getattr(module, "groups", 1) != 1)
    with pytest.raises(NetworkError, match="a Conv2d with groups="):
        opened("normact").low_rank(2, alpha=4, layers=[grouped])
    tied = open_torch(Tied(), inputs=(6,))
    with pytest.raises(NetworkError, match="'one', whose weight is also that of another layer"):
        tied.low_rank(2, alpha=4, layers=["one"])
    fused = opened("encoder")
    with pytest.raises(NetworkError, match=r"'0\.self_attn\.out_proj', a NonDyn|reads without calling"):
        fused.low_rank(2, alpha=4, layers=["0.self_attn.out_proj"])


@pytest.mark.parametrize(("name", "shape"), [("mlp", (6, 6)), ("cnn", (1, 1, 1, 1)), ("encoder", (8, 8)), ("normact", (3, 3, 1, 1))])
def test_an_entrance_is_the_identity_at_first(name: str, shape: tuple[int, ...]) -> None:
    net = opened(name)
    twin = net.with_entrance()
    assert same(scores(twin), scores(net))
    assert tuple(twin.state()["entrance.weight"].shape) == shape and twin.blocks[0].name == "entrance"
    assert len(twin.blocks) == len(net.blocks) + 1 and twin.points() == net.points()


def test_an_entrance_is_saved_and_refused_for_tokens(tmp_path: Path) -> None:
    net = regraft.load(mlp(), inputs=(6,)).with_entrance()
    assert net.family == "torch"
    shaken_(net, "entrance")
    again = regraft.load(net.save(tmp_path), architecture=mlp)
    assert same(scores(again), scores(net))
    assert near(scores(regraft.load(tmp_path), net.sample), scores(net)), "the program beside it"
    with pytest.raises(NetworkError, match="takes the inputs input_ids"):
        opened("bert").with_entrance()
    with pytest.raises(NetworkError, match="at most 4096"):
        open_torch(nn.Sequential(nn.Linear(5000, 2), nn.ReLU(), nn.Linear(2, 2)), inputs=(5000,)).with_entrance()


def test_single_parameters_are_frozen() -> None:
    net = opened("cnn")
    weights = [f"{layer}.weight" for layer in ("conv1", "conv2", "norm1", "norm2", "fc1")]
    net.freeze_([*weights, "fc2"])
    live = {name for name, parameter in net.module.named_parameters() if parameter.requires_grad}
    assert live == {f"{layer}.bias" for layer in ("conv1", "conv2", "norm1", "norm2", "fc1")}
    net.mode_(True)
    before = {name: value.clone() for name, value in net.state().items()}
    net.scores(torch.randn(4, 1, 8, 8))["main"].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in net.state().items()), "no moving statistics moved"
    assert net.modules()["drop1"].training and not net.modules()["norm1"].training
    assert not any(block.frozen for block in net.blocks if block.name != "fc2")
    net.freeze_(["norm1"])
    assert net.module.conv1.weight.requires_grad and not net.module.norm1.weight.requires_grad


def test_statistics_of_a_norm_with_an_activation_inside_stay() -> None:
    net = opened("normact")
    net.freeze_(["bn1.weight", "bn2.running_mean"])
    net.mode_(True)
    modules = net.modules()
    assert not modules["bn1"].training and not modules["bn2"].training and modules["bn1.act"].training
    assert modules["blocks.0.0.bn1"].training and modules["bn2"].weight.requires_grad and not modules["bn1"].weight.requires_grad
