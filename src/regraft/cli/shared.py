"""What the commands share: options, how a network and data are opened, and how results are printed.

Functions of this room import the library where they run, not at the top of the file: torch takes seconds to import, and neither
`regraft --help` nor a wrong argument waits for it.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..console import progress
from ..errors import DataError, InputError, SettingError, near_names, unknown_setting
from ..files.formats import opening
from ..files.given import missing_data, missing_network
from ..files.text import printable

__all__ = [
    "SETTINGS",
    "VALUES",
    "Target",
    "assignments",
    "check_given",
    "checked_kind",
    "class_names",
    "columns_for",
    "kind_for",
    "listed_names",
    "named_pairs",
    "opened",
    "own_columns",
    "read_data",
    "run_by",
    "size_of",
    "to_run",
    "wanted_target",
    "wanted_weights",
]

Target = str | list[str] | dict[str, str | list[str]] | None
"""Of one task a column, or several (multi-label); of several tasks a mapping from the name of each to one of these."""


def class_names(path: Path | None) -> list[str] | None:
    """Read class names, one a line or as a JSON list; bytes that are not UTF-8 are kept, as in the names of files.

    `path`: the file, or None; result: The names in order; None without a file.
    """
    if path is None:
        return None
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
    "engine": "auto eager compile onnxruntime openvino",
    "sampler": "tpe random grid",
    "pruner": "median hyperband none",
    "optimizer": "adamw adam sgd rmsprop nadam adagrad adamax",
    "schedule": "auto cosine plateau constant",
    "batch_norm": "auto batch frozen",
    "block": "first middle last auto",
    "base": "head probe",
}
"""Option or setting -> its values, which the library knows only once torch is imported."""
SETTINGS = (
    "epochs batch_size optimizer loss learning_rate weight_decay dropout l1 stay_near distill co_tuning momentum schedule plateau_factor "
    "plateau_patience min_learning_rate decay warmup layer_decay batch_norm refit unfreeze_every patience min_delta clip_norm class_weight "
    "label_smoothing metrics monitor mode callbacks log_with cache dtype engine cluster precision device task_weights baselines frozen "
    "block base probe budget views augment holdout validation seed classes rename start statistics false_alarm trainable fresh alpha "
    "blocks form layers rank size training"
)
"""What --set takes, as the library names it once torch is imported."""
HANDED = ("net", "data", "strategy", "test", "out", "resume", "skip_bad", "task", "max_length")
"""Arguments of the verbs that are no settings."""


def check_given(
    network: str | Path | Sequence[str] | None,
    *data: str | Path | None,
    reading: Mapping[str, Any] | None = None,
    places: Mapping[str, Path | None] | None = None,
    assigned: Sequence[str] | None = None,
    **words: str | None,
) -> None:
    """Raise where something is not there, or an option has no such value: told before torch is imported, and all at once.

    `network`: a file, folder or name, or several; None where none is needed; `data`: files and folders; None where nothing was given;
    `places`: option -> the file or folder given for it; `words`: option of `VALUES` -> the value given for it.
    """
    from ..data.read import EQUAL, unknown_kinds
    from ..data.readers.table_files import names_of_file
    from ..data.readers.tables import TABLE_EXTENSIONS, absent_columns

    how = dict(reading or {})
    networks = [] if network is None else [network] if isinstance(network, str | Path) else network
    wrong = [*(missing_network(str(one)) for one in networks), *(missing_data(source) for source in data if source is not None)]
    for option, place in {"files": how.get("files"), **(places or {})}.items():
        if place is not None and not place.exists():
            wrong.append(f"--{option} {printable(place)} does not exist. Relative paths start at {printable(Path.cwd())}.")
    wrong += unknown_kinds(how.get("kind"), how.get("task"))
    settings = assignments(assigned)
    wrong += [f"--set {name}: {unknown_setting(name, SETTINGS.split())}" for name in settings if name not in SETTINGS.split()]
    for option, word in [*words.items(), *((name, text.strip()) for name, text in settings.items() if name in VALUES)]:
        values = VALUES[option].split()
        if word is not None and word not in values:
            wrong.append(f"{option}={word!r} is not known{near_names(word, values)}")
    asked, group = how.get("target"), how.get("group")
    targets = {f"target of task {task!r}": column for task, column in asked.items()} if isinstance(asked, dict) else {"target": asked}
    columns = targets | {"group": None if group == EQUAL else group} | {what: how.get(what) for what in ("condition", "columns", "pass")}
    for table in (Path(one) for one in data if one):
        if any(columns.values()) and table.suffix.lower() in TABLE_EXTENSIONS and table.is_file():
            wrong += absent_columns(names_of_file(table), columns, table=printable(table.name))
    if any(wrong):
        raise InputError("\n".join(filter(None, wrong)))


def assignments(words: Sequence[str] | None) -> dict[str, str]:
    """Return the names and values of `words` such as "optimizer=sgd", those behind --set."""
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


def opened(  # noqa: PLR0913  # over the limit: what `regraft.load` takes from the command line
    source: str,
    weights: str | Path | None = None,
    *,
    source_classes: Path | None = None,
    head: Sequence[str] | None = None,
    channels: int | None = None,
    architecture: str | None = None,
    inputs: Sequence[str] | None = None,
    trust: bool = False,
) -> Any:
    """Open a network.

    `inputs`: the shape of an example, such as "3,224,224", or NAME=SHAPE for each of several tensors.
    """
    from .. import verbs

    names, own = class_names(source_classes), None if architecture is None else _imported(architecture)
    layers = named_pairs(head, option="--head", form="TASK=LAYER") if head and "=" in "".join(head) else list(head or ())
    found: Any = layers[0] if isinstance(layers, list) and len(layers) == 1 else layers or None
    how: dict[str, Any] = {"classes": names, "head": found, "channels": channels, "architecture": own, "inputs": _shapes(inputs)}
    with progress("opening the network"):
        return verbs.load(source, weights=weights, trust=trust, **how)


def _shapes(given: Sequence[str] | None) -> tuple[int, ...] | dict[str, tuple[int, ...]] | None:
    """Return what the words behind --inputs mean, as `regraft.load` takes it."""

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
    """Open a network that is to predict: an ONNX file by ONNX Runtime, without PyTorch; all others as `opened` does."""
    if Path(source).suffix.lower() != ".onnx":
        return opened(str(source), head=head, channels=channels, architecture=architecture, trust=trust)
    given = {"--head": " ".join(head) if head else None, "--channels": channels, "--architecture": architecture}
    asked = [f"{name} {value}" for name, value in given.items() if value is not None]
    if asked:
        raise SettingError(f"{asked[0]}: the ONNX file {str(source)!r} is run as it is. Leave it out.")
    from ..exchange.served import serve

    return serve(Path(source))


def run_by(source: str | Path, engine: str | None, *, cluster: str | None) -> dict[str, Any]:
    """Return the keyword that lets a network predict on an engine or a cluster, before it is opened; none for an ONNX file.

    `engine`: one of `regraft.freezing.ENGINES`; None for "auto"; `cluster`: "ray://HOST:PORT" or "auto"; None for this machine.
    """
    if Path(source).suffix.lower() == ".onnx":
        asked = [f"{name} {value}" for name, value in {"--engine": engine, "--cluster": cluster}.items() if value is not None]
        if asked:
            raise SettingError(f"{asked[0]}: the ONNX file {str(source)!r} is run by ONNX Runtime. Leave it out.")
        return {}
    from ..freezing import whole_pass

    return {"run": whole_pass(engine or "auto", cluster)}


def wanted_weights(file: Path | None, random: bool) -> str | Path | None:
    """Return the weights that a command asks for, as `regraft.load` takes them: of a `file`, `random` ones, or the network's own."""
    if random and file is not None:
        raise SettingError(f"--weights {str(file)!r} and --random-weights cannot both hold; give one of them.")
    return "random" if random else file


