"""Branch: additional heads on one network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import NetworkError, SettingError, checked_call, near_names
from ..networks.account import Account
from ..networks.names import checked_classes, rows_of
from ..networks.network import Head, Network
from ..randomness import own_state
from ..tasks import KINDS
from ..words import counted
from .starts import Start, as_data, empty_head, ready_for, started

Groups = Mapping[str, Sequence[str] | None]


@checked_call
@own_state()
def branch(  # noqa: PLR0913  # over the limit: the public contract
    net: Network,
    task: str,
    classes: Sequence[str] | None = None,
    *,
    kind: str = "classification",
    groups: Groups | None = None,
    start: str | None = None,
    data: Any = None,
    seed: int = 0,
) -> Network:
    """Add another output (a head for another task) to a network. It reads the same features as the existing head.

    With `groups` alone the output is derived: the probability of a group is the exact sum of the old probabilities of its members, without
    training. With `groups` and a `start`, the output has its own class weights, which can be trained.

    Args:
        net: the network. It is not changed.
        task: name of the new output: the key in `net.heads` and the name of its target in the data.
        classes: class names; for "multi-label" the label names, for "regression" the names of the numbers.
        kind: "classification", "multi-label" or "regression".
        groups: new name -> list of old classes. Every old class belongs to exactly one group. None instead of a list means all other
            classes.
        start: initialisation of the class weights: "zeros" (default without groups), "random", "mean" (of the group's old class weights),
            "imprint" or "probe".
        data: labelled examples for "imprint" and "probe". With groups, they may carry the old class names.
        seed: seed for "random".

    Returns:
        A network with one more head. `predict` returns every task, and `adapt` trains the tasks for which the data have targets.

    Raises:
        NetworkError: if the task exists already, or the groups do not partition the old classes.
        SettingError: if the arguments do not go together.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> both = regraft.branch(net, "kind", groups={"insect": ["ant", "bee"], "other": None})
        >>> sorted(both.heads), both.heads["kind"].classes
        (['kind', 'main'], ('insect', 'other'))
    """
    if not isinstance(task, str) or not task or task in net.heads:
        raise NetworkError(f"Received the task {task!r}; expected a name unlike those of the network: {', '.join(map(repr, net.heads))}.")
    if kind not in KINDS:
        raise SettingError(f"kind={kind!r} is not known{near_names(str(kind), KINDS)}")
    rows = None if groups is None else _group_rows(net.head, groups)
    if rows is not None and (kind != "classification" or (classes is not None and tuple(classes) != tuple(rows))):
        raise SettingError(
            f"groups= gives the classes of a classification; received kind={kind!r} and classes={classes!r}. Leave them out."
        )
    if rows is None and classes is None:
        raise SettingError(f"The task {task!r} needs class names, or groups= of old classes.")
    names = checked_classes(rows if rows is not None else classes or ())
    if rows is not None and start is None:
        branched = net.copy()
        branched.heads = {**branched.heads, task: net.head.derived(task, rows)}
    else:
        net, items = ready_for(net, data)
        asked = Start(start or "zeros", _grouped_data(items, groups or {}, net=net), seed)
        branched = _with_rows(net, empty_head(task, names, kind=kind, features=net.head.features), rows=rows, start=asked)
    how = "derived from the old probabilities" if branched.heads[task].groups else f"class weights start as {start or 'zeros'}"
    noted = Account({} if branched.heads[task].groups else {"new": list(names)}, notes=(f"task {task!r}: {how}",))
    branched.account = net.account.joined(noted)
    return branched


def _with_rows(net: Network, head: Head, *, rows: Mapping[str, Sequence[int]] | None, start: Start) -> Network:
    old = (net.head.weight, net.head.bias)
    if start.how == "mean" and rows is not None:
        means = [(old[0][list(members)].mean(0), old[1][list(members)].mean()) for members in rows.values()]
        filled = replace(head, weight=np.stack([weight for weight, _ in means]), bias=np.array([bias for _, bias in means], np.float32))
    else:
        filled = started(net, head, new=np.arange(len(head.weight)), old=old, start=start)
    return net.with_head(filled)


def _group_rows(head: Head, groups: Groups) -> dict[str, list[int]]:
    """Return the old class indices of each group. Raise unless every old class belongs to exactly one group."""
    if head.classes is None or head.kind != "classification":
        raise NetworkError(f"groups= needs a classification with class names; the task {head.task!r} is {head.kind} with {head.classes}.")
    if not isinstance(groups, Mapping) or not all(
        members is None or (isinstance(members, Iterable) and not isinstance(members, str)) for members in groups.values()
    ):
        raise SettingError(f"groups={groups!r}: expected a mapping from each name to a list of old classes, or None for the rest.")
    names = checked_classes(groups)
    row_of = rows_of([str(member) for members in groups.values() for member in members or ()], head.classes)
    found: dict[str, list[int]] = {}
    for name, members in zip(names, groups.values(), strict=True):
        unknown = [member for member in members or () if str(member) not in row_of]
        if unknown:
            raise NetworkError(f"groups: the network has no class {unknown[0]!r} (of {name!r}){near_names(str(unknown[0]), head.classes)}")
        found[name] = [row_of[str(member)] for member in members or ()]
    return _complete(found, head.classes, rest=[name for name, members in zip(names, groups.values(), strict=True) if members is None])


def _complete(found: dict[str, list[int]], classes: Sequence[str], *, rest: Sequence[str]) -> dict[str, list[int]]:
    used = [row for rows in found.values() for row in rows]
    double = sorted({row for row in used if used.count(row) > 1})
    if double:
        raise NetworkError(f"groups: {classes[double[0]]!r} stands in two groups; expected every old class in one.")
    left = [row for row in range(len(classes)) if row not in used]
    if len(rest) > 1:
        raise NetworkError(f"groups: {', '.join(map(repr, rest))} all take the other classes; expected None once at most.")
    if rest:
        found[rest[0]] = left
    elif left:
        named = ", ".join(repr(classes[row]) for row in left[:5])
        raise NetworkError(
            f"groups: {counted(len(left), 'old class', verb='stand')} in no group ({named}); add them, or 'other': None for the rest."
        )
    empty = [name for name, rows in found.items() if not rows]
    if empty:
        raise NetworkError(f"groups: {empty[0]!r} has no old class; expected one or more in every group.")
    return found


def _grouped_data(data: Any, groups: Groups, *, net: Network) -> Any:
    """Replace labels that are old classes by their groups. Data with other labels are returned unchanged."""
    if data is None or not groups:
        return data
    items = as_data(data)
    if items.task != "classification" or len(rows_of(items.classes, net.classes or ())) < len(items.classes):
        return items
    rows = _group_rows(net.head, groups)
    group_of = {row: index for index, members in enumerate(rows.values()) for row in members}
    own = items.with_classes(net.classes or ())
    return replace(own, targets=np.array([group_of[int(row)] for row in own.targets], np.int64), classes=tuple(rows))
