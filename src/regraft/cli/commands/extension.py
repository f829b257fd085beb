"""`regraft extend`: a network and items of new classes in, the network with further classes out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from ...console import show, show_json, speaking, tell
from ...errors import DataError, MissingExtraError, NetworkError, SettingError, near_names
from .. import options
from ..guard import guarded
from ..shared import check_there, checked_kind, columns_for, listed_names, opened, read_data, wanted_target, wanted_weights
from .adaptation import printed_report, short_account

__all__ = ["add_to", "figures_line"]


def add_to(app: typer.Typer) -> None:
    """Add the command `extend` to `app`."""
    app.command("extend")(guarded(_extend))


@dataclass(frozen=True)
class _Asked:
    """What the options say, checked before anything is opened."""

    out: Path
    start: str | None
    old_data: str | None
    statistics: str | None
    holdout: float
    seed: int
    skip_bad: bool

    def check(self) -> None:
        """Raise if options do not go together."""
        from ...heads.starting import STARTS

        if self.start is not None and self.start not in STARTS:
            raise SettingError(f"--start {self.start!r} is not known{near_names(self.start, STARTS)}")
        given = {"--start": self.start, "--old-data": self.old_data, "--statistics": self.statistics}
        named = [f"{name} {value}" for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise SettingError(f"Received {' and '.join(named)}: each computes the new rows in a way of its own. Choose one.")
        if not 0 <= self.holdout < 1:
            raise SettingError(f"--holdout {self.holdout}: expected a share from 0 to below 1, such as 0.2.")

    @property
    def fits_old(self) -> bool:
        """Whether the new rows are fitted to items of old classes too, where there are any."""
        return self.start is None and self.statistics is None

    @property
    def known(self) -> Any:
        """The class statistics, as `regraft.extend` takes them."""
        return True if self.statistics == "own" else self.statistics


def _extend(  # noqa: PLR0913  # over the limit: the options of the command
    network: options.NetworkArgument,
    data: options.DataArgument,
    *,
    out: options.Out,
    start: options.Start = None,
    old_data: options.OldData = None,
    statistics: options.Statistics = None,
    test: options.Test = None,
    holdout: options.Holdout = 0.2,
    target: options.Target = None,
    group: options.Group = None,
    columns: options.Columns = None,
    files: options.Files = None,
    outside: options.Outside = False,
    kind: options.Kind = None,
    weights: options.Weights = None,
    random_weights: options.RandomWeights = False,
    classes: options.OldClasses = None,
    head: options.HeadLayer = None,
    channels: options.Channels = None,
    architecture: options.Architecture = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Add the classes of DATA that a network lacks, from their items alone; its old rows and scores stay as they are."""
    began, listed = time.perf_counter(), listed_names(columns, option="--columns")
    reading = {"target": wanted_target(target), "group": group, "files": files, "outside": outside, "kind": kind, "skip_bad": skip_bad}
    asked = _Asked(out, start, old_data, statistics, holdout, seed, skip_bad)
    check_there(network, data, old_data)
    asked.check()
    with speaking(not quiet), _held_folder(out):
        net = opened(
            network,
            wanted_weights(weights, random_weights),
            source_classes=classes,
            head=head,
            channels=channels,
            architecture=architecture,
        )
        reading["columns"] = columns_for(net, listed)
        shown = _read(net, data, reading=reading)
        stored = None if old_data is None else _read(net, old_data, reading=reading)
        parts = _parts(net, shown, stored=stored, asked=asked)
        net.preprocessing = _preprocessing(net, parts.new)
        judges = None if test is None else _read(net, test, reading=reading).with_classes(parts.classes)
        extended, scores = _extended(net, parts, test=judges, asked=asked)
        facts = _facts(extended, scores, parts=parts, asked=asked, seconds=time.perf_counter() - began)
        _save(extended, facts, folder=out)
    _print_result(facts, extended.account, folder=out, as_json=as_json)


@contextmanager
def _held_folder(folder: Path) -> Iterator[None]:
    """Hold the folder of the result while the context lasts.

    Raises:
        SettingError: if it cannot be written, another process writes there, or it holds a network already.
    """
    from ...files.locks import held_folder
    from ...networks.folders import FACTS_FILE, settled

    with held_folder(folder):
        settled(folder)
        if (folder / FACTS_FILE).is_file():
            raise SettingError(f"{str(folder)!r} already holds a finished network. Give another folder with --out.")
        yield


