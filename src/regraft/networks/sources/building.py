"""Build architectures under a limit: the declared size is compared with the available weights before memory is allocated."""

import math
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...errors import NetworkError, RegraftError, optional_import
from ...files.formats import reason_of
from ...files.remote import is_reachable
from ...files.sizes import memory
from ...files.text import printable
from ..edits import Edit

_hub_switch = threading.RLock()  # Held while the offline switch of the hub client changes, because all threads share it

_MIB = 2**20
_SLACK_BYTES = 256 * _MIB
_UNKNOWN = 64 * 1024 * _MIB  # Memory of a machine that does not tell it
_SLACK_TENSORS = 2000
_MOST_TENSORS = 20_000
_SHAPED = ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "randperm", "arange", "linspace", "logspace", "eye")
_MAKERS = frozenset(getattr(torch, name) for name in (*_SHAPED, "empty_strided", "empty_permuted", "tril_indices", "triu_indices"))
_ALWAYS, _FACTOR = 2**30, 16
"""Bytes that any architecture in a file may take, and the multiple of its weights: initializing one takes a few tensors of its size."""
_TILE = 65_537  # Length of the random block that stands for drawn weights. It is prime, so that no two rows of a weight are equal


@dataclass(frozen=True)
class Limits:
    """Limits on building an architecture."""

    size: int  # bytes of all tensors together
    count: int  # number of tensors

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Return the limits for known weights: three times their size, plus room for tables and masks, and at most the machine's memory."""
        held = 4 * sum(tensor.numel() for tensor in tensors.values())
        return cls(min(3 * held + _SLACK_BYTES, memory() or _UNKNOWN), 8 * len(tensors) + _SLACK_TENSORS)

    @classmethod
    def of_memory(cls) -> Self:
        """Return the limits for an architecture whose weights are not all known: the machine's memory."""
        return cls(memory() or _UNKNOWN, _MOST_TENSORS)

    @classmethod
    def of_bytes(cls, stored: int) -> Self:
        """Return the limits for an architecture in a file of `stored` bytes of weights."""
        return cls(_ALWAYS + _FACTOR * stored, 10 * _MOST_TENSORS)

    def check(self, edits: Sequence[Edit], *, what: str) -> None:
        """Raise if an edit declares a size above the limit. This runs before anything of that size is built."""
        most = self.size // 4
        for edit in edits:
            sizes = {name: value for name, value in edit.to_dict().items() if type(value) is int}
            if max((*sizes.values(), sizes.get("rows", 0) * sizes.get("features", 0)), default=0) > most:
                shown = printable(repr(edit.to_dict()), width=100)
                raise NetworkError(f"{what} notes the edit {shown}, which is larger than its weights. Its regraft.json is damaged.")


