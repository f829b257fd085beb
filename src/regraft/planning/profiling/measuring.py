"""Measurement of a profile: one pass over the data, then probes on the features."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from ...data import Dataset, PreparedData
from ...data.items import mean_of_windows
from ...errors import DataError
from ...freezing import Counter, check_engine
from ...networks.network import Network
from ...probes.class_mean import mean_cosines
from ...probes.knn import neighbour_scores
from ...training import Settings
from ...words import counted
from ..preparing import preprocessing_for, try_out, windowed
from ..setup import Clock
from ..tap_features import TapFeatures, tapped_features
from .judging import METRICS, Case, ProbeEvaluation, judged, nested_choice
from .probing import (
    JointProbe,
    alone,
    coordinates,
    curve_points,
    expected_gain,
    joint_probe,
    mapped_scores,
    old_scores,
    relation_scores,
    shared_rows,
)
from .profile import Depth, Profile, ReferenceFigure
from .words import BEFORE_HEAD, ProfileFigures, points_of, read_figures, warnings_of

_CHANCE = {"classification": "majority class", "multi-label": "share of each label", "regression": "the mean"}
MOST_JUDGED = 1500  # Maximum number of examples for the probes, whose time grows with its cube


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Inputs of the figures."""

    net: Network
    data: Dataset
    case: Case  # targets and groups of the examples `rows`
    tables: dict[str, np.ndarray]  # depth -> (n, d) features of the examples `rows`
    tapped: TapFeatures
    rows: np.ndarray  # (n,) indices of the examples that the probes use
    seed: int


def measure_profile(net: Network, data: Dataset, *, settings: Settings, device: torch.device, seed: int = 0) -> Profile:
    """Return the profile of a network on data: figures of probes on the features of each depth."""
    check_engine(settings.engine, settings.cluster)
    clock, counter = Clock(), Counter()
    _check_targets(data)
    with clock.during("read"):
        read = windowed(net, data)
        items = PreparedData(read, preprocessing_for(net, read))
        try_out(net, items)
    tapped = tapped_features(net, items, settings=settings, device=device, counter=counter, clock=clock)
    tapped = tapped if read is data else _of_recordings(tapped, read)
    start = time.perf_counter()
    rows, notes = _judged_rows(data, seed)
    case, groups, warnings = _case_of(data, rows)
    profile = _measured(_Inputs(net, data, case, _tables(tapped, rows), tapped, rows, seed))
    now = time.perf_counter()
    seconds = {"read": clock.seconds["read"], "pass": tapped.seconds, "probes": now - start, "total": now - clock.began}
    return replace(
        profile,
        groups=groups,
        warnings=(*warnings, *profile.warnings),
        notes=(*notes, *tapped.notes, *read.notes),
        seconds={name: round(spent, 3) for name, spent in seconds.items()},
        passed=counter.items,
    )


def _of_recordings(tapped: TapFeatures, windows: Dataset) -> TapFeatures:
    """Return the features of recordings as the mean over their windows. This averages the outputs of a linear probe as well."""

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(mean_of_windows(values.numpy(), windows.items))

    head = tapped.head_features
    return replace(tapped, features=mean(tapped.features), head_features=None if head is None else mean(head))


def _check_targets(data: Dataset) -> None:
    """Raise `DataError` if the data are too few or too uniform to evaluate left-out examples."""
    known = data.targets_of(data.name)
    count, counts = int(known.known.sum()), known.counts()
    if count < 4:
        raise DataError(f"A profile needs 4 or more examples with a target; received {count}. Give it more data.")
    if data.task == "classification" and ((counts > 0).sum() < 2 or counts.max() < 2):
        raise DataError(
            "A profile leaves examples out and judges them, so it needs two classes and two examples of one; received "
            f"{counted(count, 'example')} of {int((counts > 0).sum())} classes, at most {int(counts.max())} of one. Give it more examples "
            "of each class."
        )
    if data.task == "regression" and not np.ptp(known.values[known.known], axis=0).all():
        raise DataError(f"All {count} targets of an output are equal; expected numbers that differ. Check the target column.")


def _judged_rows(data: Dataset, seed: int) -> tuple[np.ndarray, list[str]]:
    """Return the indices of the examples for the probes, and notes. Many examples are sampled, stratified by class or by whole groups."""
    known = np.flatnonzero(data.known)
    if len(known) <= MOST_JUDGED:
        return known, []
    kept, _ = data.subset(known).split_indices(1 - MOST_JUDGED / len(known), seed=seed)
    return known[np.sort(kept)], [
        f"The figures are of {counted(len(kept), 'example')}, drawn from the {len(known):,} that went through the network."
    ]


def _case_of(data: Dataset, rows: np.ndarray) -> tuple[Case, int, list[str]]:
    """Return the case of the examples, the number of groups, and a warning if there is only one group."""
    case = Case(data.task, len(data.classes), data.targets[rows])
    if data.groups is None:
        return case, 0, []
    names, numbers = np.unique(np.asarray(data.groups)[rows], return_inverse=True)
    if len(names) > 1:
        return replace(case, groups=numbers.astype(np.int64)), len(names), []
    said = f"All examples are of the group {str(names[0])!r}, so they are left out one by one; how it does on new groups is not known."
    return case, 1, [said]


