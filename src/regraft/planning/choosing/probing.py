"""Closed-form heads on what one pass read of a network at several depths, and the network that has one of them as its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...errors import NetworkError, SettingError, near_names
from ...networks.contract import Head, Network
from ...networks.parts.taps import INPUT, VECTOR
from ...probes import LinearProbe
from ...probes.common import HiddenLayer
from ..setup import Setup
from ..tapped import Tapped
from .solving import WORDS, Probed, by_discriminants, solved_probe
from .stacking import OLD_ROWS, old_rows, stacked

__all__ = ["JOINT", "best_of", "block_of", "by_ridge", "probe_at", "probed_network", "probes_of", "refitted", "with_rows"]

JOINT = "all depths"
WIDEST_ALONE = 5000
"""Features up to which discriminant analysis is asked for by name: it inverts a matrix of that size for each fold."""
_PLAIN = ("mean", "std", "token", VECTOR)
_PLAIN_NAME = f"{JOINT}, means and deviations"


def by_ridge(setup: Setup, tapped: Tapped, *, rows: np.ndarray) -> list[Probed]:
    """Solve ridge regression on each depth alone and on all of them together.

    Returns:
        One for each depth and for the joint sets.
    """
    blocks = list(dict.fromkeys(part.block for part in tapped.slices))
    sets = {block: tuple(part for part in tapped.slices if part.block == block) for block in blocks}
    if len(blocks) > 1:
        sets[JOINT] = tapped.slices
        sets[f"{JOINT}, without the input"] = tuple(part for part in tapped.slices if part.block != INPUT)
        sets[_PLAIN_NAME] = tuple(part for part in tapped.slices if part.pool in _PLAIN)
    made: list[Probed] = []
    for name, slices in sets.items():
        if slices and slices not in [other.slices for other in made]:
            made.append(solved_probe(setup, tapped, name, slices=slices, rows=rows))
    return made


def probes_of(setup: Setup, tapped: Tapped, *, rows: np.ndarray) -> list[Probed]:
    """Solve probes on each depth alone and on all of them together, and weigh them.

    Returns:
        One for each depth and for the joint sets, those that discriminant analysis solves better by it; then their weighed mean,
        where the tasks have classes.
    """
    made = by_ridge(setup, tapped, rows=rows)
    promising = [best_of(part) for part in ([one for one in made if one.joint], [one for one in made if not one.joint]) if part]
    promising += [one for one in made if one.name == _PLAIN_NAME and one not in promising]
    further = {one.name: by_discriminants(setup, tapped, probed=one, rows=rows) for one in promising}
    every = [*made, *(other for found in further.values() for other in found), *old_rows(setup, tapped, rows=rows)]
    return [*(best_of([one, *further.get(one.name, ())]) for one in made), *stacked(setup, tapped, members=every)]


def best_of(found: Sequence[Probed]) -> Probed:
    """Return the probe with the lowest held-out loss among those whose error is within half a standard error of the lowest.

    One on several depths is taken unless one on a single depth is better by a whole standard error: of many depths, one may look best
    by chance. Their weighed mean is taken unless one of them is better by a whole standard error or one item.
    """
    lowest = min(found, key=lambda one: (one.error, one.loss))
    weighed = next((one for one in found if one.members), None)
    if weighed is not None and weighed.error <= lowest.error + max(lowest.standard_error, weighed.standard_error, 1 / len(weighed.errors)):
        return weighed
    joint = [one for one in found if one.joint and one.error <= lowest.error + lowest.standard_error]
    best = min((one.error for one in joint), default=lowest.error)
    return min((one for one in joint or found if one.error <= best + 0.5 * lowest.standard_error), key=lambda one: one.loss)


def probe_at(setup: Setup, tapped: Tapped, *, rows: np.ndarray) -> Probed:
    """Return the probe that the plan asks for: of its block alone, or the best of all depths together.

    Args:
        setup: its plan may name a block, or its number.

    Raises:
        SettingError: if the block is not there, or gives nothing that can be read.
    """
    asked, method = setup.plan.frozen, setup.plan.probe
    if asked is None and method == "auto":
        found = probes_of(setup, tapped, rows=rows)
        return best_of([one for one in found if one.joint] or found)
    if asked is None:
        chosen = _best_set(by_ridge(setup, tapped, rows=rows), method)
        return chosen if method == "ridge" else _again(setup, tapped, probed=chosen, rows=rows, method=WORDS[method])
    block = block_of(setup.network, asked)
    slices = tuple(part for part in tapped.slices if part.block == block)
    if not slices:
        known = list(dict.fromkeys(part.block for part in tapped.slices))
        raise SettingError(f"frozen={asked!r}: the block {block!r} gives no numbers that a probe can read{near_names(block, known)}")
    plain = solved_probe(setup, tapped, block, slices=slices, rows=rows)
    if method in ("auto", "ridge"):
        return best_of([plain, *(by_discriminants(setup, tapped, probed=plain, rows=rows) if method == "auto" else ())])
    return _again(setup, tapped, probed=plain, rows=rows, method=WORDS[method])


def _best_set(found: Sequence[Probed], method: str) -> Probed:
    """Return the best of the sets of features, among several depths together, that are not too wide for a method."""
    narrow = [one for one in found if method != "lda" or len(one.columns) <= WIDEST_ALONE] or [min(found, key=lambda one: len(one.columns))]
    return best_of([one for one in narrow if one.joint] or narrow)


def _again(setup: Setup, tapped: Tapped, *, probed: Probed, rows: np.ndarray, method: str) -> Probed:
    """Return a probe on the same features by another method."""
    return solved_probe(setup, tapped, probed.name, slices=probed.slices, rows=rows, method=method)


def block_of(network: Network, asked: int | str) -> str:
    """Return the name of a block, or "input".

    Args:
        asked: the name, or the number of a block, from 1.

    Raises:
        SettingError: if there is none such; the nearest names are listed.
    """
    names = [block.name for block in network.blocks]
    if isinstance(asked, int):
        if not 1 <= asked <= len(names):
            raise SettingError(f"frozen={asked}: this network has {len(names)} blocks; a probe reads one of 1 to {len(names)}, or a name.")
        return names[asked - 1]
    if asked not in [*names, INPUT]:
        raise SettingError(f"frozen={asked!r}: the network has no block of that name{near_names(asked, [INPUT, *names])}")
    return asked


def refitted(setup: Setup, tapped: Tapped, *, probed: Probed, rows: np.ndarray) -> Probed:
    """Return the same kind of probe on the same features, fitted to other items."""
    if probed.members:
        members = [refitted(setup, tapped, probed=one, rows=rows) for one in probed.members]
        return stacked(setup, tapped, members=members, name=probed.name)[0]
    if probed.method == OLD_ROWS:
        return old_rows(setup, tapped, rows=rows)[0]
    if probed.method == WORDS["lda"]:
        return by_discriminants(setup, tapped, probed=probed, rows=rows)[0]
    return solved_probe(setup, tapped, probed.name, slices=probed.slices, rows=rows)


def probed_network(setup: Setup, probed: Probed) -> Network:
    """Return a network whose head is what was `probed`, on the setup's network as it was when it was read; further tasks are branches.

    Raises:
        NetworkError: if the network gives other features than those that were read.
    """
    network = setup.network.tapped(probed.taps)
    found = [(part.block, part.pool, part.stop - part.start) for part in network.tap_slices]
    wanted = [(part.block, part.pool, part.stop - part.start) for part in probed.slices]
    if found != wanted:
        raise NetworkError(f"The tapped network gives {found[:3]} …; expected {wanted[:3]} …. Read it anew, without its cache.")
    order = list(setup.network.heads)
    for name, task in sorted(setup.tasks.items(), key=lambda pair: order.index(pair[1])):
        probe, head = probed.probes[name], setup.network.heads[task]
        network = with_rows(network, head, probe=probe, layer=probed.layer)
    network.preprocessing, network.account = setup.network.preprocessing, setup.network.account
    return network


def with_rows(network: Network, head: Head, *, probe: LinearProbe, layer: HiddenLayer | None) -> Network:
    """Return a network with a head that was solved, read through a further layer where there is one.

    Args:
        network: with that head, or none.

    Returns:
        A copy with the head; other heads are lost behind a layer.
    """
    weight, bias = probe.weight.astype(np.float32), probe.bias.astype(np.float32)
    solved = replace(head, layer="", parts=(), groups=None, thresholds=None, weight=weight, bias=bias)
    if layer is None:
        return network.with_head(solved)
    below = network.with_head(replace(solved, classes=None, weight=layer.weight, bias=layer.bias))
    return below.with_stack(solved, layer.activation)
