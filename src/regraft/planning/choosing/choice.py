"""State of the comparison of candidates, and the rules by which one is better than another."""

import time
from collections.abc import Mapping
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
from ..setup import ClosedFormHead, Log, Setup
from ..tap_features import TapFeatures
from .bases import Base, head_base, probe_base
from .candidates import Candidate, frozen_layers
from .costs import Costs
from .probing import refitted
from .solving import HeldOutErrors, ProbeHeads, gain_of, held_out, softened

__all__ = ["Choice", "gain_of", "is_better", "judged_old", "source_features"]

HOPE = 0.5  # Share of the best probe's errors that tuning can be expected to remove, before any trial
HOPE_TRIED = 0.6  # Share of a trial's errors that further training can be expected to remove; a short trial is only a beginning
USUAL = 0.5  # Usual difference between tuning and the best probe, as a share of the probe's errors
DOUBT = 0.25  # Prior disadvantage of tuning against a closed form, in units of the usual difference
DOUBT_NEW = 0.5  # The same with new classes, which give tuning no old class weights to start from
LUCK = 0.5  # Optimism of the best of a few candidates, in standard errors
SURELY = 2.0  # Standard errors of a paired difference of losses from which it is significant
WORTH = 0.4  # Expected gain, in standard errors of the best probe, below which no trial runs
KEPT_BY = 0.5  # Standard errors by which the old class weights must beat the best probe if it is made of them


