"""Shared functions of the commands: parse options, open networks and read data.

Functions in this package import the library when they run, not at the top of the file. torch takes seconds to import, and neither
`regraft --help` nor an invalid argument should wait for it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import progress, show
from ..errors import DataError, InputError, SettingError, near_names, unknown_setting
from ..files.formats import opening
from ..files.given import missing_data, missing_network, swapped, unreachable_network
from ..files.onnx_form import read_onnx
from ..files.schema import read_json
from ..files.text import printable
from .options import NetworkOptions, ReadingOptions

Target = str | list[str] | dict[str, str | list[str]] | None
"""Target of one task: a column, or several (multi-label). For several tasks, a mapping from task name to one of these."""


def class_names(path: Path | None) -> list[str] | None:
    """Read class names from a file with one per line or a JSON list; None if `path` is None.
    Bytes that are not UTF-8 are kept as surrogates, as in file names."""
    if path is None:
        return None
    from ..data.readers.table_files import TABLE_EXTENSIONS

    if path.suffix.lower() in TABLE_EXTENSIONS:
        raise InputError(
            f"'{printable(path)}' is a table; expected a file with one class name a line, such as classes.txt, or a .json list of names. "
            "Write the names that a column of it holds into such a file."
        )
    with opening(path, "names"):
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        found = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    whole = isinstance(found, list) and "\0" not in text and all(isinstance(name, str | int | float) for name in found)
    names = [str(name).strip() for name in found if str(name).strip()] if whole else []
    if not names:
        raise InputError(f"'{printable(path)}' holds no class names; expected one name a line in UTF-8, or a .json list of names.")
    return names


VALUES = {
    "strategy": "auto probe head partial full surgical scratch bias scale_shift lora lin codes",
    "probe": "auto ridge lda logistic svm class_mean random_projection knn",
    "start": "auto zeros random mean imprint probe",
    "augment": "auto none light photo",
    "engine": "auto eager layers compile onnxruntime openvino",
    "sampler": "tpe random grid",
    "pruner": "median hyperband none",
    "optimizer": "adamw adam sgd rmsprop nadam adagrad adamax",
    "schedule": "auto cosine plateau constant",
    "batch_norm": "auto batch frozen",
    "block": "first middle last auto",
    "base": "head probe",
}
"""Option or setting -> valid values. A copy, because the library's own lists need torch."""
SETTINGS = (
    "epochs batch_size optimizer loss learning_rate weight_decay dropout l1 stay_near distill co_tuning momentum schedule plateau_factor "
    "plateau_patience min_learning_rate decay warmup layer_decay batch_norm refit unfreeze_every patience min_delta clip_norm class_weight "
    "label_smoothing metrics monitor mode callbacks log_with cache dtype engine cluster precision device task_weights baselines frozen "
    "block base probe budget views augment holdout validation seed classes rename start statistics false_alarm trainable fresh alpha "
    "blocks form layers rank size training"
)
"""Settings that --set accepts. A copy, because the library's own list needs torch."""
HANDED = ("net", "data", "strategy", "test", "out", "resume", "skip_bad", "task", "max_length", "sample_weight")
"""Arguments of the public functions that are not settings."""


