"""Splitting a data set into two similar parts: stratified by class, without separating groups."""

import numpy as np

from ..errors import DataError
from ..words import counted

TRIES = 12  # Random orders of the groups that are tried; the split nearest to the wanted shares is kept
MANY_GROUPS = 2000  # Above this number of groups one order is enough, because each group is a small part of the data


def stratified_split(strata: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """Choose the second part so that every stratum contributes its share. Return (N,) bool, true for the second part.
    `strata`: (N,) int64, the class or quantile of each example; `share`: share of the second part, in (0, 1). A stratum of n examples
    contributes n * share of them, off by at most one: at least one if n >= 2, and never all."""
    generator = np.random.default_rng(seed)
    counts = np.bincount(strata)
    chosen = np.zeros(len(strata), dtype=bool)
    for stratum, quota in enumerate(_quotas(counts, share)):
        members = np.flatnonzero(strata == stratum)
        chosen[generator.permutation(members)[:quota]] = True
    if not chosen.any():
        raise DataError(
            f"{counted(len(strata), 'example')} cannot be split: every class has one example; expected a class with two or more. Add "
            "examples."
        )
    return chosen


def _quotas(counts: np.ndarray, share: float) -> np.ndarray:
    ideal = counts * share
    most = np.maximum(counts - 1, 0)
    quotas = np.clip(np.floor(ideal), counts >= 2, most).astype(np.int64)
    missing = round(counts.sum() * share) - int(quotas.sum())
    for stratum in np.argsort(quotas - ideal, kind="stable"):
        if missing <= 0:
            break
        if quotas[stratum] < min(most[stratum], ideal[stratum]):
            quotas[stratum] += 1
            missing -= 1
    return quotas


def grouped_split(counts: np.ndarray, sizes: np.ndarray, *, share: float, seed: int, keep: np.ndarray, cover: bool = False) -> np.ndarray:
    """Choose whole groups for the second part so that the classes keep their shares. Return (G,) bool, true for the second part.
    The choice is greedy: in random order, a group is taken if it brings the class counts nearer to the wanted share. The best result of
    several orders is kept. A group is never taken if a class would lose its last example in the first part.
    `counts`: (G, C) examples of each class in each group; `sizes`: (G,) examples in each group; `share`: share of the second part, in (0,
    1). `keep`: (C,) bool, whether each class keeps an example in the first part, which as a whole never becomes empty. `cover`: add groups
    until each class is in the second part, where possible."""
    generator = np.random.default_rng(seed)
    table = np.column_stack([counts, sizes]).astype(np.float64)
    search = _Search(table, share, guarded=np.append(keep, True))
    orders = [generator.permutation(len(table)) for _ in range(1 if len(table) > MANY_GROUPS else TRIES)]
    results = [search.greedy(order) for order in orders]
    chosen = min(results, key=lambda result: search.cost(table[result].sum(axis=0)))
    if not chosen.any():
        chosen = search.single()
    return search.covered(chosen, orders[0]) if cover else chosen


class _Search:
    """Shared state of the greedy choice: class counts (G, C + 1), with the group sizes last, and the target counts."""

    def __init__(self, table: np.ndarray, share: float, *, guarded: np.ndarray) -> None:
        self.table = table
        self.total = table.sum(axis=0)
        self.aim = self.total * share
        self.weight = np.where(self.total > 0, 1 / np.maximum(self.total, 1), 0.0)
        self.guarded = guarded & (self.total > 0)

    def cost(self, taken: np.ndarray) -> float:
        return float((((taken - self.aim) * self.weight) ** 2).sum())

    def allowed(self, taken: np.ndarray) -> bool:
        return not bool((self.guarded & (taken >= self.total)).any())

    def greedy(self, order: np.ndarray) -> np.ndarray:
        chosen = np.zeros(len(self.table), dtype=bool)
        taken = np.zeros_like(self.total)
        cost = self.cost(taken)
        for group in order:
            after = taken + self.table[group]
            new_cost = self.cost(after)
            if new_cost < cost and self.allowed(after):
                chosen[group], taken, cost = True, after, new_cost
        return chosen

    def single(self) -> np.ndarray:
        options = [group for group in range(len(self.table)) if self.allowed(self.table[group])]
        if not options:
            raise DataError(
                f"{counted(len(self.table), 'group')} cannot be split: each of them holds all examples of some class (or all examples); "
                "expected every class in two groups or more. Give finer groups, or none."
            )
        chosen = np.zeros(len(self.table), dtype=bool)
        chosen[min(options, key=lambda group: self.cost(self.table[group]))] = True
        return chosen

    def covered(self, chosen: np.ndarray, order: np.ndarray) -> np.ndarray:
        chosen = chosen.copy()
        for column in np.flatnonzero(self.total >= 2):
            taken = self.table[chosen].sum(axis=0)
            if taken[column] > 0:
                continue
            for group in order[self.table[order, column] > 0]:
                if self.allowed(taken + self.table[group]):
                    chosen[group] = True
                    break
        return chosen
