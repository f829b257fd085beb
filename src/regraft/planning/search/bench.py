"""What every trial shares: network, prepared items, folds and caches; and how one trial is carried out on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...console import speaking
from ...data import Dataset, Prepared
from ...freezing import Counter, Kept
from ...heads import retarget
from ...networks.contract import Network
from ..carry_out import adapted, checked_setup
from ..finishing import leave_ready_
from ..judging import judged
from ..plan import Plan
from ..preparing import output_names
from ..setup import Log, Outcome, Parts, learning_parts
from ..tasks import matched_tasks
from ..trained import with_fresh
from ..tuning.tuned import Fold
from .space import HEAD_NAMES, plan_for

__all__ = ["METRICS", "Bench", "TrialFigures", "carried_out", "deepened", "shown_figure", "shown_values"]

METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "log_loss", "ece", "brier"),
    "multi-label": ("macro_f1", "micro_f1", "accuracy", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
"""Kind of task -> figures that can choose; the first one is the default."""
_LOSSES = {"classification": "log_loss", "multi-label": "log_loss", "regression": "rmse"}
"""Kind of task -> the figure that decides between trials that are equal in the one that chooses."""
_SHARES = ("accuracy", "ece")
"""Figures that are printed in per cent."""
_FALLING = ("log_loss", "ece", "brier", "rmse", "mae")


def shown_figure(metric: str, value: float | None) -> str:
    """Return the `value` of a `metric` for people: shares in per cent, others with four digits."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if metric in _SHARES else f"{value:.4g}"


def shown_values(values: Mapping[str, Any]) -> str:
    """Return the `values` of a trial for people, such as "optimizer=sgd, learning_rate=0.004"."""
    return ", ".join(f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items())


def carried_out(net: Network, items: Prepared, *, plan: Plan, parts: Parts, log: Log | None = None) -> Outcome:
    """Train a copy of a network as a plan says, on given parts of the examples.

    Result: The adapted network, and how to judge it.
    """
    setup, _ = checked_setup(net, items, plan=plan, parts=parts)
    outcome = adapted(setup, log or Log())
    leave_ready_(outcome.network)
    return outcome


@dataclass(frozen=True)
class TrialFigures:
    """What one trial came to: its figure on each fold, its seconds, and its loss on each fold, which decides between equal figures."""

    figures: tuple[float, ...]
    seconds: float
    losses: tuple[float, ...] = ()


@dataclass
class Bench:
    """What every trial shares.

    Attributes:
        network: with the trained weights that every trial starts from.
        items: all items, prepared once, so that trials with the same freeze boundary have the same cache.
        folds: which of them learn, and which try the plan.
        fixed: settings that are the same in every trial.
        longest: most epochs of one fold, for the steps that are reported to a pruner.
        counter: items that went through the frozen part in all trials.
        kept: feature caches in memory, where these are not kept in a folder.
    """

    network: Network
    items: Prepared
    folds: list[Fold]
    judging: np.ndarray
    fixed: Mapping[str, Any]
    metric: str
    longest: int
    counter: Counter = field(default_factory=Counter)
    kept: Kept = field(default_factory=Kept)

    @property
    def direction(self) -> str:
        """Whether the best figure is the highest ("maximize") or the lowest ("minimize")."""
        return "minimize" if self.metric in _FALLING else "maximize"

    def prepared(self, values: Mapping[str, Any]) -> tuple[Network, Plan]:
        """Return the network, with its further layers where there are any, and the plan of one trial's `values`."""
        plan, head = plan_for(values, self.fixed), {name: values[name] for name in HEAD_NAMES if name in values}
        return deepened(self.network, self.items.data, plan=plan, **head)

    def run(self, values: Mapping[str, Any], report: Callable[[float, int], None]) -> TrialFigures:
        """Carry out one trial.

        Result: The figure and the loss on each fold.
        """
        began, figures, losses = time.perf_counter(), [], []
        network, plan = self.prepared(values)
        for number, (rest, holdout) in enumerate(self.folds):
            parts = learning_parts(self.items.data, plan, rest=rest, holdout=holdout)
            watch = _Watch(report, metric=self.metric, falling=self.metric in _FALLING, step=number * self.longest)
            with speaking(False):  # a line for each trial is enough
                log = Log(counter=self.counter, kept=self.kept, on_epoch=watch.see_)
                outcome = carried_out(network, self.items, plan=plan, parts=parts, log=log)
            data, tasks = self.items.data, matched_tasks(network, self.items.data)
            found = judged(outcome.network, outcome.feed, tasks=tasks, data=data, indices=parts.holdout)[data.name].figures
            figures.append(float(found[self.metric]))
            losses.append(float(found[_LOSSES[data.task]]))
        return TrialFigures(tuple(figures), round(time.perf_counter() - began, 3), tuple(losses))


@dataclass
class _Watch:
    """Turns entries of the history into reports: the accuracy where that chooses, else the loss, on the selection items."""

    report: Callable[[float, int], None]
    metric: str
    falling: bool
    step: int

    def see_(self, entry: Mapping[str, Any]) -> None:
        """Report an epoch; those of short comparisons, and those without selection items, are not."""
        figure = entry.get("validation_accuracy") if self.metric == "accuracy" else entry.get("validation_loss")
        if figure is None or str(entry["stage"]).startswith("compare"):
            return
        self.step += 1
        self.report(figure if self.metric == "accuracy" or self.falling else -figure, self.step)


def deepened(  # over the limit: the three names of the space
    net: Network, data: Dataset, *, plan: Plan, head_layers: int = 0, head_units: int = 0, head_activation: str = "relu"
) -> tuple[Network, Plan]:
    """Put layers of random weights between the backbone and a new head, and let the plan train them first.

    The old head's place is taken by the first of them; its rows are not kept.
    """
    if not head_layers:
        return net, plan
    made = retarget(net, output_names(data), hidden=[(head_units, head_activation)] * head_layers, seed=plan.seed)
    return made, with_fresh(made, plan)
