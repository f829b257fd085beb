"""The list of trials that several processes share: who takes which, and what has come of it.

All that is decided, by a sampler or a pruner, is decided on a study in memory that holds the trials before this one and nothing else. So
a trial depends on the seed, its number and those trials, and not on how often the search was interrupted, or on what a killed process left.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SettingError, UnsafeFileError
from ...files.locks import held_folder, locked_file
from ...files.text import printable
from .bench import TrialFigures
from .database import STUDY_NAME, Database, KeptTrial, TrialFacts, optuna_library, rungs_of, unwritable
from .space import Space

__all__ = ["BEST", "PRUNERS", "SAMPLERS", "Board", "Options", "Run", "Taken", "carried"]

Run = Callable[[Mapping[str, Any], Callable[[float, int], None]], TrialFigures]
"""Carries out a trial: is given its values, and where to report a figure and its step, which may end it."""

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband")
_POLL = 0.5
BEST = "best"
"""Folder of the best network, within that of the study."""
_RUNNING = "running"
"""Folder of the files that processes hold locked as long as they work on a trial; they are called by its row."""


@dataclass(frozen=True)
class Options:
    """How the trials are chosen.

    Attributes:
        sampler: "tpe", "random" or "grid".
        pruner: "median", "hyperband" or None.
        seed: the trial of a number is always the same, whether the search was interrupted or not.
        direction: "maximize" or "minimize".
        identity: digest of network, data and space; a study of another one is refused.
        first: values of the first trial, which need not be of the space; None where the sampler takes all.
    """

    trials: int
    sampler: str
    pruner: str | None
    seed: int
    direction: str
    steps: int
    identity: str
    first: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Taken:
    """A trial that this process works on.

    Attributes:
        trial: Optuna's, of the study in memory.
        lock: handle of the file that keeps others from it; None where the study is in memory.
    """

    row: int
    values: dict[str, Any]
    trial: Any
    lock: int | None


@dataclass
class Board:
    """The trials of one study.

    Attributes:
        fixed: settings that are the same in every trial.
        folder: for the database, or None: then the study lives as long as the process.
    """

    options: Options
    space: Space
    fixed: Mapping[str, Any]
    folder: Path | None
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        for place in [] if self.folder is None else [self.folder / _RUNNING, self.folder / BEST]:
            if place.is_symlink():  # what is written or removed there would be so elsewhere
                raise UnsafeFileError(f"{printable(place)!r} is a link; expected a folder of a study. Remove it.")
        with self.alone():
            self.database = Database(self.folder, self.options.direction)
            known = self.database.facts().identity
            if known is None:
                known = self.options.identity
                self.database.note(identity=known)
        if known != self.options.identity:
            raise SettingError(
                f"{printable(self.folder)!r} holds a study of another network, data, space or setting ({printable(known, width=8)}, not "
                f"{self.options.identity[:8]}). Give another folder with out=, or the same arguments as before; trials= may differ."
            )

    def alone(self) -> AbstractContextManager[Any]:
        """Return a context in which other processes take no trials."""
        return nullcontext() if self.folder is None else held_folder(self.folder, wait=math.inf)

    def trials(self) -> list[KeptTrial]:
        """Return the trials that count, in their order."""
        kept = self.database.trials()
        for trial in kept:
            values = trial.facts.values
            if values not in (None, self.options.first) and not self.space.holds(values or {}):
                raise SettingError(
                    f"{printable(self.folder)!r} holds a trial with values that are not in the space: {printable(values, width=100)}. "
                    "This search did not write it. Give another folder with out=."
                )
        return kept

    def next(self) -> Taken | None:
        """Take the next trial: one of a process that was killed, with the values that it had, before a new one.

        Result: The trial; None where none is left to take.
        """
        with self.alone():
            kept = self.trials()
            for place, trial in enumerate(kept):
                if trial.state == "RUNNING" and self.folder is not None and (lock := self._lock(trial.row)) is not None:
                    return Taken(trial.row, *self._asked(kept[:place], trial.facts.values), lock)
            if len(kept) >= self.options.trials or (self.options.sampler == "grid" and not self._grid_left(kept)):
                return None
            values, trial = self._asked(kept)
            row = self.database.begin(trial, values)
            return Taken(row, values, trial, self._lock(row))

    def _asked(self, before: Sequence[KeptTrial], values: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Return the values of the trial that follows on some others, or those it has, and Optuna's trial of the study in memory."""
        study, first = self.in_memory(before), self.options.first
        if values is None and first is not None and all(trial.facts.values != first for trial in before):
            values = first
        elif values is None and self.options.sampler == "grid":
            for combination in self._grid_left(before)[:1]:
                study.enqueue_trial(combination)
        trial = study.ask()
        return self.space.suggested(trial, self.fixed) if values is None else dict(values), trial

    def _grid_left(self, kept: Sequence[KeptTrial]) -> list[dict[str, Any]]:
        seen = [trial.facts.values for trial in kept]
        return [values for values in self.space.grid(self.fixed) if values not in seen]

    def carry_out(self, run: Run) -> KeptTrial | None:
        """Take the next trial and carry it out with `run`.

        Result: The trial at its end; None where none is left to take.
        """
        taken = self.next()
        if taken is None:
            return None
        try:
            return self.end(carried(taken, run))
        finally:
            self.let_go_(taken)

    def end(self, ended: KeptTrial) -> KeptTrial:
        """Note how a trial has ended, and return it."""
        with self.alone():
            self.database.end(ended)
        return ended

    def waited(self) -> bool:
        """Wait a moment where another process works on a trial: if it is killed, that trial is to be taken again.

        Result: False where no trial is under way; what killed processes left is gone then.
        """
        if any(trial.state == "RUNNING" for trial in self.trials()):
            time.sleep(_POLL)
            return True
        with self.alone():
            self._clear_()
        return False

    def in_memory(self, trials: Sequence[KeptTrial]) -> Any:
        """Return a study of Optuna's with these trials and nothing else, ready to be asked for the next one.

        Its sampler has a seed of its own for the trial of that number: going on after a kill draws what would have been drawn.
        """
        optuna, options = optuna_library(), self.options
        seed = int(np.random.SeedSequence([options.seed, len(trials)]).generate_state(1)[0])
        sampler = optuna.samplers.TPESampler(seed=seed) if options.sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed)
        pruners = {
            None: optuna.pruners.NopPruner,
            "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5 + (options.first is not None), n_warmup_steps=1),
            "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(options.steps, 1)),
        }
        study = optuna.create_study(study_name=STUDY_NAME, direction=options.direction, sampler=sampler, pruner=pruners[options.pruner]())
        study.add_trials([self._frozen(trial) for trial in trials])
        return study

    def _frozen(self, kept: KeptTrial) -> Any:
        trial = optuna_library().trial
        fixed = trial.FixedTrial(kept.facts.values or {})
        if kept.facts.values not in (None, self.options.first):
            self.space.suggested(fixed, self.fixed)
        return trial.create_trial(
            state=trial.TrialState[kept.state],
            value=kept.value,
            params=fixed.params,
            distributions=fixed.distributions,
            intermediate_values=dict(kept.reports),
            system_attrs=dict(kept.rungs),
        )

    def _lock(self, row: int) -> int | None:
        """Lock the trial of a row for this process, which holds the study; None where another process works on it."""
        if self.folder is None:
            return None
        try:
            (self.folder / _RUNNING).mkdir(exist_ok=True)
            return locked_file(self._place(self.folder, row), wait=0.0)
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def let_go_(self, taken: Taken) -> None:
        """Let others have a trial: one that has not come to its end is taken again."""
        if taken.lock is not None:
            os.close(taken.lock)
            with self.alone():
                self._clear_()

    def _clear_(self) -> None:
        """Remove the files that no process holds, for this one, which holds the study: its own, and those of killed processes."""
        if self.folder is None:
            return
        running = self.folder / _RUNNING
        with suppress(OSError):  # a file that cannot be removed is none that keeps anyone from a trial
            for place in running.glob("*.lock"):
                if (lock := locked_file(place, wait=0.0)) is not None:
                    os.close(lock)
                    place.unlink()
            running.rmdir()  # the last one

    @staticmethod
    def _place(folder: Path, row: int) -> Path:
        return folder / _RUNNING / f"{row}.lock"


def carried(taken: Taken, run: Run) -> KeptTrial:
    """Return a trial at its end, `taken` and carried out with `run`: in any process, of any machine."""
    trial, pruned = taken.trial, optuna_library().TrialPruned

    def report(figure: float, step: int) -> None:
        trial.report(figure, step)
        if trial.should_prune():
            raise pruned

    began, state, value = time.perf_counter(), "FAIL", math.nan
    found: dict[str, Any] = {"values": taken.values}
    try:
        outcome = run(taken.values, report)
    except pruned:
        state = "PRUNED"
    except Exception as error:  # one network that does not fit into memory, or diverges, is no reason to lose the others
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    else:
        value = float(np.mean(outcome.figures))
        state = "COMPLETE" if math.isfinite(value) else "FAIL"
        found |= {"folds": list(outcome.figures), "losses": list(outcome.losses)}
        found |= {} if math.isfinite(value) else {"error": f"The figure is {value}; expected a number."}
    facts = TrialFacts(**found, seconds=round(time.perf_counter() - began, 3))
    told = trial.study.get_trials(deepcopy=False)[trial.number]
    return KeptTrial(taken.row, state, facts, value if state == "COMPLETE" else None, told.intermediate_values, rungs_of(told.system_attrs))
