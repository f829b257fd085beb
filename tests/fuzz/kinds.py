"""The files that are changed, and what a user does with each: it ends in a right result or in one error of regraft."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tests import torch_examples as examples
from tests.fuzz.mutating import cells, json_text, mutated, parts, picture_chunks
from torch import nn

import regraft
from regraft.data.readers.array_files import read_array
from regraft.planning import Plan

__all__ = ["KINDS", "Kind", "Way"]

Way = tuple[Path, Callable[[], None], Callable[[bytes, random.Random], bytes]]
"""The file, how it is used, and how it is changed."""
Kind = Callable[[Path], Way]
QUICK: dict[str, Any] = {"epochs": 1, "learning_rate": 0.01, "cache": "memory", "batch_size": 16}


def _perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def _check(right: bool, what: str) -> None:
    if not right:
        raise AssertionError(what)


def _check_predictions(net: Any, items: Any, *, count: int) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = net.predict(items)
    _check(found.probabilities.shape == (count, len(found.classes)), f"scores of the shape {found.probabilities.shape}")
    said = any("are no numbers" in str(warning.message) for warning in told)
    _check(said or bool(np.isfinite(found.probabilities).all()), "scores that are no numbers, without a word")


def _table(path: Path, change: Callable[[bytes, random.Random], bytes]) -> Way:
    net = regraft.load(_perceptron(), inputs=(4,))

    def use() -> None:
        data = regraft.read(path, target="label")
        _check(len(data.items) == len(data.targets) > 0, "examples without targets")
        _check_predictions(net, data, count=len(data.items))

    return path, use, change


def csv(folder: Path) -> Way:
    """Numbers and a label; read and, where it still has the columns, predicted."""
    rng, path = np.random.default_rng(0), folder / "data.csv"
    rows = [",".join(f"{value:.4f}" for value in rng.normal(size=4)) + f",{'ab'[row % 2]}" for row in range(24)]
    path.write_text("\n".join(["w,x,y,z,label", *rows]) + "\n", encoding="utf-8")
    return _table(path, cells)


def parquet(folder: Path) -> Way:
    """Numbers and a label; read and, where it still has the columns, predicted."""
    import pyarrow
    from pyarrow import parquet as files

    rng, path = np.random.default_rng(0), folder / "data.parquet"
    files.write_table(pyarrow.table({name: rng.normal(size=24) for name in "wxyz"} | {"label": ["a", "b"] * 12}), path)
    return _table(path, mutated)


def npy(folder: Path) -> Way:
    """An array of numbers, predicted."""
    path = folder / "data.npy"
    np.save(path, np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32))
    net = regraft.load(_perceptron(), inputs=(4,))

    def use() -> None:
        rows = read_array(path)
        _check_predictions(net, rows, count=len(rows))

    return path, use, mutated


def _picture(path: Path, change: Callable[[bytes, random.Random], bytes]) -> Way:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net = regraft.load(module, inputs=(3, 16, 16), preprocessing={"kind": "image", "height": 16, "width": 16, "channels": 3})
    return path, lambda: _check_predictions(net, [path], count=1), change


def png(folder: Path) -> Way:
    """A picture, predicted."""
    return _picture(folder / "picture.png", picture_chunks)


def jpeg(folder: Path) -> Way:
    """A picture, predicted."""
    return _picture(folder / "picture.jpg", mutated)


def wav(folder: Path) -> Way:
    """A recording, predicted."""
    import soundfile

    path = folder / "recording.wav"
    soundfile.write(path, np.random.default_rng(0).normal(size=2000) * 0.1, 8000)
    plain = {"kind": "audio", "sample_rate": 8000, "seconds": 0.25, "n_mels": 8, "n_fft": 128, "hop_length": 64}
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net = regraft.load(module, inputs=(1, 8, 32), preprocessing=plain)
    return path, lambda: _check_predictions(net, [path], count=1), mutated


def _weights(path: Path, write: Callable[[Any, Path], Any], change: Callable[[bytes, random.Random], bytes]) -> Way:
    write(_perceptron().state_dict(), path)

    def use() -> None:
        with torch.no_grad():
            scores = regraft.load(_perceptron(), weights=path, inputs=(4,)).logits(np.ones((2, 4), np.float32))
        _check(scores.shape == (2, 3), f"scores of the shape {scores.shape}")

    return path, use, change


def safetensors(folder: Path) -> Way:
    """Weights for a module."""
    return _weights(folder / "weights.safetensors", save_file, mutated)


def pt(folder: Path) -> Way:
    """Weights for a module."""
    return _weights(folder / "weights.pt", torch.save, parts)


def _keras(path: Path, change: Callable[[bytes, random.Random], bytes]) -> Way:
    from tests.security import keras_payloads as payloads

    model, weights = payloads.network(), path.name.endswith(".weights.h5")
    (model.save_weights if weights else model.save)(path)

    def use() -> None:
        net = regraft.load(payloads.network(), weights=path) if weights else regraft.load(path)
        net.feature_batch(net.sample)

    return path, use, change


def keras(folder: Path) -> Way:
    """A model with its architecture."""
    return _keras(folder / "model.keras", parts)


def h5(folder: Path) -> Way:
    """A model with its architecture."""
    return _keras(folder / "model.h5", mutated)


def weights_h5(folder: Path) -> Way:
    """Weights for a model."""
    return _keras(folder / "model.weights.h5", mutated)


def _folder(path: Path) -> tuple[Path, np.ndarray]:
    """Save a network of pictures; without checksums, as whoever changes a file leaves none that would tell."""
    torch.manual_seed(0)
    plain = {"kind": "image", "height": 8, "width": 8, "channels": 1, "mean": [0.5], "std": [0.5]}
    regraft.load(examples.Cnn(), inputs=(1, 8, 8), classes=["a", "b", "c"], preprocessing=plain).save(path)
    facts = json.loads((path / "regraft.json").read_text(encoding="utf-8"))
    facts.pop("files")
    (path / "regraft.json").write_text(json.dumps(facts), encoding="utf-8")
    return path, examples.pictures(5)[0]


def regraft_json(folder: Path) -> Way:
    """The description of a saved network, opened with the user's own class."""
    saved, items = _folder(folder / "net")
    return saved / "regraft.json", lambda: _check_predictions(regraft.load(saved, architecture=examples.Cnn), items, count=5), json_text


