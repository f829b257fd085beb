"""Default losses: one per kind of task, all with the same signature.

Shape letters: B examples of one batch, C classes (or labels, or outputs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import SettingError, near_names
from ..tensors import Tensor, torch
from ..words import counted

KINDS = ("classification", "multi-label", "regression")  # The kinds of task, as `Head.kind` names them


class Loss(Protocol):
    """Common signature of all losses."""

    def __call__(
        self,
        scores: Tensor,
        targets: Tensor,
        *,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the scalar loss of one batch."""


def classification_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Return the cross entropy of logits, in nats.
    Without class weights it is the mean over the batch. With class weights it is `sum(w[y] * loss) / sum(w[y])`, so the scale of the
    weights does not change the step size.
    `scores`: (B, C) logits; `targets`: (B,) integers in 0 … C-1; `class_weight`: (C,) weights >= 0, or None for equal weights;
    `sample_weight`: (B,) factors of the losses before the mean, or None for 1."""
    weight = None if class_weight is None else class_weight.to(scores)
    truth = targets.long()
    if sample_weight is None:
        return torch.nn.functional.cross_entropy(scores, truth, weight=weight, label_smoothing=label_smoothing)
    losses = torch.nn.functional.cross_entropy(scores, truth, weight=weight, label_smoothing=label_smoothing, reduction="none")
    return torch.dot(losses, sample_weight.to(losses)) / (len(losses) if weight is None else weight[truth].sum())


def multi_label_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross entropy of logits, in nats, averaged over examples and labels.
    `scores`: (B, C) logits; `targets`: (B, C) numbers in [0, 1]; `class_weight`: (C,) weights >= 0 of the labels, with the mean `sum(w *
    loss) / sum(w)`, or None for equal weights; `sample_weight`: (B,) factors of the losses before the mean, or None for 1."""
    smooth = targets.to(scores) * (1.0 - label_smoothing) + label_smoothing / 2.0
    losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, smooth, reduction="none")
    return mean_over_columns(losses, class_weight, sample_weight=sample_weight)


def regression_loss(
    scores: Tensor,
    targets: Tensor,
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error, in squared units of the targets.
    `scores`: (B, C) predicted values; `targets`: (B, C) true values, or (B,) for one output; `class_weight`: (C,) weights >= 0 of the
    outputs, with the mean `sum(w * loss) / sum(w)`, or None for equal weights; `sample_weight`: (B,) factors of the losses before the mean,
    or None for 1."""
    if label_smoothing:
        raise SettingError(f"label_smoothing={label_smoothing} has no meaning for regression; leave it at 0.")
    truth = targets.to(scores).reshape(scores.shape)
    return mean_over_columns((scores - truth) ** 2, class_weight, sample_weight=sample_weight)


def loss_for(kind: str) -> Loss:
    """Return the default loss of a kind of task."""
    losses: dict[str, Loss] = dict(zip(KINDS, (classification_loss, multi_label_loss, regression_loss), strict=True))
    if kind not in losses:
        raise SettingError(f"Unknown kind of task: {kind!r}{near_names(str(kind), KINDS)}")
    return losses[kind]


def class_weights(counts: npt.ArrayLike, how: Literal["balanced"] | Sequence[float] | None) -> np.ndarray | None:
    """Return the class weights (C,) of the loss, float64; None if `how` is None (equal weights).
    "balanced" gives `n / (k * n_c)` for n examples in the k classes that have any (King & Zeng 2001, as in scikit-learn). Every class then
    has the same total weight. A class without examples gets the weight 1, which is never used. `counts`: (C,) examples of each class;
    `how`: "balanced", the C weights themselves, or None."""
    if how is None:
        return None
    numbers = np.asarray(counts, dtype=np.float64)
    if not isinstance(how, str):
        length = len(numbers)
        given = np.asarray(how, dtype=np.float64)
        if given.shape != (length,):
            raise SettingError(
                f"class_weight has shape {given.shape}; expected {counted(length, 'weight')}, one for each class in the order of the head."
            )
        if not np.isfinite(given).all() or (given < 0).any() or not (given > 0).any():
            raise SettingError(f"class_weight must hold finite weights >= 0, at least one above 0; received {given.tolist()}.")
        return given
    if how != "balanced":
        raise SettingError(f"Unknown class_weight {how!r}; expected 'balanced', a list of {counted(len(numbers), 'weight')}, or None.")
    present = numbers > 0
    weights = np.ones(len(numbers), dtype=np.float64)
    weights[present] = numbers.sum() / (present.sum() * numbers[present])
    return weights


def mean_over_columns(losses: Tensor, class_weight: Tensor | None = None, *, sample_weight: Tensor | None = None) -> Tensor:
    """Return the mean of losses (B, C): `sum(w * loss) / sum(w)` with `class_weight` (C,). `sample_weight` (B,) multiplies the losses."""
    columns = (losses if sample_weight is None else losses * sample_weight.to(losses)[:, None]).mean(dim=0)
    if class_weight is None:
        return columns.mean()
    shares = class_weight.to(columns)
    return torch.dot(columns, shares) / shares.sum()


def mean_over_items(losses: Tensor, weight: Tensor | None = None, *, sample_weight: Tensor | None = None) -> Tensor:
    """Return the mean of losses (B,): `sum(w * loss) / sum(w)` with `weight` (B,). `sample_weight` (B,) multiplies the losses."""
    factored = losses if sample_weight is None else losses * sample_weight.to(losses)
    return factored.mean() if weight is None else torch.dot(factored, weight) / weight.sum()
