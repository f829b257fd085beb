"""Place of a new head on a network without one: its pooled output or one of its last blocks, measured on the training set."""

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...data import PreparedData
from ...errors import NetworkError
from ...heads import retarget
from ...networks.account import Account
from ...networks.network import Inputs, Network, Tap
from ...networks.padding import by_length, reads_padding, skips_padding, sorts_by_length, takes_mask
from ...networks.parts.structure import Block
from ...probes import fit_ridge
from ...words import counted
from ..measured_input import LEAST, SURE, losses_of, surely
from ..tap_features import FeatureNetwork, reading_at

ATTACHED = "The network had no head that could be recognised"
_MOST, _BLOCKS, _BATCH = 256, 3, 32  # Examples of the measurement; number of last blocks that are tried; examples per pass


def attached(net: Network, items: PreparedData, *, rows: np.ndarray) -> Network:
    """Return a network that ends where the new head reads: at its pooled output, unless one of its last blocks is significantly better.
    The leave-one-out loss of ridge regression decides: a block replaces the output if its loss is lower by two standard errors of the
    difference. The output may be probabilities or a single number, from which new classes cannot be predicted. Of a network with an
    attention mask, blocks are read without padding (PyTorch); an output that depends on it gives way to a block whose loss is not higher.
    `rows` (n,) holds the indices of the training set."""
    data = items.data
    known = rows[data.known[rows]]
    known = known[:: max(1, len(known) // _MOST)][:_MOST]
    if net.heads or not net.blocks or net.body.draws or len(known) < LEAST or not np.ptp(data.targets[known], axis=0).any():
        return net
    places, padded = _places(net, items, rows=known)
    losses = {name: _losses(features, items, rows=known) for name, features in places.items() if np.isfinite(features).all()}
    if "" not in losses or len(losses) < 2:
        return net
    best = min((name for name in losses if name), key=lambda name: float(losses[name].mean()))
    figures = (
        f"{losses[best].mean():.3g} on the block {best!r}, {losses[''].mean():.3g} on its pooled output ({counted(len(known), 'example')})"
    )
    gained, found, place = losses[""] - losses[best], copy.copy(net), "its pooled output"
    if surely(gained) >= SURE or (padded and gained.mean() >= 0):
        found = net.tapped([Tap(best, ("mean",))]) if takes_mask(net.sample) else net.ended(best)
        place = f"the block {best!r}"
    note = f"{ATTACHED}: the new one reads {place}. Leave-one-out loss: {figures}."
    found.account, found.preprocessing = net.account.joined(Account(notes=(note,))), net.preprocessing
    return found


def _places(net: Network, items: PreparedData, *, rows: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
    """Return what a new head would read, (n, d), on the pooled output ("") and on each of the last blocks, and whether the output
    depends on padding, which the blocks do not. It takes one pass, or two where a network with a head names its blocks otherwise (Keras
    models without a graph). Empty if no block is called, or one does not give numbers for each example."""
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    padded = False
    try:
        headed = retarget(net, ["new"], start="zeros")  # the input of its head is the pooled output
        reading = _reading(net, net.blocks, headed=headed)
        if sorts_by_length(net.sample):
            inputs = items.batch(rows)
            skips = skips_padding(reading.read, inputs)
            read = [by_length(reading.read, inputs, batch_size=_BATCH, skips=skips)]
            padded = not skips and reads_padding(lambda few: reading.read(few)[1:] if reading.heads else _pooled(net, [few]), inputs)
            padded = padded and not reads_padding(lambda few: reading.read(few)[:1], inputs)
        else:
            read = [reading.read(items.batch(batch)) for batch in batches]
    except NetworkError:
        return {}, False
    whole = [made[1] for made in read] if reading.heads else _pooled(net, map(items.batch, batches))
    table = torch.cat([made[0] for made in read]).cpu().numpy()
    places = {part.block: table[:, part.start : part.stop] for part in reading.slices}
    return {"": torch.cat(whole).cpu().numpy()} | places, padded


def _reading(net: Network, blocks: Sequence[Block], *, headed: Network) -> FeatureNetwork:
    """Return the reading of the last of some `blocks`; of those before them if none of them is called, or gives real numbers.
    `headed` is the network with a head, which reads its pooled output; it is read if it has the same blocks."""
    taps = [Tap(block.name, ("mean",)) for block in blocks[-_BLOCKS:]]
    same = {tap.block for tap in taps} <= {block.name for block in headed.blocks}
    try:
        return reading_at(headed if same else net, taps)
    except NetworkError:
        if len(blocks) <= _BLOCKS:
            raise
    return _reading(net, blocks[:-_BLOCKS], headed=headed)


def _pooled(net: Network, batches: Iterable[Inputs]) -> list[Tensor]:
    twin = net.copy()
    twin.mode_(False)
    with torch.no_grad():
        return [twin.feature_batch(inputs).float() for inputs in batches]


def _losses(features: np.ndarray, items: PreparedData, *, rows: np.ndarray) -> np.ndarray:
    data = items.data
    groups = None if data.groups is None or len(np.unique(data.groups[rows])) < 3 else data.groups[rows]
    probe = fit_ridge(features, data.targets[rows], kind=data.task, classes=len(data.classes), groups=groups, standardise=True)
    return losses_of(probe.loo_scores, data.targets[rows], kind=data.task)
