"""Which items try a plan: one part, or k folds, stratified, and by group where there are groups."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from ...data import Dataset
from ...errors import DataError

__all__ = ["Fold", "folds_of"]

Fold = tuple[np.ndarray, np.ndarray]
"""Indices of the items to learn from, and of those that try the plan."""


def folds_of(data: Dataset, rest: np.ndarray, *, folds: int | None, holdout: float, seed: int) -> list[Fold]:
    """Return how the items that do not judge are split.

    Args:
        data: N items.
        rest: indices of those that do not judge.
        folds: how many, or None for one split.
        holdout: share of the part that tries, where `folds` is None.
        seed: equal seeds give equal folds.

    Returns:
        One fold or more; groups are never on both sides of one.

    Raises:
        DataError: if there are fewer groups, or items of some class, than folds.
    """
    part = data.subset(rest)
    if folds is None:
        learn, judge = part.split_indices(holdout, seed=seed + 2)
        return [(rest[learn], rest[judge])]
    stratified, grouped = data.task == "classification", part.groups is not None
    if part.groups is not None and len(np.unique(part.groups)) < folds:
        count = len(np.unique(part.groups))
        raise DataError(f"folds={folds}: {count} groups are left to search with; expected one a fold or more. Ask for fewer folds.")
    counts = part.class_counts()
    if stratified and not grouped and counts[counts > 0].min() < folds:
        name, few = data.classes[int(np.where(counts > 0, counts, counts.max()).argmin())], int(counts[counts > 0].min())
        raise DataError(f"folds={folds}: {few} items of the class {name!r} are left to search with; expected one a fold or more.")
    kind = {(True, True): StratifiedGroupKFold, (True, False): StratifiedKFold, (False, True): GroupKFold, (False, False): KFold}
    splitter = kind[stratified, grouped](folds, shuffle=True, random_state=seed)
    parts = splitter.split(rest, part.targets if stratified else None, part.groups)
    return [(rest[np.sort(learn)], rest[np.sort(judge)]) for learn, judge in parts]
