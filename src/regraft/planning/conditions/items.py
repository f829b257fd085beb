"""Examples of a network with codes. The part below the first use of the code is computed once.

Shape letters: P pairs of example and row of the code table, V rows, M numbers per code.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ...data import PreparedData
from ...freezing import Counter, Cut, cacheable_layers, find_cut
from ...networks.network import Inputs, Network, Scores
from ...networks.samples import placed

NUMBERS_AT_ONCE = 2**22  # Maximum number of values in a batch of pairs, at the input of the part that runs for every code
READ_AT_ONCE = 64


def batch_rows(tensors: list[Tensor]) -> int:
    """Return the batch size, 16 to 8192, for examples with the shapes of these tensors (n, …)."""
    numbers = sum(int(np.prod(tensor.shape[1:])) for tensor in tensors)
    return int(min(max(NUMBERS_AT_ONCE // max(1, numbers), 16), 8192))


class CodedItems:
    """Examples of a data set, stored at the first use of the code, for any row of the code table.
    `network`: network with V rows besides that of the mean code; nothing but the code table may change. `table`: its code table, (1 + V,
    M). `counter`: number of examples that went through the part below the first use of the code. `cached`: whether there is such a part,
    computed once."""

    def __init__(self, network: Network, items: PreparedData, *, device: torch.device) -> None:
        network.body.move_(device)
        self.network, self.counter, self._device = network, Counter(), device
        self.table = network.body.code_table()
        own = {name for name, held in network.layer_parameters().items() if any(part is self.table for part in held.values())}
        frozen = frozenset(layer.name for layer in network.layers if layer.name not in own)
        network.freeze_(frozen)
        network.mode_(False)
        sample = items.batch(np.arange(3) % len(items))
        self._cut, self._at = _usable_cut(network, frozen, sample=placed(sample, device, order=network.body.training_order(device)))
        self.cached = self._cut is not None
        self._names: list[str] = [] if self.cached else list(_named(sample))
        self._tensors = self._held(items)
        self._size = batch_rows(self._tensors)

    def scores(self, rows: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[slice, Scores]]:
        """Yield batches of pairs as a slice of the P pairs and their logits by task, with gradients of the code table if enabled.
        `rows`: (P,) rows of the table; `chosen`: (P,) example indices."""
        for start in range(0, len(rows), self._size):
            part = slice(start, start + self._size)
            index = torch.from_numpy(np.asarray(chosen[part], np.int64)).to(self._device)
            tensors = [tensor[index] for tensor in self._tensors]
            tensors[self._at] = torch.from_numpy(np.asarray(rows[part], np.int64)).to(tensors[self._at])
            if self._cut is None:
                yield part, self.network.scores(dict(zip(self._names, tensors, strict=True)))
            else:
                yield part, self._cut.trainable_part(tensors)

    def put_(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Write the codes `values` (A, M) into the rows (A,) of the table."""
        with torch.no_grad():
            self.table[torch.from_numpy(np.asarray(rows, np.int64)).to(self._device)] = torch.from_numpy(values).to(self.table)

    def _held(self, items: PreparedData) -> list[Tensor]:
        """Return the stored tensors of all examples: the live outputs of the cut, or the inputs without a cut."""
        found: list[list[Tensor]] = []
        for indices, batch in items.batches(READ_AT_ONCE):
            inputs = placed(batch, self._device, order=self.network.body.training_order(self._device))
            if self._cut is None:
                found.append([_named(inputs)[name] for name in self._names])
                continue
            self.counter.items += len(indices)
            found.append([tensor.detach() for tensor in self._cut.frozen_part(inputs)])
        if self._cut is None:
            self._at = self._names.index("condition")
        return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _named(inputs: Inputs) -> dict[str, Tensor]:
    return inputs if isinstance(inputs, dict) else {"inputs": inputs}


def _usable_cut(network: Network, frozen: frozenset[str], *, sample: Inputs) -> tuple[Cut | None, int]:
    """Return the cut below the first use of the code, and the index of its condition tensor; (None, 0) if there is no such cut.
    The condition tensor is the only one that changes with the condition."""
    layers = cacheable_layers(network, frozen - set(network.head_layers))
    cut = find_cut(network, layers, sample=sample) if layers else None
    if not isinstance(cut, Cut):
        return None, 0
    named = _named(sample)
    one, other = (cut.frozen_part({**named, "condition": torch.full_like(named["condition"], row)}) for row in (0, 1))
    changed = [at for at, (before, after) in enumerate(zip(one, other, strict=True)) if not torch.equal(before, after)]
    if len(changed) != 1 or one[changed[0]].is_floating_point() or one[changed[0]].shape != named["condition"].shape:
        return None, 0
    return cut, changed[0]