def check_given(
    network: str | Path | Sequence[str] | None,
    *data: str | Path | None,
    how: NetworkOptions | None = None,
    reading: Mapping[str, Any] | None = None,
    places: Mapping[str, Path | None] | None = None,
    assigned: Sequence[str] | None = None,
    **words: str | None,
) -> None:
    """Raise one error with all missing files and invalid option values, before torch is imported.
    `network`: a file, folder or name, or several, or None; `data`: files and folders, or None; `reading`: keywords of `regraft.read`;
    `how`: how the network is opened;
    `places`: option -> file or folder; `assigned`: values of --set; `words`: option in `VALUES` -> value."""
    from ..data.read import EQUAL, unknown_kinds
    from ..data.readers.table_files import names_of_file
    from ..data.readers.tables import TABLE_EXTENSIONS, absent_columns

    read, opening = dict(reading or {}), how or NetworkOptions()
    networks = [] if network is None else [network] if isinstance(network, str | Path) else network
    wrong = [said for one in networks for source in data if source is not None and (said := swapped(str(one), source))]
    wrong = wrong or [*(missing_network(str(one)) for one in networks), *(missing_data(source) for source in data if source is not None)]
    if opening.random_weights and opening.weights is not None:
        wrong.append(f"--weights {str(opening.weights)!r} and --random-weights exclude each other; give one of them.")
    for option, place in {"files": read.get("files"), "weights": opening.weights, **(places or {})}.items():
        if place is not None and not place.exists():
            wrong.append(f"--{option} {printable(place)} does not exist. Relative paths start at {printable(Path.cwd())}.")
    if not (any(wrong) or opening.random_weights or opening.weights):
        wrong += map(unreachable_network, map(str, networks))
    wrong += unknown_kinds(read.get("kind"), read.get("task"))
    settings = assignments(assigned)
    wrong += [f"--set {name}: {unknown_setting(name, SETTINGS.split())}" for name in settings if name not in SETTINGS.split()]
    for option, word in [*words.items(), *((name, text.strip()) for name, text in settings.items() if name in VALUES)]:
        values = VALUES[option].split()
        if word is not None and word not in values:
            wrong.append(f"{option}={word!r} is not known{near_names(word, values)}")
    asked, group = read.get("target"), read.get("group")
    targets = {f"target of task {task!r}": column for task, column in asked.items()} if isinstance(asked, dict) else {"target": asked}
    columns = targets | {"group": None if group == EQUAL else group}
    columns |= {what: read.get(what) for what in ("condition", "sample_weight", "columns", "pass")}
    for table in (Path(one) for one in data if one):
        if any(columns.values()) and table.suffix.lower() in TABLE_EXTENSIONS and table.is_file():
            wrong += absent_columns(names_of_file(table), columns, table=printable(table.name))
        columns["sample_weight"] = None  # a test set has no weights
    if any(wrong):
        raise InputError("\n".join(filter(None, wrong)))


def word_of(value: Any) -> str:
    """Return a value as a word of the command line."""
    values = value if isinstance(value, list | tuple) else [value]
    return ",".join(str(one).lower() if one is None or isinstance(one, bool) else str(one) for one in values)


def assignments(words: Sequence[str] | None) -> dict[str, str]:
    """Parse the values of --set, such as "optimizer=sgd", to name -> text."""
    found = {}
    for word in words or ():
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise SettingError(f"--set {word!r}: expected NAME=VALUE, such as optimizer=sgd.")
        if name in HANDED:
            raise SettingError(f"--set {word!r}: {name!r} is not a setting; give it as an argument or option of the command.")
        found[name] = text
    return found


def opened(source: str, given: NetworkOptions | None = None, *, source_classes: Path | None = None, trust: bool = False) -> Any:
    """Open a network. `given`: the options of the command line; None: the defaults."""
    given = given or NetworkOptions()
    how: dict[str, Any] = {"weights": "random" if given.random_weights else given.weights, "channels": given.channels, "trust": trust}
    how |= {"classes": class_names(source_classes), "inputs": _shapes(given.inputs)}
    how["preprocessing"] = plain_data(given.preprocessing, option="preprocessing")
    how["architecture"] = None if given.architecture is None else _imported(given.architecture)
    layers = named_pairs(given.head, option="--head", form="TASK=LAYER") if "=" in "".join(given.head or ()) else list(given.head or ())
    how["head"] = layers[0] if isinstance(layers, list) and len(layers) == 1 else layers or None

    from .. import verbs

    with progress("opening the network"):
        return verbs.load(source, **how)


def reading_of(given: ReadingOptions, condition: str | None = None, *, sample_weight: str | None = None) -> dict[str, Any]:
    """Return the keywords of `regraft.read`. `condition`, `sample_weight`: their columns, if the command has these options."""
    plain: dict[str, Any] = dataclasses.asdict(given) | {"condition": condition, "target": wanted_target(given.target)}
    plain["sample_weight"] = sample_weight
    return plain | {"columns": listed_names(given.columns, option="--columns")}


def plain_data(text: str | None, *, option: str) -> Any:
    """Parse the value of --preprocessing or --space: JSON text, or the path of a JSON file."""
    if text is None or not text.lstrip().startswith("{"):
        return None if text is None else read_json(Path(text), "space", remedy="Expected JSON text, or the path of a JSON file.")
    try:
        return json.loads(text)
    except ValueError as error:
        raise SettingError(f"--{option} {text!r} is not valid JSON: {error}.") from error


