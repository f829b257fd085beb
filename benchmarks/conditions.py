"""What a code for a new condition is worth, beside every other way to adapt, with 1 to 20 examples.

    python benchmarks/conditions.py [--only WORLD] [--way PART_OF_A_NAME] [--family keras] [--out benchmarks/conditions.json]
    python benchmarks/conditions.py --batch

Two made worlds of 60 + 20 conditions: the voices of `examples/conditions.py`, and digits seen through distorting devices. A network
learns all items of the 60, without their conditions; then it learns codes. Each of the 20 others gives k examples, drawn twice, and is
judged by items of its own that choose nothing. Codes have the defaults of `regraft.adapt_condition`. The other ways train a copy of the
network a condition, by full-batch steps of AdamW; of three rates times three numbers of steps each gets those that are best *on the test
items, for every k*, which flatters them. Intervals are over the 20 conditions; the change against "no adaptation" is paired.
`--only` is of a world, `--way` of a way to adapt; the other rows of the file are kept.
`--batch` times 200 new conditions in one call against 200 calls.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: in so small a network threads only wait for each other
os.environ.setdefault("KERAS_BACKEND", "torch")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import conditions as voices_example
import numpy as np
import torch

COUNTS = (1, 2, 5, 10, 20)
DRAWS = 2
NEW = 20
TRAINING: dict[str, Any] = {"epochs": 40, "batch_size": 64, "learning_rate": 2e-3, "patience": None, "cache": "memory"}
RATES, STEPS = (3e-5, 3e-4, 3e-3), (10, 30, 100)
WAYS: dict[str, dict[str, Any]] = {"bias": {}, "scale_shift": {}, "lora": {}, "full": {}}


@dataclass(frozen=True)
class World:
    """Items (N, d) of 60 conditions to learn from, and of each of 20 new ones: the first 20 are examples, the others judge."""

    name: str
    x: np.ndarray
    y: np.ndarray
    conditions: np.ndarray
    new: list[list[tuple[np.ndarray, np.ndarray]]]  # by condition and draw: items and labels, the 20 examples first

    @property
    def classes(self) -> list[str]:
        """The class names."""
        return sorted(set(self.y.tolist()))


# ── worlds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def voices() -> World:
    """Return ten vowels of voices with their own vocal tract, pitch, timbre and room: `examples/conditions.py`."""
    words, draw = list(voices_example.FORMANTS), np.random.default_rng(0)
    asked = [draw.choice(words, 150) for _ in range(60)]
    x = np.concatenate([voices_example.frames(number, said) for number, said in enumerate(asked)])
    new = []
    for number in range(60, 60 + NEW):
        said = np.concatenate([draw.choice(words, 20 * DRAWS), words * 30])
        items = voices_example.frames(number, said, seed=1)
        new.append([_drawn(items, said, draw) for draw in range(DRAWS)])
    return World("voices", x, np.concatenate(asked), np.repeat([f"voice {number}" for number in range(60)], 150), new)


def digits() -> World:
    """Return digits (8 x 8) through devices with their own rotation, shear, stretch, gain, tilt of the gain, and tilted offset.

    The 60 conditions show 1,000 of the digits, the new ones the other 797.
    """
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    names, order = np.array([f"digit {label}" for label in labels]), np.random.default_rng(0).permutation(len(labels))
    made, new = [], []
    for number in range(60 + NEW):
        draw = np.random.default_rng([0, number])
        chosen = draw.permutation(order[:1000])[:150] if number < 60 else draw.permutation(order[1000:])[: 20 * DRAWS + 400]
        items = _through_device(pictures[chosen].reshape(-1, 8, 8) / 16, number)
        made.append((items, names[chosen]))
        if number >= 60:
            new.append([_drawn(items, names[chosen], draw) for draw in range(DRAWS)])
    x, y = (np.concatenate(part) for part in zip(*made[:60], strict=True))
    return World("digits", x, y, np.repeat([f"device {number}" for number in range(60)], 150), new)


def _through_device(pictures: np.ndarray, number: int) -> np.ndarray:
    from scipy.ndimage import affine_transform

    draw = np.random.default_rng([1, number])
    angle, shear, stretch, gain, offset = (
        0.44 * draw.normal(),
        0.25 * draw.normal(),
        np.exp(0.12 * draw.normal()),
        *draw.normal(size=(2, 3)),
    )
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ [[stretch, shear], [0, 1 / stretch]]
    moved = np.stack([affine_transform(picture, turn, 3.5 - turn @ [3.5, 3.5], order=1) for picture in pictures])
    down, across = np.meshgrid(*[np.linspace(-1, 1, 8)] * 2, indexing="ij")
    seen = moved * np.exp(0.6 * (gain[0] * across + gain[1] * down) + 0.3 * gain[2])
    seen += 0.35 * (offset[0] * across + offset[1] * down + 0.7 * offset[2]) + 0.1 * draw.normal(size=seen.shape)
    return seen.reshape(len(seen), -1).astype(np.float32)


def _drawn(items: np.ndarray, labels: np.ndarray, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one draw of 20 examples, and the items that judge after them."""
    rows = np.r_[20 * draw : 20 * (draw + 1), 20 * DRAWS : len(items)]
    return items[rows], labels[rows]


