"""Shared data of all trials (network, prepared examples, folds, caches), and the run of one trial."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...console import speaking
from ...data import PreparedData
from ...errors import NetworkError
from ...freezing import Counter, RunCaches
from ...heads import retarget
from ...networks.network import Network
from ..carry_out import adapted, checked_setup
from ..finishing import leave_ready_
from ..judging import judged
from ..plan import Plan
from ..preparing import output_names
from ..setup import Clock, Log, Outcome, Parts, learning_parts
from ..tasks import matched_tasks
from ..trainable import with_fresh
from ..tuning.training import Fold
from .space import plan_for

Build = Callable[[Mapping[str, Any]], Network]  # Makes a network from values of a trial
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "log_loss", "ece", "brier"),
    "multi-label": ("macro_f1", "micro_f1", "accuracy", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
"""Kind of task -> metrics that can choose the best trial; the first one is the default."""
_LOSSES = {"classification": "log_loss", "multi-label": "log_loss", "regression": "rmse"}  # Kind of task -> metric that breaks ties
_FALLING = ("log_loss", "ece", "brier", "rmse", "mae")


def shown_values(values: Mapping[str, Any]) -> str:
    """Return the values of a trial as text, such as "optimizer sgd, learning_rate 0.004"."""
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())


def carried_out(net: Network, items: PreparedData, *, plan: Plan, parts: Parts, log: Log | None = None) -> Outcome:
    """Adapt a copy of a network by a plan, on given parts of the examples."""
    setup, _ = checked_setup(net, items, plan=plan, parts=parts)
    outcome = adapted(setup, log or Log())
    leave_ready_(outcome.network)
    return outcome


@dataclass
class Bench:
    """Shared data of all trials.
    `build`: makes the network of a trial from its values of the names in `built`; None: every trial starts from `network`."""

    network: Network  # pretrained network that every trial starts from
    items: PreparedData  # all examples, prepared once, so that trials with the same freeze boundary share a cache
    folds: list[Fold]  # pairs of indices: examples to learn from, and examples that evaluate the trial
    judging: np.ndarray  # indices of the holdout set
    fixed: Mapping[str, Any]  # settings that are the same in every trial
    metric: str
    longest: int  # maximum number of epochs of one fold, for the steps reported to a pruner
    build: Build | None = None
    built: tuple[str, ...] = ()
    counter: Counter = field(default_factory=Counter)  # number of examples that went through the frozen part in all trials
    kept: RunCaches = field(default_factory=RunCaches)  # feature caches in memory
    clock: Clock = field(default_factory=Clock)  # seconds of all trials of this process, by kind of work

    @property
    def direction(self) -> str:
        """Direction of the metric: "maximize" or "minimize"."""
        return "minimize" if self.metric in _FALLING else "maximize"

    def prepared(self, values: Mapping[str, Any]) -> tuple[Network, Plan]:
        """Return the network (with additional head layers, if any) and the plan for the values of a trial."""
        own = {name: values[name] for name in self.built if name in values}
        rest = {name: value for name, value in values.items() if name not in self.built}
        plan = plan_for(rest, self.fixed)
        network = self.network if self.build is None else self.build(own)
        if network.preprocessing.to_dict() != self.network.preprocessing.to_dict():
            raise NetworkError(f"The build function must return networks that read the same examples; with {own} it reads others.")
        if not rest.get("head_layers"):
            return network, plan
        # random layers between backbone and new head, which the plan trains first; the class weights of the old head are dropped
        layers = [(rest.get("head_units", 0), rest.get("head_activation", "relu"))] * rest["head_layers"]
        made = retarget(network, output_names(self.items.data), hidden=layers, seed=plan.seed)
        return made, with_fresh(made, plan)

    def run(self, values: Mapping[str, Any], report: Callable[[float, int], None]) -> tuple[list[float], list[float]]:
        """Run one trial and return its metric and loss on each fold."""
        figures, losses = list[float](), list[float]()
        network, plan = self.prepared(values)
        for number, (rest, holdout) in enumerate(self.folds):
            parts = learning_parts(self.items.data, plan, rest=rest, holdout=holdout)
            watch = _Watch(report, metric=self.metric, falling=self.metric in _FALLING, step=number * self.longest)
            with speaking(False):  # the search prints one line per trial
                log = Log(self.clock, self.counter, kept=self.kept, on_epoch=watch.see_)
                outcome = carried_out(network, self.items, plan=plan, parts=parts, log=log)
            data, tasks = self.items.data, matched_tasks(network, self.items.data)
            found = judged(outcome.network, outcome.feed, tasks=tasks, data=data, indices=parts.holdout)[data.name].figures
            figures.append(float(found[self.metric]))
            losses.append(float(found[_LOSSES[data.task]]))
        return figures, losses


@dataclass
class _Watch:
    """Converter of history entries into reports to the pruner: validation accuracy if it is the metric, else the validation loss."""

    report: Callable[[float, int], None]
    metric: str
    falling: bool
    step: int

    def see_(self, entry: Mapping[str, Any]) -> None:
        """Report an epoch, unless it belongs to a short comparison or has no validation set."""
        figure = entry.get("validation_accuracy") if self.metric == "accuracy" else entry.get("validation_loss")
        if figure is None or str(entry["stage"]).startswith("compare"):
            return
        self.step += 1
        self.report(figure if self.metric == "accuracy" or self.falling else -figure, self.step)
