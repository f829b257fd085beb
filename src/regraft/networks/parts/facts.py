"""Schema of `regraft.json` in a saved folder, validated before anything is built from it."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from ...files.schema import Plain
from ..edits import MOST, checked_coding, edit_from_dict, fits
from ..names import checked_classes

Size = Annotated[int, Field(ge=1, le=MOST)]
Index = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Shape = list[Size | None]
Kind = Literal["classification", "multi-label", "regression"]
Activation = Literal["linear", "softmax", "sigmoid"]
Real = Literal["torch.float32", "torch.float16", "torch.bfloat16", "torch.float64"]
Whole = Literal["torch.int64", "torch.int32", "torch.int16", "torch.int8", "torch.uint8", "torch.bool"]
_Edits = list[Annotated[Any, AfterValidator(edit_from_dict)]]
_Tensor = Annotated[tuple[Shape, Real | Whole], Field(strict=False)]  # a list in JSON


class _Head(Plain):
    """A head without its class weights."""

    task: str
    kind: Kind
    activation: Activation
    layer: str
    features: Size
    rows: Size
    classes: list[str] | None
    parts: list[Size] = Field(default_factory=list)
    thresholds: list[Share] = Field(default_factory=list)
    groups: list[list[Index]] = Field(default_factory=list)
    binary: bool = False
    apart: bool = False

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if self.classes is not None:
            checked_classes(self.classes)
        counts = {"classes": len(self.classes or ()), "thresholds": len(self.thresholds), "groups": len(self.groups)}
        for name, count in counts.items():
            if count not in (0, self.rows):
                raise ValueError(f"{count} {name} for {self.rows} rows")
        if self.parts and sum(self.parts) != self.rows:
            raise ValueError(f"parts of {sum(self.parts)} rows for {self.rows} rows")
        if self.binary and (self.rows != 2 or self.groups or self.parts or self.kind != "classification"):
            raise ValueError(f"a binary head of the kind {self.kind!r} with {self.rows} rows, expected two classes")
        rows = [row for group in self.groups for row in group]
        if self.groups and (not self.classes or len(set(rows)) < len(rows)):
            raise ValueError(f"{len(self.groups)} groups without names, or that have rows in common")
        if not fits(self.rows, self.features):
            raise ValueError(f"{self.rows} rows of {self.features} features, more than {MOST} numbers")
        return self


class _HeadPlace(Plain):
    """Where the code of a module computes its logits: how many products before the end, from which tensor, and what follows."""

    call: Size
    operand: Index
    end: Literal["linear", "softmax", "log_softmax", "sigmoid"]


class _Origin(Plain):
    """Source of a PyTorch module."""

    source: str
    head: str | dict[str, str] | None = None
    edits: _Edits = Field(default_factory=list)
    read: _HeadPlace | None = None
    sample: dict[str, _Tensor] | None = None
    parts: list[_Origin] | None = None


class _Network(Plain):
    """Facts needed to open the weights."""

    family: Literal["torch", "keras"] | None = None
    file: str
    origin: _Origin | None = None
    sample: dict[str, _Tensor] | None = None
    inputs: Shape | None = None
    open: dict[str, Shape] = Field(default_factory=dict)
    layers: list[str] = Field(default_factory=list)
    edits: _Edits = Field(default_factory=list)
    codes: str | None = None
    no_program: str | None = None
    held: list[str] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        _check_name(self.file)
        shapes = [shape for sample in (self.sample, self.origin and self.origin.sample) for shape, _kind in (sample or {}).values()]
        large = [shape for shape in (*shapes, self.inputs or []) if not fits(*shape)]
        if large:
            raise ValueError(f"an input of the shape {large[0]}, more than {MOST} numbers")
        for name, shape in self.open.items():
            own = (self.sample or {}).get(name, ([], ""))[0]
            if len(own) != len(shape) or any(side not in (None, other) for side, other in zip(shape, own, strict=True)):
                raise ValueError(f"open axes {shape} of the input {name!r}, whose examples have the shape {own}")
        return self


class _File(Plain):
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=0)]


class _Account(Plain):
    """Account of a change of weights."""

    matched: list[str] = Field(default_factory=list)
    reshaped: list[str] = Field(default_factory=list)
    missing: list[str] = Field(default_factory=list)
    unexpected: list[str] = Field(default_factory=list)
    kept: list[str] = Field(default_factory=list)
    renamed: list[str] = Field(default_factory=list)
    new: list[str] = Field(default_factory=list)
    dropped: list[str] = Field(default_factory=list)
    frozen: list[str] = Field(default_factory=list)
    rules: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    figures: dict[str, float] = Field(default_factory=dict)


class Facts(Plain):
    """All of `regraft.json`; the preprocessing and the rule for unknown examples are validated where they are used."""

    format: Literal[1, 2] = 1
    family: Literal["torch", "keras"]
    network: _Network
    heads: list[_Head]
    preprocessing: dict[str, Any]
    coding: Annotated[Any, AfterValidator(checked_coding)] | None = None
    lineage: list[Any] = Field(default_factory=list)
    account: _Account
    unknown: dict[str, Any] | None = None
    digest: str | None = None
    fresh: list[str] = Field(default_factory=list)
    outputs: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    files: dict[str, _File] | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.family == "torch" and (self.network.origin is None or self.network.sample is None):
            raise ValueError("a PyTorch network without 'origin' or 'sample'")
        tasks = [head.task for head in self.heads]
        if len(set(tasks)) < len(tasks) or (self.heads and self.heads[0].groups):
            raise ValueError(f"tasks {tasks[:6]} that are not different, or begin with one that has no weights of its own")
        for head in self.heads:
            if max((row for group in head.groups for row in group), default=0) >= self.heads[0].rows:
                raise ValueError(f"groups of rows that the first head, of {self.heads[0].rows} rows, does not have")
        for name in self.files or {}:
            _check_name(name)
        if self.files is not None and self.network.file not in self.files:
            raise ValueError(f"no checksum of {self.network.file!r}")
        return self


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or PurePath(name).name != name or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no file of the folder")
