"""What is known while candidates are compared, and when one is taken for better than another."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import norm
from torch import Tensor

from ...freezing import frozen_up_to_head
from ...tasks import wilson_interval
from ...training import HeadFeed, all_logits
from ...training.courses import most_epochs
from ..passes import features_of, feed_of
from ..setup import Log, Setup, Solved
from ..tapped import Tapped
from .bases import Base, head_base, probe_base, scratch_base
from .candidates import Candidate, frozen_layers
from .costs import Costs
from .probing import OLD_ROWS, refitted
from .solving import HeldOut, Probed, held_out, softened

__all__ = ["Choice", "figures_", "gain_of", "is_better", "judged_old", "source_features"]

HOPE = 0.5
"""Share of the errors of the best probe that tuning may be hoped to take away, before anything is tried."""
HOPE_TRIED = 0.6
"""Share of a trial's errors that further training may be hoped to take away: a short trial has only just begun."""
USUAL = 0.5
"""Share of the errors of the best probe by which tuning usually differs from it."""
DOUBT = 0.25
"""How far tuning is taken to lie behind a closed form before anything is known, in units of the usual difference between them."""
DOUBT_NEW = 0.5
"""The same where classes are new: then there are no old rows for tuning to start from."""
LUCK = 0.5
"""How much better the chosen one of a few looks than it is, in standard errors."""
SURELY = 2.0
"""Standard errors of a paired difference of losses beyond which it is certain."""
WORTH = 0.4
"""Standard errors of the best probe that trials have to be expected to bring, or none is run."""
KEPT_BY = 0.5
"""Standard errors by which the old rows have to be better than the best probe to be kept alone: it may have them among its members."""


