"""The head that `strategy="head"` makes beside the three lines everybody writes, on the same features.

    python benchmarks/heads.py [--data FOLDER] [--draws 5] [--json FILE]

The three lines are `make_pipeline(StandardScaler(), LogisticRegressionCV())` on what the network's head reads. Pairs are those of
`pairs.py`, and four sets of scikit-learn and Debian as they are, whose "network" is a single linear layer. Both learn from the same
examples: those that `adapt` does not keep aside to judge; another test set judges both.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pairs import Items, Pair, fashion, few, pairs
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import regraft
from regraft.planning import Plan
from regraft.planning.setup import parts_of


def plain_sets(folder: Path | None) -> Iterator[tuple[str, Items, int]]:
    """Yield sets as they are, and how many examples of each class are learned from."""
    for name, load, each in (("digits", load_digits, 30), ("wine", load_wine, 20), ("breast cancer", load_breast_cancer, 60)):
        x, y = load(return_X_y=True)
        yield f"{name}, {each} each", (x.astype(np.float32), np.array([f"class {label}" for label in y])), each
    if folder is not None and (folder / "usr/share/datasets/fashion-mnist").is_dir():
        x, y = fashion(folder)
        yield "garments, 100 each", (x[:6000].reshape(6000, -1), y[:6000]), 100


def linear(items: Items) -> Any:
    """Return a "network" whose head reads the examples as they are."""
    torch.manual_seed(0)
    width = items[0].shape[1]
    return regraft.load(nn.Sequential(nn.Identity(), nn.Linear(width, 2)), inputs=(width,), classes=["none", "other"])


def compared(network: Any, learn: Items, *, test: Items, seed: int) -> dict[str, float]:
    """Return accuracy, log loss and seconds of both."""
    start = time.perf_counter()
    result = regraft.adapt(network, learn, strategy="head", test=test, holdout=0.2, seed=seed, cache="memory", baselines=False)
    seconds = {"head": time.perf_counter() - start}
    held = parts_of(regraft.read(learn), Plan("head", seed=seed), judged_apart=True).holdout
    rows = np.setdiff1d(np.arange(len(learn[1])), held)
    features, judged = network.features(learn[0]), network.features(test[0])
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folds = min(5, int(np.unique(learn[1][rows], return_counts=True)[1].min()))
        model = make_pipeline(StandardScaler(), LogisticRegressionCV(cv=folds, max_iter=1000)).fit(features[rows], learn[1][rows])
    seconds["three lines"] = time.perf_counter() - start
    scores = result.scores["test"]
    made = {"head": scores["accuracy"], "three lines": float(model.score(judged, test[1]))}
    loss = {"head": scores["log_loss"], "three lines": float(log_loss(test[1], model.predict_proba(judged), labels=model.classes_))}
    return {f"{who} {what}": values[who] for what, values in (("right", made), ("log loss", loss), ("s", seconds)) for who in made}


def measured(make: Callable[[int], tuple[Any, Items, Items]], *, draws: int) -> dict[str, float]:
    """Return means over draws, and half the width of the 95 % interval of the difference in accuracy."""
    every = []
    for seed in range(draws):
        network, learn, test = make(seed)
        every.append(compared(network, learn, test=test, seed=seed))
    means = {name: round(float(np.mean([one[name] for one in every])), 4) for name in every[0]}
    gains = np.array([one["head right"] - one["three lines right"] for one in every])
    half = 1.96 * gains.std(ddof=1) / np.sqrt(draws) if draws > 1 else 0.0
    return {**means, "gain": round(float(gains.mean()), 4), "half interval": round(float(half), 4)}


def drawn(pair: Pair, seed: int) -> tuple[Any, Items, Items]:
    """Return the pair's network, and as many examples of each class as it has, drawn anew of all of its examples."""
    each = int(np.unique(pair.learn[1], return_counts=True)[1].min())
    x = [*pair.learn[0], *pair.test[0]] if isinstance(pair.learn[0], list) else np.concatenate([pair.learn[0], pair.test[0]])
    return pair.network, *few((x, np.concatenate([pair.learn[1], pair.test[1]])), each, seed=seed)


def main() -> None:
    """Run, print and, where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with Debian's packages unpacked")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results: dict[str, dict[str, float]] = {}

    def measure(name: str, make: Callable[[int], tuple[Any, Items, Items]]) -> None:
        row = results[name] = measured(make, draws=given.draws)
        right, loss = (f"{row[f'head {what}']:.3f} / {row[f'three lines {what}']:.3f}" for what in ("right", "log loss"))
        seconds = f"{row['head s']:.1f} / {row['three lines s']:.1f}"
        print(f"{name:52} {right}  {row['gain']:+.3f} ± {row['half interval']:.3f}  log loss {loss}  s {seconds}", flush=True)

    for name, items, each in plain_sets(given.data):
        measure(name, lambda seed, items=items, each=each: (linear(items), *few(items, each, seed=seed)))
    for name, make in pairs(given.data):
        pair = make()
        measure(name, lambda seed, pair=pair: drawn(pair, seed))
    print(f"mean gain {np.mean([row['gain'] for row in results.values()]):+.4f}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
