"""The cut proves itself or is refused, on every kind of forward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import nn

from regraft.frontier import Cut, Refusal, cacheable_layers, find_cut, frozen_up_to, frozen_up_to_head
from regraft.networks.contract import Head
from regraft.networks.sources.zoo import open_hub
from regraft.networks.torch_modules import TorchNetwork, open_torch

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")


def _take(batch: Any, rows: list[int]) -> Any:
    return {name: tensor[rows] for name, tensor in batch.items()} if isinstance(batch, dict) else batch[rows]


def _cut_at(network: TorchNetwork, end: Any, sample: Any) -> Cut | Refusal:
    frozen = frozen_up_to_head(network) if end == "head" else frozen_up_to(network, end)
    network.freeze_(frozen)
    return find_cut(network, cacheable_layers(network, frozen), sample=_take(sample, [0, 1, 2]))


def _proves_itself(network: TorchNetwork, end: Any, batch: Any) -> Cut:
    """Cut, and compare rows made in one batch and put together anew with the full forward of items that the cut never saw."""
    cut = _cut_at(network, end, batch)
    assert isinstance(cut, Cut), cut
    network.mode_(False)
    with torch.no_grad():
        rows = cut.frozen_part(batch)
        assert [tuple(row.shape[1:]) for row in rows] == [part.shape for part in cut.live]
        assert torch.equal(cut.trainable_part(rows)["main"], network.scores(batch)["main"])  # to the bit at equal batch size
        mixed = [3, 0, 4]
        torch.testing.assert_close(
            cut.trainable_part([row[mixed] for row in rows])["main"], network.scores(_take(batch, mixed))["main"], rtol=1e-4, atol=1e-5
        )
    _has_the_gradients_of_the_whole(network, cut, batch)
    return cut


def _has_the_gradients_of_the_whole(network: TorchNetwork, cut: Cut, batch: Any) -> None:
    parameters = [parameter for parameter in network.module.parameters() if parameter.requires_grad]
    rows = cut.frozen_part(batch)
    parts = torch.autograd.grad(cut.trainable_part(rows)["main"].square().sum(), parameters, allow_unused=True)
    whole = torch.autograd.grad(network.scores(batch)["main"].square().sum(), parameters, allow_unused=True)
    for one, two in zip(parts, whole, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


FLOATS = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
IDS = torch.randint(0, 20, (5, 7), generator=torch.Generator().manual_seed(1))
PICTURES = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("make", "batch", "ends"),
    [
        (_mlp, FLOATS, ["head", "0", "3"]),
        (examples.Cnn, PICTURES, ["head", "conv1", "conv2", 1]),
        (examples.Lstm, IDS, ["head", "embed"]),
        (examples.TimeFirst, IDS, ["head", "embed", "lstm"]),
        (examples.Branches, FLOATS, ["head", "right"]),
        (examples.Structured, FLOATS, ["head", "part"]),
        (examples.Twice, FLOATS, ["head", "shared"]),
        (examples.SharedRelu, FLOATS, ["head", "a"]),
    ],
)
def test_any_forward_is_cut(make: Any, batch: torch.Tensor, ends: list[Any]) -> None:
    torch.manual_seed(0)
    for end in ends:
        network = open_torch(make(), sample=batch[:2])
        before = {name: tensor.clone() for name, tensor in network.state().items()}
        _proves_itself(network, end, batch)
        assert examples.bit_equal(before, network.state())
        assert all(
            "forward" not in module.__dict__ and not module._forward_hooks and not module._forward_pre_hooks
            for module in network.module.modules()
        )


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_networks_are_cut(name: str) -> None:
    torch.manual_seed(0)
    network = open_torch(timm.create_model(name, num_classes=4), inputs=(3, 64, 64) if name != "test_vit" else (3, 160, 160))
    batch = torch.randn(5, *network.input_shape)
    for end in ("head", len(network.blocks) // 2, 1):
        _proves_itself(network, end, batch)


def _bert(folder: Any, kind: str) -> TorchNetwork:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    getattr(transformers, kind)(transformers.BertConfig(**sizes, num_labels=3)).save_pretrained(folder)
    opened = open_hub(str(folder), pretrained=True)
    network = open_torch(opened.module, sample=opened.sample, take=True, origin=opened.origin)
    if not network.heads:
        rows = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
        network = network.with_head(Head("main", None, "classification", "linear", "", rows, np.zeros(3, np.float32)))
    return network


@pytest.mark.parametrize("kind", ["BertForSequenceClassification", "BertModel"])
def test_transformers_are_cut_with_their_masks(tmp_path: Any, kind: str) -> None:
    network = _bert(tmp_path, kind)
    ids = torch.randint(5, 50, (5, 9))
    mask = torch.ones_like(ids)
    mask[1, 4:] = mask[4, 6:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    assert len(_proves_itself(network, "head", batch).live) == 1
    cut = _proves_itself(network, 2, batch)
    hidden = [part for part in cut.live if part.shape == (9, 16)]
    assert len(hidden) == 1  # of all frozen parts one output is live; with it the mask, if at all
    assert {part.shape for part in cut.live} <= {(9, 16), (9,)}


def test_only_live_outputs_are_kept() -> None:
    network = open_torch(examples.Structured(), sample=FLOATS[:2])
    cut = _cut_at(network, "part", FLOATS)
    assert isinstance(cut, Cut)
    assert sorted(part.shape for part in cut.live) == [(4,), (5,)]  # the third output of the dict is not read
    network = open_torch(examples.Cnn(), sample=PICTURES[:2])
    cut = _cut_at(network, "norm2", PICTURES)
    assert isinstance(cut, Cut)
    assert [part.name for part in cut.live] == ["norm2#0.0"]


def test_a_shared_activation_behind_the_trained_layers_runs_again() -> None:
    """Its later output depends on weights that training changes, so it must not come from the cache."""
    network = open_torch(examples.SharedRelu(), sample=FLOATS[:2])
    cut = _cut_at(network, "a", FLOATS)
    assert isinstance(cut, Cut)
    assert [part.name for part in cut.live] == ["a#0.0"]
    rows = cut.frozen_part(FLOATS)
    with torch.no_grad():
        network.module.b.weight.add_(1.0)
        assert torch.equal(cut.trainable_part(rows)["main"], network.scores(FLOATS)["main"])


@pytest.mark.parametrize(
    ("make", "batch", "end", "reason"),
    [
        (examples.AroundTrained, FLOATS, "shared", "behind the trainable part"),
        (examples.TimeMajorRows, torch.randn(5, 3, 4), "low", "differ"),
        (examples.BatchMean, torch.randn(5, 4), "mid", "differ"),
        (examples.PerItem, torch.randn(5, 4), "low", "outputs for two items"),
        (examples.Cnn, PICTURES, 0, "no frozen module"),
    ],
)
def test_a_doubtful_cut_is_refused_with_its_reason(make: Any, batch: torch.Tensor, end: Any, reason: str) -> None:
    torch.manual_seed(0)
    network = open_torch(make(), sample=batch[:2])
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    found = _cut_at(network, end, batch)
    assert isinstance(found, Refusal)
    assert reason in found.reason
    assert examples.bit_equal(before, network.state())
