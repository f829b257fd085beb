"""Checks that named sources exist, made before anything heavy is imported or read."""

import glob
from pathlib import Path

from ..errors import near_names
from .remote import is_url
from .schema import read_json
from .text import natural_key, printable

LIBRARIES = ("timm", "torchvision", "keras", "hf")  # Prefixes before the colon of a network's name, such as "timm:resnet18"
_SAVED = "regraft.json"  # File of every saved folder
NO_RULE = (
    "unknown=True: this network has no rule for examples of no known class. regraft.adapt learns one from three classes on; where it did "
    "not, its report says why. A head that was changed afterwards, as regraft.extend does, has none: adapt it again."
)
_NETWORKS = (".keras", ".onnx", ".pmml", ".safetensors", ".pt", ".pth")  # Endings of files that are never data


def missing_network(source: str) -> str:
    """Return the error message for a network source that is neither a name, an address nor an existing path; "" if it is valid."""
    kind, _, name = source.partition(":")
    if (name and kind in LIBRARIES) or is_url(source) or Path(source).exists():
        return ""
    hint = f"A name of a network starts with 'timm:', 'torchvision:', 'keras:' or 'hf:'{near_names(kind, LIBRARIES) if name else '.'}"
    return f"There is no file or folder {source!r}. {hint}"


def lacks_rule(source: str | Path) -> bool:
    """Return whether a source is a saved folder of a network without a rule for examples of no known class."""
    path = Path(source) / _SAVED
    facts = read_json(path, "facts") if path.is_file() else None
    return isinstance(facts, dict) and facts.get("unknown") is None


def swapped(network: str, data: str | Path) -> str:
    """Return the error message for a network and data that were given in each other's place; "" if they were not."""
    if not _is_network(data) or _is_network(network) or not Path(network).exists():
        return ""
    return f"{printable(network)!r} was given as the network and {printable(data)!r}, which is a network, as the data. Exchange them."


def _is_network(place: str | Path) -> bool:
    path = Path(place)
    return (path / _SAVED).is_file() or (path.suffix.lower() in _NETWORKS and path.is_file())


def missing_data(source: str | Path) -> str:
    """Return the error message for data that do not exist or are a saved network; "" if they can be data."""
    if (Path(source) / _SAVED).is_file():
        return f"{printable(source)} is a network saved by regraft, not data. Give a folder of class folders, a table or arrays."
    if is_url(source) or Path(source).exists() or matching(source):
        return ""
    if glob.has_magic(str(source)):
        return (
            f"No file fits the pattern {printable(source)}. Relative paths start at {printable(Path.cwd())}; '**' stands for any folders."
        )
    return f"The data do not exist: {printable(source)}. Check the path; relative paths start at {printable(Path.cwd())}."


def matching(source: str | Path) -> list[Path]:
    """Return the files that match a glob pattern, in natural order; an empty list if the path itself exists."""
    text = str(source)
    if Path(source).exists() or not glob.has_magic(text):
        return []
    return [Path(path) for path in sorted(glob.glob(text, recursive=True), key=natural_key) if not Path(path).is_dir()]
