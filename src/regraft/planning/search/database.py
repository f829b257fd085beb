"""Database of a study: a SQLite file of Optuna, checked before Optuna opens it, and read by a schema.

No content of it is used as a path. The space checks the values of trials.
"""

import functools
import math
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import Field

from ...errors import SettingError, UnsafeFileError, optional_import
from ...files.formats import opening, reason_of
from ...files.schema import Plain, checked
from ...files.text import printable
from ...files.writing import write_bytes

STUDY_FILE = "study.sqlite3"
STUDY_NAME = "regraft"
_WAITED = 60  # Maximum seconds to wait while another program uses the database
_MAGIC = b"SQLite format 3\0"
_NAMES_ANOTHER = bytes.fromhex("d9d505f920a163d7")
"""Last bytes of a journal that names a super-journal, a further file that SQLite deletes after the rollback."""
_REMEDY = "Give another folder with out=, or resume=False to begin anew."

Figure = Annotated[float, Field(allow_inf_nan=True)]


class _BestEvaluation(Plain):
    """Evaluation of the best plan of a study."""

    values: dict[str, str | int | float | bool | None] | None = None  # values of its trial
    scores: dict[str, Any]  # `Result.scores` of the plan


class _StudyFacts(Plain):
    """Stored facts of a study."""

    identity: str | None = None  # digest of everything that the trials' figures depend on
    judged: _BestEvaluation | None = None  # evaluation of the best plan, if done


class TrialFacts(Plain):
    """Stored facts of a trial."""

    values: dict[str, str | int | float | bool | None] | None = None
    folds: list[Figure] = Field(default_factory=list)  # metric of each fold
    losses: list[Figure] = Field(default_factory=list)  # loss of each fold
    seconds: float = 0.0
    error: str = ""


def rungs_of(attributes: Mapping[str, Any]) -> dict[str, float]:
    """Return the pruner's records (completed rungs) from Optuna's system attributes of a trial."""
    return {name: float(value) for name, value in attributes.items() if name.startswith("completed_rung")}


def optuna_library() -> ModuleType:
    """Return the module `optuna`; raise an error with install instructions if it is missing."""
    return optional_import("optuna", "search", purpose="regraft.search")


@dataclass(frozen=True)
class StoredTrial:
    """Stored trial."""

    row: int  # number of the trial in the database
    state: str  # "RUNNING", "COMPLETE", "PRUNED" or "FAIL". The process of a running trial may have been killed
    facts: TrialFacts
    value: float | None = None  # metric of a complete trial
    reports: Mapping[int, float] = field(default_factory=dict)  # step -> figure reported to the pruner
    rungs: Mapping[str, Any] = field(default_factory=dict)  # the pruner's records


