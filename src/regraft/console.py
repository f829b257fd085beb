"""Terminal output: results, messages, and progress with the remaining time. All untrusted text is escaped here.

Names of classes, files and columns come from files of third parties. Control sequences, links, bidirectional marks, lone surrogates and
Rich markup in them are shown as escapes or as plain text and never interpreted.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from .files.text import csv_cell, printable, printable_json, printable_lines

if TYPE_CHECKING:
    from rich.progress import Progress


class _Pace:
    """Interval between frequent sentences in a log: 10 s, later a tenth of the time so far, 10 min at most."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.begun, self.last = clock, clock(), -math.inf

    def is_due_(self) -> bool:
        now = self.clock()
        due = now - self.last >= min(max(10.0, (now - self.begun) / 10), 600.0)
        self.last = now if due else self.last
        return due


_SPEAKING: ContextVar[tuple[bool, bool, _Pace]] = ContextVar("regraft_speaking", default=(False, False, _Pace()))
"""(show progress, show sentences, pace of the frequent ones). The commands switch them on; the library is silent by default."""

STEPS = {
    "read": "reading and checking",
    "frozen": "frozen part",
    "solve": "closed-form heads, choosing",
    "compare": "comparing settings",
    "train": "training",
    "evaluate": "evaluation",
    "statistics": "class statistics, unknown examples",
    "baselines": "training from scratch, as a baseline",
    "save": "saving",
    "study": "choosing and keeping trials",
    "best": "training and evaluating the best plan",
    "importances": "importances of the settings",
}
"""Step -> its description on the terminal, in the cost and in the report."""

_SHOWN: list[Progress] = []
"""The active progress display, if any."""

_CHANGES: list[Callable[[str], str]] = []
"""Functions that change what `show` and `tell` print; the commands replace keywords by options."""

_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Lone surrogates that do not encode a byte of a file name."""


@contextmanager
def rewording(change: Callable[[str], str]) -> Iterator[None]:
    """Context manager in which a function changes what `show` and `tell` print."""
    _CHANGES.append(change)
    try:
        yield
    finally:
        _CHANGES.remove(change)


@contextmanager
def speaking(on: bool, *, words: bool = True, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Context manager that switches progress on stderr `on` or off, and with `words` also the sentences about each step.
    `clock` returns seconds and paces the frequent sentences."""
    token = _SPEAKING.set((on, on and words, _Pace(clock)))
    try:
        yield
    finally:
        _SPEAKING.reset(token)


def show(text: object, *, lines: bool = False) -> None:
    """Print a result to stdout, escaped."""
    _write(sys.stdout, _shown(text, lines))


def tell(text: object, *, lines: bool = False) -> None:
    """Print a `text` to stderr, escaped as in `show`; `lines` keeps line breaks. stdout is for results only."""
    _write(sys.stderr, _shown(text, lines))


def tell_notes(notes: Iterable[str]) -> None:
    """Print each note to stderr."""
    for note in notes:
        tell(f"Note: {note}")


def _shown(text: object, lines: bool) -> str:
    told = str(text)
    for change in _CHANGES:
        told = change(told)
    return printable_lines(told) if lines else printable(told)


def say(sentence: str, *, frequent: bool = False) -> None:
    """Print one sentence to stderr if sentences are switched on (`speaking`). If stderr is not a terminal, most `frequent` sentences (one
    an epoch) are left out: one is printed every 10 s, later less often."""
    _, words, pace = _SPEAKING.get()
    if words and (not frequent or _is_terminal() or pace.is_due_()):
        tell(sentence)


def summarize(sentence: str) -> None:
    """Print one sentence as `say` does, but only if stderr is not a terminal, where it stands for the frequent sentences left out."""
    if not _is_terminal():
        say(sentence)


def _is_terminal() -> bool:
    """Whether stderr is a terminal; while a progress display runs it is, whatever Rich has put in the place of `sys.stderr`."""
    return bool(_SHOWN) or sys.stderr.isatty()


def show_json(content: Any, *, indent: int | None = 1) -> None:
    """Print plain data as JSON to stdout. Control characters become JSON escapes. `indent` is in spaces; None prints one line."""
    text = json.dumps(content, ensure_ascii=not _encoding(sys.stdout).startswith("utf"), indent=indent, default=str)
    _write(sys.stdout, printable_json(text))


def show_csv(rows: Iterable[Sequence[object]], *, raw: bool = False) -> None:
    """Print rows as CSV to stdout. Unless `raw`, cells are escaped, and an apostrophe precedes formulas of spreadsheets."""
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    for row in rows:
        writer.writerow(row if raw else [csv_cell(printable(cell)) for cell in row])
    if not raw:
        _write(sys.stdout, held.getvalue(), end="")
        return
    _pause()
    sys.stdout.flush()
    sys.stdout.buffer.write(_NO_BYTE.sub(lambda found: printable(found[0]), held.getvalue()).encode("utf-8", errors="surrogateescape"))