def _tables(tapped: TapFeatures, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return depth -> features (n, d), in order. The head's input comes last if it differs from the last block's features."""
    features = tapped.features[torch.from_numpy(rows)].numpy()
    tables = {tap.block: features[:, tapped.columns(tap.block)] for tap in tapped.points}
    if tapped.head_features is not None:
        own = tapped.head_features[torch.from_numpy(rows)].numpy()
        last = tables[tapped.points[-1].block]
        if not np.array_equal(last, own):
            tables[BEFORE_HEAD] = own
    for block, table in tables.items():
        wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
        if wrong.size:
            raise DataError(
                f"At {block!r} the network gives numbers that are not finite for {wrong.size} of {counted(len(table), 'example')}, such as "
                f"example {int(rows[wrong[0]])}: it has diverged, or the input holds extreme values. Check weights and data."
            )
    return tables


def _measured(of: _Inputs) -> Profile:
    case, data, tables = of.case, of.data, of.tables
    depths = {block: alone(case, table) for block, table in tables.items()}
    _, honest = nested_choice(case, list(depths.values()))
    everything = coordinates(of.tapped.features[torch.from_numpy(of.rows)].numpy())
    joint = joint_probe(case, everything)
    counts = {name: int(count) for name, count in zip(data.classes, data.class_counts(), strict=False)}
    known = int(data.known.sum())
    per_class = int(np.median([count for count in counts.values() if count])) if counts else known
    found = ProfileFigures(depths, joint.held, honest, case.chance, case.kind, per_class)
    reading = read_figures(found)
    naive = None if case.groups is None else joint_probe(replace(case, groups=None), everything).others[joint.method]
    curve = curve_points(case, everything, joint=joint, seed=of.seed)
    gain = expected_gain(curve, known, later=2 * known)
    constant = [name for name, table in tables.items() if not np.ptp(table, 0).any()]
    source = str(of.net.origin.get("source", of.net.family))
    return Profile(
        network=str(of.net.origin.get("class", source)).rpartition(".")[2] if source == "module" else source,
        kind=case.kind,
        metric=METRICS[case.kind],
        examples=len(data),
        judged=len(case),
        classes=data.classes,
        counts=counts,
        groups=0,
        held_out="leave-one-out" if case.groups is None else "leave-group-out",
        chance=case.chance,
        depths=tuple(Depth(block, held.value, held.error, tables[block].shape[1]) for block, held in depths.items()),
        best=found.best,
        honest=(honest.value, honest.error),
        holds_to=found.holds_to,
        beside=tuple([*_jointly(joint, naive), *_on_deepest(of), *_old_head(of), ReferenceFigure(_CHANCE[case.kind], case.chance, 0.0)]),
        similarity=found.similarity,
        per_class=per_class,
        **asdict(replace(reading, findings=(*reading.findings, *_forecast(gain, per_class, kind=case.kind)))),
        warnings=warnings_of(found, counts=counts, naive=naive, constant=constant, rows=data.has_rows),
        curve=tuple(curve),
        more=per_class,
        gain=gain,
    )


def _jointly(joint: JointProbe, naive: ProbeEvaluation | None) -> Iterator[ReferenceFigure]:
    """Yield the figures of the joint probes, the better one first, marked as the better of two."""
    for name, held in sorted(joint.others.items(), key=lambda pair: -pair[1].value):
        words = f"the better of {len(joint.others)}" if name == joint.method and len(joint.others) > 1 else ""
        yield ReferenceFigure(f"all depths together, {name}", held.value, held.error, words)
    if naive is not None:
        words = "groups ignored: too good for new ones" if naive.value > joint.held.value else "groups ignored"
        yield ReferenceFigure(f"the same, one example left out ({joint.method})", naive.value, naive.error, words)


def _on_deepest(of: _Inputs) -> Iterator[ReferenceFigure]:
    """Yield the figures of nearest neighbours and nearest class mean on the deepest features."""
    if of.case.kind != "classification":
        return
    (deepest, table), case = list(of.tables.items())[-1], of.case
    for name, scores_of in (("5 nearest neighbours, cosine", neighbour_scores), ("nearest class mean, cosine", mean_cosines)):
        held = judged(case, scores_of(table, case.targets, classes=case.classes, groups=case.groups))
        yield ReferenceFigure(name, held.value, held.error, f"on {deepest!r}")


def _old_head(of: _Inputs) -> Iterator[ReferenceFigure]:
    """Yield the figures of the network's original head on the new classes."""
    if of.case.kind != "classification" or of.tapped.head_features is None:
        return
    scores = old_scores(of.net, of.tapped.head_features[torch.from_numpy(of.rows)])
    if scores is None:
        return
    found = shared_rows(of.net.head, of.data.classes)
    shared = int((found >= 0).sum())
    if shared:
        held = judged(of.case, mapped_scores(scores, found))
        yield ReferenceFigure("the old head, by class name", held.value, held.error, f"{counted(shared, 'class', of=len(found))} known")
    held = judged(of.case, relation_scores(scores, of.case.targets, classes=of.case.classes, groups=of.case.groups))
    yield ReferenceFigure("the old head, by relation of classes", held.value, held.error, f"from {counted(scores.shape[1], 'old class')}")


def _forecast(gain: tuple[float, float, float] | None, more: int, *, kind: str) -> Iterator[str]:
    if gain is not None:
        items, unit = ("examples", "") if kind == "regression" else ("examples per class", " points")
        about, low, high = (points_of(part, kind) for part in gain)
        yield f"{more:,} more {items} would give about {about}{unit} ({low} to {high}) with the probe on all depths."
