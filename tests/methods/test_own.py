"""A method that a program adds for itself: planned, checked, trained, saved and opened like those of regraft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.methods import examples

import regraft
from regraft.errors import SettingError
from regraft.freezing import frozen_but, head_parameters
from regraft.methods import METHODS, Method, Option, PreparedNetwork
from regraft.networks.network import Network


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> PreparedNetwork:
    twin = network.copy()
    names = [name for names in twin.layer_parameters().values() for name in names]
    return PreparedNetwork(twin, frozen_but(twin, {*names[: options["first"]], *head_parameters(twin)}))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Option(1, "a number of parameters", lambda value: isinstance(value, int))
    monkeypatch.setitem(METHODS, "entrance", Method("entrance", "the first parameters", _begin, options={"first": first}))


@pytest.mark.parametrize("kind", ["torch MLP", "Keras Sequential"])
def test_a_method_of_the_program_trains_what_it_says_and_nothing_else(kind: str, own: None, tmp_path: Path) -> None:
    net, data = examples.opened(kind), examples.items(kind)
    quick = {"holdout": 0.33, "validation": 0, "epochs": 3, "learning_rate": 1e-2, "cache": "memory", "statistics": False}
    result = regraft.adapt(net, data, strategy="entrance", first=1, out=tmp_path / "out", **quick)
    before, after = net.state(), result.network.state()
    first = next(iter(name for names in net.layer_parameters().values() for name in names))
    heads = tuple(f"{layer}." for layer in net.head_layers)
    changed = {name for name in before if not name.startswith(heads) and not np.array_equal(before[name].cpu(), after[name].cpu())}
    assert changed == {first}
    opened = regraft.load(tmp_path / "out")
    np.testing.assert_allclose(opened.logits(data), result.network.logits(data), rtol=1e-5, atol=1e-6)


def test_its_name_and_its_options_are_checked_like_those_of_regraft(own: None) -> None:
    net, data = examples.opened("torch MLP"), examples.items("torch MLP")
    for settings, words in (
        ({"strategy": "entrence"}, "'entrance'"),
        ({"strategy": "entrance", "first": "two"}, "expected a number of parameters"),
        ({"strategy": "entrance", "rank": 4}, "rank"),
    ):
        with pytest.raises(SettingError, match=words):
            regraft.adapt(net, data, **settings)
