"""`regraft demo`: adapt a network for printed digits to handwritten digits, from few and from many examples, offline."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ...console import duration, say, show, show_json, show_table, tell
from ...files.locks import held_folder
from ...files.text import printable
from ..guard import command
from ..options import AsJson, Quiet
from .adaptation import printed_report

_Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the adapted network, its report and the learning curves.")]


def add_to(app: typer.Typer) -> None:
    """Add the command `demo` to `app`."""
    examples = ["regraft demo --out regraft-demo/"]
    command(app, "demo", _demo, panel="Other", examples=examples)


def _demo(out: _Out = Path("regraft-demo"), *, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Show where transfer wins: from printed to handwritten digits, with 3 to all examples per class. Runs offline in minutes."""
    with held_folder(out):  # what cannot be written is said before the work
        _run(out, as_json=as_json)


def _run(out: Path, *, as_json: bool) -> None:
    from .. import demonstration

    began = time.perf_counter()
    say("Training a small network on printed digits, drawn in the fonts of matplotlib …")
    net = demonstration.printed_reader()
    say("Adapting it to handwritten digits, beside the same network from scratch and an MLP …")
    curves, result = demonstration.measured_curves(net)
    result.save(out)
    plot = out / "learning_curves.png"
    curves.plot(plot)
    report, shown = printed_report(out)
    if as_json:
        show_json({"sentence": curves.sentence(), **curves.to_dict(), "folder": str(out), "plot": str(plot), "report": report})
    else:
        headings = ("examples of each class", *curves.shares)
        show_table(headings, curves.rows(), title="Handwritten digits read correctly, % (± 95 % interval over draws)")
        show(curves.sentence())
        show(f"Learning curves: {printable(str(plot))}")
        show(f"Report of one adaptation, from 10 examples of each class: {shown}")
    tell(f"The whole demo took {duration(time.perf_counter() - began)}.")
