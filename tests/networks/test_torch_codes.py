"""Codes of conditions in PyTorch networks: nothing changes at first, a code changes one row, and folds into a plain network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.test_torch_adjusting import NETWORKS, Windows, mlp, near, opened, same, scores, shaken_
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError
from regraft.freezing.cut import Cut, find_cut
from regraft.freezing.selection import cacheable_layers
from regraft.networks.network import Coding, Head, Network, Tap
from regraft.networks.torch.family import open_torch

CODING = Coding(4, ("ann", "bob"))


class Both(nn.Module):
    """Takes a condition Z beside X."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.also, self.head = nn.Linear(6, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, X: Tensor, Z: Tensor) -> Tensor:
        return self.head((self.read(X) + self.also(Z.flatten(1))).relu())


def both() -> Network:
    torch.manual_seed(0)
    return open_torch(Both(), sample={"X": torch.randn(2, 6), "Z": torch.randn(2, 2, 2)})


def in_rows(network: Network, *rows: int) -> dict[str, Tensor]:
    """Return the sample with its items in the conditions of these rows."""
    assert isinstance(network.sample, dict)
    return {**network.sample, "condition": torch.tensor(rows)}


def coded(name: str, into: str = "layers") -> Network:
    """Return a network with codes whose maps are not zero any more."""
    found = opened(name).coded(replace(CODING, into=into), seed=1)
    for part in ("maps",) if into == "layers" else ("entrance.last", "entrance.maps"):
        shaken_(found, part)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_codes_change_nothing_at_first_and_fold_into_biases(name: str) -> None:
    net = opened(name)
    plain = scores(net)
    found = net.coded(CODING, seed=1)
    assert isinstance(found.coding, Coding) and found.coding.points == tuple(point.name for point in net.points())
    for rows in ((0, 0), (1, 2)):
        assert (near if name == "encoder" else same)(scores(found, in_rows(found, *rows)), plain)
    assert len(found.blocks) == len(net.blocks) and net.coding is None
    shaken_(found, "maps")
    moved = scores(found, in_rows(found, 1, 2))
    assert same(scores(found, in_rows(found, 0, 0)), plain) or name == "encoder", "the mean code is zero"
    for row, condition in enumerate(("ann", "bob")):
        folded = found.folded(condition)
        assert torch.allclose(scores(folded)["main"][row], moved["main"][row], atol=1e-6, rtol=1e-5)
        assert folded.coding is None and folded.codes == {}
        assert [layer.name for layer in folded.layers] == [layer.name for layer in net.layers]
        assert isinstance(folded.sample, dict) == isinstance(net.sample, dict)


def test_the_table_is_read_first_at_the_first_point() -> None:
    found = coded("cnn")
    names = [layer.name for layer in found.layers]
    assert names[:4] == ["conv1", "norm1", "codes", "maps.0"]
    calls: list[int] = []
    found.modules()["codes"].register_forward_hook(lambda *_: calls.append(1))
    scores(found)
    assert calls == [1], "once a batch"