def onnx(folder: Path) -> Way:
    """The network of a saved folder, opened without the user's class."""
    saved, items = _folder(folder / "net")
    return saved / "network.onnx", lambda: _check_predictions(regraft.load(saved), items, count=5), mutated


def plan_json(folder: Path) -> Way:
    """A plan, read, shown and written again."""
    path = folder / "plan.json"
    net = regraft.load(_perceptron(), inputs=(4,))
    items = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    path.write_text(regraft.adapt(net, (items, np.arange(60) % 3), strategy="auto", **QUICK).plan.to_json(), encoding="utf-8")

    def use() -> None:
        plan = Plan.from_json(path.read_text(encoding="utf-8", errors="surrogateescape"))
        _check(bool(str(plan)), "a plan without words")
        _check(Plan.from_json(plan.to_json()).to_json() == plan.to_json(), "a plan that is another one when it is read again")

    return path, use, json_text


def code(folder: Path) -> Way:
    """The code of a condition in a saved folder."""

    def module() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))

    torch.manual_seed(0)
    items = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    conditions = np.array([f"c{row % 3}" for row in range(24)], dtype=object)
    data = regraft.data.Dataset(items, np.arange(24) % 2, ("a", "b"), "array", conditions=conditions)
    regraft.adapt(regraft.load(module(), inputs=(4,)), data, strategy="codes", size=2, **QUICK).network.save(folder / "net")
    net = regraft.load(folder / "net", architecture=module)
    fresh = regraft.data.Dataset(items, np.arange(24) % 2, ("a", "b"), "array")
    regraft.adapt_condition(net, fresh, "new", out=folder / "net")
    (path,) = (folder / "net" / "codes").iterdir()

    def use() -> None:
        opened = regraft.load(folder / "net", architecture=module)
        _check_predictions(opened, items[:5], count=5)
        _check(all(np.isfinite(values).all() for values in opened.codes.values()), "a code of no numbers")

    return path, use, mutated


def _cache(folder: Path, name: str, change: Callable[[bytes, random.Random], bytes]) -> Way:
    from tests.security import test_caches as caches

    torch.manual_seed(0)
    one, items = caches._pass(folder / "cache", caches._seeded())
    expected = [part.numpy().copy() for part in one.cached(items).get(np.arange(caches.COUNT))]
    path = next((folder / "cache").glob(f"*/{name}"))

    def use() -> None:
        again, items = caches._pass(folder / "cache", caches._seeded())
        found = again.cached(items).get(np.arange(caches.COUNT))
        same = len(found) == len(expected) and all(map(np.array_equal, [part.numpy() for part in found], expected))
        _check(same, "features that are not those of the network")

    return path, use, change


def cache_manifest(folder: Path) -> Way:
    """The manifest of a feature cache: the cached features, or the same computed again."""
    return _cache(folder, "manifest.json", json_text)


def cache_rows(folder: Path) -> Way:
    """The rows of a feature cache: the cached features, or the same computed again."""
    return _cache(folder, "live0.npy", mutated)


KINDS: dict[str, Kind] = {
    "CSV": csv,
    "Parquet": parquet,
    ".npy": npy,
    "PNG": png,
    "JPEG": jpeg,
    "WAV": wav,
    ".h5": h5,
    ".weights.h5": weights_h5,
    ".keras": keras,
    ".safetensors": safetensors,
    ".pt": pt,
    ".onnx": onnx,
    "regraft.json": regraft_json,
    "plan.json": plan_json,
    "code file": code,
    "cache manifest": cache_manifest,
    "cache rows": cache_rows,
}
"""Name of a kind of file -> what makes one."""


def cases(kind: str, folder: Path) -> Callable[[int, int], str]:
    """Write a whole file of a kind into a folder, and return a function from seed and number to what its change came to.

    The answer is "right", the name of an error of regraft with a "-" before it, or "foreign: " and what was raised.
    """
    path, use, change = KINDS[kind](folder)
    content = path.read_bytes()
    use()

    def case(seed: int, number: int) -> str:
        path.write_bytes(change(content, random.Random(f"{seed} {kind} {number}")))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                use()
            except regraft.RegraftError as error:
                return f"-{type(error).__name__}"
            except BaseException as error:  # a panic of a native library is no Exception
                return f"foreign: {type(error).__name__}: {str(error)[:300]}"
        return "right"

    return case