# ── reading and parting ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(net: Any, source: str, *, reading: Mapping[str, Any]) -> Any:
    """Return labelled items for the first head of a network.

    Raises:
        DataError: if they are of another kind, or may have several labels.
    """
    import numpy as np

    from ...data import checked

    data = checked(read_data(source, **reading), reading["skip_bad"])
    if isinstance(reading["target"], dict):
        data = data.of_task(net.head.task if net.head.task in data.tasks else data.name)
        data = data.subset(np.flatnonzero(data.known))
    if data.task != "classification":
        raise DataError(
            f"The labels of {source} are of the kind {data.task!r}; expected one class name an item. Choose one column of class names with "
            "--target."
        )
    return data


@dataclass(frozen=True)
class _Parts:
    """Items by what they are for: `new` and `old` make the new rows, `judging` only judges; `classes` are the old names, then the new."""

    classes: tuple[str, ...]
    count: int
    new: Any
    old: Any = None
    judging: Any = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The new classes."""
        return self.classes[self.count :]


def _parts(net: Any, shown: Any, *, stored: Any, asked: _Asked) -> _Parts:
    """Part the items that were given: a share of both is kept aside, and whole groups stay together."""
    import numpy as np

    old, new = _old_names(net), _new_names(net, shown)
    both = [each.with_classes((*old, *new)) for each in (shown, stored) if each is not None]
    count = len(old)
    repeated = int((both[0].targets < count).sum())
    notes = [_repeated(repeated, shown, asked=asked)] if repeated else []
    held, said = _held(both, asked)
    learned, aside, known = [], [], []
    for data, judges in zip(both, held, strict=True):
        of_old = data.targets < count
        learned.append(data.subset(np.flatnonzero(~judges & ~of_old)))
        if asked.fits_old:
            known.append(data.subset(np.flatnonzero(~judges & of_old)))
        aside.append(data.subset(np.flatnonzero(judges if asked.fits_old else judges | (of_old & _apart(data, learned[-1])))))
    judging = _together(aside)
    notes += [*_unseen(both, count), *([said] if said else _kept_whole(both, judging) if asked.holdout else [])]
    read = [note for data in both for note in data.notes]
    return _Parts((*old, *new), count, _together(learned), _together(known), judging, tuple(dict.fromkeys([*read, *notes])))


def _apart(data: Any, learned: Any) -> Any:
    """Return which items, (n,) bool, are of no group that is learned from."""
    import numpy as np

    return np.ones(len(data), bool) if data.groups is None else ~np.isin(data.groups, learned.groups)


def _old_names(net: Any) -> tuple[str, ...]:
    if net.classes is None:
        raise NetworkError(f"The head's {len(net.head.weight)} rows have no class names; give them with --source-classes FILE.")
    return tuple(net.classes)


def _new_names(net: Any, data: Any) -> tuple[str, ...]:
    from ...data.items import listed
    from ...networks.names import rows_of

    present = [name for name, count in zip(data.classes, data.class_counts(), strict=True) if count]
    old = rows_of(present, net.classes)
    new = tuple(name for name in present if name not in old)
    if not new:
        shown = listed(map(repr, present))
        raise DataError(
            f"The network has all classes of the data already: {shown}. Expected items of a class that it lacks; regraft adapt learns from "
            "further items of classes that it has."
        )
    return new


def _repeated(count: int, data: Any, *, asked: _Asked) -> str:
    use = "the new rows are fitted to old and new items" if asked.fits_old else "they only judge"
    return f"{count:,} of {len(data):,} items have labels that the network has already: used as items of old classes; {use}."


def _held(both: Sequence[Any], asked: _Asked) -> tuple[list[Any], str]:
    """Choose the share that is kept aside, of all data together, so that a group is never on both sides.

    Returns:
        (n,) bool for each data set; and why nothing could be kept aside, else "".
    """
    import numpy as np

    from ...data import Dataset

    sizes = [len(data) for data in both]
    held, reason = np.zeros(sum(sizes), bool), ""
    groups = [data.groups for data in both]
    table = Dataset(
        np.zeros((sum(sizes), 1), np.float32),
        np.concatenate([data.targets for data in both]),
        both[0].classes,
        "array",
        groups=None if any(part is None for part in groups) else np.concatenate(groups),
    )
    if asked.holdout:
        try:
            held[table.split_indices(asked.holdout, seed=asked.seed)[1]] = True
        except DataError as error:
            reason = f"No item was kept aside to judge: {error} --test gives items that only judge."
    return np.split(held, np.cumsum(sizes)[:-1]), reason


def _unseen(both: Sequence[Any], count: int) -> list[str]:
    """Return a sentence on the old classes without items where others have some, as a list of one or none."""
    from ...data.items import listed

    counts = sum(data.class_counts() for data in both)[:count]
    unseen = [name for name, some in zip(both[0].classes, counts, strict=False) if not some]
    if not unseen or len(unseen) == count:
        return []
    shown = listed(map(repr, unseen))
    return [f"No item was given of {len(unseen)} of {count} old classes ({shown}): what the new classes take from them is not measured."]


def _kept_whole(both: Sequence[Any], judging: Any) -> list[str]:
    """Return a sentence on the classes of which no item is kept aside, as a list of one or none."""
    from ...data.items import listed

    counts = sum(data.class_counts() for data in both)
    aside = 0 * counts if judging is None else judging.class_counts()
    whole = [name for name, some, none in zip(both[0].classes, counts, aside == 0, strict=True) if some and none]
    shown = listed(map(repr, whole))
    return [f"Nothing of {shown} was kept aside to judge: all their items are learned from."] if whole else []


def _together(parts: Sequence[Any]) -> Any:
    """Return the items of several data sets of the same classes as one; None where there are no items."""
    import numpy as np

    filled = [part for part in parts if len(part)]
    if len(filled) < 2:
        return filled[0] if filled else None
    kinds, shapes = {part.kind for part in filled}, {np.shape(part.items)[1:] for part in filled if isinstance(part.items, np.ndarray)}
    if len(kinds) > 1:
        raise DataError(f"The data and the old data are of different kinds: {', '.join(sorted(kinds))}; expected one. Give --kind.")
    blocks = len(shapes) == 1 and all(isinstance(part.items, np.ndarray) for part in filled)
    return dataclasses.replace(
        filled[0],
        items=np.concatenate([part.items for part in filled]) if blocks else [item for part in filled for item in part.items],
        targets=np.concatenate([part.targets for part in filled]),
        columns=None if filled[0].columns is None else np.concatenate([part.columns for part in filled]),
        names=tuple(part.name_of(index) for part in filled for index in range(len(part))),
        groups=None,
        conditions=None,
    )


def _preprocessing(net: Any, data: Any) -> Any:
    """Return the network's preprocessing, fitted once: inferred ones are measured on the items learned from."""
    from ...planning.preparing import preprocessing_for

    own = net.preprocessing
    if own.inferred:
        own = preprocessing_for(net, data)
    elif data.kind != own.item_kind:
        checked_kind(net, data)
    return own if own.fitted else own.fit(data)


