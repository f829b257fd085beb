"""The head of a regression: what `strategy="head"` makes of few examples where the network has learned numbers before.

    python benchmarks/regressions.py [--draws 9] [--json FILE]

A network of two hidden layers learns one half of a set. The other half gives few examples to learn from and the rest to judge. Its
numbers are the same, scaled and moved, those of inputs that drifted, or others. The head by `strategy="head"` stands beside the same solved
from zero (as for outputs with new names), `make_pipeline(StandardScaler(), RidgeCV())` on the head's inputs, and the network as it is.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits, make_friedman1, make_friedman2, make_friedman3
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import regraft

Numbers = tuple[np.ndarray, np.ndarray]
SIZES = (5, 10, 30, 100)
FIRST = 100  # draws below chose the rule
WAYS = ("head", "from zero", "three lines", "as it is")


def sets() -> Iterator[tuple[str, Numbers]]:
    """Yield inputs and numbers of mean 0 and variance 1."""
    made = {"friedman 1": make_friedman1(2000, noise=1.0, random_state=0), "friedman 2": make_friedman2(2000, noise=40.0, random_state=0)}
    made |= {"friedman 3": make_friedman3(2000, noise=0.03, random_state=0), "diabetes": load_diabetes(return_X_y=True)}
    for name, (x, y) in {**made, "digits as numbers": load_digits(return_X_y=True)}.items():
        x, y = (x - x.mean(0)) / (x.std(0) + 1e-9), (y - y.mean()) / y.std()
        yield name, (x.astype(np.float32), y.astype(np.float32))


def shifted(items: Numbers, draw: np.random.Generator) -> Iterator[tuple[str, Numbers]]:
    """Yield the data that a network meets: as those that it learned, or changed."""
    x, y = items
    way = draw.normal(size=x.shape[1]) / np.sqrt(x.shape[1])
    yield "the same", (x, y)
    yield "scaled and moved", (x, 0.6 * y + 0.5)
    yield "drifted inputs", (x + 0.4 * draw.normal(size=x.shape[1]), y + 0.3 * np.tanh(x @ way))
    yield "other numbers", (x, np.sin(2 * x @ way) + 0.3 * x[:, 0])


def trained(items: Numbers, *, seed: int) -> regraft.Network:
    """Return a network that learned the items."""
    torch.manual_seed(seed)
    x, y = torch.from_numpy(items[0]), torch.from_numpy(items[1])[:, None]
    module = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, weight_decay=1e-2)
    for _ in range(60):
        for rows in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            nn.functional.mse_loss(module(x[rows]), y[rows]).backward()
            optimizer.step()
    return regraft.load(module, inputs=(x.shape[1],))


def errors(network: regraft.Network, learn: Numbers, *, test: Numbers, seed: int) -> dict[str, float]:
    """Return the squared error of each way on `test`, relative to the variance of its numbers."""
    fresh = regraft.retarget(network, ["new"], start="zeros")
    made = {
        name: regraft.adapt(one, learn, strategy="head", task="regression", seed=seed, cache="memory").network.logits(test[0])
        for name, one in (("head", network), ("from zero", fresh))
    }
    model = make_pipeline(StandardScaler(), RidgeCV(np.geomspace(1e-3, 1e3, 13))).fit(network.features(learn[0]), learn[1])
    made |= {"three lines": model.predict(network.features(test[0])), "as it is": network.logits(test[0])}
    return {name: float(np.square(made[name].ravel() - test[1]).mean() / test[1].var()) for name in WAYS}


def main() -> None:
    """Run, print and, where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[list[float]]] = defaultdict(list)
    for _, items in sets():
        for seed in range(FIRST, FIRST + given.draws):
            draw = np.random.default_rng(seed)
            order = draw.permutation(len(items[0]))
            first, second = (tuple(part[rows] for part in items) for rows in np.array_split(order, 2))
            network = trained((first[0], first[1]), seed=seed)
            for name, (x, y) in shifted((second[0], second[1]), draw):
                x, y = x.astype(np.float32), y.astype(np.float32)
                for size in (size for size in SIZES if size + 60 <= len(x)):
                    one = errors(network, (x[:size], y[:size]), test=(x[size:][:600], y[size:][:600]), seed=seed)
                    found[f"{name}, {size}"].append([one[way] for way in WAYS])
    results = {}
    for name, rows in found.items():
        logs = np.log(np.array(rows))
        gain = logs[:, 0] - logs[:, 1]
        half = 1.96 * gain.std(ddof=1) / np.sqrt(len(gain))
        results[name] = {way: round(float(np.exp(logs[:, at].mean())), 3) for at, way in enumerate(WAYS)} | {
            "runs": len(rows),
            "head / from zero": [round(float(np.exp(gain.mean() + side)), 2) for side in (0.0, -half, half)],
        }
        print(f"{name:24}", results[name], flush=True)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
