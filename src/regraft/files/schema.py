"""Schemas of the JSON files that regraft reads back, and a check of files against them."""

import dataclasses
import functools
import json
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, TypeVar, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, Field, PydanticSchemaGenerationError, TypeAdapter, ValidationError, create_model

from ..errors import InputError
from .formats import FORMATS, opening
from .text import printable, shown

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class Plain(BaseModel):
    """Base class of all schemas. Types are not converted, numbers are finite, and unknown keys are kept (newer versions may add some)."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow", frozen=True)


class HistoryEntry(Plain):
    """One epoch of a history. Figures of a diverged training may be non-finite."""

    model_config = ConfigDict(allow_inf_nan=True)

    run: Annotated[int, Field(ge=1)] = 1
    stage: str = ""
    epoch: int | None = None
    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    learning_rate: float | None = None
    seconds: float | None = None


class Candidate(Plain):
    """One compared candidate, as a plan stores it and the report shows it."""

    model_config = ConfigDict(allow_inf_nan=True)

    name: str = ""
    strategy: str = ""
    predicted: float | None = None
    seconds: float | None = None
    estimate: float | None = None
    interval: Interval | None = None
    figure: str = "accuracy"
    why: str = ""
    losses: list[float] | None = None


@functools.cache
def schema_of(kind: type[Any], names: tuple[str, ...] | None = None, *, nested: type[Any] | None = None) -> type[Plain]:
    """Return the schema of the plain data of a dataclass, whose fields carry their limits in their types.
    `names`: its stored fields; None: all. A field of the type `nested`, or a tuple of it, holds plain data, too."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError:  # types of a program's own class that are imported for type checkers alone
        hints = dict.fromkeys(fields, Any)
    several: Any = GenericAlias(tuple, (nested, ...))
    plain: dict[Any, Any] = {nested: dict[str, Any], several: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]}
    usual: dict[str, Any] = {name: ... if field.default is dataclasses.MISSING else field.default for name, field in fields.items()}
    asked: dict[str, Any] = {name: (plain.get(hints[name], hints[name]), usual[name]) for name in names or usual}
    try:
        return create_model(kind.__name__, __base__=Plain, **asked)
    except PydanticSchemaGenerationError:  # a program's own class has a type that cannot be checked
        asked = {name: (Any, default) for name, (_, default) in asked.items()}
        return create_model(kind.__name__, __base__=Plain, **asked)


Model = TypeVar("Model", bound=Plain)
T = TypeVar("T")


@overload
def checked(content: Any, schema: type[Model], *, what: str, error: type[InputError]) -> Model: ...
@overload
def checked(content: Any, schema: TypeAdapter[T], *, what: str, error: type[InputError]) -> T: ...
def checked(content: Any, schema: Any, *, what: str, error: type[InputError]) -> Any:
    """Return plain data as an instance of a schema, or of the dataclass of a type adapter."""
    try:
        return schema.validate_python(content) if isinstance(schema, TypeAdapter) else schema.model_validate(content)
    except ValidationError as problem:
        found = [_fault(part) for part in problem.errors(include_url=False)]
        more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
        raise error(f"{what} does not have the expected form: {'; '.join(found[:5])}{more}.") from problem
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(f"{what} is not plain data (numbers, texts, lists and dicts): {printable(problem)}.") from problem


def _fault(part: Any) -> str:
    place = printable(".".join(map(str, part["loc"])))
    if part["type"] == "missing":
        return f"it lacks {place!r}"
    said = part["msg"].removeprefix("Value error, ").replace("a valid tuple", "a valid list").replace("Tuple should", "List should")
    return f"{place or 'the whole'}: {printable(said)}, received {shown(part['input'])}"


def read_json(path: Path, kind: str, *, remedy: str = "") -> Any:
    """Return the unchecked content of a JSON file of a known kind."""
    with opening(path, kind, remedy=remedy):
        return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path, kind: str, *, remedy: str = "") -> list[dict[str, Any]]:
    """Return the entries of a JSON Lines file of a known kind. Each must be a mapping."""
    with opening(path, kind, remedy=remedy):
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            end = f" {remedy}" if remedy else ""
            raise FORMATS[kind].error(f"Entry {number} of {printable(path)!r} is no mapping; received {shown(entry)}.{end}")
    return entries