# ── extending and judging ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _extended(net: Any, parts: _Parts, *, test: Any, asked: _Asked) -> tuple[Any, dict[str, Any]]:
    """Return the extended network and its figures on the items kept aside ("holdout") and on those of --test ("test")."""
    from ...heads import extend

    judging = {name: data for name, data in (("holdout", parts.judging), ("test", test)) if data is not None}
    extended = extend(
        net,
        parts.names,
        parts.new,
        start=asked.start,
        old_data=parts.old,
        statistics=asked.known,
        test=next(iter(judging.values()), None),
        seed=asked.seed,
    )
    return extended, {name: _judged(net, extended, data=data, count=parts.count) for name, data in judging.items()}


def _judged(net: Any, extended: Any, *, data: Any, count: int) -> dict[str, Any]:
    """Return the figures on some items, all classes being possible answers, and those of the first `count` classes before."""
    import numpy as np

    from ...heads import extension_figures
    from ...tasks import judge

    figures = judge(extended.logits(data), data.targets, data.classes, kind="classification")
    figures |= extension_figures(extended, data, old=count)
    of_old = np.flatnonzero(data.targets < count)
    figures |= {"old_items": len(of_old), "new_items": len(data) - len(of_old)}
    if len(of_old):
        known = data.subset(of_old)
        figures["old_accuracy_before"] = float((net.logits(known).argmax(1) == known.targets).mean())
    return dict(figures)


