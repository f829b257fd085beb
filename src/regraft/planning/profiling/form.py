"""What `profile.json` must look like before a profile is made of it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...files.schema import Plain

__all__ = ["Form"]

Count = Annotated[int, Field(ge=0, le=2**62)]
Real = Annotated[float, Field(ge=-1e12, le=1e12)]
Error = Annotated[float, Field(ge=0.0, le=1e12)]
Seconds = Annotated[float, Field(ge=0.0, le=1e12)]
Pair = Annotated[tuple[Real, Error], Field(strict=False)]  # lists in JSON
Point = Annotated[tuple[Count, Real, Error], Field(strict=False)]
Gain = Annotated[tuple[Real, Real, Real], Field(strict=False)]


class _Depth(Plain):
    block: str
    value: Real
    error: Error
    numbers: Count


class _Beside(Plain):
    name: str
    value: Real
    error: Error
    words: str = ""


class Form(Plain):
    """The whole of it, as `Profile.to_dict` gives it."""

    network: str
    kind: Literal["classification", "multi-label", "regression"]
    metric: str
    items: Count
    judged: Count
    classes: list[str]
    counts: dict[str, Count]
    groups: Count
    held_out: str
    chance: Real
    depths: Annotated[list[_Depth], Field(min_length=1)]
    best: str
    honest: Pair
    holds_to: str
    beside: Annotated[list[_Beside], Field(min_length=1)]
    similarity: Real | None
    per_class: Count
    size: Literal["small", "large"]
    likeness: Literal["similar", "different", "unknown"]
    scenario: Annotated[str, Field(min_length=1)]
    advice: str
    agrees: bool
    findings: list[str]
    warnings: list[str]
    notes: list[str]
    curve: list[Point]
    more: Count
    gain: Gain | None
    seconds: dict[str, Seconds]
    passed: Count

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        names = [depth.block for depth in self.depths]
        for name in (self.best, self.holds_to):
            if name not in names:
                raise ValueError(f"{name!r} is none of the depths {names[:6]}")
        if self.curve and not any(point[0] for point in self.curve):
            raise ValueError("a learning curve of no items")
        return self
