"""Everything that regraft prints: results, messages, and progress with the time left. Text of others is escaped here, once.

Names of classes, files and columns come from files that somebody else made. What they hold beyond plain text (control sequences, links,
marks that turn the direction of writing, lone surrogates, the markup of Rich) is shown as escapes or as it stands, and never obeyed.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from .files.text import csv_cell, printable, printable_json, printable_lines

__all__ = ["duration", "progress", "say", "show", "show_csv", "show_json", "show_table", "speaking", "tell"]

_SPEAKING: ContextVar[bool] = ContextVar("regraft_speaking", default=False)
"""Whether progress is shown: the commands switch it on, a library stays silent unless asked."""

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Lone surrogates that stand for no byte of a file name."""


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


def show(text: object, *, lines: bool = False) -> None:
    """Print a result to stdout, escaped.

    Args:
        text: what is to be shown; anything but a `str` is converted.
        lines: whether its line breaks are our own and stay; names of others within it are escaped where they are put in.
    """
    _write(sys.stdout, printable_lines(text) if lines else printable(text))


def tell(text: object, *, lines: bool = False) -> None:
    """Print a `text` to stderr, escaped as `show` does it, with `lines` as there: stdout is for results."""
    _write(sys.stderr, printable_lines(text) if lines else printable(text))


def say(sentence: str) -> None:
    """Print one sentence to stderr, where progress is shown."""
    if _SPEAKING.get():
        _write(sys.stderr, printable(sentence))


def show_json(content: Any, *, indent: int | None = 1) -> None:
    """Print plain data as JSON on stdout; what a terminal could obey stands there as JSON escapes.

    Args:
        content: plain data; anything else in it is printed as its `str`.
        indent: spaces a level; None: one line.
    """
    text = json.dumps(content, ensure_ascii=not _encoding(sys.stdout).startswith("utf"), indent=indent, default=str)
    _write(sys.stdout, printable_json(text))


def show_csv(rows: Iterable[Sequence[object]], *, raw: bool = False) -> None:
    """Print rows as CSV on stdout; cells are escaped, and an apostrophe stands before those that a spreadsheet would run as a formula.

    Args:
        rows: the cells of each line.
        raw: print the cells as they are, file names byte by byte.
    """
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    for row in rows:
        writer.writerow(row if raw else [csv_cell(printable(cell)) for cell in row])
    if not raw:
        _write(sys.stdout, held.getvalue(), end="")
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(_NO_BYTE.sub(lambda found: printable(found[0]), held.getvalue()).encode("utf-8", errors="surrogateescape"))


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", caption: str = "") -> None:
    """Print a table to stdout; its cells are plain text, without markup.

    Args:
        headings: of the columns; the first is set to the left, the others to the right.
        rows: the cells of each line.
        title: stands above it.
        caption: stands below it.
    """
    from rich.console import Console
    from rich.table import Table

    title, caption = (_encodable(printable(text), sys.stdout) for text in (title, caption))
    table = Table(title=title or None, caption=caption or None, title_justify="left")
    for at, heading in enumerate(headings):
        table.add_column(_encodable(printable(heading), sys.stdout), justify="right" if at else "left")
    for row in rows:
        table.add_row(*(_encodable(printable(cell), sys.stdout) for cell in row))
    Console(markup=False, emoji=False, highlight=False).print(table)


def _write(stream: TextIO, text: str, *, end: str = "\n") -> None:
    """Print text, with escapes for what the encoding of the stream does not have."""
    print(_encodable(text, stream), file=stream, end=end, flush=stream is sys.stderr)


def _encodable(text: str, stream: TextIO) -> str:
    encoding = _encoding(stream)
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def _encoding(stream: TextIO) -> str:
    return (getattr(stream, "encoding", None) or "utf-8").lower()


def duration(seconds: float) -> str:
    """Return `seconds` for people: "0.4 s", "12 s", "3 min 20 s", "1 h 05 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[float], None]]:
    """Show a bar with the time left.

    Args:
        what: what is counted, such as "frozen part".
        total: how many there are.

    Yields:
        A function that is told how many more are done; parts of one move the bar as well.
    """
    if not _SPEAKING.get() or not sys.stderr.isatty():
        yield lambda _more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True) as bar:
        task = bar.add_task(printable(what), total=total)
        yield lambda more: bar.update(task, completed=round(bar.tasks[0].completed + more, 6))
