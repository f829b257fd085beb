"""Hidden layers below a new head, built from the two head operations that every network has (`with_head`, `with_stack`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ..errors import NetworkError, SettingError, near_names
from ..networks.account import Account
from ..networks.contract import Head, Network
from ..networks.parts.head import ACTIVATIONS
from .starts import Start, empty_head

__all__ = ["Hidden", "check_deepened", "deepened", "hidden_layers"]

Hidden = Sequence[tuple[int, str]]
"""Hidden layers below a head, lowest first: (number of units, activation)."""


def hidden_layers(hidden: Any, dropout: float) -> Hidden:
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


def check_deepened(net: Network, *, start: str, rename: Mapping[str, str] | None, task: str | None) -> None:
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


def deepened(net: Network, classes: Sequence[str], *, layers: Hidden, dropout: float, kind: str, asked: Start) -> Network:
    """Return a network with randomly initialised hidden layers below a new head."""
    old, task = (net.head.classes or () if net.heads else ()), net.head.task if net.heads else "main"
    width = net.head.features if net.heads else net.sample_features().shape[1]
    ends = net.head.as_softmax() if net.heads and net.head.binary else net.head if net.heads else None
    first = _drawn(net, layers[0][0], features=width, task=task, seed=asked.seed)
    made = net.with_head(first if ends is None else replace(first, activation=ends.activation))
    for number, ((below, activation), (units, _)) in enumerate(pairwise([*layers, (len(classes), "")]), start=1):
        for layer in made.body.layers_of(task):
            made.body.release_(layer)
        made.body.fresh_([*made.fresh, *made.body.layers_of(task)])
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