class Database:
    """Storage of one study: its trials and facts. A caller that writes must hold the folder. `folder`: None for a study in memory."""

    def __init__(self, folder: Path | None, direction: str) -> None:
        optuna = optuna_library()
        self.folder = folder
        if folder is None:
            self._storage: Any = optuna.storages.InMemoryStorage()
        else:
            _made(folder)
            with self._reached():
                path = (folder / STUDY_FILE).absolute()
                _check(path)

                def connected() -> sqlite3.Connection:  # not by a URL, which does not allow every character of a path
                    return sqlite3.connect(path, timeout=_WAITED, check_same_thread=False)

                self._storage = optuna.storages.RDBStorage(f"sqlite:///{STUDY_FILE}", engine_kwargs={"creator": connected})
        with self._reached():
            try:
                self._study: int = self._storage.get_study_id_from_name(STUDY_NAME)
            except KeyError:
                self._study = self._storage.create_new_study([optuna.study.StudyDirection[direction.upper()]], STUDY_NAME)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Convert errors of the database into `SettingError` while the context lasts."""
        if self.folder is None:
            yield
            return
        sqlalchemy = optional_import("sqlalchemy", "search", purpose="regraft.search")
        foreign = (OSError, sqlite3.Error, optuna_library().exceptions.OptunaError, sqlalchemy.exc.SQLAlchemyError)
        with opening(self.folder / STUDY_FILE, "study", remedy=_REMEDY):
            try:
                yield
            except foreign as error:
                cause: BaseException = error  # the error of SQLite or the system, below those of Optuna and SQLAlchemy
                while cause.__cause__ is not None and not isinstance(cause, sqlite3.Error | OSError):
                    cause = cause.__cause__
                if isinstance(cause, OSError | sqlite3.OperationalError):
                    raise _unwritable(self.folder, cause) from error
                raise

    def facts(self) -> _StudyFacts:
        """Return the stored facts of the study."""
        with self._reached():
            return checked(self._storage.get_study_user_attrs(self._study), _StudyFacts, what=self._shown, error=SettingError)

    def note(self, **facts: Any) -> None:
        """Store facts of the study: plain data, named as in `_StudyFacts`."""
        with self._reached():
            for name, value in facts.items():
                self._storage.set_study_user_attr(self._study, name, value)

    def trials(self) -> list[StoredTrial]:
        """Return the trials, in order."""
        with self._reached():
            return [self._kept(trial) for trial in self._storage.get_all_trials(self._study, deepcopy=False)]

    def _kept(self, trial: Any) -> StoredTrial:
        what = f"Trial {trial.number} of {self._shown}"
        facts = checked(trial.user_attrs, TrialFacts, what=what, error=SettingError)
        if trial.state.name == "COMPLETE" and not math.isfinite(trial.value):
            raise SettingError(f"{what} is said to be complete, and has the figure {trial.value}; expected a number. {_REMEDY}")
        return StoredTrial(trial.number, trial.state.name, facts, trial.value, trial.intermediate_values, rungs_of(trial.system_attrs))

    @property
    def _shown(self) -> str:
        return "the study in memory" if self.folder is None else repr(printable(self.folder / STUDY_FILE))

    def begin(self, trial: Any, values: Mapping[str, Any]) -> int:
        """Add a running trial with its values in one step; return its row."""
        optuna = optuna_library()
        running = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={"values": dict(values)},
        )
        with self._reached():
            return int(self._storage.get_trial(self._storage.create_new_trial(self._study, running)).number)

    def end(self, kept: StoredTrial) -> None:
        """Store the results of a finished trial. The state is written last, so that an interrupted write leaves a running trial."""
        states = optuna_library().trial.TrialState
        with self._reached():
            place = self._storage.get_trial_id_from_study_id_trial_number(self._study, kept.row)
            for step, figure in kept.reports.items():
                self._storage.set_trial_intermediate_value(place, step, figure)
            for name, value in kept.rungs.items():
                self._storage.set_trial_system_attr(place, name, value)
            for name, value in kept.facts.model_dump(exclude_defaults=True).items():
                self._storage.set_trial_user_attr(place, name, value)
            self._storage.set_trial_state_values(place, states[kept.state], None if kept.value is None else [kept.value])


@contextmanager
def study_written(folder: Path) -> Iterator[None]:
    """Convert a system error of writing into the folder of a study into `SettingError` while the context lasts."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: BaseException) -> SettingError:
    return SettingError(
        f"The study in {printable(folder)!r} cannot be written: {reason_of(error)}. What was finished is kept: make room, or wait until no "
        "other program uses the folder, and give the same command again."
    )


# ── before Optuna opens it ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _made(folder: Path) -> None:
    """Create the database atomically if it does not exist."""
    if not os.path.lexists(folder / STUDY_FILE):
        with study_written(folder):
            write_bytes(folder / STUDY_FILE, _blank())


def remove_study(folder: Path) -> None:
    """Remove the database of a study and what a killed process left beside it."""
    with study_written(folder):
        for part in ("", "-journal", "-wal", "-shm"):
            (folder / f"{STUDY_FILE}{part}").unlink(missing_ok=True)


