"""Retarget: from N named classes to M named classes, rows carried over by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..data import Dataset, read
from ..errors import DataError, NetworkError, SettingError, near_names
from ..networks.account import Account
from ..networks.contract import Head, Network
from ..networks.names import checked_classes, normal_name
from .starts import imprinted_rows, mean_rows, probed_rows

__all__ = ["retarget", "retargeted_rows"]


STARTS = ("zeros", "random", "mean", "imprint", "probe")


def retarget(  # over the limit: the public contract
    net: Network,
    classes: Sequence[str],
    *,
    start: str = "zeros",
    rename: Mapping[str, str] | None = None,
    data: Any = None,
    kind: str | None = None,
    seed: int = 0,
) -> Network:
    """Give a network other classes: fewer, more, re-ordered, renamed, or wholly other ones.

    Rows of shared names are carried over bit-equal, whatever their position. Same count but other names: nothing is reused.

    Args:
        net: the network; it is not changed.
        classes: M class names in the order of the new rows.
        start: how the rows of new classes start: "zeros"; "random", as the framework draws them; "mean" of the old rows; "imprint",
            the mean directions of the features of `data`; "probe", the closed-form solution on them.
        rename: old name -> new name.
        data: items of the new classes (for "probe" better of all), as `regraft.read` reads them.
        kind: "classification", "multi-label" or "regression"; None keeps the head's.
        seed: of "random".

    Returns:
        A new network whose account says which rows were kept, renamed, new and dropped.

    Raises:
        NetworkError: if names are empty or become one, or `rename` has a name that is not there.
        SettingError: if `start` is unknown, or needs data that are not given.
        DataError: if the data lack a new class, or have a label that is not among `classes`.
    """
    if start not in STARTS:
        raise SettingError(f"start={start!r} is not known{near_names(start, STARTS)}")
    names = checked_classes(classes)
    old = net.head if net.heads else _no_head(net)
    head, account = retargeted_rows(old, names, rename=rename)
    new = np.array([index for index, name in enumerate(names) if name in account.entries["new"]], np.int64)
    if start != "zeros" and len(new):
        head = _started(net, old, head=head, new=new, start=start, data=data, seed=seed)
    changed = net.with_head(_of_kind(head, kind))
    changed.account = net.account.of_weights().joined(account)
    return changed


def _no_head(net: Network) -> Head:
    """Return a head without rows for a network that has none."""
    features = net.sample_features().shape[1]
    return Head("main", None, "classification", "linear", "", np.zeros((0, features), np.float32), np.zeros(0, np.float32))


def _of_kind(head: Head, kind: str | None) -> Head:
    """Return the head for another kind of task; an activation of its own follows the kind."""
    if kind is None or kind == head.kind:
        return head
    own = {"classification": "softmax", "multi-label": "sigmoid"}.get(kind, "linear")
    return replace(head, kind=kind, activation="linear" if head.activation == "linear" else own)


def _started(net: Network, old: Head, *, head: Head, new: np.ndarray, start: str, data: Any, seed: int) -> Head:
    """Return the head with the rows of its new classes filled in."""
    kept = np.setdiff1d(np.arange(len(head.weight)), new)
    rows = (head.weight[kept], head.bias[kept])
    if start == "random":
        weight, bias = net.fresh_rows(len(new), head.features, seed=seed)
    elif start == "mean":
        weight, bias = mean_rows(old.weight, old.bias, count=len(new))
    else:
        features, targets = _features_of(net, data, classes=head.classes or (), new=new, start=start)
        if start == "imprint":
            inside = np.isin(targets, new)
            weight, bias = imprinted_rows(features[inside], np.searchsorted(new, targets[inside]), count=len(new), kept=rows)
        else:
            weight, bias = probed_rows(features, targets, count=len(head.weight), kept=rows, wanted=new)
    whole, offsets = head.weight.copy(), head.bias.copy()
    whole[new], offsets[new] = weight, bias
    return replace(head, weight=whole, bias=offsets)


def _features_of(net: Network, data: Any, *, classes: Sequence[str], new: np.ndarray, start: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, d) and class indices (N,) of data that show every new class."""
    if data is None:
        raise SettingError(f"start={start!r} computes new rows from items of the new classes; give them with data=.")
    items = (data if isinstance(data, Dataset) else read(data)).with_classes(classes)
    lacking = [classes[index] for index in new if index not in items.targets]
    if lacking:
        raise DataError(f"The data show no item of {', '.join(map(repr, lacking[:5]))}; start={start!r} needs one of every new class.")
    return net.features(items), items.targets


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
