"""`regraft convert`: convert a network to another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ...console import tell_notes
from ...errors import InputError
from ...files.text import printable
from .. import options
from ..guard import command
from ..shared import check_given, opened, show_written

_ENDINGS = (".onnx", ".pmml", ".keras", ".h5", ".pt2")
_OF_KERAS = (".keras", ".h5")
_OUT = "The file to write. The suffix selects the format: .onnx, .pmml, .keras, .h5 or .pt2. Without a suffix, a saved folder."
_FAMILY = "Family of the result: torch or keras. .keras and .h5 files always contain Keras layers."
_Family = Annotated[str | None, typer.Option("--family", metavar="torch|keras", help=_FAMILY)]
_Preprocessing = Annotated[bool, typer.Option("--with-preprocessing", help="For .onnx: include the preprocessing in the graph.")]
_PmmlVersion = Annotated[str | None, typer.Option("--pmml-version", metavar="3.2|4.1|4.4", help="For .pmml: use 4.1 for Weka.")]
_Out = Annotated[Path, typer.Argument(metavar="OUT", help=_OUT)]


def add_to(app: typer.Typer) -> None:
    """Add the command `convert` to `app`."""
    examples = ["regraft convert other.onnx network.pmml"]
    command(app, "convert", _convert, panel="Use", examples=examples)


def _convert(  # noqa: PLR0913  # over the limit: the options of the command
    source: options.NetworkArgument,
    out: _Out,
    *,
    how: options.NetworkOptions,
    source_classes: options.SourceClasses = None,
    family: _Family = None,
    with_preprocessing: _Preprocessing = False,
    pmml_version: _PmmlVersion = None,
    weights_format: options.WeightsFormat = None,
    condition: options.OneCondition = None,
) -> None:
    """Convert a network to another format, and show what was read and what could not be kept."""
    if out.suffix and out.suffix.lower() not in _ENDINGS:
        raise InputError(f"{printable(out)!r} has the ending {out.suffix!r}; expected one of {', '.join(_ENDINGS)}, or none for a folder.")
    if out.exists():
        raise InputError(f"{printable(out)!r} exists already. Give another name, or remove it.")
    if not out.parent.is_dir():
        raise InputError(
            f"The folder {printable(out.parent)!r} does not exist. Create it, or give another path for {printable(out.name)!r}."
        )
    if not out.suffix and (with_preprocessing or pmml_version or weights_format):
        options_of = "--with-preprocessing goes with .onnx, --pmml-version with .pmml and --weights-format with .h5"
        raise InputError(f"{options_of}; received the folder {printable(out)!r}.")
    check_given(source, how=how, places={"source-classes": source_classes})
    from ... import verbs

    net = opened(source, how, source_classes=source_classes)
    if condition is not None:
        net = verbs.fold(net, condition)
    ending = out.suffix.lower()
    if family is not None or ending in _OF_KERAS:
        net = net.to(family or "keras")
    tell_notes(net.account.notes)
    of_file: dict[str, Any] = {"preprocessing": with_preprocessing, "pmml_version": pmml_version, "weights_format": weights_format}
    path = Path(net.export(out, **of_file) if out.suffix else net.save(out))
    show_written(path)
