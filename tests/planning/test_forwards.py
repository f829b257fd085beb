"""Each example goes through the frozen part once, whatever a run computes beside it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reliability import cases
from torch.nn import functional

import regraft
from regraft.networks.network import Network

SAMPLE = 6
"""So many examples more go through the network, before the cut is known and to prove it."""
SETTINGS: dict[str, dict[str, Any]] = {
    "probe": {"strategy": "probe"},
    "head": {"strategy": "head"},
    "partial": {"strategy": "partial", "frozen": 1},
    "partial, two blocks": {"strategy": "partial", "frozen": 2},
    "views": {"strategy": "partial", "frozen": 1, "views": 3},
}


class Watch:
    """Counts the examples that are convolved with the weights that the first convolution has now."""

    def __init__(self) -> None:
        self.seen: Counter[bytes] = Counter()
        self.first = torch.zeros(0)
        self._plain = functional.conv2d

    def begin(self, net: Network) -> None:
        layer: Any = net.modules()["conv1"]
        self.first = (layer.weight if net.family == "torch" else layer.kernel.value.permute(3, 2, 0, 1)).detach().clone()
        self.seen.clear()

    def conv2d(self, x: torch.Tensor, weight: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        if weight.shape == self.first.shape and torch.equal(weight, self.first):
            self.seen.update(row.tobytes() for row in x.detach().cpu().numpy())
        return self._plain(x, weight, *args, **named)


def _rows() -> list[Any]:
    """Return every kind and family; of Keras, those with one block frozen in the fast suite."""
    rows = [(kind, family) for kind in SETTINGS for family in cases.FAMILIES]
    return [pytest.param(*row, marks=pytest.mark.slow if row[1] == "keras" and row[0] in list(SETTINGS)[3:] else ()) for row in rows]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()
    monkeypatch.setattr(functional, "conv2d", found.conv2d)
    monkeypatch.setattr("regraft.training.courses.MOST", 4)  # the network from scratch has other weights, so nothing of it counts
    return found


@pytest.mark.parametrize("where", [pytest.param("memory", marks=pytest.mark.slow), "folder"])
@pytest.mark.parametrize(("kind", "family"), _rows())
def test_each_example_goes_through_the_frozen_part_once(watch: Watch, kind: str, where: str, family: str, tmp_path: Path) -> None:
    settings = {**SETTINGS[kind], "epochs": 2, "batch_size": 16, "seed": 1, "baselines": True}
    net, data = cases.network(family), cases.data(family)
    watch.begin(net)
    result = regraft.adapt(net, data, cache="memory" if where == "memory" else tmp_path, **settings)
    split = result.facts["data"]["split"]
    copies = (settings.get("views", 1) - 1) * (split["training"] + split["validation"])
    assert result.cost["frozen_forward_examples"] == len(data) + copies
    often = [count for count in watch.seen.values() if count > 1]
    assert len(often) <= SAMPLE * settings.get("views", 1), often
    assert len(watch.seen) >= len(data) + copies


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("frozen", [1, 2])
def test_a_test_set_goes_through_the_frozen_part_once(watch: Watch, frozen: int, family: str) -> None:
    net, data = cases.network(family), cases.data(family)
    test = replace(data, items=np.asarray(data.items) + np.float32(0.25))
    settings = {"epochs": 2, "batch_size": 16, "seed": 1, "cache": "memory", "dropout": 0.1}
    watch.begin(net)
    result = regraft.adapt(net, data, test=test, strategy="partial", frozen=frozen, **settings)
    assert result.cost["frozen_forward_examples"] == len(data) + len(test)
    assert sum(count > 1 for count in watch.seen.values()) <= 2 * SAMPLE and len(watch.seen) >= len(data) + len(test)


TWICE: dict[str, dict[str, Any]] = {
    "base": {"strategy": "partial", "frozen": 1, "base": "probe"},
    "block": {"strategy": "surgical", "block": "auto"},
    "old head": {"strategy": "partial", "frozen": 1, "distill": 0.3},
    "old head, by a method": {"strategy": "scale_shift", "distill": 0.3},
    "everything": {"strategy": "partial", "frozen": 1, "refit": "all"},
}
"""What `docs/strategies.md` says goes through the frozen part up to two times."""


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("kind", TWICE)
def test_no_example_goes_through_the_frozen_part_more_than_twice(kind: str, family: str) -> None:
    data = cases.data(family)
    result = regraft.adapt(cases.network(family), data, cache="memory", epochs=2, batch_size=16, seed=1, baselines=False, **TWICE[kind])
    assert result.cost["frozen_forward_examples"] in (len(data), 2 * len(data))


METHODS: dict[str, dict[str, Any]] = {
    "bias": {},
    "lin": {},
    "codes": {},
    "scale_shift": {},
    "scale_shift, norms": {"form": "norm"},
    "scale_shift, views": {"views": 2},
    "lora": {"rank": 2},
}


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("tested", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("kind", METHODS)
def test_methods_send_each_example_through_it_once(kind: str, tested: bool, family: str) -> None:
    strategy, settings = kind.partition(",")[0], {**METHODS[kind], "epochs": 2, "batch_size": 16, "seed": 1, "cache": "memory"}
    data = cases.data(family, "conditions" if strategy == "codes" else "plain")
    test = data.subset(np.arange(12)) if tested else None
    result = regraft.adapt(cases.network(family), data, strategy=strategy, test=test, **settings)
    split = result.facts["data"]["split"]
    copies = (settings.get("views", 1) - 1) * (split["training"] + split["validation"])
    assert result.cost["frozen_forward_examples"] == len(data) + copies + (12 if tested else 0)
