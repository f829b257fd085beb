"""Stop an action at any moment at which it touches the disk, as `kill -9` does: nothing that comes after leaves a trace on the disk.

A moment is a call that opens, renames, removes, links, makes or flushes something. `outcomes` stops an action before its first moment,
before its second, and so on, until it comes to its end. By default the action runs in this process, and from the moment on every
further call is refused, those that would clean up among them; with `forked` it runs in a child process, which is gone at once.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod", "os.utime"}
_strike: Callable[[], None] | None = None
_installed = False


class Killed(BaseException):
    """Raised at the moment, and at each one that follows."""


def _moment(event: str, _given: Any = ()) -> None:
    if _strike is not None and event in _EVENTS:
        _strike()


def _watch(strike: Callable[[], None] | None) -> None:
    """Have `strike` called before each moment; None for nothing."""
    global _strike, _installed  # a hook cannot be removed
    if not _installed:
        _installed, flush = True, os.fsync

        def flushed(handle: int) -> None:
            _moment("open")
            flush(handle)

        os.fsync = flushed
        sys.addaudithook(_moment)
    _strike = strike


@contextmanager
def watched(strike: Callable[[], None]) -> Iterator[None]:
    """Call `strike` before each moment in the block; what it does itself is none."""

    def once() -> None:
        _watch(None)
        try:
            strike()
        finally:
            _watch(once)

    try:
        _watch(once)
        yield
    finally:
        _watch(None)


def outcomes(
    prepare: Callable[[], Any], action: Callable[[], Any], *, forked: bool = False, step: int = 1, most: int = 3000
) -> Iterator[int]:
    """Yield the number of each moment of an action after it was stopped there, at last one more for the whole action.

    Args:
        prepare: called before each run.
        action: what is stopped.
        forked: whether it runs in a child process.
        step: 1 for every moment, n for each n-th one.
        most: moments.
    """
    for number in range(1, most, step):
        prepare()
        done = (_forked if forked else _stopped)(number, action)
        yield number
        if done:
            return
    raise AssertionError(f"the action has more than {most} moments")


def _stopped(number: int, action: Callable[[], Any]) -> bool:
    """Run an action up to a moment; tell whether it came to its end."""
    left = number

    def strike() -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Killed

    try:
        _watch(strike)
        action()
    except Killed:
        return False
    finally:
        _watch(None)
    return left > 0


def _forked(number: int, action: Callable[[], Any]) -> bool:
    child = os.fork()
    if child:
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended in (0, 9), f"the action failed at moment {number}"
        return ended == 0
    left = number

    def strike() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(9)

    try:
        _watch(strike)
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file become longer than so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, told)
