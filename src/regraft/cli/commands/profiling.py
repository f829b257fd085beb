"""`regraft profile`: measure how well each depth of a network predicts the labels, before adaptation."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ...console import show, show_json, tell
from ...files.remote import at_hand
from ...files.text import printable
from .. import options
from ..guard import command
from ..shared import check_given, columns_for, opened, read_data, reading_of

_OUT = "Folder or address for profile.html and profile.json. By default, they are not written."
_Out = Annotated[Any, typer.Option("--out", metavar="DIR", help=_OUT, parser=options.place_of)]
_Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Random seed of the learning curve.")]


def add_to(app: typer.Typer) -> None:
    """Add the command `profile` to `app`."""
    examples = ["regraft profile timm:resnet18 photos/ --out look/"]
    command(app, "profile", _profile, panel="Look", examples=examples)


def _profile(  # noqa: PLR0913  # over the limit: the options of the command
    network: options.NetworkArgument,
    data: options.DataArgument,
    *,
    how: options.NetworkOptions,
    read: options.ReadingOptions,
    out: _Out = None,
    of_task: options.OfTask = None,
    seed: _Seed = 0,
    cache: options.Cache = None,
    engine: options.Engine = None,
    cluster: options.Cluster = None,
    source_classes: options.OldClasses = None,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Measure where transfer holds: probe accuracy by depth, the scenario, and what more examples would give."""
    reading = reading_of(read)
    check_given(network, data, reading=reading, how=how, places={"source-classes": source_classes}, engine=engine)
    net = opened(network, how, source_classes=source_classes)
    dataset = read_data(data, **reading | {"columns": columns_for(net, reading["columns"])})
    settings: dict[str, Any] = {} if cache is None else {"cache": None if cache == "none" else cache}
    settings |= {name: value for name, value in {"engine": engine, "cluster": cluster}.items() if value is not None}

    from ... import verbs

    profile = verbs.profile(net, dataset, of_task=of_task, seed=seed, skip_bad=read.skip_bad, **settings)
    page = _saved(profile, out)
    if as_json:
        show_json(profile.to_dict() | {"page": page})
        return
    show(profile, lines=True)
    if page:
        show(f"\nPage: {printable(page)}", lines=True)


def _saved(profile: Any, out: str | Path | None) -> str | None:
    """Save a profile and return the path of its page. Without the library for pages, save only the figures and return None."""
    if out is None:
        return None
    try:
        with at_hand(out) as folder:
            return f"{out}/{profile.save(folder).name}"
    except ImportError as error:
        tell(f"Note: {out}/profile.json was written, the page was not: {error}")
        return None
