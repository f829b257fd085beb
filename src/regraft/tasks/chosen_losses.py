"""Losses that replace the default of a kind of task: by name, or a function of the user.

Shape letters: B examples of one batch, C classes (or labels, or outputs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import SettingError
from ..tensors import Tensor, torch
from ..words import counted
from .losses import Loss, loss_for, mean_over_columns, mean_over_items

_CLASSES, _NUMBERS = ("classification", "multi-label"), ("regression",)
LOSSES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cross_entropy", "focal", "hinge"), _CLASSES),
    **dict.fromkeys(("mse", "mae", "huber", "msle", "poisson"), _NUMBERS),
}
"""Name of a loss -> kinds of task that it supports."""
_USUAL = ("cross_entropy", "mse")  # Names of the default losses
FOCUS = 2.0  # Exponent gamma of the focal loss, which reduces the weight of well-classified examples
LEAST_RATE = 0.01  # Rate below which the Poisson loss continues linearly: an output may be negative, a rate may not

Each = Callable[[Tensor, Tensor], Tensor]
"""Function from logits (B, C) and targets to losses per example (B,), or per example and output (B, C)."""


def chosen_loss(wanted: str | Callable[..., Any] | None, kind: str) -> Loss:
    """Return the loss `wanted` for a kind of task.
    `wanted` is a name in `LOSSES` that supports the kind, a function of logits (B, C) and targets that returns a scalar or (B,), or None
    for the default."""
    if wanted is None or wanted in _USUAL:
        return loss_for(kind)
    return _Mean(_EACH[wanted, kind] if isinstance(wanted, str) else _of_the_user(wanted))


@dataclass(frozen=True)
class _Mean:
    """Batch mean of a loss per example, or per example and output. A user's function may return the mean itself."""

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
    """Wrap a user's loss function; every call checks that it returns a scalar or (B,)."""

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
            raise SettingError(
                f"loss= returned {shape} for {counted(len(scores), 'example')}; expected a scalar tensor, or one number an example."
            )
        return losses

    return losses_of


def _focal(scores: Tensor, targets: Tensor) -> Tensor:
    """Return -(1 - p)^2 log p of the true class, (B,).
    Source: Lin et al., ICCV 2017, equation 4, with gamma = 2."""
    true = scores.log_softmax(1).gather(1, targets.long()[:, None])[:, 0]
    return -((1 - true.exp()) ** FOCUS) * true


def _focal_labels(scores: Tensor, targets: Tensor) -> Tensor:
    """Return the binary focal loss of each label, (B, C)."""
    signed = scores * (2 * targets.to(scores) - 1)
    return -((1 - signed.sigmoid()) ** FOCUS) * torch.nn.functional.logsigmoid(signed)


def _hinge(scores: Tensor, targets: Tensor) -> Tensor:
    """Return max(0, 1 + highest score of another class - score of the true class), (B,).
    Source: Crammer & Singer, JMLR 2 (2001), section 3."""
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
    """Return the Huber loss: half the squared error up to an error of 1, linear beyond (Huber, 1964)."""
    return torch.nn.functional.huber_loss(scores, _as_scores(targets, scores), reduction="none")


def _squared_logs(scores: Tensor, targets: Tensor) -> Tensor:
    """Return (log(1 + score) - log(1 + y))^2. Below 0, log(1 + score) is replaced by its tangent at 0, the score itself."""
    logs = torch.where(scores > 0, scores.clamp(min=0).log1p(), scores)
    return (logs - _as_scores(targets, scores).log1p()) ** 2


def _poisson(scores: Tensor, targets: Tensor) -> Tensor:
    """Return rate - y log(rate) with the score as the rate. Below `LEAST_RATE` it continues as its tangent."""
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
