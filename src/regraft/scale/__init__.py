"""Distributed work on many machines, with Ray."""

from .ray import WorkerLostError, alongside, check_cluster, on_cluster, other_machines, packed, unpacked, workers_of

__all__ = ["WorkerLostError", "alongside", "check_cluster", "on_cluster", "other_machines", "packed", "unpacked", "workers_of"]
