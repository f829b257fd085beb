"""The strategy "auto": closed-form heads first, then trials of further candidates while their expected gain is large enough."""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...console import duration, say
from ...errors import SettingError
from ...networks.parts.taps import INPUT
from ...scale import workers_of
from ...training import Feed, HeadFeed, WholeFeed
from ...training.courses import most_epochs
from ...training.recipe import LARGEST
from ...words import NOT_TRIED, counted
from ..judging import blind_scores
from ..passes import whole_feeds
from ..setup import Log, Outcome, Setup, Source
from ..starting import solved_heads_of
from ..tuning.training import FOLDS
from .bases import outcome_of_probe, read_depths, read_test
from .candidates import Candidate, candidates_of, strategy_fields
from .choice import SURELY, Choice, gain_of, judged_old, source_features
from .convex import loop_reason, solved_heads
from .costs import measured_costs, pass_seconds
from .probing import best_of, probes_of
from .solving import HeldOutErrors, ProbeHeads, item_errors
from .trials import Trial, on_workers, trial_epochs, trial_of

FIRST = 3  # Number of candidates below the head that are tried without a budget; with a budget, all are

FEW_TO_JUDGE = 200  # Size of the validation set below which a doubtful training is also evaluated on folds of the training set

PARTS = 2.5  # Time of a training with measured settings, including comparison and refit, as a multiple of the plain training
OLD_BETTER = "worse than the class weights of the old head"


def choose_and_carry_out(setup: Setup, log: Log) -> Outcome:
    """Compare the candidates that suit network and data, and carry out the best one.

    Probes and the solved head need no training: their held-out errors are final. Candidates that train layers below the head are compared
    with each other after an equal share of their course, on at most 1,000 examples, from the start weights of their strategy. The best one
    is trained to its end and then compared with the best candidate without training. If it is better, it is refitted on training and
    validation set.

    Returns the adapted network, what evaluates it, the history of the winner, and the compared candidates.

    Source: successive halving (Jamieson & Talwalkar, AISTATS 2016). Deviations: no trial runs if the expected gain is too small
    (`Choice.expected_gain`), and a trial that cannot be expected to beat the best probe is dropped.
    """
    _check_budget(setup)
    tapped = read_depths(setup, log)
    found = probes_of(setup, tapped, rows=setup.parts.learned_from)
    features = source_features(setup, log, tapped=tapped)
    probes, start = solved_heads_of(setup, features), best_of([one for one in found if one.joint] or found)
    costs, old = measured_costs(setup), judged_old(setup, features)
    choice = Choice(setup, log, tapped, features, probes, best_of(found), start, costs, old)
    choice.deadline = None if setup.plan.seconds is None else log.clock.began + setup.plan.seconds
    _enter_probes_(choice, found)
    alone = not len(setup.parts.validation) or setup.settings.epochs == 0
    outcome = _without_trials(choice) if alone else _by_trials(choice, found)
    outcome = outcome or outcome_of_probe(setup, log, tapped=tapped, probed=choice.probe)
    return replace(outcome, candidates=tuple(one.to_dict() for one in choice.entries), chosen=choice.chosen)


def _source_of(choice: Choice) -> Source:
    """Return the features of the source network, of the examples and of those that judge."""
    tested = read_test(choice.setup, choice.log)
    judging = choice.features[choice.setup.parts.holdout] if tested is None else tested.head_features
    return Source(choice.features, judging, choice.probes)


def _outcome_of_trial(choice: Choice, trial: Trial, *, history: Sequence[dict[str, Any]] = (), feed: Feed) -> Outcome:
    """Return the network of the winning trial and what evaluates it."""
    _crown_(choice, trial.candidate, trial=trial)
    return Outcome(
        trial.setup.network,
        feed,
        trial.frozen,
        [*trial.history, *history],
        _source_of(choice),
        test_feed=None if trial.tuning is None else whole_feeds(trial.setup)[1],  # it may read conditions beside the examples
        measured=trial.found,
    )


def _check_budget(setup: Setup) -> None:
    """Raise if the budget is too small for one pass over the examples."""
    budget = setup.plan.seconds
    if budget is None:
        return
    needed = pass_seconds(setup)
    if needed > budget:
        fits = int(len(setup.items) * budget / needed)
        fewer = f", or at most {fits:,} examples" if fits > 1 else ""
        raise SettingError(
            f"budget={setup.plan.budget!r}: one pass over {counted(len(setup.items), 'example')} takes about {needed:.3g} s here. "
            f"Give {math.ceil(2 * needed)}s or more{fewer}."
        )


