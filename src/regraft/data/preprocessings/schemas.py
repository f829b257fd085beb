"""Types of the fields of preprocessings. Their limits, checked for plain data, prevent non-finite values and exhausted memory.

`Constant` and `Constants` have no limits here, because `check_scaling` checks them also for preprocessings not made from plain data.
"""

from typing import Annotated

from pydantic import Field, SkipValidation

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
Constants = tuple[Annotated[float, SkipValidation], ...]
Share = Annotated[float, Field(ge=0.01, le=2.0)]
Words = Annotated[str, Field(max_length=2000)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=1)]
Limits = tuple[Real, Real]
Layout = Annotated[str, Field(pattern="^channels_(first|last)$")]
Form = Annotated[str, Field(pattern="^(picture|keyword|batch)$")]
