"""The cut proves itself or is refused, on every kind of forward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import nn

import regraft
from regraft.freezing import Cut, Refusal, cacheable_layers, find_cut, frozen_up_to, frozen_up_to_head
from regraft.networks.hub.opening import open_hub
from regraft.networks.network import Head, Network
from regraft.networks.torch.family import open_torch

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")


def _take(batch: Any, rows: list[int]) -> Any:
    return {name: tensor[rows] for name, tensor in batch.items()} if isinstance(batch, dict) else batch[rows]


def _cut_at(network: Network, end: Any, sample: Any) -> Cut | Refusal:
    frozen = frozen_up_to_head(network) if end == "head" else frozen_up_to(network, end)
    network.freeze_(frozen)
    return find_cut(network, cacheable_layers(network, frozen), sample=_take(sample, [0, 1, 2]))


def _proves_itself(network: Network, end: Any, batch: Any) -> Cut:
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


def _has_the_gradients_of_the_whole(network: Network, cut: Cut, batch: Any) -> None:
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


def _bert(folder: Any, kind: str) -> Network:
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


class Shifted(nn.Module):
    """Convolutions in a container; a hook on one of them adds what a trained layer from outside makes of a code of the item's condition."""

    def __init__(self, place: int, conditions: int = 3) -> None:
        super().__init__()
        self.low = nn.Conv2d(1, 4, 3)
        self.stack = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.Tanh())
        self.place, self.codes, self.shift, self.head = place, nn.Embedding(conditions, 2), nn.Linear(2, 4), nn.Linear(4, 3)
        for start in (self.codes.weight, self.shift.weight, self.shift.bias):
            nn.init.zeros_(start)  # the scores do not depend on the condition yet

    def forward(self, inputs: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        code = self.codes(condition)
        hook = self.stack[self.place].register_forward_hook(lambda _module, _args, made: made.add_(self.shift(code)[..., None, None]))
        try:
            return self.head(self.stack(self.low(inputs)).mean((2, 3)))
        finally:
            hook.remove()


SHIFTED = frozenset({"low", "stack.0", "stack.1", "stack.2", "stack.3"})


@pytest.mark.parametrize(
    ("place", "kept", "conditions"),
    [
        (1, "stack.1#0.0", torch.tensor([0, 2, 1, 0, 1])),
        (3, "stack.3#0.0", torch.tensor([0, 0, 0, 1, 2])),  # by its name alone, the whole container would be frozen
        (3, "stack.3#0.0", torch.tensor([2, 2, 2, 1, 0])),
    ],
)
def test_a_container_in_which_a_hook_calls_what_is_trained_is_opened(place: int, kept: str, conditions: torch.Tensor) -> None:
    torch.manual_seed(0)
    batch = {"inputs": PICTURES, "condition": conditions}
    network = open_torch(Shifted(place), sample=_take(batch, [0, 1]))
    network.freeze_(SHIFTED)
    layers = cacheable_layers(network, SHIFTED)
    assert layers == {"low", *(f"stack.{number}" for number in range(place + 1))}  # although the code is the first thing that runs
    cut = find_cut(network, layers, sample=_take(batch, [0, 1, 2]))
    assert isinstance(cut, Cut), cut
    assert [part.name for part in cut.live] == [kept, "input condition"]
    with torch.no_grad():
        network.module.codes.weight.normal_()
        network.module.shift.weight.normal_()
        rows = cut.frozen_part(batch)
        assert torch.equal(rows[1], conditions)
        torch.testing.assert_close(cut.trainable_part(rows)["main"], network.scores(batch)["main"])
    _has_the_gradients_of_the_whole(network, cut, batch)


def test_the_only_condition_there_is_stays_with_its_items() -> None:
    """No other index is known to be valid: nothing is tried, the input is kept."""
    batch = {"inputs": PICTURES, "condition": torch.zeros(5, dtype=torch.int64)}
    network = open_torch(Shifted(1, conditions=1), sample=_take(batch, [0, 1]))
    network.freeze_(SHIFTED)
    cut = find_cut(network, cacheable_layers(network, SHIFTED), sample=_take(batch, [0, 1, 2]))
    assert isinstance(cut, Cut) and [part.name for part in cut.live] == ["stack.1#0.0", "input condition"]


class Borrowing(nn.Module):
    """Frozen layers in a container that reads a weight which the network around it holds and trains."""

    def __init__(self, by_hook: bool) -> None:
        super().__init__()
        self.offset, self.inner, self.head, self.by_hook = nn.Parameter(torch.zeros(4)), _Inner(), nn.Linear(4, 3), by_hook
        self.inner.borrowed = [] if by_hook else [self.offset]  # in a list, which hides it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.by_hook:
            return self.head(self.inner(x))
        hook = self.inner.high.register_forward_pre_hook(lambda _module, args: (args[0] + self.offset,))
        try:
            return self.head(self.inner(x))
        finally:
            hook.remove()


class _Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.borrowed = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), nn.Linear(4, 4), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.high(sum(self.borrowed, self.low(x))).tanh()