def _enter_probes_(choice: Choice, found: Sequence[ProbeHeads]) -> None:
    """Add the best single-depth and the best multi-depth probe to the entries, and warn if the input alone does as well as any depth."""
    setup, data = choice.setup, choice.setup.items.data
    for joint in (False, True):
        of_kind = [one for one in found if one.joint == joint]
        if not of_kind:
            continue
        best = choice.probe if choice.probe in of_kind else best_of(of_kind)  # the best of all probes was chosen before
        entry = Candidate("probe", f"probe of {best.name}", None if joint else best.name)
        entry.predicted, entry.seconds = choice.costs.one_pass * len(setup.items), choice.tapped.seconds
        choice.enter_(entry, best.errors)
        entry.why = "higher loss than the other probe" if best is not choice.probe else OLD_BETTER if choice.keeps_old else ""
        choice.entries.append(entry)
    of_input = next((one for one in found if one.name == INPUT), None)
    if of_input is None or of_input.error > choice.probe.error + choice.probe.standard_error:
        return
    rows = setup.known(data.name, setup.parts.learned_from)
    blind = item_errors(setup, np.tile(blind_scores(data, rows), (len(rows), 1)), rows=rows)
    if of_input.error + 2 * of_input.standard_error < float(blind.mean()):
        choice.log.notes.append(
            "Warning: the columns themselves do as well as any depth of the network. A linear model on them needs no network."
            if data.has_rows
            else "Warning: simple input statistics classify as well as the network. Your data may contain a shortcut (brightness, "
            "colour, recording channel)."
        )


def _is_dissimilar(found: Sequence[ProbeHeads]) -> bool:
    """Tell whether no depth of the network predicts better than its input."""
    single = [one for one in found if not one.joint]
    of_input = [one for one in single if one.name == INPUT]
    deep = [one for one in single if one.name != INPUT]
    return bool(of_input and deep) and min(one.error for one in deep) >= of_input[0].error - of_input[0].standard_error


def _head_errors(choice: Choice) -> np.ndarray:
    """Return the held-out errors of the closed-form head on the source network's features."""
    name = choice.setup.items.data.name
    solved = choice.probes.get(name)
    return np.ones(1) * np.inf if solved is None else item_errors(choice.setup, solved.probe.loo_scores, rows=solved.rows)


def _without_trials(choice: Choice) -> Outcome | None:
    """Choose between the probe and the plain head by their held-out errors, if there is no validation set."""
    errors = choice.old.errors if choice.old is not None and choice.keeps_old else _head_errors(choice)
    entry = Candidate("head", "head")
    choice.entries.append(entry)
    choice.expect_(entry)
    if np.isfinite(errors).all():
        choice.enter_(entry, errors)
    choice.log.notes.append("Too few examples for a validation set: closed-form heads were compared by leaving examples out.")
    if choice.probe.error <= float(errors.mean()):
        entry.why = "no better than the probe"
        _crown_(choice)
        return None
    return _solved_head(choice, entry)


def _solved_head(choice: Choice, entry: Candidate) -> Outcome:
    """Return the outcome of the strategy "head": solved, or the old class weights where no others have a lower held-out loss."""
    setup = choice.setup.on(choice.setup.network.copy())
    feed = HeadFeed(setup.network, choice.features, setup.device)
    keep = choice.keeps_old and len(setup.tasks) == 1 and setup.items.data.task == "regression"  # more candidates would win by chance
    solved = None
    if not loop_reason(setup):
        solved = solved_heads(setup, choice.log, feed=feed, frozen=setup.all_but_heads, source=_source_of(choice), keep=keep)
    if solved is None:
        return _trained_head(choice, trial_of(entry, choice.base(entry), source=choice.setup.network, log=choice.log))
    _crown_(choice, entry)
    return solved


def _trained_head(choice: Choice, trial: Trial) -> Outcome:
    """Return the network with its trained head as the winner."""
    feed = WholeFeed(trial.setup.network, choice.setup.items, 1, choice.setup.device, choice.log.counter)
    return _outcome_of_trial(choice, trial, feed=feed)


def _by_trials(choice: Choice, found: Sequence[ProbeHeads]) -> Outcome | None:
    """Return the winner among the trained candidates, or None if the best probe is better."""
    setup, head = choice.setup, float(_head_errors(choice).mean())
    base = "probe" if not choice.keeps_old and choice.start.error < head - choice.probe.standard_error else "head"
    candidates, choice.asked = candidates_of(setup, choice.log, base=base, dissimilar=_is_dissimilar(found))
    choice.entries.extend(candidates)
    for one in candidates:
        choice.expect_(one)
    if choice.is_settled() and not choice.asked and choice.deadline is None:
        for one in candidates:
            one.why = f"{NOT_TRIED}: the expected gain is smaller than these examples can show"
        return _untrained(choice)
    trained = [one for one in candidates if one.strategy != "head"]
    if trained:
        _announce(choice, trained)
    trial = _leading(choice, trained)
    return _finished(choice, trial, head=next((one for one in candidates if one.strategy == "head"), None))


