"""Extend: add classes from new data alone. The class weights and the logits of the old classes stay bit-identical."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset
from ..errors import DataError, NetworkError, SettingError
from ..networks.account import Account
from ..networks.folders import read_statistics
from ..networks.names import checked_classes, exact_name, rows_of
from ..networks.network import Head, Network
from ..probes import ClassStatistics, fit_lda, fit_ridge, statistics_of
from ..probes.common import folds_of
from ..randomness import own_state
from ..tasks import harmonic_mean
from ..words import counted
from .starts import Rows, Start, as_data, check_shown, fitted_rows, lowest_biases, probed_rows, ready_for, separated_rows, started

_STRENGTH = 2.5
"""Strength of the shrinkage where all class weights are solved: with 40 sentences a class, old classes lose 9 points in place of 12."""
_DOUBTFUL, _BETTER, _FEWEST = 0.6, 0.03, 10
"""Share of right new examples below which solving all class weights is measured; the least gain, and examples a class, to name it."""


@own_state()
def extend(  # noqa: PLR0913  # over the limit: the public contract
    net: Network,
    classes: Sequence[str],
    data: Any = None,
    *,
    start: str | None = None,
    old_data: Any = None,
    statistics: Any = None,
    test: Any = None,
    seed: int = 0,
) -> Network:
    """Add named classes to a network, as `regraft.extend` says, which describes the arguments. With `test`, the account records the
    accuracy on old and on new classes (with all classes as possible answers) and their harmonic mean."""
    names, old = _checked(net, classes), net.head
    begin = _checked_start(start, data=data, old_data=old_data, statistics=statistics, seed=seed)
    net, items = ready_for(net, data)
    items = None if items is None else items.with_classes(names)
    head = _appended(old, names)
    known = _statistics(net, statistics)
    joint, notes = statistics is not None, list[str]()
    if items is not None:
        check_shown(names, items.class_counts(), needs="expected one or more of every new class.")
        shown, before = (net.features(items), items.targets), (old.weight, old.bias)
        wider = None
        if known is not None and items.task == "classification":
            wider = known.joined(_added(shown, items.classes, known=known, old=before), key=exact_name)
        if joint and wider is not None:
            head, known = _joint(head, wider, old=before)
        else:
            head, right = _with_new_rows(net, head, shown=shown, start=begin if start else None, old_data=old_data, known=known)
            if known is not None and right is not None:
                notes += _doubt(head, known, shown=shown, classes=items.classes, old=before, right=right)
            known = wider if wider is not None else known
    else:
        new = np.arange(len(head.weight) - len(names), len(head.weight))
        head = started(net, head, new=new, old=(old.weight, old.bias), start=begin)
    changed = net.with_head(head)
    changed.body.release_(changed.head.task)
    changed.heads = {task: one for task, one in changed.heads.items() if one.groups is None}
    changed.statistics, changed.unknown = None if known is None else known.to_arrays(), None  # fitted without the new classes
    changed.account = _account(net, changed, names=names, items=items, judges=test, joint=joint, notes=notes)
    return changed


def _checked(net: Network, classes: Sequence[str]) -> tuple[str, ...]:
    names, old = checked_classes(classes), net.head
    if old.classes is None:
        raise NetworkError(
            f"The head's {counted(len(old.weight), 'output', verb='have')} no class names; give them with classes= when the network is "
            "loaded."
        )
    if old.kind == "regression":
        raise NetworkError(
            f"The task {old.task!r} is a regression with the outputs {', '.join(old.classes[:5])}; classes go to a classifier."
        )
    there = {exact_name(name) for name in old.classes}
    double = [name for name in names if exact_name(name) in there]
    if double:
        raise NetworkError(
            f"{', '.join(map(repr, double[:5]))} {'is' if len(double) == 1 else 'are'} among the {counted(len(old.classes), 'class')} "
            "already; give only new names, or regraft.retarget for another list of classes."
        )
    return names


def _checked_start(start: str | None, *, data: Any, old_data: Any, statistics: Any, seed: int) -> Start:
    begin = Start("zeros" if start is None else start, data, seed)
    if data is None and (old_data is not None or statistics is not None):
        asked = "old_data=" if old_data is not None else "statistics="
        raise SettingError(f"{asked} computes new class weights from examples of the new classes; give them with data.")
    if statistics is not None and (old_data is not None or start is not None):
        raise SettingError(
            f"statistics= solves all class weights in closed form; received start={start!r} and old_data "
            f"{'' if old_data is None else 'too'} besides. Leave them out."
        )
    return begin


def _appended(old: Head, names: Sequence[str]) -> Head:
    """Return the head with zero class weights appended for new classes, as a separate part (a matrix product of its own)."""
    count, old = len(names), old.as_softmax() if old.binary else old
    weight = np.concatenate([old.weight, np.zeros((count, old.features), np.float32)])
    bias = np.concatenate([old.bias, np.zeros(count, np.float32)])
    parts = (*(old.parts or (len(old.weight),)), count)
    limits = None if old.thresholds is None else (*old.thresholds, *(0.5,) * count)
    return replace(old, classes=(*(old.classes or ()), *names), weight=weight, bias=bias, parts=parts, thresholds=limits)


def _with_new_rows(
    net: Network, head: Head, *, shown: Rows, start: Start | None, old_data: Any, known: ClassStatistics | None
) -> tuple[Head, float | None]:
    """Return the head with the class weights of its last part computed from features and targets of the new classes.
    Also return the share of these examples that are right when held out, where this is known."""
    features, targets = shown
    count, first = head.parts[-1], len(head.weight) - head.parts[-1]
    before = (head.weight[:first], head.bias[:first])
    original = (head.weight[: head.parts[0]], head.bias[: head.parts[0]])
    if start is not None and start.how in ("random", "mean", "zeros"):
        return started(net, head, new=np.arange(first, first + count), old=before, start=start), None
    right, kept = None, None if old_data is None else as_data(old_data).with_classes((head.classes or ())[:first])
    stored = None if kept is None else (net.features(kept), kept.targets)
    if head.kind == "multi-label":  # labels are independent: examples without a label are its negatives
        present = targets if targets.ndim == 2 else np.eye(count)[targets]
        both = features if stored is None else np.concatenate([stored[0], features])
        probe = fit_ridge(both, np.concatenate([np.zeros((len(both) - len(features), count)), present]), kind="multi-label")
        made = (probe.weight, probe.bias)
    elif start is not None and start.how == "probe" and stored is None:
        if net.fresh:
            raise SettingError(
                f"start='probe' solves class weights on what the head reads, and {', '.join(map(repr, net.fresh))} below it were never "
                "trained. Train them first, with regraft.adapt and strategy='head', or choose start='zeros' or 'mean'."
            )
        if count < 2:
            raise SettingError(f"start='probe' tells new classes from each other; received {count}. Choose 'imprint', or give old_data=.")
        rows, _ = probed_rows(features, targets, count=count, kept=original, wanted=np.arange(count))
        made = (rows, lowest_biases(features, targets, rows=rows, old=original))
    elif known is not None or stored is not None:
        made, right = _fitted(shown, head=head, known=None if known is None else _in_order(known, head), stored=stored)
    else:
        made = separated_rows(features, targets, count=count, old=original)
    weight, bias = head.weight.copy(), head.bias.copy()
    weight[first:], bias[first:] = made
    return replace(head, weight=weight, bias=bias), right


def _fitted(shown: Rows, *, head: Head, known: ClassStatistics | None, stored: Rows | None) -> tuple[Rows, float]:
    """Fit new class weights to examples of the new classes, together with examples or statistics of the old classes.
    For very wide features, the statistics hold a subset (every `known.every`-th feature) and the logits of the original classes. Logits are
    linear in the features, so the result is still a linear head."""
    (features, targets), count, first = shown, head.parts[-1], len(head.weight) - head.parts[-1]
    if known is None or known.every == 1:
        return fitted_rows(features, targets, count=count, old=(head.weight[:first], head.bias[:first]), known=known, stored=stored)
    every, classes = known.every, head.parts[0]
    old = (head.weight[:classes], head.bias[:classes])
    seen = _seen(features, old=old, every=every)
    of_scores = (np.eye(classes, seen.shape[1], seen.shape[1] - classes), np.zeros(classes))
    if stored is not None:
        kept = stored[1] < classes
        stored = _seen(stored[0][kept], old=old, every=every), stored[1][kept]
    rows, right = fitted_rows(seen, targets, count=count, old=of_scores, known=replace(known, every=1), stored=stored)
    return _on_all(rows, old=old, every=every), right


def _on_all(rows: Rows, *, old: Rows, every: int) -> Rows:
    """Convert weights on every `every`-th feature and on the logits of `old` to the equivalent weights on all features."""
    (weight, bias), first = rows, rows[0].shape[1] - len(old[0])
    whole = weight[:, first:] @ old[0]
    whole[:, ::every] += weight[:, :first]
    return whole, bias + weight[:, first:] @ old[1]


def _added(shown: Rows, classes: Sequence[str], *, known: ClassStatistics, old: Rows) -> ClassStatistics:
    """Return the statistics of the new classes, on the same inputs as the known statistics."""
    features, targets = shown
    first = 0 if known.every == 1 else known.means.shape[1] - len(range(0, features.shape[1], known.every))
    seen = _seen(features, old=(old[0][:first], old[1][:first]), every=known.every)
    return replace(statistics_of(seen, targets, classes=classes), every=known.every)


def _doubt(head: Head, known: ClassStatistics, *, shown: Rows, classes: Sequence[str], old: Rows, right: float) -> list[str]:
    """Return a note (a list of one or none) if few new examples are right when held out, and solving all class weights is better."""
    features, targets = shown
    if right >= _DOUBTFUL or np.bincount(targets, minlength=len(classes)).min() < _FEWEST:
        return []
    folds, found = folds_of(features, targets, groups=None), np.zeros(len(targets), bool)
    for fold in np.unique(folds):
        inside = folds == fold
        rest = _added((features[~inside], targets[~inside]), classes, known=known, old=old)
        solved = _joint(head, known.joined(rest, key=exact_name), old=old)[0]
        logits = features[inside] @ solved.weight.T + solved.bias
        found[inside] = logits.argmax(axis=1) == targets[inside] + len(head.weight) - len(classes)
    if found.mean() < right + _BETTER:
        return []
    return [
        f"held out, {100 * right:.0f} % of the examples of the new classes are right beside the old class weights, which stay as they are, "
        f"and {100 * found.mean():.0f} % with statistics=True, which solves the class weights of all classes again. To measure what "
        "each costs the old classes, give examples of them with test=."
    ]


def _seen(features: np.ndarray, *, old: Rows, every: int) -> np.ndarray:
    """Return every `every`-th feature with the logits of the old classes appended; all features if `every` is 1."""
    return features if every == 1 else np.concatenate([features[:, ::every], features @ old[0].T + old[1]], axis=1)


def _in_order(known: ClassStatistics, head: Head) -> ClassStatistics:
    """Return the statistics with the head's old classes first, in the order of the head."""
    before = (head.classes or ())[: len(head.weight) - head.parts[-1]]
    place = rows_of(before, known.classes)
    own = [place[name] for name in before]
    order = [*own, *(row for row in range(len(known.classes)) if row not in own)]
    return replace(known, classes=tuple(known.classes[row] for row in order), counts=known.counts[order], means=known.means[order])


