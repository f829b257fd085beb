"""Heads of many forms are found and rebuilt; where there are two, the user chooses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models._meta import _IMAGENET_CATEGORIES

import regraft
from regraft.errors import NetworkError

keras = pytest.importorskip("keras")
transformers = pytest.importorskip("transformers")
layers = keras.layers


class CosineHead(nn.Module):
    """Scores are scaled cosines of features and rows."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, features))
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.out_features = classes

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * functional.linear(functional.normalize(x), functional.normalize(self.weight))


class CosineLinear(nn.Linear):
    """The same as a kind of linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 16 * functional.linear(functional.normalize(x), functional.normalize(self.weight))


class MaskedLinear(nn.Linear):
    """Its mask holds a row for each class (MADE), and its number is not known for new ones."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__(features, classes)
        self.register_buffer("mask", torch.ones(classes, features).tril(2))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


class TwoHeads(nn.Module):
    """Two results, each with a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.shape, self.colour = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).relu()
        return self.shape(hidden), self.colour(hidden)


def _keras_two() -> Any:
    entry = keras.Input((6,))
    hidden = layers.Dense(8, activation="relu", name="body")(entry)
    return keras.Model(entry, [layers.Dense(3, name="shape")(hidden), layers.Dense(4, activation="softmax", name="colour")(hidden)])


def _keras_cosine() -> Any:
    entry = keras.Input((6,))
    hidden = layers.UnitNormalization()(layers.Dense(8, activation="relu")(entry))
    return keras.Model(entry, layers.Dense(3, use_bias=False, kernel_constraint="unit_norm", name="head")(hidden))


HEADS = {
    "cosine": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), CosineHead(8, 3)),
    "cosine linear": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), CosineLinear(8, 3, bias=False)),
    "weight norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))),
    "two layers": lambda: nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))),
    "log-softmax": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(1)),
    "Keras cosine": _keras_cosine,
}


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_found_and_rebuilt(name: str) -> None:
    torch.manual_seed(0)
    net = regraft.load(HEADS[name](), classes=["a", "b", "c"], inputs=(6,))
    items = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    changed = regraft.retarget(net, ["c", "new", "a"], start="random")
    assert changed.account.to_dict()["kept"] == ["c", "a"]
    assert np.array_equal(changed.head.weight[[0, 2]], net.head.weight[[2, 0]])
    np.testing.assert_allclose(changed.logits(items)[:, [0, 2]], net.logits(items)[:, [2, 0]], rtol=1e-4, atol=1e-5)
    wider = regraft.extend(net, ["new"], (items, ["new"] * 9))
    assert wider.account.to_dict()["figures"]["max_score_change"] == 0.0
    assert np.array_equal(wider.logits(items)[:, :3], net.logits(items))


@pytest.mark.parametrize("classes", ["ab", "abc", "abcd", "abcde"])
def test_a_layer_with_a_mask_for_each_class_becomes_one_without(classes: str) -> None:
    """Its rows times its mask are class weights; that of a new class has no mask. A mask may have as many rows as a run has examples."""
    torch.manual_seed(0)
    module = nn.Sequential(MaskedLinear(6, 8), nn.ReLU(), MaskedLinear(8, len(classes)))
    net = regraft.load(module, classes=list(classes), inputs=(6,))
    items = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    assert np.array_equal(net.head.weight, (module[2].weight * module[2].mask).detach().numpy())
    assert np.allclose(net.logits(items), module(torch.from_numpy(items)).detach(), atol=1e-6)
    assert np.allclose(regraft.retarget(net, ["b", "new"]).logits(items)[:, 0], net.logits(items)[:, 1], atol=1e-6)
    assert not any(one.requires_grad for one in module.buffers())


@pytest.mark.parametrize("make", [TwoHeads, _keras_two])
def test_of_two_candidates_the_user_chooses(make: Any) -> None:
    torch.manual_seed(0)
    module = make()
    with pytest.raises(NetworkError, match=r"'shape', 'colour'.*head='shape'"):
        regraft.load(module, inputs=(6,))
    with pytest.raises(NetworkError, match="did you mean 'colour'"):
        regraft.load(module, inputs=(6,), head="color")
    items = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    for chosen, classes in (("shape", ["ball", "box", "cone"]), ("colour", ["red", "green", "blue", "grey"])):
        net = regraft.load(module, inputs=(6,), head=chosen, classes=classes)
        assert net.head.layer == chosen and net.head.features == 8
        changed = regraft.retarget(net, [classes[2], classes[0]])
        np.testing.assert_allclose(changed.logits(items), net.logits(items)[:, [2, 0]], rtol=1e-4, atol=1e-5)


def test_a_layer_from_which_the_result_does_not_follow_is_a_head_if_the_user_says_so() -> None:
    class Cubed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.below, self.fc = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.below(x).relu()) ** 3

    module, items = Cubed(), np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    assert not regraft.load(module, inputs=(6,)).heads
    net = regraft.load(module, inputs=(6,), head="fc", classes=["a", "b", "c"])
    logits = module.fc(module.below(torch.from_numpy(items)).relu()).detach().numpy()
    np.testing.assert_allclose(net.logits(items), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(regraft.retarget(net, ["c", "a"]).logits(items), logits[:, [2, 0]], rtol=1e-5, atol=1e-6)


def test_a_network_without_a_linear_layer_is_named() -> None:
    net = regraft.load(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), inputs=(1, 6, 6))
    for change in (lambda: regraft.extend(net, ["x"]), lambda: regraft.stack(net, ["x"]), lambda: regraft.branch(net, "t", ["x"])):
        with pytest.raises(NetworkError, match="without a head"):
            change()


def test_a_head_that_chooses_one_token_takes_branches() -> None:
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=30, num_labels=3, pad_token_id=0)
    torch.manual_seed(0)
    module = transformers.GPT2ForSequenceClassification(config).eval()
    net = regraft.load(module, classes=["a", "b", "c"], inputs=(6,))
    assert net.head.layer == "score"
    branched = regraft.branch(net, "mood", ["good", "bad"], start="random")
    tokens = torch.randint(1, 30, (4, 6))
    with torch.no_grad():
        plain, both, features = net.scores(tokens)["main"], branched.scores(tokens), branched.feature_batch(tokens)
    torch.testing.assert_close(both["main"], plain)
    mood = branched.heads["mood"]
    torch.testing.assert_close(both["mood"], features @ torch.from_numpy(mood.weight).T + torch.from_numpy(mood.bias))


@pytest.mark.parametrize("source", ["timm", "torchvision", "Keras"])
def test_imagenet_rows_are_found_by_any_of_their_names(source: str) -> None:
    info = timm.data.ImageNetInfo()
    names = {
        "timm": [info.index_to_description(row, detailed=False) for row in range(1000)],
        "torchvision": list(_IMAGENET_CATEGORIES),
        "Keras": [info.index_to_description(row, detailed=False).split(", ")[0].replace(" ", "_") for row in range(1000)],
    }[source]
    names = [name if names.count(name) == 1 else f"{name} {row}" for row, name in enumerate(names)]
    net = regraft.load(nn.Sequential(nn.Linear(4, 1000)), inputs=(4,), classes=_told_apart(names))
    changed = regraft.retarget(net, ["tabby cat", "zebra crossing", "golden retriever"])
    assert changed.account.to_dict()["kept"] == ["tabby cat", "golden retriever"]
    assert changed.account.to_dict()["new"] == ["zebra crossing"]
    assert np.array_equal(changed.head.weight[[0, 2]], net.head.weight[[281, 207]])


def _told_apart(names: list[str]) -> list[str]:
    """Return names that differ once case-folded (ImageNet has two cranes and a dog called as the jacket)."""
    seen: set[str] = set()
    told = []
    for row, name in enumerate(names):
        told.append(f"{name} {row}" if name.casefold() in seen else name)
        seen.add(name.casefold())
    return told


@pytest.mark.parametrize(("before", "after"), [(80, 3), (3, 3)])
def test_other_names_reuse_nothing_whatever_their_count(before: int, after: int) -> None:
    net = regraft.load(nn.Sequential(nn.Linear(4, before)), inputs=(4,), classes=[f"object {index}" for index in range(before)])
    changed = regraft.retarget(net, [f"thing {index}" for index in range(after)])
    assert not changed.head.weight.any() and changed.account.to_dict()["kept"] == []
    assert "no class name is shared" in str(changed.account)