@dataclass
class Choice:
    """What is known on the way.

    Attributes:
        setup: its network is the source with its new head.
        features: (N, d) what its heads read.
        probes: task of the data -> closed-form head on these.
        probe: the best probe, on all items that do not judge.
        start: the probe that tuning may start from, of several depths where that can be.
        old: how wrong the old head is on all items that do not judge, where all of its classes are carried over.
        deadline: on the clock of `time.perf_counter`; None without a budget.
        asked: whether the plan names the candidates; then all are tried.
        chosen: how the best was made: strategy and what goes with it.
    """

    setup: Setup
    log: Log
    tapped: Tapped
    features: Tensor
    probes: Mapping[str, Solved]
    probe: Probed
    start: Probed
    costs: Costs
    old: HeldOut | None = None
    entries: list[Candidate] = field(default_factory=list)
    bases: dict[str, Base] = field(default_factory=dict)
    deadline: float | None = None
    asked: bool = False
    chosen: dict[str, Any] = field(default_factory=dict)

    def base(self, candidate: Candidate) -> Base:
        """Return where a candidate starts, made when first asked for."""
        name = candidate.strategy if candidate.strategy == "scratch" else candidate.base
        if name not in self.bases:
            self.bases[name] = self._made(name)
        return self.bases[name]

    def _made(self, name: str) -> Base:
        if name == "scratch":
            return scratch_base(self.setup)
        if name == "head":
            return head_base(self.setup, self.log, features=self.features)
        probed = refitted(self.setup, self.tapped, probed=self.start, rows=self.setup.parts.training)
        return probe_base(self.setup, self.tapped, probed=softened(self.setup, probed))

    @property
    def left(self) -> float:
        """The seconds that the budget leaves."""
        return float("inf") if self.deadline is None else self.deadline - time.perf_counter()

    def seconds(self, candidate: Candidate, *, items: int, epochs: int) -> float:
        """Return the seconds that training a `candidate` on so many `items` for so many `epochs` will take."""
        frozen = frozen_up_to_head(self.setup.network)
        if candidate.strategy != "head":
            frozen = frozen_layers(self.setup.network, strategy=candidate.strategy, frozen=candidate.frozen, block=candidate.block)
        return self.costs.training(frozen, items=items, epochs=epochs)

    def is_beaten_by(self, run: HeldOut) -> bool:
        """Tell whether a trained network is better by more than chance than the best of what needs no training."""
        several = len(self.setup.tasks) > 1 and not self.keeps_old
        better = is_better(run.errors, self.known.at(run.rows)[0], usual=self.usual(), overall=self.error, doubt=self.doubt)
        return better and not (several and run.loss >= self.probe.loss)

    def expect_(self, candidate: Candidate) -> None:
        """Put into a candidate what is expected of it before it is tried: seconds, and an estimate with an honest, wide interval."""
        setup, error = self.setup, self.error
        candidate.predicted = self.seconds(
            candidate, items=len(setup.parts.training), epochs=most_epochs(setup.settings, len(setup.parts.training))
        )
        best, worst = error * (1 - HOPE), error * (1 + HOPE) + 2 * self.standard_error
        if setup.items.data.task == "classification":
            candidate.estimate, candidate.interval = 1 - error, (max(1 - worst, 0.0), 1 - best)
        else:
            candidate.figure, candidate.estimate, candidate.interval = "loss", error, (best, worst)

    @property
    def keeps_old(self) -> bool:
        """Whether the rows of the old head, which have not seen these items, are better on them than the best probe."""
        if self.old is None:
            return False
        slack = KEPT_BY * self.probe.standard_error if any(one.method == OLD_ROWS for one in self.probe.members) else 0.0
        return float(self.old.errors.mean()) < self.probe.error - slack

    @property
    def doubt(self) -> float:
        """How far tuning is taken to lie behind, in units of the usual difference."""
        return DOUBT_NEW if self.old is None else DOUBT

    @cached_property
    def known(self) -> HeldOut:
        """How wrong the best of what needs no training is."""
        if self.keeps_old and self.old is not None:
            return self.old
        name = self.setup.items.data.name
        return held_out(self.setup, self.probe.probes[name].loo_scores, rows=self.probe.rows[name])

    @property
    def error(self) -> float:
        """The error of the best of what needs no training."""
        return float(self.known.errors.mean())

    @property
    def standard_error(self) -> float:
        """Its standard error; one item where there is no error at all."""
        errors = self.known.errors
        return max(float(errors.std() / np.sqrt(max(len(errors), 1))), 0.0 if self.error else 1 / max(len(errors), 1))

    def is_hopeless(self, run: HeldOut) -> bool:
        """Tell whether a trial that came to this cannot be expected to come to beat the best probe."""
        gain, error = gain_of(run.errors, self.known.at(run.rows)[0])
        return gain + error + HOPE_TRIED * float(run.errors.mean()) < 0

    def is_doubtful(self, run: HeldOut) -> bool:
        """Tell whether losses do not surely say that a training that came to this is better, or worse, or errors disagree with them."""
        gain, error = gain_of(run.losses, self.known.at(run.rows)[1])
        return (gain if self.is_beaten_by(run) else -gain) < SURELY * error

    def expected_gain(self) -> float:
        """Return by how much trials can be expected to lower the error, those that are then not believed counted as nothing.

        The true difference is taken to be normal around minus the doubt, with the usual deviation; the choosing items show it with
        their standard error. What is expected is the mean of the part above zero of what would then be believed.

        Source: expected improvement (Jones, Schonlau & Welch, Journal of Global Optimization 13, 1998, equation 15), before one look.
        """
        rows = self.setup.known(self.setup.items.data.name, self.setup.parts.validation)
        count, usual = max(int(np.isin(rows, self.probe.rows[self.setup.items.data.name]).sum()), 1), self.usual()
        spread = self.error if self.setup.items.data.task == "classification" else float(self.probe.errors.var())
        seen = np.sqrt(max(spread, 1 / max(len(self.probe.errors), 1)) / count)
        believed = usual**2 / float(np.hypot(usual, seen))
        place = -self.doubt * usual / believed
        return float(believed * (norm.pdf(place) + place * norm.cdf(place)))

    def usual(self) -> float:
        """Return the deviation of the differences between tuning and a closed form that are usual."""
        return USUAL * self.error + 0.01 * float(self.setup.items.data.task == "classification")

    def is_settled(self) -> bool:
        """Tell whether what trials can be expected to bring is too little beside the standard error of what is known."""
        return self.expected_gain() <= WORTH * self.standard_error


