"""Every network that runs in PyTorch is adapted by every usual strategy: networks × strategies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.torch_networks import NETWORKS
from torch import nn

import regraft
from regraft.data import Dataset
from regraft.errors import NetworkError
from regraft.networks.network import Network, Tap
from regraft.networks.tracing import as_tensor

STRATEGIES: dict[str, dict[str, Any]] = {
    "probe": {},
    "head": {"epochs": 2},
    "partial": {"epochs": 2, "frozen": 1},
    "full": {"epochs": 2},
    "scratch": {"epochs": 2},
    "auto": {"epochs": 2},
}
NEVER_USED = {
    "Unused": ("aux.",),
    "Auxiliary": ("aux.",),
    "FunctionalHead": ("fc.",),
    "Bare": ("b",),
    "NormalisedScores": ("fc.", "last."),
    "Distances": ("fc.bias",),
}
"""Parameters that no result depends on, by network; class weights in a module's own code gave way to a layer."""


def opened(name: str) -> Network:
    torch.manual_seed(0)
    return regraft.load(NETWORKS[name](), inputs=(3, 16, 16))


def pictures(count: int = 36) -> Dataset:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, count)
    noise = generator.normal(size=(count, 3, 16, 16)) + labels[:, None, None, None]
    return regraft.read((noise.astype(np.float32), np.array(["a", "b", "c"])[labels]))


QUICK = ("Plain", "Tied", "Listed")
"""The networks that every strategy is tried on by `make test`; the others are trained whole, and by one strategy more in turn."""
TURNS = ("probe", "head", "partial", "auto")
CASES = [
    pytest.param(name, strategy, marks=() if name in QUICK or strategy in ("full", TURNS[at % 4]) else pytest.mark.slow)
    for at, name in enumerate(NETWORKS)
    for strategy in STRATEGIES
]


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_a_network_is_adapted(name: str, strategy: str) -> None:
    """It predicts what its module gives, and what is frozen stays as it was; the network given too."""
    net, data = opened(name), pictures()
    before = {key: values.clone() for key, values in net.state().items()}
    result = regraft.adapt(net, data, strategy=strategy, cache="memory", batch_size=12, **STRATEGIES[strategy])
    made = result.network
    assert made.classes == ("a", "b", "c")
    with torch.no_grad():
        own = as_tensor(made.module.eval()(torch.as_tensor(np.asarray(made.preprocessing.batch(list(data.items))))))
    assert own is not None
    assert np.allclose(made.logits(data), own.numpy(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(values, before[key]) for key, values in net.state().items())
    if strategy in ("probe", "head"):
        heads = (*(f"{layer}." for layer in made.head_layers), *(f"{layer}." for layer in net.head_layers))
        kept = {key: values for key, values in made.state().items() if not key.startswith(heads)}
        changed = [key for key, values in kept.items() if key in before and not torch.equal(values, before[key])]
        assert not changed
    if strategy == "full" and name != "OldSpectralNorm":  # which keeps its own vectors in inference
        trained = {key: values for key, values in made.state().items() if values.is_floating_point()}
        still = [key for key, values in trained.items() if key in before and torch.equal(values, before[key])]
        if "Nothing of the training" in result.verdict:  # then all of it is as it came, but for a new head
            heads = tuple(f"{layer}." for layer in made.head_layers)
            assert not [key for key in trained if key in before and key not in still and not key.startswith(heads)]
        else:
            assert not [key for key in still if not key.startswith(NEVER_USED.get(name, ("no such",)))]


@pytest.mark.parametrize(
    ("name", "first", "second"), [("Functional", "conv2", "fc1"), ("Functional", "fc1", "fc"), ("Listed", "fc1", "scales")]
)
def test_parameters_of_a_module_that_nobody_calls_stand_where_they_are_read(name: str, first: str, second: str) -> None:
    names = [layer.name for layer in opened(name).layers]
    assert names.index(first) < names.index(second)


def test_what_no_result_depends_on_stands_last() -> None:
    assert [layer.name for layer in opened("Unused").layers if layer.parameters][-3:] == ["aux.0", "aux.1", "aux.2"]


def test_a_network_is_not_cut_at_a_block_that_is_never_called() -> None:
    net = opened("Functional")
    with pytest.raises(NetworkError, match="'fc1' is never called"):
        regraft.cut(net, "fc1")


@pytest.mark.parametrize(
    ("name", "order"), [("Plain", torch.channels_last), ("Viewed", torch.contiguous_format), ("Strided", torch.contiguous_format)]
)
def test_another_order_in_memory_is_used_only_where_it_gives_the_same(name: str, order: torch.memory_format) -> None:
    net = opened(name)
    net.module.train()
    assert net.body.memory_order == order
    assert all(module.training for module in net.module.modules())


@pytest.mark.parametrize(
    ("layers", "order"),
    [
        ([nn.Conv2d(3, 8, 3)], torch.contiguous_format),
        ([nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, groups=8)], torch.channels_last),
        ([nn.Conv2d(3, 8, 3, groups=1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1, 2)], torch.contiguous_format),
    ],
    ids=["no depthwise convolution", "depthwise", "a strided 1x1 convolution"],
)
def test_training_on_a_cpu_is_channels_last_only_where_that_pays_and_works(layers: list[nn.Module], order: torch.memory_format) -> None:
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    net = regraft.load(module, classes=["a", "b", "c"], inputs=(3, 16, 16))
    assert net.body.memory_order == torch.channels_last
    assert net.body.training_order(torch.device("cpu")) == order
    assert net.body.training_order(torch.device("cuda")) == torch.channels_last


def test_googlenet_with_auxiliary_heads() -> None:
    """Its blocks are branches side by side: an early end leaves nothing behind that would swell."""
    models = pytest.importorskip("torchvision.models")
    net = regraft.load(models.googlenet(weights=None, init_weights=False), inputs=(3, 64, 64))
    assert net.head.layer == "fc"
    for block in net.blocks[3], net.blocks[-1]:
        tapped = net.tapped([Tap("input", ("mean",)), Tap(block.name, ("mean",))])
        assert ("aux" in block.name) == (len(tapped.body.tap_slices) == 1)


class _Padded(nn.Module):
    """PyTorch's own encoder of texts that are padded; in inference it computes with nested tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8, padding_idx=0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.fc = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.fc(self.encoder(self.embed(ids), src_key_padding_mask=ids == 0).mean(1))


@pytest.mark.parametrize("strategy", ["partial", "auto"])
def test_an_encoder_of_padded_texts_is_adapted_and_gives_what_it_gave(strategy: str) -> None:
    torch.manual_seed(0)
    module, labels = _Padded().eval(), np.array(["a", "b", "c"])[np.arange(36) % 3]
    ids = np.random.default_rng(0).integers(1, 20, (36, 7))
    ids[::2, 4:] = 0
    net = regraft.load(module, inputs=(7,))
    with torch.no_grad():
        assert np.allclose(net.logits(ids), module(torch.from_numpy(ids)).numpy(), atol=1e-5)
    made = regraft.adapt(net, (ids, labels), strategy=strategy, batch_size=12, **STRATEGIES[strategy]).network
    assert np.allclose(made.logits(ids)[:1], made.logits(ids[:1]), atol=1e-5)
