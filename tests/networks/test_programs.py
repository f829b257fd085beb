"""A user's own class saved with its ONNX form beside it, which predicts without the class; PyTorch programs that the user trusts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import Tensor, nn

import regraft
from regraft.errors import InputError, MissingExtraError, NetworkError, UnsafeFileError
from regraft.networks.parts import onnx_export
from regraft.networks.parts.taps import Tap
from regraft.networks.torch import family as torch_family
from regraft.planning.search.board import Board


class Probabilities(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.drop, self.fc = nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(self.low(x)).relu()).softmax(-1)


X = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, regraft.Network]:
    torch.manual_seed(0)
    net = regraft.load(Probabilities(), inputs=(6,), classes=["a", "b", "c"])
    return net.save(tmp_path_factory.mktemp("saved")), net


def test_it_predicts_without_the_class(saved: tuple[Path, regraft.Network]) -> None:
    folder, net = saved
    again = regraft.load(folder)
    np.testing.assert_allclose(again.logits(X), net.logits(X), rtol=1e-5, atol=1e-6)  # raw, though the class ends in a softmax
    assert again.predict(X).labels == net.predict(X).labels
    assert again.predict(X[:1]).classes == ("a", "b", "c")
    assert again.origin["source"] == "program"
    assert "architecture=" in str(again.account)


def test_with_the_class_it_is_the_same_to_the_bit(saved: tuple[Path, regraft.Network]) -> None:
    folder, net = saved
    for architecture in (Probabilities, Probabilities()):
        again = regraft.load(folder, architecture=architecture)
        assert np.array_equal(again.logits(X), net.logits(X))
        assert again.classes == net.classes
        assert again.head.activation == "softmax"
    with pytest.raises(NetworkError, match=r"do not fit|head"):
        regraft.load(folder, architecture=examples.Branches)


def test_what_a_program_cannot_do_is_said_and_harms_nothing(
    saved: tuple[Path, regraft.Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = saved
    monkeypatch.setattr(Board, "carry_out", lambda *_given: pytest.fail("a trial was begun"))
    program, data = regraft.load(folder), (X, list("abcabca"))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    calls: dict[str, Callable[[], object]] = {
        "save": lambda: program.save(folder),
        "save elsewhere": lambda: program.save(tmp_path / "new"),
        "export": lambda: program.export(folder / "x.pt2"),
        "adapt": lambda: regraft.adapt(program, data),
        "adapt, full": lambda: regraft.adapt(folder, data, strategy="full", epochs=1),
        "search": lambda: regraft.search(program, data, trials=1),
        "profile": lambda: regraft.profile(program, data),
        "retarget": lambda: regraft.retarget(program, ["a", "d"]),
        "extend": lambda: regraft.extend(program, ["d"], (X, ["d"] * 7)),
        "branch": lambda: regraft.branch(program, "other", ["p", "q"]),
        "stack": lambda: regraft.stack(program, ["p", "q"]),
        "cut": lambda: regraft.cut(program, "layer1"),
        "tap": lambda: program.tapped([Tap("layer1", ("mean",))]),
        "scale": lambda: program.adjusted((), form="film"),
        "codes": lambda: regraft.adapt_condition(program, data, "ann"),
        "channels": lambda: regraft.load(folder, channels=3),
        "weights": lambda: regraft.load(folder, weights=folder / "network.safetensors"),
        "gradients": lambda: program.scores(torch.zeros(2, 6, requires_grad=True)),
    }
    for name, call in calls.items():
        with pytest.raises(InputError) as caught:
            call()
        assert name == "codes" or "architecture=" in str(caught.value), name
    assert {path: path.read_bytes() for path in folder.iterdir()} == before and not (tmp_path / "new").exists()


def test_inputs_of_another_shape_are_one_error(saved: tuple[Path, regraft.Network]) -> None:
    with pytest.raises(NetworkError, match=r"cannot be run on inputs of the shape \[2, 5\]"):
        regraft.load(saved[0]).scores(torch.zeros(2, 5))


def test_without_a_program_the_class_is_asked_for(saved: tuple[Path, regraft.Network], tmp_path: Path) -> None:
    folder, _ = saved
    for name in ("regraft.json", "network.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(NetworkError, match=r"Probabilities.*architecture="):
        regraft.load(tmp_path)


# ── networks of many kinds ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.fc = nn.Embedding(10, 4), nn.LSTM(4, 5, batch_first=True, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(self.embed(x))[0].mean(1))


class Everywhere(nn.Module):
    """A head at every position, of which the mean of the ReLU counts: its features need a run of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).tanh()).relu().mean((2, 3))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.fc = nn.Linear(6, 5), nn.Linear(7, 3)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:  # names that our outputs have as well
        return self.fc(torch.cat([self.low(features).relu(), logits], 1))


