"""Data sets of other libraries, and lists of paths: a table of forms, each with the labels and items that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

import regraft
from regraft.data import Dataset
from regraft.data.preprocessings.preprocessing import as_dataset
from regraft.errors import DataError

X = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
Y = np.arange(9) % 3
NAMES = ("zebra", "ant", "cat")


class Mapped(TorchDataset[Any]):
    """A map-style data set that counts what is asked of it."""

    def __init__(self, make: Callable[[int], Any], **more: Any) -> None:
        self.make, self.asked = make, 0
        vars(self).update(more)

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        return self.make(index)


class Streamed(IterableDataset[Any]):
    """An iterable data set, of examples or of batches."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __iter__(self) -> Iterator[Any]:
        return iter(self.parts)


class Column:
    """Stands for a data set of Hugging Face: columns by name, rows by number."""

    def __init__(self) -> None:
        self.column_names = ["x", "label"]
        self.features = {"label": type("ClassLabel", (), {"names": list(NAMES)})()}

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, at: Any) -> Any:
        return {"x": X, "label": Y}[at].tolist() if isinstance(at, str) else {"x": X[at].tolist(), "label": int(Y[at])}


PAIRS = [(X[at], int(Y[at])) for at in range(9)]
TENSORS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
BATCHES = [(torch.from_numpy(X[at : at + 4]), torch.from_numpy(Y[at : at + 4])) for at in (0, 4, 8)]


class KerasBatches:
    """As `keras.utils.PyDataset`: a batch for each index, without an end."""

    def __len__(self) -> int:
        return len(BATCHES)

    def __getitem__(self, index: int) -> Any:
        return tuple(part.numpy() for part in BATCHES[index % len(BATCHES)])

    def on_epoch_end(self) -> None:
        """Shuffle; what tells a data set of Keras."""


FORMS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: TENSORS,
    "map-style": lambda: Mapped(lambda at: (torch.from_numpy(X[at]), torch.tensor(Y[at]))),
    "map-style of mappings": lambda: Mapped(lambda at: {"x": X[at], "labels": Y[at]}),
    "a part of one": lambda: Subset(TENSORS, list(range(9))),
    "loader": lambda: DataLoader(TENSORS, batch_size=4, shuffle=True),
    "loader with its own batches": lambda: DataLoader(PAIRS, batch_size=4, collate_fn=lambda part: tuple(zip(*part, strict=True))),
    "examples one by one": lambda: Streamed(PAIRS),
    "batches": lambda: Streamed(BATCHES),
    "loader of a stream": lambda: DataLoader(Streamed(PAIRS), batch_size=2),
    "generator": lambda: (pair for pair in PAIRS),
    "list of pairs": lambda: PAIRS,
    "columns": Column,
    "batches by index": KerasBatches,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_its_items_and_labels(form: str) -> None:
    data = regraft.read(FORMS[form]())
    assert data.kind == "array" and np.allclose(np.stack([np.asarray(item) for item in data.items]), X)
    assert data.task == "classification" and data.targets.tolist() == Y.tolist()
    assert data.classes == (NAMES if form == "columns" else ("0", "1", "2"))
    assert data.notes and data.summary().facts["examples"] == 9
    part = data.subset([4, 1])
    assert np.allclose(np.asarray(part.items[1]), X[1]) and part.digest(0) == data.digest(4)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_predicted_from_without_its_labels(form: str) -> None:
    items = as_dataset(FORMS[form](), "array").items
    assert np.allclose(np.stack([np.asarray(item) for item in items]), X)


def test_what_the_example_is_must_be_clear() -> None:
    with pytest.raises(DataError, match="has the parts 'x', 'z', 'label'; expected one beside its label"):
        as_dataset(Mapped(lambda at: {"x": X[at], "z": X[at], "label": 0}), "array")
    assert np.allclose(np.stack(as_dataset(Mapped(lambda at: {"x": X[at], "class": 0}), "array").items), X)


