"""Schemas of the JSON files that regraft reads back: pydantic models, and one function that checks a file against one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InputError
from .formats import FORMATS, opening
from .text import printable

__all__ = ["HistoryEntry", "Plain", "checked", "read_json", "read_lines"]


class Plain(BaseModel):
    """Base of all schemas: types are not converted, numbers are finite, unknown keys are kept (newer versions may add some)."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow", frozen=True)


class HistoryEntry(Plain):
    """One epoch of a history. Figures of a training that diverged may be no finite numbers."""

    model_config = ConfigDict(allow_inf_nan=True)

    run: Annotated[int, Field(ge=1)] = 1
    stage: str = ""
    epoch: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None


Model = TypeVar("Model", bound=Plain)


def checked(content: Any, schema: type[Model], *, what: str, error: type[InputError]) -> Model:
    """Return plain data as an instance of a schema.

    Args:
        content: as `json.loads` gives it.
        what: where it comes from, for the message.
        error: class of the error that is raised.

    Raises:
        InputError: of the class `error`, with every wrong value by its place: what was received, what was expected.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as problem:
        found = [_fault(part) for part in problem.errors(include_url=False)]
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise error(f"{what} does not have the expected form: {'; '.join(found[:5])}{more}.") from problem


def _fault(part: Any) -> str:
    place = printable(".".join(map(str, part["loc"])))
    if part["type"] == "missing":
        return f"it lacks {place!r}"
    said = part["msg"].removeprefix("Value error, ")
    return f"{place or 'the whole'}: {printable(said)}, received {_shown(part['input'])}"


def _shown(value: Any) -> str:
    return printable(repr(value), width=60)


def read_json(path: Path, kind: str, *, remedy: str = "") -> Any:
    """Return the content of a JSON file of a known kind, unchecked.

    Args:
        kind: a key of `FORMATS`.
        remedy: what the user can do where it is damaged.

    Raises:
        InputError: of the class that the format names, if it cannot be read.
    """
    with opening(path, kind, remedy=remedy):
        return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path, kind: str, *, remedy: str = "") -> list[dict[str, Any]]:
    """Return the entries of a file of JSON lines of a known kind, each of them a mapping.

    Args:
        kind: a key of `FORMATS`.
        remedy: what the user can do where it is damaged.

    Raises:
        InputError: of the class that the format names, if it cannot be read, or a line holds something else.
    """
    with opening(path, kind, remedy=remedy):
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            end = f" {remedy}" if remedy else ""
            raise FORMATS[kind].error(f"Entry {number} of {printable(path)!r} is no mapping; received {_shown(entry)}.{end}")
    return entries
