"""Edits of a network as plain data: one frozen dataclass per kind of edit, the same in every family.

An edit describes the structure, not the weights: opening a saved network replays its edits and then loads the weights. `Network.edited`
applies an edit; `regraft.json` of a saved folder stores edits as dictionaries.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from ..errors import NetworkError, near_names
from .parts.coding import Coding
from .parts.head import ACTIVATIONS, Head
from .parts.taps import Tap

FORMS = ("lhuc", "film")
MOST = 2**28  # Largest number of elements of a tensor that is built from a saved shape: 1 GiB of float32
Size = Annotated[int, Field(ge=1, le=MOST, strict=True)]
Count = Annotated[int, Field(ge=1, le=2**16, strict=True)]
Flag = Annotated[bool, Field(strict=True)]
_CONFIG = ConfigDict(allow_inf_nan=False)


def fits(*sides: int | None) -> bool:
    """Return whether a tensor with these sides has at most `MOST` elements; an unknown side counts as 1."""
    return math.prod(side or 1 for side in sides) <= MOST


def checked_coding(coding: Coding | Mapping[str, Any]) -> Coding:
    """Return a valid coding; plain data are validated and converted."""
    if isinstance(coding, Coding):
        return coding
    made = _CODING.validate_python(coding)
    if not 1 <= made.size <= 2**16:
        raise ValueError(f"codes of {made.size} numbers; expected 1 to {2**16}")
    if len(set(made.conditions)) < len(made.conditions) or not set(made.learned) <= set(made.conditions):
        raise ValueError(f"conditions {made.conditions[:6]} that are not different, or lack some of those learned, {made.learned[:6]}")
    return made


_CODING: TypeAdapter[Coding] = TypeAdapter(Coding)


def _tap(plain: Any) -> Any:
    return (
        Tap(str(plain[0]), tuple(map(str, plain[1])))
        if isinstance(plain, list) and len(plain) == 2 and isinstance(plain[1], list)
        else plain
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Tap):
        return [value.block, list(value.pools)]
    return value.to_dict() if isinstance(value, Coding) else list(map(_plain, value)) if isinstance(value, tuple) else value


@dataclass(frozen=True, config=_CONFIG)
class Edit:
    """One change of a network. `kind` is its name in a saved folder; `done` completes the error "… cannot be …"."""

    kind: ClassVar[str] = ""
    done: ClassVar[str] = "changed"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data without the fields that equal their default."""
        values = {one.name: (getattr(self, one.name), one.default) for one in fields(self)}
        return {"edit": self.kind, **{name: _plain(value) for name, (value, default) in values.items() if value != default}}


@dataclass(frozen=True, config=_CONFIG)
class _HeadEdit(Edit):
    """A linear layer for a task: `rows` class weights of `features` numbers each."""

    task: str
    rows: Size
    features: Size
    activation: Literal["linear", "softmax", "sigmoid"] = "linear"
    bias: Flag = True
    parts: tuple[Size, ...] = ()

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not fits(self.rows, self.features):
            raise ValueError(f"{self.rows} rows of {self.features} features, more than {MOST} numbers")
        if self.parts and sum(self.parts) != self.rows:
            raise ValueError(f"parts of {sum(self.parts)} rows for {self.rows} rows")
        return self

    @classmethod
    def of(cls, head: Head, **more: Any) -> Self:
        """Return the edit that adds a head of the size of `head`; `more` sets the fields of the subclass."""
        more |= {"activation": head.activation, "bias": bool(head.bias.any()), "parts": head.parts}
        return cls(task=head.task, rows=len(head.in_layer().weight), features=head.features, **more)

    def empty(self, task: str) -> Head:
        """Return a head of this size for a `task`, with zero class weights; the bias is 1 if the layer has one, so that it is created."""
        weight, bias = np.zeros((self.rows, self.features), np.float32), np.full(self.rows, self.bias, np.float32)
        return Head(task, None, "classification", self.activation, "", weight, bias, self.parts)


@dataclass(frozen=True, config=_CONFIG)
class Rows(_HeadEdit):
    """New class weights for the head of a task, or a first head. `branch` is True for every head but the first."""

    kind: ClassVar[str] = "head"
    done: ClassVar[str] = "given another head"
    branch: Flag = False


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Stack(_HeadEdit):
    """A new only head on the logits of the first head, which pass through the activation `between` and dropout."""

    kind: ClassVar[str] = "stack"
    done: ClassVar[str] = "given another head"
    between: str
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None

    @model_validator(mode="after")
    def _has_activation(self) -> Self:
        if self.between not in ACTIVATIONS:
            raise ValueError(f"the activation {self.between!r}, which is not known")
        return self


