"""Networks whose logits are the sum or the mean of several linear layers: the layers are one head, and change together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from tests.zoo.torch_networks import TwoHeads
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError
from regraft.networks.network import Network

CLASSES = ("a", "b", "c")


class Weighted(TwoHeads):
    """A sum with a weight for each head, only one of which has a bias; as probabilities where `ends` says so."""

    ends: Callable[[Tensor], Tensor] = staticmethod(lambda scores: scores)

    def __init__(self) -> None:
        super().__init__()
        self.fc_dist = nn.Linear(8, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.ends(0.75 * self.fc(self.features(x)) + 0.25 * self.fc_dist(self.maps(x).mean((2, 3))))


class Probabilities(Weighted):
    ends = staticmethod(lambda scores: scores.softmax(1))


class Independent(Weighted):
    ends = staticmethod(torch.sigmoid)


class Listed(TwoHeads):
    """Three heads in a list, as CrossViT has them, and a layer of the same width below."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.heads = nn.Linear(8, 3), nn.ModuleList(nn.Linear(width, 3) for width in (12, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        means = self.maps(x).mean((2, 3))
        inputs = (self.features(x), means, self.below(means).relu())
        return torch.stack([head(values) for head, values in zip(self.heads, inputs, strict=True)]).mean(0)


def deit() -> nn.Module:
    name, small = "deit_tiny_distilled_patch16_224", {"img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 12, "num_heads": 2}
    return timm.create_model(name, num_classes=3, **small)


def deit_with_teacher() -> nn.Module:
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 16}
    config = transformers.DeiTConfig(**sizes, patch_size=8, num_labels=3)
    return transformers.DeiTForImageClassificationWithTeacher(config)


MADE: dict[str, Callable[[], nn.Module]] = {
    "mean": TwoHeads,
    "weighted": Weighted,
    "softmax": Probabilities,
    "sigmoid": Independent,
    "three": Listed,
    "timm": deit,
    "transformers": deit_with_teacher,
}
HEADS = {"mean": ("fc", "fc_dist"), "three": ("heads.0", "heads.1", "heads.2"), "timm": ("head", "head_dist")}


def opened(name: str) -> tuple[nn.Module, Network]:
    torch.manual_seed(0)
    module = MADE[name]().eval()
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and layer.out_features == 3:
            nn.init.normal_(layer.weight)
    return module, regraft.load(module, inputs=(3, 16, 16), classes=CLASSES)


def pictures(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, 16, 16)).astype(np.float32)


def own(module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        result: Any = module(torch.from_numpy(pictures()))
    return np.asarray(result if isinstance(result, Tensor) else result.logits)


@pytest.mark.parametrize("name", MADE)
def test_all_layers_are_the_head(name: str) -> None:
    """Predictions are the module's; the head's weights times what it reads are its logits; classes change by name in all layers."""
    module, net = opened(name)
    logits = net.logits(pictures())
    found = net.predict(pictures()).probabilities
    expected = own(module) if name in ("softmax", "sigmoid") else torch.from_numpy(own(module)).softmax(1).numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert net.body.layers_of("main") == HEADS.get(name, net.body.layers_of("main"))
    assert len(net.body.layers_of("main")) > 1
    assert np.allclose(net.features(pictures()) @ net.head.weight.T + net.head.bias, logits, atol=1e-4)
    turned = regraft.retarget(net, ["c", "new", "b", "a"])
    assert np.allclose(turned.logits(pictures())[:, [3, 2, 0]], logits, atol=1e-5)
    assert not turned.logits(pictures())[:, 1].any()
    assert turned.account.entries["kept"] == ["c", "b", "a"]
    assert {len(turned.module.get_submodule(layer).weight) for layer in turned.body.layers_of("main")} == {4}


@pytest.mark.parametrize("name", ["mean", "three", "timm", "transformers"])
def test_extended_saved_and_opened(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Earlier logits stay as they are, bit for bit; a folder opens with the same ones."""
    if name != "mean":  # one of a kind is written without its class
        request.getfixturevalue("without_onnx_form")
    _, net = opened(name)
    more = regraft.extend(regraft.retarget(net, CLASSES), ["d"], start="random")
    assert np.array_equal(more.logits(pictures())[:, :3], regraft.retarget(net, CLASSES).logits(pictures()))
    more.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net", architecture=MADE[name]())
    assert np.array_equal(again.logits(pictures()), more.logits(pictures()))
    assert again.classes == (*CLASSES, "d")


@pytest.mark.parametrize("strategy", ["probe", "head", "partial", "full", "lora", "codes"])
def test_a_vision_transformer_with_two_heads_is_adapted(strategy: str) -> None:
    """Both heads learn, and with the head alone nothing else does."""
    _, net = opened("timm")
    values, rows = pictures(36), np.arange(36) % 2
    values[rows == 1] += 1
    settings = {} if strategy == "probe" else {"epochs": 2} | ({"frozen": 1} if strategy == "partial" else {})
    conditions = {"condition": np.array(["m", "n"])[np.arange(36) // 2 % 2]} if strategy == "codes" else {}
    data = regraft.read((values, np.array(["x", "y"])[rows]), **conditions)
    made = regraft.adapt(net, data, strategy=strategy, cache="memory", batch_size=12, **settings).network
    with torch.no_grad():
        given = made.logits(values) if strategy == "codes" else made.module.eval()(torch.from_numpy(values)).numpy()
    assert np.allclose(made.logits(values), given, atol=1e-5)
    state, before = made.state(), net.state()
    if strategy == "head":
        rest = [name for name in before if not name.startswith(("head.", "head_dist."))]
        assert all(torch.equal(state[name], before[name]) for name in rest)
    assert all(values.any() for key, values in state.items() if key.endswith(("head.weight", "head_dist.weight")))


def test_one_named_head_of_several_is_the_whole() -> None:
    assert regraft.load(TwoHeads(), inputs=(3, 16, 16), head="fc_dist").body.layers_of("main") == ("fc", "fc_dist")


def test_what_reads_the_same_as_the_head_is_refused() -> None:
    _, net = opened("mean")
    with pytest.raises(NetworkError, match="sum of 2 layers that read different features, 'fc', 'fc_dist'"):
        regraft.branch(net, "size", ["small", "large"])


class Residual(nn.Module):
    """What a layer gives is added to what the next one makes of it: no sum of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        below = self.first(x)
        return below + self.second(below.relu())


def test_a_residual_connection_is_no_head() -> None:
    assert regraft.load(Residual(), inputs=(4,)).heads == {}


@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-7])
def test_small_logits_are_no_proof_of_a_head(scale: float) -> None:
    """What is near zero in absolute numbers is compared relative to its size."""
    module = TwoHeads().eval()
    with torch.no_grad():
        for layer in (module.fc, module.fc_dist):
            layer.weight *= scale
            layer.bias *= scale
    assert regraft.load(module, inputs=(3, 16, 16)).body.layers_of("main") == ("fc", "fc_dist")
