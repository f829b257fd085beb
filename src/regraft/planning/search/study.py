"""Result of a search: all trials, the best plan and its evaluation."""

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import takes_paths
from ...files.text import printable
from ...files.writing import write_json
from ...networks.network import Network
from ...report.plots import plot_importances, plot_trials
from ...words import counted, metric_words
from ..plan import Plan
from ..result import Result
from .bench import shown_values
from .database import study_written

FEWEST = 4  # Minimum number of finished trials for importances

_WIDTH = 120  # Width of the table of trials, in characters
_DIGITS = 12  # Decimals to which means over folds are compared, so that the order of summation does not matter


@dataclass(frozen=True)
class TrialRecord:
    """Record of one trial."""

    number: int  # number of the trial, from 1, in the order of starting
    values: dict[str, Any]  # name -> value of the searched settings; settings without effect in this trial are absent
    state: str  # "complete", "pruned" or "failed"
    figure: float | None = None  # mean of the metric over the folds; None if the trial is not complete
    folds: tuple[float, ...] = ()  # metric of each fold
    seconds: float = 0.0
    error: str = ""  # reason of the failure, or ""
    losses: tuple[float, ...] = ()  # loss of each fold: log loss, or root mean squared error for regression

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean over the folds; None for fewer than two folds."""
        count = len(self.folds)
        if count < 2 or self.figure is None:
            return None
        return math.sqrt(sum((figure - self.figure) ** 2 for figure in self.folds) / (count - 1) / count)

    def rank(self, direction: str) -> tuple[float, float, int]:
        """Return the sort key of a trial, lowest first: the metric, then the loss, then the number."""
        if self.figure is None:
            return math.inf, math.inf, self.number
        loss = sum(self.losses) / len(self.losses) if self.losses else math.inf
        figure = round(-self.figure if direction == "maximize" else self.figure, _DIGITS)
        return figure, loss if math.isfinite(loss) else math.inf, self.number


@dataclass(frozen=True)
class Study:
    """Finished search.

    Attributes:
        trials: records of all trials.
        space: searched space, as plain data.
        metric: metric that chose the best trial.
        direction: "maximize" or "minimize".
        best_trial: record of the best trial.
        best: best plan. `regraft.adapt(study.network, data, strategy=study.best)` is evaluated on the same holdout set.
        network: network for this plan: the given one, with additional head layers if the best trial has some.
        scores: scores of the best plan on the holdout set (and the test set), which chose nothing.
        result: result of the best plan, with the adapted network. None if another process or an earlier call evaluated it;
            `regraft.load(study.folder / "best")` opens it.
        importances: name -> importance: how much its values in the best tenth of the trials differ from those in all trials (PED-ANOVA),
            as shares of 1; empty with fewer than four finished trials.
        cost: "seconds" of all trials; seconds of this process by step and in "total", and the number of examples that went through
            the frozen part.
        folder: folder of the study, or None.
        importance_intervals: name -> 95 % interval of its importance, by a bootstrap over the trials.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> space = {"strategy": ["probe", "head"]}
        >>> study = regraft.search(net, (rows, labels), space=space, trials=2, sampler="grid", epochs=2)
        >>> len(study.trials), study.direction
        (2, 'maximize')
    """

    trials: tuple[TrialRecord, ...] = field(repr=False)
    space: dict[str, Any] = field(repr=False)
    metric: str
    direction: str
    best_trial: TrialRecord
    best: Plan
    network: Network = field(repr=False)
    scores: dict[str, Any] = field(repr=False)
    result: Result | None = field(repr=False)
    importances: dict[str, float]
    cost: dict[str, float]
    folder: Path | None = None
    importance_intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def ranked(self) -> list[TrialRecord]:
        """Return the trials, best first; ties are broken by the loss. Pruned and failed trials come last, in order.

        Example:
            >>> study.ranked()[0] == study.best_trial
            True
        """
        return sorted(self.trials, key=lambda trial: trial.rank(self.direction))

    def table(self, most: int = 10) -> str:
        """Return the best trials as a readable table.

        Args:
            most: maximum number of trials.

        Returns:
            One line per trial, or more if its values need them.

        Example:
            >>> len(study.table().splitlines())
            3
        """
        head = ["trial", self.metric, "± se", "seconds", "state"]
        shown = self.ranked()[:most]
        rows = [head, *(self._row(trial) for trial in shown)]
        values = ["values", *(shown_values(trial.values) + (f"; {trial.error}" if trial.error else "") for trial in shown)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        indent = " " * (sum(widths) + 2 * len(widths))
        lines = []
        for row, said in zip(rows, values, strict=True):
            cells = "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            lines += textwrap.wrap(f"{cells}  {said}", _WIDTH, subsequent_indent=indent, break_long_words=False)
        left = len(self.trials) - most
        return "\n".join(map(printable, [*lines, *([f"… and {left} more"] if left > 0 else [])]))

    def _row(self, trial: TrialRecord) -> list[str]:
        spread = trial.standard_error
        cells = [str(trial.number), metric_words(self.metric, trial.figure), "" if spread is None else metric_words(self.metric, spread)]
        return [*cells, f"{trial.seconds:.1f}", trial.state]

    def __repr__(self) -> str:
        best = f"trial {self.best_trial.number}, {self.metric} {metric_words(self.metric, self.best_trial.figure)}"
        return f"<Study of {counted(len(self.trials), 'trial')}; best: {best} in the search>"

    def __str__(self) -> str:
        chosen = f"Best: trial {self.best_trial.number}, {self.metric} {metric_words(self.metric, self.best_trial.figure)} in the search"
        said = [
            f"{metric_words(self.metric, figures[self.metric])}{self._bounds(figures)} on {counted(figures['examples'], f'{name} example')}"
            for name, figures in self.scores.items()
            if figures.get(self.metric) is not None
        ]
        judged = f"{'; '.join([chosen, *said])}, which chose nothing."
        return f"{self.table()}\n\n{judged}\n{printable(self._importance_words())}\n{self.best}"

    def _importance_words(self) -> str:
        """Return the importances with their intervals, and a note if the trials are too few for them."""
        if not self.importances:
            return (
                f"Importances: none. They need {FEWEST} or more finished trials, chosen by the sampler, with different figures. Raise the "
                "number of trials."
            )
        ends = {name: f" ({100 * low:.0f} to {100 * high:.0f})" for name, (low, high) in self.importance_intervals.items()}
        shown = [f"{name} {100 * share:.0f} %{ends.get(name, '')}" for name, share in list(self.importances.items())[:6]]
        left = len(self.importances) - len(shown)
        return f"Importances (95 % interval): {', '.join(shown)}{f'; {left} more are lower' if left else ''}.{self._doubt()}"

    def _doubt(self) -> str:
        lowest = max((low for low, _ in self.importance_intervals.values()), default=1.0)
        if len(self.importances) < 2 or lowest > 1 / len(self.importances):
            return ""
        done = sum(trial.figure is not None for trial in self.trials)
        return f" The {done} finished trials are too few: no interval is above the mean importance. Raise the number of trials."

    def _bounds(self, figures: Mapping[str, Any]) -> str:
        bounds = [metric_words(self.metric, float(bound)) for bound in figures.get(f"{self.metric}_interval") or ()]
        return f" (95 % interval {bounds[0].removesuffix(' %')} to {bounds[1]})" if bounds else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the study as plain data.

        Example:
            >>> sorted(study.to_dict())[:3]
            ['best', 'cost', 'direction']
        """
        return {
            "metric": self.metric,
            "direction": self.direction,
            "space": self.space,
            "trials": [{**asdict(trial), "standard_error": trial.standard_error} for trial in self.trials],
            "best": {"trial": self.best_trial.number, "plan": self.best.to_dict()},
            "scores": self.scores,
            "importances": self.importances,
            "importance_intervals": {name: list(bounds) for name, bounds in self.importance_intervals.items()},
            "importance_note": self._importance_words(),
            "cost": self.cost,
        }

    @takes_paths
    def save(self, folder: str | Path) -> Path:
        """Write `study.json` atomically.

        Args:
            folder: target folder, created if necessary.

        Returns:
            The path of the file.

        Raises:
            SettingError: if the file cannot be written; an earlier file stays.

        Example:
            >>> study.save("searched").name
            'study.json'
        """
        target = Path(folder)
        with study_written(target):
            target.mkdir(parents=True, exist_ok=True)
            write_json(target / "study.json", self.to_dict())
        return target / "study.json"

    @takes_paths
    def plot(self, path: str | Path) -> Path:
        """Plot every finished trial as a line over parallel axes; better trials are darker.

        Args:
            path: file to write; the extension chooses the format.

        Returns:
            The path.

        Raises:
            DataError: if there is nothing to draw, or the file cannot be written.

        Example:
            >>> study.plot("trials.png").name
            'trials.png'
        """
        done = [trial for trial in self.ranked() if trial.figure is not None]
        points: list[Mapping[str, Any]] = [{**trial.values, self.metric: trial.figure} for trial in done]
        logs = [name for name, entry in self.space.items() if isinstance(entry, Mapping) and entry["log"]]
        return plot_trials(points, path, names=[*self.space, self.metric], logs=logs)

    @takes_paths
    def plot_importances(self, path: str | Path) -> Path:
        """Plot the importance of each name of the space, with its 95 % interval.

        Args:
            path: file to write; the extension chooses the format.

        Returns:
            The path.

        Raises:
            DataError: if there is nothing to draw, or the file cannot be written.

        Example:
            >>> import dataclasses
            >>> dataclasses.replace(study, importances={"epochs": 0.7, "strategy": 0.3}).plot_importances("names.png").name
            'names.png'
        """
        return plot_importances(self.importances, path, intervals=self.importance_intervals)
