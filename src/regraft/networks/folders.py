"""The saved folder: weights, then `regraft.json` last, so that a folder that has it is whole."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import NetworkError

if TYPE_CHECKING:
    from .contract import Network

__all__ = ["FACTS_FILE", "read_facts", "versions", "write_json", "write_network"]

FACTS_FILE = "regraft.json"
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
    except OSError as error:
        raise NetworkError(f"The folder {str(folder)!r} cannot be written: {error.strerror or error}") from error
    heads = [
        {"task": head.task, "classes": list(head.classes) if head.classes else None, "kind": head.kind, "activation": head.activation}
        | {"layer": head.layer, "rows": len(head.weight), "features": head.features}
        for head in network.heads.values()
    ]
    content = {
        "format": 1,
        "family": network.family,
        "network": facts,
        "heads": heads,
        "preprocessing": network.preprocessing.to_dict(),
        "lineage": network.origin.get("lineage", []),
        "account": network.account.to_dict(),
        "versions": versions(),
    }
    write_json(folder / FACTS_FILE, content)


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
