"""A user's own class saved with an exported program beside it; the program is looked through before it is opened."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import nn

import regraft
from regraft.errors import NetworkError, UnsafeFileError
from regraft.networks.sources.programs import _is_arithmetic


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
    np.testing.assert_allclose(again.raw_scores(X), net.raw_scores(X), rtol=1e-5, atol=1e-6)  # raw, though the class ends in a softmax
    assert again.predict(X).labels == net.predict(X).labels
    assert again.predict(X[:1]).classes == ("a", "b", "c")
    assert again.origin["source"] == "program"
    assert "architecture=" in str(again.account)


def test_with_the_class_it_is_the_same_to_the_bit(saved: tuple[Path, regraft.Network]) -> None:
    folder, net = saved
    for architecture in (Probabilities, Probabilities()):
        again = regraft.load(folder, architecture=architecture)
        assert np.array_equal(again.raw_scores(X), net.raw_scores(X))
        assert again.classes == net.classes
        assert again.head.activation == "softmax"
    with pytest.raises(NetworkError, match=r"do not fit|head"):
        regraft.load(folder, architecture=examples.Branches)


def test_what_a_program_cannot_do_is_said_and_harms_nothing(saved: tuple[Path, regraft.Network]) -> None:
    folder, _ = saved
    program, before = regraft.load(folder), sorted(path.name for path in folder.iterdir())
    for call in (
        lambda: program.features(X),
        lambda: program.save(folder),
        lambda: program.export(folder / "x.pt2"),
        lambda: regraft.adapt(program, (X, list("abcabca"))),
    ):
        with pytest.raises(NetworkError, match="architecture="):
            call()
    assert sorted(path.name for path in folder.iterdir()) == before


def test_without_a_program_the_class_is_asked_for(saved: tuple[Path, regraft.Network], tmp_path: Path) -> None:
    folder, _ = saved
    for name in ("regraft.json", "network.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(NetworkError, match=r"Probabilities.*architecture="):
        regraft.load(tmp_path)
    (tmp_path / "network.pt2").write_bytes(b"no archive")
    with pytest.raises(NetworkError, match="damaged"):
        regraft.load(tmp_path)


def _rewritten(folder: Path, target: Path, change: Callable[[str], str]) -> Path:
    for name in ("regraft.json", "network.safetensors"):
        (target / name).write_bytes((folder / name).read_bytes())
    with zipfile.ZipFile(folder / "network.pt2") as source, zipfile.ZipFile(target / "network.pt2", "w", zipfile.ZIP_STORED) as made:
        for entry in source.infolist():
            content = source.read(entry)
            made.writestr(entry.filename, change(content.decode()).encode() if entry.filename.endswith(".json") else content)
    return target


def test_a_malicious_size_expression_is_refused(saved: tuple[Path, regraft.Network], tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    evil = f"__import__('pathlib').Path('{trace}').touch()"

    def change(text: str) -> str:
        def poison(value: object) -> object:
            if isinstance(value, dict):
                return {key: evil if key == "expr_str" else poison(part) for key, part in value.items()}
            return [poison(part) for part in value] if isinstance(value, list) else value

        return json.dumps(poison(json.loads(text)))

    with pytest.raises(UnsafeFileError, match="size expression"):
        regraft.load(_rewritten(saved[0], tmp_path, change))
    assert not trace.exists()


def test_pickled_weights_in_a_program_are_refused(saved: tuple[Path, regraft.Network], tmp_path: Path) -> None:
    changed: list[bool] = []

    def change(text: str) -> str:
        changed.append('"use_pickle"' in text)
        return text.replace('"use_pickle": false', '"use_pickle": true').replace('"use_pickle":false', '"use_pickle":true')

    with pytest.raises(UnsafeFileError, match="pickled"):
        regraft.load(_rewritten(saved[0], tmp_path, change))
    assert any(changed)


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        ("s0", True),
        ("2*s0 + 1", True),
        ("Symbol('s21', positive=True, integer=True)", True),
        ("Max(1, s0//2)", True),
        ("Add(Mul(Integer(2), Symbol('u3', integer=True)), Integer(-1))", True),
        ("exec(chr(112))", False),  # letters, brackets and numbers alone are enough to run code
        ("breakpoint()", False),
        ("__import__('os')", False),
        ("s0.__class__", False),
        ("Symbol('s0') if 1 else open('x')", False),
        ("lambda: 0", False),
    ],
)
def test_which_expressions_are_plain_arithmetic(expression: str, plain: bool) -> None:
    assert _is_arithmetic(expression) is plain
