"""Losses by name, or of the user's own, where another than the usual one of a kind of task is wanted.

Shape letters: B items of one batch, C classes (or labels, or outputs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import SettingError
from ..tensors import Tensor, torch
from .losses import Loss, loss_for, mean_over_columns, mean_over_items

__all__ = ["LOSSES", "chosen_loss"]

_CLASSES, _NUMBERS = ("classification", "multi-label"), ("regression",)
LOSSES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cross_entropy", "focal", "hinge"), _CLASSES),
    **dict.fromkeys(("mse", "mae", "huber", "msle", "poisson"), _NUMBERS),
}
"""Name of a loss -> the kinds of task that it is for."""
_USUAL = ("cross_entropy", "mse")
"""Those that tasks have where none is named."""
FOCUS = 2.0
"""Exponent of the focal loss: how much less an example counts that is already classified well."""
LEAST_RATE = 0.01
"""Rate below which the Poisson loss goes on as a straight line: an output may be negative, a rate may not."""

Each = Callable[[Tensor, Tensor], Tensor]
"""From scores (B, C) and targets to the loss of each item (B,), or of each item and output (B, C)."""


def chosen_loss(wanted: str | Callable[..., Any] | None, kind: str) -> Loss:
    """Return a loss by its name, or what a function of the user makes of logits and targets.

    `wanted`: a name of `LOSSES` that is for this kind of task; a function of logits (B, C) and targets that returns a scalar or one number
    an item, (B,); or None for the usual one.
    """
    if wanted is None or wanted in _USUAL:
        return loss_for(kind)
    return _Mean(_EACH[wanted, kind] if isinstance(wanted, str) else _of_the_user(wanted))


@dataclass(frozen=True)
class _Mean:
    """The mean over a batch of what a formula gives for each item, or for each item and output; a function of the user may give a mean."""

    each: Each

    def __call__(
        self,
        scores: Tensor,
        targets: Tensor,
        *,
        class_weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        sample_weight: Tensor | None = None,
    ) -> Tensor:
        losses = self.each(scores, targets)
        if losses.ndim == 2:
            return mean_over_columns(losses, class_weight, sample_weight=sample_weight)
        if class_weight is None and sample_weight is None:
            return losses.mean()
        if losses.ndim == 0 or (class_weight is not None and targets.ndim > 1):
            raise SettingError("loss= returned a scalar, which cannot be weighed. Return one number an example, or leave out the weights.")
        by_item = None if class_weight is None else class_weight.to(losses)[targets.long()]
        return mean_over_items(losses, by_item, sample_weight=sample_weight)


def _of_the_user(function: Callable[..., Any]) -> Each:
    """Return what a function of the user makes of logits and targets, a scalar or (B,), checked at each call."""

    def losses_of(scores: Tensor, targets: Tensor) -> Tensor:
        try:
            losses = function(scores, targets)
        except Exception as error:
            raise SettingError(
                f"loss= failed on logits of the shape {tuple(scores.shape)} and targets of the shape {tuple(targets.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(losses, torch.Tensor) or losses.shape not in ((), (len(scores),)):
            shape = tuple(losses.shape) if isinstance(losses, torch.Tensor) else type(losses).__name__
            raise SettingError(f"loss= returned {shape} for {len(scores)} examples; expected a scalar tensor, or one number an example.")
        return losses

    return losses_of


def _focal(scores: Tensor, targets: Tensor) -> Tensor:
    """Return -(1 - p)^2 log p of the true class, (B,).

    Source: Lin et al., ICCV 2017, equation 4, with gamma = 2.
    """
    true = scores.log_softmax(1).gather(1, targets.long()[:, None])[:, 0]
    return -((1 - true.exp()) ** FOCUS) * true


def _focal_labels(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the same for each label, (B, C)."""
    signed = scores * (2 * targets.to(scores) - 1)
    return -((1 - signed.sigmoid()) ** FOCUS) * torch.nn.functional.logsigmoid(signed)


def _hinge(scores: Tensor, targets: Tensor) -> Tensor:
    """Return max(0, 1 + the highest score of another class - that of the true class), (B,).

    Source: Crammer & Singer, JMLR 2 (2001), section 3.
    """
    index = targets.long()[:, None]
    others = scores.scatter(1, index, float("-inf")).amax(1)
    return (1 + others - scores.gather(1, index)[:, 0]).clamp(min=0)


def _hinge_labels(scores: Tensor, targets: Tensor) -> Tensor:
    """Return max(0, 1 - y s) with y = 1 or -1 for each label, (B, C)."""
    return (1 - scores * (2 * targets.to(scores) - 1)).clamp(min=0)


def _as_scores(targets: Tensor, scores: Tensor) -> Tensor:
    return targets.to(scores).reshape(scores.shape)


def _absolute(scores: Tensor, targets: Tensor) -> Tensor:
    return (scores - _as_scores(targets, scores)).abs()


def _huber(scores: Tensor, targets: Tensor) -> Tensor:
    """Return half the square of errors up to 1, and beyond that the line that goes on from there (Huber, 1964)."""
    return torch.nn.functional.huber_loss(scores, _as_scores(targets, scores), reduction="none")


def _squared_logs(scores: Tensor, targets: Tensor) -> Tensor:
    """Return (log(1 + score) - log(1 + y))^2; a score below 0, which has no such logarithm, counts as its own tangent at 0."""
    logs = torch.where(scores > 0, scores.clamp(min=0).log1p(), scores)
    return (logs - _as_scores(targets, scores).log1p()) ** 2


def _poisson(scores: Tensor, targets: Tensor) -> Tensor:
    """Return rate - y log(rate), where the score is the rate; below `LEAST_RATE` its tangent there goes on."""
    truth, rate = _as_scores(targets, scores), scores.clamp(min=LEAST_RATE)
    return rate - truth * rate.log() + (scores - rate) * (1 - truth / LEAST_RATE)


_EACH: dict[tuple[str, str], Each] = {
    ("focal", "classification"): _focal,
    ("focal", "multi-label"): _focal_labels,
    ("hinge", "classification"): _hinge,
    ("hinge", "multi-label"): _hinge_labels,
    ("mae", "regression"): _absolute,
    ("huber", "regression"): _huber,
    ("msle", "regression"): _squared_logs,
    ("poisson", "regression"): _poisson,
}
