"""What a process shares: the generators of random numbers of Python, NumPy and PyTorch; and PyTorch's mode and usual type.

Layers draw from them: dropout in training, weights when a layer is made. Whatever in regraft lets a layer draw does so within
`seeded`. So a result depends on its seed alone, the user's own random numbers stay what they would have been, and two threads that adapt
networks at the same time get the weights that they would get one after the other.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from .tensors import torch

__all__ = ["own_state", "seeded"]

_LOCK = threading.RLock()
"""Generators belong to the process and not to a thread: one at a time has them."""


@contextmanager
def own_state() -> Iterator[None]:
    """Compute with gradients and in float32 while the context lasts, whatever the user has set around it. Also a decorator of functions.

    New tensors are made in the memory of the processor: what goes elsewhere is moved there.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
            for kind in filter(torch.is_autocast_enabled, ("cpu", "cuda")):
                stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Seed the shared generators while the context lasts; afterwards they are as they were before. Also a decorator of functions.

    Other threads that ask for the same wait. Keep it short: one epoch, not a training.
    """
    with _LOCK, ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        for seed_device, put_back in _devices():
            stack.callback(put_back)
            seed_device(seed)
        yield


def _devices() -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """Yield, for each kind of accelerator in use, what seeds its generators and what puts them back; one that is not in use stays so."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all()
        yield torch.cuda.manual_seed_all, lambda: torch.cuda.set_rng_state_all(cuda)
    if torch.backends.mps.is_available():
        mps = torch.mps.get_rng_state()
        yield torch.mps.manual_seed, lambda: torch.mps.set_rng_state(mps)
