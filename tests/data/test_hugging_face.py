"""Data sets of the library `datasets` itself: pictures, sounds, texts and numbers, by index, in one pass, and split into parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import DataError

hf = pytest.importorskip("datasets")
image = pytest.importorskip("PIL.Image")

NAMES = ("light", "dark")  # not in the order of the alphabet
PIXELS = (
    np.random.default_rng(0).integers(0, 90, (12, 8, 8, 3), np.uint8)
    + np.uint8(150) * (np.arange(12, dtype=np.uint8) % 2 == 0)[:, None, None, None]
)
LABELS = [0, 1] * 6


def _of(name: str, values: Any, feature: Any, *, label: Any = None) -> Any:
    kinds = hf.Features({name: feature, "label": label or hf.ClassLabel(names=list(NAMES))})
    return hf.Dataset.from_dict({name: values, "label": LABELS}, features=kinds)


@pytest.fixture(scope="module")
def pictures() -> Any:
    return _of("image", [image.fromarray(one) for one in PIXELS], hf.Image())


FORMS: dict[str, Any] = {
    "as it is": lambda data: data,
    "in one pass": lambda data: data.to_iterable_dataset(),
    "encoded": lambda data: data.cast_column("image", hf.Image(decode=False)),
    "arrays": lambda data: data.with_format("numpy"),
    "tensors": lambda data: data.with_format("torch"),
    "a part": lambda data: data.shuffle(seed=1).select(range(12)),
    "transformed": lambda data: data.with_transform(lambda rows: {**rows, "image": [np.asarray(one) for one in rows["image"]]}),
}


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    return regraft.load(module, inputs=(3, 8, 8), classes=["dark", "light"], preprocessing={"kind": "image", "height": 8, "width": 8})


@pytest.mark.parametrize("form", FORMS)
def test_pictures_are_read_with_their_class_names(form: str, pictures: Any, network: Any) -> None:
    source = FORMS[form](pictures)
    data = regraft.read(source)
    assert data.classes == NAMES and data.class_counts().tolist() == [6, 6] and (data.kind == "image") == (form not in _ARRAYS)
    order = (
        list(range(12))
        if form != "a part"
        else [int(np.argmin([np.abs(np.asarray(one, int) - row).sum() for row in PIXELS.astype(int)])) for one in data.items]
    )
    assert np.allclose(network.predict(source).probabilities, network.predict(list(PIXELS[order])).probabilities, atol=1e-6)
    assert [data.classes[at] for at in data.targets] == [NAMES[at % 2] for at in order]


_ARRAYS = ("arrays", "tensors", "transformed")


def test_splits_are_given_one_by_one(pictures: Any, network: Any) -> None:
    parts = pictures.train_test_split(4, seed=0, stratify_by_column="label")
    with pytest.raises(DataError, match=r"the splits 'train', 'test' .* test=data\['test'\]"):
        regraft.adapt(network, parts)
    result = regraft.adapt(network, parts["train"], test=parts["test"], holdout=0, strategy="probe")
    assert set(result.network.classes) == set(NAMES) and result.scores["test"]["examples"] == 4
    assert result.network.predict(parts["test"].remove_columns("label")).labels == result.network.predict(parts["test"]).labels


def test_texts_and_lists_of_labels_keep_the_names_of_their_classes() -> None:
    texts = _of("text", [f"word {at}" for at in range(12)], hf.Value("string"))
    several = _of("text", texts["text"], hf.Value("string")).remove_columns("label")
    several = several.add_column("labels", [[0, 1], [1], []] * 4).cast_column("labels", hf.List(hf.ClassLabel(names=list(NAMES))))
    for source in (texts, texts.to_iterable_dataset()):
        data = regraft.read(source)
        assert data.kind == "text" and data.classes == NAMES and data.targets.tolist() == LABELS
        turned = regraft.read(source, classes=NAMES[::-1])  # as `evaluate` reads for a network of this order
        assert turned.classes == NAMES[::-1] and [turned.classes[at] for at in turned.targets] == [NAMES[at] for at in LABELS]
        loud = regraft.read(source, classes=[name.upper() for name in NAMES[::-1]])
        assert loud.targets.tolist() == turned.targets.tolist()
        foreign = regraft.read(source, classes=["x", "y"])
        assert foreign.targets.tolist() == LABELS and "its numbers are taken as the places of 'x', 'y'" in foreign.notes[1]
        numbered = regraft.read(source, classes=["0", "1"])
        assert numbered.targets.tolist() == LABELS and not any("places" in note for note in numbered.notes)
    for source in (several, several.to_iterable_dataset()):
        data = regraft.read(source)
        assert (data.task, data.classes) == ("multi-label", NAMES) and data.targets[:3].tolist() == [[1, 1], [0, 1], [0, 0]]
    with pytest.raises(DataError, match=r"'text', 'label', 'id'; .* select_columns, or .* to_pandas\(\) as a table"):
        regraft.read(texts.add_column("id", list(range(12))))


def test_numbers_are_rows_or_a_table() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    data = regraft.read(_of("x", rows, hf.List(hf.Value("float32")), label=hf.Value("float32")))
    assert data.kind == "array" and np.allclose(np.stack(list(data.items)), rows)
    table = hf.Dataset.from_dict({"a": rows[:, 0], "b": rows[:, 1], "label": ["x", "y"] * 6})
    assert regraft.read(table.to_pandas()).table[0]["column"] == "a"


def test_recordings_are_read_from_their_files(tmp_path: Path) -> None:
    sounds = pytest.importorskip("soundfile")
    for at in range(12):
        sounds.write(tmp_path / f"{at}.wav", np.full(800, at / 20), 8000)
    source = hf.Dataset.from_dict({"audio": [str(tmp_path / f"{at}.wav") for at in range(12)], "label": LABELS})
    data = regraft.read(source.cast_column("audio", hf.Audio(decode=False)))
    assert data.kind == "audio" and data.items[3] == tmp_path / "3.wav"
    for sound in ({"array": np.zeros(9), "sampling_rate": 8000}, type("AudioDecoder", (), {"get_all_samples": None})()):
        with pytest.raises(DataError, match=r"cast its column with Audio\(decode=False\)"):
            regraft.read([(sound, "a"), (sound, "b"), (sound, "a")])
    with pytest.raises(DataError, match=r"the bytes of the recording 'a.wav'"):
        regraft.read([({"bytes": b"RIFF", "path": "a.wav"}, at) for at in "aba"])