@pytest.mark.parametrize("by_hook", [True, False])
def test_a_container_that_reads_a_trained_weight_from_outside_is_opened(by_hook: bool) -> None:
    torch.manual_seed(0)
    network = open_torch(Borrowing(by_hook), sample=FLOATS[:2])
    frozen = frozenset({"inner.low.0", "inner.low.1", "inner.high"})
    network.freeze_(frozen)
    assert cacheable_layers(network, frozen) == {"inner.low.0", "inner.low.1"}
    cut = find_cut(network, frozen, sample=FLOATS[:3])
    assert isinstance(cut, Cut), cut
    assert [part.name for part in cut.live] == ["inner.low#0.0"]
    rows = cut.frozen_part(FLOATS)
    with torch.no_grad():
        network.module.offset.add_(1.0)
        assert torch.equal(cut.trainable_part(rows)["main"], network.scores(FLOATS)["main"])


def test_a_transformer_layer_calls_what_is_replayed_inside_it() -> None:
    """Outside training torch has a fused step for the whole layer, which would pass over the cached outputs."""
    torch.manual_seed(0)
    batch = torch.randn(5, 4, 6)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = open_torch(nn.Sequential(nn.Linear(6, 8), layer, nn.Flatten(), nn.Linear(32, 3)), sample=batch[:2])
    for end in ("1.self_attn", "1.norm1"):
        cut = _cut_at(network, end, batch)
        assert isinstance(cut, Cut) and f"{end}#0.0" in [part.name for part in cut.live]
        rows = cut.frozen_part(batch)
        for mode in (torch.no_grad(), torch.enable_grad()):
            with mode:
                torch.testing.assert_close(cut.trainable_part(rows)["main"], network.scores(batch)["main"])
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("frozen", [1, 3])
def test_freeze_boundaries_below_taps_are_cached(frozen: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 4, 3), nn.ReLU(inplace=True)]
    net = regraft.load(nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3)), inputs=(1, 8, 8))
    assert [block.name for block in net.blocks] == ["0.0", "0.2", "1", "4", "6"]
    options = {"strategy": "partial", "base": "probe", "epochs": 3, "learning_rate": 0.01, "validation": 0}
    both = [regraft.adapt(net, examples.pictures(40), frozen=frozen, cache=cache, **options) for cache in ("memory", None)]
    assert not [reason for reason in both[0].plan.reasons if "every epoch" in reason]
    assert both[0].cost["frozen_forward_examples"] == 2 * 40  # once to read all depths, once to keep what crosses the freeze boundary
    for name, tensor in both[0].network.state().items():
        torch.testing.assert_close(tensor, both[1].network.state()[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "batch", "end", "reason"),
    [
        (examples.AroundTrained, FLOATS, "shared", "behind the trainable part"),
        (examples.TimeMajorRows, torch.randn(5, 3, 4), "low", "differ"),
        (examples.BatchMean, torch.randn(5, 4), "mid", "differ"),
        (examples.PerItem, torch.randn(5, 4), "low", "outputs for two examples"),
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