def _statistics(net: Network, given: Any) -> ClassStatistics | None:
    """Return the given class statistics, or those stored in the network; None without any. Raise if they do not fit the network."""
    arrays = net.statistics if given is None or given is True else given
    if isinstance(arrays, str | Path):
        arrays = read_statistics(Path(arrays))
    if arrays is None:
        if given is None:
            return None
        raise SettingError("statistics=True: this network carries none; give a folder saved by regraft, or examples with old_data=.")
    if not isinstance(arrays, Mapping):
        raise SettingError(f"statistics= takes a folder saved by regraft, its arrays, or True; received {type(arrays).__name__}.")
    found, head = ClassStatistics.from_arrays(arrays), net.head
    wide = len(range(0, head.features, found.every)) + (0 if found.every == 1 else len(found.classes))
    least = wide - (0 if found.every == 1 else len(found.classes) - 1)
    if not least <= found.means.shape[1] <= wide:
        raise DataError(
            f"The statistics are of {counted(found.means.shape[1], 'feature')}; the network has {head.features}: they belong to another "
            "one."
        )
    missing = set(head.classes or ()) - set(rows_of(head.classes or (), found.classes))
    if missing:
        raise DataError(f"The statistics lack {len(missing)} of the network's classes, such as {sorted(missing)[:3]}.")
    return found


