"""Losses for fitting codes: the loss of each pair of example and code, and its gradient with respect to the codes.

Shape letters: n examples, P pairs, V rows of codes, A of them active, M numbers per code, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...networks.network import Scores
from ...training.full_batch import value_and_gradient
from .items import CodedItems


def _item_losses(kind: str, scores: Tensor, *, targets: Tensor) -> Tensor:
    """Return the loss of each example, (B,): its negative log-likelihood in nats; for regression, the squared error.
    `scores`: (B, C) logits; `targets`: (B,) int64, or (B, C) numbers."""
    if kind == "classification":
        return functional.cross_entropy(scores, targets.long(), reduction="none")
    truth = targets.to(scores).reshape(scores.shape)
    if kind == "multi-label":
        return functional.binary_cross_entropy_with_logits(scores, truth, reduction="none").sum(1)
    return (scores - truth).square().sum(1)


def _entropies(kind: str, scores: Tensor) -> Tensor:
    """Return the entropy in nats of the predicted probabilities of each example, (B,), from logits (B, C)."""
    if kind == "classification":
        log = scores.log_softmax(1)
        return -(log.exp() * log).sum(1)
    return -(scores.sigmoid() * functional.logsigmoid(scores) + (-scores).sigmoid() * functional.logsigmoid(-scores)).sum(1)


@dataclass(frozen=True)
class Aim:
    """Aim of one head: targets to fit, or entropy minimisation."""

    task: str
    kind: str  # "classification", "multi-label" or "regression"
    targets: Tensor | None = field(repr=False)  # (n,) or (n, C), with arbitrary values for unknown targets; None: minimise the entropy
    weights: Tensor = field(repr=False)  # (n,) weight of each example's loss; 0 for unknown targets

    def losses(self, scores: Scores, chosen: Tensor) -> Tensor:
        """Return the weighted losses (B,) of the examples `chosen` (B,) from their logits by task."""
        weights = self.weights[chosen]
        if self.targets is None:
            return _entropies(self.kind, scores[self.task]) * weights
        found = _item_losses(self.kind, scores[self.task], targets=self.targets[chosen])
        return torch.where(weights > 0, found, torch.zeros_like(found)) * weights


class CodeLosses:
    """Sums of losses over the examples of each row of codes.
    `aims`: aims of the heads for the examples. `members`: V arrays, the examples of each row."""

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
        """Return the loss of each example in `members`, as V arrays like these, at the codes `values` (V, M)."""
        rows = np.arange(len(values))
        self.items.put_(values, 1 + rows)
        with torch.no_grad():
            found = [losses.double().cpu().numpy() for losses, _ in self._parts(rows, members)]
        ends = np.cumsum([len(part) for part in members])[:-1]
        return np.split(np.concatenate(found) if found else np.zeros(0), ends)

    def _parts(self, rows: np.ndarray, members: Sequence[np.ndarray]) -> Iterator[tuple[Tensor, np.ndarray]]:
        """Yield batches of losses with the position of each in `rows`."""
        counts = [len(members[row]) for row in rows]
        chosen = np.concatenate([members[row] for row in rows]) if len(rows) else np.zeros(0, np.int64)
        places = np.repeat(np.arange(len(rows)), counts)
        for part, scores in self.items.scores(1 + rows[places], chosen):
            index = torch.from_numpy(chosen[part]).to(next(iter(scores.values())).device)
            yield torch.stack([aim.losses(scores, index) for aim in self.aims]).sum(0), places[part]
