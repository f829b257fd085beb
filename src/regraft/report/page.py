"""The report: one HTML file with everything in it, made from plain data."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, optional_import
from .sections import context

__all__ = ["read_facts", "rendered", "write_facts", "write_report"]

_FACTS = "report.json"


def write_report(path: str | Path, facts: Mapping[str, Any]) -> Path:
    """Write the report as one HTML file: no scripts, nothing fetched from elsewhere; for light, dark and paper.

    Args:
        path: the file to write, or a folder, which gets a `report.html`.
        facts: plain data. "verdict" is needed; all else is shown where it is there: "title", "created", "versions", "network",
            "data", "preprocessing", "strategy", "history", "scores", "baselines", "account", "cost", "worst", "not_tried",
            "warnings".

    Returns:
        The file.

    Raises:
        DataError: if `facts` has no "verdict".
        MissingExtraError: if jinja2 is not installed.
    """
    if not facts.get("verdict"):
        raise DataError(f"A report needs a 'verdict'; received {sorted(facts)}. Make one with regraft.report.verdict(scores, baselines).")
    target = Path(path) / "report.html" if Path(path).is_dir() else Path(path)
    return rendered(target, "template.html", content=context(facts))


def rendered(path: str | Path, template: str, *, content: Mapping[str, Any]) -> Path:
    """Write a page whole or not at all.

    Args:
        path: the file to write.
        template: the name of a template beside this file.
        content: what it shows.

    Returns:
        The file.

    Raises:
        MissingExtraError: if jinja2 is not installed.
    """
    jinja = optional_import("jinja2", "report", purpose="The report")
    loader = jinja.FileSystemLoader(Path(__file__).parent)
    place = jinja.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja.StrictUndefined)
    _write(Path(path), place.get_template(template).render(content).lstrip())
    return Path(path)


def write_facts(folder: str | Path, facts: Mapping[str, Any]) -> Path:
    """Keep what a report is made of, so that it can be made again.

    Args:
        folder: of the saved network.
        facts: as for `write_report`.

    Returns:
        The file, `report.json` in the folder.
    """
    target = Path(folder) / _FACTS
    _write(target, json.dumps(facts, ensure_ascii=False, indent=1, default=str) + "\n")
    return target


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Return what `write_facts` kept.

    Args:
        folder: of a saved network.

    Returns:
        The facts, for `write_report`.

    Raises:
        DataError: if the folder holds no `report.json`, or the file is not what `write_facts` writes.
    """
    source = Path(folder) / _FACTS
    if not source.is_file():
        raise DataError(f"{folder} holds no {_FACTS}; expected a folder that regraft adapt --out, or result.save(), has written.")
    try:
        facts = json.loads(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{source} is not JSON ({error}); save the result again.") from error
    if not isinstance(facts, dict):
        raise DataError(f"{source} holds a {type(facts).__name__}; expected an object with the facts of a report.")
    return facts


def _write(target: Path, content: str) -> None:
    """Write whole or not at all: an interrupted report must not replace a good one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
