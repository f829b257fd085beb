"""Retarget: from N named classes to M named classes, rows carried over by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..errors import NetworkError, near_names
from ..networks.account import Account
from ..networks.contract import Head, Network
from ..networks.names import checked_classes, normal_name

__all__ = ["retarget", "retargeted_rows"]


def retarget(net: Network, classes: Sequence[str], *, rename: Mapping[str, str] | None = None, kind: str | None = None) -> Network:
    """Give a network other classes; rows of shared names are carried over bit-equal, new rows are zero.

    Args:
        net: the network; it is not changed.
        classes: M class names in the order of the new rows.
        rename: old name -> new name.
        kind: "classification", "multi-label" or "regression"; None keeps the head's.

    Returns:
        A new network whose account says which rows were kept, renamed, new and dropped.

    Raises:
        NetworkError: if names are empty or become one, or `rename` has a name that is not there.
    """
    names = checked_classes(classes)
    old = net.head if net.heads else None
    if old is None:
        features = net.sample_features().shape[1]
        old = Head("main", None, kind or "classification", "linear", "", np.zeros((0, features), np.float32), np.zeros(0, np.float32))
    head, account = retargeted_rows(old, names, rename=rename)
    if kind is not None and kind != head.kind:
        activation = (
            head.activation if head.activation == "linear" else {"classification": "softmax", "multi-label": "sigmoid"}.get(kind, "linear")
        )
        head = replace(head, kind=kind, activation=activation)
    changed = net.with_head(head)
    changed.account = net.account.of_weights().joined(account)
    return changed


def retargeted_rows(old: Head, classes: Sequence[str], *, rename: Mapping[str, str] | None = None) -> tuple[Head, Account]:
    """Return the head with its rows re-ordered for other classes, and the account.

    Rows are matched by class name and never by count or position: names compare after Unicode NFC, trimming and case-folding.

    Args:
        old: N rows; without class names no row is carried over.
        classes: M new names.
        rename: old name -> new name.

    Returns:
        The new head, (M, d) rows, zeros where a class is new; and the account: kept, renamed, new, dropped.

    Raises:
        NetworkError: if `rename` has an old name that is not there, or a new one that is not among `classes`.
    """
    renamed = _checked_renaming(old.classes or (), classes, rename=rename or {})
    old_names = [renamed.get(normal_name(name), name) for name in old.classes or ()]
    row_of = {normal_name(name): index for index, name in enumerate(old_names)}
    weight = np.zeros((len(classes), old.weight.shape[1]), old.weight.dtype)
    bias = np.zeros(len(classes), old.bias.dtype)
    entries: dict[str, list[str]] = {"kept": [], "renamed": [], "new": [], "dropped": []}
    for index, name in enumerate(classes):
        row = row_of.pop(normal_name(name), None)
        if row is None:
            entries["new"].append(name)
            continue
        weight[index], bias[index] = old.weight[row], old.bias[row]
        before = (old.classes or ())[row]
        entries["renamed" if normal_name(before) in renamed else "kept"].append(
            name if normal_name(before) == normal_name(name) else f"{before} -> {name}"
        )
    entries["dropped"] = [(old.classes or ())[row] for row in sorted(row_of.values())]
    return replace(old, classes=tuple(classes), weight=weight, bias=bias), Account(entries, notes=_notes(old, entries))


def _checked_renaming(old: Sequence[str], new: Sequence[str], *, rename: Mapping[str, str]) -> dict[str, str]:
    olds, news = {normal_name(name) for name in old}, {normal_name(name) for name in new}
    for before, after in rename.items():
        if normal_name(before) not in olds:
            raise NetworkError(f"rename: the network has no class {before!r}{near_names(before, old)}")
        if normal_name(after) not in news:
            raise NetworkError(f"rename: {after!r} is not among the new classes{near_names(after, new)}")
    targets = [normal_name(name) for name in rename.values()]
    staying = olds - {normal_name(name) for name in rename}
    if len(set(targets)) < len(targets) or staying & set(targets):
        raise NetworkError(f"rename: two classes become one: {dict(rename)!r}. Give every old class a name of its own.")
    return {normal_name(before): after for before, after in rename.items()}


def _notes(old: Head, entries: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if not len(old.weight):
        return ("the network had no head; one was put on its pooled output",)
    if old.classes is None:
        return (f"the head's {len(old.weight)} rows had no class names, so none was carried over; give them with classes=",)
    if not entries["kept"] and not entries["renamed"]:
        return (f"no class name is shared with the {len(old.weight)} old ones, so no row was carried over",)
    return ()
