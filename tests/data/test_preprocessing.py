from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

import regraft
from regraft.data import (
    ArrayPreprocessing,
    AudioPreprocessing,
    Dataset,
    ImagePreprocessing,
    PartsPreprocessing,
    Preprocessing,
    default_preprocessing,
    preprocessing_from_dict,
)
from regraft.data.preprocessings.preprocessing import as_dataset
from regraft.errors import DataError, RegraftError, SettingError

from ..condition_examples import FAMILIES, WIDTH, plain

if TYPE_CHECKING:
    from fractions import Fraction


@pytest.mark.parametrize(
    "made",
    [
        ImagePreprocessing(8, 6, mean=(0.1, 0.2, 0.3), std=0.5, value_range=(0.0, 16.0)),
        AudioPreprocessing("mfcc", seconds=1.5),
        ArrayPreprocessing((None, 3), mean=(1.0, 2.0, 3.0), spread=0.5),
    ],
)
def test_plain_data_and_back(made):
    plain = json.loads(json.dumps(made.to_dict()))
    assert preprocessing_from_dict(plain) == made and plain["kind"] == made.kind


def test_from_dict_errors():
    with pytest.raises(DataError, match="No kind of preprocessing is called 'imge'; did you mean 'image'"):
        preprocessing_from_dict({"kind": "imge"})
    with pytest.raises(DataError, match="image preprocessing has no setting 'heigth'; did you mean 'height'"):
        preprocessing_from_dict({"kind": "image", "heigth": 3})


def test_defaults_say_that_they_are_inferred():
    image = default_preprocessing("image", (3, None, 32), "channels_first")
    assert (image.channels, image.height, image.width) == (3, 224, 32) and "inferred" in image.describe()
    assert default_preprocessing("image", (28, 28, 1), "channels_last").channels == 1
    assert default_preprocessing("image", None, "channels_last").height == 224
    assert default_preprocessing("array", (4,), "channels_first").shape == (4,)
    assert "inferred" in default_preprocessing("audio", (1, 64, 100), "channels_first").describe()
    assert "any shape, inferred" in default_preprocessing("array", None, "channels_first").describe()
    with pytest.raises(DataError, match=r"shape \(64,\); expected three axes for images"):
        default_preprocessing("image", (64,), "channels_first")
    with pytest.raises(DataError, match="carries no tokenizer"):
        default_preprocessing("text", (128,), "channels_first")
    with pytest.raises(DataError, match="No kind of preprocessing is called 'video'"):
        default_preprocessing("video", None, "channels_first")


def test_items_of_every_form(pictures, tmp_path):
    assert len(as_dataset(pictures, "image")) == 5
    assert as_dataset(str(pictures / "cat/1.png"), "image").names == (str(pictures / "cat/1.png"),)
    assert len(as_dataset([pictures / "cat", str(pictures / "dog/1.png")], "image")) == 4
    assert as_dataset("a text", "text").items == ["a text"]
    assert as_dataset(np.array(["a", "b"]), "text").items == ["a", "b"]
    assert as_dataset(torch.zeros(2, 3), "array").items.shape == (2, 3)
    assert as_dataset([[1.0, 2.0]], "array").items.shape == (1, 2)
    data = Dataset([1], np.zeros(1, int), ("a",), "array")
    assert as_dataset(data, "array") is data
    with pytest.raises(DataError, match=r"The file does not exist: .*ghost.png"):
        as_dataset([tmp_path / "ghost.png"], "image")
    with pytest.raises(DataError, match="holds no audio files"):
        as_dataset(pictures, "audio")
    with pytest.raises(DataError, match="No examples were received"):
        as_dataset([], "text")


