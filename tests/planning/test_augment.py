"""augment= from the call to the batches: cached and uncached, both families, the command line, the plan and the resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.data.test_augmenting import _photos, _writing
from tests.networks.keras_examples import L
from torch import Tensor, nn
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.data.preprocessings import augmenting, image_preprocessing
from regraft.errors import SettingError
from regraft.networks.keras.library import keras
from regraft.planning import Plan, make_plan

pytestmark = pytest.mark.usefixtures("without_onnx_form")

families = pytest.mark.parametrize("family", ["torch", "keras"])
QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-3}


def _net(family: str) -> Any:
    if family == "keras":
        keras.utils.set_random_seed(0)
        steps = [L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(4), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(2)]
        return regraft.load(keras.Sequential([keras.Input((32, 32, 3)), *steps]))
    torch.manual_seed(0)
    steps = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2)]
    return regraft.load(nn.Sequential(*steps), inputs=(3, 32, 32))


def _data(pictures: np.ndarray) -> Any:
    return regraft.read((pictures, np.array([f"class {number % 2}" for number in range(len(pictures))])), kind="image")


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that names each way by which a view is made."""
    seen: list[str] = []
    for name in ("photographs", "augmented_pictures"):
        real = getattr(image_preprocessing, name)
        monkeypatch.setattr(
            image_preprocessing, name, lambda *given, real=real, name=name, **named: (seen.append(name), real(*given, **named))[1]
        )
    return seen


@families
@pytest.mark.parametrize("strategy", ["full", "partial", "head", "scratch"])
def test_cached_and_uncached_training_see_the_photographs_views(family: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _watched(monkeypatch)
    where = {"frozen": 1} if strategy == "partial" else {}
    for cache in ("memory", None):
        seen.clear()
        result = regraft.adapt(_net(family), _data(_photos(24)), strategy=strategy, augment="photo", cache=cache, **where, **QUICK)
        assert set(seen) == {"photographs"} and result.plan.views == 4 and result.plan.augment == "photo"
        assert "views 4 (photo)" in str(result.plan)


@pytest.mark.parametrize(("pictures", "way"), [(_photos, "photographs"), (_writing, "augmented_pictures")])
def test_auto_looks_at_the_pictures(pictures: Any, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _watched(monkeypatch)
    result = regraft.adapt(_net("torch"), _data(pictures(24)), strategy="head", views=2, cache="memory", **QUICK)
    assert set(seen) == {way}
    assert any("look like photographs" in reason for reason in result.plan.reasons) == (way == "photographs")


def test_without_views_nothing_is_augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _watched(monkeypatch)
    for augment in ("auto", "none"):
        regraft.adapt(_net("torch"), _data(_photos(24)), strategy="full", augment=augment, cache="memory", **QUICK)
    assert not seen


@families
def test_a_function_of_the_user(family: str, tmp_path: Path) -> None:
    def dark(picture: Tensor) -> Tensor:
        shapes.add((tuple(picture.shape), float(picture.max()) > 1))
        return picture * torch.rand(()) * 0.5

    shapes: set[Any] = set()
    nets = [
        regraft.adapt(
            _net(family), _data(_photos(24)), strategy="full", augment=dark, views=2, dropout=0.3, cache="memory", out=out, **QUICK
        )
        for out in (tmp_path / "one", None)
    ]
    assert shapes == {((3, 32, 32), True)}
    for one, other in zip(nets[0].network.state().values(), nets[1].network.state().values(), strict=True):
        assert torch.equal(one, other)  # whatever thread draws what
    kept = json.loads((tmp_path / "one" / "plan.json").read_text())["augment"]
    assert kept.startswith("callable ") and kept.endswith("dark")
    plan = Plan.from_json((tmp_path / "one" / "plan.json").read_text())
    with pytest.raises(SettingError, match=r"Give the function again: dataclasses.replace\(plan"):
        regraft.adapt(_net(family), _data(_photos(24)), strategy=plan)
    regraft.load(tmp_path / "one", architecture=(lambda: _net("torch").module) if family == "torch" else None)


def test_torchvisions_own_transforms_are_such_functions() -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    steps = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomErasing(p=1.0)])
    result = regraft.adapt(_net("torch"), _data(_photos(24)), strategy="head", augment=steps, cache="memory", **QUICK)
    assert result.plan.to_dict()["augment"] == "callable Compose"


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(SettingError, match="views=3 with augment='none' are 3 times the same"):
        make_plan("head", {"views": 3, "augment": "none"})
    with pytest.raises(SettingError, match=r"neither a callable nor known.*'photo'"):
        make_plan("head", {"augment": "foto"})
    with pytest.raises(SettingError, match="is for pictures"):
        regraft.adapt(regraft.load(nn.Sequential(nn.Linear(4, 2)), inputs=(4,)), (np.eye(8, 4), list("abababab")), augment="photo")
    with pytest.raises(SettingError, match="keeps its plans as plain data"):
        regraft.search(_net("torch"), _data(_photos(24)), trials=1, augment=lambda picture: picture)
    assert make_plan("head", {"augment": "photo"}).views == 4 and make_plan("head", {"augment": "photo", "views": 2}).views == 2
    plain = make_plan("head", {}).to_dict()
    del plain["augment"]
    assert Plan.from_dict(plain).augment == "auto"  # a plan of before this setting


def test_without_torchvision_auto_is_light_and_photo_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.planning.preparing.find_spec", lambda _: None)
    seen = _watched(monkeypatch)
    regraft.adapt(_net("torch"), _data(_photos(24)), strategy="head", views=2, cache="memory", **QUICK)
    assert set(seen) == {"augmented_pictures"}

    def missing(*_given: Any, **_named: Any) -> Any:
        raise regraft.errors.MissingExtraError("pip install 'regraft[vision]'")

    monkeypatch.setattr(augmenting, "optional_import", missing)
    with pytest.raises(regraft.errors.MissingExtraError, match="vision"):
        regraft.adapt(_net("torch"), _data(_photos(24)), strategy="head", augment="photo", cache="memory", **QUICK)


def test_the_estimator_and_a_search_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, pictures = _watched(monkeypatch), _photos(24)
    model = regraft.TransferClassifier(
        _net("torch"), strategy="head", augment="photo", kind="image", cache="memory", epochs=1, learning_rate=1e-3
    )
    model.fit(pictures, [f"class {number % 2}" for number in range(24)])
    assert set(seen) == {"photographs"}
    seen.clear()
    space = {"strategy": ["head"], "learning_rate": [1e-3]}
    regraft.search(_net("torch"), _data(pictures), space=space, sampler="grid", augment="photo", trials=3, epochs=1, cache="memory")
    assert set(seen) == {"photographs"}


def test_the_command_line_takes_it(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number, picture in enumerate(_photos(20)):
        folder = tmp_path / "pictures" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.fromarray(picture).save(folder / f"{number}.png")
    keras.utils.set_random_seed(0)
    _net("keras").module.save(tmp_path / "net.keras")
    given = ["adapt", str(tmp_path / "net.keras"), str(tmp_path / "pictures"), "--out", str(tmp_path / "out"), "--strategy", "head"]
    done = CliRunner().invoke(app, [*given, "--augment", "photo", "--epochs", "1", "--cache", "memory", "--quiet"])
    assert done.exit_code == 0, done.output
    plan = Plan.from_json((tmp_path / "out" / "plan.json").read_text())
    assert plan.augment == "photo" and plan.views == 4
    wrong = CliRunner().invoke(app, [*given[:-3], str(tmp_path / "other"), "--augment", "foto"])
    assert wrong.exit_code == 2 and "'photo'" in wrong.output