def _shapes(given: Sequence[str] | None) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    """Parse the values of --inputs for `regraft.load`."""

    def shape(text: str) -> tuple[int, ...]:
        sides = [side.strip() for side in text.split(",")]
        if not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise SettingError(f"--inputs {text!r}: expected sizes with commas between, such as 3,224,224, or NAME=SIZES for each tensor.")
        return tuple(map(int, sides))

    if not given:
        return None
    if len(given) == 1 and "=" not in given[0]:
        return shape(given[0])
    return {name: shape(text) for name, text in named_pairs(given, option="--inputs", form="NAME=SIZES, such as X=40").items()}


def to_run(  # over the limit: what `regraft.load` takes from the command line
    source: str | Path, *, head: Sequence[str] | None, channels: int | None, architecture: str | None, trust: bool
) -> Any:
    """Open a network for prediction: an ONNX file with ONNX Runtime and without PyTorch, others as in `opened`."""
    if Path(source).suffix.lower() != ".onnx":
        return opened(str(source), NetworkOptions(head=list(head or ()), channels=channels, architecture=architecture), trust=trust)
    given = {"--head": " ".join(head) if head else None, "--channels": channels, "--architecture": architecture}
    asked = [f"{name} {value}" for name, value in given.items() if value is not None]
    if asked:
        raise SettingError(f"{asked[0]}: the ONNX file {str(source)!r} is run as it is. Leave it out.")
    from ..exchange.served import serve

    return serve(Path(source))


def run_by(source: str | Path, engine: str | None, *, cluster: str | None) -> dict[str, Any]:
    """Return the keyword argument that selects an engine or a cluster for prediction; empty for an ONNX file.
    `engine`: one of `regraft.freezing.ENGINES`, None for "auto"; `cluster`: "ray://HOST:PORT" or "auto", None for this machine."""
    if Path(source).suffix.lower() == ".onnx":
        asked = [f"{name} {value}" for name, value in {"--engine": engine, "--cluster": cluster}.items() if value is not None]
        if asked:
            raise SettingError(f"{asked[0]}: the ONNX file {str(source)!r} is run by ONNX Runtime. Leave it out.")
        return {}
    from ..freezing import whole_pass

    return {"run": whole_pass(engine or "auto", cluster)}