def _imported(name: str) -> Any:
    """Return a class or function of the user's own, whose module is looked for in the working folder first."""
    module, _, own = name.partition(":")
    if not module.strip() or not own.strip():
        raise SettingError(f"--architecture {name!r}: expected MODULE:NAME, such as mine.networks:Small.")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        raise InputError(
            f"--architecture {name!r}: the module {module!r} cannot be imported: {type(error).__name__}: {error}. It is looked for in "
            f"{here!r}, then where Python looks."
        ) from error
    finally:
        sys.path.remove(here)
    if not callable(getattr(found, own, None)):
        makers = [other for other, held in vars(found).items() if callable(held) and not other.startswith("_")]
        raise InputError(f"--architecture {name!r}: {module!r} has no class or function {own!r}{near_names(own, makers)}")
    return getattr(found, own)


def wanted_target(given: Sequence[str] | None) -> Target:
    """Return what the words behind --target mean.

    Result: As `regraft.read` takes it; None where nothing was given.
    """
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
    """Return words such as OLD=NEW as a mapping.

    Result: What stands before the first "=" -> what stands behind it.
    """
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
    """Return names that stand between commas.

    `text`: such as "price,hour", or None; result: The names; None for None.
    """
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if "" in names or len(set(names)) < len(names):
        raise SettingError(f"{option} {text!r}: expected different names with commas between, such as {option} price,hour.")
    return names


def own_columns(network: Any) -> list[str]:
    """Return the names of the columns that a network reads beside each item; empty where it reads none."""
    plain = network.preprocessing.to_dict()
    while plain["kind"] != "columns" and "inner" in plain:
        plain = plain["inner"]
    return list(plain["names"]) if plain["kind"] == "columns" else []


def columns_for(network: Any, asked: list[str] | None) -> list[str] | None:
    """Return which columns are to be read beside the items.

    `asked`: the names behind --columns; None takes those that the network reads; result: As `regraft.read` takes them; None where there are
    none.
    """
    own = own_columns(network)
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
    """Return as what kind data are to be read: the rows of a table are numbers where the network takes rows of numbers.

    `asked`: the kind that was asked for, or None; `files`: the folder of the files that the table names, or None; result: The kind; None
    where the reader shall find out.
    """
    from ..data.readers.tables import TABLE_EXTENSIONS

    table = Path(source).suffix.lower() in TABLE_EXTENSIONS
    if asked is not None or files is not None or not table:
        return asked
    sample = network.sample if isinstance(network.sample, dict) else {"inputs": network.sample}
    own = [tensor for name, tensor in sample.items() if name not in ("columns", "condition")]
    return "array" if len(own) == 1 and own[0].ndim == 2 and "float" in str(own[0].dtype) else None


def read_data(source: str, **options: Any) -> Any:
    """Read the data that a command was given.

    `options`: as `regraft.read` takes them; those that are None are left out.
    """
    from ..data import read

    with progress("reading the data"):
        return read(source, **{name: value for name, value in options.items() if value is not None})


def checked_kind(network: Any, data: Any) -> None:
    """Raise unless a network takes items of the kind that the data have."""
    kind = network.preprocessing.item_kind
    if data.kind not in (kind, "array"):
        raise DataError(f"The network takes examples of the kind {kind!r}; received data of the kind {data.kind!r}.")


def size_of(count: float) -> str:
    """Return `count` bytes for people, such as "12.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
