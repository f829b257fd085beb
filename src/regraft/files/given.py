"""Checks that named sources exist, made before anything heavy is imported or read."""

import glob
import importlib.util
import os
import re
from pathlib import Path

from ..errors import near_names
from .remote import is_reachable, is_url
from .schema import read_json
from .text import natural_key, printable

LIBRARIES = ("timm", "torchvision", "keras", "hf")  # Prefixes before the colon of a network's name, such as "timm:resnet18"
_SAVED = "regraft.json"  # File of every saved folder
NO_RULE = (
    "unknown=True: this network has no rule for examples of no known class. regraft.adapt learns one from three classes on; where it did "
    "not, its report says why. A head that was changed afterwards, as regraft.extend does, has none: adapt it again."
)
_NETWORKS = (".keras", ".onnx", ".pmml", ".safetensors", ".pt", ".pth")  # Endings of files that are never data


_NAMES = {  # Library -> its package, the folder of its networks, and the definition of a network there
    "timm": ("timm", "models", re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)),
    "torchvision": ("torchvision", "models", re.compile(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", re.MULTILINE)),
    "keras": ("keras", "src/applications", re.compile(r"^def ([A-Z]\w+)\(", re.MULTILINE)),
}
_OF_HUB = ("$HF_HUB_CACHE", "$HUGGINGFACE_HUB_CACHE", "$HF_HOME", "$XDG_CACHE_HOME/huggingface", "~/.cache/huggingface")
_OF_TORCH = ("$TORCH_HOME", "$XDG_CACHE_HOME/torch", "~/.cache/torch")
_STORES = {  # Library -> the address of its weights, and the folders in which a download is kept
    "timm": ("https://huggingface.co", (*_OF_HUB, *_OF_TORCH)),
    "hf": ("https://huggingface.co", _OF_HUB),
    "torchvision": ("https://download.pytorch.org", _OF_TORCH),
    "keras": ("https://storage.googleapis.com", ("$KERAS_HOME", "~/.keras")),
}
_ALIKE = 5  # Letters and digits that a name and the name of a kept download have in common, at least


def missing_network(source: str) -> str:
    """Return the error message for a network source that is neither a name, an address nor an existing path; "" if it is valid."""
    kind, _, name = source.partition(":")
    if is_url(source) or Path(source).exists():
        return ""
    if name and kind in LIBRARIES:
        return _unknown_name(kind, name)
    hint = f"A name of a network starts with 'timm:', 'torchvision:', 'keras:' or 'hf:'{near_names(kind, LIBRARIES) if name else '.'}"
    return f"There is no file or folder {source!r}. {hint}"


def _unknown_name(kind: str, name: str) -> str:
    """Return the error message for a name that stands nowhere in the files of its library, which is not imported; else ""."""
    package, folder, defined = _NAMES.get(kind, ("", "", None))
    found = None if defined is None else importlib.util.find_spec(package)
    if defined is None or found is None or found.origin is None:
        return ""  # no list of names, or not installed
    files = (Path(found.origin).parent / folder).glob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    if not text or re.search(rf"\b{re.escape(name.split('.')[0])}\b", text):
        return ""
    return f"{kind} knows no network called {printable(name)!r}{near_names(name, defined.findall(text))}"


def unreachable_network(source: str) -> str:
    """Return the error message for a named network whose weights are not on this machine and cannot be fetched now; else ""."""
    kind, _, name = source.partition(":")
    if kind not in _STORES or not name or Path(name).exists() or Path(source).exists():
        return ""
    address, folders = _STORES[kind]
    address = os.environ.get("HF_ENDPOINT", address) if "huggingface" in address else address
    start = re.sub(r"[^a-z0-9]", "", name.rpartition("/")[2].lower())[:_ALIKE]
    places = [Path(os.path.expandvars(folder)).expanduser() for folder in folders]  # without its variable, "$…" is no folder
    kept = (path.name.lower() for place in places for depth in ("*", "*/*", "*/*/*") for path in place.glob(depth))
    if any(start in re.sub(r"[^a-z0-9]", "", one) for one in kept) or is_reachable(address):
        return ""
    why = f"{address.partition('://')[2]} cannot be reached"
    if kind == "hf":
        return f"{printable(source)!r} cannot be opened: expected a folder in Hugging Face format, or a hub id that can be reached. {why}."
    return unreachable_weights(source, why)


def unreachable_weights(source: str, why: str) -> str:
    """Return the error message for trained weights that cannot be fetched. Random weights are no substitute."""
    return (
        f"The trained weights of {printable(source)!r} could not be fetched ({why}). Without them there is nothing to transfer. Connect "
        "this machine once, or give a file with weights=. For a network that knows nothing, give weights='random'."
    )


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
