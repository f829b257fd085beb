"""The saved folder of a network: weights, training history, statistics, and `regraft.json` with all facts needed to open it.

A folder is replaced atomically (`files/replacing.py`). `regraft.json` holds a checksum of each file that belongs to the network.
"""

import errno
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..errors import InputError, NetworkError
from ..files.formats import member, named_in_utf8, opening, reason_of
from ..files.locks import LOCK_FILE, held_folder
from ..files.replacing import COMMITTED, Kind, clear_left, left_beside, replaced_folder, settle_
from ..files.schema import HistoryEntry, checked, read_json, read_lines
from ..files.text import printable
from ..files.writing import write_json, write_lines
from .editing.editable import Editable
from .fingerprints.libraries import version_of
from .parts.code_files import CODES_FOLDER, write_codes
from .parts.facts import Facts
from .parts.head import Head, told_binary

FACTS_FILE = "regraft.json"
HISTORY_FILE = "history.jsonl"
STATISTICS_FILE = "statistics.safetensors"
UNKNOWN_FILE = "unknown.safetensors"
"""Arrays of the rule for unknown examples: statistics of the features that it reads, and features of known examples."""
_WEIGHTS = ("network.safetensors", "network.keras", "network.onnx", "network.pt2")
_RESULT = ("plan.json", "scores.json", "report.json", "report.html")
_OF_NETWORK = (*_WEIGHTS, HISTORY_FILE, STATISTICS_FILE, UNKNOWN_FILE)
_FOLDER = Kind(FACTS_FILE, frozenset({FACTS_FILE, CODES_FOLDER, *_OF_NETWORK, *_RESULT}))
_WITHOUT = "Put it back from a copy, or remove it: the network can be opened without it."
_REMEDY = "Put back the folder as it was saved, from a copy, or save the network again."
_PATIENCE = 20.0  # Seconds to wait, when opening a folder, for a process that is replacing its content


def versions() -> dict[str, str]:
    """Return the versions of regraft and of the installed libraries that a saved network may depend on."""
    every = {name: version_of(name) for name in ("regraft", "torch", "keras", "timm", "torchvision", "transformers", "numpy")}
    return {name: version for name, version in every.items() if version is not None}


def replacing(
    folder: str | Path, *, finish: Callable[[Path], None] | None = None, error: type[InputError] = NetworkError
) -> AbstractContextManager[Path]:
    """Return a context that yields an empty folder to write into and then replaces the saved folder atomically by it."""
    return replaced_folder(folder, _FOLDER, finish=finish, error=error)


def write_network(network: Editable, folder: Path) -> None:
    """Write the weights, codes, statistics and history, and `regraft.json` with a checksum of each file."""
    network.body.refuse_change("saved")
    network.refuse_training_form()
    own = None if network.unknown is None else network.unknown.own_arrays()
    try:
        facts = dict(network.kind.write(network.body, folder, origin=network.origin, edits=network.edits))
        digest = write_codes(network, folder)
        for file, arrays in ((STATISTICS_FILE, network.statistics), (UNKNOWN_FILE, own)):
            if arrays is not None:
                save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / file)
    except SafetensorError as error:  # a full disk; the caller reports it with the folder name that the user knows
        raise OSError(errno.EIO, reason_of(error)) from error
    if network.history:
        write_lines(folder / HISTORY_FILE, network.history)
    content = {
        "format": 2,
        "family": network.family,
        "network": facts,
        "heads": [_head_facts(head) for head in network.heads.values()],
        "preprocessing": network.preprocessing.to_dict(),
        "coding": None if network.coding is None else network.coding.to_dict(),
        "lineage": network.origin.get("lineage", []),
        "account": network.account.to_dict(),
        "unknown": None if network.unknown is None else network.unknown.to_dict(),
        "digest": digest,
        "fresh": list(network.fresh),
        "outputs": list(network.outputs),
        "versions": versions(),
        "files": {name: _checksum(folder / name) for name in _OF_NETWORK if (folder / name).is_file()},
    }
    write_json(folder / FACTS_FILE, content)


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}


def check_files(folder: Path, facts: Mapping[str, Any]) -> None:
    """Check each present file of a saved network against its checksum; folders of earlier versions have no checksums."""
    for name, known in (facts.get("files") or {}).items():
        path = folder / name
        with suppress(FileNotFoundError):  # deleted in the meantime
            if path.is_file() and (path.stat().st_size != known["bytes"] or _checksum(path) != known):
                needed = name == facts["network"]["file"]
                hint = _REMEDY if needed else _WITHOUT
                raise NetworkError(f"{name!r} in {printable(folder)!r} is not as it was saved: it is damaged, or was changed since. {hint}")


def _head_facts(head: Head) -> dict[str, Any]:
    """Return a head without its class weights as plain data."""
    plain = {name: getattr(head, name) for name in ("task", "kind", "activation", "layer", "features")}
    plain |= {"rows": len(head.weight), "classes": list(head.classes) if head.classes else None}
    plain |= {name: list(values) for name in ("parts", "thresholds", "groups") if (values := getattr(head, name))}
    return plain | {name: True for name in ("binary", "apart") if getattr(head, name)}