def _joint(head: Head, statistics: ClassStatistics, *, old: Rows) -> tuple[Head, ClassStatistics]:
    """Solve the class weights of all classes in closed form. Return the head and the statistics that belong to it.
    If the statistics hold a subset of the features and the logits of `old`, the discriminant is solved on these and converted to all
    features. The statistics are then transformed: the logits of the solved class weights replace those of the old ones."""
    order = rows_of(head.classes or (), statistics.classes)
    rows = [order[name] for name in head.classes or ()]
    weight, bias = (part[rows] for part in fit_lda(statistics, standardise=True, strength=_STRENGTH))
    if statistics.every > 1:
        width, known = statistics.means.shape[1], statistics.counts > 0
        first = len(range(0, head.features, statistics.every))
        turn, shift = np.concatenate([np.eye(first, width), weight]), np.concatenate([np.zeros(first), bias])
        scatter = turn @ statistics.scatter @ turn.T
        means = np.where(known[:, None], statistics.means @ turn.T + shift, 0.0)
        weight, bias = _on_all((weight, bias), old=(old[0][: width - first], old[1][: width - first]), every=statistics.every)
        statistics = replace(statistics, means=means, scatter=(scatter + scatter.T) / 2)
    return replace(head, weight=weight.astype(np.float32), bias=bias.astype(np.float32), parts=()), statistics