def test_attributes_of_a_data_set_are_used_only_for_what_they_mean() -> None:
    data = regraft.read(Mapped(lambda at: (X[at], int(Y[at])), features=torch.from_numpy(X)))  # no types of columns
    assert data.targets.tolist() == Y.tolist()
    table = np.eye(3, dtype=int)[Y] | [1, 0, 0]  # labels as 0 and 1 are no numbers of classes
    data = regraft.read(Mapped(lambda at: (X[at], table[at]), classes=list(NAMES)))
    assert data.task == "multi-label" and data.targets.tolist() == table.tolist()


def test_items_are_asked_for_when_they_are_needed() -> None:
    source = Mapped(lambda at: (X[at], int(Y[at])), targets=Y.tolist(), classes=list(NAMES))
    data = regraft.read(source)
    assert source.asked <= 3 and data.classes == NAMES
    half = data.subset(np.arange(5))
    assert source.asked <= 3 and len(half) == 5
    _ = half.items[2]
    assert source.asked <= 4


@pytest.mark.parametrize(("form", "family"), [("map-style", "torch"), ("loader", "torch"), ("generator", "torch"), ("map-style", "keras")])
def test_a_network_is_adapted_to_them_as_to_arrays(form: str, family: str) -> None:
    if family == "keras":
        keras = pytest.importorskip("keras")
        module: Any = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="made")])
        module.layers[0].set_weights([np.eye(4, 3), np.zeros(3)])
    else:
        module = torch.nn.Sequential(torch.nn.Linear(4, 3))
    net = regraft.load(module, inputs=None if family == "keras" else (4,), classes=["0", "1", "2"])
    how: dict[str, Any] = {"strategy": "probe", "holdout": 0.34, "cache": "memory", "device": "cpu"}
    found = regraft.adapt(net, FORMS[form](), **how)
    same = regraft.adapt(net, (X, Y), **how)
    assert np.allclose(found.network.logits(X), same.network.logits(X), atol=1e-5)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("form", ["pair", "list of pairs", "map-style"])
def test_paths_with_labels_are_pictures(form: str, text: bool, pictures: Path) -> None:
    paths: list[Any] = sorted(pictures.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    given = [str(path) for path in paths] if text else paths
    pairs = list(zip(given, labels, strict=True))
    source: Any = {"pair": (given, labels), "list of pairs": pairs}.get(form)
    if source is None:
        source = Mapped(lambda at: pairs[at])
        type(source).__len__ = lambda self: len(pairs)  # type: ignore[method-assign]
    try:
        data = regraft.read(source)
    finally:
        Mapped.__len__ = lambda self: len(X)  # type: ignore[method-assign]
    assert data.kind == "image" and list(data.items) == paths and data.classes == ("cat", "dog")


def test_pictures_in_memory(pictures: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    data = regraft.read(Mapped(lambda at: (image.new("RGB", (4, 4), (at, 0, 0)), int(Y[at]))))
    assert data.kind == "image" and data.duplicates().tolist() == list(range(9))


def _failing(at: int) -> Any:
    if at == 5:
        raise OSError("disk is gone")
    return X[at], int(Y[at])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (Mapped(lambda at: X[at, :3]), "ndarray"),
        (Mapped(lambda at: {"a": 1, "b": 2}), "'a', 'b'"),
        (Mapped(lambda at: (1, 2, 3)), "3 parts"),
        (Mapped(_failing), "example 5: OSError: disk is gone"),
        (Streamed([]), "no example"),
        (["a.png", "b.png", "c.png"], r"A list of examples needs their labels: \(examples, labels\)"),
        (Streamed([(X[0], 1), "odd"]), "Example 1"),
        (Mapped(lambda at: (X[at], 7), targets=[7] * 9, classes=["a"]), "names 1 class:"),
    ],
)
def test_what_cannot_be_read_is_told(source: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        regraft.read(source)


def test_a_name_of_the_label_is_taken(pictures: Path) -> None:
    data = regraft.read(Mapped(lambda at: {"x": X[at], "kind": int(Y[at])}), target="kind")
    assert isinstance(data, Dataset) and data.classes == ("0", "1", "2")
