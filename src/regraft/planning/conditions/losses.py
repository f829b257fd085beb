"""What a code is fitted to: the loss of each pair of an item and a row of codes, and its gradient by the codes.

Shape letters: n items, P pairs, V rows of codes, A of them at work, M numbers in a code, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...networks.contract import Scores
from ...training.full_batch import value_and_gradient
from .items import CodedItems

__all__ = ["Aim", "CodeLosses", "entropies", "item_losses"]


def item_losses(kind: str, scores: Tensor, *, targets: Tensor) -> Tensor:
    """Return the loss of each item, (B,), in nats: its negative log-likelihood; for regression, the squared error.

    `scores`: (B, C) raw; `targets`: (B,) int64, or (B, C) numbers.
    """
    if kind == "classification":
        return functional.cross_entropy(scores, targets.long(), reduction="none")
    truth = targets.to(scores).reshape(scores.shape)
    if kind == "multi-label":
        return functional.binary_cross_entropy_with_logits(scores, truth, reduction="none").sum(1)
    return (scores - truth).square().sum(1)


def entropies(kind: str, scores: Tensor) -> Tensor:
    """Return how unsure raw scores (B, C) are of each item, (B,), in nats: the entropy of the `kind`'s probabilities."""
    if kind == "classification":
        log = scores.log_softmax(1)
        return -(log.exp() * log).sum(1)
    return -(scores.sigmoid() * functional.logsigmoid(scores) + (-scores).sigmoid() * functional.logsigmoid(-scores)).sum(1)


@dataclass(frozen=True)
class Aim:
    """What one head is to say of the items.

    Attributes:
        kind: "classification", "multi-label" or "regression".
        targets: (n,) or (n, C), those that are not known in any form; None: the entropy is what counts.
        weights: (n,) of each item's loss; 0 where its target is not known.
    """

    task: str
    kind: str
    targets: Tensor | None = field(repr=False)
    weights: Tensor = field(repr=False)

    def losses(self, scores: Scores, chosen: Tensor) -> Tensor:
        """Return the weighted loss (B,) of some items from their scores, by task; `chosen` (B,) are the items."""
        weights = self.weights[chosen]
        if self.targets is None:
            return entropies(self.kind, scores[self.task]) * weights
        found = item_losses(self.kind, scores[self.task], targets=self.targets[chosen])
        return torch.where(weights > 0, found, torch.zeros_like(found)) * weights


class CodeLosses:
    """Sums of losses over the items of each row of codes.

    Attributes:
        aims: what the heads are to say of them.
        members: V arrays, the items of each row.
    """

    def __init__(self, items: CodedItems, aims: Sequence[Aim], *, members: Sequence[np.ndarray]) -> None:
        self.items = items
        self.aims = aims
        self.members = members

    def __call__(self, values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the summed loss (A,) of some rows at the codes (A, M), and its gradient (A, M)."""
        self.items.put_(values, 1 + rows)
        totals, gradient = value_and_gradient(self._parts(rows, self.members), self.items.table, count=len(rows))
        return totals, gradient[1 + rows]

    def each(self, values: np.ndarray, members: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the loss of each of the items `members` of every row, V arrays, at the codes `values` (V, M)."""
        rows = np.arange(len(values))
        self.items.put_(values, 1 + rows)
        with torch.no_grad():
            found = [losses.double().cpu().numpy() for losses, _ in self._parts(rows, members)]
        ends = np.cumsum([len(part) for part in members])[:-1]
        return np.split(np.concatenate(found) if found else np.zeros(0), ends)

    def _parts(self, rows: np.ndarray, members: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield batches of losses, and which of the rows they belong to."""
        counts = [len(members[row]) for row in rows]
        chosen = np.concatenate([members[row] for row in rows]) if len(rows) else np.zeros(0, np.int64)
        places = np.repeat(np.arange(len(rows)), counts)
        for part, scores in self.items.scores(1 + rows[places], chosen):
            index = torch.from_numpy(chosen[part]).to(next(iter(scores.values())).device)
            yield torch.stack([aim.losses(scores, index) for aim in self.aims]).sum(0), places[part]
