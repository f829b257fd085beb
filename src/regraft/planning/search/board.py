"""The list of trials that several processes share: who takes which, and what has come of it. Optuna keeps it."""

from __future__ import annotations

import fcntl
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from ...errors import SettingError, optional_import
from .bench import Outcome
from .space import Space

__all__ = ["PRUNERS", "SAMPLERS", "Board", "Options", "Worker", "counts", "optuna_library"]

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("median", "hyperband")
STUDY_FILE = "study.sqlite3"
_NAME = "regraft"
_POLL = 0.5
_WAITED = 60
"""Seconds that a process waits for the database while another writes."""


@dataclass(frozen=True)
class Options:
    """How the trials are chosen.

    Attributes:
        trials: how many, over all processes.
        sampler: "tpe", "random" or "grid".
        pruner: "median", "hyperband" or None.
        seed: the trial of a number is always the same, whether the search was interrupted or not.
        direction: "maximize" or "minimize".
        steps: most steps that a trial reports.
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


def optuna_library() -> ModuleType:
    """Return Optuna, or say how to install it."""
    return optional_import("optuna", "search", purpose="regraft.search")


class Worker:
    """This process, as other processes see it: a file that it holds locked as long as it lives.

    Attributes:
        folder: of these files, within the `folder` of the study.
        name: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "workers"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.name = uuid.uuid4().hex
        self._file: IO[str] = (self.folder / self.name).open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def is_alive(self, name: str | None) -> bool:
        """Tell whether the process of that name still runs."""
        path = self.folder / (name or "nobody")
        if not path.is_file():
            return False
        with path.open("r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        path.unlink(missing_ok=True)
        return False

    def leave(self) -> None:
        """Let go of the file, and remove it."""
        (self.folder / self.name).unlink(missing_ok=True)
        self._file.close()


@dataclass
class Board:
    """The trials of one study.

    Attributes:
        options: how they are chosen.
        space: what is searched.
        fixed: settings that are the same in every trial.
        folder: for the database, or None: then the study lives as long as the process.
    """

    options: Options
    space: Space
    fixed: Mapping[str, Any]
    folder: Path | None
    study: Any = field(init=False)
    _worker: Worker | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        optuna, options = optuna_library(), self.options
        storage = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._worker = Worker(self.folder)
        pruners = {
            None: optuna.pruners.NopPruner,
            "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=5 + (options.first is not None), n_warmup_steps=1),
            "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=1, max_resource=max(options.steps, 1)),
        }
        with self.alone():
            if self.folder is not None:
                url = f"sqlite:///{self.folder.absolute() / STUDY_FILE}"
                storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _WAITED}})
            self.study = optuna.create_study(
                storage=storage, study_name=_NAME, direction=options.direction, pruner=pruners[options.pruner](), load_if_exists=True
            )
            known = self.study.user_attrs.get("identity", options.identity)
            if known == options.identity:
                self.study.set_user_attr("identity", known)
                if options.first is not None and not self.study.get_trials(deepcopy=False):
                    self.study.enqueue_trial({}, user_attrs={"given": dict(options.first)})
        if known != options.identity:
            self.leave()
            raise SettingError(
                f"{str(self.folder)!r} holds a study of another network, data, space or setting ({known[:8]}, not {options.identity[:8]}). "
                "Give another folder with out=, or the same arguments as before; trials= may differ."
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from taking trials while the context lasts.

        Yields:
            Nothing.
        """
        with nullcontext() if self.folder is None else (self.folder / "lock").open("w") as file:
            if file is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def next(self) -> tuple[Any, dict[str, Any]] | None:
        """Take the next trial.

        Returns:
            Optuna's trial and its values; None where none is left to take.
        """
        with self.alone():
            self._give_back_()
            if self._count() >= self.options.trials or not self._grid_left():
                return None
            self.study.sampler = self._sampler(len(self.study.get_trials(deepcopy=False)))
            trial = self.study.ask()
            if self._worker is not None:
                trial.set_user_attr("worker", self._worker.name)
            values = trial.user_attrs.get("given") or self.space.suggested(trial, self.fixed)
            trial.set_user_attr("values", values)
            return trial, values

    def carry_out(self, run: Callable[[Mapping[str, Any], Callable[[float, int], None]], Outcome]) -> bool:
        """Take the next trial and carry it out with `run`, which is given its values and where to report.

        Returns:
            False where none is left to take.
        """
        taken = self.next()
        if taken is None:
            return False
        trial, values = taken
        optuna = optuna_library()

        def report(figure: float, step: int) -> None:
            trial.report(figure, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        began = time.perf_counter()
        try:
            outcome = run(values, report)
        except optuna.TrialPruned:
            self._finish(trial, state="PRUNED", seconds=time.perf_counter() - began)
        except Exception as error:  # one network that does not fit into memory, or diverges, is no reason to lose the others
            trial.set_user_attr("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
            self._finish(trial, state="FAIL", seconds=time.perf_counter() - began)
        else:
            trial.set_user_attr("folds", list(outcome.figures))
            trial.set_user_attr("losses", list(outcome.losses))
            value = float(np.mean(outcome.figures))
            self._finish(trial, state="COMPLETE" if math.isfinite(value) else "FAIL", seconds=outcome.seconds, value=value)
        return True

    def _finish(self, trial: Any, *, state: str, seconds: float, value: float | None = None) -> None:
        trial.set_user_attr("seconds", round(seconds, 3))
        states = optuna_library().trial.TrialState
        self.study.tell(trial, value if state == "COMPLETE" else None, state=states[state])

    def waited(self) -> bool:
        """Wait a moment where another process works on a trial: if it is killed, that trial is to be taken again.

        Returns:
            False where no trial is under way.
        """
        running = bool(self._in("RUNNING"))
        if running:
            time.sleep(_POLL)
        return running

    def leave(self) -> None:
        """Tell the other processes that this one is gone."""
        if self._worker is not None:
            self._worker.leave()

    def _in(self, *states: str) -> list[Any]:
        known = optuna_library().trial.TrialState
        return list(self.study.get_trials(deepcopy=False, states=tuple(known[state] for state in states)))

    def _give_back_(self) -> None:
        """Put the trials of processes that were killed in line again."""
        states = optuna_library().trial.TrialState
        for trial in self._in("RUNNING"):
            if self._worker is None or self._worker.is_alive(_worker_of(trial)):
                continue
            self.study.tell(trial.number, state=states.FAIL)
            if "given" in trial.user_attrs:
                self.study.enqueue_trial({}, user_attrs={"given": trial.user_attrs["given"], "again": trial.number})
            elif "values" in trial.user_attrs:
                self.study.enqueue_trial(trial.user_attrs["values"], user_attrs={"again": trial.number})

    def _count(self) -> int:
        """Return how many trials are finished or under way; those that were given back do not count."""
        return sum(counts(trial) for trial in self._in("COMPLETE", "PRUNED", "RUNNING", "FAIL"))

    def _grid_left(self) -> bool:
        """Tell whether there is a trial to take; with a grid, put the next combination of values in line."""
        if self.options.sampler != "grid" or self._in("WAITING"):
            return True
        seen = [trial.user_attrs.get("values") for trial in self.study.get_trials(deepcopy=False)]
        left = [values for values in self.space.grid(self.fixed) if values not in seen]
        if left:
            self.study.enqueue_trial(left[0])
        return bool(left)

    def _sampler(self, number: int) -> Any:
        """Return a sampler with a seed of its own for the trial of that number: going on after a kill draws what would have been drawn."""
        samplers = optuna_library().samplers
        seed = int(np.random.SeedSequence([self.options.seed, number]).generate_state(1)[0])
        return samplers.TPESampler(seed=seed) if self.options.sampler == "tpe" else samplers.RandomSampler(seed=seed)


def _worker_of(trial: Any) -> str | None:
    name = trial.user_attrs.get("worker")
    return None if name is None else str(name)


def counts(trial: Any) -> bool:
    """Tell whether a trial counts: it runs, or has an end of its own, and was not given back by a killed process."""
    return trial.state.name != "FAIL" or "error" in trial.user_attrs or "folds" in trial.user_attrs
