"""List of trials that several processes share: assignment of trials and their results.

Samplers and pruners decide on a study in memory that holds the earlier trials and nothing else. So a trial depends on the seed, its number
and the earlier trials only, and not on interruptions of the search or on what a killed process left.

Optuna's heartbeat with its retry callback is not used: minutes after a process was killed it marks the trial as failed and appends another
one with the same values, at another place. Then the trials of a resumed search would not be those of an uninterrupted one.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import BaseFileLock

from ...errors import SettingError, UnsafeFileError
from ...files.locks import held_folder, locked_file, release
from ...files.text import printable
from .database import STUDY_NAME, Database, StoredTrial, TrialFacts, optuna_library, remove_study, rungs_of, study_written
from .space import Space

Run = Callable[[Mapping[str, Any], Callable[[float, int], None]], tuple[Sequence[float], Sequence[float]]]
"""Function that runs a trial, and returns the metric and the loss of each fold; losses break ties.

Arguments: its values, and a function to report a figure and its step, which may prune the trial."""

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband")
_POLL = 0.5
BEST = "best"  # Folder of the best network, inside the folder of the study
_RUNNING = "running"  # Folder of the lock files of running trials, named by the trial's row


@dataclass(frozen=True)
class Options:
    """Settings of the choice of trials.
    `first`: values of the first trial, which may be outside the space; None: the sampler chooses all trials."""

    trials: int  # number of trials
    sampler: str  # "tpe", "random" or "grid"
    pruner: str | None  # "median", "hyperband" or None
    seed: int  # seed of all trials; an interrupted search continues with the same trials
    direction: str  # "maximize" or "minimize"
    steps: int  # maximum number of reported steps of a trial, for Hyperband
    identity: str  # digest of network, data and space; a study with another identity is refused
    first: Mapping[str, Any] | None = None
    resume: bool = True  # whether to go on with the study in the folder; else it is removed


@dataclass(frozen=True)
class OwnTrial:
    """Trial that this process works on."""

    row: int  # number of the trial in the database
    values: dict[str, Any]
    trial: Any  # Optuna's trial in the study in memory
    lock: BaseFileLock | None  # lock of its file; None for a study in memory


@dataclass
class Board:
    """Trials of one study."""

    options: Options
    space: Space
    fixed: Mapping[str, Any]  # settings that are the same in every trial
    folder: Path | None  # folder of the database; None: the study lives as long as the process
    database: Database = field(init=False)

    def __post_init__(self) -> None:
        for place in [] if self.folder is None else [self.folder / _RUNNING, self.folder / BEST]:
            if place.is_symlink():  # files would be written and removed outside the folder
                raise UnsafeFileError(f"{printable(place)!r} is a link; expected a folder of a study. Remove it.")
        with self.alone():
            if self.folder is not None and not self.options.resume:
                remove_study(self.folder)
            self.database = Database(self.folder, self.options.direction)
            known = self.database.facts().identity
            if known is None:
                known = self.options.identity
                self.database.note(identity=known)
        if known != self.options.identity:
            raise SettingError(
                f"{printable(self.folder)!r} holds a study of another network, data, space or setting, or of another version of regraft "
                f"({printable(known, width=8)}, not {self.options.identity[:8]}). Give another folder with out=, or the same arguments as "
                "before (trials= may differ), or resume=False to begin anew."
            )

    def alone(self) -> AbstractContextManager[Any]:
        """Return a context in which no other process can take trials."""
        return nullcontext() if self.folder is None else held_folder(self.folder, wait=math.inf)

    def trials(self) -> list[StoredTrial]:
        """Return the valid trials, in order. Raises `SettingError` for values outside the space."""
        kept = self.database.trials()
        for trial in kept:
            values = trial.facts.values
            if values not in (None, self.options.first) and not self.space.holds(values or {}):
                raise SettingError(
                    f"{printable(self.folder)!r} holds a trial with values that are not in the space: {printable(values, width=100)}. "
                    "This search did not write it. Give another folder with out=."
                )
        return kept

    def next(self) -> OwnTrial | None:
        """Take the next trial, or return None if none is left. Trials of killed processes come first, with their old values."""
        with self.alone():
            kept = self.trials()
            for place, trial in enumerate(kept):
                if trial.state == "RUNNING" and self.folder is not None and (lock := self._lock(trial.row)) is not None:
                    return OwnTrial(trial.row, *self._asked(kept[:place], trial.facts.values), lock)
            if len(kept) >= self.options.trials or (self.options.sampler == "grid" and self._grid_next(kept) is None):
                return None
            values, trial = self._asked(kept)
            row = self.database.begin(trial, values)
            return OwnTrial(row, values, trial, self._lock(row))

    def _asked(self, before: Sequence[StoredTrial], values: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], Any]:
        """Return the values of the trial after the trials `before`, and its Optuna trial in memory. `values`: known values, or None."""
        study, first = self.in_memory(before), self.options.first
        if values is None and first is not None and all(trial.facts.values != first for trial in before):
            values = first
        elif values is None and self.options.sampler == "grid":
            combination = self._grid_next(before)
            if combination is not None:
                study.enqueue_trial(combination)
        trial = study.ask()
        return self.space.suggested(trial, self.fixed) if values is None else dict(values), trial

    def _grid_next(self, kept: Sequence[StoredTrial]) -> dict[str, Any] | None:
        seen = [trial.facts.values for trial in kept]
        return next((values for values in self.space.grid(self.fixed) if values not in seen), None)

    def carry_out(self, run: Run) -> StoredTrial | None:
        """Take the next trial, run it and return it finished; None if none is left."""
        taken = self.next()
        if taken is None:
            return None
        try:
            return self.end(carried(taken, run))
        finally:
            self.let_go_(taken)

    def end(self, ended: StoredTrial) -> StoredTrial:
        """Store a finished trial and return it."""
        with self.alone():
            self.database.end(ended)
        return ended

    def waited(self) -> bool:
        """Wait briefly if another process works on a trial, and return True. Otherwise remove stale lock files and return False.
        If the other process is killed, its trial can be taken again."""
        if any(trial.state == "RUNNING" for trial in self.trials()):
            time.sleep(_POLL)
            return True
        with self.alone():
            self._clear_()
        return False

    def in_memory(self, trials: Sequence[StoredTrial]) -> Any:
        """Return an Optuna study with exactly these trials, ready to ask for the next one.
        The sampler's seed depends on the number of the trial, so that a resumed search draws the same values."""
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

    def _frozen(self, kept: StoredTrial) -> Any:
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

    def _lock(self, row: int) -> BaseFileLock | None:
        """Lock the trial of a row; None if another process works on it. The caller must hold the study."""
        if self.folder is None:
            return None
        with study_written(self.folder):
            (self.folder / _RUNNING).mkdir(exist_ok=True)
            return locked_file(self.folder / _RUNNING / f"{row}.lock", wait=0.0)

    def let_go_(self, taken: OwnTrial) -> None:
        """Release a trial; other processes can take it again if it is not finished."""
        if taken.lock is not None:
            release(taken.lock)
            with self.alone():
                self._clear_()

    def _clear_(self) -> None:
        """Remove the lock files that no process holds. The caller must hold the study."""
        if self.folder is None:
            return
        running = self.folder / _RUNNING
        with suppress(OSError):  # a leftover file without a lock blocks nobody
            for place in running.glob("*.lock"):
                if (lock := locked_file(place, wait=0.0)) is not None:
                    release(lock)
            running.rmdir()  # fails unless it is empty


def carried(taken: OwnTrial, run: Run) -> StoredTrial:
    """Run a trial and return it finished; works in any process on any machine."""
    trial, pruned = taken.trial, optuna_library().TrialPruned

    def report(figure: float, step: int) -> None:
        trial.report(figure, step)
        if trial.should_prune():
            raise pruned

    began, state, value = time.perf_counter(), "FAIL", math.nan
    found: dict[str, Any] = {"values": taken.values}
    try:
        figures, losses = run(taken.values, report)
    except pruned:
        state = "PRUNED"
    except Exception as error:  # one trial that runs out of memory or diverges must not end the search
        found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    else:
        value = float(np.mean(figures))
        state = "COMPLETE" if math.isfinite(value) else "FAIL"
        found |= {"folds": list(figures), "losses": list(losses)}
        found |= {} if math.isfinite(value) else {"error": f"The figure is {value}; expected a number."}
    facts = TrialFacts(**found, seconds=round(time.perf_counter() - began, 3))
    told = trial.study.get_trials(deepcopy=False)[trial.number]
    return StoredTrial(
        taken.row, state, facts, value if state == "COMPLETE" else None, told.intermediate_values, rungs_of(told.system_attrs)
    )
