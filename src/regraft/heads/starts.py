"""Initialise the class weights of new classes: zero or random, from the old class weights, or from data.

The functions `*_rows` are pure functions of features and of the kept class weights: weight (n, d) and bias (n,) of n new classes.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import Dataset, preprocessing_from_dict, read
from ..errors import DataError, SettingError, near_names
from ..networks.network import Head, Network
from ..probes import ClassStatistics, LogisticLoss, fit_logistic, fit_ridge

STARTS = ("zeros", "random", "mean", "imprint", "probe")
_LOST = 0.15  # Share of a new class's examples that may score below an old class, if there are no old examples to balance against
_DRAWN = 4_000  # Total number of features drawn from the statistics of the old classes; 4 to 100 per class
_OLD = 1.5
"""Weight of an old class in the fit, relative to a new one: on digits 0.9 points fewer are lost, and 1 to 5 fewer of the new ones found."""
_SCALE = 10.0  # scale of cosine logits without kept class weights (learned in Qi et al., where it starts at 10)

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Start:
    """Initialisation of the class weights of new classes."""

    how: str  # "zeros", "random", "mean", "imprint" or "probe"
    data: Any = None  # examples for "imprint" and "probe". Its class names (and, for an additional task, its task) select the targets
    seed: int = 0  # seed for "random"

    def __post_init__(self) -> None:
        if self.how not in STARTS:
            raise SettingError(f"start={self.how!r} is not known{near_names(str(self.how), STARTS)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise SettingError(f"seed={self.seed!r}: expected a whole number, 0 or more.")
        if self.how in ("imprint", "probe") and self.data is None:
            raise SettingError(f"start={self.how!r} computes new class weights from examples of the new classes; give them with data=.")


def as_data(given: Any) -> Dataset:
    """Return the argument as a `Dataset`; read it unless it is one."""
    return given if isinstance(given, Dataset) else read(given)


def ready_for(net: Network, data: Any) -> tuple[Network, Any]:
    """Return the network with its preprocessing fitted to the data, and the data as a `Dataset` (None if `data` is None).
    An inferred preprocessing learns the value range of images from the data. All computations of one operation, and later predictions of
    the new network, must use the same range. A preprocessing that is fitted already is left unchanged."""
    if data is None:
        return net, None
    own = preprocessing_from_dict(net.preprocessing.to_dict())
    items = own.dataset(as_data(data))
    if own.fitted:
        return net, items
    ready = copy(net)  # shares the module; operations copy it before they change it
    ready.preprocessing = own.fit(items)
    return ready, items


def check_shown(classes: Sequence[str], counts: Sequence[int] | np.ndarray, *, needs: str) -> None:
    """Raise `DataError` if a class has no example. `counts`: (C,) examples of each class, () for targets that are numbers; `needs`: end of
    the message."""
    if not len(counts):
        raise DataError(f"The data hold numbers in place of the classes {', '.join(map(repr, classes[:5]))}; {needs}")
    lacking = [name for name, count in zip(classes, counts, strict=True) if not count]
    if lacking:
        raise DataError(f"The data show no example of {', '.join(map(repr, lacking[:5]))}; {needs}")


def empty_head(task: str, classes: Sequence[str], *, kind: str, features: int) -> Head:
    """Return a head with zero weights and biases."""
    rows = np.zeros((len(classes), features), np.float32)
    return Head(task, tuple(classes), kind, "linear", "", rows, np.zeros(len(classes), np.float32))


def started(net: Network, head: Head, *, new: np.ndarray, old: Rows, start: Start) -> Head:
    """Return the head with the class weights of its new classes filled in. `new` (n,) are their indices in the head."""
    if start.how == "zeros" or not len(new):
        return head
    kept = np.setdiff1d(np.arange(len(head.weight)), new)
    rows = (head.weight[kept], head.bias[kept])
    if start.how == "random":
        made = net.body.fresh_rows(len(new), head.features, seed=start.seed)
    elif start.how == "mean":
        made = _mean_rows(old[0], old[1], count=len(new))
    else:
        made = _from_data(net, head, new=new, kept=rows, start=start)
    weight, bias = head.weight.copy(), head.bias.copy()
    weight[new], bias[new] = made
    return replace(head, weight=weight, bias=bias)


def _from_data(net: Network, head: Head, *, new: np.ndarray, kept: Rows, start: Start) -> Rows:
    if head.apart:
        raise SettingError(
            f"start={start.how!r} computes class weights on the features of {net.head.task!r}, which {head.task!r} does not read. Choose "
            "'zeros', 'random' or 'mean'."
        )
    data = as_data(start.data)
    data = data.of_task(head.task if head.task in data.tasks else data.name)
    data = data if data.known.all() else data.subset(np.flatnonzero(data.known))
    data = data.with_classes(head.classes or ()) if data.task != "regression" else data
    features, targets = net.features(data), data.targets
    if data.task != "classification":
        if start.how == "imprint":
            raise SettingError(
                f"start='imprint' averages the examples of each class; the data are of the kind {data.task!r}. Choose 'probe'."
            )
        return probed_rows(features, targets, count=len(head.weight), kept=kept, wanted=new, kind=data.task)
    names = [(head.classes or ())[index] for index in new]
    check_shown(names, np.isin(new, targets), needs=f"start={start.how!r} needs one of every new class.")
    if start.how == "probe":
        return probed_rows(features, targets, count=len(head.weight), kept=kept, wanted=new)
    inside = np.isin(targets, new)
    return imprinted_rows(features[inside], np.searchsorted(new, targets[inside]), count=len(new), kept=kept)


def _mean_rows(weight: np.ndarray, bias: np.ndarray, *, count: int) -> Rows:
    """Return `count` copies of the mean of the old class weights (C, d) and biases (C,)."""
    if not len(weight):
        raise DataError(
            f"start='mean' needs old class weights to average; the network has {len(weight)}. Choose 'random', 'imprint' or 'probe'."
        )
    return np.repeat(weight.mean(0, keepdims=True), count, 0), np.repeat(bias.mean(keepdims=True), count)


def imprinted_rows(features: np.ndarray, targets: np.ndarray, *, count: int, kept: Rows) -> Rows:
    """Return the normalised mean feature direction of each class, scaled to the mean norm of the kept class weights, with their mean bias.
    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1; `kept`: weight (C, d) and bias (C,), may be empty.
    Source: Qi, Brown & Lowe, CVPR 2018, equations 5 and 6. Deviation: the head need not be a cosine classifier, so the new weights take the
    mean norm and bias of the kept ones. Without kept weights, a feature of mean length has a logit of 10 at most."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.maximum(lengths, 1e-12)
    means = np.stack([directions[targets == index].mean(0) for index in range(count)])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    weight, bias = kept
    norm = np.linalg.norm(weight, axis=1).mean() if len(weight) else _SCALE / max(float(lengths.mean()), 1e-12)
    return means * norm, np.full(count, bias.mean() if len(bias) else 0.0)