@functools.cache
def _blank() -> bytes:
    """Return the content of an empty database of the installed Optuna."""
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as database:
        optuna_library().storages.RDBStorage("sqlite://", engine_kwargs={"creator": lambda: database})
        return database.serialize()


def _check(path: Path) -> None:
    """Raise an error unless a file is a database of the installed Optuna. Opening another one could run triggers or add tables."""
    shown, left = repr(printable(path)), _is_left(path)
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise SettingError(f"{shown} is no SQLite database; expected the study of an earlier search. {_REMEDY}")
    mode = "rw" if left else "ro"  # the rollback of a killed process's journal needs write access
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", timeout=_WAITED, uri=True)) as found:
        found.execute("PRAGMA trusted_schema = OFF")
        found.execute("PRAGMA query_only = ON")
        with closing(sqlite3.connect(":memory:")) as blank:
            blank.deserialize(_blank())
            _compare(found, blank, shown=shown)
        damage = found.execute("PRAGMA quick_check(1)").fetchone()[0]
    if damage != "ok":
        raise SettingError(f"{shown} is damaged: {printable(damage, width=100)}. {_REMEDY}")


def _is_left(path: Path) -> bool:
    """Return whether a killed process has left a journal beside the database. Raises `UnsafeFileError` for links and super-journals."""
    for name in (path.name, *(f"{path.name}-{part}" for part in ("journal", "wal", "shm"))):
        place = path.with_name(name)
        if os.path.lexists(place) and not stat.S_ISREG(place.lstat().st_mode):
            raise UnsafeFileError(f"{printable(place)!r} is a link, a folder or a device; expected a regular file. {_REMEDY}")
    journal = path.with_name(f"{path.name}-journal")
    if not journal.exists():
        return False
    with journal.open("rb") as file:
        file.seek(max(0, journal.stat().st_size - len(_NAMES_ANOTHER)))
        if file.read() == _NAMES_ANOTHER:
            raise UnsafeFileError(f"{printable(journal)!r} names a further file, which SQLite would delete. {_REMEDY}")
    return True


def _compare(found: sqlite3.Connection, blank: sqlite3.Connection, *, shown: str) -> None:
    """Raise an error if the schema of a database differs from that of a blank one."""
    wanted, given = _parts(blank), _parts(found)
    if given.get("alembic_version") == wanted["alembic_version"]:
        versions = [(one.execute("SELECT version_num FROM alembic_version").fetchone() or [""])[0] for one in (found, blank)]
        if versions[0] != versions[1]:
            raise SettingError(
                f"{shown} was written by another version of Optuna: its tables are {printable(versions[0], width=40)!r}, those of the "
                f"installed one {versions[1]!r}. Finish the search with that version, or update the file with 'optuna storage upgrade'."
            )
    foreign = [name for name, part in given.items() if part != wanted.get(name)]
    if foreign:
        kind, name = given[foreign[0]][0], printable(foreign[0], width=40)
        raise UnsafeFileError(f"{shown} has a {printable(kind)} {name!r} that a study of Optuna does not have. {_REMEDY}")
    missing = sorted(wanted.keys() - given.keys())
    if missing:
        raise SettingError(f"{shown} is no study of Optuna: it lacks {missing[0]!r}. {_REMEDY}")


def _parts(database: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the schema of a database: name -> kind, table and columns, with computed columns marked."""
    found = {}
    for kind, name, table, text in database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall():
        plain = text is None or str(text).lstrip().upper().startswith(("CREATE TABLE", "CREATE INDEX", "CREATE UNIQUE INDEX"))
        query = "SELECT name, hidden FROM pragma_table_xinfo(?)" if kind == "table" else "SELECT name, 0 FROM pragma_index_info(?)"
        columns = sorted(f"{column} {hidden}" for column, hidden in database.execute(query, (name,)).fetchall())
        found[str(name)] = (str(kind) if plain else f"virtual {kind}", str(table), *columns)
    return found
