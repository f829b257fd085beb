"""Schemas of the plain data of each kind of preprocessing. Their limits prevent non-finite values and exhausted memory.

`mean` and `std` are not limited here, because `check_scaling` checks them also for preprocessings not made from plain data.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ...files.schema import Plain

LARGEST, SMALLEST = 1e30, 1e-30  # Limits of offsets, factors and divisors; beyond them float32 values become infinite
MOST = 2**28  # Maximum count of numbers in an example: 1 GiB of float32
Side = Annotated[int, Field(ge=1, le=2**20)]
Real = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Spread = Annotated[float, Field(ge=0.0, le=LARGEST)]
Scale = Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
Name = Annotated[str, Field(min_length=1)]
TokenInput = Literal["input_ids", "attention_mask", "token_type_ids"]
Limits = Annotated[list[Real], Field(min_length=2, max_length=2)]
Layout = Literal["channels_first", "channels_last"]


class _Any(Plain):
    kind: str
    inferred: bool = False


class _Array(_Any):
    shape: list[Annotated[int, Field(ge=1, le=2**28)] | None] | None = None
    mean: Any = None
    std: Any = None
    integers: bool = False
    spread: Spread | list[Spread] | None = None
    padded: list[Annotated[int, Field(ge=1, le=2**28)]] | None = None
    value_range: Limits | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.padded is not None and math.prod(self.padded) > MOST:
            raise ValueError(f"examples padded to {self.padded}, more than {MOST} numbers")
        if self.shape is None or None in self.shape:
            return self
        whole = math.prod(side or 1 for side in self.shape)
        if whole > MOST:
            raise ValueError(f"examples of the shape {self.shape}, more than {MOST} numbers")
        for name in ("mean", "std", "spread"):
            value = getattr(self, name)
            if isinstance(value, list) and len(value) not in (1, *self.shape[-1:], whole):
                raise ValueError(f"{len(value)} numbers of {name} for examples of the shape {self.shape}")
        return self


class _Image(_Any):
    height: Annotated[int, Field(ge=1, le=2**15)]
    width: Annotated[int, Field(ge=1, le=2**15)]
    channels: Annotated[int, Field(ge=1, le=2**12)] = 3
    layout: Layout = "channels_first"
    resize: Literal["squash", "crop"] = "squash"
    crop_fraction: Annotated[float, Field(ge=0.01, le=2.0)] = 1.0
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    scale: Scale = 1 / 255
    mean: Any = 0.0
    std: Any = 1.0
    bgr: bool = False
    value_range: Limits | None = None
    integer_range: Limits | None = None
    float_range: Limits | None = None
    background: Literal["white", "black", "ignored"] = "white"
    as_is: bool = False
    measured: Annotated[str, Field(max_length=2000)] = ""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.height * self.width * self.channels > MOST:
            raise ValueError(f"pictures of {self.height} x {self.width} x {self.channels}, more than {MOST} numbers")
        return self


class _Function(_Any):
    name: Name
    key: str
    form: Literal["picture", "keyword", "batch"]
    height: Annotated[int, Field(ge=1, le=2**15)]
    width: Annotated[int, Field(ge=1, le=2**15)]
    layout: Layout = "channels_first"


_Pair = Annotated[list[str | bool | int | float], Field(min_length=2, max_length=2)]


class _Audio(_Any):
    features: Literal["log_mel", "mfcc", "waveform", "extractor"] = "log_mel"
    sample_rate: Side = 16000
    seconds: Annotated[float, Field(gt=0.0, le=3600.0)] | None = 2.0
    n_mels: Annotated[int, Field(ge=1, le=2**12)] = 64
    n_mfcc: Annotated[int, Field(ge=1, le=2**12)] = 40
    n_fft: Annotated[int, Field(ge=2, le=2**20)] = 1024
    hop_length: Side = 256
    layout: Layout = "channels_first"
    channel: bool = True
    standardise: bool = True
    extractor: list[_Pair] | None = None  # `sound_extractor` checks the numbers and the class name
    as_: Literal["array", "mel"] = "array"
    picture: Annotated[list[Side], Field(min_length=3, max_length=3)] | None = None


class _Text(_Any):
    tokenizer: Any  # checked by the preprocessing class
    max_length: Side | None = None
    maximum: Side = 512
    vocabulary: Side | None = None
    inputs: list[TokenInput] = Field(["input_ids"], min_length=1)
    special: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default_factory=list)
    pad_left: bool = False
    padded: Side | None = None


class _Columns(_Any):
    inner: dict[str, Any]
    names: Annotated[list[Name], Field(min_length=1)]
    mean: list[Any] | None = None
    std: list[Any] | None = None


class _Conditions(_Any):
    inner: dict[str, Any]
    names: list[str]
    lenient: bool = False
    inputs: Name = "inputs"


class _Parts(_Any):
    names: Annotated[list[Name], Field(min_length=1)]
    parts: Annotated[list[dict[str, Any]], Field(min_length=1)]
    columns: list[list[Name]] = Field(default_factory=list)


SCHEMAS: dict[str, type[Plain]] = {
    "array": _Array,
    "image": _Image,
    "function": _Function,
    "audio": _Audio,
    "text": _Text,
    "columns": _Columns,
    "conditions": _Conditions,
    "parts": _Parts,
}
"""Kind of preprocessing -> schema of its plain data. Other kinds are checked by their own class only."""