# over the limit: features and targets are one record, and the kind says what the targets are
def probed_rows(
    features: np.ndarray, targets: np.ndarray, *, count: int, kept: Rows, wanted: np.ndarray, kind: str = "classification"
) -> Rows:
    """Return class weights of the closed-form ridge solution, aligned to the kept class weights.
    `features`: (N, d) of all classes with data; `targets`: (N,) class, 0 to `count` - 1, or for other kinds (N, C) of 0 and 1
    ("multi-label") or numbers ("regression"); `kept`: weight (C, d) and bias (C,), may be empty; `wanted`: (n,) indices of the new
    classes."""
    probe = fit_ridge(features, targets, kind=kind, classes=count)
    return aligned_rows(probe.weight[wanted], probe.bias[wanted], kept=kept)


def separated_rows(features: np.ndarray, targets: np.ndarray, *, count: int, old: Rows) -> Rows:
    """Return imprinted class weights that take few old examples away from their classes, although no old examples are available.
    The old class weights stand in for the old examples: the weight vector of a class (its positive part, if no feature is negative) points
    to the features of that class. A new direction leads from the mean of these vectors to the mean of the new class. Its norm is the mean
    norm of the old class weights. The bias is the lowest at which 85 % of the new examples still score above every old class. The mean bias
    of the old classes, as in weight alignment, would assign nearly every old example to the new class if all features are positive. Each
    new class depends only on its own examples and on the old class weights, so adding classes one by one equals adding them together.
    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1, each with an example; `old`: weight (C, d) and bias (C,)
    before any extension.
    Source: Qi, Brown & Lowe, CVPR 2018 (imprinting); Zhao et al., CVPR 2020, equation 5 (norms). Deviations: the direction and the bias."""
    weight = old[0]
    means = np.stack([features[targets == index].mean(0) for index in range(count)])
    standing = np.maximum(weight, 0) if float(features.min()) >= 0 else weight
    standing = standing / np.maximum(np.linalg.norm(standing, axis=1, keepdims=True), 1e-12)
    lengths = np.linalg.norm(features, axis=1)
    length = np.array([lengths[targets == index].mean() for index in range(count)])[:, None]
    directions = means - standing.mean(0) * length
    rows = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12) * np.linalg.norm(weight, axis=1).mean()
    return rows, lowest_biases(features, targets, rows=rows, old=old)


