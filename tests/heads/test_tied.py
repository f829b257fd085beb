"""Heads that share their weights with another layer: each edit gives the head its own, leaves the other layer as it is, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError

pytestmark = pytest.mark.usefixtures("without_onnx_form")

CLASSES = [f"word {number}" for number in range(12)]
WORDS = np.random.default_rng(0).integers(0, 12, (48, 5))
NEXT = np.array(CLASSES)[np.arange(48) % 12]


class Tied(nn.Module):
    """Predicts the next word; the class weights are the rows of the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.body, self.head = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12, bias=False)
        self.head.weight = self.rows.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.body(self.rows(words).mean(1)).tanh())  # type: ignore[no-any-return]


def _adapted(strategy: str) -> Callable[[Any], Any]:
    return lambda net: regraft.adapt(net, (WORDS, NEXT), strategy=strategy, epochs=1, cache="memory").network


EDITS: dict[str, Callable[[Any], Any]] = {
    "retarget": lambda net: regraft.retarget(net, CLASSES[3:7]),
    "extend": lambda net: regraft.extend(net, ["x"], (WORDS[:6], ["x"] * 6)),
    "head": _adapted("head"),
    "full": _adapted("full"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_changed_head_has_its_own_weights_and_says_so_once(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tied().eval()
    before = module.rows.weight.detach().clone()
    net = regraft.load(module, inputs=(5,), classes=CLASSES)
    assert not any("shared" in note for note in net.account.notes)
    changed = EDITS[name](net)
    changed.save(tmp_path / "saved")
    again = regraft.load(tmp_path / "saved", architecture=Tied())
    for network in (changed, again):
        assert [note.partition(":")[0] for note in network.account.notes].count("'head' and 'rows' shared their weights") == 1
    np.testing.assert_array_equal(again.logits(WORDS), changed.logits(WORDS))
    if name != "full":
        assert torch.equal(changed.state()["rows.weight"], before)
    assert module.head.weight is module.rows.weight and torch.equal(module.rows.weight, before)


def test_a_head_without_shared_weights_has_no_such_note() -> None:
    untied = nn.Sequential(nn.Embedding(12, 8), nn.Flatten(), nn.Linear(40, 12))
    net = regraft.retarget(regraft.load(untied, inputs=(5,), classes=CLASSES), CLASSES[3:7])
    assert not any("shared" in note for note in net.account.notes)


def test_a_method_that_finds_no_layer_of_its_kind_names_its_strategy_once() -> None:
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 2))
    rows = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    with pytest.raises(NetworkError, match=r"^strategy='lora' changes linear layers and convolutions; received a network without any"):
        regraft.adapt(regraft.load(module, inputs=(6,)), (rows, np.arange(24) % 2), strategy="lora", cache="memory")
