"""What a code is likely to be before anything of its condition was seen: a Gaussian fitted to the codes that are known.

Shape letters: K known codes, M numbers in each, n items, W weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.covariance import ledoit_wolf

from ..errors import SettingError

__all__ = ["WEIGHTS", "CodePrior", "chosen_weight", "code_prior", "first_weight"]

WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, np.inf)
"""Weights of the prior that are tried; infinite: the mean code is kept."""
PLAIN = 1.0
"""The weight of Bayes' rule, where the items' log-likelihoods are summed and the known codes spread as the true ones do."""
USUAL = 0.3
"""The weight where items do not speak for another: codes learned together with a network are held near their mean by a penalty of their
own, so that they spread less than the true ones. Better than 1 in the made worlds that we tried, but for one or two items less safe."""
FEW = 2
"""Items up to which the weight is that of Bayes' rule."""
FLOOR = 1e-6
"""Least variance, beside the mean one: known codes may agree in a number."""


@dataclass(frozen=True)
class CodePrior:
    """The Gaussian N(mu, S) over codes, S = L L'.

    Attributes:
        mean: (M,) mu.
        factor: (M, M) L, lower triangular.
    """

    mean: np.ndarray
    factor: np.ndarray

    def whitened(self, codes: np.ndarray) -> np.ndarray:
        """Return L^-1 (z - mu) of codes (V, M): their distance from the mean in standard deviations."""
        return np.asarray(solve_triangular(self.factor, (codes - self.mean).T, lower=True).T)

    def coloured(self, white: np.ndarray) -> np.ndarray:
        """Return mu + L u of `white` u (V, M), which `whitened` undoes."""
        return np.asarray(self.mean + white @ self.factor.T)

    def penalty(self, codes: np.ndarray) -> np.ndarray:
        """Return 1/2 (z - mu)' S^-1 (z - mu) of codes (V, M), (V,)."""
        return np.asarray(0.5 * np.square(self.whitened(codes)).sum(1))

    def gradient(self, codes: np.ndarray) -> np.ndarray:
        """Return the gradient S^-1 (z - mu) of the penalty at codes (V, M)."""
        return np.asarray(solve_triangular(self.factor, self.whitened(codes).T, lower=True, trans="T").T)


def code_prior(codes: np.ndarray, mean: np.ndarray | None = None) -> CodePrior:
    """Return the Gaussian with the mean and the shrunk covariance of known codes.

    Args:
        codes: (K, M), K >= 2.
        mean: (M,) in place of their own mean, such as the mean code that a network keeps.

    Returns:
        The prior.

    Raises:
        SettingError: if there are fewer than two codes, or they are all equal.

    Source: Ledoit & Wolf 2004, Journal of Multivariate Analysis 88(2), for the covariance: S = (1 - a) C + a m I, m the mean variance.
    """
    if len(codes) < 2:
        raise SettingError(f"A prior needs the codes of two conditions or more; received {len(codes)}. Give prior=None.")
    centre = codes.mean(0) if mean is None else np.asarray(mean, np.float64)
    covariance, _ = ledoit_wolf(np.asarray(codes, np.float64))
    level = float(np.trace(covariance)) / len(covariance)
    if not level > 0:
        raise SettingError(f"The {len(codes)} known codes are all equal, so that no prior can be made of them. Give prior=None.")
    return CodePrior(np.asarray(centre, np.float64), np.linalg.cholesky(covariance + FLOOR * level * np.eye(len(covariance))))


def first_weight(count: int) -> float:
    """Return the weight of the prior where `count` items cannot speak for another: 1 for one or two of them, else 0.3."""
    return PLAIN if count <= FEW else USUAL


def chosen_weight(left_out: np.ndarray, weights: Sequence[float] = WEIGHTS) -> float:
    """Return the weight of the prior that items left out in turn speak for; the usual one, 0.3, unless they do.

    Nearer to the mean than with the usual weight is chosen where the items are better on average; farther from it only where they are so
    by more than the standard error of the difference: a code that moves too far does harm, one that moves too little does none.

    Args:
        left_out: (W, n) loss of each item under the code fitted without it, by weight.
        weights: (W,) rising; the usual one is among them.

    Returns:
        One of the weights.
    """
    usual = list(weights).index(USUAL)
    means, chosen = left_out.mean(1), usual
    for at in range(usual + 1, len(weights)):
        if means[at] < means[chosen]:
            chosen = at
    for at in range(usual if chosen == usual else 0):
        gained = left_out[usual] - left_out[at]
        error = gained.std(ddof=1) / np.sqrt(len(gained)) if len(gained) > 1 else np.inf
        if gained.mean() > error:
            return float(weights[at])
    return float(weights[chosen])