def _account(
    net: Network, changed: Network, *, names: Sequence[str], items: Dataset | None, judges: Any, joint: bool, notes: list[str]
) -> Account:
    old = list(net.classes or ())
    entries = {"kept": [] if joint else old, "new": [*old, *names] if joint else list(names)}
    solved = f"the class weights of all {counted(len(old) + len(names), 'class')} were solved jointly from class statistics"
    notes = [*notes, *([solved] if joint else [])]
    figures: dict[str, Any] = {}
    judging = None if judges is None else as_data(judges).with_classes(changed.classes or ())
    proof = [part for part in (items, judging) if part is not None]
    if proof:
        pairs = [(net.logits(part), changed.logits(part)[:, : len(old)]) for part in proof]
        figures["max_score_change"] = max(float(np.abs(after - before).max()) for before, after in pairs)
        figures["proved_on_examples"] = sum(len(part) for part in proof)
    if judging is not None:
        figures |= extension_figures(changed, judging, old=len(old))
    return net.account.of_weights().joined(Account(entries, notes=tuple(notes), figures=figures)).joined(changed.body.account)


def extension_figures(net: Network, data: Dataset, *, old: int) -> dict[str, Any]:
    """Return the accuracy on old and on new classes and their harmonic mean. All classes are possible answers."""
    if data.task != "classification":
        raise DataError(f"Accuracy on old and new classes needs one class an example; the data are of the kind {data.task!r}.")
    data = data.with_classes(net.classes or ())
    right = net.logits(data).argmax(1) == data.targets
    shares = {"old_accuracy": right[data.targets < old], "new_accuracy": right[data.targets >= old]}
    figures: dict[str, Any] = {name: float(part.mean()) for name, part in shares.items() if len(part)}
    if len(figures) == len(shares):
        figures["harmonic_mean"] = harmonic_mean(figures["old_accuracy"], figures["new_accuracy"])
    return figures