@contextmanager
def building(what: str, limits: Limits, *, drawn: bool = True, remedy: str = "") -> Iterator[None]:
    """Build an architecture from a file within limits and without network access. Any failure becomes a NetworkError.
    All tensors made inside the context count. Hub access is off because some networks of transformers fetch kernels when they are built.
    `drawn=False` fills weights with placeholder numbers instead of drawing them."""
    constants = sys.modules.get("huggingface_hub.constants")
    try:
        with _hub_switch, _without_hub(constants) if constants else nullcontext(), _TensorCounter(what, limits, drawn=drawn):
            yield
    except (RegraftError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # values of a file reach a library's code, which may fail in any way
        said, end = f"{type(error).__name__}: {reason_of(error)}", f" {remedy}" if remedy else ""
        raise NetworkError(f"{what} cannot be made into a network, because of this error: {said}.{end}") from error


@contextmanager
def cached_only_when_offline() -> Iterator[None]:
    """Restrict the hub client to its local cache while the hub is unreachable. Otherwise it would retry for most of a minute."""
    constants: Any = optional_import("huggingface_hub.constants", "vision", purpose="Fetching trained weights")
    with _hub_switch, _without_hub(constants, when=not is_reachable(constants.ENDPOINT)):
        yield


@contextmanager
def _without_hub(constants: Any, *, when: bool = True) -> Iterator[None]:
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or when
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


class _TensorCounter(TorchFunctionMode):
    """Counter of tensors that stops before a limit is exceeded; see `building`."""

    def __init__(self, what: str, limits: Limits, *, drawn: bool) -> None:
        super().__init__()
        self.what, self.limits, self.drawn = what, limits, drawn
        self.size = self.count = self.copies = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        makes = func in _MAKERS or (func is torch.normal and "size" in named)
        if makes and torch.device(named.get("device") or "cpu").type != "meta":
            plain = {name: value for name, value in named.items() if name not in ("generator", "out", "pin_memory")}
            self._count_(func(*args, **{**plain, "device": "meta"}))
        elif not self.drawn and getattr(func, "__name__", "") in _RANGES and self._copied_(func.__name__, args, named=named):
            return args[0] if args else named["tensor"]
        return func(*args, **named)

    def _copied_(self, name: str, args: tuple[Any, ...], *, named: Mapping[str, Any]) -> bool:
        """Fill a tensor instead of drawing it. Return whether that was possible. Draws that are repeated too often are not replaced."""
        tensor = args[0] if args else named["tensor"]
        self.copies += 1
        return self.copies <= 4 * self.count + 100 and _filled_(
            tensor, _RANGES[name](tensor, *args[1:], **_renamed(named)), seed=self.copies
        )

    def _count_(self, made: Tensor) -> None:
        self.size += made.numel() * made.element_size()
        self.count += 1
        if self.size > self.limits.size or self.count > self.limits.count:
            raise NetworkError(
                f"{self.what} declares a network of more than {self.size / _MIB:,.0f} MiB in {self.count:,} tensors; expected at most "
                f"{self.limits.size / _MIB:,.0f} MiB in {self.limits.count:,}, as its weights file and this machine allow. "
                "It is damaged, or its weights are those of another network."
            )


def _renamed(named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a draw under uniform names, because functions and methods differ and "from" is a keyword."""
    names = {"from": "low", "a": "low", "to": "high", "b": "high", "mean": "low", "std": "high"}
    return {names[name]: value for name, value in named.items() if name in names}


def _filled_(tensor: Tensor, span: tuple[float, float] | None, *, seed: int) -> bool:
    """Fill a tensor with copies of one random block within a range, and return whether that was possible.
    Each tensor gets another block. Otherwise two heads whose mean is the output would be equal, and each would look like the only one."""
    if span is None:
        return True
    low, high = span
    if not (tensor.is_floating_point() and tensor.is_contiguous() and math.isfinite(low) and math.isfinite(high)):
        return False
    block = torch.rand(_TILE, generator=torch.Generator().manual_seed(seed)) * (high - low) + low
    flat, whole = tensor.detach().view(-1), tensor.numel() // _TILE * _TILE
    flat[:whole].view(-1, _TILE).copy_(block)
    flat[whole:].copy_(block[: tensor.numel() - whole])
    return True


def _uniform(_tensor: Tensor, *given: float, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    return (given[0] if given else low), (given[1] if len(given) > 1 else high)


def _normal(tensor: Tensor, *given: float, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    mean, deviation = _uniform(tensor, *given, low=low, high=high)
    return mean - math.sqrt(3) * deviation, mean + math.sqrt(3) * deviation


def _by_inputs(tensor: Tensor, *_given: Any, **_named: Any) -> tuple[float, float]:
    spread = 1 / math.sqrt(max(1, tensor.numel() // max(1, len(tensor))))
    return -spread, spread


def _left(_tensor: Tensor, *_given: Any, **_named: Any) -> None:
    """Keep uniform numbers where normal ones would be derived from them."""


_RANGES: dict[str, Callable[..., tuple[float, float] | None]] = {
    "uniform_": _uniform,
    "normal_": _normal,
    "kaiming_uniform_": _by_inputs,
    "kaiming_normal_": _by_inputs,
    "erfinv_": _left,
}
"""Range of the numbers that a random initializer draws, by function name."""
