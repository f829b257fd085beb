"""Training objective: the losses of one or more tasks, and the terms that a method adds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..networks.network import Scores
from ..probes import fit_temperature, log_loss
from ..tasks import Loss, chosen_figures


@dataclass(frozen=True)
class TaskObjective:
    """Training objective of one task.
    `sample_weight`: (N,) factors of the examples' losses in training, and their weights in the validation loss, or None."""

    task: str
    loss: Loss  # function from logits and targets to a scalar
    targets: Tensor  # (N, …) targets of all examples of the feed. A missing target is -1, NaN, or a row with NaN, and is ignored
    class_weight: Tensor | None = None  # (C,) or None
    label_smoothing: float = 0.0  # in [0, 1)
    weight: float = 1.0  # weight of this task in the sum, above 0
    sample_weight: Tensor | None = None
    kind: str = "classification"
    metrics: Sequence[Any] = ()  # additional metrics, as in `chosen_figures`
    calibrates: bool = True  # whether epochs are compared by the loss after temperature scaling; classification only

    def known(self, indices: np.ndarray) -> Tensor:
        """Return whether the target of each example in `indices` (n,) is known, (n,) bool."""
        targets = self.targets[indices]
        return ~targets.flatten(1).isnan().any(1) if targets.is_floating_point() else targets >= 0

    def judging_weights(self, indices: np.ndarray) -> Tensor | None:
        """Return the weights of the examples `indices` (n,) in an evaluation, (n,) with mean 1; None if there are none or all are 0."""
        weights = None if self.sample_weight is None else self.sample_weight[indices]
        return None if weights is None or not weights.any() else weights / weights.mean()

    def __call__(self, scores: Tensor, indices: np.ndarray) -> Tensor:
        """Return the mean loss of the examples with known targets; 0 with a zero gradient if there are none."""
        targets, known = self.targets[indices], self.known(indices)
        weight = None if self.sample_weight is None else self.sample_weight[indices]
        if not known.all():
            scores, targets, weight = scores[known.to(scores.device)], targets[known], None if weight is None else weight[known]
            if not len(targets):
                return scores.float().sum()
        weights = {"class_weight": self.class_weight, "sample_weight": None if weight is None else weight.to(scores.device)}
        return self.loss(scores.float(), targets.to(scores.device), label_smoothing=self.label_smoothing, **weights)


@dataclass(frozen=True)
class Objective:
    """Training objective: the weighted sum over tasks, plus additional terms.
    `terms`: additional scalar losses, as functions of the logits (task -> (B, C)) and the indices (B,) of a batch."""

    parts: tuple[TaskObjective, ...]  # one objective per trained task, one or more
    terms: tuple[Callable[[Scores, np.ndarray], Tensor], ...] = ()
    share: float = 1.0  # factor of the sum over tasks, below 1 if the terms take a share of the loss

    def __call__(self, scores: Scores, indices: np.ndarray) -> Tensor:
        """Return the scalar loss of a batch from the logits, task -> (B, C)."""
        sums = torch.stack([part.weight * part(scores[part.task], indices) for part in self.parts]).sum()
        return torch.stack([self.share * sums, *(term(scores, indices).to(sums) for term in self.terms)]).sum() if self.terms else sums

    def figures(self, scores: Mapping[str, np.ndarray], indices: np.ndarray) -> dict[str, float]:
        """Return losses, accuracies and metrics of logits (task -> (n, C)) on the examples `indices` (n,).
        Losses are without class weights and label smoothing, and weighted by `sample_weight` unless all of its values are 0 here.
        Accuracies and metrics are not weighted. With several tasks, figures by task come first."""
        losses, right, total, calibrated, scaled = {}, {}, 0.0, 0.0, False
        for part in self.parts:
            known = part.known(indices).numpy()
            if not known.any():
                continue
            rows, targets = torch.from_numpy(scores[part.task][known]), part.targets[indices[known]]
            weights = part.judging_weights(indices[known])
            losses[f"{part.task}_loss"] = float(part.loss(rows, targets, sample_weight=weights))
            total += part.weight * losses[f"{part.task}_loss"]
            classes = not targets.is_floating_point()
            scaled |= classes and part.calibrates
            own = losses[f"{part.task}_loss"]
            if classes and part.calibrates:
                own = _calibrated_loss(rows.double().numpy(), targets.numpy(), weights=weights)
            calibrated += part.weight * own
            if classes:
                right[f"{part.task}_accuracy"] = float((rows.argmax(1) == targets).float().mean())
        found = {"validation_loss": total} if losses else {}
        found |= {"calibrated_loss": calibrated} if scaled else {}
        found |= {"validation_accuracy": next(iter(right.values()))} if right else {}
        further = {f"validation_{name}": value for name, value in self._metrics(scores, indices).items()}
        found = {**found, **further, **found}  # a metric that is called "loss" does not choose the epoch
        return {**losses, **right, **found} if len(self.parts) > 1 else found

    def _metrics(self, scores: Mapping[str, np.ndarray], indices: np.ndarray) -> dict[str, float]:
        """Return the metrics of the first task that has metrics and known targets."""
        for part in self.parts:
            known = part.known(indices).numpy()
            if part.metrics and known.any():
                return chosen_figures(part.metrics, scores[part.task][known], targets=part.targets[indices[known]].numpy(), kind=part.kind)
        return {}


def _calibrated_loss(scores: np.ndarray, targets: np.ndarray, *, weights: Tensor | None) -> float:
    """Return the log loss of logits (n, C) for targets (n,) after temperature scaling; infinite for one class or non-finite logits."""
    if scores.shape[1] < 2 or not np.isfinite(scores).all():
        return float("inf")
    factors = None if weights is None else weights.double().numpy()
    if factors is not None:  # a sample of the rest could have weights that are all 0
        scores, targets, factors = scores[factors > 0], targets[factors > 0], factors[factors > 0]
    return log_loss(fit_temperature(scores, np.eye(scores.shape[1])[targets], weights=factors) * scores, targets, weights=factors)