def test_shifts_by_hand() -> None:
    net = open_torch(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), inputs=(2,))
    found = net.coded(Coding(1, ("a",)), seed=0)
    with torch.no_grad():
        found.module.maps[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        found.body.code_table().copy_(torch.tensor([[0.0], [3.0]]))
    x = torch.tensor([[0.5, -1.0], [1.0, 1.0]])
    first, _, last = net.module.children()
    expected = last((first(x) + torch.tensor([[0.0, 0.0], [3.0, -6.0]])).relu())
    assert torch.equal(scores(found, {"inputs": x, "condition": torch.tensor([0, 1])})["main"], expected)


def test_rows_of_windows_take_the_code_of_their_item() -> None:
    found = open_torch(Windows(), inputs=(6,)).coded(CODING, seed=1)
    assert found.coding is not None and found.coding.points == ("by_item",)
    shaken_(found, "maps")
    one, two = (scores(found, in_rows(found, *rows))["main"] for rows in ((1, 2), (1, 1)))
    assert torch.equal(one[0], two[0]) and not torch.allclose(one[1], two[1])


@pytest.mark.parametrize("into", ["layers", "entrance"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_only_the_code_is_needed_beside_what_is_kept(name: str, into: str) -> None:
    found = coded(name, into)
    found.freeze_([layer.name for layer in found.layers if layer.name != "codes"])
    sample = {key: torch.cat([value, value[:1]]) for key, value in found.sample.items()} | {"condition": torch.tensor([1, 0, 2])}
    cut = find_cut(found, cacheable_layers(found, found.body.frozen), sample=sample)
    assert isinstance(cut, Cut) and cut.live[-1].name == "input condition"
    assert cut.live[0].name.startswith("entrance.first" if into == "entrance" else "1#" if name == "mlp" else "norm1#")
    with torch.no_grad():
        kept = cut.frozen_part(sample)
    (gradient,) = torch.autograd.grad(cut.trainable_part(kept)["main"].square().sum(), found.body.code_table())
    assert bool(gradient.abs().sum(1).gt(0).all())


@pytest.mark.parametrize(("name", "width"), [("mlp", 6), ("cnn", 4), ("encoder", 8), ("normact", 4)])
def test_an_adaptation_network_before_the_input(name: str, width: int) -> None:
    net = opened(name)
    found = net.coded(replace(CODING, into="entrance"), seed=1)
    assert same(scores(found, in_rows(found, 1, 2)), scores(net))
    assert len(found.state()["entrance.first.weight"]) == width and found.blocks[0].name == "entrance"
    shaken_(found, "entrance.last")
    for layer in (0, 1):  # each of the two reads the code
        part = found.copy()
        shaken_(part, f"entrance.maps.{layer}")
        moved, folded = scores(part, in_rows(part, 1, 2)), part.folded("bob")
        assert not torch.allclose(moved["main"][1], scores(part, in_rows(part, 1, 1))["main"][1])
        assert torch.allclose(scores(folded)["main"][1], moved["main"][1], atol=1e-6)
        assert isinstance(folded.sample, Tensor) and not any("entrance.maps" in key for key in folded.state())
    with pytest.raises(NetworkError, match="takes the inputs input_ids"):
        opened("bert").coded(replace(CODING, into="entrance"))


def test_an_adaptation_network_by_hand() -> None:
    net = open_torch(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), inputs=(2,))
    found = net.coded(Coding(2, ("a",), into="entrance"), seed=0)
    for part in ("first", "last", "maps"):
        shaken_(found, f"entrance.{part}")
    names = ("first.weight", "first.bias", "last.weight", "last.bias", "maps.0.weight", "maps.1.weight")
    w1, b1, w2, b2, to1, to2 = (found.state()[f"entrance.{name}"] for name in names)
    x, code = torch.tensor([[0.5, -1.0]]), found.body.code_table().detach()[1]
    given = x + (x @ w1.T + b1 + to1 @ code).relu() @ w2.T + b2 + to2 @ code
    expected = found.module.network(given)
    assert torch.allclose(scores(found, {"inputs": x, "condition": torch.tensor([1])})["main"], expected, atol=1e-6)


def test_the_code_is_an_input_of_the_network() -> None:
    net = both()
    found = net.coded(Coding(4, (), into="input Z"), seed=1)
    assert list(found.sample) == ["X", "condition"] and found.body.code_table().shape == (1, 4)
    found = found.recoded(("ann",), np.stack([np.zeros(4), np.arange(4)]).astype(np.float32))
    given = torch.stack([torch.arange(4.0), torch.zeros(4)]).reshape(2, 2, 2)
    assert same(scores(found, in_rows(found, 1, 0)), scores(net, {**net.sample, "Z": given}))
    folded = found.folded("ann")
    assert isinstance(folded.sample, Tensor), "one input is left"
    assert torch.equal(scores(folded)["main"][0], scores(found, in_rows(found, 1, 0))["main"][0])
    for into, size, message in (("input Y", 4, "did you mean|valid: 'X'"), ("input Z", 3, "holds 4 numbers"), ("entry", 3, "'entrance'")):
        with pytest.raises(NetworkError, match=message):
            net.coded(Coding(size, ("a",), into=into))
    with pytest.raises(NetworkError, match="one unnamed tensor"):
        opened("mlp").coded(Coding(4, ("a",), into="input Z"))


def test_items_that_lack_an_input_are_told_which() -> None:
    net = regraft.load(Both(), inputs={"X": (6,), "Z": (2, 2)})
    for ask in (net.predict, net.logits, net.features):
        with pytest.raises(NetworkError, match="takes the inputs 'X', 'Z', and the examples do not give 'Z'"):
            ask(np.zeros((3, 6), np.float32))
    with pytest.raises(NetworkError, match="the examples do not give 'condition'"):
        net.coded(replace(CODING, into="input Z")).predict(np.zeros((3, 6), np.float32))
    alone = regraft.load(mlp(), inputs=(6,))
    with pytest.raises(regraft.errors.DataError, match="has the shape"):
        alone.predict(np.zeros((3, 5), np.float32))


def test_a_new_row_changes_no_other() -> None:
    found = coded("cnn")
    before = {name: value.clone() for name, value in found.state().items() if name != "codes.weight"}
    old, kept = scores(found, in_rows(found, 1, 2)), replace(CODING, learned=("ann",))
    found.coding = replace(found.coding, learned=kept.learned)
    table = np.concatenate([found.body.code_table().detach().numpy(), np.ones((1, 4), np.float32)])
    more = found.recoded(("ann", "bob", "eve"), table)
    assert same(scores(more, in_rows(more, 1, 2)), old) and not near(scores(more, in_rows(more, 3, 3)), old)
    assert all(torch.equal(value, before[name]) for name, value in more.state().items() if name != "codes.weight")
    assert more.codes["eve"].tolist() == [1.0] * 4 and list(found.codes) == ["ann", "bob"] and more.coding.learned == ("ann",)
    sizes = {layer.name: layer.parameters for layer in more.layers}
    assert sizes["codes"] == 16
    for names, values in ((("ann",), table), (("ann", "ann", "bob"), table), (("a", "b", "c"), np.full((4, 4), np.nan))):
        with pytest.raises(NetworkError, match="Received a table of codes"):
            found.recoded(names, values)


def test_conditions_are_known_by_name() -> None:
    found = coded("mlp")
    with pytest.raises(NetworkError, match="did you mean 'ann'"):
        found.folded("anne")
    with pytest.raises(NetworkError, match="takes codes already, of 2 conditions"):
        found.coded(CODING)
    with pytest.raises(NetworkError, match="takes no codes"):
        opened("mlp").body.code_table()
    with pytest.raises(NetworkError, match="no linear layer or convolution 'fc'"):
        opened("mlp").coded(replace(CODING, points=("fc",)))
    assert near(scores(found.folded("mean")), scores(opened("mlp")))


def test_heads_on_a_coded_network() -> None:
    found = coded("cnn")
    rows = in_rows(found, 1, 2)
    old, width = scores(found, rows), found.head.features
    head = Head("other", None, "classification", "linear", "", np.eye(5, width, dtype=np.float32), np.zeros(5, np.float32))
    wide, branched = found.with_head(replace(head, task="main")), found.with_head(head)
    assert scores(wide, rows)["main"].shape == (2, 5)
    assert torch.equal(scores(branched, rows)["main"], old["main"]) and branched.codes.keys() == {"ann", "bob"}
    folded, expected = branched.folded("ann"), scores(branched, rows)
    assert all(torch.allclose(values[0], expected[task][0], atol=1e-5) for task, values in scores(folded).items())
    assert folded.heads["other"].layer == branched.heads["other"].layer and folded.head.layer == "fc2"
    inside = opened("cnn").with_head(head).coded(CODING).with_head(replace(head, task="third"))
    assert list(scores(inside)) == ["main", "other", "third"] and torch.equal(scores(inside)["main"], scores(opened("cnn"))["main"])
    stacked = found.with_stack(replace(head, weight=np.eye(4, 3, dtype=np.float32), bias=np.zeros(4, np.float32)), "relu")
    assert near(scores(stacked.folded("bob")), scores(stacked, in_rows(stacked, 2, 2)))
    joined = found.with_columns(2)
    named = in_rows(joined, 1, 1)
    assert torch.equal(scores(joined, named)["main"][0], old["main"][0])
    assert near(scores(joined.folded("ann"), {name: value for name, value in named.items() if name != "condition"}), scores(joined, named))


def test_other_changes_of_a_coded_network() -> None:
    found = coded("normact")
    rows = in_rows(found, 1, 2)
    block = found.blocks[2].name
    short, tapped = found.ended(block), found.tapped([Tap(block, ("mean",))])
    for network in (short, tapped):
        network.mode_(False)
    with torch.no_grad():
        assert torch.allclose(short.feature_batch(rows), tapped.feature_batch(rows), atol=1e-6)
        plain = opened("normact").ended(block)
        plain.mode_(False)
        assert not torch.allclose(short.feature_batch(rows), plain.feature_batch(plain.sample), atol=1e-3)
    assert found.tapped([Tap("input", ("mean",))]).coding is None
    training = found.adjusted(found.points(), form="film")
    assert same(scores(training, rows), scores(found, rows))
    shaken_(training, "adjusting")
    assert near(scores(training.settled(), rows), scores(training, rows)) and training.settled().coding == found.coding
    assert scores(found.reinitialised(1), rows)["main"].shape == (2, 3)


SAVED: dict[str, tuple[Any, Any]] = {
    "mlp": (lambda: coded("mlp"), mlp),
    "cnn": (lambda: coded("cnn"), NETWORKS["cnn"][0]),
    "entrance": (lambda: coded("cnn", "entrance"), NETWORKS["cnn"][0]),
    "input": (lambda: both().coded(Coding(4, ("ann", "bob"), into="input Z")), Both),
    "branched": (lambda: coded("mlp").with_head(replace(coded("mlp").head, task="other")), mlp),
    "encoder": (lambda: coded("bert"), NETWORKS["bert"][0]),
}


FORMS = ("coded", "recoded", "folded")
_QUICK = {*((name, "coded") for name in SAVED), *(("mlp", form) for form in FORMS), ("entrance", "recoded"), ("input", "folded")}


@pytest.mark.parametrize(
    ("name", "form"),
    [pytest.param(name, form, marks=() if (name, form) in _QUICK else pytest.mark.slow) for name in SAVED for form in FORMS],
)
def test_saved_and_opened_again(name: str, form: str, tmp_path: Path) -> None:
    make, architecture = SAVED[name]
    net = make()
    if form == "folded":
        net = net.folded("ann")
    elif form == "recoded":
        net = net.recoded(("ann",), net.body.code_table()[:2].detach().numpy() + 1)
    batch = net.sample if form == "folded" else in_rows(net, 1, 0)
    pictures = name in {"cnn", "entrance"}
    plain = regraft.load(NETWORKS["cnn"][0](), inputs=(1, 8, 8)) if pictures else regraft.load(mlp(), inputs=(6,))
    net.preprocessing = plain.preprocessing
    again = regraft.load(net.save(tmp_path / "net"), architecture=architecture)
    assert same(scores(again, batch), scores(net, batch)) and again.coding == net.coding
    assert again.codes.keys() == net.codes.keys()
    if name in {"mlp", "entrance", "input"}:
        program = regraft.load(tmp_path / "net")
        assert near(dict(program.scores(batch)), scores(net, batch)), "the program beside it, which opens without the class"


@pytest.mark.parametrize("name", ["mlp", "entrance", "input"])
def test_exported_programs_take_named_inputs(name: str, tmp_path: Path) -> None:
    net = SAVED[name][0]()
    program: Any = torch.export.load(net.export(tmp_path / "net.pt2")).module()
    more = {key: torch.cat([value, value[:1]]) for key, value in in_rows(net, 1, 2).items()}
    assert torch.allclose(program(**more), scores(net, more)["main"], atol=1e-6)
    plain: Any = torch.export.load(net.folded("ann").export(tmp_path / "folded.pt2")).module()
    first = next(iter(more.values()))
    assert torch.allclose(plain(first), scores(net, more | {"condition": torch.ones(3, dtype=torch.int64)})["main"], atol=1e-6)