def read_heads_(network: Editable, facts: Mapping[str, Any]) -> None:
    """Set the saved facts of an opened network's heads (class names, kinds, thresholds), add its derived heads, and set `fresh`."""
    found: dict[str, Head] = {}
    called = {head.layer: task for task, head in network.heads.items() if head.layer}
    for plain in facts["heads"]:
        if plain["task"] not in network.heads and plain["layer"] in called:
            network.rename_task_(called[plain["layer"]], plain["task"])
        classes = tuple(plain["classes"]) if plain["classes"] else None
        told = {"kind": plain["kind"], "classes": classes, "activation": plain["activation"], "apart": plain.get("apart", False)}
        if plain.get("groups"):
            first = next(iter(found.values()))
            head = first.derived(plain["task"], dict(zip(classes or (), plain["groups"], strict=True)))
        else:
            limits = tuple(plain["thresholds"]) if plain.get("thresholds") else None
            head = replace(_known_head(network, plain), parts=tuple(plain.get("parts", ())), thresholds=limits, **told)
        found[plain["task"]] = head
    missing = [task for task in network.heads if task not in found]
    if missing:
        raise NetworkError(f"{FACTS_FILE} is damaged: it says nothing of the head {missing[0]!r} that the network has. {_REMEDY}")
    network.heads, network.outputs = found, tuple(facts.get("outputs", ()))
    network.body.untrained = frozenset(facts.get("fresh", ()))


def _known_head(network: Editable, plain: Mapping[str, Any]) -> Head:
    """Return the head of the opened network that `regraft.json` describes."""
    head = network.heads.get(plain["task"])
    head = None if head is None else told_binary(head, plain)
    same = head is not None and head.layer in ("", plain["layer"]) and head.weight.shape == (plain["rows"], plain["features"])
    if head is None or not same:
        have = ", ".join(f"{each.task!r} at {each.layer!r} with {each.weight.shape} weights" for each in network.heads.values())
        raise NetworkError(
            f"{FACTS_FILE} is damaged: it describes a head {plain['task']!r} at {plain['layer']!r} with "
            f"{(plain['rows'], plain['features'])} weights; the network has {have or 'none'}. {_REMEDY}"
        )
    return head


def read_learned_(network: Editable, folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Load the saved history and class statistics into an opened network; warn if one has been deleted since."""
    if _belongs(folder, HISTORY_FILE, facts=facts):
        entries = read_lines(folder / HISTORY_FILE, "history", remedy=_WITHOUT)
        for number, entry in enumerate(entries, start=1):
            checked(entry, HistoryEntry, what=f"Entry {number} of {printable(folder / HISTORY_FILE)!r}", error=NetworkError)
        network.history = tuple(entries)
    if _belongs(folder, STATISTICS_FILE, facts=facts):
        network.statistics = read_statistics(folder)


def _belongs(folder: Path, name: str, *, facts: Mapping[str, Any]) -> bool:
    """Return whether a file is part of the saved network and present; in folders of earlier versions, any present file counts."""
    known, there = facts.get("files"), (folder / name).is_file()
    if known is None or (name in known and there):
        return there
    if name in known:
        warnings.warn(
            f"{name!r}, which was saved with the network in {printable(folder)!r}, is not there: it is opened without it.", stacklevel=2
        )
    return False


def read_statistics(folder: Path, file: str = STATISTICS_FILE) -> dict[str, np.ndarray]:
    """Return the class statistics in a `file` of a saved folder."""
    path = folder / file
    if not path.is_file():
        raise NetworkError(f"{str(folder)!r} holds no class statistics ({file}): expected a folder that regraft saved with them.")
    with opening(path, "statistics", remedy=_WITHOUT), named_in_utf8(path) as plain:
        return load_file(plain)


def settled(folder: Path) -> None:
    """Complete a replacement of this folder that was interrupted by a crash, and remove leftovers beside the folder."""
    if os.path.lexists(folder / COMMITTED):
        with held_folder(folder, error=NetworkError, wait=_PATIENCE) as target:
            try:
                settle_(target, _FOLDER)
            except OSError as error:
                raise NetworkError(
                    f"{printable(folder)!r} was being replaced when a process was killed, and cannot be put in order: {reason_of(error)}. "
                    "Make the folder writable, and open it again."
                ) from error
    elif os.path.lexists(left := left_beside(folder.resolve())) or os.path.lexists(folder / LOCK_FILE):
        with suppress(NetworkError), held_folder(folder, error=NetworkError):  # on failure it is in use, or the folder is read-only
            clear_left(left)  # the lock is removed last


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the validated content of `regraft.json` of a saved folder."""
    settled(folder)
    for name in (CODES_FOLDER, *_OF_NETWORK, *_RESULT):
        member(folder, name)
    path = member(folder, FACTS_FILE)
    if not path.is_file():
        raise NetworkError(
            f"{str(folder)!r} is not a folder saved by regraft: it has no {FACTS_FILE}. "
            "An interrupted run is continued by the same 'adapt'."
        )
    facts = read_json(path, "facts", remedy=_REMEDY)
    form = facts.get("format", 1) if isinstance(facts, dict) else 1
    if isinstance(form, int) and form > 2:
        raise NetworkError(f"{printable(path)!r} has the format {form}; this version of regraft knows 1 and 2. Update regraft to open it.")
    checked(facts, Facts, what=repr(printable(path)), error=NetworkError)
    return cast("dict[str, Any]", facts)