def fitted_rows(
    features: np.ndarray, targets: np.ndarray, *, count: int, old: Rows, known: ClassStatistics | None, stored: Rows | None = None
) -> tuple[Rows, float]:
    """Return new class weights with the least log loss on new and old examples, old classes weighted 1.5; the old ones stay fixed.
    Old examples are the `stored` ones and features drawn from the statistics: Gaussian noise around the class means, with the within-class
    covariance. The old logits of drawn features are adjusted to those of unseen examples, as `held_out` of the statistics describes them.
    Drawn features have the same total weight as the examples behind the statistics. The fit is a logistic regression with the logits of the
    old classes as fixed offsets. Its penalty is chosen on held-out examples. Also return the share of new examples that are right when held
    out.
    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1, each with an example; `old`: weight (C, d) and bias (C,);
    `known`: statistics of the same features, the C old classes first, in their order, or None; `stored`: features (M, d) and class indices
    (M,) of old examples, or None.
    Source: classifier alignment on drawn features, Zhang et al. (SLCA), ICCV 2023, section 3.3. Deviations: only new class weights are
    fitted, and the logits of drawn features are those of unseen examples."""
    first = len(old[0])
    given = [*([] if stored is None else [stored]), (features, targets + first)]
    parts = [(x, y, x @ old[0].T + old[1], np.ones(len(y))) for x, y in given]
    parts += [] if known is None else [_drawn(known, old)]
    table, truth, scores, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    totals = np.bincount(truth, weights, minlength=first + count)
    share = weights / totals[truth] * np.where(truth < first, _OLD, 1.0)
    offset = np.concatenate([scores, np.zeros((len(scores), count))], axis=1)
    loss = LogisticLoss(item_weight=share, offset=offset, fixed=first)
    probe = fit_logistic(table.astype(np.float64), truth, classes=first + count, loss=loss)
    zero = int(truth.min())  # a class with zero weights as reference: the probe subtracts the mean over all classes
    right = probe.loo_scores[truth >= first].argmax(axis=1) == truth[truth >= first]
    weight, bias = ((part[first:] - part[zero]) / probe.temperature for part in (probe.weight, probe.bias))
    return (weight, bias), float(right.mean())


def _drawn(known: ClassStatistics, old: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw features (m, d) from the statistics of the old classes. Also return their classes, adjusted logits (m, C) and weights (m,)."""
    rows = np.flatnonzero(known.counts[: len(old[0])])
    each = int(np.clip(_DRAWN // max(len(rows), 1), 4, 100))
    covariance, targets = known.covariance, np.repeat(rows, each)
    covariance[np.diag_indices(len(covariance))] += max(1e-7 * float(np.trace(covariance)) / len(covariance), np.finfo(np.float32).tiny)
    noise = np.random.default_rng(0).standard_normal((len(targets), len(covariance))) @ np.linalg.cholesky(covariance).T
    (nearer, wider), middles = known.held_out, known.means[: len(old[0])] @ old[0].T + old[1]
    middles = nearer * middles + (1 - nearer) * middles[rows].mean(axis=0)
    return known.means[targets] + noise, targets, middles[targets] + wider * noise @ old[0].T, known.counts[targets] / each


def lowest_biases(features: np.ndarray, targets: np.ndarray, *, rows: np.ndarray, old: Rows) -> np.ndarray:
    """Return for each new class the lowest bias (n,) at which 85 % of its examples score above every old class.
    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1, each with an example; `rows`: (n, d) new class weights;
    `old`: weight (C, d) and bias (C,)."""
    highest = (features @ old[0].T + old[1]).max(1)
    gaps = highest - np.einsum("nd,nd->n", features, rows[targets])
    gaps += 1e-3 * np.abs(highest)  # at the gap itself the scores would only tie
    return np.array([np.quantile(gaps[targets == index], 1 - _LOST, method="higher") for index in range(len(rows))])


def aligned_rows(weight: np.ndarray, bias: np.ndarray, *, kept: Rows) -> Rows:
    """Scale new class weights (n, d) and biases (n,) to the mean norm and mean bias of the kept ones (C, d) and (C,), if there are any.
    Source: weight alignment, Zhao et al., CVPR 2020, equation 5. The same factor scales the bias, which is then shifted to the kept
    mean."""
    if not len(kept[0]) or not len(weight):
        return weight, bias
    factor = np.linalg.norm(kept[0], axis=1).mean() / max(float(np.linalg.norm(weight, axis=1).mean()), 1e-12)
    scaled = bias * factor
    return weight * factor, scaled - scaled.mean() + kept[1].mean()
