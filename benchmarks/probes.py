"""The ridge path of large features against one decomposition by numpy, in turns, medians of three (the SVD once).

    python benchmarks/probes.py [--items 50000] [--width 1280] [--classes 100] [--json FILE]

Prints a table: the whole path of penalties with leave-one-out scores, one thin SVD of the features, and one eigendecomposition of their
Gram matrix (forming it included), all from the same float32 array; and the peak memory of a process that only fits the path, the
features included. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from regraft.probes import fit_ridge

REPEATS = 3


def example(items: int, width: int, *, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 features whose spectrum falls as that of real networks does, and their classes."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, classes, items)
    features = draw.standard_normal((items, width), dtype=np.float32)
    features += 0.15 * draw.standard_normal((classes, width), dtype=np.float32)[labels]
    features *= (np.arange(1, width + 1) ** -0.4).astype(np.float32)
    return features, labels


def seconds(work: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timings(items: int, width: int, *, classes: int) -> dict[str, float]:
    """Return medians of the three, measured in turns, and their ratios."""
    features, labels = example(items, width, classes=classes)
    works: dict[str, Callable[[], Any]] = {
        "ridge path with leave-one-out": lambda: fit_ridge(features, labels, classes=classes),
        "Gram matrix and its eigendecomposition, float32": lambda: np.linalg.eigh(features.T @ features),
        "Gram matrix and its eigendecomposition, float64": lambda: _gram_double(features),
    }
    works["Gram matrix and its eigendecomposition, float32"]()
    turns = [{name: seconds(work) for name, work in works.items()} for _ in range(REPEATS)]
    path = "ridge path with leave-one-out"
    results = {f"{name}, s": statistics.median(turn[name] for turn in turns) for name in works}
    for name in list(works)[1:]:
        results[f"path / {name} (goal <= 1.2)"] = statistics.median(turn[path] / turn[name] for turn in turns)
    results["thin SVD, float32, s"] = seconds(lambda: np.linalg.svd(features, full_matrices=False))
    results["path / thin SVD, float32 (goal <= 1.2)"] = results[f"{path}, s"] / results["thin SVD, float32, s"]
    return results


def _gram_double(features: np.ndarray) -> None:
    double = features.astype(np.float64)
    np.linalg.eigh(double.T @ double)


def peak(items: int, width: int, *, classes: int) -> float:
    """Return the peak memory, in GB, of a process that makes the features and fits the path."""
    command = [sys.executable, __file__, "--items", str(items), "--width", str(width), "--classes", str(classes), "--only-fit"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Run, print and, where asked, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (("--items", 50_000), ("--width", 1280), ("--classes", 100)):
        parser.add_argument(name, type=int, default=value)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only-fit", action="store_true", help="fit once and print the peak memory in GB")
    given = parser.parse_args()
    if given.only_fit:
        features, labels = example(given.items, given.width, classes=given.classes)
        fit_ridge(features, labels, classes=given.classes)
        with open("/proc/self/status") as file:  # the figure of getrusage begins at that of the process that started this one
            print(next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e9)
        return
    results = timings(given.items, given.width, classes=given.classes)
    results["peak memory of the path, GB (goal <= 1.5)"] = peak(given.items, given.width, classes=given.classes)
    for name, value in results.items():
        print(f"{name:60} {value:8.3f}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
