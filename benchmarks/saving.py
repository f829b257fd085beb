"""How long a result of many classes takes to save, and how large it is: both should grow with what is there, not with its square.

    python benchmarks/saving.py [CLASSES …]          (default: 1000 2000 5000)

Three examples a class, one epoch of a head on 64 features. Prints a table; the ONNX form of the network is a part of the time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import regraft

FEATURES = 64
EACH = 3
QUICK = {"epochs": 1, "learning_rate": 0.01, "start": "mean", "cache": "memory"}


def measured(classes: int, folder: Path) -> tuple[float, float, float]:
    """Return the seconds of the adaptation, the seconds of saving, and the MiB of the folder without the weights."""
    torch.manual_seed(0)
    net = regraft.load(
        torch.nn.Sequential(torch.nn.Linear(FEATURES, FEATURES), torch.nn.ReLU(), torch.nn.Linear(FEATURES, 2)), inputs=(FEATURES,)
    )
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), EACH)
    items = (draw.normal(size=(classes, FEATURES))[labels] + 0.3 * draw.normal(size=(len(labels), FEATURES))).astype(np.float32)
    begun = time.perf_counter()
    result = regraft.adapt(net, (items, np.array([f"class {label}" for label in labels])), strategy="head", **QUICK)
    adapted = time.perf_counter()
    result.save(folder)
    saved = time.perf_counter()
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".json", ".jsonl", ".html")) / 2**20
    return adapted - begun, saved - adapted, size


def main() -> None:
    """Run the command line."""
    print("| classes | adapting, s | saving, s | JSON and report, MiB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        measured(10, Path(folder) / "warm")
        for classes in map(int, sys.argv[1:] or (1000, 2000, 5000)):
            adapting, saving, size = measured(classes, Path(folder) / str(classes))
            print(f"| {classes} | {adapting:.1f} | {saving:.1f} | {size:.2f} |", flush=True)


if __name__ == "__main__":
    main()
