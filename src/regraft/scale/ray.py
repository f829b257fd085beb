"""Adapter for Ray: pieces of work as tasks of a cluster, with their results in order.

Data that all tasks share are put into Ray's object store once, and each worker opens them once. A task whose worker or machine is lost runs
again. Ray sends Python objects with pickle, so all machines of a cluster trust each other.
"""

import io
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from ..errors import RegraftError, SettingError, optional_import

T = TypeVar("T")
_RETRIES = 5  # Number of retries of a task after its worker or machine is lost
_AHEAD = 2  # Tasks in flight per processor. The limit keeps results from piling up before they are consumed
_opened: dict[str, Any] = {}  # Shared data of the current run in a worker, by their Ray id


def check_cluster(cluster: str) -> None:
    """Connect to a cluster, unless already connected."""
    ray = _ray()
    if ray.is_initialized():
        return
    try:
        ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")
    except Exception as problem:  # ConnectionError, ValueError, and classes of Ray
        raise SettingError(
            f"cluster={cluster!r} cannot be reached: {_said(problem)[0]}. Start one with `ray start --head`, or leave cluster= out to "
            "compute on this machine."
        ) from problem


def _processors(cluster: str) -> dict[str, int]:
    """Return the id of each machine of a cluster, and its number of processors. Raises `SettingError` if the cluster is lost."""
    check_cluster(cluster)
    try:
        return {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in _ray().nodes() if node["Alive"]}
    except Exception as problem:  # RaySystemError, ConnectionError, and those of gRPC
        raise _lost(cluster, problem) from problem


def _lost(cluster: str, problem: Exception) -> SettingError:
    return SettingError(f"cluster={cluster!r} was lost: {_said(problem)[-1]}. Start it again, or leave cluster= out.")


def _said(problem: Exception) -> list[str]:
    """Return the lines of an error's message; the class name if the message is empty."""
    return [line.rstrip(".") for line in str(problem).strip().splitlines()] or [type(problem).__name__]


