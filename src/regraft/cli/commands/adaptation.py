"""`regraft adapt`: adapt a network to data and save it with a report."""

import ast
import inspect
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ...console import duration, passed, show, show_json, spent, tell_notes
from ...errors import SettingError
from ...files.remote import names_in
from ...files.text import printable
from .. import options
from ..guard import command, spread
from ..shared import (
    assignments,
    check_given,
    class_names,
    columns_for,
    kind_for,
    listed_names,
    named_pairs,
    opened,
    read_data,
    reading_of,
    word_of,
)

_WORDS = {"none": None, "null": None, "true": True, "false": False, "yes": True, "no": False}


def _kept(out: str | Path) -> str:
    """Return a message on what an interrupted run left in the folder `out`."""
    stages = [name.removesuffix(".pt") for name in names_in(f"{out}/run") if name.endswith(".pt")]
    if stages:
        return f"What was finished is kept in {printable(out)!r} ({', '.join(stages)}); the same command resumes from there."
    if "regraft.json" in names_in(out):
        return f"{printable(out)!r} contains a finished network; if it is that of this run, the same command without --no-resume shows it."
    return "Nothing but cached features is kept so far; the same command starts again."


def add_to(app: typer.Typer) -> None:
    """Add the command `adapt` to `app`."""
    examples = [
        "regraft adapt timm:resnet18 photos/ --out adapted/",
        "regraft adapt timm:resnet18 train.csv --files images/ --target label --group patient --budget 10m --out adapted/",
        "regraft adapt forty.keras voices/ --source-classes forty.txt --strategy full --epochs 20 --learning-rate 1e-3 --out adapted/",
    ]
    command(app, "adapt", _adapt, panel="Adapt", examples=examples, interrupted=_kept)


