"""The saved folder: weights, then `regraft.json` last, so that a folder that has it is whole."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..errors import NetworkError
from .parts.code_files import write_codes

if TYPE_CHECKING:
    from .contract import Head, Network

__all__ = [
    "FACTS_FILE",
    "UNKNOWN_FILE",
    "read_facts",
    "read_heads_",
    "read_learned_",
    "read_statistics",
    "versions",
    "write_json",
    "write_lines",
    "write_network",
]

FACTS_FILE = "regraft.json"
HISTORY_FILE = "history.jsonl"
STATISTICS_FILE = "statistics.safetensors"
UNKNOWN_FILE = "unknown.safetensors"
"""Statistics of the features that the rule for unknown items looks at, where these are not all."""
_KEYS = ("family", "network", "heads", "preprocessing", "account")


def versions() -> dict[str, str]:
    """Return the versions of regraft and of the libraries that a saved network depends on, as far as installed."""
    found = {}
    for name in ("regraft", "torch", "keras", "timm", "torchvision", "transformers", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either the old or the new one, never half of it.

    Args:
        path: of the file.
        content: plain data.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write entries as JSON lines to the path, one an entry."""
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")


def write_network(network: Network, folder: Path) -> None:
    """Write weights, then `regraft.json` last: a folder without it is not a saved network.

    Args:
        network: any family.
        folder: made where it is not there.

    Raises:
        NetworkError: if the folder cannot be written, or the network is an exported program.
    """
    if network.origin.get("source") == "program":  # before anything is touched: the folder may be its own
        raise NetworkError(
            f"This network is the exported program of {network.origin.get('class')}: it predicts, but cannot be saved. "
            "Open its folder with architecture=, a module or a function that makes it, or copy the folder."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FACTS_FILE).unlink(missing_ok=True)
        facts = dict(network.write(folder))
        digest = write_codes(network, folder)
    except OSError as error:
        raise NetworkError(f"The folder {str(folder)!r} cannot be written: {error.strerror or error}") from error
    own = None if network.unknown is None else network.unknown.own_statistics()
    for file, arrays in ((STATISTICS_FILE, network.statistics), (UNKNOWN_FILE, own)):
        if arrays is not None:
            save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, folder / file)
    if network.history:
        write_lines(folder / HISTORY_FILE, network.history)
    content = {
        "format": 1,
        "family": network.family,
        "network": facts,
        "heads": [_head_facts(head) for head in network.heads.values()],
        "preprocessing": network.preprocessing.to_dict(),
        "coding": None if network.coding is None else network.coding.to_dict(),
        "lineage": network.origin.get("lineage", []),
        "account": network.account.to_dict(),
        "unknown": None if network.unknown is None else network.unknown.to_dict(),
        "digest": digest,
        "versions": versions(),
    }
    write_json(folder / FACTS_FILE, content)


def _head_facts(head: Head) -> dict[str, Any]:
    """Return all of a head but its rows as plain data."""
    plain = {name: getattr(head, name) for name in ("task", "kind", "activation", "layer", "features")}
    plain |= {"rows": len(head.weight), "classes": list(head.classes) if head.classes else None}
    lists = {"parts": head.parts, "thresholds": head.thresholds, "groups": head.groups}
    return plain | {name: list(values) for name, values in lists.items() if values}


def read_heads_(network: Network, facts: Mapping[str, Any]) -> None:
    """Give an opened network's heads what their rows do not tell: class names, kinds, thresholds; and its derived heads.

    Args:
        network: with the heads that have rows of their own.
        facts: content of `regraft.json`.
    """
    found: dict[str, Head] = {}
    called = {head.layer: task for task, head in network.heads.items() if head.layer}
    for plain in facts["heads"]:
        if plain["task"] not in network.heads and plain["layer"] in called:
            network.rename_task_(called[plain["layer"]], plain["task"])
        classes = tuple(plain["classes"]) if plain["classes"] else None
        told = {"kind": plain["kind"], "classes": classes, "activation": plain["activation"]}
        if plain.get("groups"):
            first = next(iter(found.values()))
            head = first.derived(plain["task"], dict(zip(classes or (), plain["groups"], strict=True)))
        elif plain["task"] in network.heads:
            limits = tuple(plain["thresholds"]) if plain.get("thresholds") else None
            head = replace(network.heads[plain["task"]], parts=tuple(plain.get("parts", ())), thresholds=limits, **told)
        else:
            continue
        found[plain["task"]] = head
    network.heads = found or network.heads


def read_learned_(network: Network, folder: Path) -> None:
    """Give an opened network the history and the class statistics that lie in its folder, where they do.

    Raises:
        NetworkError: if the history is damaged.
    """
    try:
        if (folder / HISTORY_FILE).is_file():
            lines = (folder / HISTORY_FILE).read_text(encoding="utf-8").splitlines()
            network.history = tuple(json.loads(line) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        raise NetworkError(f"{HISTORY_FILE} in {str(folder)!r} is damaged: {error}. Remove it, or save the network again.") from error
    if (folder / STATISTICS_FILE).is_file():
        network.statistics = read_statistics(folder)


def read_statistics(folder: Path, file: str = STATISTICS_FILE) -> dict[str, np.ndarray]:
    """Return the class statistics that lie in a `file` of a saved folder.

    Raises:
        NetworkError: if there are none, or the file is damaged.
    """
    path = folder / file
    if not path.is_file():
        raise NetworkError(f"{str(folder)!r} holds no class statistics ({file}): expected a folder that regraft saved with them.")
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise NetworkError(f"{file} in {str(folder)!r} is damaged: {error}. Remove it, or save the network again.") from error


def read_facts(folder: Path) -> dict[str, Any]:
    """Read `regraft.json` of a saved folder.

    Args:
        folder: written by `write_network`.

    Returns:
        Its content.

    Raises:
        NetworkError: if it is missing, not readable, or lacks a part.
    """
    path = folder / FACTS_FILE
    if not path.is_file():
        raise NetworkError(
            f"{str(folder)!r} is not a folder saved by regraft: it has no {FACTS_FILE}. "
            "An interrupted run is continued by the same 'adapt'."
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NetworkError(f"{str(path)!r} is not readable JSON: {error}") from error
    missing = [key for key in _KEYS if not isinstance(facts, dict) or key not in facts]
    if missing:
        raise NetworkError(f"{str(path)!r} was not written by regraft, or changed since: it lacks {', '.join(missing)}.")
    return cast(dict[str, Any], facts)
