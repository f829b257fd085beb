"""ONNX export by tracing a run, for engines: far quicker than by PyTorch's newer exporter, and refused where a run depends on its values.

Every size that does not depend on the number of examples is a constant of the file.
"""

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from io import BytesIO
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..tracing import called_one_by_one, replaced
from .onnx_export import NotTracedError, WholeNetwork, exporting, why_not_exported

_OPSET = 20
_COUNT = 11  # Number of examples that are traced: a size that is no multiple of it does not depend on the number of examples


def traced_model(
    whole: WholeNetwork, sample: Sequence[Tensor], *, inputs: Sequence[str], outputs: Sequence[str], tick: Callable[[], None]
) -> bytes:
    """Return a module as the content of an ONNX file with a free batch axis.
    `tick`: see `exporting`."""
    tensors = tuple(tensor[torch.arange(_COUNT) % len(tensor)] for tensor in sample)
    content = BytesIO()
    with exporting(whole, tick, operators=False), warnings.catch_warnings(), ExitStack() as after:
        after.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())  # a trace that fails leaves it turned off
        try:
            baked: Any = torch.jit.TracerWarning  # type: ignore[attr-defined]
            warnings.simplefilter("error", baked)
            warnings.filterwarnings("ignore", "torch.(tensor|as_tensor|from_numpy)", baked)  # constants, as they should be
            with replaced(_as_traced()), _SameShapes():  # type: ignore[no-untyped-call]
                whole(*(tensor[:2] for tensor in tensors))
            with called_one_by_one(), replaced(_traceable()):  # the fast path of attention has no operator in ONNX
                torch.onnx.export(
                    whole,
                    tensors,
                    cast(Any, content),  # it is written to, whatever the annotation says
                    dynamo=False,
                    opset_version=_OPSET,
                    input_names=list(inputs),
                    output_names=list(outputs),
                    dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
                )
        except Exception as problem:  # a forward may raise anything; this exporter may be gone one day
            raise NotTracedError(why_not_exported(problem)) from problem
    return content.getvalue()


def _as_traced() -> Iterator[tuple[Any, str, Any]]:
    """Yield, for `replaced`, what lets a run of this thread take the steps that a trace takes: a forward may ask whether it is traced.
    `one_hot` reads its values only to check them."""
    jit: Any = torch.jit
    here, own, columns = threading.get_ident(), jit.is_tracing, torch.nn.functional.one_hot

    def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
        return columns(tensor, num_classes) if num_classes < 0 else (tensor[..., None] == torch.arange(num_classes)).long()

    yield jit, "is_tracing", lambda: threading.get_ident() == here or own()
    yield torch.nn.functional, "one_hot", one_hot


class _SameShapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raise where a value is read or a shape depends on values: a trace would keep those of its own run."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            raise NotTracedError(f"a value is read, by {func}")
        indices = args[1] if func is torch.ops.aten.index.Tensor else ()
        by_mask = any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in indices)
        if torch.Tag.dynamic_output_shape in func.tags and (by_mask or not indices):
            raise NotTracedError(f"a shape depends on values, by {func}")
        return func(*args, **(kwargs or {}))


def _traceable() -> Iterator[tuple[Any, str, Any]]:
    """Yield, for `replaced`, functions of PyTorch in a form for traces.
    Sizes of tensors are whole numbers, but for those that may depend on the number of examples; whether two of these are equal is a fact of
    the one run, and a proof with other numbers shows where it matters."""
    base: Any = torch._C.TensorBase
    shape, size = base.shape.__get__, base.size
    equal, other = Tensor.__eq__, Tensor.__ne__
    free = dict[int, tuple[Any, int]]()  # id of a traced size -> itself, kept alive, and its value

    def kept(traced: Any, known: int) -> Any:
        if known % _COUNT:
            return known
        free[id(traced)] = (traced, known)
        return traced

    def own_size(tensor: Tensor, dim: int | None = None) -> Any:
        found = size(tensor) if dim is None else size(tensor, dim)
        if not _tracing():
            return found
        known = _sizes(tensor)
        return torch.Size(map(kept, found, known)) if isinstance(found, tuple) else kept(found, known[dim or 0])

    def same(one: Tensor, two: Any) -> Any:
        if _tracing() and id(one) in free and (isinstance(two, int) or id(two) in free):
            return free[id(one)][1] == free.get(id(two), (two, two))[1]
        return equal(one, two)

    def unlike(one: Tensor, two: Any) -> Any:
        found = same(one, two)
        return not found if isinstance(found, bool) else other(one, two)

    yield Tensor, "shape", property(lambda tensor: own_size(tensor) if _tracing() else shape(tensor))
    yield Tensor, "size", own_size
    yield Tensor, "__eq__", same
    yield Tensor, "__ne__", unlike


def _tracing() -> bool:
    """Return whether this thread traces."""
    return torch._C._get_tracing_state() is not None


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """Return the sizes of a tensor as whole numbers within a trace."""
    internals: Any = torch._C
    state = internals._get_tracing_state()
    internals._set_tracing_state(None)
    try:
        return tuple(internals.TensorBase.size(tensor))
    finally:
        internals._set_tracing_state(state)
