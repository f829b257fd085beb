"""Prior for the code of a new condition: a Gaussian fitted to the known codes.

Shape letters: K known codes, M numbers in each, n examples, W weights.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.covariance import ledoit_wolf

from ..errors import SettingError

WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, np.inf)  # Candidate weights of the prior. An infinite weight keeps the mean code
PLAIN = 1.0  # Weight given by Bayes' rule, if log-likelihoods are summed and the known codes have the spread of the true codes
USUAL = 0.3
"""Default weight. Codes learned jointly with a network have a penalty of their own that keeps them near their mean, so they spread less
than the true codes. In our simulations 0.3 was better than 1, but less safe for one or two examples."""
FEW = 2  # Number of examples up to which the weight is that of Bayes' rule
FLOOR = 1e-6  # Minimum variance relative to the mean variance. Known codes may be equal in one dimension


@dataclass(frozen=True)
class CodePrior:
    """Gaussian prior N(mu, S) over codes, S = L L'.

    Attributes:
        mean: (M,) mu.
        factor: (M, M) L, lower triangular.
    """

    mean: np.ndarray
    factor: np.ndarray

    def whitened(self, codes: np.ndarray) -> np.ndarray:
        """Return L^-1 (z - mu) for codes (V, M): their deviation from the mean in standard deviations."""
        return np.asarray(solve_triangular(self.factor, (codes - self.mean).T, lower=True).T)

    def coloured(self, white: np.ndarray) -> np.ndarray:
        """Return mu + L u for `white` u (V, M), the inverse of `whitened`."""
        return np.asarray(self.mean + white @ self.factor.T)

    def penalty(self, codes: np.ndarray) -> np.ndarray:
        """Return 1/2 (z - mu)' S^-1 (z - mu) for codes (V, M), as (V,)."""
        return np.asarray(0.5 * np.square(self.whitened(codes)).sum(1))

    def gradient(self, codes: np.ndarray) -> np.ndarray:
        """Return the gradient S^-1 (z - mu) of the penalty at codes (V, M)."""
        return np.asarray(solve_triangular(self.factor, self.whitened(codes).T, lower=True, trans="T").T)


def code_prior(codes: np.ndarray, mean: np.ndarray | None = None) -> CodePrior:
    """Fit the prior to known codes: their mean and shrunk covariance.

    Args:
        codes: (K, M), K >= 2.
        mean: (M,) replaces the mean of the codes, for example the mean code stored in a network.

    Returns:
        The prior.

    Raises:
        SettingError: if there are fewer than two codes, or all codes are equal.

    Source: Ledoit & Wolf 2004, Journal of Multivariate Analysis 88(2), for the covariance: S = (1 - a) C + a m I, m the mean variance.
    """
    if len(codes) < 2:
        raise SettingError(f"A prior needs the codes of two conditions or more; received {len(codes)}. Give prior=None.")
    centre = codes.mean(0) if mean is None else np.asarray(mean, np.float64)
    covariance, _ = ledoit_wolf(np.asarray(codes, np.float64))
    level = float(np.trace(covariance)) / len(covariance)
    if not level > 0:
        raise SettingError(f"The known codes ({len(codes)}) are all equal, so that no prior can be made of them. Give prior=None.")
    return CodePrior(np.asarray(centre, np.float64), np.linalg.cholesky(covariance + FLOOR * level * np.eye(len(covariance))))


def first_weight(count: int) -> float:
    """Return the weight of the prior without cross-validation, for `count` examples: 1 for one or two, otherwise 0.3."""
    return PLAIN if count <= FEW else USUAL


def chosen_weight(left_out: np.ndarray) -> float:
    """Return the weight of the prior chosen by cross-validation; by default 0.3.

    A larger weight is chosen if its mean held-out loss is lower. A smaller weight is chosen only if its loss is lower by more than the
    standard error of the difference, because a code that moves too far from the mean does harm and one that moves too little does not.

    Args:
        left_out: (W, n) loss of each example under the code fitted without it, for each of `WEIGHTS`.

    Returns:
        One of the weights.
    """
    usual = WEIGHTS.index(USUAL)
    means, chosen = left_out.mean(1), usual
    for at in range(usual + 1, len(WEIGHTS)):
        if means[at] < means[chosen]:
            chosen = at
    for at in range(usual if chosen == usual else 0):
        gained = left_out[usual] - left_out[at]
        error = gained.std(ddof=1) / np.sqrt(len(gained)) if len(gained) > 1 else np.inf
        if gained.mean() > error:
            return WEIGHTS[at]
    return WEIGHTS[chosen]
