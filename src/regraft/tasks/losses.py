"""Losses: the default of each kind of task, and those that replace it, by name or as a function of the user.

Shape letters: B examples of one batch, C classes (or labels, or outputs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import SettingError, near_names
from ..tensors import Tensor, torch
from ..words import counted

KINDS = ("classification", "multi-label", "regression")  # The kinds of task, as `Head.kind` names them
LOSSES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("cross_entropy", "focal", "hinge"), KINDS[:2]),
    **dict.fromkeys(("mse", "mae", "huber", "msle", "poisson"), KINDS[2:]),
}
"""Name of a loss -> kinds of task that it supports."""
_USUAL = ("cross_entropy", "mse")  # Names of the default losses
FOCUS = 2.0  # Exponent gamma of the focal loss, which reduces the weight of well-classified examples
LEAST_RATE = 0.01  # Rate below which the Poisson loss continues linearly: an output may be negative, a rate may not


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
    return _mean_over_columns(losses, class_weight, sample_weight=sample_weight)


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
    return _mean_over_columns((scores - _as_scores(targets, scores)) ** 2, class_weight, sample_weight=sample_weight)


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


def _mean_over_columns(losses: Tensor, class_weight: Tensor | None = None, *, sample_weight: Tensor | None = None) -> Tensor:
    """Return the mean of losses (B, C): `sum(w * loss) / sum(w)` with `class_weight` (C,). `sample_weight` (B,) multiplies the losses."""
    columns = (losses if sample_weight is None else losses * sample_weight.to(losses)[:, None]).mean(dim=0)
    if class_weight is None:
        return columns.mean()
    shares = class_weight.to(columns)
    return torch.dot(columns, shares) / shares.sum()


Each = Callable[[Tensor, Tensor], Tensor]
"""Function from logits (B, C) and targets to losses per example (B,), or per example and output (B, C)."""


def chosen_loss(wanted: str | Callable[..., Any] | None, kind: str) -> Loss:
    """Return the loss `wanted` for a kind of task.
    `wanted` is a name in `LOSSES` that supports the kind, a function of logits (B, C) and targets that returns a scalar or (B,), or None
    for the default."""
    usual: dict[str, Loss] = dict(zip(KINDS, (classification_loss, multi_label_loss, regression_loss), strict=True))
    if kind not in usual:
        raise SettingError(f"Unknown kind of task: {kind!r}{near_names(str(kind), KINDS)}")
    if wanted is None or wanted in _USUAL:
        return usual[kind]
    return _Mean(_EACH[wanted, kind] if isinstance(wanted, str) else _of_the_user(wanted))


def loss_problems(given: Any) -> list[str]:
    """Return an error message for each loss of Keras in a setting `loss`: it takes targets first and, by default, probabilities."""
    losses = list(given.values()) if isinstance(given, Mapping) else [given]
    return [
        f"loss: {getattr(one, '__name__', type(one).__name__)} is a loss of Keras, which takes targets first and usually probabilities; "
        f"expected {', '.join(LOSSES)}, or a function of logits and targets, such as lambda logits, targets: loss(targets, logits)"
        for one in losses
        if any(str(kind.__module__).partition(".")[0] == "keras" for kind in (one, *type(one).__mro__) if hasattr(kind, "__module__"))
    ]


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
            return _mean_over_columns(losses, class_weight, sample_weight=sample_weight)
        if class_weight is None and sample_weight is None:
            return losses.mean()
        if losses.ndim == 0 or (class_weight is not None and targets.ndim > 1):
            raise SettingError("loss= returned a scalar, which cannot be weighed. Return one number an example, or leave out the weights.")
        factored = losses if sample_weight is None else losses * sample_weight.to(losses)
        if class_weight is None:
            return factored.mean()
        weight = class_weight.to(losses)[targets.long()]
        return torch.dot(factored, weight) / weight.sum()


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
    ("mae", "regression"): lambda scores, targets: (scores - _as_scores(targets, scores)).abs(),
    # half the squared error up to an error of 1, linear beyond (Huber, 1964)
    ("huber", "regression"): lambda scores, targets: torch.nn.functional.huber_loss(scores, _as_scores(targets, scores), reduction="none"),
    ("msle", "regression"): _squared_logs,
    ("poisson", "regression"): _poisson,
}
