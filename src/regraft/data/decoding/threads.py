"""Decoder threads: one small pool for the process, and prefetch of one batch."""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

MOST_THREADS = 8
AT_ONCE = 256  # Number of values in work at a time: what waits in the pool takes memory


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=min(MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="regraft-data")


def in_threads(function: Callable[[Given], Made], values: Sequence[Given]) -> list[Made]:
    """Apply a function to each value in the shared pool; a single value is processed in the calling thread.
    `function` should release the interpreter lock most of the time (decoding, hashing, reading), and must not call `in_threads`."""
    if len(values) < 2:
        return [function(value) for value in values]
    parts = (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
    return [made for part in parts for made in _pool().map(function, part)]


def prefetched(function: Callable[[Given], Made], values: Sequence[Given], *, ahead: bool = True) -> Iterator[tuple[Given, Made]]:
    """Yield each value with its result; with `ahead`, the next result is computed while the current one is in use."""
    if len(values) < 2 or not ahead:
        yield from ((value, function(value)) for value in values)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="regraft-prefetch") as reader:
        waiting = reader.submit(function, values[0])
        for at, value in enumerate(values):
            made = waiting.result()
            if at + 1 < len(values):
                waiting = reader.submit(function, values[at + 1])
            yield value, made
