"""Profile of a network on data, as plain data that can be printed, plotted, saved and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter

from ...errors import DataError, near_names, takes_paths
from ...files.formats import member, writable
from ...files.schema import checked, read_json
from ...files.text import notebook_html, printable
from ...files.writing import write_json
from ...report.plots import plot_profile
from ...report.profile import write_profile
from ...words import counted, probe_error_words, probe_words
from ..plan import Plan, make_plan

PROFILE_FILE, PAGE_FILE = "profile.json", "profile.html"


Count = Annotated[int, Field(strict=True, ge=0, le=2**62)]
Real = Annotated[float, Field(strict=True, ge=-1e12, le=1e12)]
Positive = Annotated[float, Field(strict=True, ge=0.0, le=1e12)]


@dataclass(frozen=True)
class Depth:
    """Figure of ridge regression on the features of one depth, on left-out examples."""

    block: str  # name of a block, "input" for the network's input, or "before the head" for the head's input
    value: Real
    error: Positive  # standard error
    numbers: Count  # number of features per example


@dataclass(frozen=True)
class ReferenceFigure:
    """Figure to compare with: name, value, standard error, and a remark."""

    name: str
    value: Real
    error: Positive
    words: str = ""


@dataclass(frozen=True)
class Profile:
    """Profile of a network on data: how well the features of each depth predict the targets of left-out examples.

    No figure is measured on examples that the probe was fitted to.

    Attributes:
        network: source of the network.
        kind: "classification", "multi-label" or "regression".
        metric: metric of all figures: "accuracy", "mean average precision" or "R²"; the best value is 1.
        examples: number of examples in the data.
        judged: number of examples that the figures are measured on.
        classes: class names.
        counts: class name -> number of examples.
        groups: number of groups; 0 without groups.
        held_out: "leave-one-out" or "leave-group-out".
        chance: figure of the best constant prediction.
        depths: figures of the input, the blocks in order, and the head's input.
        best: depth with the highest figure. Its figure is optimistic, because it is the best of many.
        honest: figure and standard error of this choice by nested cross-validation with five folds.
        holds_to: deepest depth within one standard error of the best. Transfer breaks after it, unless it is the last.
        beside: figures to compare with.
        similarity: share of the attainable figure above chance that the deepest features give, 0 to 1; None if nothing is above chance.
        per_class: median number of examples per class (number of all examples for regression).
        size: "small" or "large".
        likeness: "similar" or "different"; "unknown" without a similarity.
        scenario: size and likeness in words.
        advice: textbook advice for the scenario.
        agrees: whether the measurement agrees with the advice.
        findings: sentences, the most important first.
        warnings: warnings about the meaning of the figures.
        notes: notes on the measurement.
        curve: learning curve of the probe on all depths, as (examples, figure, standard error).
        more: number of additional examples in the forecast, per class (in total for regression).
        gain: expected gain with these examples, with lower and upper bound; None if it cannot be estimated.
        seconds: times of "read", "pass", "probes" and "total".
        passed: number of examples that went through the network; 0 if the cache held them.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> profile = regraft.profile(net, (rows, labels))
        >>> profile.kind, profile.examples, profile.classes
        ('classification', 60, ('cold', 'warm'))
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    network: str
    kind: Annotated[str, Field(pattern="^(classification|multi-label|regression)$")]
    metric: str
    examples: Count
    judged: Count
    classes: tuple[str, ...]
    counts: Mapping[str, Count]
    groups: Count
    held_out: str
    chance: Real
    depths: Annotated[tuple[Depth, ...], Field(min_length=1)]
    best: str
    honest: tuple[Real, Positive]
    holds_to: str
    beside: Annotated[tuple[ReferenceFigure, ...], Field(min_length=1)]
    similarity: Real | None
    per_class: Count
    size: Annotated[str, Field(pattern="^(small|large)$")]
    likeness: Annotated[str, Field(pattern="^(similar|different|unknown)$")]
    scenario: Annotated[str, Field(min_length=1)]
    advice: str
    agrees: Annotated[bool, Field(strict=True)]
    findings: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    curve: tuple[tuple[Count, Real, Positive], ...] = ()
    more: Count = 0
    gain: tuple[Real, Real, Real] | None = None
    seconds: Mapping[str, Positive] = field(default_factory=dict)
    passed: Count = 0

    def __post_init__(self) -> None:
        names = [depth.block for depth in self.depths]
        for name in (self.best, self.holds_to):
            if name not in names:
                raise ValueError(f"{name!r} is none of the depths {names[:6]}")
        if self.curve and not any(point[0] for point in self.curve):
            raise ValueError("a learning curve of no examples")

    def to_dict(self) -> dict[str, Any]:
        """Return the profile as plain data, for `from_dict`.

        Example:
            >>> profile.to_dict()["metric"]
            'accuracy'
        """
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Profile:
        """Return the profile from the plain data of `to_dict`.

        Args:
            plain: plain data of a profile.

        Returns:
            The profile.

        Raises:
            DataError: if a name is missing or unknown, or a value has a wrong form.

        Example:
            >>> regraft.Profile.from_dict(profile.to_dict()).scenario == profile.scenario
            True
        """
        if isinstance(plain, Mapping) and "items" in plain:  # earlier versions called examples so
            plain = {"examples" if name == "items" else name: value for name, value in plain.items()}
        known = [part.name for part in fields(cls)]
        received = list(plain) if isinstance(plain, Mapping) else []
        unknown, missing = [name for name in received if name not in known], [name for name in known if name not in received]
        if unknown or missing:
            said = f"lacks {', '.join(missing[:6])}" if missing else f"has no place for {unknown[0]!r}{near_names(unknown[0], known)}"
            raise DataError(f"The profile {said}. Expected what profile.to_dict() gives; measure it again with regraft.profile.")
        return checked(plain, _FORM, what="The profile", error=DataError)

    @classmethod
    def load(cls, folder: str | Path) -> Profile:
        """Return the profile from the folder that `save` wrote.

        Args:
            folder: folder with a profile.json, or this file.

        Returns:
            The profile.

        Raises:
            DataError: if the file is missing or is not a profile.
            UnsafeFileError: if the file is a link out of the folder.

        Example:
            >>> _ = profile.save("measured")
            >>> regraft.Profile.load("measured").best == profile.best
            True
        """
        path = member(Path(folder), PROFILE_FILE) if Path(folder).is_dir() else Path(folder)
        plain = read_json(path, "profile", remedy="Save the profile again.")
        try:
            return cls.from_dict(plain)
        except DataError as error:
            raise DataError(f"{printable(path)!r} holds no profile. {error}") from error

    @takes_paths
    def save(self, folder: str | Path) -> Path:
        """Write profile.json and profile.html.

        Args:
            folder: target folder, created if necessary.

        Returns:
            The path of profile.html.

        Example:
            >>> profile.save("measured").name
            'profile.html'
        """
        target = Path(folder)
        with writable(target, error=DataError):
            target.mkdir(parents=True, exist_ok=True)
            write_json(target / PROFILE_FILE, self.to_dict())
        return write_profile(target / PAGE_FILE, self.to_dict())

    def table(self) -> str:
        """Return all figures as a readable table.

        Example:
            >>> len(profile.table().splitlines()) > len(profile.depths)
            True
        """
        width = max(24, *(len(depth.block) for depth in self.depths), *(len(part.name) for part in self.beside)) + 2
        chance = probe_words(self.chance, self.kind)
        lines = [
            f"{self.network}: {self.metric} on {counted(self.judged, 'example')}, {self.held_out}; chance {chance}",
            "",
        ]
        lines += [f"      {'depth':<{width}}{'numbers':>8}{'figure':>10}{'±':>7}"]
        for number, depth in enumerate(self.depths):
            marks = [word for word, at in (("best", self.best), ("transfer holds to here", self.holds_to)) if at == depth.block]
            value, error = probe_words(depth.value, self.kind), probe_error_words(depth.error, self.kind)
            line = f"{number:>4}  {depth.block:<{width}}{depth.numbers:>8,}{value:>10}{error:>7}"
            lines.append(f"{line}  {', '.join(marks)}".rstrip())
        lines += ["", f"      {'beside it':<{width}}{'':>8}{'figure':>10}{'±':>7}"]
        for part in self.beside:
            value, error = probe_words(part.value, self.kind), probe_error_words(part.error, self.kind)
            line = f"      {part.name:<{width}}{'':>8}{value:>10}{error:>7}"
            lines.append(f"{line}  {part.words}".rstrip())
        return "\n".join(map(printable, lines))

    def summary(self) -> str:
        """Return scenario, advice, findings, warnings and notes as text.

        Example:
            >>> profile.summary().splitlines()[0][:9]
            'Scenario:'
        """
        lines = [f"Scenario: {self.scenario}", f"Textbook: {self.advice}"]
        lines += [f"Measured: {sentence}" for sentence in self.findings]
        lines += [f"Warning: {sentence}" for sentence in self.warnings]
        return "\n".join(map(printable, [*lines, *(f"Note: {sentence}" for sentence in self.notes)]))

    def __str__(self) -> str:
        return f"{self.table()}\n\n{self.summary()}"

    def __repr__(self) -> str:
        return f"<Profile of {counted(self.examples, 'example')}: {self.metric} is best at {self.best!r}. {self.scenario}>"

    def _repr_html_(self) -> str:
        return notebook_html(self, title=f"Profile of {self.network}")

    @takes_paths
    def plot(self, path: str | Path) -> Path:
        """Plot the figures by depth, and the learning curve.

        Args:
            path: file to write; the extension chooses the format (.png, .pdf, .svg).

        Returns:
            The path.

        Example:
            >>> profile.plot("profile.png").name
            'profile.png'
        """
        return plot_profile(self.to_dict(), path)

    def report(self, path: str | Path) -> Path:
        """Write the report, one self-contained HTML file.

        Args:
            path: file to write.

        Returns:
            The path.

        Example:
            >>> profile.report("profile.html").name
            'profile.html'
        """
        return write_profile(path, self.to_dict())

    def plan(self, budget: str | None = None) -> Plan:
        """Return a plan for `regraft.adapt` whose reasons contain the findings.

        Args:
            budget: "10m", "30s", "1h", "auto" or None, as in `regraft.adapt`.

        Returns:
            The plan, which may be edited.

        Example:
            >>> profile.plan(budget="30s").budget
            '30s'
        """
        plan = make_plan("auto", {} if budget is None else {"budget": budget})
        return plan.with_reasons(f"Profile: {self.scenario}", *self.findings)


_FORM = TypeAdapter(Profile)
