"""Retarget: change the N classes of a head to M classes. Class weights are carried over by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from reprlib import repr as brief
from typing import Any

import numpy as np

from ..errors import NetworkError, SettingError, checked_call, near_names
from ..networks.account import UNNAMED, Account
from ..networks.edits import Cut, Taps
from ..networks.names import checked_classes, exact_name, normal_name, rows_of, shifted
from ..networks.network import Head, Network
from ..networks.parts.head import ACTIVATIONS
from ..randomness import own_state
from ..tasks import KINDS
from ..words import counted
from .starts import Start, empty_head, ready_for, started
from .synonyms import alias_form, aliases

Hidden = Sequence[tuple[int, str]]  # Hidden layers below a head, lowest first: (number of units, activation)


@checked_call
@own_state()
def retarget(  # noqa: PLR0913  # over the limit: the public contract
    net: Network,
    classes: Sequence[str],
    *,
    start: str = "zeros",
    rename: Mapping[str, str] | None = None,
    data: Any = None,
    kind: str | None = None,
    seed: int = 0,
    task: str | None = None,
    hidden: Hidden = (),
    dropout: float = 0.0,
) -> Network:
    """Change the classes of a network: fewer, more, reordered, renamed or entirely different classes.

    Class weights of shared names are carried over bit-identical, whatever their position. Only names count: nothing is reused because the
    number of classes is the same.

    Args:
        net: the network. It is not changed.
        classes: M class names, in the order of the new outputs.
        start: initialisation of the class weights of new classes. "zeros"; "random": the framework's initialisation; "mean": mean of the
            old class weights; "imprint": mean feature direction of each class in `data`; "probe": closed-form solution on `data`.
        rename: old name -> new name.
        data: examples of the new classes, in any form that `regraft.read` reads. For "probe", examples of all classes are better.
        kind: "classification", "multi-label" or "regression". None keeps the kind of the head.
        seed: seed for "random".
        task: which head to change, if there are several. None for the first. Heads derived from it are removed.
        hidden: hidden layers below the new head, lowest first: [(1000, "relu"), (150, "sigmoid")] adds layers of 1,000 and 150 units with
            these activations. They replace the old head, so no class weights are kept. They start from the framework's initialisation.
            `adapt` trains them with the head first, on cached features.
        dropout: dropout rate after each hidden layer, from 0 to below 1.

    Returns:
        A new network. Its account lists which classes were kept, renamed, new and dropped.

    Raises:
        NetworkError: if a class name is empty or not unique, or `rename` contains an unknown name.
        SettingError: if `start` or `kind` is unknown, `start` needs data that are missing, or `hidden` is not a list of layers.
        DataError: if a new class has no examples in the data, or a label is not among `classes`.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> other = regraft.retarget(net, ["cat", "dog", "ant"])
        >>> other.account.entries["new"], other.account.entries["dropped"], bool((other.head.weight[0] == net.head.weight[2]).all())
        (['dog'], ['bee'], True)
    """
    asked, names, layers = Start(start, data, seed), checked_classes(classes), _hidden_layers(hidden, dropout)
    if kind is not None and kind not in KINDS:
        raise SettingError(f"kind={kind!r} is not known{near_names(str(kind), KINDS)}")
    if rename is not None and not isinstance(rename, Mapping):
        raise SettingError(f"rename={brief(rename)}: expected a mapping from old to new class names.")
    if layers:
        _check_deepened(net, start=start, rename=rename, task=task)
        return _deepened(
            net, names, layers=layers, dropout=dropout, kind=kind or (net.head.kind if net.heads else "classification"), asked=asked
        )
    net, items = ready_for(net, data)
    if net.heads:
        old = net.head_of(task)
    else:
        old = replace(empty_head("main", (), kind="classification", features=net.sample_features().shape[1]), classes=None)
    if old.groups is not None:
        raise NetworkError(f"The task {old.task!r} is derived from the classes of {net.head.task!r}; retarget that one, or branch anew.")
    if old.binary and kind not in (None, "classification"):  # independent labels: the first logit is the negative of the second
        old = replace(old, weight=np.stack([-old.weight[1], old.weight[1]]), bias=np.stack([-old.bias[1], old.bias[1]]), binary=False)
    head, account = retargeted_rows(old, names, rename=rename)
    if not net.heads:
        account = replace(account, notes=(f"the network had no head; one was put on {_end_of(net)}",))
    new = np.array([index for index, name in enumerate(names) if name in account.entries["new"]], np.int64)
    head = started(net, head, new=new, old=(old.weight, old.bias), start=replace(asked, data=items))
    changed = net.with_head(_of_kind(head, kind))
    changed.account = net.account.of_weights().joined(account).joined(changed.body.account)
    if len(new):
        changed.body.release_(old.task)
    if net.heads and old.task == net.head.task:
        changed.statistics = changed.unknown = None  # belong to the old classes
        changed.heads = {name: known for name, known in changed.heads.items() if known.groups is None}
    return changed


def _end_of(net: Network) -> str:
    """Return in words what the first head of a network will read."""
    last = net.edits[-1] if net.edits else None
    blocks = [last.block] if isinstance(last, Cut) else [tap.block for tap in last.points] if isinstance(last, Taps) else []
    return f"the output of {', '.join(map(repr, blocks))}" if blocks else "its pooled output"


def _of_kind(head: Head, kind: str | None) -> Head:
    """Return the head for another kind of task. An activation other than "linear" is replaced by that of the kind."""
    if kind is None or kind == head.kind:
        return head
    own = {"classification": "softmax", "multi-label": "sigmoid"}.get(kind, "linear")
    return replace(head, kind=kind, activation="linear" if head.activation == "linear" else own)


def retargeted_rows(old: Head, classes: Sequence[str], *, rename: Mapping[str, str] | None = None) -> tuple[Head, Account]:
    """Return the head with weights (M, d) for other classes, zero where a class is new, and the account (kept, renamed, new, dropped).
    Class weights are matched by name and never by count or position. Names are compared after Unicode NFC normalisation and trimming. If no
    old class has the exact name, a match that ignores case is used if it is unique. If an old class has several names ("tabby, tabby cat"),
    each of them matches, unless it is the full name of another new class. `rename` maps old names to new names."""
    renamed = _checked_renaming(old.classes or (), classes, rename=rename or {})
    old_names = [renamed.get(row, name) for row, name in enumerate(old.classes or ())]
    row_of = _rows_by_name(old_names, classes)
    taken: set[int] = set()
    weight = np.zeros((len(classes), old.weight.shape[1]), old.weight.dtype)
    bias = np.zeros(len(classes), old.bias.dtype)
    rules: dict[str, str] = {}
    entries: dict[str, list[str]] = {"kept": [], "renamed": [], "new": [], "dropped": []}
    for index, name in enumerate(classes):
        row = row_of.get(name)
        if row is None:
            entries["new"].append(name)
            continue
        taken.add(row)
        weight[index], bias[index] = old.weight[row], old.bias[row]
        before = (old.classes or ())[row]
        if row in renamed and exact_name(before) != exact_name(name):
            entries["renamed"].append(f"{before} -> {name}")
        else:
            entries["kept"].append(name)
            if exact_name(before) != exact_name(name):
                same = normal_name(before) == normal_name(name)
                rules[name] = f"differs in case alone from the old class {before!r}" if same else "a synonym of an old class"
    before_all = old.classes or [f"unnamed class {row}" for row in range(1, 1 + len(old.weight))]
    entries["dropped"] = [name for row, name in enumerate(before_all) if row not in taken]
    rest = old if not old.binary or len(classes) == 2 else old.as_softmax()
    head = replace(rest, classes=tuple(classes), weight=weight, bias=bias, parts=(), thresholds=None)
    return head, Account(entries, rules, notes=_notes(old, classes, entries=entries))


def _rows_by_name(old: Sequence[str], new: Sequence[str]) -> dict[str, int]:
    """Return the old class index of each new name that has a match: by full name first, then by synonym. No index is used twice."""
    found, synonyms = rows_of(new, old), aliases(old)
    forms = Counter(map(normal_name, new))
    for name in new:
        row = synonyms.get(alias_form(name))
        if name not in found and row is not None and row not in found.values() and forms[normal_name(name)] == 1:
            found[name] = row
    return found


def _checked_renaming(old: Sequence[str], new: Sequence[str], *, rename: Mapping[str, str]) -> dict[int, str]:
    """Return old class index -> new name, spelled as in the new classes, for each renamed class."""
    olds, news = rows_of(rename, old), rows_of(rename.values(), new)
    for before, after in rename.items():
        if before not in olds:
            raise NetworkError(f"rename: the network has no class {before!r}{near_names(before, old)}")
        if after not in news:
            raise NetworkError(f"rename: {after!r} is not among the new classes{near_names(after, new)}")
    renamed = {olds[before]: new[news[after]] for before, after in rename.items()}
    called = [exact_name(renamed.get(row, name)) for row, name in enumerate(old)]
    if len(renamed) < len(rename) or len(set(called)) < len(called):
        raise NetworkError(f"rename: two classes become one: {dict(rename)!r}. Give every old class a name of its own.")
    return renamed


def _notes(old: Head, classes: Sequence[str], *, entries: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if old.classes is None and len(old.weight) and old.kind != "regression":
        return (
            f"The {counted(len(old.weight), 'output')} of the head {old.layer!r} {UNNAMED}; give the names with classes= when the network "
            "is loaded, or, if they are an embedding, keep them: regraft.cut(net, block) with the block that holds this head",
        )
    if old.classes is not None and not entries["kept"] and not entries["renamed"]:
        return (f"no class name is shared with the {len(old.weight):,} old ones, so no class weights were carried over",)
    doubt = shifted(classes, old.classes or ())
    return (doubt,) if doubt else ()


# ── hidden layers below a new head ───────────────────────────────────────────────────────────────────────────────────────


def _hidden_layers(hidden: Any, dropout: float) -> Hidden:
    """Return `hidden` unchanged if it is a valid list of layers. Raise otherwise, also for a dropout that does not fit."""
    if not isinstance(hidden, Sequence) or isinstance(hidden, str) or not all(map(_is_layer, hidden)):
        raise SettingError(f"hidden={hidden!r}: expected units and what follows them for each layer, such as [(1000, 'relu')].")
    layers: Hidden = hidden
    unknown = [activation for _, activation in layers if activation not in ACTIVATIONS]
    if unknown:
        raise SettingError(f"hidden={list(hidden)!r}: the activation {unknown[0]!r} is not known{near_names(unknown[0], ACTIVATIONS)}")
    if not isinstance(dropout, (int, float)) or isinstance(dropout, bool) or not 0 <= dropout < 1:
        raise SettingError(f"dropout={dropout!r}: expected a share from 0 to below 1, such as 0.3.")
    if dropout and not hidden:
        raise SettingError(
            f"dropout={dropout!r} goes with hidden=, behind each of whose layers it stands; for a training give it to adapt."
        )
    return layers


def _is_layer(given: object) -> bool:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        return False
    units, activation = given
    return isinstance(units, int) and not isinstance(units, bool) and units >= 1 and isinstance(activation, str)


def _check_deepened(net: Network, *, start: str, rename: Mapping[str, str] | None, task: str | None) -> None:
    """Raise if a network cannot have hidden layers below a new head, or `start` or `rename` is not possible with them."""
    if start not in ("zeros", "random"):
        raise SettingError(
            f"start={start!r} computes class weights from features; those of hidden= are random until adapt has trained them."
        )
    if rename:
        raise SettingError(f"rename={dict(rename)!r} keeps class weights; with hidden= the new head reads other features. Leave it out.")
    others = [name for name, head in net.heads.items() if head.groups is None and head.task != net.head_of(task).task]
    if others:
        raise NetworkError(
            f"hidden= puts layers below a single head; this network has further ones: {', '.join(map(repr, others))}. Open it with head=."
        )


def _deepened(net: Network, classes: Sequence[str], *, layers: Hidden, dropout: float, kind: str, asked: Start) -> Network:
    """Return a network with randomly initialised hidden layers below a new head."""
    old, task = (net.head.classes or () if net.heads else ()), net.head.task if net.heads else "main"
    width = net.head.features if net.heads else net.sample_features().shape[1]
    ends = net.head.as_softmax() if net.heads and net.head.binary else net.head if net.heads else None
    first = _drawn(net, layers[0][0], features=width, task=task, seed=asked.seed)
    made = net.with_head(first if ends is None else replace(first, activation=ends.activation))
    for number, ((below, activation), (units, _)) in enumerate(pairwise([*layers, (len(classes), "")]), start=1):
        made.body.release_(task)
        made.body.untrained |= set(made.body.layers_of(task))
        head = _drawn(made, units, features=below, task=task, seed=asked.seed + number)
        if number == len(layers):
            zeros = empty_head(task, classes, kind=kind, features=below)
            head = replace(zeros, weight=head.weight, bias=head.bias) if asked.how == "random" else zeros
        made = made.with_stack(head, activation, dropout=dropout)
    told = ", ".join(f"{units} {activation}" for units, activation in layers) + (f", each with dropout {dropout}" if dropout else "")
    note = f"below the new head are layers that were never trained ({told}): {', '.join(map(repr, made.fresh))}"
    entries = {"new": list(classes)} | ({"dropped": list(old)} if old else {})
    made.account = net.account.of_weights().joined(Account(entries, notes=(note,)))
    return made


def _drawn(net: Network, units: int, *, features: int, task: str, seed: int) -> Head:
    """Return a head without class names, with weights (units, features) that the framework initialises with `seed`."""
    weight, bias = net.body.fresh_rows(units, features, seed=seed)
    return Head(task, None, "classification", "linear", "", weight, bias)
