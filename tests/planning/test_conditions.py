"""Codes of new conditions: only they change, together as alone, with a prior that does no harm; files, folding, and inputs by gradient."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import regraft
from regraft.data.dataset import with_targets
from regraft.errors import DataError, NetworkError, SettingError
from regraft.methods.prior import WEIGHTS, chosen_weight, code_prior, first_weight
from regraft.networks.parts.code_files import code_digest

from ..condition_examples import CLASSES, FAMILIES, KNOWN, SIZE, WIDTH, coded, items, plain, same, without_table

both = pytest.mark.parametrize("family", FAMILIES)


# ── fitting ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@both
@pytest.mark.parametrize("into", ["layers", "entrance"])
def test_only_the_new_code_is_fitted_and_the_account_proves_it(family: str, into: str) -> None:
    net, data = coded(family, into=into), items()
    state, table = without_table(net), net.body.code_table().detach().numpy().copy()
    known = regraft.adapt_condition(net, data, "new", prior=0.3)
    assert same(without_table(known), state) and same(without_table(net), state)
    assert np.array_equal(known.body.code_table().detach().numpy()[: len(table)], table)
    assert np.abs(known.codes["new"] - table[0]).max() > 1e-3  # trainable although all else is frozen
    figures = known.account.figures
    assert figures["loss_after"] < figures["loss_before"]
    assert figures["parameters_equal"] + figures["buffers_equal"] == len(state) and figures["codes_equal"] == 1 + len(KNOWN)
    assert known.account.entries["new"] == ["code new"]
    assert "the code of 'new' was fitted to 9 examples" in str(known.account) and "prior weight 0.3" in str(known.account)
    assert net.coding.conditions == KNOWN and known.coding.conditions == (*KNOWN, "new") and known.coding.learned == KNOWN
    assert not np.allclose(known.predict(data).probabilities, known.predict(data, "mean").probabilities)
    assert np.array_equal(known.predict(data).probabilities, known.predict(data, "new").probabilities)


@both
def test_no_task_of_the_data_is_left_out_without_a_word(family: str) -> None:
    net, data = coded(family), items()
    twice = {"first": data.targets_of("main"), "main": data.targets_of("main")}
    with pytest.raises(DataError, match="The network has no head for the task 'first'"):
        regraft.adapt_condition(net, with_targets(data, twice), "new")
    known = regraft.adapt_condition(net, with_targets(data, {"first": twice["first"]}), "new", prior=0.3)
    assert np.array_equal(known.codes["new"], regraft.adapt_condition(net, data, "new", prior=0.3).codes["new"])


@both
def test_several_at_once_are_what_each_is_alone(family: str) -> None:
    net, names = coded(family), ("x", "y", "z")
    data = items(names, each=6)
    together = regraft.adapt_condition(net, data)
    assert together.account.figures["conditions"] == 3
    for name in names:
        alone = regraft.adapt_condition(net, data, name)
        assert np.allclose(alone.codes[name], together.codes[name], atol=1e-5)  # sums of batches of other sizes round otherwise
    assert tuple(regraft.adapt_condition(net, data, ["z", "x"], prior=1).codes) == (*KNOWN, "z", "x")


@pytest.mark.slow
def test_many_at_once_cost_a_fifth_of_one_by_one() -> None:
    net, names = coded("torch"), tuple(f"c{number}" for number in range(60))
    data = items(names, each=10)
    regraft.adapt_condition(net, data, "c0")  # what is done once in a process
    began = time.perf_counter()
    regraft.adapt_condition(net, data)
    together = time.perf_counter() - began
    began = time.perf_counter()
    for name in names[:12]:
        regraft.adapt_condition(net, data, name)
    alone = (time.perf_counter() - began) * 5
    assert together < alone / 5


@both
def test_the_part_below_the_first_code_is_computed_once(family: str) -> None:
    late, data = coded(family, late=True), items(each=8)
    known = regraft.adapt_condition(late, data, "new", prior=1)
    assert known.account.figures["items_through_once"] == 8
    assert known.account.figures["code_evaluations"] > 2
    first = known.codes["new"]
    batch = next(iter(known.preprocessing.batches(data, 8)))
    targets, free = torch.from_numpy(data.targets), torch.from_numpy(first).double()
    table = known.body.code_table()
    loss = functional.cross_entropy(next(iter(known.scores(batch).values())), targets, reduction="sum")
    row = torch.autograd.grad(loss, table)[0][-1].double()
    prior = code_prior(table.detach().numpy()[1:-1].astype(float), table.detach().numpy()[0])
    assert np.abs(row.numpy() + prior.gradient(free.numpy()[None])[0]).max() < 0.1  # the summed loss and the penalty are in balance


@both
def test_one_item_will_do_and_moves_little(family: str) -> None:
    net, one = coded(family), items(each=1)
    near, far = (regraft.adapt_condition(net, one, "new", prior=prior).codes["new"] for prior in ("auto", None))
    mean = net.body.code_table().detach().numpy()[0]
    assert 0 < np.abs(near - mean).max() < np.abs(far - mean).max()
    assert np.array_equal(near, regraft.adapt_condition(net, one, "new", prior=1).codes["new"])


@pytest.mark.parametrize("start", ["mean", "zero", "nearest", "numbers"])
@pytest.mark.parametrize("fit", ["lbfgs", "adam", "normalised"])
def test_every_start_and_fit_lowers_the_loss(start: str, fit: str) -> None:
    net = coded("torch")
    first: Any = np.full(net.coding.size, 0.1) if start == "numbers" else start
    known = regraft.adapt_condition(net, items(), "new", start=first, fit=fit, prior=None)
    assert known.account.figures["loss_after"] < known.account.figures["loss_before"]


def test_all_fits_come_to_the_same_code() -> None:
    found = [regraft.adapt_condition(coded("torch"), items(), "new", fit=fit, prior=1, steps=400).codes["new"] for fit in ("lbfgs", "adam")]
    assert np.allclose(*found, atol=2e-2)


def test_the_nearest_start_is_a_known_code() -> None:
    net = coded("torch")
    data = items()
    labels = net.predict(data, "cleo").labels
    told = regraft.read((data.items, labels))
    near = regraft.adapt_condition(net, told, "new", start="nearest", fit="normalised", steps=1, step=1e-9, prior=None)
    assert min(np.abs(near.codes["new"] - code).max() for code in net.codes.values()) < 1e-6


@both
@pytest.mark.parametrize("how", ["pseudo", "entropy"])
def test_without_labels_it_is_marked_as_such(family: str, how: str) -> None:
    net, data = coded(family), items()
    known = regraft.adapt_condition(net, data.items, "new", unsupervised=how)
    assert known.account.rules["code new"] == f"fitted, unsupervised ({how})" and "without their labels" in str(known.account)
    before, after = (
        -np.log(scores.max(1)).mean() for scores in (net.predict(data.items).probabilities, known.predict(data.items, "new").probabilities)
    )
    assert after < before


def test_numbers_are_targets_too() -> None:
    torch.manual_seed(0)
    net = regraft.load(nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 1)), inputs=(WIDTH,))
    net = regraft.retarget(net, ["level"], kind="regression", start="random")
    from regraft.networks.network import Coding

    net = net.coded(Coding(SIZE, KNOWN, learned=KNOWN))
    with torch.no_grad():
        net.body.code_table().normal_()
        next(tensor for name, tensor in net.state().items() if "maps" in name).normal_()
    data = items()
    known = regraft.adapt_condition(net, regraft.read((data.items, np.asarray(data.items).sum(1))), "new", prior=1)
    assert known.account.figures["loss_after"] < known.account.figures["loss_before"]
    with pytest.raises(NetworkError, match="gives numbers, not classes"):
        regraft.adapt_condition(net, data.items, "new", unsupervised="entropy")


# ── the prior ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_prior_is_a_gaussian_of_the_known_codes() -> None:
    codes = np.random.default_rng(0).normal(size=(200, 3)) * [1.0, 2.0, 0.5] + 1
    prior = code_prior(codes)
    points = np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    inverse = np.linalg.inv(prior.factor @ prior.factor.T)
    by_hand = [0.5 * (point - codes.mean(0)) @ inverse @ (point - codes.mean(0)) for point in points]
    assert np.allclose(prior.penalty(points), by_hand) and np.allclose(prior.coloured(prior.whitened(points)), points)
    slopes = [(prior.penalty(points + 1e-5 * axis) - prior.penalty(points - 1e-5 * axis)) / 2e-5 for axis in np.eye(3)]
    assert np.allclose(prior.gradient(points), np.transpose(slopes), atol=1e-6)
    assert np.allclose(np.diag(prior.factor @ prior.factor.T), [1, 4, 0.25], rtol=0.3)
    with pytest.raises(SettingError, match=r"received 1\."):
        code_prior(codes[:1])
    with pytest.raises(SettingError, match="all equal"):
        code_prior(np.ones((4, 3)))


def test_the_weight_moves_towards_the_mean_easily_and_away_from_it_only_on_evidence() -> None:
    assert [first_weight(count) for count in (1, 2, 3, 10)] == [1.0, 1.0, 0.3, 0.3]
    same_for_all = np.ones((len(WEIGHTS), 8))
    assert chosen_weight(same_for_all) == 0.3
    noise = np.random.default_rng(0).normal(size=8)
    nearer = same_for_all.copy()
    nearer[-1] -= 0.01 + 0.1 * noise - 0.1 * noise.mean()
    assert chosen_weight(nearer) == np.inf
    farther = same_for_all.copy()
    farther[0] -= 0.01 + noise - noise.mean()
    assert chosen_weight(farther) == 0.3
    farther[0] = 0.5
    assert chosen_weight(farther) == 0.1


def test_items_that_contradict_each_other_leave_the_mean_code() -> None:
    net, data = coded("torch"), items(each=1)
    rows = np.repeat(np.asarray(data.items), 12, 0)
    told = regraft.adapt_condition(net, (rows, np.array([*"ab"] * 6)), "new")
    free = regraft.adapt_condition(net, (rows, np.array([*"ab"] * 6)), "new", prior=None)
    mean = net.body.code_table().detach().numpy()[0]
    assert np.abs(told.codes["new"] - mean).max() < np.abs(free.codes["new"] - mean).max()


# ── what is refused ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_names() -> None:
    net, data = coded("torch"), items(("new", "newer"))
    with pytest.raises(SettingError, match=r"'ben' is known already\. .* replace=True"):
        regraft.adapt_condition(net, items(("ben",)), "ben")
    again = regraft.adapt_condition(net, items(("ben",)), "ben", replace=True)
    assert again.coding.conditions == KNOWN and not np.array_equal(again.codes["ben"], net.codes["ben"])
    assert again.account.figures["codes_equal"] == len(KNOWN)
    with pytest.raises(DataError, match="no examples of the condition 'nev'; did you mean 'new'"):
        regraft.adapt_condition(net, data, "nev")
    with pytest.raises(DataError, match="have no conditions, and no name was given"):
        regraft.adapt_condition(net, (data.items, data.targets))
    with pytest.raises(DataError, match=r"examples of 2 conditions .* cannot be told apart"):
        regraft.adapt_condition(net, (data.items, np.array(CLASSES)[data.targets]), ["p", "q"])
    for names in (3, ["new", 3]):
        with pytest.raises(SettingError, match=r"Received 3 \(int\) as the name of a condition; expected text, '3'"):
            regraft.adapt_condition(net, items(("new",)), names)
    with pytest.raises(NetworkError, match=r"The condition 3 is not known; known: 'ada', .*'fay'. Learn"):
        net.predict(items().items, 3)
    with pytest.raises(DataError, match="of 0 conditions were received; expected one or more of each"):
        regraft.adapt_condition(net, data, [])
    with pytest.raises(SettingError, match="Received 'mean' as names of conditions"):
        regraft.adapt_condition(net, (data.items, np.array(CLASSES)[data.targets]), "mean")


def test_items_and_settings() -> None:
    net, data = coded("torch"), items()
    rows = np.array(data.items)
    with pytest.raises(DataError, match="Labels of the data are not among the 3 classes: 'd'"):
        regraft.adapt_condition(net, (rows, np.array([*"abcd", *"abcda"])), "new")
    rows[3, 2] = np.nan
    spoiled = dataclasses.replace(data, items=rows)
    with pytest.raises(DataError, match="1 of 9 examples cannot be used"):
        regraft.adapt_condition(net, spoiled, "new")
    assert "8 examples" in str(regraft.adapt_condition(net, spoiled, "new", skip_bad=True).account)
    for wrong, words in (
        ({"start": "middle"}, "start='middle'"),
        ({"start": np.zeros(99)}, r"start has the shape \(99,\); expected \d+ finite numbers"),
        ({"prior": -1}, "prior=-1"),
        ({"unsupervised": "yes"}, "unsupervised='yes'"),
    ):
        with pytest.raises(SettingError, match=words):
            regraft.adapt_condition(net, data, "new", **wrong)
    with pytest.raises(NetworkError, match=r"takes no codes of conditions\. Train some"):
        regraft.adapt_condition(plain("torch"), data, "new")
    with pytest.raises(DataError, match="'main' is of the kind 'classification'; the data have targets of the kind 'regression'"):
        regraft.adapt_condition(net, regraft.read((data.items, np.linspace(0.5, 1.1, len(data)))), "new")
    with pytest.raises(SettingError, match="input='Q': the network has no input of that name"):
        regraft.adapt_condition(beside("torch"), data, "new", input="Q")
    with pytest.raises(SettingError, match="input='Z': this network takes its codes into 'layers' already"):
        regraft.adapt_condition(net, data, "new", input="Z")
    with pytest.raises(NetworkError, match="The condition 'adda' is not known; did you mean 'ada'"):
        net.predict(data.items, "adda")


def test_codes_are_not_learned_of_one_condition_nor_wider_than_the_network() -> None:
    with pytest.raises(DataError, match="condition"):
        regraft.adapt(plain("torch"), items(("only",), each=30), strategy="codes", epochs=1)
    with pytest.raises(NetworkError, match=r"size=99: the widest layer .* has 8 channels"):
        regraft.adapt(plain("torch"), items(("one", "two", "three"), each=30), strategy="codes", size=99, epochs=1)


# ── files and folding ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@both
def test_a_code_is_a_small_file_in_the_folder_and_nothing_else_is_touched(family: str, tmp_path: Path) -> None:
    folder, data = tmp_path / "net", items(("New York",))
    coded(family).save(folder)
    architecture = None if family == "keras" else plain(family).module
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    net = regraft.load(folder, architecture=architecture)
    known = regraft.adapt_condition(net, data, "New York", out=folder)
    (written,) = (folder / "codes").iterdir()
    assert written.name.startswith("new-york.") and written.stat().st_size < 400
    assert all(path.read_bytes() == content for path, content in before.items())
    again = regraft.load(folder, architecture=architecture)
    assert again.coding == known.coding and again.preprocessing.names == (*KNOWN, "New York")
    assert np.array_equal(again.predict(data.items, "New York").probabilities, known.predict(data.items, "New York").probabilities)
    if family == "torch":  # without its class, the exported program beside the weights reads the code files too
        program = regraft.load(folder)
        assert program.coding == again.coding
        assert np.allclose(program.predict(data).probabilities, known.predict(data).probabilities, atol=1e-6)
    again.save(tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy" / "codes").iterdir()] == [written.name]
    coded(family).save(tmp_path / "copy")
    assert not (tmp_path / "copy" / "codes").exists()


@pytest.mark.usefixtures("without_onnx_form")
def test_code_files_that_are_refused(tmp_path: Path) -> None:
    net, made = coded("torch"), plain("torch").module
    net.save(tmp_path)
    known = regraft.adapt_condition(net, items(), "new", out=tmp_path)
    path = tmp_path / "codes" / "new.safetensors"
    good, told = load_file(path)["code"], {"kind": "regraft code 1", "condition": "new", "network": code_digest(net)}
    cases = [
        (np.array([1, np.nan, 2], np.float32), told, "holds NaN or infinity in 1 of 3"),
        (np.zeros(7, np.float32), told, r"shape \(7,\); expected \(3,\)"),
        (good, {**told, "network": "0123"}, "is of another network"),
        (good, {**told, "kind": "other"}, "is not a code file of regraft"),
    ]
    for code, metadata, words in cases:
        save_file({"code": code}, path, metadata)
        with pytest.raises(NetworkError, match=words):
            regraft.load(tmp_path, architecture=made)
    save_file({"code": good + 1}, path, {**told, "sha256": hashlib.sha256(good.tobytes()).hexdigest()})
    with pytest.raises(NetworkError, match="is damaged: its values are not those that were saved"):
        regraft.load(tmp_path, architecture=made)
    path.write_bytes(b"half a fi")
    with pytest.raises(NetworkError, match="cannot be read as a code of a condition"):
        regraft.load(tmp_path, architecture=made)
    plain("torch").save(tmp_path / "other")
    with pytest.raises(NetworkError, match="holds another network"):
        regraft.adapt_condition(net, items(), "new", out=tmp_path / "other")
    assert known.codes["new"].shape == (SIZE,)


@both
def test_folding_gives_a_plain_network_for_one_condition(family: str, tmp_path: Path) -> None:
    net, data = coded(family), items()
    known = regraft.adapt_condition(net, data, "new", prior=1)
    for condition in ("new", "ada", "mean"):
        alone = regraft.fold(known, condition)
        assert alone.coding is None and isinstance(alone.sample, Tensor)
        assert np.allclose(alone.predict(data.items).probabilities, known.predict(data.items, condition).probabilities, atol=1e-6)
    path = regraft.fold(known, "new").export(tmp_path / ("net.keras" if family == "keras" else "net.pt2"))
    assert path.stat().st_size > 1000
    with pytest.raises(NetworkError, match="The condition 'nobody' is not known"):
        regraft.fold(known, "nobody")


# ── inputs by gradient ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Beside(nn.Module):
    """Takes Z beside X."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.scores = nn.Linear(WIDTH + SIZE, 8), nn.Linear(8, 3)

    def forward(self, X: Tensor, Z: Tensor) -> Tensor:  # names of inputs, as people give them
        return self.scores(torch.tanh(self.hidden(torch.cat([X, Z], 1))))


