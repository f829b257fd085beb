"""Ridge regression on random features: a nonlinear probe in closed form."""

import numpy as np
import numpy.typing as npt

from ..errors import SettingError
from .common import HiddenLayer, LayeredProbe, checked_features, spread_out
from .ridge import fit_ridge

_MOST, _DEFAULT, _PER_ITEM = 10_000, 2_000, 5


def fit_random_projection(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    kind: str = "classification",
    classes: int = 0,
    groups: npt.ArrayLike | None = None,
    width: int | None = None,
    seed: int = 0,
) -> LayeredProbe:
    """Fit ridge regression on max(0, W x + b) with a random, fixed W.
    `features`: (N, d) finite numbers; `groups`: (N,) groups whose examples are left out together; `width`: M, up to 10,000; None for 5 per
    example, at most 2,000. Larger widths help if there are many features and even more examples.
    Source: McDonnell, Gong, Parvaneh, Abbasnejad & van den Hengel (RanPAC), NeurIPS 2023, section 4: H = max(0, X W), (H'H + λ I)⁻¹ H'Y.
    Deviations: features are standardised, which is folded into W and b. The penalty is chosen by exact leave-one-out instead of on a
    validation set. The width depends on the number of examples."""
    x = checked_features(features, least=3, what="A random projection")
    wide = min(_DEFAULT, _PER_ITEM * len(x)) if width is None else width
    if not 1 <= wide <= _MOST:
        raise SettingError(f"width={width} is out of its range; expected 1 to {_MOST}, or None for the default.")
    mean, scale = spread_out(x, standardise=True)
    drawn = np.random.default_rng(seed).standard_normal((wide, x.shape[1])) / (scale * np.sqrt(x.shape[1]))
    projection = HiddenLayer(drawn.astype(np.float32), (-drawn @ mean).astype(np.float32))
    return LayeredProbe(projection, fit_ridge(projection.apply(x), targets, kind=kind, classes=classes, groups=groups))
