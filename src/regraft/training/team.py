"""Distributed training: each process computes a part of every batch, and all processes take the same step.

The logits of the whole batch are gathered in every process, and the loss is computed on them. So the loss equals the one of a single
process for every loss function, and the sum of the gradients is its gradient. (DistributedDataParallel averages the losses of the parts,
which differs with class weights, unknown targets and parts of unequal size.) BatchNorm uses the statistics of the whole batch. Each
process has its own random numbers for dropout.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from threading import Timer
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it has no declaration
from torch.nn.functional import batch_norm
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.overrides import TorchFunctionMode

from ..console import say, speaking
from ..errors import RegraftError, SettingError
from ..networks.network import Network, Scores
from ..scale import WorkerLostError, alongside, other_machines

T = TypeVar("T")
S = TypeVar("S")
_PATIENCE = timedelta(minutes=10)  # Maximum time that a process waits for the others at a step
_LEAVES = 1.0  # Seconds after which a process ends that failed, when its error has been sent
_RETRIES = 5  # Maximum number of attempts of a training; each lost machine ends one


@dataclass(frozen=True)
class Team:
    """Group of processes that train one network together."""

    rank: int = 0  # rank of this process, from 0; rank 0 makes decisions and keeps checkpoints
    size: int = 1  # number of processes

    def part(self, rows: np.ndarray) -> np.ndarray:
        """Return the part of a batch, `rows` (B,), that this process computes."""
        return np.array_split(rows, self.size)[self.rank]

    def whole(self, scores: Scores, rows: int) -> Scores:
        """Return the logits of the whole batch, task -> (B, …), from this process's part, task -> (b, …).
        Only the part of this process has a gradient. `rows`: size of the whole batch."""
        if self.size == 1:
            return scores
        start = sum(map(len, np.array_split(np.arange(rows), self.size)[: self.rank]))
        made = {}
        for task, own in scores.items():
            every = own.new_zeros(rows, *own.shape[1:])
            every[start : start + len(own)] = own.detach()
            self._reached(dist.all_reduce, every)
            made[task] = torch.cat([every[:start], own, every[start + len(own) :]])
        return made

    @contextmanager
    def statistics(self, network: Network) -> Iterator[None]:
        """Make BatchNorm layers (PyTorch and Keras) use the statistics of the whole batch while the context lasts."""
        if self.size == 1:
            yield
            return
        of_keras = [one for one in network.modules().values() if type(one).__name__ == "BatchNormalization"]
        for one in of_keras:
            vars(one)["_moments"] = partial(_moments_of_keras, self, one)  # over the limit: Keras's name
        try:
            with _WholeBatchNorm(self):
                yield
        finally:
            for one in of_keras:
                del vars(one)["_moments"]  # over the limit: Keras's name

    def moments(self, values: Tensor, axes: list[int]) -> tuple[Tensor, Tensor, int]:
        """Return mean and variance of the `values` of all processes over `axes` (kept with length 1), and the number of values."""
        counted = torch.tensor([float(np.prod([values.shape[axis] for axis in axes]))], dtype=torch.float64, device=values.device)
        self._reached(dist.all_reduce, counted)
        count = float(counted)
        mean = _SumOverProcesses.apply(self, values.sum(axes, keepdim=True)) / count
        return mean, _SumOverProcesses.apply(self, (values - mean).square().sum(axes, keepdim=True)) / count, int(count)

    def sum_gradients_(self, parameters: Sequence[Tensor]) -> None:
        """Sum the gradients of all processes, in place. A parameter that no process used keeps None."""
        if self.size == 1:
            return
        used = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32, device=parameters[0].device)
        self._reached(dist.all_reduce, used, op=dist.ReduceOp.MAX)
        summed = [parameter for parameter, one in zip(parameters, used.tolist(), strict=True) if one]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in summed]
        flat = parameters_to_vector(gradients)
        self._reached(dist.all_reduce, flat)
        vector_to_parameters(flat, gradients)
        for parameter, gradient in zip(summed, gradients, strict=True):
            parameter.grad = gradient

    def level_(self, weights: Sequence[Tensor], averages: Sequence[Tensor]) -> None:
        """Copy the `weights` of rank 0 to every process, since processors may round differently, and average the `averages`."""
        for tensor in [] if self.size == 1 else weights:
            self._reached(dist.broadcast, tensor.detach(), src=0)
        for tensor in [] if self.size == 1 else averages:
            self._reached(dist.all_reduce, tensor.detach())
            tensor.detach().div_(self.size)

    def first(self, value: T) -> T:
        """Return the `value` of rank 0 in every process."""
        held = [value]
        if self.size > 1:
            self._reached(dist.broadcast_object_list, held, src=0)
        return held[0]

    def dealt(self, pieces: Sequence[T]) -> Sequence[T]:
        """Return this process's share of the `pieces` of work, dealt in turn."""
        return pieces[self.rank :: self.size]

    def collected(self, done: list[T]) -> list[T]:
        """Return the results of all pieces that were `dealt`, in order, in every process."""
        if self.size == 1:
            return done
        every: list[Any] = [None] * self.size
        self._reached(dist.all_gather_object, every, done)
        return [every[at % self.size][at // self.size] for at in range(sum(map(len, every)))]

    @staticmethod
    def _reached(call: Callable[..., Any], *given: Any, **named: Any) -> None:
        try:
            call(*given, **named)
        except RuntimeError as problem:  # the backends raise various subclasses
            raise WorkerLostError(str(problem).splitlines()[0]) from problem


ALONE = Team()


class _SumOverProcesses(torch.autograd.Function):
    """Sum over all processes. Its gradient is summed too, because each process has the gradient of its part of the batch."""

    @staticmethod
    def forward(ctx: Any, team: Team, values: Tensor) -> Tensor:  # over the limit: PyTorch calls it so
        """Return the sum."""
        ctx.team, total = team, values.detach().clone()
        team._reached(dist.all_reduce, total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        """Return the gradients of `forward`'s arguments."""
        total = gradient.clone(memory_format=torch.contiguous_format)
        ctx.team._reached(dist.all_reduce, total)
        return None, total


class _WholeBatchNorm(TorchFunctionMode):
    """Mode in which PyTorch's `batch_norm` uses the statistics of all processes in training."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, or the distributed version of `batch_norm` in training."""
        named = kwargs or {}
        if func is batch_norm and (named.get("training") or (len(args) > 5 and args[5])):
            return self._normed(*args, **named)
        return func(*args, **named)

    def _normed(  # noqa: PLR0913  # over the limit: as `batch_norm` takes them
        self,
        values: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        axes = [axis for axis in range(values.ndim) if axis != 1]
        mean, variance, count = self.team.moments(values.float(), axes)
        if count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(values.shape)}")
        for average, found in ((running_mean, mean), (running_var, variance * (count / (count - 1)))):
            if average is not None:
                average.detach().lerp_(found.detach().reshape(-1).to(average.dtype), momentum)
        normed = (values - mean) * (variance + eps).rsqrt()
        shape = [1, -1, *[1] * (values.ndim - 2)]
        normed = normed if weight is None else normed * weight.reshape(shape)
        return (normed if bias is None else normed + bias.reshape(shape)).to(values.dtype)


def _moments_of_keras(team: Team, layer: Any, inputs: Tensor, mask: Any) -> Any:  # over the limit: Keras calls it so
    """Return mean and variance per channel for a Keras BatchNormalization layer; with a `mask`, those of this process's part."""
    if mask is not None:
        return vars(type(layer))["_moments"](layer, inputs, mask)  # over the limit: Keras's name
    mean, variance, _count = team.moments(inputs, vars(layer)["_reduction_axes"])
    return mean.reshape(-1), variance.reshape(-1)


def in_team(
    work: Callable[[T, Team], S], begun: Callable[[], T], *, sent: Callable[[], bytes], most: int, cluster: str, notes: list[str]
) -> S:
    """Run `work` together with one process on every other machine of a cluster; return the result of this process.
    If a machine is lost, run it again with the remaining machines; `work` resumes from its checkpoint. `begun`: returns the argument of
    `work`; `sent`: returns the argument for other machines, pickled; `most`: maximum number of processes; `notes` receives a sentence
    if a machine was lost."""
    threads, content = torch.get_num_threads(), b""
    for _ in range(_RETRIES):
        try:
            host, machines = other_machines(cluster)
        except SettingError as problem:  # lost since the run began
            _say(f"The training continued on this machine alone. {problem}", notes)
            return work(begun(), ALONE)
        machines = machines[: most - 1]
        if not machines:
            return work(begun(), ALONE)
        content = content or sent()
        try:
            store, size = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_PATIENCE), 1 + len(machines)
            pieces = [(work, rank, size, host, store.port, threads) for rank in range(1, size)]
            with alongside(_other, content, pieces=pieces, machines=machines, threads=threads) as watch:
                while not store.check([f"here {rank}" for rank in range(1, size)]):
                    watch()
                with _group(store, 0, size=size) as team:
                    return work(begun(), team)
        except WorkerLostError as problem:
            _say(f"A worker of the cluster was lost: the training continued from its last epoch. {problem}", notes)
    raise RegraftError(f"Machines of the cluster were lost {_RETRIES} times in one training. Give the same call again to go on.")


def _say(sentence: str, notes: list[str]) -> None:
    """Print a sentence and add it to the notes, once for all trainings of a run."""
    if sentence not in notes:
        say(sentence)
        notes.append(sentence)


def _other(shared: Any, piece: tuple[Callable[[Any, Team], Any], int, int, str, int, int]) -> None:
    """Run the work of another process, in a worker."""
    work, rank, size, host, port, threads = piece
    torch.set_num_threads(threads)
    store = TCPStore(host, port, is_master=False, timeout=_PATIENCE)
    store.set(f"here {rank}", "")
    try:
        with speaking(False), _group(store, rank, size=size) as team:
            work(shared, team)
    except WorkerLostError:
        raise
    except BaseException:
        # connections of the group can outlive it: the others would wait for this process until they give up
        Timer(_LEAVES, os._exit, [1]).start()
        raise


@contextmanager
def _group(store: Any, rank: int, *, size: int) -> Iterator[Team]:
    """Join the process group that meets at `store`, and yield its `Team`."""
    try:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    except RuntimeError as problem:
        raise WorkerLostError(str(problem).splitlines()[0]) from problem
    try:
        yield Team(rank, size)
    finally:
        dist.destroy_process_group()