def beside(family: str) -> regraft.Network:
    torch.manual_seed(0)
    if family == "torch":
        return regraft.load(Beside(), classes=CLASSES, inputs={"X": (WIDTH,), "Z": (SIZE,)})
    from regraft.networks.keras.library import keras

    keras.utils.set_random_seed(0)
    given, code = keras.Input((WIDTH,), name="X"), keras.Input((SIZE,), name="Z")
    hidden = keras.layers.Dense(8, "tanh")(keras.layers.Concatenate()([given, code]))
    return regraft.load(keras.Model([given, code], keras.layers.Dense(3)(hidden)), classes=CLASSES)


@both
def test_an_input_is_adapted_exactly_as_by_the_plain_loop(family: str) -> None:
    net, data = beside(family), items()
    rows, targets = torch.from_numpy(np.array(data.items)), torch.from_numpy(data.targets)
    by_hand, path = np.zeros((1, SIZE)), []
    for _ in range(12):
        code = torch.tensor(by_hand, dtype=torch.float32, requires_grad=True)
        scores = next(iter(net.scores({"X": rows, "Z": code.expand(len(rows), SIZE)}).values()))
        loss = functional.cross_entropy(scores, targets)
        gradient = torch.autograd.grad(loss, code)[0].double().numpy()
        path.append(float(loss))
        by_hand = by_hand - 0.1 * gradient / (np.sqrt((gradient**2).mean()) + 1e-5)
        known = regraft.adapt_condition(net, data, "new", input="Z", fit="normalised", steps=len(path), step=0.1)
        assert np.allclose(known.codes["new"], by_hand[0], atol=1e-5)
    tuned = regraft.tune_input(net, regraft.read((data.items, np.array(CLASSES)[data.targets])), input="Z", steps=12, step=0.1)
    assert np.allclose(tuned.values, by_hand, atol=1e-5) and np.allclose(tuned.path[:-1, 0], path, atol=1e-5)
    assert known.coding.into == "input Z" and same(without_table(known), without_table(net.copy().coded(known.coding)))
    assert "no prior" in str(known.account)
    alone = regraft.fold(known, "new")
    assert np.allclose(alone.predict(data.items).probabilities, known.predict(data.items, "new").probabilities, atol=1e-6)


