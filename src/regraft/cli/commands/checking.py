"""`regraft check`: summarise the data before training."""

from typing import Annotated

import typer

from ...console import show, show_json, tell
from .. import options
from ..guard import command
from ..shared import check_given, columns_for, kind_for, opened, read_data, reading_of

_NETWORK = "The network to adapt. Also shows what fits, and which classes the network would keep."
_Network = Annotated[str | None, typer.Argument(metavar="[NETWORK]", help=_NETWORK, show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add the command `check` to `app`."""
    examples = ["regraft check photos/", "regraft check train.csv timm:resnet18 --files images/ --target label --group patient"]
    command(app, "check", _check, panel="Look", examples=examples)


def _check(  # noqa: PLR0913  # over the limit: the options of the command
    data: options.DataArgument,
    network: _Network = None,
    *,
    how: options.NetworkOptions,
    read: options.ReadingOptions,
    condition: options.Condition = None,
    holdout: options.Holdout = 0.2,
    seed: options.Seed = 0,
    source_classes: options.OldClasses = None,
    as_json: options.AsJson = False,
) -> None:
    """Show how data are read: columns, classes, sizes, duplicates and unusable examples. Nothing is trained or written."""
    reading = reading_of(read, condition) | {"skip_bad": True}
    check_given(network, data, reading=reading, how=how, places={"source-classes": source_classes})
    if network is None:
        from ...data import checked

        summary = checked(read_data(data, **reading), True).summary()
    else:
        net = opened(network, how, source_classes=source_classes)
        reading |= {"columns": columns_for(net, reading["columns"]), "kind": kind_for(net, data, asked=read.kind, files=read.files)}
        from ... import verbs

        summary = verbs.check(read_data(data, **reading), net, holdout=holdout, seed=seed)
    if as_json:
        show_json(summary.to_dict())
        return
    show(summary, lines=True)
    if summary.facts["left_out"]:
        tell("What was left out stops adapt, unless it is given --skip-bad.")
