"""Tree ensembles on the raw columns of a table: the baseline that shows whether a network is needed."""

from typing import Any

import numpy as np

MOST_IN_FOREST = 5_000
"""Maximum number of rows for a random forest. Larger tables use histogram gradient boosting, whose time grows linearly with the rows."""
MOST_BOOSTED, MOST_CLASSES = 200_000, 20
"""Maximum number of rows for boosting; number of classes above which a forest on `MOST_IN_FOREST` rows replaces boosting, which grows trees
for each class."""
TREES = 100
SMALLEST = 1e-3  # Added to each probability, because a forest gives 0 to classes that no tree predicts


def tree_scores(  # over the limit: training data and scored data
    rows: np.ndarray, targets: np.ndarray, others: np.ndarray, *, classes: int, weights: np.ndarray | None = None, seed: int = 0
) -> tuple[str, np.ndarray]:
    """Fit trees with scikit-learn's default settings to `rows`, and predict `others`.

    Return the name of the method, "forest" or "boosting", and log probabilities (M, classes) or numbers (M, T). `rows`: (N, k) raw numbers,
    NaN if missing; `targets`: (N,) class indices, or (N,) or (N, T) numbers; `others`: (M, k); `weights`: (N,) sample weights, or None.

    Source:
        Breiman 2001, Machine Learning 45:5-32; Ke et al. 2017, LightGBM, the model for scikit-learn's histogram gradient boosting.
        Grinsztajn et al. 2022, arXiv:2207.08815, show that trees are hard to beat on tables.
    """
    from sklearn import ensemble  # imported here, because it takes as long as the rest of scikit-learn

    forest = len(rows) <= MOST_IN_FOREST or classes > MOST_CLASSES or targets.ndim == 2
    if forest and len(rows) > MOST_IN_FOREST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(rows), MOST_IN_FOREST, replace=False))
        rows, targets, weights = rows[chosen], targets[chosen], None if weights is None else weights[chosen]
    name = f"{'RandomForest' if forest else 'HistGradientBoosting'}{'Classifier' if classes else 'Regressor'}"
    settings: dict[str, Any] = {"n_estimators": TREES} if forest else {}
    trees = getattr(ensemble, name)(random_state=seed, **settings).fit(rows, targets, sample_weight=weights)
    called = "forest" if forest else "boosting"
    if not classes:
        return called, np.asarray(trees.predict(others)).reshape(len(others), -1)
    chances = np.zeros((len(others), classes))
    chances[:, trees.classes_.astype(int)] = trees.predict_proba(others)
    return called, np.log(chances + SMALLEST)
