"""`regraft adapt-condition`: learn the code of a new condition. `regraft export`: write a network, or its version for one condition."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from ...console import show, show_json
from ...errors import InputError
from ...words import counted
from .. import options
from ..guard import command
from ..shared import check_given, columns_for, kind_for, listed_names, opened, read_data, show_written, wanted_target

_FORMS = "An .onnx file, a .pmml file (dense layers), a .keras, .h5 or .weights.h5 file (Keras), or a .pt2 file (PyTorch program)."
_File = Annotated[Path, typer.Argument(metavar="FILE", help=_FORMS)]
_INSIDE = "For .onnx: include the preprocessing in the file. The file then takes images in bytes of any size, or numbers as measured."
_Inside = Annotated[bool, typer.Option("--with-preprocessing", help=_INSIDE)]
_PMML = "For .pmml: version 3.2, 4.1 or 4.4. The default is 4.4. Weka reads a ReLU of 3.2 and 4.1."
_Version = Annotated[str | None, typer.Option("--pmml-version", metavar="V", help=_PMML)]
_INPUTS = "For .pmml: names of the inputs in order, separated by commas. The default is x1, x2, …."
_Inputs = Annotated[str | None, typer.Option("--columns", metavar="A,B", help=_INPUTS)]
_AIM = "For .pmml: name of the predicted column."
_Aim = Annotated[str | None, typer.Option("--target", metavar="COL", help=_AIM)]
_WHAT = "For .pmml: head exports only the head, with its features as inputs."
_What = Annotated[str | None, typer.Option("--what", metavar="head", help=_WHAT)]
_NAME = "Name of the condition of all examples. With --condition: a condition of the column (repeatable). By default, all of them."
_Names = Annotated[list[str] | None, typer.Option("--name", metavar="NAME", help=_NAME, show_default=False)]
_OUT = "A copy of DIR for the code files, or a new folder for the whole network. By default, DIR."
_Where = Annotated[Path | None, typer.Option("--out", metavar="DIR2", help=_OUT)]
_Begin = Annotated[str, typer.Option("--start", metavar="S", help="Initial code: mean, zero or nearest.")]
_Fit = Annotated[str, typer.Option("--fit", metavar="F", help="Optimizer: lbfgs, adam or normalised (normalised gradient steps).")]
_Steps = Annotated[int | None, typer.Option("--steps", metavar="N", help="Maximum number of steps.")]
_Step = Annotated[float | None, typer.Option("--step", metavar="X", help="Step size for adam and normalised.")]
_Prior = Annotated[str, typer.Option("--prior", metavar="auto|W|none", help="Weight of the prior, estimated from the known codes.")]
_GUESS = "Fit without labels: pseudo (labels predicted by the network) or entropy (entropy minimisation)."
_Guess = Annotated[str | None, typer.Option("--unsupervised", metavar="HOW", help=_GUESS)]
_Input = Annotated[str | None, typer.Option("--input", metavar="NAME", help="Name of the network input for the code.")]
_Again = Annotated[bool, typer.Option("--replace", help="Fit the codes of known conditions again.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands `adapt-condition` and `export` to `app`."""
    examples = ["regraft adapt-condition adapted/ anna.csv --name anna"]
    command(app, "adapt-condition", _adapt_condition, panel="Adapt", examples=examples)
    examples = ["regraft export adapted/ network.onnx", "regraft export adapted/ network.pmml --target species"]
    command(app, "export", _export, panel="Use", examples=examples)


