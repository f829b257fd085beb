"""Distributed work on many machines, with Ray."""

from .ray import WorkerLostError, all_see, alongside, check_cluster, on_cluster, other_machines, packed, unpacked, workers_of

__all__ = ["WorkerLostError", "all_see", "alongside", "check_cluster", "on_cluster", "other_machines", "packed", "unpacked", "workers_of"]
