"""`regraft combine`: combine one-class detectors into one network."""

from typing import Annotated, Any

import typer

from ...console import show, show_json
from .. import options
from ..guard import command
from ..shared import check_given, named_pairs, opened, read_data, wanted_target
from .adaptation import print_next

_NETWORKS = "Two or more classes with their networks: cat=cat/ dog=dog.keras."
_Networks = Annotated[list[str], typer.Argument(metavar="CLASS=NETWORK...", help=_NETWORKS)]
_CALIBRATE = "Labelled examples of these classes. A factor and a shift per logit are fitted to minimise the log loss."
_Data = Annotated[str | None, typer.Option("--data", metavar="DATA", help=_CALIBRATE)]
_TASK = "classification (one class per example) or multi-label (each class independently)."
_Task = Annotated[str, typer.Option("--task", metavar="KIND", help=_TASK)]


def add_to(app: typer.Typer) -> None:
    """Add the command `combine` to `app`."""
    examples = ["regraft combine cat=cat/ dog=dog/ --data photos/ --out both/"]
    command(app, "combine", _combine, panel="Adapt", examples=examples)


def _combine(  # noqa: PLR0913  # over the limit: the options of the command
    networks: _Networks,
    *,
    out: options.Out,
    data: _Data = None,
    task: _Task = "classification",
    architecture: options.Architecture = None,
    inputs: options.InputShapes = None,
    preprocessing: options.Preprocessing = None,
    target: options.Target = None,
    files: options.Files = None,
    outside: options.Outside = False,
    kind: options.Kind = None,
    skip_bad: options.SkipBad = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Combine several one-class detectors into one network that has one score per class."""
    named = named_pairs(networks, option="CLASS=NETWORK", form="a class and its network, such as cat=cat/")
    reading: dict[str, Any] = {"target": wanted_target(target), "files": files, "kind": kind, "outside": outside, "skip_bad": skip_bad}
    how = options.NetworkOptions(architecture=architecture, inputs=inputs, preprocessing=preprocessing)
    check_given(list(named.values()), data, reading=reading)

    from ...heads import combine

    found = {name: opened(source, how) for name, source in named.items()}
    net = combine(found, None if data is None else read_data(data, **reading), kind=task)
    net.save(out)
    if as_json:
        show_json({"folder": str(out), "classes": list(net.classes or ()), "account": net.account.to_dict()})
        return
    show(f"{net.account}\n", lines=True)
    print_next(out, unknown=False)
