"""`regraft inspect`: what a network consists of, and what other classes would keep of its head."""

from __future__ import annotations

from typing import Any

import typer

from .guard import guarded
from .options import AsJson, NetworkArgument, Preview, SourceClasses, Weights
from .shared import class_names, library, opened, print_json

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command `inspect` to `app`."""
    app.command("inspect")(guarded(_inspect))


def _inspect(
    network: NetworkArgument,
    *,
    classes: Preview = None,
    weights: Weights = None,
    source_classes: SourceClasses = None,
    as_json: AsJson = False,
) -> None:
    """Show blocks, head, classes and preprocessing of a network, and the account of a weights file."""
    wanted = class_names(classes)
    net = opened(network, weights, source_classes=source_classes)
    preview = _preview(net, wanted) if wanted else None
    if as_json:
        print_json(_facts(net) | ({} if preview is None else {"preview": preview.to_dict()}))
        return
    print(net.summary())
    if net.account.entries or net.account.notes:
        print(f"\nAccount of the weights\n{net.account}")
    if preview is not None:
        print(f"\nWith the classes of {classes} (nothing was changed)\n{preview}")


def _preview(net: Any, classes: list[str]) -> Any:
    """Return the account of the head's change alone, without what happened to the network before."""
    heads = library("heads.retarget")
    return heads.retargeted_rows(net.head, classes)[1] if net.heads else heads.retarget(net, classes).account


def _facts(net: Any) -> dict[str, Any]:
    return {
        "source": net.origin.get("source", ""),
        "family": net.family,
        "parameters": sum(block.parameters for block in net.blocks),
        "blocks": [{"name": block.name, "parameters": block.parameters, "frozen": block.frozen} for block in net.blocks],
        "heads": [
            {"task": head.task, "kind": head.kind, "activation": head.activation, "layer": head.layer}
            | {"rows": len(head.weight), "features": head.features, "classes": None if head.classes is None else list(head.classes)}
            for head in net.heads.values()
        ],
        "preprocessing": net.preprocessing.to_dict(),
        "account": net.account.to_dict(),
    }
