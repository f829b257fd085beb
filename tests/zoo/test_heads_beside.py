"""Networks with a second layer that adds its maximum over positions to the logits, as timm's VOLO: both layers follow the classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.volo import VOLO
from torch import Tensor, nn

import regraft
from regraft.errors import SettingError
from regraft.networks.network import Network

CLASSES = ("a", "b", "c")
ROWS = np.random.default_rng(0).normal(size=(36, 5, 6)).astype(np.float32)


class Beside(nn.Module):
    """A head on the first position, and half the maximum over the others of a second layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.further, self.head, self.aux = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.further(self.body(x).relu()).relu()
        return self.head(x[:, 0]) + 0.5 * self.aux(x[:, 1:]).max(1)[0]


def keras_model() -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    entry = keras.Input((5, 6))
    features = keras.layers.Dense(8, activation="relu", name="further")(keras.layers.Dense(8, activation="relu", name="body")(entry))
    more = keras.layers.GlobalMaxPooling1D()(keras.layers.Dense(3, name="aux")(features[:, 1:]))
    return keras.Model(entry, keras.layers.Add()([keras.layers.Dense(3, name="head")(features[:, 0]), 0.5 * more]))


MADE: dict[str, Callable[[], Any]] = {"torch": Beside, "keras": keras_model}
families = pytest.mark.parametrize("family", MADE)


def own(module: Any) -> np.ndarray:
    with torch.no_grad():
        return np.asarray((module.eval() if isinstance(module, Beside) else module)(torch.from_numpy(ROWS)).detach())


def opened(family: str) -> Network:
    return regraft.load(MADE[family](), inputs=(5, 6), classes=CLASSES)


@families
def test_classes_change_in_both_layers(family: str) -> None:
    """The logits are the module's; those of classes that stay do not move, and a new class starts at zero in both layers."""
    net, before = opened(family), own(MADE[family]())
    assert net.head.layer == "head" and net.head.apart and net.body.found["main"].beside == ("aux",)
    assert np.allclose(net.logits(ROWS), before, atol=1e-6)
    turned = regraft.retarget(net, ["c", "new", "a", "other"])
    assert np.allclose(turned.logits(ROWS)[:, [0, 2]], before[:, [2, 0]], atol=1e-6)
    assert not turned.logits(ROWS)[:, [1, 3]].any() and turned.head.apart
    assert "'aux' adds to the logits" in str(turned.account)
    assert turned.state()["aux.weight" if family == "torch" else "aux.kernel"].numel() == 4 * 8
    new = regraft.retarget(net, ["x", "y"], start="random")
    assert not new.head.apart and np.allclose(new.features(ROWS) @ new.head.weight.T + new.head.bias, own(new.module), atol=1e-6)
    wider = regraft.retarget(regraft.load(new.module, inputs=(5, 6)), ["1", "2", "3", "4", "5"])  # the second layer is zero there
    assert own(wider.module).shape == (36, 5)


@families
def test_extended_saved_and_opened(family: str, tmp_path: Path) -> None:
    """Earlier logits stay bit-identical, and the folder opens with the same ones."""
    net = opened(family)
    more = regraft.extend(net, ["d"], (ROWS + 1, ["d"] * 36))
    assert np.array_equal(more.logits(ROWS)[:, :3], net.logits(ROWS)) and more.logits(ROWS)[:, 3].any()
    with pytest.MonkeyPatch.context() as patch:  # the program beside the weights takes most of the time
        patch.setattr(regraft.networks.torch.family, "write_program", lambda *_args, **_more: {})
        more.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net", architecture=Beside if family == "torch" else None)
    assert np.array_equal(again.logits(ROWS), more.logits(ROWS)) and again.head.apart
    assert regraft.retarget(again, ["x", "y"]).state().keys() == again.state().keys()


CASES = [("probe", "xy"), ("head", "xy"), ("full", "xy"), ("head", "abc"), pytest.param("scratch", "abc", marks=pytest.mark.slow)]


@families
@pytest.mark.parametrize(("strategy", "labels"), CASES)
def test_adapted(family: str, strategy: str, labels: str) -> None:
    """New classes are solved on cached features, and the second layer stays zero unless it is trained; old classes keep both layers."""
    net, settings = opened(family), {} if strategy == "probe" else {"epochs": 2}
    data = (ROWS, np.array(list(labels))[np.arange(36) % len(labels)])
    made = regraft.adapt(net, data, strategy=strategy, cache="memory", batch_size=12, **settings).network
    aux = [values for name, values in made.state().items() if name.startswith("aux.")]
    assert np.allclose(made.logits(ROWS), own(made.module), atol=1e-5)
    assert made.head.apart == any(bool(values.any()) for values in aux)
    assert made.head.apart == (labels == "abc") or strategy == "full"
    assert made.head.weight.shape != net.head.weight.shape or not np.array_equal(made.head.weight, net.head.weight)


@families
def test_old_classes_are_not_solved_in_closed_form(family: str) -> None:
    with pytest.raises(SettingError, match="logits of 'main' are not linear"):
        regraft.adapt(opened(family), (ROWS, np.array(CLASSES)[np.arange(36) % 3]), strategy="probe")


def test_the_network_of_timm() -> None:
    small = {"img_size": 32, "layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 16), "num_heads": (1, 2, 2, 2), "stem_hidden_dim": 8}
    module = VOLO(num_classes=5, **small)
    made = regraft.retarget(regraft.load(module), ["x", "y"])
    module.reset_classifier(2)
    assert {name: one.shape for name, one in made.state().items()} == {name: one.shape for name, one in module.state_dict().items()}


class Encoder(nn.Module):
    """Residual layers that are all as wide as the result, and no head."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Linear(6, 6) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = x + step(x).tanh()
        return x


def test_the_search_takes_passes_in_proportion_to_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    passes, forward = list[int](), Encoder.forward
    monkeypatch.setattr(Encoder, "forward", lambda self, x: (passes.append(1), forward(self, x))[1])
    counts = {}
    for depth in (10, 40):
        passes.clear()
        assert not regraft.load(Encoder(depth), inputs=(6,)).heads
        counts[depth] = len(passes)
    assert counts[40] - counts[10] <= 2 * 30
