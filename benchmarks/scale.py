"""Tasks of a cluster: efficiency by the number of workers, and what a task costs beside its work.

    OMP_NUM_THREADS=1 python benchmarks/scale.py [WORKERS ...]

The work sleeps, so that a machine of few cores stands for many: what is measured is the waiting for tasks and the sending of their results,
each as large as 256 rows of 1,280 numbers. Workers are started by a round that is not counted.
"""

from __future__ import annotations

import sys
import time

import numpy as np

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


def main() -> None:
    import ray
    from ray.cluster_utils import Cluster

    for workers in map(int, sys.argv[1:] or (1, 2, 4, 8)):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "include_dashboard": False})
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        seconds_of(2 * workers, each=1.0)
        whole, short = seconds_of(CHUNKS, each=SECONDS), seconds_of(SHORT, each=0.0)
        print(f"{workers} workers: efficiency {SECONDS * CHUNKS / workers / whole:.2f}, {1000 * short / SHORT:.1f} ms a task", flush=True)
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main()
