"""Lazy import of PyTorch. Reading data, preprocessing and evaluation need it only for some kinds of data.

A module imports `torch` and the type `Tensor` from here if it is also used for predictions with ONNX Runtime, in a process without PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any, ForwardRef

__all__ = ["Tensor", "torch"]

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:

    class _LazyTorch:
        """Proxy for the module `torch`, imported at the first attribute access."""

        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("torch"), name)

    torch = _LazyTorch()
    Tensor = ForwardRef("Tensor")
    """For annotations alone; instances are told by `torch.Tensor`."""
