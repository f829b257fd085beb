"""Place of a new head on a network without one: its pooled output or one of its last blocks, measured on the training set."""

from __future__ import annotations

import numpy as np
import torch

from ...data import Prepared
from ...errors import NetworkError
from ...networks.account import Account
from ...networks.contract import Network, Tap
from ...probes import fit_ridge
from ..measured_input import LEAST, SURE, losses_of, surely

ATTACHED = "The network had no head that could be recognised"
_MOST, _BLOCKS, _BATCH = 256, 3, 32  # Examples of the measurement; number of last blocks that are tried; examples per pass


def attached(net: Network, items: Prepared, *, rows: np.ndarray) -> Network:
    """Return a network that ends where the new head reads: at its pooled output, unless one of its last blocks is significantly better.
    The leave-one-out loss of ridge regression decides: a block replaces the output if its loss is lower by two standard errors of the
    difference. The output may be probabilities or a single number, from which new classes cannot be predicted.
    `rows` (n,) holds the indices of the training set."""
    data = items.data
    known = rows[data.known[rows]]
    known = known[:: max(1, len(known) // _MOST)][:_MOST]
    if net.heads or not net.blocks or net.body.draws or len(known) < LEAST or not np.ptp(data.targets[known], axis=0).any():
        return net
    blocks = [block.name for block in net.blocks[-_BLOCKS:]]
    try:
        tapped = net.tapped([Tap(name, ("mean",)) for name in blocks])
    except NetworkError:  # no block is called, or none gives numbers for each example
        return net
    places = {"": _features(net, items, rows=known)}
    table = _features(tapped, items, rows=known)
    places |= {part.block: table[:, part.start : part.stop] for part in tapped.body.tap_slices}
    losses = {name: _losses(features, items, rows=known) for name, features in places.items() if np.isfinite(features).all()}
    if "" not in losses or len(losses) < 2:
        return net
    best = min((name for name in losses if name), key=lambda name: float(losses[name].mean()))
    figures = f"{losses[best].mean():.3g} on the block {best!r}, {losses[''].mean():.3g} on its pooled output ({len(known)} examples)"
    if surely(losses[""] - losses[best]) < SURE:
        return net
    found = net.ended(best)
    note = f"{ATTACHED}: the new one reads the block {best!r}. Leave-one-out loss: {figures}."
    found.account, found.preprocessing = net.account.joined(Account(notes=(note,))), net.preprocessing
    return found


def _features(net: Network, items: Prepared, *, rows: np.ndarray) -> np.ndarray:
    """Return the features that a new head would read, (n, d)."""
    twin = net.copy()
    twin.mode_(False)
    with torch.no_grad():
        batches = (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))
        return torch.cat([twin.feature_batch(items.batch(batch)).float().cpu() for batch in batches]).numpy()


def _losses(features: np.ndarray, items: Prepared, *, rows: np.ndarray) -> np.ndarray:
    data = items.data
    groups = None if data.groups is None or len(np.unique(data.groups[rows])) < 3 else data.groups[rows]
    probe = fit_ridge(features, data.targets[rows], kind=data.task, classes=len(data.classes), groups=groups, standardise=True)
    return losses_of(probe.loo_scores, data.targets[rows], kind=data.task)