@dataclass
class Choice:
    """State of the comparison."""

    setup: Setup  # setup whose network is the source with its new head
    log: Log
    tapped: TapFeatures
    features: Tensor  # (N, d) input of its heads
    probes: Mapping[str, ClosedFormHead]  # task of the data -> closed-form head on `features`
    probe: ProbeHeads  # the best probe, fitted to training and validation set
    start: ProbeHeads  # the probe that tuning may start from, of several depths if possible
    costs: Costs
    old: HeldOutErrors | None = None  # errors of the old head on training and validation set, if all of its classes are carried over
    entries: list[Candidate] = field(default_factory=list)
    bases: dict[str, Base] = field(default_factory=dict)
    deadline: float | None = None  # end of the budget on the clock `time.perf_counter`; None without a budget
    asked: bool = False  # whether the plan names the candidates; then all are tried
    chosen: dict[str, Any] = field(default_factory=dict)  # strategy and options of the best candidate

    def base(self, candidate: Candidate) -> Base:
        """Return the start of a candidate; it is made on first use."""
        name = candidate.strategy if candidate.strategy == "scratch" else candidate.base
        if name not in self.bases:
            self.bases[name] = self._made(name)
        return self.bases[name]

    def _made(self, name: str) -> Base:
        if name == "scratch":
            return Base(self.setup.on(self.setup.network.reinitialised(self.setup.plan.seed)), None)
        if name == "head":
            return head_base(self.setup, self.log, features=self.features)
        probed = refitted(self.setup, self.tapped, probed=self.start, rows=self.setup.parts.training)
        return probe_base(self.setup, self.tapped, probed=softened(self.setup, probed))

    @property
    def left(self) -> float:
        """Seconds that are left of the budget."""
        return float("inf") if self.deadline is None else self.deadline - time.perf_counter()

    def seconds(self, candidate: Candidate, *, items: int, epochs: int) -> float:
        """Return the seconds of training a `candidate` on a number of examples for a number of `epochs`."""
        alone, network = candidate.strategy == "head", self.setup.network
        frozen = frozen_up_to_head(network) if alone else frozen_layers(network, candidate)
        return self.costs.training(frozen, items=items, epochs=epochs)

    def is_beaten_by(self, run: HeldOutErrors) -> bool:
        """Tell whether a trained network is better, by more than chance, than the best candidate without training."""
        several = len(self.setup.tasks) > 1 and not self.keeps_old
        how = {"usual": self.usual(), "overall": self.error, "doubt": self.doubt, "unit": self.unit}
        better = is_better(run.errors, self.known.at(run.rows)[0], **how)
        return better and not (several and run.loss >= self.probe.loss)

    def expect_(self, candidate: Candidate) -> None:
        """Set the expected seconds of a candidate, and an estimate with a wide interval, before it is tried."""
        setup, error = self.setup, self.error
        candidate.predicted = self.seconds(
            candidate, items=len(setup.parts.training), epochs=most_epochs(setup.settings, len(setup.parts.training))
        )
        best, worst = error * (1 - HOPE), error * (1 + HOPE) + 2 * self.standard_error
        if setup.items.data.task == "classification":
            candidate.estimate, candidate.interval = 1 - error, (max(1 - worst, 0.0), 1 - best)
        else:
            candidate.figure, candidate.estimate, candidate.interval = "loss", error, (best, worst)

    def enter_(self, candidate: Candidate, errors: np.ndarray) -> None:
        """Set the estimate of a candidate and its interval from its held-out errors (m,)."""
        if self.setup.items.data.task == "classification":
            right = round(float((1 - errors).sum()))
            candidate.estimate, candidate.interval = right / max(len(errors), 1), wilson_interval(right, len(errors))
            return
        mean, half = float(errors.mean()), 1.96 * float(errors.std()) / np.sqrt(max(len(errors), 1))
        candidate.figure, candidate.estimate, candidate.interval = "loss", mean, (mean - half, mean + half)

    @property
    def tries_few(self) -> bool:
        """Whether only the first candidates are tried: neither a budget nor the plan asks for more."""
        return self.deadline is None and not self.asked

    @property
    def keeps_old(self) -> bool:
        """Whether the old class weights, which have not seen these examples, are better on them than the best probe."""
        if self.old is None:
            return False
        slack = KEPT_BY * self.probe.standard_error if any(one.of_old for one in (self.probe, *self.probe.members)) else 0.0
        return float(self.old.errors.mean()) < self.probe.error - slack

    @property
    def unit(self) -> float:
        """Error of one example where none is wrong: 1 for shares and log losses; 0 for numbers, which have units of their own."""
        return float(self.setup.items.data.task != "regression")

    @property
    def doubt(self) -> float:
        """Prior disadvantage of tuning, in units of the usual difference."""
        return DOUBT_NEW if self.old is None else DOUBT

    @cached_property
    def known(self) -> HeldOutErrors:
        """Errors of the best candidate without training."""
        if self.keeps_old and self.old is not None:
            return self.old
        name = self.setup.items.data.name
        return held_out(self.setup, self.probe.probes[name].loo_scores, rows=self.probe.rows[name])

    @property
    def error(self) -> float:
        """Mean error of the best candidate without training."""
        return float(self.known.errors.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `error`; that of one example if there is no error at all."""
        errors = self.known.errors
        return max(float(errors.std() / np.sqrt(max(len(errors), 1))), 0.0 if self.error else 1 / max(len(errors), 1))

    def is_hopeless(self, run: HeldOutErrors) -> bool:
        """Tell whether a trial with these errors cannot be expected to beat the best probe."""
        gain, error = gain_of(run.errors, self.known.at(run.rows)[0], unit=self.unit)
        return gain + error + HOPE_TRIED * float(run.errors.mean()) < 0

    def is_doubtful(self, run: HeldOutErrors) -> bool:
        """Tell whether the losses do not significantly confirm what the errors say: that the training is better, or worse."""
        gain, error = gain_of(run.losses, self.known.at(run.rows)[1], unit=self.unit)
        return (gain if self.is_beaten_by(run) else -gain) < SURELY * error

    def expected_gain(self) -> float:
        """Return the reduction of the error that trials can be expected to bring; reductions that would not be believed count as zero.
        The true difference is assumed normal with mean minus the doubt and the usual deviation; the validation set shows it with its
        standard error. The expectation is the mean of the positive part of the difference that would be believed, up to the error itself.
        Source: expected improvement (Jones, Schonlau & Welch, Journal of Global Optimization 13, 1998, equation 15), before one look."""
        rows = self.setup.known(self.setup.items.data.name, self.setup.parts.validation)
        count, usual = max(int(np.isin(rows, self.probe.rows[self.setup.items.data.name]).sum()), 1), self.usual()
        spread = self.error if self.setup.items.data.task == "classification" else float(self.probe.errors.var())
        seen = np.sqrt(max(spread, self.unit / max(len(self.probe.errors), 1)) / count)
        if not usual:
            return 0.0
        believed = usual**2 / float(np.hypot(usual, seen))
        places = (-self.doubt * usual - np.array([0.0, self.error])) / believed
        above, beyond = believed * (norm.pdf(places) + places * norm.cdf(places))
        return float(above - beyond)

    def usual(self) -> float:
        """Return the usual standard deviation of the difference between tuning and a closed form."""
        return USUAL * self.error + 0.01 * float(self.setup.items.data.task == "classification")

    def is_settled(self) -> bool:
        """Tell whether the expected gain of trials is too small compared with the standard error of the best known."""
        return self.expected_gain() <= WORTH * self.standard_error


def judged_old(setup: Setup, features: Tensor) -> HeldOutErrors | None:
    """Return the errors of the old head on training and validation set if it has all classes; else None."""
    name = setup.items.data.name
    task = setup.tasks[name]
    if not setup.keeps_classes:
        return None
    rows = setup.known(name, setup.parts.learned_from)
    scores = all_logits(setup.network, HeadFeed(setup.network, features, setup.device), indices=rows)[task]
    return held_out(setup, scores, rows=rows)


def source_features(setup: Setup, log: Log, *, tapped: TapFeatures) -> Tensor:
    """Return the input of the network's heads, (N, d); by a further pass if the pass of `tapped` did not read it."""
    if tapped.head_features is not None:
        return tapped.head_features
    feed = feed_of(setup, log, frozen=frozen_up_to_head(setup.network))
    return features_of(setup.network, feed, indices=np.arange(len(setup.items)))


def is_better(errors: np.ndarray, before: np.ndarray, *, usual: float, overall: float, doubt: float = DOUBT, unit: float = 1.0) -> bool:
    """Tell whether tuning counts as better than a closed form.
    The gain is corrected for the difficulty of these examples for the closed form, as far as both find the same ones difficult. It is
    reduced for the optimism of choosing among several on the same examples. The rest is weighed against its standard error: a normal prior
    with deviation `usual` has its mean on the side of the closed form.
    `errors` (m,) are those of the tuned network, `before` (m,) those of the closed form, NaN if unknown. `unit`: as in `gain_of`.
    Source: regression estimator (Cochran, Sampling Techniques, 1977, equation 7.1), its slope limited to 0 to 1."""
    known = np.isfinite(before)
    mine, other, count = errors[known], before[known], int(known.sum())
    if not count:
        return False
    spread = float(np.square(other - other.mean()).sum())
    slope = float(np.clip((mine - mine.mean()) @ (other - other.mean()) / spread, 0.0, 1.0)) if spread else 0.0
    gain = overall - (float(mine.mean()) - slope * (float(other.mean()) - overall))
    rest = mine - slope * other
    one = max(float(np.square(other).mean()), unit / count)
    error = float(np.sqrt((np.square(rest - rest.mean()).sum() + one) / count / count))
    return bool((gain - LUCK * error) * usual**2 - doubt * usual * error**2 > 0)
