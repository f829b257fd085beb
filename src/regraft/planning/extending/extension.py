"""Extension of a network by the new classes of a data set, with its scores on a holdout set and its report."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data import Dataset
from ...errors import InputError, NetworkError, SettingError, near_names, takes_paths
from ...files.locks import held_folder
from ...files.text import notebook_html
from ...heads import extend, extension_figures
from ...heads.starts import STARTS
from ...networks.account import Account
from ...networks.folders import replacing, write_network
from ...networks.network import Network
from ...report import write_report
from ...tasks import judge, wilson_interval
from ...words import counted
from ..preparing import preprocessing_for
from ..result import check_unfinished, made_now, network_facts, write_facts_and_page
from ..setup import Clock
from .parts import Parts, labelled, parted


@dataclass(frozen=True)
class ExtensionOptions:
    """Arguments of an extension. Raises `SettingError` for conflicting arguments."""

    start: str | None = None  # initialisation of the new class weights; None: chosen by the data
    old_data: Any = None  # additional examples of old classes, or None
    statistics: Any = None  # class statistics of the old classes, or None
    holdout: float = 0.2  # share of the holdout set
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start is not None and self.start not in STARTS:
            raise SettingError(f"start={self.start!r} is not known{near_names(str(self.start), STARTS)}")
        given = {"start=": self.start, "old_data=": self.old_data, "statistics=": self.statistics}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise SettingError(f"Received {' and '.join(named)} at once: each makes the new class weights in a way of its own. Choose one.")
        if isinstance(self.holdout, bool) or not isinstance(self.holdout, int | float) or not 0 <= self.holdout < 1:
            raise SettingError(f"holdout= is a share from 0 to below 1, such as 0.2; received {self.holdout!r}.")

    @property
    def fits_old(self) -> bool:
        """Whether the new class weights are also fitted to examples of old classes, if there are any."""
        return self.start is None and self.statistics is None


@dataclass(frozen=True)
class Extension:
    """Extended network with its scores and notes.

    Attributes:
        network: the extended network.
        classes: the new classes.
        scores: figures of the "holdout" set and of the "test" set, if given: over all classes, and "old_accuracy", "new_accuracy",
            their "harmonic_mean" and "old_accuracy_before", if there are examples for them.
        notes: warnings, and notes on the data and on what is not evaluated.
        cost: seconds by step, as in `Result.cost`, and "total".
        facts: additional content of the report, as plain data.

    Example:
        >>> import numpy as np, torch, regraft
        >>> net = regraft.load(torch.nn.Sequential(torch.nn.Linear(2, 2)), classes=["cat", "dog"], inputs=(2,))
        >>> examples = np.random.default_rng(0).normal(5, 1, (20, 2)).astype("float32")
        >>> extension = regraft.extend(net, (examples, ["cow"] * 20), holdout=0.25)
        >>> extension.classes, extension.network.classes, extension.scores["holdout"]["examples"]
        (('cow',), ('cat', 'dog', 'cow'), 5)
    """

    network: Network = field(repr=False)
    classes: tuple[str, ...]
    scores: dict[str, Any] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)
    cost: dict[str, float]
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def account(self) -> Account:
        """Account of the change: the new classes, and how much the logits of the old ones changed."""
        return self.network.account

    @property
    def verdict(self) -> str:
        """One sentence on the accuracy on old and new classes."""
        judged = self.scores.get("test") or self.scores.get("holdout")
        if not judged:
            return "The extended network has not been evaluated: there is no holdout set and no test set."
        return figures_line(judged, len(self.network.classes or ()))

    def __repr__(self) -> str:
        return f"<Extension by {counted(len(self.classes), 'class')}: {self.verdict}>"

    def __str__(self) -> str:
        return "\n".join([self.verdict, *(f"note: {note}" for note in self.notes), str(self.account)])

    def _repr_html_(self) -> str:
        return notebook_html("\n\n".join([*self.notes, str(self.account)]), title=self.verdict)

    def report_facts(self) -> dict[str, Any]:
        """Return the content of the report as plain data.

        Example:
            >>> extension.report_facts()["data"]["classes"]
            3
        """
        return {
            **made_now("Extension report", self.verdict),
            "scores": self.scores,
            "account": self.account.to_dict(),
            "cost": self.cost,
            **self.facts,
        }

    def report(self, path: str | Path) -> Path:
        """Write the report, one self-contained HTML file, and return its path.

        Example:
            >>> extension.report("extension.html").name
            'extension.html'
        """
        return write_report(path, self.report_facts())

    @takes_paths
    def save(self, folder: str | Path, *, error: type[InputError] = NetworkError) -> Path:
        """Save network, scores and report atomically.

        Args:
            folder: target folder, created if necessary; an earlier save there is replaced as a whole.
            error: class of the exception to raise.

        Returns:
            The folder.

        Raises:
            InputError: an `error`, if the folder cannot be written.

        Example:
            >>> extension.save("extended").name
            'extended'
        """
        with replacing(folder, error=error) as staged:
            write_network(self.network, staged)
            write_facts_and_page(staged, self.report_facts(), scores=("scores", "account", "cost", "verdict"))
        return Path(folder)


def extended(
    net: Network,
    data: Dataset,
    *,
    asked: ExtensionOptions,
    test: Dataset | None = None,
    out: str | Path | None = None,
    skip_bad: bool = False,
) -> Extension:
    """Extend a network by the new classes of the data, and evaluate it on a holdout set. `out`: folder to save it to, or None."""
    with nullcontext() if out is None else held_folder(out) as folder:
        if folder is not None:
            check_unfinished(folder, shown=out)
        clock = Clock()
        found = _extended(net, data, asked=asked, test=test, skip_bad=skip_bad, clock=clock)
        if folder is not None:
            with clock.during("save"):
                found.save(folder, error=SettingError)
    return replace(found, cost=clock.cost())


def _extended(net: Network, data: Dataset, *, asked: ExtensionOptions, test: Dataset | None, skip_bad: bool, clock: Clock) -> Extension:
    with clock.during("read"):
        stored = None if asked.old_data is None else labelled(net, asked.old_data, skip_bad=skip_bad)
        shown = labelled(net, data, skip_bad=skip_bad)
        parts = parted(net, shown, stored=stored, fits_old=asked.fits_old, holdout=asked.holdout, seed=asked.seed)
        tests = None if test is None else labelled(net, test, skip_bad=skip_bad).with_classes(parts.classes)
        judging = {name: part for name, part in (("holdout", parts.judging), ("test", tests)) if part is not None}
        source = copy(net)  # shares the module; `extend` makes its own copy
        source.preprocessing = preprocessing_for(net, parts.new)
        if not source.preprocessing.fitted:
            source.preprocessing = source.preprocessing.fit(parts.new)
    how: dict[str, Any] = {"old_data": parts.old, "statistics": asked.statistics, "seed": asked.seed}
    with clock.during("solve"):
        wider = extend(source, parts.names, parts.new, start=asked.start, test=next(iter(judging.values()), None), **how)
    with clock.during("evaluate"):
        scores = {name: _judged(source, wider, data=part, count=parts.count) for name, part in judging.items()}
    measured = source.preprocessing.measured and f"No preprocessing was stored with the network; it was {source.preprocessing.measured}."
    sure = [_too_sure(name, figures, classes=len(parts.classes)) for name, figures in scores.items()]
    warnings = tuple(filter(None, [measured, *sure]))
    facts = _facts(wider, parts, asked=asked, warnings=warnings, known=net.statistics is not None)
    return Extension(wider, parts.names, scores, (*warnings, *parts.notes), clock.cost(), facts)


def _judged(net: Network, wider: Network, *, data: Dataset, count: int) -> dict[str, Any]:
    """Return the figures over all classes, and the accuracy of the original network on the first `count` (old) classes."""
    figures = judge(wider.logits(data), data.targets, data.classes, kind="classification")
    figures |= extension_figures(wider, data, old=count)
    of_old = np.flatnonzero(data.targets < count)
    figures |= {"old_examples": len(of_old), "new_examples": len(data) - len(of_old)}
    if len(of_old):
        known = data.subset(of_old)
        figures["old_accuracy_before"] = float((net.logits(known).argmax(1) == known.targets).mean())
    return dict(figures)


def _too_sure(part: str, figures: Mapping[str, Any], *, classes: int) -> str:
    """Return a warning if the log loss is higher than that of equal probabilities, else ""."""
    loss, blind = figures["log_loss"], math.log(classes)
    if loss <= blind:
        return ""
    return (
        f"The log loss on the {part} set, {loss:.2f}, is higher than that of equal probabilities, {blind:.2f}: its errors "
        "have too high probabilities. The predicted classes are as evaluated, but do not use the probabilities. Extending leaves the "
        "logits of old classes as they are and does not calibrate; adapt, with examples of old and new classes, does."
    )


def figures_line(figures: Mapping[str, Any], classes: int) -> str:
    """Return one sentence on the accuracy of an extended network on old and new classes."""
    said = []
    if "old_accuracy" in figures:
        before = f"; {_percent(figures['old_accuracy_before'])} before" if "old_accuracy_before" in figures else ""
        said.append(f"{_share(figures, 'old')}{before})")
    if "new_accuracy" in figures:
        said.append(f"{_share(figures, 'new')})")
    mean = f"; harmonic mean {_percent(figures['harmonic_mean'])}" if "harmonic_mean" in figures else ""
    lacking = "; the other classes were not evaluated" if len(said) == 1 else ""
    return f"Among all {classes} classes the extended network classifies {' and '.join(said)} correctly{mean}{lacking}."


def _share(figures: Mapping[str, Any], kind: str) -> str:
    """Return the accuracy on "old" or "new" classes with its interval; the bracket is left open."""
    share, count = figures[f"{kind}_accuracy"], figures[f"{kind}_examples"]
    low, high = wilson_interval(round(share * count), count)
    return f"{_percent(share)} of {counted(count, 'example')} of {kind} classes (95 % interval {100 * low:.1f} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _facts(wider: Network, parts: Parts, *, asked: ExtensionOptions, warnings: tuple[str, ...], known: bool) -> dict[str, Any]:
    """Return the content of the report besides scores and account, as plain data."""
    alone = "fitted to the new examples and class statistics" if known else "separated from the old class weights"
    how = asked.start or ("fitted to examples of old and new classes" if parts.old is not None else alone)
    how = "solved for all classes from class statistics" if asked.statistics is not None else how
    asked_for = {"start": asked.start, "statistics": asked.statistics, "holdout": asked.holdout, "seed": asked.seed}
    given = {name: repr(value) for name, value in asked_for.items() if value is not None}
    given |= {} if asked.old_data is None else {"old_data": "old_data"}
    split = {"training": int(parts.counts.sum()), "holdout": 0 if parts.judging is None else len(parts.judging)}
    return {
        "strategy": {
            "name": "extend",
            "reasons": [f"New class weights: {how}."],
            "settings": {"new class weights": how, "holdout": asked.holdout, "seed": asked.seed},
        },
        "network": network_facts(wider),
        "data": {"examples": sum(split.values()), "classes": len(parts.classes), "split": split, "notes": list(parts.notes)}
        | {"counts": {name: int(count) for name, count in zip(parts.classes, parts.counts, strict=True) if count}},
        "preprocessing": wider.preprocessing.describe(),
        "call": "".join(["regraft.extend(\n    net,\n    data,\n", *(f"    {name}={value},\n" for name, value in given.items()), ")"]),
        "warnings": list(warnings),
    }