def _adapt(  # noqa: PLR0913  # over the limit: the options of the command
    network: options.NetworkArgument,
    data: options.DataArgument,
    *,
    how: options.NetworkOptions,
    read: options.ReadingOptions,
    given: options.TrainingOptions,
    out: options.Out,
    strategy: options.Strategy = "auto",
    budget: options.Budget = None,
    no_resume: options.NoResume = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Adapt a network to data, and save it with its scores and a report."""
    called = time.perf_counter()
    check_training(network, data, how=how, read=read, given=given, strategy=strategy)

    from ... import verbs
    from ...planning import make_plan

    asked = {name: value for name, value in (("holdout", given.holdout), ("budget", budget)) if value is not None}
    settings = {"seed": given.seed, **asked, **settings_of(given)}
    plan = make_plan(strategy, settings, tested=given.test is not None)  # report invalid settings before data are read
    net, dataset, test = opened_with_data(network, data, how=how, read=read, given=given)
    ready = time.perf_counter()
    result = verbs.adapt(net, dataset, strategy=plan, test=test, out=out, resume=not no_resume, skip_bad=read.skip_bad)
    _print_result(result, out, as_json=as_json, before=ready - called, architecture=how.architecture)


def check_training(
    network: str,
    data: str,
    *,
    how: options.NetworkOptions,
    read: options.ReadingOptions,
    given: options.TrainingOptions,
    **words: str | None,
) -> None:
    """Raise one error for all that is wrong with the options of a training, before torch is imported. `words`: as in `check_given`."""
    words |= {name: getattr(given, name) for name in ("probe", "start", "augment", "engine", "block")}
    places = {"source-classes": given.source_classes}
    _layers(given.hidden)
    listed_names(given.join, option="--join")
    reading = reading_of(read, given.condition, sample_weight=given.sample_weight)
    check_given(network, data, given.test, how=how, reading=reading, places=places, assigned=given.assigned, **words)


def opened_with_data(
    network: str, data: str, *, how: options.NetworkOptions, read: options.ReadingOptions, given: options.TrainingOptions
) -> tuple[Any, Any, Any]:
    """Return the network, the data and the test set (or None) of a training."""
    from ... import heads

    joined, layers = listed_names(given.join, option="--join"), _layers(given.hidden)
    net = opened(network, how, source_classes=given.source_classes)
    net = heads.join(net, joined) if joined else net
    reading = reading_of(read, given.condition, sample_weight=given.sample_weight)
    reading |= {"columns": columns_for(net, reading["columns"]), "kind": kind_for(net, data, asked=read.kind, files=read.files)}
    dataset = read_data(data, **reading)
    test = None if given.test is None else read_data(given.test, **reading | {"sample_weight": None})
    names = class_names(given.classes) or dataset.classes
    return heads.retarget(net, names, hidden=layers, seed=given.seed) if layers else net, dataset, test


def settings_of(given: options.TrainingOptions) -> dict[str, Any]:
    """Return the settings of a plan that were given as options; those of --set replace others."""
    plain = ("block", "probe", "start", "augment", "views", "epochs", "batch_size", "learning_rate", "frozen", "cache", "engine", "cluster")
    found = {name: getattr(given, name) for name in plain if getattr(given, name) is not None}
    found |= {name: value_of(found[name]) for name in plain[-4:] if name in found}
    lists: dict[str, Any] = {name: listed_names(getattr(given, name), option=f"--{name}") for name in ("trainable", "fresh")}
    lists |= {"rename": named_pairs(given.rename, option="--rename", form="OLD=NEW"), "classes": tuple(class_names(given.classes) or ())}
    found |= {name: value for name, value in {**lists, "baselines": given.baselines}.items() if value}
    for name, text in assignments(given.assigned).items():
        found[name] = _names(text, option=f"--set {name}") if name in _lists() else value_of(text)
    return found


def _layers(text: str | None) -> list[tuple[int, str]]:
    """Parse hidden layers such as "1000:relu,150"."""
    layers = []
    for word in [] if text is None else text.split(","):
        units, _, activation = word.strip().partition(":")
        if not units.isdigit():
            raise SettingError(f"--hidden {text!r}: expected units and what follows them for each layer, such as 1000:relu,150:sigmoid.")
        layers.append((int(units), activation or "relu"))
    return layers


def _lists() -> set[str]:
    """Return the method options whose values are lists of names: "blocks", …"""
    from ...methods import METHODS
    from ...methods.contract import are_names

    return {name for method in METHODS.values() for name, option in method.options.items() if option.holds is are_names}


def as_words(plan: Any) -> list[str]:
    """Return the command-line options that reproduce a plan, except for the classes, which come from the data."""
    found = [info.default for one in inspect.signature(spread(_adapt)).parameters.values() for info in one.annotation.__metadata__]
    own = {option for option in found if isinstance(option, str)}  # name of an annotated option
    words = ["--strategy", plan.strategy]
    for name, value in plan.given().items():
        said, option = word_of(value), f"--{name.replace('_', '-')}"
        if name == "rename":
            words += [word for old, new in value.items() for word in ("--rename", f"{old}={new}")]
        elif value is True and option in own:
            words.append(option)
        elif name not in ("classes", "fresh"):
            words += [option, said] if option in own and value is not None else ["--set", f"{name}={said}"]
    return words


def _names(text: str, *, option: str) -> list[str] | None:
    """Parse names separated by commas or in a bracketed list, always as strings, because a block may be named 0."""
    found = value_of(text)
    if found is None or isinstance(found, list):
        return None if found is None else [str(name) for name in found]
    return listed_names(text, option=option)


def value_of(text: str) -> Any:
    """Parse a command-line word to a number, None, bool or list; otherwise return the text itself."""
    word = text.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _print_result(result: Any, folder: str | Path, *, as_json: bool = False, before: float = 0.0, architecture: str | None = None) -> None:
    """Print the result of an adaptation: verdict, plan, account, cost and paths.
    `before`: seconds until the network was opened and the data were read; `architecture`: as in `print_next`."""
    report, shown = printed_report(folder)
    tell_notes(result.facts["data"]["notes"])
    if as_json:
        plain = {"verdict": result.verdict, "scores": result.scores, "baselines": result.baselines, "account": result.account.to_dict()}
        plan = result.plan.to_dict()
        show_json({**plain, "cost": result.cost, "plan": plan, "folder": str(folder), "report": report})
        return
    show(f"{result.verdict}\n\n{result.plan}\n\n{result.account.beside(result.verdict)}", lines=True)
    opened = f"{duration(before)} until PyTorch was imported, the network opened and the data read; then " if before else ""
    show(f"\nCost: {opened}{cost_line(result.cost)}", lines=True)
    print_next(folder, report=shown, unknown=result.network.unknown is not None, architecture=architecture)


def printed_report(folder: str | Path) -> tuple[str | None, str]:
    """Return the path of the report in a saved folder (None without one) and the text to print about it."""
    if "report.html" in names_in(folder):
        report = f"{folder}/report.html"
        return report, report
    return None, f"not made: it needs pip install 'regraft[report]', then: regraft report {folder}"


def print_next(folder: str | Path, *, unknown: bool, report: str = "", architecture: str | None = None) -> None:
    """Print the report path, if any, the contents of a saved `folder` and three follow-up commands.
    With `unknown`, `predict` gets --unknown. `architecture` is MODULE:NAME of a user's own network, without which it cannot be exported."""
    if report:
        show(f"Report: {report}")
    show(f"Saved in {printable(folder)}: {', '.join(names_in(folder))}")
    name = shlex.quote(str(folder))
    own = "" if architecture is None else f" --architecture {shlex.quote(architecture)}"
    lines = (f"evaluate {name} DATA", f"predict {name} FILES{' --unknown' if unknown else ''}", f"export {name} network.onnx{own}")
    show("Next:" + "".join(f"\n  regraft {line}" for line in lines), lines=True)


def cost_line(cost: Mapping[str, float]) -> str:
    """Return a cost as text: seconds in total and by step, and the number of examples that went through the frozen part."""
    said = f"{duration(cost['total'])} in all: " + ", ".join(f"{words} {duration(seconds)}" for words, seconds in spent(cost).items())
    return f"{said}.{passed(cost)}"
