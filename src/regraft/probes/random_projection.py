"""Ridge regression on random features: classes that no line separates, still in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import DataError, SettingError
from .common import checked_features, spread_out
from .ridge import RidgeProbe, fit_ridge

__all__ = ["RandomProjection", "RandomProjectionProbe", "fit_random_projection"]

_MOST, _DEFAULT, _PER_ITEM = 10_000, 2_000, 5
_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class RandomProjection:
    """max(0, W x + b): a linear layer that nothing trains, and a ReLU.

    Attributes:
        weight: W (M, d).
        bias: b (M,).
    """

    weight: np.ndarray
    bias: np.ndarray

    def apply(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the random features of `features` (N, d).

        Args:
            features: (N, d).

        Returns:
            (N, M) float32.

        Raises:
            DataError: if the features are not d wide.
        """
        x, width = np.asarray(features), len(self.bias)
        if x.ndim != 2 or x.shape[1] != self.weight.shape[1]:
            raise DataError(f"The projection takes features (N, {self.weight.shape[1]}); received the shape {x.shape}.")
        hidden = np.empty((len(x), width), np.float32)
        for start in range(0, len(x), step := max(_CHUNK // width, 1)):
            part = hidden[start : start + step]
            np.matmul(x[start : start + step].astype(np.float32), self.weight.T, out=part)
            part += self.bias
            np.maximum(part, 0, out=part)
        return hidden


@dataclass(frozen=True, eq=False)
class RandomProjectionProbe:
    """A random projection and a ridge head on it.

    Attributes:
        projection: features to random features.
        ridge: the head, with its penalty and temperature.
    """

    projection: RandomProjection
    ridge: RidgeProbe

    @property
    def loo_scores(self) -> np.ndarray:
        """Return the raw scores (N, C) of each item by the probe that did not see it."""
        return self.ridge.loo_scores

    @property
    def held_out(self) -> str:
        """Return "leave-one-out" or "leave-group-out"."""
        return self.ridge.held_out

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the raw scores (N, C) of `features` (N, d)."""
        return self.ridge.scores(self.projection.apply(features))


def fit_random_projection(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    kind: str = "classification",
    classes: int = 0,
    groups: npt.ArrayLike | None = None,
    width: int | None = None,
    seed: int = 0,
) -> RandomProjectionProbe:
    """Fit ridge regression on max(0, W x + b), W drawn once: no training.

    Source: McDonnell, Gong, Parvaneh, Abbasnejad & van den Hengel (RanPAC), NeurIPS 2023, section 4: H = max(0, X W), (H'H + λ I)⁻¹ H'Y.
    Deviations: features are standardised first, which W and b contain; the penalty is chosen by exact leave-one-out, not on a part
    kept aside; the width follows the number of items.

    Args:
        features: (N, d) finite numbers.
        targets: as of `fit_ridge`.
        kind: "classification", "multi-label" or "regression".
        classes: C, for "classification".
        groups: (N,) what items belong to: they are left out together.
        width: M; None for 5 an item, at most 2,000. Up to 10,000 pays where the features are many and the items more.
        seed: of the projection.

    Returns:
        The probe.

    Raises:
        SettingError: if the width is out of its range.
    """
    x = checked_features(features, least=3, what="A random projection")
    wide = min(_DEFAULT, _PER_ITEM * len(x)) if width is None else width
    if not 1 <= wide <= _MOST:
        raise SettingError(f"width={width} is out of its range; expected 1 to {_MOST}, or None for the default.")
    mean, scale = spread_out(x, standardise=True)
    drawn = np.random.default_rng(seed).standard_normal((wide, x.shape[1])) / (scale * np.sqrt(x.shape[1]))
    projection = RandomProjection(drawn.astype(np.float32), (-drawn @ mean).astype(np.float32))
    return RandomProjectionProbe(projection, fit_ridge(projection.apply(x), targets, kind=kind, classes=classes, groups=groups))