@both
def test_one_input_for_each_condition(family: str) -> None:
    net, data = beside(family), items(("x", "y"))
    tuned, known = regraft.tune_input(net, data, input="Z", fit="lbfgs"), regraft.adapt_condition(net, data, input="Z")
    assert tuned.names == ("x", "y") and tuned.values.shape == (2, SIZE)
    assert np.allclose(tuned.values, [known.codes["x"], known.codes["y"]], atol=1e-2)
    assert (tuned.losses < tuned.path[0]).all()


@both
def test_an_input_for_each_class(family: str) -> None:
    net = plain(family)
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    tuned = regraft.tune_input(net, ["c", "a"], start=np.linspace(-0.3, 0.3, WIDTH), steps=200, step=0.05)
    assert net.predict(tuned.values).labels == ["c", "a"] and (tuned.losses < tuned.path[0]).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state().items())
    with pytest.raises(SettingError, match="has no class 'd'"):
        regraft.tune_input(net, ["d"])
    with pytest.raises(SettingError, match="start has the shape"):
        regraft.tune_input(net, ["a"], start=np.zeros(WIDTH + 1))
    with pytest.raises(SettingError, match="no input of that name"):
        regraft.tune_input(net, items(), input="Z")
    with pytest.raises(SettingError, match="Received 9 examples and no input=; expected class names"):
        regraft.tune_input(net, items())
    with pytest.raises(SettingError, match="takes several inputs"):
        regraft.tune_input(beside(family), ["a"])


@both
def test_a_start_without_slope_is_refused(family: str) -> None:
    net, flat = beside(family), items(("x",))
    with torch.no_grad():
        for tensor in net.state().values():
            tensor.zero_()
    with pytest.raises(SettingError, match=r"no slope at the start \(zeros\).* start="):
        regraft.tune_input(net, flat, input="Z")


@both
def test_items_that_lack_an_input_of_the_network_are_told_before_anything_is_trained(family: str) -> None:
    with pytest.raises(NetworkError, match=r"takes the inputs 'X', 'Z', .*'Z' is the code of a condition, .*input='Z'"):
        regraft.adapt(beside(family), items(("x", "y")), strategy="codes", epochs=1)
