"""Training time of each candidate on this machine, from a few real batches: reading, forward and backward pass by block."""

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...console import speaking
from ...networks.network import Network
from ...networks.samples import placed
from ...networks.tracing import hooked
from ...training import Training, WholeFeed, train
from ..setup import Setup

TIMED = 16  # Number of examples in the timed batches


@dataclass(frozen=True)
class Costs:
    """Seconds per example, by the blocks of the network in execution order."""

    layers: tuple[tuple[str, ...], ...]  # layers of each of the B blocks
    forward: np.ndarray  # (B,) seconds
    backward: np.ndarray  # (B,) seconds, of gradients and optimizer step
    reading: float  # seconds to read and prepare an example

    @property
    def one_pass(self) -> float:
        """Seconds to read one example and run the network on it."""
        return self.reading + float(self.forward.sum())

    def training(self, frozen: Collection[str], *, items: int, epochs: int) -> float:
        """Return the seconds of one pass through the frozen part and of `epochs` passes through the rest."""
        trained = np.array([not set(layers) <= set(frozen) for layers in self.layers])
        above = np.logical_or.accumulate(trained)
        reading = 0.0 if (~above).any() else self.reading
        first = items * (self.reading + float(self.forward[~above].sum())) if (~above).any() else 0.0
        return first + epochs * items * (reading + float(self.forward[above].sum() + self.backward[above].sum()))


def pass_seconds(setup: Setup) -> float:
    """Return the seconds of one pass over all examples of a `setup`, estimated from two batches."""
    rows = np.arange(min(TIMED, len(setup.items)))
    reading, forward = _forward(setup, setup.network, rows=rows)
    return (reading + float(forward.sum())) * len(setup.items)


def measured_costs(setup: Setup) -> Costs:
    """Time reading, the forward pass by block, and training steps at two depths, on a copy of the setup's network.
    Between the two depths, the time of the backward pass is divided in proportion to the blocks' forward time."""
    rows = setup.parts.training[:TIMED]
    twin = setup.network.copy()
    twin.body.move_(setup.device)
    reading, forward = _forward(setup, twin, rows=rows)
    blocks, middle = twin.blocks, len(twin.blocks) // 2
    lower = frozenset(name for block in blocks[:middle] for name in block.layers) - set(twin.head_layers)
    whole, upper = (_step(setup, twin, frozen=frozen, rows=rows) - reading - float(forward.sum()) for frozen in (frozenset(), lower))
    whole, upper = max(whole, 1e-9), max(min(upper, whole), 1e-9)
    backward = np.zeros(len(blocks))
    for part, seconds in ((slice(0, middle), whole - upper), (slice(middle, None), upper)):
        share = forward[part] + 1e-9
        backward[part] = seconds * share / share.sum() if len(share) else 0.0
    return Costs(tuple(block.layers for block in blocks), forward, backward, reading)


def _forward(setup: Setup, network: Network, *, rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the seconds per example of reading, and of the forward pass by block, measured when its last layer ends."""
    began = time.perf_counter()
    inputs = setup.items.batch(rows)
    reading = (time.perf_counter() - began) / len(rows)
    inputs, modules = placed(inputs, setup.device, order=network.body.memory_order), network.modules()
    places = {block.layers[-1]: at for at, block in enumerate(network.blocks)}
    done = np.zeros(len(network.blocks))

    def note(name: str, _output: Any) -> None:
        done[places[name]] = time.perf_counter()

    network.mode_(False)
    ends = {name: modules[name] for name in places if name in modules}  # the time of a block without one counts for the next that has one
    with torch.no_grad(), hooked(ends, after=note):
        network.scores(inputs)
        began = time.perf_counter()
        network.scores(inputs)
    reached = np.maximum.accumulate(np.where(done > began, done, began))
    return reading, np.diff(reached, prepend=began) / len(rows)


def _step(setup: Setup, network: Network, *, frozen: frozenset[str], rows: np.ndarray) -> float:
    """Return the seconds per example of a whole training step, from the faster of two epochs, since the first one includes preparation."""
    feed, still = WholeFeed(network, setup.items, 1, setup.device), frozen | setup.idle_layers
    settings = replace(setup.settings, epochs=2, batch_size=len(rows), learning_rate=1e-6, patience=None, unfreeze_every=None)
    with speaking(False):
        history = train(Training(network, feed, setup.objective(), rows, rows[:0], settings, setup.plan.seed, still, None, "timing"))
    return float(min(entry["seconds"] for entry in history)) / len(rows)