def show_table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", caption: str = "") -> None:
    """Print a table to stdout. Cells are plain text; markup is not interpreted."""
    from rich.console import Console
    from rich.table import Table

    _pause()
    title, caption = (_encodable(printable(text), sys.stdout) for text in (title, caption))
    table = Table(title=title or None, caption=caption or None, title_justify="left")
    for at, heading in enumerate(headings):
        table.add_column(_encodable(printable(heading), sys.stdout), justify="right" if at else "left")
    for row in rows:
        table.add_row(*(_encodable(printable(cell), sys.stdout) for cell in row))
    Console(markup=False, emoji=False, highlight=False).print(table)


def _write(stream: TextIO, text: str, *, end: str = "\n") -> None:
    """Print text. Characters outside the encoding of the stream are escaped."""
    if stream is sys.stdout:
        _pause()
    print(_encodable(text, stream), file=stream, end=end, flush=stream is sys.stderr)


def _encodable(text: str, stream: TextIO) -> str:
    encoding = _encoding(stream)
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def _encoding(stream: TextIO) -> str:
    return (getattr(stream, "encoding", None) or "utf-8").lower()


def duration(seconds: float) -> str:
    """Return `seconds` as text: "0.4 s", "12 s", "3 min 20 s", "1 h 05 min"."""
    if seconds < 10 or not math.isfinite(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def spent(cost: Mapping[str, float]) -> dict[str, float]:
    """Return step description -> seconds from a `cost`. Unnamed steps and steps below 0.05 s are summed in the last entry."""
    parts = {words: float(cost[kind]) for kind, words in STEPS.items() if cost.get(kind, 0.0) >= 0.05}
    rest = float(cost.get("total") or 0.0) - sum(parts.values())
    return parts | ({"other" if parts else "all steps": rest} if rest > 0.05 else {})


def passed(cost: Mapping[str, float]) -> str:
    """Return a sentence on the examples that went through the frozen part, and one on the time that its engine saved; "" without any."""
    examples, building = int(cost.get("frozen_forward_examples") or 0), cost.get("engine_building")
    said = f" {examples:,} examples went through the frozen part." if examples else ""
    if building is None:
        return said
    return f"{said} Its engine saved {duration(cost.get('engine_saved', 0.0))}; choosing and building it took {duration(building)}."


@contextmanager
def progress(what: str, total: float | None = None, *, logged: bool = True) -> Iterator[Callable[[float], None]]:
    """Show a progress line for a task: the elapsed time and, if `total` steps are given, a bar with the remaining time.

    The context yields a function to call with the number of newly completed steps, which may be fractional. If stderr is not a terminal,
    that function prints a sentence after 10 s, and later less often; not if the task prints its own (`logged`).
    """
    shown, words, pace = _SPEAKING.get()
    if not shown or not _is_terminal():
        yield _logged(what, total, clock=pace.clock) if words and logged else lambda _more: None
        return
    lines = _lines()
    for outer in lines.task_ids:
        lines.update(outer, visible=False)
    task = lines.add_task(printable(what), total=total, steps="" if total is None else f"0/{total}")
    lines.start()

    def advance(more: float) -> None:
        done = round(lines.tasks[lines.task_ids.index(task)].completed + more, 6)
        lines.update(task, completed=done, steps=f"{int(done)}/{total}")

    try:
        yield advance
    finally:
        lines.remove_task(task)
        if lines.tasks:
            lines.update(lines.task_ids[-1], visible=True)
        else:
            _pause()


def _logged(what: str, total: float | None, *, clock: Callable[[], float]) -> Callable[[float], None]:
    """Return the function that `progress` yields for a log."""
    pace, done = _Pace(clock), 0.0
    pace.last = pace.begun

    def advance(more: float) -> None:
        nonlocal done
        done = round(done + more, 6)
        if pace.is_due_():
            tell(f"{what}: {int(done)}{'' if total is None else f' of {int(total)}'} after {duration(clock() - pace.begun)}.")

    return advance


def _lines() -> Progress:
    """Return the progress display of all nested tasks; only the innermost is visible. Rich is imported only for a terminal."""
    if not _SHOWN:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        words = [TextColumn("{task." + name + "}", markup=False) for name in ("description", "fields[steps]")]
        columns = (words[0], BarColumn(), words[1], TimeElapsedColumn(), TimeRemainingColumn())
        console = Console(stderr=True, markup=False, emoji=False)
        _SHOWN.append(Progress(*columns, console=console, transient=True, redirect_stdout=False))
    return _SHOWN[0]


def _pause() -> None:
    """Hide the progress line until the next task starts."""
    for lines in _SHOWN:
        lines.stop()
    _SHOWN[:] = [lines for lines in _SHOWN if lines.tasks]
