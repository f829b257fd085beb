"""`regraft inspect`: show the structure of a network, and what a change of classes would keep of its head."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from ...console import show, show_json
from ...files.text import printable
from ...words import counted
from ..guard import command
from ..options import AsJson, NetworkArgument, NetworkOptions, Preview, SourceClasses, Trust
from ..shared import check_given, class_names, kind_for, opened, read_data

_DATA = "Examples on which weights that were matched by order are measured. `regraft check` has all options for reading data."
_Data = Annotated[str | None, typer.Argument(metavar="[DATA]", help=_DATA, show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add the command `inspect` to `app`."""
    examples = [
        "regraft inspect timm:resnet18",
        "regraft inspect model.keras --classes new_classes.txt",
        "regraft inspect timm:efficientnet_lite0 photos/ --weights found.pth",
    ]
    command(app, "inspect", _inspect, panel="Look", examples=examples)


def _inspect(
    network: NetworkArgument,
    data: _Data = None,
    *,
    how: NetworkOptions,
    classes: Preview = None,
    source_classes: SourceClasses = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Show the blocks, heads, classes and preprocessing of a network, and the account of a weights file."""
    wanted = class_names(classes)
    check_given(network, data, how=how)
    net = opened(network, how, source_classes=source_classes, trust=trust)
    preview = None
    if wanted:  # the account of the change of classes alone, without the earlier account of the network
        from ...heads.retarget import retarget, retargeted_rows

        preview = retargeted_rows(net.head, wanted)[1] if net.heads else retarget(net, wanted).account
    fit = _fit(net, data)
    if as_json:
        show_json(_facts(net) | ({} if preview is None else {"preview": preview.to_dict()}) | fit)
        return
    show("\n".join([net.summary(), *map(printable, [*_group_lines(net), *_code_lines(net)])]), lines=True)
    if net.account.entries or net.account.notes:
        show("\n".join([f"\nAccount of the weights\n{net.account}", *fit.values()]), lines=True)
    if preview is not None:
        show(f"\nWith the classes of {printable(classes)} (nothing was changed)\n{preview}", lines=True)


def _groups_of(net: Any, head: Any) -> dict[str, list[str]]:
    """Return group -> old classes for a derived head; empty for a head with its own class weights."""
    old = net.classes or tuple(str(row) for row in range(len(net.head.weight)))
    groups = head.groups or ()
    return {name: [old[row] for row in rows] for name, rows in zip(head.classes, groups, strict=True)} if groups else {}


def _group_lines(net: Any) -> Iterator[str]:
    for head in net.heads.values():
        for name, members in _groups_of(net, head).items():
            shown = ", ".join(members[:6]) + (f", … ({len(members) - 6} more)" if len(members) > 6 else "")
            yield f"      {head.task}: {name} = {shown}"


def _code_lines(net: Any) -> Iterator[str]:
    from ...data.items import listed

    if net.coding is None:
        return
    names, learned = net.coding.conditions, len(net.coding.learned)
    yield (
        f"codes of {counted(net.coding.size, 'number')} into {net.coding.into}; knows {counted(len(names), 'condition')}, {learned} of "
        "them from its training"
    )
    added = [name for name in names if name not in net.coding.learned]
    if added:
        yield f"      adapted to: {listed(added, 12)}"


def _fit(net: Any, data: str | None) -> dict[str, str]:
    """Return {"weights_fit": text} on how well weights matched by order fit, measured on the user's data or on synthetic images."""
    from ...planning.checking import EXAMPLES, MATCHED, weights_fit
    from ...planning.measured_input import made_pictures
    from ...verbs import check

    if data is not None:
        read = read_data(data, skip_bad=True, kind=kind_for(net, data, asked=None, files=None))
        said = [note for note in check(read, net).facts["notes"] if MATCHED in note]
        return {"weights_fit": said[0]} if said else {}

    own = net.preprocessing
    if own.kind != "image" or own.channels not in (1, 3):
        return {}
    drawn = made_pictures(EXAMPLES, (own.height, own.width), channels=own.channels)
    items = list(drawn.movedim(1, -1).numpy().astype("uint8"))
    fit = weights_fit(net, items, batch=own.batch(items), examples="made-up pictures")
    return {} if fit is None else {"weights_fit": fit.words()}


def _facts(net: Any) -> dict[str, Any]:
    return {
        "source": net.origin.get("source", ""),
        "family": net.family,
        "parameters": sum(block.parameters for block in net.blocks),
        "blocks": [{"name": block.name, "parameters": block.parameters, "frozen": block.frozen} for block in net.blocks],
        "heads": [_head_facts(net, head) for head in net.heads.values()],
        "preprocessing": net.preprocessing.to_dict(),
        "coding": None if net.coding is None else net.coding.to_dict(),
        "account": net.account.to_dict(),
    }


def _head_facts(net: Any, head: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {name: getattr(head, name) for name in ("task", "kind", "activation", "layer", "features")}
    plain |= {"rows": len(head.weight), "classes": None if head.classes is None else list(head.classes)}
    plain |= {} if head.thresholds is None else {"thresholds": list(head.thresholds)}
    return plain | ({} if head.groups is None else {"groups": _groups_of(net, head)})
