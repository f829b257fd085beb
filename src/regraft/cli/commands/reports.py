"""`regraft report`: recreate the report page of a saved result."""

import typer

from ...console import show
from ..guard import command
from ..options import SavedArgument


def add_to(app: typer.Typer) -> None:
    """Add the command `report` to `app`."""
    examples = ["regraft report adapted/"]
    command(app, "report", _report, panel="Use", examples=examples)


def _report(folder: SavedArgument) -> None:
    """Recreate report.html from the report.json of a saved folder, and print its path."""
    from ...report import read_facts, write_report

    show(write_report(folder / "report.html", read_facts(folder)))