def _leading(choice: Choice, candidates: Sequence[Candidate]) -> Trial | None:
    """Return the leading trial below the head after an equal share of the course; None if none is left.
    Trials that are significantly behind the leader after a third of that share are dropped."""
    first, then = trial_epochs(choice.setup)
    trials = sorted(_runs(choice, _trials(choice, candidates), epochs=first), key=lambda one: one[0].loss)
    for run, trial in trials[1:]:
        gain, error = gain_of(trials[0][0].losses, run.losses, unit=choice.unit)
        trial.candidate.why = "stopped early: significantly worse than another candidate" if gain > SURELY * error else ""
    trials = [one for one in trials if not one[1].candidate.why]
    trials = list(_runs(choice, [trial for _, trial in trials], epochs=then)) if then else trials
    for run, trial in trials:
        trial.candidate.why = "stopped after its trial: too far behind the probe" if choice.is_hopeless(run) else ""
    left = sorted(((run, trial) for run, trial in trials if not trial.candidate.why), key=lambda one: one[0].loss)
    for _, trial in left[1:]:
        trial.candidate.why = "stopped after its trial: another candidate leads"
    return left[0][1] if left else None


def _trials(choice: Choice, candidates: Sequence[Candidate]) -> Iterator[Trial]:
    """Yield the trials of the candidates, each made when the one before has run, as far as the budget allows."""
    first, then = trial_epochs(choice.setup)
    epochs = then if choice.setup.settings.cluster is None else first + then  # on a cluster, all are made before the first one runs
    promised = [0.0] * _workers(choice)
    for number, one in enumerate(candidates):
        if choice.tries_few and number >= FIRST:
            one.why = f"{NOT_TRIED}: {FIRST} that differ more were tried instead; with a budget, all are"
            continue
        trial = _begun(choice, one, promised=promised[0])
        if trial is not None:
            yield trial
            heapq.heapreplace(promised, promised[0] + _trial_seconds(choice, one, epochs=epochs))


def _trial_seconds(choice: Choice, one: Candidate, *, epochs: int) -> float:
    """Return the expected seconds of a number of `epochs` of the trial of a candidate."""
    return choice.seconds(one, items=min(len(choice.setup.parts.training), LARGEST), epochs=epochs)


def _workers(choice: Choice) -> int:
    """Return the number of trials that run at the same time."""
    cluster = choice.setup.settings.cluster
    try:
        return 1 if cluster is None else workers_of(cluster, threads=torch.get_num_threads())
    except SettingError:  # lost: the trials run on this machine, and a note says so
        return 1


def _announce(choice: Choice, trained: Sequence[Candidate]) -> None:
    """Print how long the trials, and the training of the best candidate, will take."""
    setup = choice.setup
    items, most = len(setup.parts.training), most_epochs(setup.settings, len(setup.parts.training))
    trials = sorted((_trial_seconds(choice, one, epochs=sum(trial_epochs(setup))) for one in trained), reverse=True)
    longest = max(PARTS * choice.seconds(one, items=items, epochs=most) for one in trained)
    fitting = [seconds for seconds in trials if seconds <= choice.left][: FIRST if choice.tries_few else None]
    if not fitting:
        say(f"no trial fits into what is left of the budget: the shortest takes about {duration(trials[-1])}")
        return
    left, each = max(choice.left, 0), sum(fitting) / _workers(choice)
    say(
        f"the trials take about {duration(min(max(each, fitting[0]), left))}; training the best of them to its end, "
        f"where that is worth it, up to {duration(min(longest, left))}"
    )


def _is_in_time(choice: Choice, one: Candidate, *, promised: float = 0.0) -> bool:
    """Return whether the budget has time for a trial; otherwise note the reason in the candidate."""
    left, needed = choice.left - promised, _trial_seconds(choice, one, epochs=sum(trial_epochs(choice.setup)))
    if left < needed:
        one.why = f"{NOT_TRIED}: {needed:.0f} s for a trial, {max(left, 0):.0f} s left of the budget"
    return left >= needed


def _begun(choice: Choice, one: Candidate, *, promised: float = 0.0) -> Trial | None:
    """Return the trial of a candidate, or None with a reason in the candidate; `promised` seconds are reserved for others."""
    if not _is_in_time(choice, one, promised=promised):
        return None
    trial = trial_of(one, choice.base(one), source=choice.setup.network, log=choice.log)
    if not trial.starts and one.strategy != "head":
        one.why = f"{NOT_TRIED}: what it starts from runs no layer above its freeze boundary"
        return None
    return trial


