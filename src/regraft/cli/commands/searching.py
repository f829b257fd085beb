"""`regraft search`: many plans tried, the best one carried out and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from ...console import show, show_json, speaking, tell
from ...errors import MissingExtraError, SettingError
from ...files.schema import read_json
from ...files.text import printable
from .. import options
from ..guard import guarded
from ..shared import check_there, opened, read_data, wanted_target, wanted_weights
from .adaptation import value_of

__all__ = ["add_to"]

_OUT = "Folder of the study: table, plots, and the adapted network in `best`. Several processes may work in it at once."
_SPACE = 'A JSON file: {"learning_rate": {"low": 1e-4, "high": 0.1, "log": true}, "optimizer": ["adamw", "sgd"], …}.'

Out = Annotated[Path, Option("--out", metavar="DIR", help=_OUT)]
Trials = Annotated[int, Option("--trials", metavar="N", help="How many, over all processes and calls.")]
Space = Annotated[Path | None, Option("--space", metavar="FILE", help=_SPACE)]
Sampler = Annotated[str, Option("--sampler", metavar="S", help="tpe, random or grid.")]
Pruner = Annotated[str, Option("--pruner", metavar="S", help="median, hyperband or none: stops trials that fall behind.")]
Folds = Annotated[int | None, Option("--folds", metavar="N", help="Try every plan on so many folds; groups stay whole.")]
Metric = Annotated[str | None, Option("--metric", metavar="S", help="The figure that chooses, such as accuracy or log_loss.")]


def _kept(out: Path) -> str:
    """Return what an interrupted search has left in the folder `out`."""
    if not any(out.glob("*.sqlite3")):
        return "Nothing is kept yet; the same command starts again."
    return f"Finished trials are kept in {printable(out)!r}; the same command goes on from there."


def add_to(app: typer.Typer) -> None:
    """Add the command `search` to `app`."""
    app.command("search")(guarded(_search, interrupted=_kept))


def _search(  # noqa: PLR0913  # over the limit: the options of the command
    network: options.NetworkArgument,
    data: options.DataArgument,
    *,
    out: Out,
    trials: Trials = 50,
    space: Space = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "median",
    folds: Folds = None,
    metric: Metric = None,
    probe: options.Probe = None,
    holdout: options.Holdout = 0.2,
    seed: options.Seed = 0,
    group: options.Group = None,
    target: options.Target = None,
    task: options.Task = None,
    files: options.Files = None,
    outside: options.Outside = False,
    kind: options.Kind = None,
    cache: options.Cache = None,
    engine: options.Engine = None,
    weights: options.Weights = None,
    random_weights: options.RandomWeights = False,
    source_classes: options.SourceClasses = None,
    architecture: options.Architecture = None,
    skip_bad: options.SkipBad = False,
    assigned: options.Assigned = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Search for the plan that adapts a network best; every trial starts from its trained weights."""
    settings = _assigned(assigned or []) | ({} if cache is None else {"cache": value_of(cache)})
    settings |= {} if engine is None else {"engine": engine}
    settings |= {} if probe is None else {"probe": probe}
    wanted = _read_space(space)
    how = {
        "trials": trials,
        "sampler": sampler,
        "pruner": value_of(pruner),
        "folds": folds,
        "metric": metric,
        "holdout": holdout,
        "seed": seed,
    }
    reading = {"target": wanted_target(target), "group": group, "files": files, "outside": outside, "kind": kind, "skip_bad": skip_bad}
    reading["task"] = task
    check_there(network, data)
    with speaking(not quiet):
        net = opened(network, wanted_weights(weights, random_weights), source_classes=source_classes, architecture=architecture)

        from ... import verbs

        study = verbs.search(net, read_data(data, **reading), space=wanted, out=out, skip_bad=skip_bad, **how, **settings)
    _print(study, out, as_json=as_json)


def _print(study: Any, folder: Path, *, as_json: bool) -> None:
    drawn = []
    try:
        drawn.append(study.plot(folder / "trials.png"))
        drawn += [study.plot_importances(folder / "importances.png")] if study.importances else []
    except MissingExtraError as error:
        tell(f"Note: {error}")
    if as_json:
        show_json({**study.to_dict(), "folder": str(folder), "plots": [str(path) for path in drawn]})
        return
    show(study, lines=True)
    show(f"Study: {folder / 'study.json'}; adapted network: {folder / 'best'}" + "".join(f"; {path}" for path in drawn))


def _assigned(words: list[str]) -> dict[str, Any]:
    """Return the settings of --set, the same in every trial."""
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.strip():
            raise SettingError(f"--set {word!r}: expected NAME=VALUE, such as epochs=10.")
        found[name.strip().replace("-", "_")] = value_of(text)
    return found


def _read_space(path: Path | None) -> Any:
    if path is None:
        return None
    return read_json(path, "space", remedy="Expected a JSON file from names to choices or ranges.")
