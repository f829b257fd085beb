"""Weights that were matched by order are compared with what arrives at the first BatchNorm layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.networks.sources.zoo import SourceModule, timm_siblings
from regraft.planning import checking
from regraft.planning.checking import MATCHED, POOR, weights_fit

LABELS = np.array(["a", "b"] * 12)


def module(*, padding: str = "zeros", activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return three convolutions with BatchNorm; padding and activation leave the shapes as they are."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for given, made in ((3, 8), (8, 8), (8, 8)):
        layers += [nn.Conv2d(given, made, 3, padding=1, padding_mode=padding), nn.BatchNorm2d(made), activation()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


def keras_model(activation: str = "relu", *, named: str = "given") -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    parts: list[Any] = [keras.Input((12, 12, 3))]
    for at in range(3):
        norm = keras.layers.BatchNormalization(momentum=0.5, name=f"{named}_norm{at}")
        parts += [keras.layers.Conv2D(8, 3, name=f"{named}{at}"), norm, keras.layers.Activation(activation)]
    return keras.Sequential([*parts, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, name=f"{named}_out")])


def save_unnamed(made: nn.Module, path: Path) -> None:
    """Save the weights of a module under names that say nothing."""
    weights = [value for name, value in made.state_dict().items() if not name.endswith("num_batches_tracked")]
    torch.save({f"w{index}.x": value for index, value in enumerate(weights)}, path)


def images(count: int = 24) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=(count, 3, 12, 12)) + 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weights with running statistics, under names that nobody else has, of either family."""
    folder, files = tmp_path_factory.mktemp("weights"), {}
    made = module().train()
    for _ in range(60):
        made(torch.from_numpy(images()))
    files["torch"] = folder / "torch.pt"
    save_unnamed(made, files["torch"])
    model = keras_model()
    for _ in range(12):
        model(images().transpose(0, 2, 3, 1), training=True)
    files["arrays"], files["Keras 3"], files["Keras 2"] = folder / "keras.npz", folder / "keras.weights.h5", folder / "keras.h5"
    np.savez(files["arrays"], *[np.asarray(weight.value.detach()) for weight in model.weights])
    model.save_weights(files["Keras 3"])
    model.save(files["Keras 2"])
    return files


@pytest.mark.parametrize(("padding", "activation", "fits"), [("zeros", nn.ReLU, True), ("zeros", nn.Softplus, False)])
def test_the_means_that_arrive_tell_the_right_architecture(trained: dict[str, Path], padding: str, activation: Any, fits: bool) -> None:
    net = regraft.load(module(padding=padding, activation=activation), inputs=(3, 12, 12), weights=trained["torch"])
    (told,) = (note for note in regraft.check((images(), LABELS), net).facts["notes"] if MATCHED in note)
    assert "of your examples" in told and told.startswith("Warning") == (not fits)
    result = regraft.adapt(net, (images(), LABELS), strategy="probe", cache="memory")
    assert (result.account.figures["arriving_means_shift"] < POOR) == fits
    assert ("Warning: the weights were matched by order" in result.verdict) == (not fits)
    assert any(MATCHED in note for note in result.account.notes)
    assert any(MATCHED in reason for reason in result.plan.reasons)


@pytest.mark.parametrize("form", ["arrays", "Keras 3", "Keras 2"])
@pytest.mark.parametrize(("activation", "fits"), [("relu", True), ("softplus", False)])
def test_keras_networks_too(trained: dict[str, Path], activation: str, fits: bool, form: str) -> None:
    net = regraft.load(keras_model(activation, named="own"), weights=trained[form])
    items = images().transpose(0, 2, 3, 1)
    found = weights_fit(net, list(items), batch=torch.from_numpy(items.copy()), examples="some")
    assert found is not None
    assert found.is_poor == (not fits)


def test_weights_matched_by_name_are_not_measured(tmp_path: Path) -> None:
    torch.save(module().state_dict(), tmp_path / "weights.pt")
    net = regraft.load(module(), inputs=(3, 12, 12), weights=tmp_path / "weights.pt")
    assert weights_fit(net, list(images()), batch=torch.from_numpy(images()), examples="some") is None


def test_weights_of_keras_matched_by_name_are_not_measured(trained: dict[str, Path]) -> None:
    net, items = regraft.load(keras_model(), weights=trained["Keras 3"]), images().transpose(0, 2, 3, 1)
    assert weights_fit(net, list(items), batch=torch.from_numpy(items.copy()), examples="some") is None


@pytest.mark.parametrize(("activation", "named"), [(nn.ReLU, False), (nn.Softplus, True)])
def test_a_sibling_of_the_zoo_that_fits_better_is_named(
    trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch, activation: Any, named: bool
) -> None:
    net = regraft.load(module(activation=activation), inputs=(3, 12, 12), weights=trained["torch"])
    sibling = SourceModule(module(), {}, net.sample, preprocessing=net.preprocessing.to_dict())
    other = SourceModule(nn.Sequential(nn.Conv2d(3, 8, 5), nn.Flatten()), {}, net.sample, preprocessing=net.preprocessing.to_dict())
    monkeypatch.setattr(checking, "timm_siblings", lambda _module: iter([("wide", other), ("right", sibling)]))
    found = weights_fit(net, list(images()), batch=torch.from_numpy(images()), examples="some")
    assert found is not None
    assert ("'right' fits better" in found.words()) == named
    assert found.is_poor == named


def test_the_nearest_names_of_timm_are_its_siblings() -> None:
    timm = pytest.importorskip("timm")
    names = [name for name, _ in timm_siblings(timm.create_model("mobilenetv3_small_050"))]
    assert "tf_mobilenetv3_small_075" in names or "mobilenetv3_small_075" in names
    assert list(timm_siblings(module())) == []
