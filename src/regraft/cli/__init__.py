"""Command-line interface to the public functions of the library.

torch and keras are imported only when a command needs them, so `regraft --help` is fast.
"""

import importlib.metadata

import typer

from .commands import (
    adaptation,
    caches,
    checking,
    combination,
    conditions,
    conversion,
    demo,
    evaluation,
    extension,
    inspection,
    prediction,
    profiling,
    reports,
    searching,
)
from .guard import Commands

__all__ = ["app", "main"]

app = typer.Typer(name="regraft", cls=Commands, no_args_is_help=True)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"regraft {importlib.metadata.version('regraft')}")
        raise typer.Exit


@app.callback(epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or bad input, 130 interrupted.")
def _root(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error (may also stand behind the command)."),
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
) -> None:
    """Bring the network you trained and the data you now have; get back the adapted network."""


for _group in (
    *(inspection, checking, profiling, adaptation, searching, extension, combination),
    *(conditions, conversion, evaluation, prediction, reports, caches, demo),
):
    _group.add_to(app)


def main() -> None:
    """Run the command given by the process arguments and exit with its exit code."""
    app()