def workers_of(cluster: str, *, threads: int) -> int:
    """Return the number of tasks of so many threads that a cluster runs at the same time; 1 at least."""
    return max(1, sum(processors // threads for processors in _processors(cluster).values()))


def all_see(paths: Sequence[Path], cluster: str) -> bool:
    """Return whether every machine of a cluster has these files, of the same size, under these paths."""
    machines, ray = _processors(cluster), _ray()
    at = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = [ray.remote(num_cpus=0, scheduling_strategy=at(one, soft=False))(_sizes).remote(list(paths)) for one in machines]
    try:
        return all(found == _sizes(paths) for found in ray.get(asked))
    except ray.exceptions.RayError:  # a machine is gone
        return False


def _sizes(paths: Sequence[Path]) -> list[int]:
    return [path.stat().st_size if path.is_file() else -1 for path in paths]


def on_cluster(  # over the limit: what a task is made of
    work: Callable[[Any, Any], T], shared: bytes, *, pieces: Iterable[Any], cluster: str, threads: int, in_order: bool = True
) -> Iterator[T]:
    """Yield the result of a function for each piece, in order or as they finish. Each piece is a Ray task."""
    processors, ray = _processors(cluster).values(), _ray()
    largest = max(processors, default=0)
    if largest < threads:
        raise SettingError(
            f"cluster=: a task takes {threads} processors, as this process does; the largest machine has {largest}. "
            f"Set OMP_NUM_THREADS={max(1, largest)} for this process."
        )
    most = (_AHEAD if in_order else 1) * sum(own // threads for own in processors)
    waiting: deque[Any] = deque()
    todo = iter(pieces)
    try:
        kept, task = ray.put((os.getcwd(), shared)), ray.remote(num_cpus=threads, max_retries=_RETRIES)(_done)
        while True:
            waiting.extend(task.remote(work, [kept], piece=piece) for piece in islice(todo, most - len(waiting)))
            if not waiting:
                return
            done = waiting[0] if in_order else ray.wait(list(waiting))[0][0]
            yield ray.get(done)
            waiting.remove(done)
    except (ray.exceptions.RaySystemError, ConnectionError) as problem:
        raise _lost(cluster, problem) from problem
    except ray.exceptions.RayError as problem:
        cause = getattr(problem, "cause", None)
        if isinstance(cause, RegraftError):
            raise cause from problem
        raise RegraftError(f"A task of the cluster failed: {cause or str(problem).strip().splitlines()[-1]}") from problem


class WorkerLostError(RegraftError):
    """Raised if a worker process that others wait for is gone."""


def other_machines(cluster: str) -> tuple[str, list[str]]:
    """Return the address of this machine in a cluster, and the ids of its other machines with at least one processor."""
    processors, ray = _processors(cluster), _ray()
    here = ray.get_runtime_context().get_node_id()
    return ray.util.get_node_ip_address(), sorted(machine for machine, own in processors.items() if machine != here and own)


@contextmanager
def alongside(
    work: Callable[[Any, Any], Any], shared: bytes, *, pieces: Sequence[Any], machines: Sequence[str], threads: int
) -> Iterator[Callable[[], None]]:
    """Run a function once on each of several machines, in parallel with the body of the context.
    Yield a function to call while this process waits for the others to start. It takes a moment, and raises if one of them has ended."""
    ray = _ray()
    kept, processors = ray.put((os.getcwd(), shared)), {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in ray.nodes()}
    running = []
    for machine, piece in zip(machines, pieces, strict=True):
        place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(machine, soft=False)
        task = ray.remote(num_cpus=min(threads, processors[machine]), max_retries=0, scheduling_strategy=place)(_done)
        running.append(task.remote(work, [kept], piece=piece))

    def watch() -> None:
        if ray.wait(running, timeout=0.1)[0]:
            raise WorkerLostError("It ended before it began.")

    try:
        yield watch
    except WorkerLostError:
        for ended in ray.wait(running, num_returns=len(running), timeout=10.0)[0]:
            try:
                ray.get(ended)
            except ray.exceptions.RayTaskError as problem:
                cause = problem.cause
                if not isinstance(cause, WorkerLostError):
                    raise (cause if isinstance(cause, RegraftError) else RegraftError(f"A worker failed: {cause}")) from problem
            except ray.exceptions.RayError:  # the worker is gone
                continue
        raise


def _done(work: Callable[[Any, Any], T], shared: list[Any], *, piece: Any) -> T:
    """Run one piece in a worker, which opens the shared data once, in the folder of the caller. The list keeps Ray from opening them for
    every task."""
    name = shared[0].hex()
    if name not in _opened:
        _opened.clear()
        folder, content = _ray().get(shared[0])
        with suppress(OSError):  # a machine without that folder has no files under relative paths either
            os.chdir(folder)
        _opened[name] = unpacked(content)
    return work(_opened[name], piece)


def packed(shared: Any, reduced: Callable[[Any], Any]) -> bytes:
    """Return the data that all tasks share, as bytes."""
    library = optional_import("ray.cloudpickle", "ray", purpose="cluster=")

    class Packer(library.CloudPickler):  # type: ignore[misc, name-defined]  # the library has no types
        def reducer_override(self, obj: Any) -> Any:
            found = reduced(obj)
            return super().reducer_override(obj) if found is NotImplemented else found

    content = io.BytesIO()
    try:
        Packer(content, protocol=5).dump(shared)
    except Exception as problem:  # objects of other libraries may raise anything
        raise SettingError(f"cluster=: the network cannot be sent to other processes ({problem}). Leave cluster= out.") from problem
    return content.getvalue()


def unpacked(content: bytes) -> Any:
    """Return the data that `packed` serialized. The bytes must come from this run, because unpickling runs code."""
    return pickle.loads(content)


def _ray() -> Any:
    return optional_import("ray", "ray", purpose="cluster=")
