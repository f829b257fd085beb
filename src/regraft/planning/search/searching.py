"""Search for a plan: trials on folds, then one evaluation of the best plan on the holdout set."""

import hashlib
import inspect
import json
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...console import progress, say
from ...data import Dataset, check_trainable
from ...data.items import listed
from ...errors import SettingError, near_names
from ...files.remote import at_hand, is_url
from ...files.scratch import scratch_folder
from ...files.text import printable, shown
from ...freezing import Counter, check_engine
from ...freezing.identity import frozen_identity
from ...freezing.spread import check_seen, sent
from ...networks.folders import FACTS_FILE
from ...networks.network import Network
from ...report.plots import SURE
from ...scale import on_cluster
from ...training.courses import MOST
from ...words import counted, metric_words
from ..carry_out import carry_out
from ..plan import Plan
from ..preparing import prepared_for
from ..result import Result
from ..tuning.training import folds_of
from .bench import METRICS, Bench, Build, shown_values
from .board import BEST, PRUNERS, SAMPLERS, Board, Options, OwnTrial, carried
from .database import StoredTrial, optuna_library
from .space import CLOSED_FORM, Range, Space, default_space, plan_for
from .study import FEWEST, Study, TrialRecord

_RESAMPLES = 50  # Bootstrap samples of the trials, for the intervals of the importances
_STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}  # Optuna's state of a finished trial -> state in `TrialRecord`


@dataclass(frozen=True)
class SearchOptions:
    """Arguments of a search.
    `holdout`: share of the holdout set, which evaluates the best plan. Without folds, also the share of the rest that evaluates trials."""

    space: Mapping[str, Any] | None = None  # space as plain data; None: the default space
    trials: int = 50
    sampler: str = "tpe"  # "tpe", "random" or "grid"
    pruner: str | None = "median"  # "median", "hyperband" or None
    folds: int | None = None  # number of folds; None: one split
    holdout: float = 0.2
    metric: str | None = None  # metric that chooses the best trial; None: the default of the task, see `METRICS`
    seed: int = 0
    out: str | Path | None = None  # folder of the study, or None
    budget: str | None = None  # time after which no trial starts, such as "10m"; None: no limit
    resume: bool = True  # whether to go on with the study in `out`; else it is replaced

    @property
    def seconds(self) -> float:
        """Budget in seconds; infinite without one."""
        return Plan("auto", budget=self.budget).seconds or math.inf

    def check(self, kind: str) -> None:
        """Raise one `SettingError` for all invalid values. `kind`: kind of the task."""
        problems = [
            f"{name}={shown(value)} is not known{near_names(str(value), map(str, allowed))}"
            for name, value, allowed in (
                ("sampler", self.sampler, SAMPLERS),
                ("pruner", self.pruner, (*PRUNERS, None)),
                ("metric", self.metric, (*METRICS[kind], None)),
            )
            if value not in allowed
        ]
        problems += [
            f"{name}={shown(value)}: expected a whole number, {least} or more"
            for name, value, least in (("trials", self.trials, 1), ("folds", 2 if self.folds is None else self.folds, 2))
            if not isinstance(value, int) or isinstance(value, bool) or value < least
        ]
        if self.budget is not None and self.seconds == math.inf:
            problems.append(f"budget={self.budget!r}: expected a time such as '30s', '10m' or '1h', or None")
        if problems:
            raise SettingError("; ".join(problems))


