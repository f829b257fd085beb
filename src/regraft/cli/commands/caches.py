"""`regraft cache list|clear`: the feature caches on this machine."""

import math
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from ...console import show, show_json, show_table
from ...errors import SettingError
from ..guard import command
from ..options import AsJson, CacheFolder, Older
from ..shared import size_of

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_to(app: typer.Typer) -> None:
    """Add the commands `cache list` and `cache clear` to `app`."""
    caches = typer.Typer(help="List or clear feature caches.", no_args_is_help=True)
    command(caches, "list", _list)
    command(caches, "clear", _clear, examples=["regraft cache clear --older 30d"])
    app.add_typer(caches, name="cache", rich_help_panel="Other")


def _list(cache: CacheFolder = None, as_json: AsJson = False) -> None:
    """List the feature caches below a folder, oldest first."""
    from ...freezing import list_caches

    root = _root(cache)
    entries = list_caches(root)
    if as_json:
        show_json(_plain(entries))
        return
    if not entries:
        show(f"There are no feature caches in {root}.")
        return
    done = [f"{entry.done / entry.rows:.0%}" if entry.rows else "–" for entry in entries]
    rows = [
        (entry.network or entry.folder.name, entry.data, f"{entry.rows:,}", part, size_of(entry.size), _date(entry.made))
        for entry, part in zip(entries, done, strict=True)
    ]
    headings, total = ("network", "data", "rows", "finished", "size", "made"), size_of(sum(entry.size for entry in entries))
    show_table(headings, rows, title=f"Feature caches in {root}", caption=f"{total} in all")


def _clear(*, cache: CacheFolder = None, older: Older = None, as_json: AsJson = False) -> None:
    """Delete the feature caches below a folder. Other files stay, and caches are computed again when needed."""
    before = math.inf if older is None else time.time() - _seconds(older)

    from ...freezing import clear_caches

    root = _root(cache)
    entries = clear_caches(root, before=before)
    if as_json:
        show_json(_plain(entries))
        return
    freed = size_of(sum(entry.size for entry in entries))
    which = "" if older is None else f" older than {older}"
    show(f"Deleted {len(entries)} feature {'cache' if len(entries) == 1 else 'caches'}{which} in {root}; {freed} freed.")


def _seconds(text: str) -> float:
    """Parse a duration such as "30d" to seconds."""
    number, unit = text.strip()[:-1], text.strip()[-1:].lower()
    if unit not in _UNITS or not number.replace(".", "", 1).isdecimal():
        raise SettingError(f"--older {text!r}: expected a time such as 30d, 12h or 45m.")
    return float(number) * _UNITS[unit]


def _root(cache: Path | None) -> Path:
    from ...freezing import default_cache_folder

    return cache if cache is not None else Path(default_cache_folder())


def _plain(entries: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {"folder": str(entry.folder), "rows": entry.rows, "done": entry.done, "bytes": entry.size}
        | {"network": entry.network, "data": entry.data, "made": _date(entry.made)}
        for entry in entries
    ]


def _date(made: float) -> str:
    return datetime.fromtimestamp(made).astimezone().strftime("%Y-%m-%d %H:%M")