def _imported(name: str) -> Any:
    """Import a user's class or function from MODULE:NAME. The working folder is searched first."""
    module, _, own = name.partition(":")
    if not module.strip() or not own.strip():
        raise SettingError(f"--architecture {name!r}: expected MODULE:NAME, such as mine.networks:Small.")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")  # the user's module may import Keras
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's module can raise anything
        raise InputError(
            f"--architecture {name!r}: the module {module!r} cannot be imported: {type(error).__name__}: {error}. It is looked for in "
            f"{here!r}, then where Python looks."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(getattr(found, own, None)):
        makers = [other for other, held in vars(found).items() if callable(held) and not other.startswith("_")]
        if module in ("timm", "torchvision", "keras"):
            raise SettingError(
                f"--architecture {name!r}: expected MODULE:NAME of a class or function of your own. A network by name is NETWORK itself, "
                f"and takes the file as --weights FILE: regraft inspect {name} --weights FILE."
            )
        raise InputError(f"--architecture {name!r}: {module!r} has no class or function {own!r}{near_names(own, makers)}")
    return getattr(found, own)


def wanted_target(given: Sequence[str] | None) -> Target:
    """Parse the values of --target for `regraft.read`; None if none is given."""
    if not given:
        return None
    if not any("=" in word for word in given):
        return given[0] if len(given) == 1 else list(given)
    plain = [word for word in given if "=" not in word]
    if plain:
        raise SettingError(
            f"--target {plain[0]!r}: others name a task, such as {next(word for word in given if '=' in word)!r}; give TASK=COL."
        )
    columns: dict[str, list[str]] = {}
    for task, column in (_pair(word, option="--target", form="TASK=COL") for word in given):
        columns.setdefault(task, []).append(column)
    return {task: names[0] if len(names) == 1 else names for task, names in columns.items()}


def named_pairs(given: Sequence[str] | None, *, option: str, form: str) -> dict[str, str]:
    """Parse words such as OLD=NEW to a mapping, split at the first "="."""
    found: dict[str, str] = {}
    for before, after in (_pair(word, option=option, form=form) for word in given or ()):
        if before in found:
            raise SettingError(f"{option}: {before!r} was given twice, as {found[before]!r} and {after!r}; expected it once.")
        found[before] = after
    return found


def _pair(word: str, *, option: str, form: str) -> tuple[str, str]:
    before, _, after = word.partition("=")
    if not before.strip() or not after.strip():
        raise SettingError(f"{option} {word!r}: expected {form}.")
    return before.strip(), after.strip()


def listed_names(text: str | None, *, option: str) -> list[str] | None:
    """Split a comma-separated list of names such as "price,hour"; None for None."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise SettingError(f"{option} {text!r}: expected different names with commas between, such as {option} price,hour.")
    return names


def _own_columns(network: Any) -> list[str]:
    """Return the names of the additional columns that a network reads; empty if there are none."""
    plain = network.preprocessing.to_dict()
    while plain["kind"] != "columns" and "inner" in plain:
        plain = plain["inner"]
    return list(plain["names"]) if plain["kind"] == "columns" else []


def columns_for(network: Any, asked: list[str] | None) -> list[str] | None:
    """Return the additional columns to read, for `regraft.read`; None if there are none.
    `asked`: the names given with --columns; None selects those that the network reads. Raise if the network needs others."""
    own = _own_columns(network)
    if asked is None:
        return own or None
    if not own:
        raise DataError(
            f"--columns {','.join(asked)}: the network reads no columns beside its examples; regraft adapt --join gives it some."
        )
    missing = [name for name in own if name not in asked]
    if missing:
        raise DataError(
            f"--columns {','.join(asked)}: the network also reads {', '.join(map(repr, missing))}. Add it, or leave --columns out."
        )
    return asked


def kind_for(network: Any, source: str, *, asked: str | None, files: Any = None) -> str | None:
    """Return the kind as which to read data, or None to let the reader detect it.
    A table is read as numbers ("array") if the network takes rows of numbers, unless a kind (`asked`) or a folder of `files` is given."""
    from ..data.readers.tables import TABLE_EXTENSIONS

    table = Path(source).suffix.lower() in TABLE_EXTENSIONS
    if asked is not None or files is not None or not table:
        return asked
    sample = network.sample if isinstance(network.sample, dict) else {"inputs": network.sample}
    own = [tensor for name, tensor in sample.items() if name not in ("columns", "condition")]
    return "array" if len(own) == 1 and own[0].ndim == 2 and "float" in str(own[0].dtype) else None


def read_data(source: str, **options: Any) -> Any:
    """Read the data of a command. `options` are keywords of `regraft.read`; None values are dropped."""
    from ..data import read

    with progress("reading the data"):
        return read(source, **{name: value for name, value in options.items() if value is not None})


def checked_kind(network: Any, data: Any) -> None:
    """Raise if the data have a kind that the network does not take."""
    kind = network.preprocessing.item_kind
    if data.kind not in (kind, "array"):
        raise DataError(
            f"The network takes examples of the kind {kind!r}; received data of the kind {data.kind!r}. Give data of that kind, or adapt "
            "the network to these first."
        )


def size_of(count: float) -> str:
    """Return `count` bytes as text, such as "12.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def show_written(path: Path) -> None:
    """Show where a network was written and its size, with the weights beside an ONNX file, and by how much the results of that differ."""
    beside = (
        [one for one in path.parent.iterdir() if one.name.startswith(f"{path.name}.") and one.suffix == ".data"] if path.is_file() else []
    )
    size = sum(part.stat().st_size for part in ([path, *beside] if path.is_file() else path.iterdir()) if part.is_file())
    show(f"Written: {path} ({size_of(size)}{''.join(f'; weights in {one.name}' for one in beside)})")
    if path.suffix.lower() == ".onnx":
        difference = float(read_onnx(path)[1]["largest_difference"])
        show(f"ONNX Runtime differs from the network by {difference:.1g} of the largest value")
