"""Global state of the process: the random generators of Python, NumPy and PyTorch, and PyTorch's gradient mode and default dtype.

Layers use the global generators for dropout and for weight initialisation. regraft lets layers draw random numbers only inside `seeded`.
A result therefore depends on its seed alone, the user's random state is not changed, and threads that adapt networks at the same time get
the same weights as in sequence.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from .tensors import torch

_LOCK = threading.RLock()
"""The generators are global to the process, so only one thread at a time may use them."""


@contextmanager
def own_state() -> Iterator[None]:
    """Context manager and decorator: enable gradients, use float32 and the CPU as defaults, disable autocast.

    The user's own settings are restored afterwards.
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
    """Context manager and decorator: seed the global generators, and restore their state afterwards.

    Other threads that enter it wait. Keep the context short: one epoch, not a whole training.
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
    """Yield (seed function, restore function) for each kind of accelerator. CUDA is skipped if it is not initialised yet."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all()
        yield torch.cuda.manual_seed_all, lambda: torch.cuda.set_rng_state_all(cuda)
    if torch.backends.mps.is_available():
        mps = torch.mps.get_rng_state()
        yield torch.mps.manual_seed, lambda: torch.mps.set_rng_state(mps)
