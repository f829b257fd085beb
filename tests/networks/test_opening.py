"""Any source of a network, and one clear error for what is none."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests import torch_examples as examples
from torch import nn

import regraft
from regraft.errors import NetworkError
from regraft.networks.keras.library import keras
from regraft.networks.sources import opening


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (3, "int"),
        (None, "NoneType"),
        ([nn.Linear(2, 2)], "list"),
        ("nonsense", "There is no file or folder 'nonsense'"),
        ("tim:resnet18", "'timm'"),
        ("", "no file or folder|not a folder saved"),
        ("weights.onnx", "no file"),
    ],
)
def test_nonsense_is_one_clear_error(source: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkError, match=message):
        regraft.load(source)


WRONG_SHAPES: dict[str, tuple[Any, str]] = {
    "tensor": (torch.zeros(2, 4), r"received a tensor of the shape \(2, 4\).*such as inputs=\(4,\)"),
    "array": (np.zeros((2, 4)), r"received an array of the shape \(2, 4\).*such as inputs=\(4,\)"),
    "tensor by name": ({"x": torch.zeros(2, 4)}, r"inputs for 'x': received a tensor.*such as inputs=\{'x': \(4,\)\}"),
    "number": (4, r"received 4 \(int\)"),
    "number by name": ({"x": 4}, r"inputs for 'x': received 4 \(int\)"),
    "text": ("4", r"received '4' \(str\)"),
    "set": ({4}, r"received \{4\} \(set\)"),
    "nothing by name": ({"x": None}, r"inputs for 'x': received None"),
    "fraction": ((4.5,), r"received \(4\.5,\).*whole numbers of 1 or more"),
    "negative": ((-1,), r"received \(-1,\).*None for an axis of any length"),
    "zero": ((0,), r"received \(0,\)"),
    "bool": ((True,), r"received \(True,\)"),
    "shapes": (((4,),), r"received \(\(4,\),\)"),
    "no names": ({}, r"the shape of each input by its name"),
    "names": ({1: (4,)}, r"the shape of each input by its name"),
    "large": ((10**7, 10**6), r"10,000,000,000,000 numbers \(at most 1,073,741,824\)"),
}


@pytest.mark.parametrize("family", ["torch", "keras", "keras without a graph"])
@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_what_is_no_shape_of_an_example_is_one_clear_error(name: str, family: str) -> None:
    given, message = WRONG_SHAPES[name]
    layers = keras.layers
    made: Any = {
        "torch": lambda: nn.Linear(4, 3),
        "keras": lambda: keras.Sequential([keras.Input((4,), name="x"), layers.Dense(3)]),
        "keras without a graph": lambda: keras.Sequential([layers.Dense(3)]),
    }[family]()
    with pytest.raises(NetworkError, match=message):
        regraft.load(made, inputs=given)


def test_a_shape_may_be_of_numpy() -> None:
    for given in ((np.int64(4),), np.array([4]), [4], torch.Size((4,))):
        assert regraft.load(nn.Linear(4, 3), inputs=given).head.features == 4


@pytest.mark.parametrize("name", ["a.txt", "a.tflite", "a"])
def test_other_files_are_named_with_the_endings_that_serve(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"1234")
    with pytest.raises(NetworkError, match=r"expected one of \.keras"):
        regraft.load(tmp_path / name)


def test_weights_alone_ask_for_their_network(tmp_path: Path) -> None:
    save_file(examples.Cnn().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(NetworkError, match="architecture="):
        regraft.load(tmp_path / "w.safetensors")
    for architecture in (examples.Cnn, examples.Cnn()):
        net = regraft.load(tmp_path / "w.safetensors", architecture=architecture, inputs=(1, 8, 8))
        assert len(net.account.to_dict()["matched"]) == 16
    with pytest.raises(NetworkError, match="no weights file"):
        regraft.load(examples.Cnn(), weights=tmp_path / "none.pt", inputs=(1, 8, 8))
    with pytest.raises(NetworkError, match=r"x\.h5.*PyTorch"):
        (tmp_path / "x.h5").write_bytes(b"")
        regraft.load(examples.Cnn(), weights=tmp_path / "x.h5", inputs=(1, 8, 8))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return regraft.load(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False)), inputs=(6,), classes=list("abc")).save(
        tmp_path_factory.mktemp("saved")
    )


def _architecture() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False))


def _copy(source: Path, target: Path, **changes: Any) -> Path:
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    facts = json.loads((target / "regraft.json").read_text()) | changes
    (target / "regraft.json").write_text(json.dumps({key: value for key, value in facts.items() if value is not None}))
    return target


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", '{"family": "torch"}'])
def test_damaged_facts_are_one_error(saved: Path, tmp_path: Path, content: str) -> None:
    folder = _copy(saved, tmp_path)
    (folder / "regraft.json").write_text(content)
    with pytest.raises(NetworkError, match=r"regraft\.json"):
        regraft.load(folder, architecture=_architecture)


@pytest.mark.parametrize("changes", [{"heads": None}, {"network": {}}, {"heads": [{}]}, {"preprocessing": None}], ids=str)
def test_missing_facts_are_one_error(saved: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(NetworkError, match=r"regraft\.json.*lacks"):
        regraft.load(_copy(saved, tmp_path, **changes), architecture=_architecture)


@pytest.mark.parametrize("how", ["missing", "short", "other"])
def test_damaged_weights_are_one_error(saved: Path, tmp_path: Path, how: str) -> None:
    folder = _copy(saved, tmp_path)
    path = folder / "network.safetensors"
    if how == "missing":
        path.unlink()
    elif how == "short":
        path.write_bytes(path.read_bytes()[:60])
    else:
        save_file({"0.weight": torch.zeros(1)}, path)
    with pytest.raises(NetworkError, match=r"network\.safetensors|do not fit"):
        regraft.load(folder, architecture=_architecture)


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="not a folder saved by regraft"):
        regraft.load(tmp_path)


def test_round_trip_with_the_class(saved: Path) -> None:
    net = regraft.load(saved, architecture=_architecture)
    X = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = _architecture()(torch.from_numpy(X)).numpy()
    assert np.array_equal(net.logits(X), expected)
    assert net.classes == ("a", "b", "c")
    assert not (saved / "regraft.json.partial").exists()


@pytest.mark.usefixtures("without_onnx_form")
def test_a_folder_that_is_not_written_to_its_end_is_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = regraft.load(_architecture(), inputs=(6,))
    net.save(tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    monkeypatch.setattr(type(net.kind), "write", lambda _self, *_args, **_named: (_ for _ in ()).throw(KeyboardInterrupt))
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            net.save(folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert regraft.load(tmp_path / "old", architecture=_architecture).head.weight.shape == (3, 4)


def test_a_network_opened_again_is_a_copy() -> None:
    net = regraft.load(_architecture(), inputs=(6,))
    again = regraft.load(net)
    assert again is not net
    assert again.module is not net.module
    with pytest.raises(NetworkError, match="2 class names"):
        regraft.load(net, classes=["a", "b"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetworkError, match="cannot be written"):
        regraft.load(_architecture(), inputs=(6,)).save(tmp_path / "file" / "out")


def test_a_network_with_a_name_takes_one_shape() -> None:
    with pytest.raises(NetworkError, match=r"'timm:resnet18' does not need the names of its inputs.*Give one shape"):
        regraft.load("timm:resnet18", inputs={"x": (3, 64, 64)})


def test_a_folder_that_changes_again_and_again_is_given_up(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times, real = count(), opening.read_facts
    monkeypatch.setattr(opening, "read_facts", lambda folder: {**real(folder), "lineage": [next(times)]})
    with pytest.raises(NetworkError, match="was replaced again and again"):
        regraft.load(saved, architecture=_architecture)
    assert next(times) == 6


class _Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.words(ids).mean(1))


class _Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps, self.head = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.head(self.steps(values)[0][:, -1])


@pytest.mark.parametrize(("made", "shape"), [(_Words, (16,)), (_Steps, (16, 5))])
def test_the_first_layer_tells_the_shape_of_an_example(made: Any, shape: tuple[int, ...]) -> None:
    net = regraft.load(made())
    assert net.input_shape == shape and len(net.head.weight) == 3
    assert net.takes_integers == (made is _Words)


def test_no_class_is_called_where_there_are_no_names() -> None:
    net = regraft.load(_architecture(), inputs=(6,))
    with pytest.raises(NetworkError, match=r"No class is called 'a': this network has no class names; give them with classes="):
        net.head.row("a")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (nn.Linear, r"from the class Linear: .* Make a network of it first: Linear\(…\)\."),
        (nn.Linear(2, 3).state_dict(), r"from OrderedDict: .* Weights alone have no layers: build the module"),
        ({"0.weight": np.zeros((3, 2))}, r"from dict: .* Weights alone have no layers"),
        ([nn.Linear(2, 3)], r"from list: expected a torch module, a Keras model, a path, or a name such as 'timm:resnet18'\.$"),
    ],
)
def test_what_is_no_network_is_refused_and_told_what_to_give(given: Any, said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        regraft.load(given)
