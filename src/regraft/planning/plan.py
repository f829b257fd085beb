"""The plan: what will be done and why, as plain data. It is made first and carried out afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from ..data.preprocessings.augmenting import AUGMENTS, CALLABLE, plain_name
from ..errors import SettingError, near_names
from ..files.formats import reason_of
from ..files.schema import Candidate, checked
from ..files.text import notebook_html, printable, shown
from ..files.writing import json_text
from ..heads.starts import STARTS
from ..methods import METHODS, SWITCHES
from ..training import Settings
from ..training.settings import SettingKeywords, is_whole
from ..words import HEADINGS, candidate_rows, value_words

STARTS_OF_ROWS = ("auto", *STARTS)
STRATEGIES = ("auto", "probe", "head", "partial", "full", "surgical", "scratch", *METHODS)
VIEWS = 4  # Default number of augmented copies of each training example where `augment` is given without `views`
THIRDS = ("first", "middle", "last")
AUTO_BLOCK = "auto"
ALL = "all"  # Value of `trainable`: all layers, also those that the owner of the network has frozen
BASES = ("head", "probe")
FRESH = ("auto", "head", "partial", "full")  # Strategies that can first train layers below the head from their initial weights
PROBES = ("auto", "ridge", "lda", "logistic", "svm", "class_mean", "random_projection", "knn")  # Solvers of closed-form heads
THROUGH_LAYERS = ("random_projection", "knn")  # Solvers that put a layer before the head
SOLVING = ("probe", "head", "partial", "full", "surgical", *METHODS)  # Strategies that begin with a solved head
_TUNING = ("partial", "full", "surgical", *METHODS)
"""Strategies that train below the heads from trained weights; the switches apply to them."""
_OF_THE_LOOP = (
    *("epochs", "batch_size", "optimizer", "loss", "learning_rate", "weight_decay", "dropout", "l1", "momentum", "schedule", "warmup"),
    *("layer_decay", "unfreeze_every", "patience", "min_delta", "clip_norm", "plateau_factor", "plateau_patience", "min_learning_rate"),
    *("decay", "monitor", "callbacks"),
)
"""Settings that apply to the epoch loop only. If one is given, heads are trained by the loop instead of solved."""
_NAMES = ("trainable", "fresh")  # Fields of a plan that hold layer names or patterns
_LISTS = ("classes", "reasons", "candidates", *_NAMES)  # Fields of a plan that are tuples, and lists in plain data
_OWN = (
    *("frozen", "block", "base", "probe", "budget", "views", "augment", "holdout", "validation", "seed", "classes", "rename"),
    *("start", "statistics", "false_alarm", *_NAMES),
)
"""Options of a plan that are neither settings nor options of methods."""
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Plan:
    """Strategy, settings and reasons. The same plan, data and seed give the same weights on the same machine.

    Attributes:
        strategy: "auto", "probe", "head", "partial", "full", "surgical", "scratch", or the name of a method: "bias", "scale_shift",
            "lora", "lin" or "codes".
        options: options of the method, such as form="lhuc" of "scale_shift"; missing options take their defaults.
        classes: class names of the new head, in row order; of the first task if the data have several.
        frozen: for "partial": a number of blocks; the name of the last frozen block, layer or module; or "layers:8" for the first 8
            layers as the network's library counts them. For "probe": name or number of the only block whose output is read; None reads
            all depths.
        block: for "surgical": "first", "middle" or "last", the third of the blocks that is trained; "auto" takes the third with the
            largest gradient relative to its weights, after the head is trained.
        base: what "partial", "full" and "surgical" start from: "head" is the network's own head, "probe" the closed-form head on all
            depths.
        probe: solver of the head: "ridge", "lda", "logistic", "svm" or "class_mean"; for "probe" and "head" also "random_projection" or
            "knn". A named solver also gives the start of strategies that train below the heads. "auto" means, for "probe", the best of
            ridge regression, discriminant analysis and their weighted mean; for "head", logistic regression (ridge regression for
            regression targets).
        budget: for "auto": time limit without the evaluation, such as "30s", "10m" or "1h"; "auto" or None: continue until no candidate
            is worth its cost.
        views: number of augmented copies of each training example, including the plain one.
        augment: how the augmented copies are made: "light" (small rotations, zooms, shifts and brightness changes, no mirroring),
            "photo" (random crops, mirroring, brightness and colour changes; for photographs), a callable of one picture (C, H, W) in
            0..255, "none" (every copy is plain), or "auto" ("photo" for pictures that look like photographs, else "light").
        holdout: share of the examples in the holdout set; 0 requires a test set.
        validation: share of the remaining examples in the validation set, which chooses the epoch, the learning rate and, for "auto",
            the freeze boundary.
        seed: seed of splits, order and dropout.
        rename: old class name -> new name, for the first task; the class weights are carried over.
        start: initial weights of new classes: "zeros", "random", "mean", "imprint" or "probe". "auto": for "head", the methods and
            regression, the closed-form probe if its leave-one-out loss is lower than the loss of the present class weights, including
            those carried over; for other trainings zeros.
        statistics: store the feature sums of each class with the network if they cost almost nothing.
        false_alarm: share of known examples that `predict(..., unknown=True)` may call unknown, between 0 and 1.
        trainable: names of layers or modules, or patterns such as "layer4*": only these layers and heads with new classes are trained,
            as far as the strategy trains them. "all" allows all layers; None allows those that the owner of the network has not frozen.
        fresh: names or patterns of layers below the head that were never trained. They and the head are trained first, on the features
            below them; no head is solved on their outputs.
        settings: settings of the training.
        reasons: sentences for the user.
        candidates: candidates that "auto" compares; if empty, those that suit network and data. After the run they include their
            results.
        chosen: strategy and options that "auto" found best; they can form a new plan.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> plan = regraft.adapt(net, (rows, labels), strategy="head", epochs=2, seed=0).plan
        >>> plan.strategy, plan.settings.epochs, plan.holdout
        ('head', 2, 0.2)
    """

    __pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False, revalidate_instances="always")

    strategy: str
    classes: tuple[str, ...] = ()
    frozen: int | str | None = None
    views: int = 1
    augment: Any = "auto"
    holdout: float = 0.2
    validation: float = 0.15
    seed: int = 0
    rename: dict[str, str] = field(default_factory=dict)
    start: str = "auto"
    statistics: bool = True
    false_alarm: float = 0.05
    settings: Settings = field(default_factory=Settings)
    reasons: tuple[str, ...] = ()
    block: str | None = None
    base: str = "head"
    probe: str = "auto"
    budget: str | None = None
    candidates: tuple[dict[str, Any], ...] = ()
    chosen: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    trainable: tuple[str, ...] | str | None = None
    fresh: tuple[str, ...] | None = None

    @property
    def seconds(self) -> float | None:
        """The budget in seconds; None where there is no limit."""
        found = _BUDGET.fullmatch(str(self.budget or ""))
        return float(found[1]) * _SECONDS[found[2]] if found else None

    def loss_of(self, task: str, *, first: str) -> Any:
        """Return the setting `loss` for a `task` of the data whose first task is `first`; None means the default loss.

        Example:
            >>> regraft.Plan("full").loss_of("main", first="main") is None
            True
        """
        given = self.settings.loss
        return given.get(task) if isinstance(given, Mapping) else given if task == first else None

    def of_the_loop(self) -> tuple[str, ...]:
        """Return the given settings that apply to the epoch loop only, such as "dropout=0.2".

        Example:
            >>> plan.of_the_loop()
            ('epochs=2',)
        """
        plain, given = Settings().to_dict(), self.settings.to_dict()
        found = [f"{name}={given[name]!r}" for name in _OF_THE_LOOP if given[name] != plain[name]]
        found += [f"views={self.views}"] if self.views > 1 else []
        found += [f"start={self.start!r}"] if self.start != "auto" else []
        return tuple(found)

    def given(self) -> dict[str, Any]:
        """Return the arguments that recreate this plan, apart from the strategy: the share of the holdout set, the seed, and options and
        settings that differ from the defaults.

        Example:
            >>> regraft.Plan("head", validation=0.3).given()
            {'holdout': 0.2, 'validation': 0.3, 'seed': 0}
        """
        method = METHODS.get(self.strategy)
        usual, settings = Plan(self.strategy), Settings.of(method.settings if method else {})
        own = {name: getattr(self, name) for name in _OWN if name in ("holdout", "seed") or getattr(self, name) != getattr(usual, name)}
        told = {name: getattr(self.settings, name) for name in settings.to_dict()}
        defaults = method.filled({}) if method else {}
        options = {name: value for name, value in self.options.items() if name not in defaults or value != defaults[name]}
        return own | options | {name: value for name, value in told.items() if value != getattr(settings, name)}

    def to_call(self) -> str:
        """Return the Python call that recreates this plan, with the arguments of `given`. `test` stands for the test set of a plan that
        holds nothing out.

        Example:
            >>> print(regraft.Plan("head").to_call())
            regraft.adapt(
                net,
                data,
                strategy='head',
                holdout=0.2,
                seed=0,
            )
        """
        test = {} if self.holdout else {"test": "test"}
        told = test | {name: _as_code(value) for name, value in {"strategy": self.strategy, **self.given()}.items()}
        return "".join(["regraft.adapt(\n    net,\n    data,\n", *(f"    {name}={value},\n" for name, value in told.items()), ")"])

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data that `from_dict` reads.

        Example:
            >>> plan.to_dict()["classes"]
            ['cold', 'warm']
        """
        lists = {name: list(getattr(self, name)) for name in _LISTS if isinstance(getattr(self, name), tuple)}
        options = {name: list(value) if isinstance(value, tuple) else value for name, value in self.options.items()}
        own = {"options": options, "settings": self.settings.to_dict(), "augment": plain_name(self.augment)}
        return {**asdict(replace(self, augment="auto", settings=Settings())), **lists, **own}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Plan:
        """Return the plan that plain data describe.

        Args:
            plain: a plan as `to_dict` gives it, edited or not.

        Returns:
            The plan with its values checked.

        Raises:
            SettingError: if a name is unknown or a value is out of range.

        Example:
            >>> regraft.Plan.from_dict(plan.to_dict()).to_dict() == plan.to_dict()
            True
        """
        if not isinstance(plain, Mapping) or "strategy" not in plain:
            raise SettingError(f"A plan is a mapping with a 'strategy'; received {str(plain)[:80]!r}.")
        unknown = [name for name in plain if name not in cls.__dataclass_fields__]
        if unknown:
            raise SettingError("; ".join(f"A plan has no {name!r}{near_names(name, cls.__dataclass_fields__)}" for name in unknown))
        given: dict[str, Any] = {
            name: tuple(value) if name in _LISTS and isinstance(value, list) else value for name, value in plain.items()
        }
        given["settings"] = Settings.of(plain.get("settings") or {})
        plan = cls(**given)
        checked(plan, _SCHEMA, what="The plan", error=SettingError)
        for one in plan.candidates:
            checked(one, Candidate, what="A candidate of the plan", error=SettingError)
        check_plan(plan)
        return plan

    def to_json(self) -> str:
        """Return the plan as JSON text.

        Example:
            >>> plan.to_json().split()[:3]
            ['{', '"strategy":', '"head",']
        """
        return json_text(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan from the text that `to_json` wrote.

        Raises:
            SettingError: if the text is not JSON, a name is unknown or a value is out of range.

        Example:
            >>> regraft.Plan.from_json(plan.to_json()).to_dict() == plan.to_dict()
            True
        """
        try:
            plain = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise SettingError(f"The plan is not readable JSON: {reason_of(error)}; received {printable(text[:80])!r}.") from error
        return cls.from_dict(plain)

    def with_reasons(self, *reasons: str) -> Plan:
        """Return the plan with these reasons appended.

        Example:
            >>> plan.with_reasons("Small data.").reasons[-1]
            'Small data.'
        """
        return replace(self, reasons=(*self.reasons, *reasons))

    def __repr__(self) -> str:
        told = ", ".join(f"{name}={shown(value)}" for name, value in self.given().items())
        return printable(f"<Plan of strategy {self.strategy!r}: {told}>", width=200)

    def __str__(self) -> str:
        defaults = Settings().to_dict()
        changed = [f"{name}={value_words(value)}" for name, value in self.settings.to_dict().items() if value != defaults[name]]
        options = ", ".join(f"{name}={value_words(value)}" for name, value in self.options.items() if value is not None)
        where = f", {options}" if options else ""
        where += f", {'at' if self.strategy == 'probe' else 'frozen up to'} {self.frozen!r}" if self.frozen is not None else ""
        third = "the third with the largest relative gradient" if self.block == AUTO_BLOCK else f"{self.block} third"
        lines = [f"strategy   {self.strategy}{where}" + (f", {third}" if self.block else "")]
        names = ", ".join(self.classes[:6]) + (", …" if len(self.classes) > 6 else "")
        lines += [f"classes    {len(self.classes)}: {names}"] if self.classes else []
        made = f" ({plain_name(self.augment)})" if self.augment != "auto" else ""
        lines += [f"settings   {', '.join(changed) or 'all at their defaults'}; views {self.views}{made}, seed {self.seed}"]
        lines += [f"start      {self.start}"] if self.start != "auto" else []
        lines += [f"renamed    {', '.join(f'{old} -> {new}' for old, new in list(self.rename.items())[:6])}"] if self.rename else []
        lines += [f"trains     {_names_in_words(self.trainable)}"] if self.trainable is not None else []
        lines += [f"fresh      {_names_in_words(self.fresh)}"] if self.fresh is not None else []
        lines += [f"from       {self.base}"] if self.base != "head" else []
        lines += [f"solved by  {self.probe}"] if self.probe != "auto" else []
        rows = candidate_rows(self.candidates)
        table = [HEADINGS, *rows] if rows else []
        widths = [max(len(row[column]) for row in table) for column in range(len(HEADINGS))] if table else []
        lines += [" " * 11 + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
        lines += [f"because    {reason}" for reason in self.reasons]
        return "\n".join(map(printable, lines))

    def _repr_html_(self) -> str:
        return notebook_html(self, title="Plan")


class FitKeywords(SettingKeywords, total=False):
    """The settings, and the fields of a `Plan` that are keywords of `adapt` and of the estimators of scikit-learn."""

    frozen: int | str | None
    block: str | None
    probe: str
    augment: str | Callable[..., Any]
    start: str


class AdaptKeywords(FitKeywords, total=False):
    """Keywords of `adapt`: the settings, the further fields of a `Plan`, and the options of the methods."""

    base: str
    classes: Sequence[str]
    rename: Mapping[str, str]
    statistics: bool
    false_alarm: float
    trainable: Sequence[str] | str | None
    fresh: Sequence[str] | str | None
    form: str
    blocks: Sequence[str] | None
    rank: int
    alpha: float | None
    layers: Sequence[str] | None
    size: int | None
    training: str
    skip_bad: bool


class SearchKeywords(AdaptKeywords, total=False):
    """Keywords of `search`: those of `adapt`, and the arguments that are the same in every trial."""

    strategy: str
    validation: float
    views: int


_SCHEMA = TypeAdapter(Plan)


def _as_code(value: Any) -> str:
    """Return a value as Python source; functions by name."""
    if isinstance(value, tuple) and any(callable(one) for one in value):
        return f"[{', '.join(map(_as_code, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {_as_code(one)}" for name, one in value.items()) + "}"
    return getattr(value, "__name__", None) or repr(value)


def _names_in_words(names: str | Sequence[str]) -> str:
    return names if isinstance(names, str) else ", ".join(names)


def check_plan(plan: Plan) -> None:
    """Raise one `SettingError` that names all values of the plan that are out of range."""
    problems = [*_about_strategy(plan), *_about_fresh(plan), *_about_probe(plan), *_about_method(plan), *_about_values(plan)]
    if problems:
        raise SettingError(" ".join(problems))


def _about_strategy(plan: Plan) -> Iterator[str]:
    known = tuple(dict.fromkeys((*STRATEGIES, *METHODS)))  # a program may have registered its own method
    if plan.strategy not in known:
        yield f"strategy={shown(plan.strategy)} is not known{near_names(str(plan.strategy), known)}"
    elif plan.strategy == "partial" and plan.frozen is None:
        yield "strategy='partial' needs frozen=: a number of blocks, the name of a block, layer or module, or 'layers:8'."
    elif plan.strategy not in ("partial", "probe") and plan.frozen is not None:
        yield f"frozen={shown(plan.frozen)} goes with strategy='partial' or 'probe'; received strategy={plan.strategy!r}."
    if plan.strategy == "surgical" and plan.block not in (*THIRDS, AUTO_BLOCK):
        yield f"strategy='surgical' needs block=, the third that is trained: {', '.join(THIRDS)} or auto; received {shown(plan.block)}."
    elif plan.strategy != "surgical" and plan.block is not None:
        yield f"block={shown(plan.block)} goes with strategy='surgical'; received strategy={plan.strategy!r}."
    if plan.base == "probe" and plan.block == AUTO_BLOCK:
        yield "block='auto' looks at the gradients of the network's own head; received base='probe'. Name a third, or leave base= out."
    if plan.base not in BASES:
        yield f"base={shown(plan.base)} is not known{near_names(str(plan.base), BASES)}"
    elif plan.base != "head" and plan.strategy not in ("partial", "full", "surgical"):
        yield f"base={shown(plan.base)} goes with strategy='partial', 'full' or 'surgical'; received strategy={plan.strategy!r}."
    if plan.frozen is not None and not isinstance(plan.frozen, str) and not is_whole(plan.frozen):
        yield f"frozen={shown(plan.frozen)}: expected a number of blocks, or a name."


def _about_fresh(plan: Plan) -> Iterator[str]:
    named: Any = plan.fresh
    if named is None:
        return
    if named == ALL:
        yield "fresh='all': a network of which nothing is trained is trained by strategy='scratch'."
    if plan.strategy not in FRESH:
        yield f"fresh={shown(plan.fresh)} goes with strategy={' or '.join(map(repr, FRESH))}; received {plan.strategy!r}."
    if plan.base != "head" or plan.probe != "auto":
        yield f"fresh={shown(plan.fresh)} trains the head too; received base={shown(plan.base)}, probe={shown(plan.probe)}. Leave them out."
    for name in ("stay_near", "distill", "co_tuning"):
        if getattr(plan.settings, name):
            yield f"{name}={getattr(plan.settings, name)!r} needs what the network said before; with fresh= that is nothing. Leave it out."
    if plan.settings.refit == "all" and plan.strategy != "head":
        yield "refit='all' repeats one training; with fresh= there are two. Choose strategy='head', or leave it out."


def _about_probe(plan: Plan) -> Iterator[str]:
    if plan.probe not in PROBES:
        yield f"probe={plan.probe!r} is not known{near_names(str(plan.probe), PROBES)}"
    elif plan.probe != "auto" and plan.strategy in STRATEGIES and plan.strategy not in SOLVING:
        yield f"probe={plan.probe!r} goes with strategies that begin with a solved head: {', '.join(SOLVING)}; received {plan.strategy!r}."
    elif plan.probe in THROUGH_LAYERS and plan.strategy in STRATEGIES and plan.strategy not in ("probe", "head"):
        yield f"probe={plan.probe!r} puts a layer before the head, and goes with strategy='probe' or 'head'; received {plan.strategy!r}."
    elif plan.probe in THROUGH_LAYERS and plan.strategy == "head" and plan.of_the_loop():
        yield f"probe={plan.probe!r} solves the head and trains nothing; received {', '.join(plan.of_the_loop())}. Leave it out."


def _about_method(plan: Plan) -> Iterator[str]:
    options: Any = plan.options
    if not isinstance(options, Mapping):
        yield f"options={shown(options)}: expected the options of a method by name."
    elif plan.strategy in METHODS:
        yield from METHODS[plan.strategy].problems(options)
    else:
        for name in options:
            owners = [f"strategy={method.name!r}" for method in METHODS.values() if name in method.options]
            with_them = f"goes with {' or '.join(owners)}" if owners else "is the option of no method"
            yield f"{name}={shown(options[name])} {with_them}; received strategy={plan.strategy!r}."
    for name in SWITCHES:
        value, suited = getattr(plan.settings, name), (*_TUNING, "auto") if name == "stay_near" else _TUNING
        if value and plan.strategy in STRATEGIES and plan.strategy not in suited:
            yield f"{name}={value!r} goes with strategies that train below the heads: {', '.join(suited)}; received {plan.strategy!r}."
        elif value and plan.base == "probe" and name != "stay_near":
            yield f"{name}={value!r} needs the network's own features; received base='probe'. Leave base= out."
    if plan.settings.distill and plan.settings.co_tuning:
        yield f"distill={plan.settings.distill} and co_tuning={plan.settings.co_tuning} both teach the old head; give one of them."


def _about_values(plan: Plan) -> Iterator[str]:
    if not is_whole(plan.views) or plan.views < 1:
        yield f"views={shown(plan.views)}: expected a whole number, 1 or more; the plain example counts as one."
    elif plan.augment == "none" and plan.views > 1:
        yield f"views={plan.views} with augment='none' are {plan.views} times the same. Leave one of them out."
    if not callable(plan.augment) and plan.augment not in AUGMENTS and not str(plan.augment).startswith(CALLABLE):
        yield f"augment={shown(plan.augment)} is neither a callable nor known{near_names(str(plan.augment), AUGMENTS)}"
    if not _number(plan.holdout) or not 0 <= plan.holdout < 1:
        yield f"holdout={shown(plan.holdout)}: expected a share from 0 to below 1, such as 0.2; 0 goes with test=."
    if not _number(plan.validation) or not 0 <= plan.validation < 1:
        apart = "" if _number(plan.validation) else " It is split off the data; further data that only evaluate are given as test=."
        yield f"validation={shown(plan.validation)}: expected a share from 0 to below 1, such as 0.15.{apart}"
    if not is_whole(plan.seed) or plan.seed < 0:
        yield f"seed={shown(plan.seed)}: expected a whole number, 0 or more."
    rename: Any = plan.rename
    statistics: Any = plan.statistics
    if not isinstance(rename, Mapping) or not all(isinstance(name, str) for pair in rename.items() for name in pair):
        yield f"rename={shown(rename)}: expected old name -> new name."
    if plan.budget not in (None, "auto") and not plan.seconds:
        yield f"budget={shown(plan.budget)}: expected a time such as '30s', '10m' or '1h', 'auto', or None."
    elif plan.seconds and plan.strategy != "auto":
        yield f"budget={shown(plan.budget)} goes with strategy='auto'; received strategy={plan.strategy!r}. Set epochs= in its place."
    candidates: Any = plan.candidates
    if not isinstance(candidates, Sequence) or not all(isinstance(one, Mapping) and "strategy" in one for one in candidates):
        yield f"candidates={shown(candidates)}: expected mappings with a 'strategy', such as those of a plan that auto has made."
    for name in _NAMES:
        named: Any = getattr(plan, name)
        of_names = named is None or (isinstance(named, str) and named == ALL)
        if not of_names and not (isinstance(named, tuple) and named and all(isinstance(one, str) and one for one in named)):
            yield f"{name}={shown(named)}: expected names of layers, or patterns such as 'layer4*'; 'all' stands for any."
    named = plan.classes
    if not isinstance(named, tuple | list) or not all(
        getattr(one, "shape", ()) == () and not isinstance(one, tuple | list) for one in named
    ):
        yield f"classes={shown(plan.classes)}: expected the names of the classes."
    if plan.start not in STARTS_OF_ROWS:
        yield f"start={shown(plan.start)} is not known{near_names(str(plan.start), STARTS_OF_ROWS)}"
    if not _number(plan.false_alarm) or not 0 < plan.false_alarm < 1:
        yield f"false_alarm={shown(plan.false_alarm)}: expected a share between 0 and 1, such as 0.05."
    if not isinstance(statistics, bool):
        yield f"statistics={shown(statistics)}: expected True or False."


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _as_names(value: Any) -> Any:
    """Return one name, or a list or tuple of names, as the tuple that a plan holds; "all" stays as it is."""
    if isinstance(value, str):
        return value if value == ALL else (value,)
    names = tuple(value) if isinstance(value, Sequence) else value
    return ALL if isinstance(names, tuple) and len(names) == 1 and isinstance(names[0], str) and names[0] == ALL else names


def holdout_share(given: float | None, *, tested: bool) -> float:
    """Return the share of the holdout set: the `given` one; else 0.2, or 0 with a test set, which judges instead."""
    return given if given is not None else 0.0 if tested else Plan.holdout


def make_plan(strategy: str | Plan, options: Mapping[str, Any], *, tested: bool = False) -> Plan:
    """Return the plan for the strategy and the options that the user gave. With a test set (`tested`), nothing else is held out unless
    the options say so."""
    if isinstance(strategy, Plan):
        if options:
            raise SettingError(f"A plan was given and {', '.join(options)} besides; put them into the plan, which is carried out as it is.")
        check_plan(strategy)
        return strategy
    options = {**options, "holdout": holdout_share(options.get("holdout"), tested=tested)}
    method, known = METHODS.get(strategy), {name for method in METHODS.values() for name in method.options}
    given = {name: value for name, value in options.items() if name not in _OWN and name not in known}
    settings = Settings.of({**(method.settings if method else {}), **given}, also=(*_OWN, *sorted(known)))
    asked = {name: value for name, value in options.items() if name in known}
    if options.get("augment", "auto") not in ("auto", "none") and options.get("views", 1) == 1:
        options = {**options, "views": VIEWS}
    options = {name: _as_names(value) if name in _NAMES else value for name, value in options.items()}
    classes = options.get("classes", ())
    single = isinstance(classes, Iterable) and getattr(classes, "ndim", 1) == 1 and not hasattr(classes, "columns")
    if single and not isinstance(classes, str | bytes | tuple | list | Mapping):
        options["classes"] = tuple(getattr(classes, "tolist", lambda: classes)())
    plan = Plan(strategy, settings=settings, options=asked, **{name: options[name] for name in _OWN if name in options})
    check_plan(plan)
    return replace(plan, options=method.filled(asked)) if method else plan
