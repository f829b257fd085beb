"""Memory limit for building a network from a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ...errors import NetworkError

__all__ = ["within"]

_ALWAYS = 2**30
_FACTOR = 16
"""Initializing a weight takes a few tensors of its size, and the file may store it in fewer bits than it is drawn in."""


@contextmanager
def within(stored: int, *, what: str) -> Iterator[None]:
    """Stop a build before it takes far more memory than the file holds.

    An architecture in a file is small whatever it declares: a layer of 10^9 units is one number. Keras draws weights before it reads those
    of the file. Each draw begins with a tensor of the declared size, which is refused here.

    `stored` is the size in bytes of the weights in the file.
    """
    with _Room(_ALWAYS + _FACTOR * stored, what=what):
        yield


class _Room(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of the bytes of every tensor that is created from a size."""

    def __init__(self, left: int, *, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.left = left
        self.what = what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation. Count its result first if the operation takes a size."""
        named = kwargs or {}
        size = args[0] if args else named.get("size")
        device = torch.device(named.get("device") or "cpu")
        if _makes_a_tensor(func) and isinstance(size, (list, tuple)) and device.type != "meta":
            self.left -= math.prod(size) * (named.get("dtype") or torch.get_default_dtype()).itemsize
            if self.left < 0:
                raise NetworkError(
                    f"{self.what} declares an architecture of far more weights than it holds, such as one of the shape {tuple(size)}; "
                    "expected the architecture of its weights. Nothing of it was kept."
                )
        return func(*args, **named)


def _makes_a_tensor(func: Any) -> bool:
    first = func._schema.arguments[0].name if func._schema.arguments else ""
    return first == "size"