def _adapt_condition(  # noqa: PLR0913  # over the limit: the options of the command
    folder: options.SavedArgument,
    data: options.DataArgument,
    *,
    name: _Names = None,
    condition: options.Condition = None,
    out: _Where = None,
    target: options.Target = None,
    columns: options.Columns = None,
    files: options.Files = None,
    outside: options.Outside = False,
    kind: options.Kind = None,
    start: _Begin = "mean",
    fit: _Fit = "lbfgs",
    steps: _Steps = None,
    step: _Step = None,
    prior: _Prior = "auto",
    unsupervised: _Guess = None,
    input_name: _Input = None,
    architecture: options.Architecture = None,
    replace: _Again = False,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Learn the code of a new condition from a few examples of it. Nothing else in the network changes."""
    asked = listed_names(columns, option="--columns")
    how: dict[str, Any] = {"start": start, "fit": fit, "steps": steps, "step": step, "unsupervised": unsupervised}
    how |= {"replace": replace, "seed": seed}
    reading: dict[str, Any] = {"condition": condition, "files": files, "outside": outside, "skip_bad": skip_bad}
    check_given(folder, data, reading=reading | {"target": wanted_target(target), "kind": kind, "columns": asked})
    net = opened(str(folder), options.NetworkOptions(architecture=architecture))
    beside = columns_for(net, asked)
    reading |= {"columns": beside, "kind": kind_for(net, data, asked=kind, files=files)}
    if unsupervised is not None and target is None and condition is None:
        items = _unlabelled(net, data, columns=beside or [], outside=outside)
    else:
        items = read_data(data, target=wanted_target(target), **reading)
    wanted = _wanted(name, items)

    from ... import verbs
    from ...planning.conditions import saved_to

    known = verbs.adapt_condition(net, items, wanted, prior=_weight(prior), input=input_name, skip_bad=skip_bad, **how)
    paths = saved_to(known, out or folder, conditions=wanted)
    if as_json:
        codes = {one: known.codes[one].tolist() for one in wanted}
        show_json({"codes": codes, "account": known.account.to_dict(), "written": [str(path) for path in paths]})
        return
    for note in known.account.notes[len(net.account.notes) :]:
        show(note[:1].upper() + note[1:])
    for path in paths:
        show_written(path)


def _wanted(names: list[str] | None, items: Any) -> list[str]:
    """Return the names of the conditions to fit. Raise if neither names nor conditions in the data are given."""
    if names:
        return names
    if items.conditions is None:
        raise InputError(
            f"The {counted(len(items), 'example', verb='have')} no conditions; expected --name NAME for all of them, or --condition COL."
        )
    return list(dict.fromkeys(map(str, items.conditions)))


def _weight(text: str) -> str | float | None:
    word = text.strip().lower()
    if word in ("auto", "none"):
        return "auto" if word == "auto" else None
    try:
        return float(word)
    except ValueError:
        raise InputError(f"--prior {text!r}: expected auto, none, or a weight such as 1.") from None


def _unlabelled(net: Any, source: str, *, columns: list[str], outside: bool) -> Any:
    """Read examples without labels."""
    from ...data.readers.tables import TABLE_EXTENSIONS, read_unlabelled

    kind = net.preprocessing.item_kind
    if Path(source).suffix.lower() not in TABLE_EXTENSIONS:
        return net.preprocessing.dataset(source)
    data = read_unlabelled(source, kind, columns=columns, rows=net.preprocessing.row_columns, outside=outside)
    return dataclasses.replace(data, kind=kind) if data.kind != kind else data


def _export(  # noqa: PLR0913  # over the limit: the options of the command
    folder: options.SavedArgument,
    file: _File,
    *,
    condition: options.OneCondition = None,
    architecture: options.Architecture = None,
    preprocessing: _Inside = False,
    pmml_version: _Version = None,
    columns: _Inputs = None,
    target: _Aim = None,
    what: _What = None,
    weights_format: options.WeightsFormat = None,
) -> None:
    """Export a saved network to one file that does not need regraft. With --condition, export a plain network for that condition."""
    from ... import verbs

    net = opened(str(folder), options.NetworkOptions(architecture=architecture))
    whole = net if condition is None else verbs.fold(net, condition)
    of_pmml: dict[str, Any] = {"columns": listed_names(columns, option="--columns"), "target": target, "what": what}
    path = whole.export(file, preprocessing=preprocessing, pmml_version=pmml_version, weights_format=weights_format, **of_pmml)
    show_written(Path(path))
    for task, head in whole.heads.items():
        if head.classes:
            show(f"Classes of {task}, in order: {', '.join(head.classes[:20])}{', …' if len(head.classes) > 20 else ''}")
    show(f"Takes {whole.preprocessing.describe().partition('; measured by')[0]}")
