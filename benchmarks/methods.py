"""Small ways to change a network, on handwritten digits: what they bring where the writing is new, and where the classes are.

    python benchmarks/methods.py [--draws 20] [--worlds condition classes labels]        (writes benchmarks/methods.json)

World "condition": the same ten classes, each picture seen through one unknown fixed distortion (gains by row, a shift of all pixels, a
blur); 10 items of each class to learn from. World "classes": a network of digits 0 to 4 learns 5 to 9 from 10 items of each.
World "labels": the same classes and no distortion, 10 items of each class to learn from, of which three in ten have another label.
Judged on the rest of the distorted pictures, or of the digits 5 to 9; in the first world also on the same pictures without the
distortion ("before"), which says what was forgotten. Means over draws, and of the difference to "full" in the same draw, each with
the half width of its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits

import regraft
from regraft.networks.network import Network

Ways = dict[str, dict[str, Any]]
Draw = dict[str, float]
SETTINGS = {"cache": "memory", "statistics": False, "holdout": 0.05, "epochs": 20, "validation": 0}
"""Nothing is kept aside to choose the epoch: of a hundred items, fifteen would say little, and every way would often keep its start."""
CONDITION: Ways = {
    "head": {"strategy": "head"},
    "full": {"strategy": "full"},
    "bias": {"strategy": "bias"},
    "scale_shift, lhuc": {"strategy": "scale_shift", "form": "lhuc"},
    "scale_shift, film": {"strategy": "scale_shift", "form": "film"},
    "scale_shift, norm": {"strategy": "scale_shift", "form": "norm"},
    "lora": {"strategy": "lora"},
    "lin": {"strategy": "lin"},
    "surgical, first": {"strategy": "surgical", "block": "first"},
    "surgical, auto": {"strategy": "surgical", "block": "auto"},
    "full, stay_near 1": {"strategy": "full", "stay_near": 1.0},
    "full, stay_near 10": {"strategy": "full", "stay_near": 10.0},
    "full, stay_near 100": {"strategy": "full", "stay_near": 100.0},
    "full, distill 0.2": {"strategy": "full", "distill": 0.2},
    "full, distill 0.5": {"strategy": "full", "distill": 0.5},
}
CLASSES: Ways = {
    "head": {"strategy": "head"},
    "full": {"strategy": "full"},
    "full, co_tuning 0.5": {"strategy": "full", "co_tuning": 0.5},
    "full, co_tuning 2.3": {"strategy": "full", "co_tuning": 2.3},
    "full, distill 0.5": {"strategy": "full", "distill": 0.5},
    "bias": {"strategy": "bias"},
    "lora": {"strategy": "lora"},
}


LABELS: Ways = {
    "head": {"strategy": "head"},
    "full": {"strategy": "full"},
    "bias": {"strategy": "bias"},
    "full, stay_near 10": {"strategy": "full", "stay_near": 10.0},
    "full, distill 0.2": {"strategy": "full", "distill": 0.2},
    "full, distill 0.5": {"strategy": "full", "distill": 0.5},
    "full, distill 0.8": {"strategy": "full", "distill": 0.8},
}


def distorted(pictures: np.ndarray, seed: int) -> np.ndarray:
    """Return pictures (N, 64) seen through a distortion that the seed draws."""
    draw = np.random.default_rng(seed)
    grid = pictures.reshape(-1, 8, 8) * draw.uniform(0.3, 1.7, (1, 8, 1)) + draw.normal(0, 0.3)
    blurred = (grid + np.roll(grid, 1, 2) + np.roll(grid, -1, 2)) / 3
    return (0.5 * grid + 0.5 * blurred).reshape(-1, 64).astype(np.float32)


def trained(pictures: np.ndarray, labels: np.ndarray) -> Network:
    """Return a network of two hidden layers with BatchNorm, trained from scratch."""
    torch.manual_seed(0)
    hidden = [part for width in (64, 96) for part in (torch.nn.Linear(width, 96), torch.nn.BatchNorm1d(96), torch.nn.ReLU())]
    net = regraft.load(torch.nn.Sequential(*hidden, torch.nn.Linear(96, len(set(labels)))), inputs=(64,))
    return regraft.adapt(net, (pictures, labels), strategy="full", **SETTINGS).network


def drawn(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Return the indices of so many items of each class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == name][:count] for name in sorted(set(labels))]))


def accuracy(net: Network, pictures: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of pictures whose label is found, in per cent."""
    return 100 * float(np.mean(np.array(net.predict(pictures).labels) == labels))


