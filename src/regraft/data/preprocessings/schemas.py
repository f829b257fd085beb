"""Types of the fields of preprocessings. Their limits, checked for plain data, prevent non-finite values and exhausted memory.

`Constant` and `Constants` have no limits here, because `check_scaling` checks them also for preprocessings not made from plain data.
"""

from __future__ import annotations

import dataclasses
import functools
from types import GenericAlias
from typing import Annotated, Any, get_type_hints

from pydantic import Field, SkipValidation, create_model

from ...files.schema import Plain

LARGEST, SMALLEST = 1e30, 1e-30  # Limits of offsets, factors and divisors; beyond them float32 values become infinite
MOST = 2**28  # Maximum count of numbers in an example: 1 GiB of float32
Length = Annotated[int, Field(ge=1, le=2**28)]
Side = Annotated[int, Field(ge=1, le=2**20)]
Pixels = Annotated[int, Field(ge=1, le=2**15)]
Count = Annotated[int, Field(ge=1, le=2**12)]
Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Spread = Annotated[float, Field(ge=0.0, le=LARGEST)]
Scale = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
Constant = Annotated[float | tuple[float, ...], SkipValidation]
Constants = Annotated[tuple[float, ...], SkipValidation]
Share = Annotated[float, Field(ge=0.01, le=2.0)]
Words = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Limits = tuple[Real, Real]
Layout = Annotated[str, Field(pattern="^channels_(first|last)$")]
Form = Annotated[str, Field(pattern="^(picture|keyword|batch)$")]


@functools.cache
def schema_of(kind: type[Any], names: tuple[str, ...], *, nested: type[Any]) -> type[Plain]:
    """Return the schema of the plain data of a dataclass with these fields; a field of the type `nested` holds plain data, too."""
    hints, fields = get_type_hints(kind, include_extras=True), {field.name: field for field in dataclasses.fields(kind)}
    several: Any = GenericAlias(tuple, (nested, ...))
    plain: dict[Any, Any] = {nested: dict[str, Any], several: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]}
    usual = {name: ... if field.default is dataclasses.MISSING else field.default for name, field in fields.items()}
    asked: dict[str, Any] = {name: (plain.get(hints[name], hints[name]), usual[name]) for name in names}
    return create_model(kind.__name__, __base__=Plain, kind=(str, ...), **asked)
