"""The contract table: every method and switch on a network of every kind."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples
from tests.methods import examples
from torch import Tensor

import regraft
from regraft.errors import InputError
from regraft.methods import METHODS, SWITCHES
from regraft.networks.network import Network

CARDS = Path(__file__).parents[2] / "docs" / "methods"
ALL_CARDS = sorted(set(CARDS.glob("*.md")) - {CARDS / "index.md"})
HEADINGS = ("Use", "When not", "Defaults and their sources", "Deviations", "Measured")
QUICK: dict[str, Any] = {
    **{"holdout": 0.33, "validation": 0, "epochs": 4, "schedule": "cosine", "learning_rate": 1e-2, "batch_size": 8},
    **{"cache": "memory", "statistics": False},
}

Frozen = Callable[[Network, Network], dict[str, str]]
"""From the network before and after to what must be bit-equal: name before -> name after."""


def _same_names(before: Network, after: Network, *, but: Callable[[str], bool]) -> dict[str, str]:
    """Return the tensors of all layers but the heads, less those that a method may change, by their names before and after."""
    found, heads = {}, tuple(f"{layer}." for layer in before.head_layers)
    for name in before.state():
        if not name.startswith(heads) and "seed" not in name and not but(name):
            found[name] = name
    return found


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _but_biases(before: Network, after: Network) -> dict[str, str]:
    return _same_names(before, after, but=lambda name: "bias" in _last(name) or _last(name) == "beta")


def _but_points(before: Network, after: Network) -> dict[str, str]:
    changed = {point.name for point in before.points()}
    return _same_names(
        before, after, but=lambda name: name.rpartition(".")[0] in changed and "moving" not in name and "running" not in name
    )


def _but_norms(before: Network, after: Network) -> dict[str, str]:
    norms = {layer.name for layer in before.layers if "norm" in layer.kind.lower()}
    still = ("moving", "running", "num_batches")
    return _same_names(before, after, but=lambda name: name.rpartition(".")[0] in norms and not _last(name).startswith(still))


def _but_weights(before: Network, after: Network) -> dict[str, str]:
    return _same_names(before, after, but=lambda name: _last(name) in ("weight", "kernel"))


def _all(before: Network, after: Network) -> dict[str, str]:
    return _same_names(before, after, but=lambda _name: False)


def _none(_before: Network, _after: Network) -> dict[str, str]:
    return {}


def _first_block(before: Network, after: Network) -> dict[str, str]:
    inside = set(before.blocks[0].layers)
    return _same_names(before, after, but=lambda name: name.rpartition(".")[0] not in inside)


@dataclass(frozen=True)
class Row:
    """One method, or one of its forms.

    Attributes:
        name: of the method or switch; its card is called so.
        strategy: of the plan.
        options: beside it.
        frozen: what must be bit-equal.
        refused: networks and options that do not go with it, and what the message names.
        other: the classes are others than those of the old head.
    """

    name: str
    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    frozen: Frozen = _all
    refused: tuple[tuple[str, dict[str, Any], str], ...] = ()
    other: bool = False


LSTM = ("lstm", {}, "linear layer or convolution")
ROWS = (
    Row("bias", "bias", frozen=_but_biases, refused=(("no bias", {}, "scale_shift"),)),
    Row("scale_shift", "scale_shift", {"form": "lhuc"}, _but_points, (LSTM,)),
    Row("scale_shift", "scale_shift", {"form": "film"}, _but_points, (LSTM,)),
    Row("scale_shift", "scale_shift", {"form": "norm"}, _but_norms, (("no bias", {}, "normalisation"),)),
    Row("lora", "lora", {"rank": 2}, _but_weights, (("lstm", {}, "linear layers"), ("no bias", {"layers": ["o"]}, "'o' is no layer"))),
    Row("lin", "lin", frozen=_all, refused=(("lstm", {}, "token ids"),)),
    Row("codes", "codes", {"size": 2}, _none, (LSTM, ("no bias", {"size": 90}, "size=90"))),
    Row("codes", "codes", {"size": 2, "training": "direct"}, _all, (LSTM,)),
    Row("codes", "codes", {"size": 2, "training": "entrance"}, _all, (("lstm", {}, "token ids"),)),
    Row("stay_near", "partial", {"frozen": 1, "stay_near": 1.0}, _first_block, (("no bias", {"strategy": "head"}, "stay_near"),)),
    Row("distill", "partial", {"frozen": 1, "distill": 0.5}, _first_block, (("one output", {}, "distill=0.5"),)),
    Row("distill", "partial", {"frozen": 1, "distill": 0.5}, _first_block, (("one output", {}, "distill=0.5"),), other=True),
    Row("co_tuning", "full", {"co_tuning": 1.0, "learning_rate": 3e-3}, _none, (("same classes", {}, "Use distill="),), other=True),
    Row("co_tuning", "bias", {"co_tuning": 1.0}, _but_biases, (("one output", {}, "co_tuning=1"),), other=True),
    Row("surgical", "surgical", {"block": "auto"}, _none, (("no bias", {"base": "probe"}, "block='auto'"),)),
)
IDS = [" ".join([row.name, *map(str, row.options.values()), *(["other"] if row.other else [])]) for row in ROWS]
NOT_FOR = {
    ("norm", "torch MLP"): "normalisation",
    ("lin", "Hugging Face encoder"): "input_ids",
    ("entrance", "Hugging Face encoder"): "input_ids",
}
"""Cells in which the network is refused by name."""


def _cells() -> list[Any]:
    """Return the cells: `make test` tries every row on one network of each family, in turn; `make test-all` has the whole table."""
    of_keras = [kind for kind in examples.KINDS if kind.startswith("Keras")]
    of_torch, cells = [kind for kind in examples.KINDS if kind not in of_keras], []
    for at, (row, name) in enumerate(zip(ROWS, IDS, strict=True)):
        refused = {kind for form, kind in NOT_FOR if form in (row.name, *row.options.values())}
        suited = [kind for kind in of_torch if kind not in refused]
        quick = {suited[at % len(suited)], of_keras[at % len(of_keras)], *refused}
        for kind in examples.KINDS:
            cells.append(pytest.param(row, kind, id=f"{name}-{kind}", marks=() if kind in quick else pytest.mark.slow))
    return cells


def _adapted(row: Row, kind: str) -> regraft.Result:
    net = examples.opened(kind, examples.OTHER_CLASSES if row.other else examples.CLASSES)
    return regraft.adapt(net, examples.items(kind), strategy=row.strategy, **QUICK | {"start": "zeros"} | row.options)


def _equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first if "seed" not in name)


@pytest.mark.parametrize(("row", "kind"), _cells())
def test_the_contract(row: Row, kind: str, tmp_path: Path) -> None:
    why = next(
        (words for (form, unsuited), words in NOT_FOR.items() if kind == unsuited and form in (row.name, *row.options.values())), None
    )
    if why is not None:
        with pytest.raises(InputError, match=why):
            _adapted(row, kind)
        return
    before = {name: tensor.clone() for name, tensor in examples.opened(kind).state().items()}
    result = _adapted(row, kind)
    net, source = result.network, examples.opened(kind)
    assert _equal(before, source.state())  # the network given is left as it is
    losses = [entry["train_loss"] for entry in result.history if entry["stage"] != "head"]
    assert len(losses) == QUICK["epochs"] and losses[-1] < losses[0]
    kept = row.frozen(source, net)
    assert all(torch.equal(before[name], net.state()[after]) for name, after in kept.items()), kept
    items = examples.items(kind)
    scores = net.logits(items)
    net.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net")
    allowed = 1e-5 if kind.startswith("torch") else 0  # ONNX Runtime sums in another order
    np.testing.assert_allclose(again.logits(items), scores, rtol=allowed, atol=allowed)
    assert again.classes == examples.CLASSES
    assert _equal(_adapted(row, kind).network.state(), net.state())


def _refused_network(kind: str) -> tuple[Network, Any]:
    """Return a network that something does not go with, and items for it."""
    torch.manual_seed(0)
    labels = [examples.CLASSES[index % 3] for index in range(12)]
    if kind == "lstm":
        ids = np.random.default_rng(0).integers(1, 20, (12, 16))
        return regraft.load(torch_examples.Lstm(), inputs=(16,)), regraft.read((ids, labels), condition=list("ab") * 6)
    values = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    layers = [torch.nn.Linear(6, 8, bias=False), torch.nn.ReLU(), torch.nn.Linear(8, 1 if kind == "one output" else 3)]
    classes = None if kind == "one output" else examples.CLASSES
    return regraft.load(torch.nn.Sequential(*layers), inputs=(6,), classes=classes), regraft.read(
        (values, labels), condition=list("ab") * 6
    )


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_what_does_not_suit_is_refused_by_name_before_anything_is_trained(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.training.loop._trained", lambda *_: pytest.fail("a training was started"))
    for kind, options, words in row.refused:
        net, items = _refused_network(kind)
        with pytest.raises(InputError, match=words):
            regraft.adapt(net, items, **{"strategy": row.strategy, **QUICK, **row.options, **options})


def test_every_method_and_switch_has_a_row_and_a_card() -> None:
    names = {*METHODS, *SWITCHES, "surgical"}
    assert {row.name for row in ROWS} == names
    assert {path.stem for path in ALL_CARDS} == names
    for name in METHODS:
        assert {row.strategy for row in ROWS if row.name == name} == {name}


@pytest.mark.parametrize("card", ALL_CARDS, ids=lambda card: card.stem)
def test_cards_have_their_headings(card: Path) -> None:
    text = card.read_text(encoding="utf-8")
    assert tuple(line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")) == HEADINGS
    for method in (METHODS[card.stem],) if card.stem in METHODS else ():
        assert all(f"`{name}" in text for name in method.options), method.options


@pytest.mark.parametrize("card", ALL_CARDS, ids=lambda card: card.stem)
def test_the_examples_of_the_cards_run(card: Path) -> None:
    net, data = examples.opened("torch CNN"), examples.items("torch CNN")
    if card.stem == "co_tuning":
        net.name_classes_(examples.OTHER_CLASSES)
    found = re.findall(r"```python\n(.+?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert found
    for example in found:
        exec(compile(example, str(card), "exec"), {"regraft": regraft, "net": net, "data": data})