def arguments_of(source: Any, space: Mapping[str, Any]) -> list[str]:
    """Return the arguments of a build function; empty if the source is no function. Raise if the space lacks a required one."""
    if not any(makes(source) for makes in (inspect.isfunction, inspect.ismethod, inspect.isclass)) and not isinstance(source, partial):
        return []
    asked = [one for one in inspect.signature(source).parameters.values() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    lacking = [one.name for one in asked if one.default is one.empty and one.name not in space]
    if lacking or not asked:
        said = f"has no values for its argument {lacking[0]!r}" if lacking else "builds from no argument"
        raise SettingError(f"The build function given as net {said}; expected arguments that are names in space=, with their choices.")
    return [one.name for one in asked]


def first_of(space: Mapping[str, Any] | None, names: Sequence[str], *, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Return one value of each of these names of a space in plain data: the lower end of a range, or the first choice."""
    entries = Space.from_dict(space, fixed, built=names).entries if space else {}
    return {name: entry.low if isinstance(entry, Range) else entry[0] for name, entry in entries.items() if name in names}


def run_search(
    net: Network,
    data: Dataset,
    *,
    asked: SearchOptions,
    settings: Mapping[str, Any],
    test: Dataset | None = None,
    build: Build | None = None,
    built: Sequence[str] = (),
) -> Study:
    """Search for the best plan, run it once more on all examples except the holdout set, and evaluate it on that set.
    `settings`: settings that are the same in every trial. `test`: test set, or None. `build` makes the network of a trial from its values
    of the names `built`; None: every trial starts from `net`."""
    optuna_library()
    net.body.refuse_change("adapted")
    check_engine(settings.get("engine", "auto"), settings.get("cluster"))
    check_trainable(data)
    if settings.get("cluster") is not None:
        check_seen(data, settings["cluster"])
    asked.check(data.task)
    with _shared(settings) as fixed, nullcontext() if asked.out is None else at_hand(asked.out) as folder:
        bench, space = _bench(net, data, asked=asked, fixed=fixed, built=built)
        if build is not None:
            if fixed.get("cluster") is not None:
                raise SettingError("cluster= does not go with a build function, which cannot be sent to other machines. Leave it out.")
            bench = replace(bench, build=build, built=space.built)
        options = Options(
            asked.trials,
            asked.sampler,
            asked.pruner,
            asked.seed,
            bench.direction,
            bench.longest * len(bench.folds),
            _identity(bench, asked, space=space),
            None if asked.space or "strategy" in fixed or data.weights is not None or net.fresh or fixed.get("fresh") else CLOSED_FORM,
            asked.resume,
        )
        with _quiet(), bench.clock.during("study"):
            board = Board(options, space, bench.fixed, folder)
            ends = time.monotonic() + asked.seconds
            with progress("trials", asked.trials) as advance:
                for ended in _trials(board, bench, ends=ends):
                    advance(1)
                    figure = f", {bench.metric} {metric_words(bench.metric, ended.value)}" if ended.value is not None else ""
                    values, why = shown_values(ended.facts.values or {}), f"; {ended.facts.error}" if ended.facts.error else ""
                    say(f"trial {len(board.trials())} of {asked.trials}: {_STATES[ended.state]}{figure}; {values}{why}")
                if time.monotonic() > ends:
                    say(f"The budget of {asked.budget} is used: no further trial is begun.")
            study = _concluded(board, bench, cache=settings.get("cache", "auto"), test=test)
            return replace(study, folder=None) if is_url(asked.out) else study


def _trials(board: Board, bench: Bench, *, ends: float) -> Iterator[StoredTrial]:
    """Yield trials as they finish, until none is left or running elsewhere. No trial starts after `ends`, a time of `time.monotonic`."""
    while True:
        if bench.fixed.get("cluster") is not None:
            yield from _trials_as_tasks(board, bench, ends=ends)
        while time.monotonic() <= ends and (ended := board.carry_out(bench.run)):
            yield ended
        if time.monotonic() > ends or not board.waited():
            return


def _trials_as_tasks(board: Board, bench: Bench, *, ends: float) -> Iterator[StoredTrial]:
    """Yield trials as they finish, each run as a task of the cluster. This process assigns them and stores the results."""
    under_way, threads = dict[int, OwnTrial](), torch.get_num_threads()

    def takes() -> Iterator[OwnTrial]:
        while time.monotonic() <= ends and (taken := board.next()):
            under_way[taken.row] = taken
            yield replace(taken, lock=None)

    alone = replace(bench, fixed={name: value for name, value in bench.fixed.items() if name != "cluster"})
    content = sent((alone, threads), [bench.network], values=_two_scores)
    try:
        done = on_cluster(_task, content, pieces=takes(), cluster=bench.fixed["cluster"], threads=threads, in_order=False)
        for ended, items in done:
            bench.counter.items += items
            board.end(ended)
            board.let_go_(under_way.pop(ended.row))
            yield ended
    finally:
        for taken in under_way.values():
            board.let_go_(taken)


def _two_scores(shared: tuple[Bench, int]) -> list[torch.Tensor]:
    network, items = shared[0].network, shared[0].items
    network.mode_(False)
    return list(network.scores(items.batch(np.arange(min(2, len(items))))).values())


def _task(shared: tuple[Bench, int], taken: OwnTrial) -> tuple[StoredTrial, int]:
    """Run a trial in a worker; return the finished trial, and the number of examples that went through the frozen part."""
    bench = replace(shared[0], counter=Counter())
    torch.set_num_threads(shared[1])
    with _quiet():
        return carried(taken, bench.run), bench.counter.items


def _bench(
    net: Network, data: Dataset, *, asked: SearchOptions, fixed: Mapping[str, Any], built: Sequence[str] = ()
) -> tuple[Bench, Space]:
    plan_for({}, {name: value for name, value in fixed.items() if name not in ("strategy", "frozen", "block")})  # raises for unknown names
    usual = default_space(net, data.task, several=bool(data.further))
    usual = {name: values for name, values in usual.items() if name not in fixed}
    space = Space.from_dict(usual if asked.space is None else asked.space, fixed, built=built)
    fixed = {**fixed, "seed": asked.seed, "holdout": asked.holdout}
    data = data.with_classes(fixed["classes"]) if fixed.get("classes") and data.classes else data
    rest, judging = data.split_indices(asked.holdout, seed=asked.seed)  # same split as in `adapt`: the best plan has this holdout set
    folds = folds_of(data, rest, folds=asked.folds, holdout=asked.holdout, seed=asked.seed)
    plan = plan_for({}, {name: value for name, value in fixed.items() if name not in ("strategy", "frozen", "block", "holdout")})
    held = [*(["augment"] if callable(plan.augment) else []), *plan.settings.functions]
    if held:
        raise SettingError(f"A search keeps its plans as plain data, which {held[0]}= a callable is not. Adapt with it, by the best plan.")
    kinds = [data.targets_of(name).task for name in data.tasks]
    if space.entries.get("head_layers", (0,)) != (0,) and kinds != ["classification"]:
        raise SettingError(
            f"space: 'head_layers' needs data with one task, a classification; received {listed(map(repr, kinds))}. Leave it out."
        )
    items = prepared_for(net, data, plan=replace(plan, views=2), rows=rest)
    metric = asked.metric or METRICS[data.task][0]
    entry = space.entries.get("epochs", (fixed.get("epochs") or MOST,))
    most = int(entry.high) if isinstance(entry, Range) else max(int(value) for value in entry)
    return Bench(net, items, folds, judging, fixed, metric, longest=2 * most), space


@contextmanager
def _shared(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield settings with a cache that all trials share: "memory" becomes a temporary folder, except on a cluster."""
    if settings.get("cache") != "memory" or settings.get("cluster") is not None:
        yield dict(settings)
        return
    with scratch_folder("search") as folder:
        yield {**settings, "cache": str(folder)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's messages while the context lasts."""
    logging = optuna_library().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _identity(bench: Bench, asked: SearchOptions, *, space: Space) -> str:
    """Return a digest of everything that the trials' figures depend on, so that figures with equal digests are comparable."""
    network, items = bench.network, bench.items
    targets = hashlib.blake2b(digest_size=12)
    for name in items.data.tasks:
        targets.update(np.ascontiguousarray(items.data.targets_of(name).values).tobytes())
    weights = [] if items.data.weights is None else [items.data.weights]
    for part in (bench.judging, *(index for fold in bench.folds for index in fold), *weights):
        targets.update(np.ascontiguousarray(part).tobytes())
    fixed = {name: value for name, value in bench.fixed.items() if name not in ("cache", "device", "engine", "cluster")}
    facts = [space.to_dict(), json.loads(json.dumps(fixed, default=str)), bench.metric, asked.sampler, targets.hexdigest()]
    facts += [items.identity(1), frozen_identity(network, [layer.name for layer in network.layers]).digest]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()


def _concluded(board: Board, bench: Bench, *, cache: str | None, test: Dataset | None) -> Study:
    """Return the study, after running the best plan on all examples except the holdout set and evaluating it there."""
    records = _records(board)
    done = [record for record in records if record.figure is not None]
    if not done:
        errors = list(dict.fromkeys(printable(record.error) for record in records if record.error))
        raise SettingError(
            f"None of {counted(len(records), 'trial')} came to its end. {' '.join(errors[:3])} Change space= or the settings."
        )
    best = min(done, key=lambda record: record.rank(bench.direction))
    count = len(bench.folds)
    on = counted(count, "fold") if count > 1 else counted(sum(len(holdout) for _, holdout in bench.folds), "validation example")
    network, plan = bench.prepared(best.values)
    plan = replace(plan, statistics=True, settings=replace(plan.settings, cache=cache)).with_reasons(
        f"The best of {counted(len(records), 'trial')}: {bench.metric} {metric_words(bench.metric, best.figure)} on {on}."
    )
    with board.alone():
        result, scores = _judged(board, bench, network=network, plan=plan, best=best, test=test)
        final, space = plan if result is None else result.plan, board.space.to_dict()
        with bench.clock.during("importances"):
            importances, intervals = _importances(board)
        cost = {**bench.clock.cost(bench.counter), "seconds": round(sum(record.seconds for record in records), 3)}
        study = Study(
            tuple(records),
            space,
            bench.metric,
            bench.direction,
            best,
            replace(final, classes=bench.items.data.classes),
            network,
            scores,
            result,
            importances,
            cost,
            board.folder,
            intervals,
        )
        if board.folder is not None:
            study.save(board.folder)
    return study


def _judged(
    board: Board, bench: Bench, *, network: Network, plan: Plan, best: TrialRecord, test: Dataset | None
) -> tuple[Result | None, dict[str, Any]]:
    known, folder = board.database.facts().judged, board.folder
    kept = folder is not None and (folder / BEST / FACTS_FILE).is_file()
    if known is not None and known.values == best.values and kept and ("test" in known.scores or test is None):
        return None, dict(known.scores)
    out = None if folder is None else folder / BEST
    with bench.clock.during("best"):
        result = carry_out(network, bench.items.data, plan=plan, test=test, out=out, resume=False)
    bench.counter.items += int(result.cost["frozen_forward_examples"])
    scores = json.loads(json.dumps(result.scores))
    board.database.note(judged={"values": best.values, "scores": scores})
    return result, scores


def _records(board: Board) -> list[TrialRecord]:
    return [
        TrialRecord(
            place,
            dict(trial.facts.values or {}),
            _STATES[trial.state],
            trial.value if trial.state == "COMPLETE" else None,
            tuple(trial.facts.folds),
            trial.facts.seconds,
            trial.facts.error,
            tuple(trial.facts.losses),
        )
        for place, trial in enumerate(board.trials(), start=1)
        if trial.state in _STATES
    ]


def _importances(board: Board) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Return name -> importance over the trials that the sampler chose, and its 95 % interval; both are empty if there are too few.
    The given first trial is left out. The interval is 1.96 standard deviations over bootstrap samples of the trials to each side, within 0
    and 1. A name that no trial of a sample has counts 0 there."""
    done = [trial for trial in board.trials() if trial.state == "COMPLETE" and trial.facts.values != board.options.first]
    if len(done) < FEWEST or len({trial.value for trial in done}) < 2:
        return {}, {}
    optuna, study = optuna_library(), board.in_memory(done)
    found, trials, drawn = _shares(study), study.get_trials(deepcopy=False), list[dict[str, float]]()
    for rows in np.random.default_rng(board.options.seed).integers(0, len(trials), (_RESAMPLES, len(trials))):
        sample = optuna.create_study(direction=board.options.direction)
        sample.add_trials([trials[row] for row in rows])
        drawn.append(_shares(sample))
    reach = {name: SURE * float(np.std([shares.get(name, 0.0) for shares in drawn])) for name in found}
    intervals = {name: (round(max(share - reach[name], 0.0), 4), round(min(share + reach[name], 1.0), 4)) for name, share in found.items()}
    return {name: round(share, 4) for name, share in found.items()}, intervals


def _shares(study: Any) -> dict[str, float]:
    """Return name -> importance (PED-ANOVA), with the sum 1; empty if it cannot be computed from the trials of an Optuna study."""
    importance = optuna_library().importance
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a name has few trials, which the intervals show
            return dict(importance.get_param_importances(study, evaluator=importance.PedAnovaImportanceEvaluator()))
    except (RuntimeError, ValueError):  # too few trials for some name
        return {}