def judged_old(setup: Setup, features: Tensor) -> HeldOut | None:
    """Return how wrong the old head is on all items that do not judge, where it has all classes; else None."""
    name = setup.items.data.name
    task = setup.tasks[name]
    if not setup.keeps_classes:
        return None
    rows = setup.known(name, setup.parts.learned_from)
    scores = all_logits(setup.network, HeadFeed(setup.network, features, setup.device), indices=rows)[task]
    return held_out(setup, scores, rows=rows)


def source_features(setup: Setup, log: Log, *, tapped: Tapped) -> Tensor:
    """Return what the heads of the network read, (N, d); by a further pass, where the one of `tapped` could not see it."""
    if tapped.head_features is not None:
        return tapped.head_features
    feed = feed_of(setup, log, frozen=frozen_up_to_head(setup.network))
    return features_of(setup.network, feed, indices=np.arange(len(setup.items)))


def gain_of(errors: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    """Return how much lower `errors` (m,) are than those `before` on the same items, and the standard error of that.

    A difference on one further item is added, so that a few items that agree do not pass for certainty.
    """
    known = np.isfinite(before)
    differences = (before - errors)[known]
    count = max(len(differences), 1)
    one = max(float(np.square(before[known]).mean()), 1.0 / count) if len(differences) else 1.0
    spread = float(np.square(differences - differences.mean()).sum()) if len(differences) else 0.0
    return float(differences.mean()) if len(differences) else 0.0, float(np.sqrt((spread + one) / count / count))


def is_better(errors: np.ndarray, before: np.ndarray, *, usual: float, overall: float, doubt: float = DOUBT) -> bool:
    """Tell whether tuning is to be taken for better than a closed form.

    The gain is corrected for how hard these examples are for the closed form, as far as the same ones are hard for both. What was chosen
    among several on the same examples looks better than it is; what then remains of the difference is believed as far as its standard
    error allows (the mean of a normal prior of deviation `usual` lies against tuning).

    `errors`: (m,) of the tuned network; `before`: (m,) of the closed form; NaN where it is not known.

    Source: regression estimator (Cochran, Sampling Techniques, 1977, equation 7.1), its slope within 0 and 1.
    """
    known = np.isfinite(before)
    mine, other, count = errors[known], before[known], int(known.sum())
    if not count:
        return False
    spread = float(np.square(other - other.mean()).sum())
    slope = float(np.clip((mine - mine.mean()) @ (other - other.mean()) / spread, 0.0, 1.0)) if spread else 0.0
    gain = overall - (float(mine.mean()) - slope * (float(other.mean()) - overall))
    rest = mine - slope * other
    one = max(float(np.square(other).mean()), 1.0 / count)
    error = float(np.sqrt((np.square(rest - rest.mean()).sum() + one) / count / count))
    return bool((gain - LUCK * error) * usual**2 - doubt * usual * error**2 > 0)


def figures_(candidate: Candidate, errors: Sequence[float] | np.ndarray, *, shares: bool) -> None:
    """Put the estimate and its interval into a candidate.

    `errors`: (m,) 0 and 1, or losses.
    """
    table = np.asarray(errors)
    if shares:
        right = round(float((1 - table).sum()))
        candidate.estimate, candidate.interval = right / max(len(table), 1), wilson_interval(right, len(table))
        return
    mean, half = float(table.mean()), 1.96 * float(table.std()) / np.sqrt(max(len(table), 1))
    candidate.figure, candidate.estimate, candidate.interval = "loss", mean, (mean - half, mean + half)