def test_batches_and_item_agree():
    items = np.random.default_rng(0).random((5, 3))
    made = ArrayPreprocessing((3,))
    batches = list(made.batches(items, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(made.item(items[4]), batches[2][0].numpy())


IMAGE = ImagePreprocessing(height=8, width=8)
GREEN = np.full((8, 8, 3), (0, 200, 0), np.uint8)


@pytest.mark.parametrize("form", ["file", "PIL", "array", "list", "batch", "pairs", "loader"])
def test_one_picture_is_one_item_in_every_form(form: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image").fromarray(GREEN)
    image.save(tmp_path / "one.png")
    forms: dict[str, Any] = {"file": tmp_path / "one.png", "PIL": image, "array": GREEN, "list": [GREEN], "batch": GREEN[None]}
    forms |= {"pairs": ((GREEN, 3) for _ in range(1)), "loader": torch.utils.data.DataLoader([(GREEN, 3)])}
    (batch,) = IMAGE.batches(forms[form], 4)
    (plain,) = IMAGE.batches(tmp_path / "one.png", 4)
    assert batch.shape[0] == 1 and torch.allclose(batch, plain, atol=1e-6)


def test_a_missing_item_is_told_by_its_place() -> None:
    with pytest.raises(DataError, match="Examples 1 of 2 are None"):
        next(IMAGE.batches([GREEN, None], 4))


# ── preprocessings of a program's own ──────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Logarithms(Preprocessing):
    """Rows of numbers as logarithms, of a type that only a type checker imports."""

    kind: ClassVar[str] = "logarithms"
    offset: Fraction = 1.0  # type: ignore[assignment]  # plain data hold the number

    @property
    def fitted(self) -> bool:
        return True

    def fit(self, data: Dataset) -> Preprocessing:
        return self

    def batch(self, items: Any, view: int = 0, *, seeds: Any = None) -> torch.Tensor:
        return torch.log(torch.as_tensor(np.asarray(items), dtype=torch.float32) + float(self.offset))

    def describe(self) -> str:
        return "logarithms"

    @property
    def item_kind(self) -> str:
        return "array"


class _Unmarked(ArrayPreprocessing):
    """A class without a kind of its own."""


class _Bare(Preprocessing):
    """A class that is no dataclass."""

    kind: ClassVar[str] = "bare"
    fitted, fit, batch, describe = Logarithms.fitted, Logarithms.fit, Logarithms.batch, Logarithms.describe


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_preprocessing_of_ones_own_is_used_saved_and_opened(family: str, tmp_path: Path) -> None:
    net = plain(family)
    net.preprocessing = Logarithms(2.0)  # type: ignore[arg-type]
    rows = np.random.default_rng(0).random((40, WIDTH)).astype(np.float32)
    result = regraft.adapt(net, (rows, np.where(rows[:, 0] > 0.5, "a", "b")), strategy="probe", cache="memory", out=tmp_path / "out")
    assert result.network.preprocessing == Logarithms(2.0)  # type: ignore[arg-type]
    module = {"architecture": plain(family).module} if family == "torch" else {}
    again = regraft.load(tmp_path / "out", **module)
    np.testing.assert_array_equal(again.logits(rows), result.network.logits(rows))
    rewritten = (tmp_path / "out" / "regraft.json").read_text(encoding="utf-8").replace("logarithms", "decibels")
    (tmp_path / "out" / "regraft.json").write_text(rewritten, encoding="utf-8")
    with pytest.raises(RegraftError, match="'decibels'"):
        regraft.load(tmp_path / "out", **module)


@pytest.mark.parametrize("own", [_Unmarked(), _Bare()])
def test_a_preprocessing_that_cannot_be_kept_is_refused(own: Preprocessing) -> None:
    net = plain("torch")
    net.preprocessing = own
    with pytest.raises(DataError, match=r"cannot be kept with a network: .* a `kind` that no other class has"):
        regraft.adapt(net, (np.zeros((8, WIDTH)), ["a", "b"] * 4), strategy="probe")


def test_parts_as_batches_of_tensors_and_arrays():
    own = PartsPreprocessing(("a", "b"), (ArrayPreprocessing(shape=(2,)), ArrayPreprocessing(shape=(3,), mean=1.0)))
    data = own.dataset({"a": np.arange(8.0).reshape(4, 2), "b": np.ones((4, 3))})
    made, arrays = own.batch(data.items), own.fit(data).arrays_of(data, [1, 0])
    assert {name: values.tolist() for name, values in arrays.items()} == {"a": [[2, 3], [0, 1]], "b": [[0] * 3] * 2}
    np.testing.assert_array_equal(made["a"][[1, 0]].numpy(), arrays["a"])
    assert not own.of_photographs(data)
    with pytest.raises(SettingError, match=r"augment='photo' is for pictures"):
        own.viewing("photo")
    with pytest.raises(DataError, match=r"Example 0 has the parts \['a', 'b'\], and example 1 has \['a'\]"):
        own.dataset([{"a": [1, 2], "b": [1, 2, 3]}, {"a": [1, 2]}])
    with pytest.raises(DataError, match=r"The inputs differ in length: {'a': 1, 'b': 2}"):
        own.dataset({"a": np.zeros((1, 2)), "b": np.zeros((2, 3))})
    with pytest.raises(DataError, match=r"was given the names \['a', 'a'\] and 2 preprocessings"):
        PartsPreprocessing(("a", "a"), own.parts)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"kind": "image", "height": 30000, "width": 30000}, r"pictures of the shape \(3, 30000, 30000\); expected 268435456 numbers"),
        ({"kind": "array", "shape": [2**20, 2**20]}, r"examples of the shape \(1048576, 1048576\); expected 268435456 numbers"),
        ({"kind": "array", "mean": [[1.0], [2.0, 3.0]]}, r"mean=\(\(1.0,\), \(2.0, 3.0\)\) cannot be used"),
        ({"kind": "audio", "features": "extractor"}, "expected features='extractor' with its settings"),
    ],
)
def test_plain_data_of_impossible_examples_are_refused(plain, message):
    with pytest.raises(DataError, match=message):
        preprocessing_from_dict(plain)


def test_plain_data_made_in_code_may_hold_arrays():
    assert preprocessing_from_dict({"kind": "array", "shape": np.array([3])}) == ArrayPreprocessing(shape=(3,))
