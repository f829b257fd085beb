"""Search space: names of settings with choices or ranges, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from ...errors import SettingError, near_names
from ...networks.network import Network
from ...networks.parts.head import ACTIVATIONS
from ...training import Settings
from ...training.settings import is_whole
from ..plan import SOLVING, STRATEGIES, Plan, make_plan

CLOSED_FORM = {"strategy": "probe"}  # First trial of a search of the default space: a probe, as a baseline without training
HEAD_NAMES = ("head_layers", "head_units", "head_activation")
"""Settings of additional layers below the head. They change the network and are not part of a plan."""
_NOT_SEARCHED = (
    *("cache", "dtype", "engine", "cluster", "precision", "device", "baselines", "task_weights", "refit"),
    *("metrics", "mode", "callbacks", "log_with"),
)
_OF_PLAN = ("strategy", "frozen", "block", "probe", "trainable", "views", "validation", "start")
NAMES = (*_OF_PLAN, *HEAD_NAMES, *(field.name for field in fields(Settings) if field.name not in _NOT_SEARCHED))
"""All names that can be searched."""
_CONDITIONS: dict[str, tuple[str, tuple[Any, ...], Any]] = {
    "frozen": ("strategy", ("partial",), "head"),
    "block": ("strategy", ("surgical",), "head"),
    "probe": ("strategy", SOLVING, "head"),
    "trainable": ("strategy", tuple(name for name in STRATEGIES if name != "probe"), "head"),
    "layer_decay": ("strategy", ("partial", "full", "scratch", "auto"), "head"),
    "unfreeze_every": ("strategy", ("partial", "full", "scratch", "auto"), "head"),
    "head_layers": ("strategy", ("head", "full"), "head"),
    "plateau_factor": ("schedule", ("plateau",), Settings().schedule),
    "plateau_patience": ("schedule", ("plateau",), Settings().schedule),
    "momentum": ("optimizer", ("sgd", "rmsprop"), Settings().optimizer),
    "label_smoothing": ("loss", (None, "cross_entropy", "mse"), Settings().loss),
    "head_units": ("head_layers", (1, 2, 3), 0),
    "head_activation": ("head_layers", (1, 2, 3), 0),
}
"""Name -> (name that it depends on, values of that name at which it has an effect, default of that name)."""
_OWNERS = {"frozen": "partial", "block": "surgical"}  # Names that belong to a single strategy
_ABSENT = object()  # Value of a name that has no effect in a combination
_FIRST = ("strategy", "optimizer", "schedule", "head_layers")
_KEYS = ("low", "high", "log", "step", "points")
_HEAD_RULES: dict[str, tuple[str, Any]] = {
    "head_layers": ("a whole number from 0 to 3", lambda value: is_whole(value) and 0 <= value <= 3),
    "head_units": ("a whole number, 1 or more", lambda value: is_whole(value) and value >= 1),
    "head_activation": (f"one of {', '.join(ACTIVATIONS)}", lambda value: value in ACTIVATIONS),
}


@dataclass(frozen=True)
class Range:
    """Range of numbers from `low` to `high`, both included."""

    low: float  # lower end. If both ends are ints, the range is of ints
    high: float
    log: bool = False  # whether to sample on a logarithmic scale
    step: float | None = None  # step between values, or None
    points: int = 3  # number of values in a grid

    @property
    def whole(self) -> bool:
        """Whether the values are ints."""
        return is_whole(self.low) and is_whole(self.high)

    def suggested(self, name: str, trial: Any) -> float:
        """Return the value that an Optuna trial suggests for `name`."""
        if self.whole:
            return int(trial.suggest_int(name, self.low, self.high, step=int(self.step or 1), log=self.log))
        return self._readable(trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log))

    def holds(self, value: Any) -> bool:
        """Return whether a value is within the range and of its type."""
        return isinstance(value, int if self.whole else int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def on_grid(self) -> tuple[float, ...]:
        """Return the values of a grid: every step, or `points` evenly (or log-evenly) spaced values."""
        if self.step is not None:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            spaced = [self.low + index * self.step for index in range(count)]
        else:
            spaced = (np.geomspace if self.log else np.linspace)(self.low, self.high, self.points).clip(self.low, self.high).tolist()
        return tuple(dict.fromkeys(round(value) if self.whole else self._readable(value) for value in spaced))

    def _readable(self, value: float) -> float:
        """Return a value without digits that change nothing, within the range: with three significant ones, with more where the range is
        narrow for its numbers, or with those of a step."""
        narrow = max(abs(self.low), abs(self.high), self.high - self.low) / (self.high - self.low or 1)
        digits = 3 + int(math.log10(max(narrow, 1))) if self.step is None else 12
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)


@dataclass(frozen=True)
class Space:
    """Validated search space."""

    entries: Mapping[str, tuple[Any, ...] | Range]  # name -> choices or range
    built: tuple[str, ...] = ()  # names that are arguments of a user's build function, not settings

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], fixed: Mapping[str, Any], *, built: Sequence[str] = ()) -> Space:
        """Return the space from plain data, after checking it.
        `plain`: name -> list of choices, {"low", "high", "log", "step", "points"}, or one value. `fixed`: settings of every trial. `built`:
        arguments of a build function."""
        if not isinstance(plain, Mapping) or not plain:
            raise SettingError(f"space={str(plain)[:80]!r}: expected a mapping from names of settings to choices or ranges.")
        names = (*built, *(name for name in NAMES if name not in built))
        problems = [f"space: {name!r} cannot be searched{near_names(str(name), names)}" for name in plain if name not in names]
        problems += [f"space: {name!r} is also given as a fixed setting; give it once" for name in plain if name in fixed]
        entries = {}
        for name in (name for name in plain if name in names):
            try:
                entries[name] = _entry(name, plain[name])
            except SettingError as error:
                problems.append(str(error))
        order = sorted(entries, key=lambda name: (name not in _FIRST, names.index(name)))
        space = cls({name: entries[name] for name in order}, tuple(name for name in order if name in built))
        problems += [] if problems else list(space.problems(fixed))
        if problems:
            raise SettingError("; ".join(problems))
        return space

    def to_dict(self) -> dict[str, Any]:
        """Return the space as plain data."""
        return {
            name: {key: getattr(entry, key) for key in _KEYS} if isinstance(entry, Range) else list(entry)
            for name, entry in self.entries.items()
        }

    def problems(self, fixed: Mapping[str, Any]) -> Iterator[str]:
        """Yield error messages for missing names, and for values that are invalid in a plan with the `fixed` settings."""
        strategies = self.entries.get("strategy", ())
        for name, owner in _OWNERS.items():
            if not isinstance(strategies, Range) and owner in strategies and name not in {*self.entries, *fixed}:
                yield f"space: strategy {owner!r} needs {name!r}, as a list of choices"
        if "head_layers" in self.entries and "head_units" not in self.entries:
            yield "space: 'head_layers' needs 'head_units', such as [32, 128]"
        for name, entry in ((name, entry) for name, entry in self.entries.items() if name not in self.built):
            for value in (entry.low, entry.high) if isinstance(entry, Range) else entry:
                problem = _problem(name, value, fixed=fixed)
                if problem:
                    yield f"space: {problem}"

    def suggested(self, trial: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """Return name -> value as suggested by an Optuna trial. Names without effect in this combination are left out."""
        values: dict[str, Any] = {}
        for name, entry in self.entries.items():
            if name in self.built or _means_something(name, {**fixed, **values}):
                values[name] = entry.suggested(name, trial) if isinstance(entry, Range) else trial.suggest_categorical(name, entry)
        return values

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether all values (name -> value) are in the space."""
        return all(name in self.entries and _is_of(self.entries[name], value) for name, value in values.items())

    def grid(self, fixed: Mapping[str, Any], values: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield every combination of values once. `fixed`: settings of every trial; `values`: those of the first names."""
        values = values or {}
        name = next((name for name in self.entries if name not in values), None)
        if name is None:
            yield {name: value for name, value in values.items() if value is not _ABSENT}
            return
        entry, known = self.entries[name], {**fixed, **{name: value for name, value in values.items() if value is not _ABSENT}}
        options = entry.on_grid() if isinstance(entry, Range) else entry
        for option in options if name in self.built or _means_something(name, known) else (_ABSENT,):
            yield from self.grid(fixed, {**values, name: option})


def default_space(network: Network, kind: str, *, several: bool = False) -> dict[str, Any]:
    """Return the default space as plain data. `kind`: kind of the task; `several`: whether the data have several tasks."""
    heads = set(network.head_layers)
    count = next((number for number, block in enumerate(network.blocks) if not heads.isdisjoint(block.layers)), len(network.blocks))
    depths = sorted({count * share // 4 for share in (1, 2, 3)} - {0, count})
    space: dict[str, Any] = {"strategy": ["head", "partial", "full"] if depths else ["head", "full"]}
    space |= {"frozen": depths} if depths else {}
    space |= {
        "optimizer": ["adamw", "sgd"],
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "momentum": {"low": 0.8, "high": 0.98},
        "weight_decay": {"low": 1e-5, "high": 1e-1, "log": True},
        "decay": {"low": 1e-5, "high": 1e-2, "log": True},
        "epochs": {"low": 5, "high": 50, "log": True},
        "l1": {"low": 1e-7, "high": 1e-3, "log": True},
        "dropout": {"low": 0.0, "high": 0.5},
        "batch_size": [16, 32, 64],
        "clip_norm": [None, 1.0],
    }
    if kind != "classification":
        return space | ({"loss": ["mse", "mae", "huber"]} if kind == "regression" else {})
    space["loss"] = ["cross_entropy", "focal"]
    deeper = {"head_layers": [0, 1, 2], "head_units": [32, 128], "head_activation": ["relu", "tanh", "linear"]}
    return space | {"label_smoothing": {"low": 0.0, "high": 0.2}} | ({} if several else deeper)


def plan_for(values: Mapping[str, Any], fixed: Mapping[str, Any]) -> Plan:
    """Return the plan of one trial, without refit. Additional head layers (`HEAD_NAMES`) are not part of a plan."""
    given = {name: value for name, value in {**fixed, **values}.items() if name not in HEAD_NAMES}
    strategy = given.pop("strategy", "head")
    for name, owner in _OWNERS.items():
        if strategy != owner:
            given.pop(name, None)
    if strategy not in SOLVING:
        given.pop("probe", None)
    for name in ("plateau_factor", "plateau_patience") if given.get("schedule") != "plateau" else ():
        given.pop(name, None)
    plan = make_plan(strategy, given)
    return replace(plan, statistics=False, settings=replace(plan.settings, refit=False))  # only the best plan is refitted


def _entry(name: str, given: Any) -> tuple[Any, ...] | Range:
    if isinstance(given, Mapping):
        return _range(name, given)
    choices = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    if not choices or not all(value is None or isinstance(value, str | int | float) for value in choices):
        raise SettingError(f"space: {name}={given!r}: expected a list of words or numbers, or a range such as {{'low': 1, 'high': 8}}")
    return choices


def _range(name: str, given: Mapping[str, Any]) -> Range:
    unknown = [str(key) for key in given if key not in _KEYS]
    if unknown:
        raise SettingError(f"space: the range of {name!r} has {unknown[0]!r}{near_names(unknown[0], _KEYS)}")
    made = Range(**{"low": None, "high": None, **given})
    numbers = [made.low, made.high, *([] if made.step is None else [made.step])]
    if not all(isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number) for number in numbers):
        raise SettingError(f"space: {name}={dict(given)}: expected numbers as 'low' and 'high'")
    if made.low >= made.high or (made.log and made.low <= 0) or (made.step is not None and (made.step <= 0 or made.log)):
        raise SettingError(f"space: {name}={dict(given)}: expected low < high, above 0 with 'log', and a 'step' above 0 only without it")
    if not is_whole(made.points) or made.points < 2:
        raise SettingError(f"space: {name}={dict(given)}: expected 2 'points' or more")
    return made


def _is_of(entry: tuple[Any, ...] | Range, value: Any) -> bool:
    if isinstance(entry, Range):
        return entry.holds(value)
    return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in entry)


def _problem(name: str, value: Any, *, fixed: Mapping[str, Any]) -> str:
    """Return an error message for one value, or ""."""
    if name in HEAD_NAMES:
        expected, holds = _HEAD_RULES[name]
        return "" if holds(value) else f"{name}={value!r}: expected {expected}"
    beside: dict[str, Any] = {"strategy": _OWNERS[name]} if name in _OWNERS else {"frozen": 0, "block": "last"}
    beside |= {"schedule": "plateau"} if name.startswith("plateau_") else {}
    try:
        plan_for({**beside, name: value}, {key: kept for key, kept in fixed.items() if key not in ("strategy", *_OWNERS)})
    except SettingError as error:
        return str(error)
    return ""


def _means_something(name: str, values: Mapping[str, Any]) -> bool:
    if values.get("strategy") == "probe" and name not in _OF_PLAN:
        return False  # nothing is trained
    other, wanted, default = _CONDITIONS.get(name, ("", (), None))
    if not other:
        return True
    own = _CONDITIONS.get(other)
    present = values.get(other, default) if own is None or values.get(own[0], own[2]) in own[1] else default
    return present in wanted