def measured(  # what is learned from, and what judges
    net: Network,
    pictures: np.ndarray,
    labels: np.ndarray,
    *,
    ways: Ways,
    seed: int,
    before: np.ndarray | None = None,
    given: np.ndarray | None = None,
) -> Draw:
    """Return the accuracy of each way on the items that it has not seen, and on the same items before they were distorted.

    The labels that are learned are those `given`, where they are others.
    """
    chosen, taught = drawn(labels, 10, seed=seed), labels if given is None else given
    others = np.setdiff1d(np.arange(len(labels)), chosen)
    found = {}
    for name, options in ways.items():
        adapted = regraft.adapt(net, (pictures[chosen], taught[chosen]), seed=seed, **SETTINGS, **options).network
        found[name] = accuracy(adapted, pictures[others], labels[others])
        if before is not None:
            found[f"{name}, before"] = accuracy(adapted, before[others], labels[others])
    return found


def with_interval(values: np.ndarray) -> list[float]:
    """Return the mean of values and half the width of its 95 % interval."""
    return [round(float(values.mean()), 2), round(float(1.96 * values.std(ddof=1) / len(values) ** 0.5), 2)]


def summary(draws: list[Draw]) -> dict[str, dict[str, list[float]]]:
    """Return for each way its accuracy, its difference to "full", and its accuracy before the distortion where that was measured."""
    table = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    found = {}
    for name in (name for name in table if not name.endswith(", before")):
        found[name] = {"accuracy": with_interval(table[name]), "to full": with_interval(table[name] - table["full"])}
        found[name] |= {"before": with_interval(table[f"{name}, before"])} if f"{name}, before" in table else {}
    return found


def mislabelled(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return labels of which three in ten are others, drawn by the seed."""
    draw = np.random.default_rng(1000 + seed)
    wrong = draw.random(len(labels)) < 0.3
    return np.where(wrong, draw.choice(sorted(set(labels)), len(labels)), labels)


def worlds(draws: int) -> dict[str, Callable[[], list[Draw]]]:
    """Return how each world is measured, by name."""
    pictures, digits = load_digits(return_X_y=True)
    pictures, labels = (pictures / 16).astype(np.float32), np.array([f"digit {digit}" for digit in digits])
    half, low = np.arange(len(labels)) % 2 == 0, digits < 5
    rest, seeds = (pictures[~half], labels[~half]), range(draws)

    def condition() -> list[Draw]:
        source, found = trained(pictures[half], labels[half]), []
        for seed in seeds:
            seen = distorted(rest[0], seed)
            plain = {"no adaptation": accuracy(source, seen, rest[1]), "no adaptation, before": accuracy(source, *rest)}
            found.append(plain | measured(source, seen, rest[1], ways=CONDITION, seed=seed, before=rest[0]))
        return found

    def classes() -> list[Draw]:
        source = trained(pictures[low], labels[low])
        return [measured(source, pictures[~low], labels[~low], ways=CLASSES, seed=seed) for seed in seeds]

    def doubtful() -> list[Draw]:
        source, found = trained(pictures[half], labels[half]), []
        for seed in seeds:
            given = mislabelled(rest[1], seed)
            found.append({"no adaptation": accuracy(source, *rest)} | measured(source, *rest, ways=LABELS, seed=seed, given=given))
        return found

    return {"condition": condition, "classes": classes, "labels": doubtful}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--worlds", nargs="+", default=["condition", "classes", "labels"])
    asked, path = parser.parse_args(), Path(__file__).with_suffix(".json")
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in asked.worlds:
        results[name] = summary(worlds(asked.draws)[name]())
    results["draws"] = asked.draws
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
