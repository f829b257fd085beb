"""Initialise the class weights of new classes: zero or random, from the old class weights, or from data."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data import Dataset, preprocessing_from_dict, read
from ..errors import DataError, SettingError, near_names
from ..networks.contract import Head, Network
from .starts import Rows, imprinted_rows, mean_rows, probed_rows

__all__ = ["STARTS", "Start", "as_data", "empty_head", "ready_for", "started"]

STARTS = ("zeros", "random", "mean", "imprint", "probe")


@dataclass(frozen=True)
class Start:
    """Initialisation of the class weights of new classes.

    Attributes:
        how: "zeros", "random", "mean", "imprint" or "probe".
        data: examples for "imprint" and "probe". Its class names (and, for an additional task, its task) select the targets.
        seed: seed for "random".
    """

    how: str
    data: Any = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.how not in STARTS:
            raise SettingError(f"start={self.how!r} is not known{near_names(str(self.how), STARTS)}")
        if self.how in ("imprint", "probe") and self.data is None:
            raise SettingError(f"start={self.how!r} computes new rows from examples of the new classes; give them with data=.")


def as_data(given: Any) -> Dataset:
    """Return the argument as a `Dataset`; read it unless it is one."""
    return given if isinstance(given, Dataset) else read(given)


def ready_for(net: Network, data: Any) -> tuple[Network, Any]:
    """Return the network with its preprocessing fitted to the data, and the data as a `Dataset` (None if `data` is None).

    An inferred preprocessing learns the value range of images from the data. All computations of one operation, and later predictions of
    the new network, must use the same range. A preprocessing that is fitted already is left unchanged.
    """
    if data is None:
        return net, None
    items, own = as_data(data), preprocessing_from_dict(net.preprocessing.to_dict())
    if own.fitted:
        return net, items
    ready = copy(net)  # shares the module; operations copy it before they change it
    ready.preprocessing = own.fit(items)
    return ready, items


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
        made = mean_rows(old[0], old[1], count=len(new))
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
    data = _targets_for(head, as_data(start.data))
    features, targets = net.features(data), data.targets
    if data.task != "classification":
        if start.how == "imprint":
            raise SettingError(
                f"start='imprint' averages the examples of each class; the data are of the kind {data.task!r}. Choose 'probe'."
            )
        return probed_rows(features, targets, count=len(head.weight), kept=kept, wanted=new, kind=data.task)
    lacking = [(head.classes or ())[index] for index in new if index not in targets]
    if lacking:
        raise DataError(
            f"The data show no example of {', '.join(map(repr, lacking[:5]))}; start={start.how!r} needs one of every new class."
        )
    if start.how == "probe":
        return probed_rows(features, targets, count=len(head.weight), kept=kept, wanted=new)
    inside = np.isin(targets, new)
    return imprinted_rows(features[inside], np.searchsorted(new, targets[inside]), count=len(new), kept=kept)


def _targets_for(head: Head, data: Dataset) -> Dataset:
    """Return the examples with a known target for the head's task, with classes in the order of the head."""
    own = data.of_task(head.task) if head.task in data.tasks else data.of_task(data.name)
    known = own if own.known.all() else own.subset(np.flatnonzero(own.known))
    return known.with_classes(head.classes or ()) if known.task != "regression" else known