def _runs(choice: Choice, trials: Iterable[Trial], *, epochs: int) -> Iterator[tuple[HeldOutErrors, Trial]]:
    """Run each trial for further epochs, on a cluster all at the same time; yield its errors on the validation set, and the trial."""
    cluster = choice.setup.settings.cluster
    if cluster is not None:
        made, runs = list(trials), list[HeldOutErrors]()
        try:
            with choice.log.clock.during("compare"):
                runs.extend(on_workers(made, epochs=epochs, cluster=cluster))
        except SettingError as problem:
            choice.log.notes.extend({f"The trials ran on this machine. {problem}"}.difference(choice.log.notes))
        yield from ((_shown(choice, trial, run=run), trial) for run, trial in zip(runs, made, strict=False))
        trials = (trial for trial in made[len(runs) :] if trial.short is not None or _is_in_time(choice, trial.candidate))
    yield from ((_shown(choice, trial, run=trial.run_(epochs=epochs)), trial) for trial in trials)


def _shown(choice: Choice, trial: Trial, *, run: HeldOutErrors) -> HeldOutErrors:
    """Enter the errors of a trial into its candidate, print its loss, and return the errors."""
    choice.enter_(trial.candidate, run.errors)
    say(f"trial of {trial.candidate.name}: loss {run.loss:.4g} on the validation set")
    return run


def _finished(choice: Choice, trial: Trial | None, *, head: Candidate | None) -> Outcome | None:
    """Train the leading trial to its end; return the best of it, the trained head, and the best candidate without training."""
    alone = None if head is None else _begun(choice, head)
    head_run = None if alone is None else _shown(choice, alone, run=alone.judged())
    if head is not None and head_run is not None and not choice.is_beaten_by(head_run):
        head.why, alone, head_run = "not better than the probe by more than chance", None, None
    run = None if trial is None else _trained(choice, trial)
    if trial is None or run is None:
        return _untrained(choice) if alone is None else _trained_head(choice, alone)
    if alone is not None and head_run is not None and head_run.errors.mean() < run.at(head_run.rows)[0].mean():
        trial.candidate.why = "trained to its end; not better than the head alone"
        return _trained_head(choice, alone)
    feed = trial.refitted()
    return _outcome_of_trial(choice, trial, history=trial.found.history if trial.found else (), feed=feed)


def _trained(choice: Choice, trial: Trial) -> HeldOutErrors | None:
    """Train the leading trial to its end; return its errors, or None if the best candidate without training is as good."""
    setup, epochs = choice.setup, None
    if choice.deadline is not None:
        each = choice.seconds(trial.candidate, items=len(setup.parts.training), epochs=1)
        epochs = int(min(max(choice.left, 0) / each / PARTS, most_epochs(setup.settings, len(setup.parts.training))))
    if epochs == 0:  # a training of no epoch would leave the untrained head
        needed, left = duration(PARTS * each), duration(max(choice.left, 0))
        trial.candidate.why = f"stopped after its trial: an epoch with comparison and refit takes {needed}, {left} left of the budget"
        return None
    run = trial.finished(epochs)
    found = trial.found
    if found is not None and not found.kept_start and len(run.rows) < FEW_TO_JUDGE:
        again = (FOLDS + 1) * choice.seconds(trial.candidate, items=len(setup.parts.training), epochs=sum(found.course))
        run = trial.judged_further(run, doubtful=choice.is_doubtful) if again < choice.left else run
    choice.enter_(trial.candidate, run.errors)
    if choice.is_beaten_by(run):
        return run
    trial.candidate.why = "trained to its end; not significantly better than what needs no training"
    return None


def _untrained(choice: Choice) -> Outcome | None:
    """Choose the best candidate without training: the old head if it is better, else None for the best probe."""
    if not choice.keeps_old:
        _crown_(choice)
        return None
    entry = next((one for one in choice.entries if one.strategy == "head"), None)
    if entry is None:
        entry = Candidate("head", "head")
        choice.entries.append(entry)
    entry.why = ""
    if choice.old is not None:
        choice.enter_(entry, choice.old.errors)
    return _solved_head(choice, entry)


def _crown_(choice: Choice, entry: Candidate | None = None, *, trial: Trial | None = None) -> None:
    """Record the winner: a candidate, with its trial if it was trained, or the best probe."""
    entry = entry or next(one for one in choice.entries if one.strategy == "probe" and not one.why)
    entry.why = entry.why if entry.why.startswith("chosen") else "chosen"
    choice.chosen = strategy_fields(entry) | ({} if trial is None or trial.found is None else trial.found.chosen())
    mixed = entry.why.removeprefix("chosen")
    choice.log.notes.append(f"Chosen: {entry.name}, among {counted(len(choice.entries), 'candidate')}{mixed}.")
