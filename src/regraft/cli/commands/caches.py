"""`regraft cache list|clear`: the activation caches on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ...console import show, show_json, show_table
from ..guard import guarded
from ..options import AsJson, CacheFolder
from ..shared import size_of

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the commands `cache list` and `cache clear` to `app`."""
    caches = typer.Typer(help="List or clear activation caches.", no_args_is_help=True)
    caches.command("list")(guarded(_list))
    caches.command("clear")(guarded(_clear))
    app.add_typer(caches, name="cache")


def _list(cache: CacheFolder = None, as_json: AsJson = False) -> None:
    """List the activation caches below a folder, oldest first."""
    from ...frontier import list_caches

    root = _root(cache)
    entries = list_caches(root)
    if as_json:
        show_json(_plain(entries))
        return
    if not entries:
        show(f"There are no activation caches in {root}.")
        return
    _print_table(root, entries)


def _clear(cache: CacheFolder = None, as_json: AsJson = False) -> None:
    """Delete the activation caches below a folder; anything else in it stays, and caches are computed again when needed."""
    from ...frontier import clear_caches

    root = _root(cache)
    entries = clear_caches(root)
    if as_json:
        show_json(_plain(entries))
        return
    freed = size_of(sum(entry.size for entry in entries))
    show(f"Deleted {len(entries)} activation {'cache' if len(entries) == 1 else 'caches'} in {root}; {freed} freed.")


def _root(cache: Path | None) -> Path:
    from ...frontier import default_cache_folder

    return cache if cache is not None else Path(default_cache_folder())


def _plain(entries: Sequence[Any]) -> list[dict[str, Any]]:
    return [{"folder": str(entry.folder), "rows": entry.rows, "done": entry.done, "bytes": entry.size} for entry in entries]


def _print_table(root: Path, entries: Sequence[Any]) -> None:
    total = size_of(sum(entry.size for entry in entries))
    done = [f"{entry.done / entry.rows:.0%}" if entry.rows else "–" for entry in entries]
    rows = [(entry.folder.name, f"{entry.rows:,}", part, size_of(entry.size)) for entry, part in zip(entries, done, strict=True)]
    show_table(("cache", "rows", "finished", "size"), rows, title=f"Activation caches in {root}", caption=f"{total} in all")
