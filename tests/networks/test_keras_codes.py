"""Keras networks take codes of conditions, in Keras' own layers, and fold them away again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("keras")

from tests.networks import keras_examples as examples
from tests.networks.plain_keras import assert_opens_afresh, exported

import regraft
from regraft.errors import NetworkError
from regraft.freezing.cut import Cut, find_cut
from regraft.freezing.selection import cacheable_layers
from regraft.networks.keras.family import open_keras
from regraft.networks.keras.library import keras
from regraft.networks.network import Coding, Head, Inputs, Network, Scores

L = keras.layers
CODING = Coding(4, ("ann", "bob"), learned=("ann", "bob"))


def opened(name: str) -> Network:
    keras.utils.set_random_seed(0)
    network = open_keras(examples.WITH_POINTS[name]())
    if name == "masked text":
        network.sample = torch.tensor([[1, 2, 3, 0, 0, 0], [5, 4, 3, 2, 1, 0]])
    return network


def coded(network: Network | str, coding: Coding = CODING, *, trained: bool = True) -> Network:
    """Return a network with codes that do something."""
    network = opened(network) if isinstance(network, str) else network
    twin = network.coded(coding, seed=1)
    if not isinstance(network.sample, dict):
        twin.sample = {**twin.sample, "inputs": network.sample}  # type: ignore[dict-item]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in twin.state().items():
            if trained and ("codes_to_" in key or key.startswith("entrance_last.")):
                value.copy_(torch.randn(value.shape, generator=generator))
    return twin


def scores(network: Network, inputs: Inputs | None = None) -> Scores:
    with torch.no_grad():
        return network.scores(network.sample if inputs is None else inputs)


def at(network: Network, *rows: int) -> Inputs:
    assert isinstance(network.sample, dict)
    return {**network.sample, "condition": torch.tensor(rows)}


def without(inputs: Inputs) -> Inputs:
    """Return inputs as the plain network takes them."""
    assert isinstance(inputs, dict)
    rest = {name: tensor for name, tensor in inputs.items() if name != "condition"}
    return next(iter(rest.values())) if len(rest) == 1 else rest


def same(one: Scores, other: Scores) -> bool:
    return all(torch.equal(one[task], other[task]) for task in one)


@pytest.mark.parametrize("name", examples.WITH_POINTS)
def test_codes_change_nothing_at_first_and_fold(name: str) -> None:
    network = opened(name)
    first, trained = coded(network, trained=False), coded(network)
    plain = scores(network)
    assert first.coding == replace(CODING, points=tuple(point.name for point in network.points()))
    assert same(scores(first), plain) and same(scores(first, at(first, 1, 2)), plain)
    table = first.body.code_table()
    assert isinstance(table, torch.nn.Parameter) and table.shape == (3, 4)
    assert not table[0].any() and table[1:].all() and float(table.detach().abs().max()) < 1
    assert list(first.codes) == ["ann", "bob"] and np.array_equal(first.codes["bob"], table[2].detach().numpy())
    assert [block.name for block in first.blocks] == [block.name for block in network.blocks]
    assert [layer.name for layer in first.layers if "codes" not in layer.name] == [layer.name for layer in network.layers]
    with pytest.raises(NetworkError, match="takes codes already, of 2 conditions"):
        first.coded(CODING)
    ann = scores(trained, at(trained, 1, 1))
    assert not same(ann, plain) and not same(ann, scores(trained, at(trained, 2, 2))) and same(scores(trained), plain)
    folded = trained.folded("ann")
    assert folded.coding is None and [layer.name for layer in folded.layers] == [layer.name for layer in network.layers]
    for task, expected in ann.items():
        torch.testing.assert_close(scores(folded, without(trained.sample))[task], expected, atol=1e-6, rtol=1e-5)
    assert same(scores(trained.folded("mean"), without(trained.sample)), plain)


def test_codes_of_some_points() -> None:
    network = opened("nested")
    twin = network.coded(replace(CODING, points=("backbone.inner",)))
    assert twin.coding is not None and twin.coding.points == ("backbone.inner",)
    assert [layer.name for layer in twin.layers if "codes" in layer.name] == [
        "codes",
        *(f"backbone.codes_{x}_inner" for x in ("to", "at", "plus")),
    ]
    with pytest.raises(NetworkError, match=r"no linear layer or convolution 'backbone.iner' to be changed; did you mean 'backbone.inner'"):
        network.coded(replace(CODING, points=("backbone.iner",)))


def test_equal_seeds_give_equal_networks() -> None:
    network = opened("small")
    one, other, third = (network.coded(replace(CODING, into="entrance"), seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(value, other.state()[key]) for key, value in one.state().items() if "seed" not in key)
    assert not torch.equal(one.body.code_table(), third.body.code_table())
    assert not torch.equal(one.state()["entrance_hidden.kernel"], third.state()["entrance_hidden.kernel"])


@pytest.mark.parametrize("name", ["small", "nested", "masked text", "two inputs"])
def test_a_new_row_leaves_all_else_as_it_was(name: str) -> None:
    network = coded(name)
    table = np.concatenate([network.body.code_table().detach().numpy(), np.ones((1, 4), "float32")])
    more = network.recoded(["ann", "bob", "eve"], table)
    assert more.coding is not None and more.coding.conditions == ("ann", "bob", "eve") and more.coding.learned == ("ann", "bob")
    for rows in ((0, 0), (1, 2)):
        assert same(scores(more, at(more, *rows)), scores(network, at(network, *rows)))
    assert not same(scores(more, at(more, 3, 3)), scores(network, at(network, 2, 2)))
    assert all(torch.equal(value, more.state()[key]) for key, value in network.state().items() if key != "codes.embeddings")
    assert {layer.name: layer.parameters for layer in more.layers}["codes"] == 16
    more.freeze_([key for own in more.layer_parameters().values() for key in own if key != "codes.embeddings"])
    more.scores(at(more, 3, 3))["main"].square().sum().backward()
    gradient = more.body.code_table().grad
    assert gradient is not None and gradient[3].any() and not gradient[:3].any()
    again = more.recoded(["eve"], table[[0, 3]])
    assert same(scores(again, at(again, 1, 1)), scores(more, at(more, 3, 3)))
    assert np.array_equal(network.body.code_table().detach().numpy(), table[:3])


@pytest.mark.parametrize("table", [np.zeros((3, 4)), np.zeros((4, 5)), np.full((4, 4), np.nan)])
def test_tables_that_do_not_fit_are_refused(table: np.ndarray) -> None:
    with pytest.raises(NetworkError, match=r"of shape .* expected finite numbers of shape \(4, 4\)"):
        coded("small").recoded(["ann", "bob", "eve"], table)


def test_plain_networks_have_no_codes() -> None:
    network = opened("small")
    for ask in (network.body.code_table, lambda: network.folded("ann"), lambda: network.recoded(["ann"], np.zeros((2, 4)))):
        with pytest.raises(NetworkError, match="knows no conditions"):
            ask()
    with pytest.raises(NetworkError, match=r"'anne' is not known.*did you mean 'ann'"):
        coded("small").folded("anne")


@pytest.mark.parametrize("name", ["small", "varied, channels first", "shared"])
def test_an_adaptation_network_before_the_input(name: str) -> None:
    network, coding = opened(name), replace(CODING, into="entrance")
    first, trained = coded(network, coding, trained=False), coded(network, coding)
    plain = scores(network)
    assert same(scores(first), plain) and same(scores(first, at(first, 1, 2)), plain)
    assert first.blocks[0].name == "entrance_hidden" and first.blocks[1].name == network.blocks[0].name
    first.scores(at(first, 1, 2))["main"].square().sum().backward()
    assert first.layer_parameters()["entrance_last"]["entrance_last.kernel"].grad is not None
    ann = scores(trained, at(trained, 1, 1))
    assert not same(ann, scores(trained, at(trained, 2, 2)))
    torch.testing.assert_close(scores(trained.folded("ann"), without(trained.sample)), ann, atol=1e-5, rtol=1e-5)


def test_items_that_lack_an_input_are_told_which() -> None:
    net = regraft.load(opened("two inputs").module)
    for ask in (net.predict, net.logits, net.features):
        with pytest.raises(NetworkError, match="takes the inputs 'X', 'Z', and the examples do not give 'Z'"):
            ask(np.zeros((3, 6), np.float32))


def test_a_code_takes_the_place_of_an_input() -> None:
    network = opened("two inputs")
    twin = network.coded(replace(CODING, into="input Z"), seed=1)
    assert set(twin.sample) == {"X", "condition"}
    rows = [1, 2]
    batch = {"X": torch.randn(2, 6), "condition": torch.tensor(rows)}
    expected = scores(network, {"X": batch["X"], "Z": twin.body.code_table().detach()[rows]})
    assert same(scores(twin, batch), expected)
    folded = twin.folded("bob")
    assert isinstance(folded.sample, torch.Tensor) and folded.input_shape == (6,)
    spoilt = batch["X"].clone()
    spoilt[0, 0] = torch.inf  # the constant does not depend on what the item holds
    found = scores(folded, spoilt)["main"]
    assert torch.equal(found[1], expected["main"][1]) and not torch.isfinite(found[0]).all()


@pytest.mark.parametrize(
    ("coding", "message"),
    [
        (replace(CODING, into="input Y"), "an input of that name beside another one; (did you mean|valid)"),
        (replace(CODING, into="input Z", size=5), "codes of 5 numbers: that input holds 4 numbers"),
        (replace(CODING, into="entrance"), "takes 2 inputs"),
        (replace(CODING, into="somewhere"), "'layers', 'entrance' or 'input NAME'"),
    ],
)
def test_codings_that_do_not_fit_are_refused(coding: Coding, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        opened("two inputs").coded(coding)


def test_networks_without_a_place_for_codes_are_refused() -> None:
    with pytest.raises(NetworkError, match=r"'subclassed.*' has no graph of layers"):
        open_keras(examples.subclassed_network()).coded(CODING)
    with pytest.raises(NetworkError, match="no linear layer or convolution before its head"):
        open_keras(examples.text_network()).coded(CODING)
    tokens = keras.Input((6,), dtype="int32")
    named = keras.Model(tokens, L.Dense(2)(L.Dense(3)(L.GlobalAveragePooling1D()(L.Embedding(9, 4, name="codes")(tokens)))))
    with pytest.raises(NetworkError, match="a layer named 'codes' already"):
        open_keras(named).coded(CODING)


def test_a_layer_of_the_users_own_called_codes_is_no_table() -> None:
    vector = keras.Input((4,))
    network = open_keras(keras.Model(vector, L.Dense(2, name="out")(L.Dense(3, activation="relu", name="codes")(vector))))
    assert [point.name for point in network.points()] == ["codes"] and [block.name for block in network.blocks] == ["codes", "out"]


def test_a_coded_network_gets_other_heads() -> None:
    network = coded("small")
    ann = scores(network, at(network, 1, 2))["main"]
    generator = np.random.default_rng(0)
    branch = Head(
        "place", ("in", "out"), "classification", "softmax", "", generator.normal(size=(2, 6)).astype("float32"), np.zeros(2, "float32")
    )
    branched = network.with_head(branch)
    found = scores(branched, at(branched, 1, 2))
    assert torch.equal(found["main"], ann)
    features = branched.feature_batch(at(branched, 1, 2)).detach().numpy()
    np.testing.assert_allclose(found["place"].numpy(), features @ branch.weight.T, atol=1e-5)
    assert branched.coding == network.coding and [point.name for point in branched.points()] == ["conv", "dense"]
    torch.testing.assert_close(
        scores(branched.folded("ann"), without(network.sample)), scores(branched, at(branched, 1, 1)), atol=1e-6, rtol=1e-5
    )
    wider = network.with_head(replace(network.head, weight=np.ones((5, 6), "float32"), bias=np.zeros(5, "float32")))
    assert scores(wider, at(wider, 1, 2))["main"].shape == (2, 5) and wider.body.code_table().shape == (3, 4)
    columned = network.with_columns(2)
    assert set(columned.sample) == {"inputs", "condition", "columns"} and set(columned.folded("ann").sample) == {"inputs", "columns"}
    torch.testing.assert_close(scores(columned, at(columned, 1, 2))["main"], ann, atol=1e-6, rtol=1e-5)
    stacked = network.with_stack(replace(branch, weight=np.ones((2, 3), "float32")), "relu")
    assert stacked.coding == network.coding and scores(stacked, at(stacked, 1, 2))["main"].shape == (2, 2)
    assert network.ended("conv").coding == network.coding
    late = opened("small").coded(replace(CODING, points=("dense",))).ended("conv")
    assert late.coding is None and late.feature_batch(late.sample).shape == (2, 144)


def test_a_coded_network_is_adjusted_and_settles() -> None:
    network = coded("nested")
    training = network.adjusted(network.points(), form="film")
    with torch.no_grad():
        training.state()["backbone.adjusted_inner.b"].add_(1)
    settled = training.settled()
    assert settled.coding == network.coding and list(settled.state()) == list(network.state())
    torch.testing.assert_close(scores(settled, at(settled, 1, 2)), scores(training, at(training, 1, 2)), atol=1e-5, rtol=1e-5)


def test_what_is_below_the_first_point_is_computed_once() -> None:
    network = coded("small", replace(CODING, points=("dense",)))
    frozen = [layer.name for layer in network.layers if layer.name in {"conv", "dropout", "flatten"} or layer.name.startswith("dropout")]
    network.freeze_(frozen)
    sample = {"inputs": torch.randn(4, 8, 8, 3), "condition": torch.tensor([0, 1, 2, 1])}
    cut = find_cut(network, cacheable_layers(network, frozen), sample=sample)
    assert isinstance(cut, Cut) and "conv" in cut.layers
    kept = cut.frozen_part(sample)
    other = cut.frozen_part({**sample, "condition": torch.zeros(4, dtype=torch.int64)})
    assert [live.name for live in cut.live][-1] == "input condition" and torch.equal(kept[0], other[0])
    with torch.no_grad():
        torch.testing.assert_close(cut.trainable_part([kept[0], sample["condition"]])["main"], network.scores(sample)["main"])


def test_files_open_in_plain_keras(tmp_path: Path) -> None:
    paths = []
    cases = [("nested", CODING), ("varied", CODING), ("small", replace(CODING, into="entrance")), ("two inputs", CODING)]
    for number, (name, coding) in enumerate([*cases, ("two inputs", replace(CODING, into="input Z"))]):
        network = coded(name, coding)
        paths.append(exported(network, tmp_path / f"{number}_coded.keras", at(network, 1, 2)))
        paths.append(exported(network.folded("ann"), tmp_path / f"{number}_folded.keras", without(network.sample)))
    assert_opens_afresh(paths)


@pytest.mark.parametrize("name", ["small", "nested", "two inputs"])
def test_saved_folders_know_their_conditions(name: str, tmp_path: Path) -> None:
    network = coded(name)
    network.preprocessing = regraft.load(examples.small_network()).preprocessing
    network.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net")
    assert again.family == "keras" and again.coding == network.coding
    assert torch.equal(again.body.code_table(), network.body.code_table())
    assert same(scores(again, at(network, 1, 2)), scores(network, at(network, 1, 2)))
    assert [block.name for block in again.blocks] == [block.name for block in network.blocks]
    more = again.recoded(["eve"], np.ones((2, 4), "float32"))
    assert scores(more, at(network, 0, 1))["main"].shape == (2, 3 + (name == "nested"))
    torch.testing.assert_close(
        scores(again.folded("bob"), without(network.sample)), scores(network, at(network, 2, 2)), atol=1e-6, rtol=1e-5
    )