# ── ways to adapt ──────────────────────────────────────────────────────────────────────────────────────────────────────


def untrained(world: World, family: str) -> Any:
    """Return two hidden layers of 128 and a head."""
    import regraft

    features = world.x.shape[1]
    if family == "keras":
        import keras
        from keras import layers

        hidden = [layers.Dense(128, activation="relu"), layers.Dense(128, activation="relu")]
        module: Any = keras.Sequential([keras.Input((features,)), *hidden, layers.Dense(10, activation="softmax")])
    else:
        from torch import nn

        module = nn.Sequential(nn.Linear(features, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return regraft.load(module, classes=world.classes, inputs=(features,))


def wrong(net: Any, draws: list[tuple[np.ndarray, np.ndarray]], names: list[str] | None = None) -> float:
    """Return the share of a condition's judging items that a network gets wrong, mean over the draws."""
    shares = []
    for draw, (items, labels) in enumerate(draws):
        found = net.predict(items[20:], condition=names[draw] if names else None)
        shares.append(float(np.mean(np.array(found.labels) != labels[20:])))
    return float(np.mean(shares))


def with_codes(coded: Any, world: World, count: int) -> list[float]:
    """Return the share wrong of each new condition after its code was learned from `count` examples, all of them in one call."""
    import regraft

    names = [[f"new {number} draw {draw}" for draw in range(DRAWS)] for number in range(len(world.new))]
    parts = [(items[:count], labels[:count]) for draws in world.new for items, labels in draws]
    items, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    data = regraft.read((items, labels), condition=np.repeat(np.ravel(names), count))
    known = regraft.adapt_condition(coded, data)
    return [wrong(known, draws, own) for draws, own in zip(world.new, names, strict=True)]


def trained_on(net: Any, way: str, *, examples: tuple[np.ndarray, np.ndarray], rate: float) -> Iterator[Any]:
    """Yield a network after 10, 30 and 100 full-batch steps on a few examples, in the form that a method gives it."""
    from regraft.methods import METHODS

    options = METHODS[way].filled(WAYS[way]) if way in METHODS else {}
    begun = METHODS[way].begin(net, options=options, conditions=(), seed=0) if way in METHODS else None
    form = begun.network if begun else net.copy()
    form.freeze_(begun.frozen if begun else ())
    form.mode_(False)
    x, y = torch.from_numpy(examples[0]), torch.from_numpy(np.searchsorted(sorted(net.classes), examples[1]))
    trained = [one for names in form.layer_parameters().values() for one in names.values() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, rate)
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(form.scores(x)[net.head.task], y).backward()
        optimizer.step()
        if step in STEPS:
            yield form


def by_training(net: Any, world: World, way: str, *, count: int) -> list[float]:
    """Return the share wrong of each new condition, with the rate and number of steps that are best on the mean over all of them."""
    found = np.zeros((len(RATES), len(STEPS), len(world.new)))
    for at, rate in enumerate(RATES):
        for number, draws in enumerate(world.new):
            for items, labels in draws:
                judged, aims = torch.from_numpy(items[20:]), np.searchsorted(sorted(net.classes), labels[20:])
                for step, form in enumerate(trained_on(net, way, examples=(items[:count], labels[:count]), rate=rate)):
                    with torch.no_grad():
                        found[at, step, number] += np.mean(form.scores(judged)[net.head.task].argmax(1).numpy() != aims) / DRAWS
    best = np.unravel_index(found.mean(2).argmin(), found.shape[:2])
    return found[best].tolist()


# ── the table ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def compare(world: World, family: str, way: str) -> dict[str, Any]:
    """Return the share wrong of each new condition, by way and number of examples; of those ways that have `way` in their names."""
    import regraft

    options, started = {**TRAINING, "statistics": False}, time.perf_counter()
    source = regraft.adapt(untrained(world, family), (world.x, world.y), strategy="scratch", **options).network
    data, found = regraft.read((world.x, world.y), condition=world.conditions), {}
    found["no adaptation"] = always(wrong(source, draws) for draws in world.new)
    if way in "no adaptation, trained on":
        longer = regraft.adapt(source, (world.x, world.y), strategy="full", layer_decay=1.0, **options).network
        found["no adaptation, trained on"] = always(wrong(longer, draws) for draws in world.new)
    for training in (name for name in ("joint", "direct", "entrance") if way in f"codes, {name}"):
        coded = regraft.adapt(source, data, strategy="codes", training=training, **options).network
        found[f"mean code, {training}"] = always(wrong(coded, draws) for draws in world.new)
        found[f"codes, {training}"] = {count: with_codes(coded, world, count) for count in COUNTS}
        print(f"{world.name}: {training} codes done after {time.perf_counter() - started:.0f} s", flush=True)
    for name in (name for name in WAYS if way in name):
        found[name] = {count: by_training(source, world, name, count=count) for count in COUNTS}
        print(f"{world.name}: {name} done after {time.perf_counter() - started:.0f} s", flush=True)
    return found


def always(shares: Iterable[float]) -> dict[int, list[float]]:
    """Return the same shares for every number of examples."""
    kept = list(shares)
    return {count: kept for count in COUNTS}


def interval(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of a mean."""
    return float(1.96 * np.std(values, ddof=1) / len(values) ** 0.5)


def row(shares: list[float], plain: list[float]) -> dict[str, float]:
    """Return the mean share wrong, the relative change against no adaptation, their intervals, and how many conditions got worse."""
    change = (np.array(shares) - plain) / np.mean(plain)
    return {
        "wrong": float(np.mean(shares)), "interval": interval(np.array(shares)), "change": float(change.mean()),
        "change_interval": interval(change), "worse": int((change > 0).sum()),
    }  # fmt: skip


def table(rows: dict[str, dict[int, dict[str, float]]]) -> str:
    """Return Markdown."""
    lines = ["| way | " + " | ".join(f"k = {count}" for count in COUNTS) + " |", "|" + " --- |" * (1 + len(COUNTS))]
    for way, by_count in rows.items():
        shown = [
            f"{one['wrong']:.1%} ± {100 * one['interval']:.1f} ({one['change']:+.0%} ± {100 * one['change_interval']:.0f})"
            for one in by_count.values()
        ]
        lines.append(f"| {way} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def batched(count: int = 200) -> dict[str, float]:
    """Return the seconds for so many new conditions, ten examples each, in one call and in as many calls."""
    import regraft

    world = voices()
    source = regraft.adapt(untrained(world, "torch"), (world.x, world.y), strategy="scratch", **{**TRAINING, "epochs": 5}).network
    data = regraft.read((world.x, world.y), condition=world.conditions)
    coded = regraft.adapt(source, data, strategy="codes", **{**TRAINING, "epochs": 5}).network
    words = np.array(list(voices_example.FORMANTS))
    parts = [(voices_example.frames(1000 + number, words), words) for number in range(count)]
    names = [f"new {number}" for number in range(count)]
    items, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    regraft.adapt_condition(coded, parts[0], "warm")
    started = time.perf_counter()
    together = regraft.adapt_condition(coded, regraft.read((items, labels), condition=np.repeat(names, len(words))))
    one_call, started = time.perf_counter() - started, time.perf_counter()
    alone = [regraft.adapt_condition(coded, part, name) for part, name in zip(parts, names, strict=True)]
    one_by_one = time.perf_counter() - started
    apart = max(float(np.abs(net.codes[name] - together.codes[name]).max()) for net, name in zip(alone, names, strict=True))
    return {"conditions": count, "one_call": one_call, "one_by_one": one_by_one, "ratio": one_call / one_by_one, "codes_apart": apart}


def main() -> None:
    """Run the worlds, print the tables, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--way", default="")
    parser.add_argument("--family", choices=("torch", "keras"), default="torch")
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("conditions.json"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    written = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    if asked.batch:
        written["batch"] = batched()
        print(written["batch"])
    makers: tuple[Callable[[], World], ...] = () if asked.batch else (voices, digits)
    for make in makers:
        if asked.only in make.__name__:
            world = make()
            shares = compare(world, asked.family, asked.way)
            rows = {
                way: {count: row(by_count[count], shares["no adaptation"][count]) for count in COUNTS} for way, by_count in shares.items()
            }
            print(f"\n{world.name}\n\n{table(rows)}\n", flush=True)
            written.setdefault(f"{world.name}, {asked.family}", {}).update(rows)
    asked.out.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