def figures_line(figures: Mapping[str, Any], classes: int) -> str:
    """Say in one sentence how well an extended network tells old and new classes.

    Args:
        figures: with "old_accuracy", "new_accuracy" and "harmonic_mean", as far as there are items, and their numbers.
        classes: how many there are in all.

    Returns:
        The sentence.
    """
    said = []
    if "old_accuracy" in figures:
        before = f" ({_percent(figures['old_accuracy_before'])} before)" if "old_accuracy_before" in figures else ""
        said.append(f"{_percent(figures['old_accuracy'])} of {figures['old_items']:,} items of old classes{before}")
    if "new_accuracy" in figures:
        said.append(f"{_percent(figures['new_accuracy'])} of {figures['new_items']:,} items of new classes")
    mean = f"; harmonic mean {_percent(figures['harmonic_mean'])}" if "harmonic_mean" in figures else ""
    lacking = "; the other classes were not judged" if len(said) == 1 else ""
    return f"Among all {classes} classes the extended network reads {' and '.join(said)} correctly{mean}{lacking}."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


# ── the result ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _facts(extended: Any, scores: Mapping[str, Any], *, parts: _Parts, asked: _Asked, seconds: float) -> dict[str, Any]:
    """Return all that the report shows, as plain data."""
    from ...networks.folders import versions

    judged = scores.get("test") or scores.get("holdout")
    unjudged = "The extended network has not been judged: no items were kept aside; give some with --test."
    how = asked.start or ("statistics" if asked.statistics else "imprint" if parts.old is None else "items of old and new classes")
    learned = [part for part in (parts.new, parts.old) if part is not None]
    counts = sum(part.class_counts() for part in learned)
    split = {"training": sum(map(len, learned)), "holdout": 0 if parts.judging is None else len(parts.judging)}
    blocks = extended.blocks
    return {
        "title": "Extension report",
        "verdict": figures_line(judged, len(parts.classes)) if judged else unjudged,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": versions(),
        "strategy": {"name": "extend", "reasons": [], "settings": {"new rows": how, "holdout": asked.holdout, "seed": asked.seed}},
        "scores": dict(scores),
        "account": extended.account.to_dict(),
        "cost": {"total": round(seconds, 3)},
        "network": {"name": str(extended.origin.get("source", extended.family)), "family": extended.family, "blocks": len(blocks)}
        | {"parameters": sum(block.parameters for block in blocks), "head": extended.head.layer},
        "data": {"items": sum(split.values()), "classes": len(parts.classes), "split": split, "notes": list(parts.notes)}
        | {"counts": {name: int(count) for name, count in zip(parts.classes, counts, strict=True) if count}},
        "preprocessing": extended.preprocessing.describe(),
    }


def _save(extended: Any, facts: Mapping[str, Any], *, folder: Path) -> None:
    """Save figures, report and network, all at once."""
    from ...files.writing import write_text
    from ...networks.folders import replacing, write_network
    from ...report import report_page, write_facts

    with replacing(folder, error=SettingError) as staged:
        write_network(extended, staged)
        write_facts(staged, dict(facts), scores=("scores", "account", "cost", "verdict"))
        with suppress(MissingExtraError):  # `regraft report` makes the page once the extra is there
            write_text(staged / "report.html", report_page(facts))


def _print_result(facts: Mapping[str, Any], account: Any, *, folder: Path, as_json: bool) -> None:
    report, shown = printed_report(folder)
    for note in facts["data"]["notes"]:
        tell(f"Note: {note}")
    if as_json:
        kept = {name: facts[name] for name in ("verdict", "scores", "account", "cost")}
        show_json({**kept, "folder": str(folder), "report": report})
        return
    show(facts["verdict"], lines=True)
    show(f"Account: {short_account(account)}")
    for note in account.notes:
        show(f"Account: {note}")
    if "max_score_change" in account.figures:
        change, items = account.figures["max_score_change"], account.figures["proved_on_items"]
        show(f"Scores of old classes: changed by {change:.3g} at most, on {items:,} items (max_score_change)")
    show(f"Report: {shown}")
