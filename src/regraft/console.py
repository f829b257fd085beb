"""Progress for people: bars with the time left, where someone looks on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["progress", "say", "speaking"]

_SPEAKING: ContextVar[bool] = ContextVar("regraft_speaking", default=False)
"""Whether progress is shown: the commands switch it on, a library stays silent unless asked."""


@contextmanager
def speaking(on: bool) -> Iterator[None]:
    """Show progress on stderr while the context lasts, or silence it.

    Args:
        on: whether to show it.
    """
    token = _SPEAKING.set(on)
    try:
        yield
    finally:
        _SPEAKING.reset(token)


def say(sentence: str) -> None:
    """Print one sentence to stderr, where progress is shown."""
    if _SPEAKING.get():
        print(sentence, file=sys.stderr, flush=True)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the time left.

    Args:
        what: what is counted, such as "frozen part".
        total: how many there are.

    Yields:
        A function that is told how many more are done.
    """
    if not _SPEAKING.get() or not sys.stderr.isatty():
        yield lambda _more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more: bar.advance(task, more)