@dataclass(frozen=True, config=_CONFIG)
class Cut(Edit):
    """The network ends at the output of a `block`."""

    kind: ClassVar[str] = "cut"
    done: ClassVar[str] = "cut"
    block: str


@dataclass(frozen=True, config=_CONFIG)
class Taps(Edit):
    """The output is the concatenation of the pooled outputs of several blocks."""

    kind: ClassVar[str] = "taps"
    done: ClassVar[str] = "read at its blocks"
    points: tuple[Annotated[Tap, BeforeValidator(_tap)], ...]


@dataclass(frozen=True, config=_CONFIG)
class Channels(Edit):
    """The first convolution reads `count` channels."""

    kind: ClassVar[str] = "channels"
    done: ClassVar[str] = "given other channels"
    count: Count


@dataclass(frozen=True, config=_CONFIG)
class Columns(Edit):
    """The head also reads `count` extra numbers per example."""

    kind: ClassVar[str] = "columns"
    done: ClassVar[str] = "given further inputs"
    count: Count


@dataclass(frozen=True, config=_CONFIG)
class InputLayer(Edit):
    """A linear layer over the features (channels) of the input, before the network."""

    kind: ClassVar[str] = "entrance"
    done: ClassVar[str] = "given another input"


@dataclass(frozen=True, config=_CONFIG)
class Codes(Edit):
    """The network takes a condition for each example and reads its code."""

    kind: ClassVar[str] = "codes"
    done: ClassVar[str] = "given codes"
    coding: Annotated[Coding, BeforeValidator(checked_coding)]


@dataclass(frozen=True, config=_CONFIG)
class FoldedCode(Edit):
    """The code of one condition folded into the biases; the input "condition" is removed. The layers `biased` gained a bias for it."""

    kind: ClassVar[str] = "folded"
    biased: tuple[str, ...] = ()


@dataclass(frozen=True, config=_CONFIG)
class AddedBiases(Edit):
    """A bias added to `layers` that had none."""

    kind: ClassVar[str] = "biased"
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, config=_CONFIG)
class ScaleShift(Edit):
    """A per-channel scale and shift at the hook `points`; `Network.settled` folds them into the weights."""

    kind: ClassVar[str] = "scale_shift"
    done: ClassVar[str] = "scaled or shifted"
    form: Annotated[str, Field(pattern=f"^({'|'.join(FORMS)})$")]
    points: tuple[str, ...]


@dataclass(frozen=True, config=_CONFIG)
class LowRank(Edit):
    """W + (alpha / rank) B A in place of W in these `layers`; `Network.settled` adds the product to W."""

    kind: ClassVar[str] = "low_rank"
    done: ClassVar[str] = "changed by low-rank matrices"
    rank: Size
    alpha: Annotated[float, Field(gt=0.0)]
    layers: tuple[str, ...]

    def check(self, faults: Mapping[str, str | None]) -> None:
        """Raise unless each layer can be changed so; `faults` says of every layer of a network why it cannot, or None."""
        unknown = [name for name in self.layers if name not in faults]
        if unknown:
            fits = [name for name, fault in faults.items() if fault is None]
            raise NetworkError(f"layers={unknown[0]!r}: the network has no layer of that name{near_names(unknown[0], fits)}")
        wrong = [f"{name!r}, {faults[name]}" for name in self.layers if faults[name]]
        if wrong:
            raise NetworkError(
                f"Low-rank matrices change linear layers and plain convolutions; received {'; '.join(wrong)}. Leave them out."
            )


_KINDS: Mapping[str, type[Edit]] = {
    kind.kind: kind for kind in (Rows, Stack, Cut, Taps, Channels, Columns, InputLayer, Codes, FoldedCode, AddedBiases, ScaleShift, LowRank)
}


TRAINING = (ScaleShift, LowRank)  # Edits that put a network into its training form; it must be settled before other edits, saving or export


def edit_from_dict(plain: Mapping[str, Any]) -> Edit:
    """Return the edit of the plain data that `to_dict` wrote."""
    name = plain.get("edit") if isinstance(plain, Mapping) else plain
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise NetworkError(f"The edit {name!r} is unknown{near_names(str(name), _KINDS)}")
    given = {key: value for key, value in plain.items() if key != "edit"}
    if kind is Stack and "between" not in given:  # older folders
        given["between"] = given.pop("activation", None)
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        what = f"lacks {place!r}" if first["type"] == "missing" else f"{place or 'is wrong'}: {said}"
        raise NetworkError(f"The edit {name!r} {what}.") from error
