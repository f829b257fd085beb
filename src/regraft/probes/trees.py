"""Trees on the raw columns of a table: the baseline that says whether a network is needed at all. Features only, no networks."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["MOST_BOOSTED", "MOST_IN_FOREST", "tree_scores"]

MOST_IN_FOREST = 5_000
"""Rows up to which a random forest is grown; of more, boosted trees on binned columns, which take time in proportion to the rows."""
MOST_BOOSTED, MOST_CLASSES = 200_000, 20
"""Rows that trees are boosted on; classes above which a forest is grown on `MOST_IN_FOREST` rows, as boosting grows trees for each."""
TREES = 100
SMALLEST = 1e-3
"""Added to each probability: a forest says 0 of what no tree has seen."""


def tree_scores(  # over the limit: what is learned from, and what is scored
    rows: np.ndarray, targets: np.ndarray, others: np.ndarray, *, classes: int, weights: np.ndarray | None = None, seed: int = 0
) -> tuple[str, np.ndarray]:
    """Return what trees that learned from rows say of others, with scikit-learn's own settings.

    `rows`: (N, k) numbers, as they are; NaN is a missing one; `targets`: (N,) class indices, or (N,) or (N, T) numbers; `others`: (M, k);
    `weights`: (N,) how much each row counts; None: the same; result: "forest" or "boosting", and log probabilities (M, classes), or numbers
    (M, T).

    Source:
        Breiman 2001, Machine Learning 45:5-32; Ke et al. 2017, LightGBM, which scikit-learn's histogram gradient boosting follows. That
        trees are hard to beat on tables: Grinsztajn et al. 2022, arXiv:2207.08815.
    """
    from sklearn import ensemble  # here, because importing it takes as long as all else of scikit-learn

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
