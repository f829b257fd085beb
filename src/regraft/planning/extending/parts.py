"""Split of labelled examples of old and new classes into training and holdout sets."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...data import Dataset, checked, preprocessing_from_dict
from ...data.items import listed
from ...errors import DataError, NetworkError
from ...networks.names import rows_of
from ...networks.network import Network
from ...words import counted
from ..preparing import without_name


@dataclass(frozen=True)
class Parts:
    """Examples by use."""

    classes: tuple[str, ...]  # old class names, then new ones
    count: int  # number of old classes
    new: Dataset  # training examples of new classes
    old: Dataset | None = None  # training examples of old classes, or None
    judging: Dataset | None = None  # holdout set, or None
    notes: tuple[str, ...] = ()  # notes on the data, and on what is not evaluated

    @property
    def names(self) -> tuple[str, ...]:
        """New class names."""
        return self.classes[self.count :]

    @property
    def counts(self) -> np.ndarray:
        """Number of training examples of each class."""
        return self.new.class_counts() + (0 if self.old is None else self.old.class_counts())


def labelled(net: Network, data: Dataset, *, skip_bad: bool = False) -> Dataset:
    """Return the examples that have a class label, with one task: that of the first head, or the first one of the data."""
    own, data = preprocessing_from_dict(net.preprocessing.to_dict()), without_name(net, data)
    found = checked(own.dataset(data), skip_bad)
    if len(found.tasks) > 1:
        found = found.of_task(net.head.task if net.head.task in found.tasks else found.name)
    if not found.known.all():
        found = found.subset(np.flatnonzero(found.known))
    if found.task != "classification":
        raise DataError(
            f"The labels are of the kind {found.task!r}; expected one class name an example. Choose one column of class names with target=."
        )
    return found


def parted(net: Network, shown: Dataset, *, stored: Dataset | None, fits_old: bool, holdout: float, seed: int) -> Parts:
    """Split the examples into training and holdout sets; groups stay together.
    `stored`: additional examples of old classes, or None. `fits_old`: whether examples of old classes are trained on; otherwise all of them
    evaluate, except those in groups with training examples."""
    if net.classes is None:
        raise NetworkError(
            f"The head's {counted(len(net.head.weight), 'output', verb='have')} no class names; give them with classes= when the network "
            "is loaded."
        )
    old, new = tuple(net.classes), _new_names(net, shown)
    both = [each.with_classes((*old, *new)) for each in (shown, stored) if each is not None]
    count = len(old)
    repeated = int((both[0].targets < count).sum())
    use = "the new class weights are fitted to old and new examples" if fits_old else "they only judge"
    said = (
        f"{counted(repeated, 'example', verb='have', of=len(shown))} labels that the network has already: used as examples of old classes; "
        f"{use}."
    )
    notes = [said] if repeated else []
    held, said = _held(both, holdout=holdout, seed=seed)
    learned, aside, known = [], [], []
    for data, judges in zip(both, held, strict=True):
        of_old = data.targets < count
        learned.append(data.subset(np.flatnonzero(~judges & ~of_old)))
        if fits_old:
            known.append(data.subset(np.flatnonzero(~judges & of_old)))
        aside.append(data.subset(np.flatnonzero(judges if fits_old else judges | (of_old & _apart(data, learned[-1])))))
    joined, judging = _together(learned), _together(aside)
    if joined is None:
        raise DataError("No example of a new class is left to learn from: all are in the share that judges. Give a smaller holdout=.")
    notes += [*_unseen(both, count), *([said] if said else _kept_whole(both, judging) if holdout else [])]
    read = [note for data in both for note in data.notes]
    return Parts((*old, *new), count, joined, _together(known), judging, tuple(dict.fromkeys([*read, *notes])))


def _apart(data: Dataset, learned: Dataset) -> np.ndarray:
    """Return which examples are in no group with training examples, (n,) bool."""
    if data.groups is None or learned.groups is None:
        return np.ones(len(data), bool)
    return ~np.isin(data.groups, learned.groups)


def _new_names(net: Network, data: Dataset) -> tuple[str, ...]:
    present = [name for name, count in zip(data.classes, data.class_counts(), strict=True) if count]
    old = rows_of(present, net.classes or ())
    new = tuple(name for name in present if name not in old)
    if not new:
        raise DataError(
            f"The network has all classes of the data already: {listed(map(repr, present))}. Expected examples of a class that it lacks; "
            "adapt learns from further examples of classes that it has."
        )
    return new


def _held(both: Sequence[Dataset], *, holdout: float, seed: int) -> tuple[list[np.ndarray], str]:
    """Draw the holdout set from all data together, so that no group is on both sides.
    Return a mask (n,) bool for each data set, and the reason if nothing could be held out, else ""."""
    sizes = [len(data) for data in both]
    held, reason = np.zeros(sum(sizes), bool), ""
    groups = [data.groups for data in both if data.groups is not None]
    table = Dataset(
        np.zeros((sum(sizes), 1), np.float32),
        np.concatenate([data.targets for data in both]),
        both[0].classes,
        "array",
        groups=np.concatenate(groups) if len(groups) == len(both) else None,
    )
    if holdout:
        try:
            held[table.split_indices(holdout, seed=seed)[1]] = True
        except DataError as error:
            reason = f"There is no holdout set: {error} Give a test set with test=."
    return np.split(held, np.cumsum(sizes)[:-1]), reason


def _unseen(both: Sequence[Dataset], count: int) -> list[str]:
    """Return a note (a list of one or none) on old classes without examples, if other old classes have some."""
    counts = np.sum([data.class_counts() for data in both], axis=0)[:count]
    unseen = [name for name, some in zip(both[0].classes, counts, strict=False) if not some]
    if not unseen or len(unseen) == count:
        return []
    shown = listed(map(repr, unseen))
    return [
        f"No example was given of {len(unseen)} of {counted(count, 'old class')} ({shown}): the effect of the new classes on them is not "
        "measured."
    ]


def _kept_whole(both: Sequence[Dataset], judging: Dataset | None) -> list[str]:
    """Return a note (a list of one or none) on classes without examples in the holdout set."""
    counts = np.sum([data.class_counts() for data in both], axis=0)
    aside = np.zeros_like(counts) if judging is None else judging.class_counts()
    whole = [name for name, some, none in zip(both[0].classes, counts, aside == 0, strict=True) if some and none]
    shown = listed(map(repr, whole))
    return [f"No example of {shown} is in the holdout set: all are trained on."] if whole else []


def _together(parts: Sequence[Dataset]) -> Dataset | None:
    """Return several data sets with the same classes as one; None if all are empty."""
    filled = [part for part in parts if len(part)]
    if len(filled) < 2:
        return filled[0] if filled else None
    kinds, shapes = {part.kind for part in filled}, {np.shape(part.items)[1:] for part in filled if isinstance(part.items, np.ndarray)}
    if len(kinds) > 1:
        raise DataError(f"The data and the old data are of different kinds: {', '.join(sorted(kinds))}; expected one. Give kind=.")
    blocks = len(shapes) == 1 and all(isinstance(part.items, np.ndarray) for part in filled)
    columns = [part.columns for part in filled if part.columns is not None]
    return dataclasses.replace(
        filled[0],
        items=np.concatenate([part.items for part in filled]) if blocks else [item for part in filled for item in part.items],
        targets=np.concatenate([part.targets for part in filled]),
        columns=np.concatenate(columns) if len(columns) == len(filled) else None,
        names=tuple(part.name_of(index) for part in filled for index in range(len(part))),
        groups=None,
        conditions=None,
    )
