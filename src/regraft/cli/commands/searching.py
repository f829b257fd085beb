"""`regraft search`: try many plans, then run and evaluate the best one."""

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from ...console import show, show_json, tell
from ...errors import MissingExtraError
from ...files.remote import at_hand, names_in
from ...files.text import printable
from .. import options
from ..guard import command
from ..shared import plain_data
from .adaptation import as_words, check_training, cost_line, opened_with_data, settings_of, value_of

_OUT = "Folder or address of the study: table, plots, and the adapted network in `best`. Several processes can share one folder."
_SPACE = 'JSON, or a .json file: {"learning_rate": {"low": 1e-4, "high": 0.1, "log": true}, "optimizer": ["adamw", "sgd"], …}.'

Out = Annotated[Any, Option("--out", metavar="DIR", help=_OUT, parser=options.place_of)]
Trials = Annotated[int, Option("--trials", metavar="N", min=1, help="Number of trials, over all processes and calls.")]
Space = Annotated[str | None, Option("--space", metavar="JSON|FILE", help=_SPACE)]
Sampler = Annotated[str, Option("--sampler", metavar="S", help="Sampler: tpe, random or grid.")]
Pruner = Annotated[str, Option("--pruner", metavar="S", help="median, hyperband or none. Stops trials that fall behind.")]
_FOLDS = "Number of cross-validation folds of each plan. Groups are not split."
Folds = Annotated[int | None, Option("--folds", metavar="N", min=2, help=_FOLDS)]
_Strategy = Annotated[str | None, Option("--strategy", metavar="S", help="Strategy of all trials. By default, it is searched.")]
_LIMIT = "Time after which no trial starts, such as 90s, 10m or 1h."
_Budget = Annotated[str | None, Option("--budget", metavar="TIME", help=_LIMIT, parser=options.time_of)]
Metric = Annotated[str | None, Option("--metric", metavar="S", help="Metric that selects the best trial, such as accuracy or log_loss.")]


def _kept(out: str | Path) -> str:
    """Return a message on what an interrupted search left in the folder `out`."""
    if not any(name.endswith(".sqlite3") for name in names_in(out)):
        return "Nothing is kept yet; the same command starts again."
    return f"Finished trials are kept in {printable(out)!r}; the same command resumes from there."


def add_to(app: typer.Typer) -> None:
    """Add the command `search` to `app`."""
    examples = [
        "regraft search timm:resnet18 photos/ --trials 50 --out study/",
        "regraft search timm:resnet18 photos/ --folds 5 --epochs 10 --budget 1h --test more_photos/ --out study/",
    ]
    command(app, "search", _search, panel="Adapt", examples=examples, interrupted=_kept)


def _search(  # noqa: PLR0913  # over the limit: the options of the command
    network: options.NetworkArgument,
    data: options.DataArgument,
    *,
    how: options.NetworkOptions,
    read: options.ReadingOptions,
    given: options.TrainingOptions,
    out: Out,
    trials: Trials = 50,
    space: Space = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "median",
    folds: Folds = None,
    metric: Metric = None,
    strategy: _Strategy = None,
    budget: _Budget = None,
    no_resume: options.NoResume = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Search for the best plan to adapt a network. Every trial starts from the trained weights."""
    wanted = plain_data(space, option="space")
    check_training(network, data, how=how, read=read, given=given, strategy=strategy, sampler=sampler, pruner=pruner)
    search: dict[str, Any] = {"trials": trials, "sampler": sampler, "pruner": value_of(pruner), "folds": folds, "metric": metric}
    search |= {"seed": given.seed, "budget": budget, "resume": not no_resume}
    search |= {} if given.holdout is None else {"holdout": given.holdout}
    settings = settings_of(given) | ({} if strategy is None else {"strategy": strategy})

    from ... import verbs

    net, items, test = opened_with_data(network, data, how=how, read=read, given=given)
    with at_hand(out) as folder:
        study = verbs.search(net, items, space=wanted, test=test, out=folder, skip_bad=read.skip_bad, **search, **settings)
        drawn = [f"{out}/{path.name}" for path in _drawn(study, folder)]
    same = {name: value for options in (read, how) for name, value in dataclasses.asdict(options).items()}
    same |= {name: getattr(given, name) for name in ("condition", "sample_weight", "test", "classes", "source_classes", "join", "fresh")}
    _print(study, out, drawn=drawn, command=_command(study, [network, data], same=same, hidden=given.hidden), as_json=as_json)


def _command(study: Any, places: list[str], *, same: Mapping[str, Any], hidden: str | None) -> str:
    """Return the command that reruns the best trial. `same` holds the options that it shares with the search, `hidden` the layers below
    the head that all trials have."""
    words = ["regraft", "adapt", *places]
    for option, value in ((f"--{name.replace('_', '-')}", value) for name, value in same.items()):
        values = value if isinstance(value, list) else [value]
        words += [word for one in values if one not in (None, False) for word in ([option] if one is True else [option, str(one)])]
    layers = study.best_trial.values.get("head_layers", 0)
    one = f"{study.best_trial.values.get('head_units')}:{study.best_trial.values.get('head_activation', 'relu')}"
    deeper = ([hidden] if hidden else []) + [one] * layers
    words += ["--hidden", ",".join(deeper)] if deeper else []
    return shlex.join([*words, *as_words(study.best), "--out", "best/"])


def _drawn(study: Any, folder: Path) -> list[Path]:
    drawn = []
    try:
        drawn.append(study.plot(folder / "trials.png"))
        drawn += [study.plot_importances(folder / "importances.png")] if study.importances else []
    except MissingExtraError as error:
        tell(f"Note: {error}")
    return drawn


def _print(study: Any, folder: str | Path, *, drawn: list[str], command: str, as_json: bool) -> None:
    if as_json:
        show_json({**study.to_dict(), "command": command, "folder": str(folder), "plots": drawn})
        return
    show(study, lines=True)
    show(f"\nThe best trial as a command:\n  {printable(command)}", lines=True)
    show(f"Cost: {cost_line(study.cost)}")
    show(f"Study: {folder}/study.json; adapted network: {folder}/best" + "".join(f"; {path}" for path in drawn))
