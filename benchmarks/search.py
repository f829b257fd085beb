"""What a search of 100 head trials costs against one head trial that computes the frozen part every epoch.

    python benchmarks/search.py [TRIALS]

Prints a table and writes `benchmarks/search.json`. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from run import EPOCHS, digits, digits_network

import regraft

SPACE = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "weight_decay": {"low": 1e-5, "high": 1e-1, "log": True},
    "optimizer": ["adamw", "sgd"],
    "batch_size": [32, 64],
    "label_smoothing": {"low": 0.0, "high": 0.2},
}
HERE = Path(__file__).parent


def spent(work: Callable[[], Any]) -> tuple[float, float]:
    """Return how many seconds one call takes, by the clock and of all cores; the latter bear with a busy machine better."""
    clock, cores = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - cores


def main(trials: int) -> None:
    """Time both, and print the ratio."""
    net, data = digits_network(), digits()
    fixed = {"strategy": "head", "epochs": EPOCHS, "patience": None}
    few = [spent(partial(regraft.adapt, net, data, cache=None, learning_rate=0.01, **{**fixed, "epochs": epochs})) for epochs in (1, 3)]
    uncached = [few[0][clock] + (EPOCHS - 1) * (few[1][clock] - few[0][clock]) / 2 for clock in (0, 1)]
    with tempfile.TemporaryDirectory() as folder:
        found = []
        searched = spent(lambda: found.append(regraft.search(net, data, space=SPACE, trials=trials, pruner=None, cache=folder, **fixed)))
    study = found[0]
    figures = {
        "trials": trials,
        "search_seconds": round(searched[0], 1),
        "one_uncached_trial_seconds": round(uncached[0], 1),
        "ratio": round(searched[0] / uncached[0], 3),
        "search_cpu_seconds": round(searched[1], 1),
        "one_uncached_trial_cpu_seconds": round(uncached[1], 1),
        "cpu_ratio": round(searched[1] / uncached[1], 3),
        "median_trial_seconds": round(statistics.median(trial.seconds for trial in study.trials), 2),
        "frozen_forward_examples": study.cost["frozen_forward_examples"],
        "accuracy": study.scores["holdout"]["accuracy"],
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }
    print("\n".join(f"{name:<28} {value}" for name, value in figures.items()))
    (HERE / "search.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