class Halved(nn.Module):
    """Takes single precision into a network of half precision."""

    def forward(self, x: Tensor) -> Tensor:
        return x.half()


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.low, self.fc = nn.Linear(6, 5), nn.utils.parametrizations.weight_norm(nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.low(x).relu())


def branched() -> regraft.Network:
    """Two heads with rows of their own, and between them one that is derived."""
    net = regraft.branch(regraft.load(Probabilities(), inputs=(6,), classes=["a", "b", "c"]), "kind", groups={"x": ["a", "c"], "y": None})
    return regraft.branch(net, "colour", ["red", "green"], start="random")


NETWORKS: dict[str, Callable[[], regraft.Network]] = {
    "convolutions": lambda: regraft.load(examples.Cnn(), inputs=(1, 8, 8)),
    "recurrent": lambda: regraft.load(Recurrent(), inputs=(7,)),
    "everywhere": lambda: regraft.load(Everywhere(), inputs=(1, 9, 9)),
    "two inputs": lambda: regraft.load(TwoInputs(), inputs={"features": (6,), "logits": (2,)}),
    "weight norm": lambda: regraft.load(Normed(), inputs=(6,)),
    "branches": branched,
    "half precision": lambda: regraft.load(nn.Sequential(Halved(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).half(), inputs=(6,)),
    "no head": lambda: regraft.load(nn.Sequential(nn.Linear(6, 5), nn.Tanh()), inputs=(6,)),
    "cut": lambda: regraft.cut(regraft.load(examples.Cnn(), inputs=(1, 8, 8)), "norm1"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_gives_the_same_logits_and_features_at_every_size_of_a_batch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = NETWORKS[name]()
    net.mode_(False)
    again = regraft.load(net.save(tmp_path / "net"))
    assert again.origin["source"] == "program" and list(again.heads) == list(net.heads)
    tolerance = 1e-2 if name == "half precision" else 1e-5
    for count in (1, 2, 5):
        batch = _rows(net.sample, count)
        with torch.no_grad():
            expected, found = net.scores(batch), again.scores(batch)
            features = net.feature_batch(batch)
            assert torch.allclose(again.feature_batch(batch), features.float(), atol=tolerance)
        assert list(found) == list(expected)
        for task, values in expected.items():
            assert torch.allclose(found[task], values.float(), atol=tolerance), task
    for task, head in net.heads.items():
        if name != "weight norm":  # whose rows are computed: none lie in the weights file
            assert np.array_equal(again.heads[task].weight, head.weight) and np.array_equal(again.heads[task].bias, head.bias)
        assert again.heads[task].classes == head.classes and again.heads[task].kind == head.kind


def _rows(sample: Tensor | dict[str, Tensor], count: int) -> Tensor | dict[str, Tensor]:
    if isinstance(sample, dict):
        return {name: tensor[torch.arange(count) % 2] for name, tensor in sample.items()}
    return sample[torch.arange(count) % 2]


def test_rows_that_are_computed_are_not_made_up(tmp_path: Path) -> None:
    assert np.isnan(regraft.load(NETWORKS["weight norm"]().save(tmp_path)).head.weight).all()


def test_unknown_items_and_figures_without_the_class(tmp_path: Path) -> None:
    centres = np.random.default_rng(0).normal(size=(4, 6)) * 4
    labels = np.arange(120) % 4
    items = (centres[labels] + np.random.default_rng(1).normal(size=(120, 6))).astype(np.float32)
    torch.manual_seed(0)
    data = (items, [f"c{label}" for label in labels])
    net = regraft.adapt(regraft.load(Probabilities(), inputs=(6,)), data, strategy="head", epochs=2, out=tmp_path / "net").network
    assert net.unknown is not None
    again = regraft.load(tmp_path / "net")
    strange = np.concatenate([items[:20], np.full((20, 6), 30, np.float32)])
    expected, found = net.predict(strange, unknown=True), again.predict(strange, unknown=True)
    assert found.labels == expected.labels and np.array_equal(found.unknown, expected.unknown)
    assert found.unknown is not None and found.unknown.any() and not found.unknown.all()


# ── what cannot be exported ────────────────────────────────────────────────────────────────────────────────────────────────────


class Brief(nn.Sequential):
    """In a precision that ONNX Runtime does not compute in on a CPU."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        self.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.bfloat16())


class Branching(Probabilities):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x)


class Random(Probabilities):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.low(x).relu() + torch.rand_like(self.low(x)))


class Sized(Probabilities):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.low(x).relu()) * (1.0 if x.shape[0] == 2 else 2.0)


@pytest.mark.parametrize("kind", [Branching, Random, Sized, Brief])
def test_what_cannot_be_exported_is_said_once_with_the_line_that_opens_it(kind: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = regraft.load(kind(), inputs=(6,), head="2" if kind is Brief else "fc")
    with pytest.warns(UserWarning, match=rf"opens only with its class.*regraft\.load\(folder, architecture={kind.__name__}\)") as said:
        net.save(tmp_path)
    assert len([one for one in said if "architecture" in str(one.message)]) == 1
    assert not (tmp_path / "network.onnx").exists()
    with pytest.raises(NetworkError, match=rf"{kind.__name__}.*no ONNX form.*architecture="):
        regraft.load(tmp_path)
    assert regraft.load(tmp_path, architecture=kind).head.weight.shape == (3, 5)


@pytest.mark.parametrize("gone", ["onnx", "onnxruntime"])
def test_without_the_libraries(gone: str, saved: tuple[Path, regraft.Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, net = saved
    monkeypatch.setitem(sys.modules, gone, None)
    with pytest.raises(MissingExtraError, match=r"without architecture=,.*regraft\[onnx\]"):
        regraft.load(folder)
    assert regraft.load(folder, architecture=Probabilities).classes == net.classes
    with pytest.warns(UserWarning, match=r"regraft\[onnx\].*architecture=Probabilities"):
        net.save(tmp_path)


def test_weights_that_are_too_many_for_one_file(
    saved: tuple[Path, regraft.Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "LARGEST", 100)
    with pytest.warns(UserWarning, match="one ONNX file holds 2 GiB"):
        saved[1].save(tmp_path)
    assert not (tmp_path / "network.onnx").exists()


def test_one_adaptation_exports_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, write = [], torch_family.write_program
    monkeypatch.setattr(torch_family, "write_program", lambda *given, **named: made.append(1) or write(*given, **named))
    data = (np.tile(X, (6, 1)), list("abcabca") * 6)
    regraft.adapt(regraft.load(Probabilities(), inputs=(6,)), data, strategy="full", epochs=1, out=tmp_path)
    assert made == [1]


# ── PyTorch programs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_program_is_opened_on_trust_alone(saved: tuple[Path, regraft.Network], tmp_path: Path) -> None:
    _, net = saved
    path = net.export(tmp_path / "x.pt2")
    with pytest.raises(UnsafeFileError, match=r"runs code.*trust=True"):
        regraft.load(path)
    program = regraft.load(path, trust=True, classes=["a", "b", "c"])
    found, expected = program.predict(X), net.predict(X)
    assert found.labels == expected.labels and np.allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert "probabilities" in str(program.account)
    calls: dict[str, Callable[[], Any]] = {
        "asked for features": lambda: program.features(X),
        "saved": lambda: program.save(tmp_path / "net"),
        "given another head": lambda: regraft.retarget(program, ["a"]),
        "read at its blocks": lambda: regraft.profile(program, (X, list("abcabca"))),
        "adapted": lambda: regraft.adapt(program, (X, list("abcabca")), strategy="head"),
    }
    for done, call in calls.items():
        with pytest.raises(NetworkError, match=rf"the exported program of .* predicts, but cannot be {done}\. Open its folder"):
            call()


def test_a_program_of_named_inputs(tmp_path: Path) -> None:
    net = NETWORKS["two inputs"]()
    program = regraft.load(net.export(tmp_path / "x.pt2"), trust=True)
    batch = _rows(net.sample, 5)
    assert torch.allclose(program.scores(batch)["main"], net.scores(batch)["main"], atol=1e-6)


def test_a_program_that_is_no_classifier_of_one_input_is_refused_by_what_it_takes_and_gives(tmp_path: Path) -> None:
    class Programs(torch.nn.Module):
        def forward(self, one: torch.Tensor, two: torch.Tensor | None = None) -> torch.Tensor:
            return one[:, :, None].expand(-1, -1, 2) if two is None else one + two

    rows, batch = torch.randn(2, 6), torch.export.Dim("batch")
    for given, words in (((rows,), r"returns a tensor of shape \[2, 6, 2\]"), ((rows, rows), "takes 2 tensors without names")):
        axes = tuple({0: batch} for _ in given)
        torch.export.save(torch.export.export(Programs(), given, dynamic_shapes=axes), tmp_path / "x.pt2")
        with pytest.raises(NetworkError, match=words):
            regraft.load(tmp_path / "x.pt2", trust=True)


def test_a_program_says_which_batch_it_cannot_be_run_on(saved: tuple[Path, regraft.Network], tmp_path: Path) -> None:
    program = regraft.load(saved[1].export(tmp_path / "x.pt2"), trust=True)
    with pytest.raises(NetworkError, match="The program cannot be run on this batch"):
        program.scores(torch.randn(2, X.shape[1] + 1))


def test_trust_opens_no_other_file(tmp_path: Path) -> None:
    torch.save(Probabilities(), tmp_path / "whole.pt")
    with pytest.raises(UnsafeFileError, match="pickle"):
        regraft.load(tmp_path / "whole.pt", trust=True)
    (tmp_path / "broken.pt2").write_bytes(b"no archive")
    with pytest.raises(NetworkError, match="cannot be read as a PyTorch program"):
        regraft.load(tmp_path / "broken.pt2", trust=True)
