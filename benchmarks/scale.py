"""Tasks of a cluster: efficiency by the number of workers, and what a task costs beside its work.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [WORKERS ... | --killed [features search training]]

The work sleeps, so that a machine of few cores stands for many: what is measured is the waiting for tasks and the sending of their results,
each as large as 256 rows of 1,280 numbers. Workers are started by two rounds that are not counted.

With --killed, whole runs on a cluster of two nodes on this machine, in each of which a worker is killed in the middle, beside the same run
without a cluster: features of 20,000 examples, a search of 40 trials, a training of the whole network.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import regraft
from regraft.scale import on_cluster, packed

SECONDS, CHUNKS, SHORT = 3.0, 8, 50


def sleeping(seconds: float, _piece: int) -> np.ndarray:
    time.sleep(seconds)
    return np.zeros((256, 1280), np.float32)


def seconds_of(pieces: int, *, each: float) -> float:
    content, start = packed(each, lambda _part: NotImplemented), time.perf_counter()
    for _ in on_cluster(sleeping, content, pieces=range(pieces), cluster="auto", threads=1):
        pass
    return time.perf_counter() - start


class Fragile(torch.nn.Sequential):
    """A small network of convolutions; once the workers have called it so often, one of them is killed, once."""

    def __init__(self, mark: Path, calls: int, *, training: bool) -> None:
        layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
        super().__init__(*layers, torch.nn.Flatten(), torch.nn.Linear(8, 3))
        self.mark, self.calls, self.kills_in, self.home = mark, calls, training, os.getpid()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.home and self.training == self.kills_in and not self.mark.exists():
            with self.mark.with_name("calls").open("ab") as file:  # also those of other workers, and of copies of this network
                file.write(b".")
                calls = file.tell()
            if calls >= self.calls:
                self.mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


def examples(count: int) -> tuple[np.ndarray, np.ndarray]:
    made, labels = np.random.default_rng(0).normal(size=(count, 1, 8, 8)).astype(np.float32), np.arange(count) % 3
    for label in range(3):
        made[labels == label, :, label * 2 : label * 2 + 3] += 0.7
    return made, np.array(["a", "b", "c"])[labels]


def features(net: Any, cluster: str | None) -> Any:
    result = regraft.adapt(net, examples(20_000), strategy="probe", cache="memory", engine="eager", cluster=cluster)
    return [tensor.numpy().tobytes() for tensor in result.network.state().values()], result.scores


def search(net: Any, cluster: str | None) -> Any:
    space = {"strategy": ["head", "full"], "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    how: dict[str, Any] = {"trials": 40, "sampler": "random", "pruner": None, "epochs": 1, "cache": "memory", "engine": "eager"}
    study = regraft.search(net, examples(400), space=space, cluster=cluster, **how)
    return [(trial.number, trial.values, trial.folds, trial.losses) for trial in study.trials], study.scores


def training(net: Any, cluster: str | None) -> Any:
    how: dict[str, Any] = {"strategy": "full", "epochs": 8, "learning_rate": 1e-3, "cache": "memory", "engine": "eager"}
    result = regraft.adapt(net, examples(2_000), cluster=cluster, **how)
    return [[value for value in (entry["train_loss"], entry.get("loss")) if value] for entry in result.history], result.scores


def log_loss(scores: Any) -> float:
    return float(scores["holdout"]["log_loss"])


KILLED: dict[str, tuple[Callable[[Any, str | None], Any], int, bool]] = {
    "features": (features, 120, False),
    "search": (search, 70, True),
    "training": (training, 250, True),
}


def killed(chosen: list[str]) -> None:
    import ray
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2 * 10**8})
    cluster.add_node(num_cpus=1, object_store_memory=2 * 10**8)
    os.environ["RAY_ADDRESS"] = cluster.address
    for name in chosen or list(KILLED):
        run, calls, trains = KILLED[name]
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            mark = Path(folder) / "killed"
            net = regraft.load(Fragile(mark, calls, training=trains), inputs=(1, 8, 8))
            found, seconds = [], []
            for where in (None, "auto"):
                start = time.perf_counter()
                found.append(run(net, where))
                seconds.append(round(time.perf_counter() - start, 1))
            said: dict[str, Any] = {"run": name, "killed": mark.exists(), "seconds here, on two nodes": seconds}
            here, there = found
            said |= {"equal": here[0] == there[0], "log loss differs by": abs(log_loss(here[1]) - log_loss(there[1]))}
            if name == "training":
                said["losses differ by"] = max(abs(one[0] - two[0]) for one, two in zip(here[0], there[0], strict=True))
            print(json.dumps(said), flush=True)
    ray.shutdown()
    cluster.shutdown()


def main() -> None:
    if "--killed" in sys.argv:
        killed(sys.argv[2:])
        return
    import ray
    from ray.cluster_utils import Cluster

    for workers in map(int, sys.argv[1:] or (1, 2, 4, 8)):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "include_dashboard": False})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        for _ in range(2):
            seconds_of(2 * workers, each=2.0)
        chunks = max(CHUNKS, 2 * workers)
        whole, short = seconds_of(chunks, each=SECONDS), seconds_of(SHORT, each=0.0)
        print(f"{workers} workers: efficiency {SECONDS * chunks / workers / whole:.2f}, {1000 * short / SHORT:.1f} ms a task", flush=True)
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
