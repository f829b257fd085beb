"""PyTorch, imported where it is first used: reading data, preparing them and judging predictions need it for some kinds of data only.

A module takes `torch` and the type `Tensor` from here if it also serves predictions by ONNX Runtime, in a process without PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, ForwardRef

__all__ = ["Tensor", "torch"]

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:

    class _Deferred:
        """The module `torch`, imported when something of it is asked for."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("torch"), name)

    torch = _Deferred()
    Tensor = ForwardRef("Tensor")
    """For annotations alone; instances are told by `torch.Tensor`."""
