"""Schema and files of the report data: `scores.json` and `report.json` of a saved folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from ..errors import DataError
from ..files.formats import member
from ..files.schema import Candidate, HistoryEntry, Interval, Plain, checked, read_json
from ..files.text import printable
from ..files.writing import write_json

SCORES = ("verdict", "scores", "baselines", "cost")  # Keys that are stored in `scores.json` and not in `report.json`
_SCORES_FILE, _FACTS_FILE = "scores.json", "report.json"
_REMEDY = "Save the result again."
Count = Annotated[int, Field(ge=0)]


class _Class(Plain):
    recall: float | None = None
    precision: float | None = None
    average_precision: float | None = None
    interval: Interval = Field(default_factory=lambda: [0.0, 1.0])
    examples: Count = 0


class _Cells(Plain):
    true: list[Count]
    predicted: list[Count]
    count: list[Count]

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if not len(self.true) == len(self.predicted) == len(self.count):
            raise ValueError(f"lists of {len(self.true)}, {len(self.predicted)} and {len(self.count)} numbers")
        return self


class _Difference(Plain):
    interval: Interval


class _Figures(Plain):
    """Metrics as returned by `judge`, with the fields that the report adds."""

    examples: Count = 0
    accuracy: float | None = None
    macro_f1: float | None = None
    micro_f1: float | None = None
    map: float | None = None
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None
    log_loss: float | None = None
    ece: float | None = None
    brier: float | None = None
    accuracy_interval: Interval | None = None
    mae_interval: Interval | None = None
    per_class: dict[str, _Class] = Field(default_factory=dict)
    confusion: _Cells | None = None
    thresholds: list[float] | None = None
    difference: _Difference | float | None = None
    kind: str | None = None
    tasks: dict[str, _Figures] = Field(default_factory=dict)
    baselines: dict[str, _Figures] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        classes, found = len(self.per_class), self.confusion
        largest = -1 if found is None else max(found.true + found.predicted, default=-1)
        if largest >= classes:
            raise ValueError(f"a confusion of {largest + 1} classes, of which {classes} have figures")
        return self


class _Strategy(Plain):
    name: str | None = None
    chosen: str | None = None
    reasons: list[str] = Field(default_factory=list)
    settings: dict[str, Any] = Field(default_factory=dict)


class _Data(Plain):
    examples: Count | None = None
    classes: list[str] | Count | None = None
    counts: dict[str, Count] = Field(default_factory=dict)
    split: dict[str, Count] = Field(default_factory=dict)
    read: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class _Item(Plain):
    name: str = ""
    true: str = ""
    predicted: str = ""
    probability: float | None = None
    media: str | None = None
    media_kind: str | None = None
    text: str | None = None


class _Bin(Plain):
    examples: Count = 0
    probability: float
    accuracy: float
    interval: Interval


class _Account(Plain):
    rules: dict[str, str] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)
    figures: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        wrong = [name for name, names in (self.model_extra or {}).items() if not isinstance(names, list)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no list of names")
        return self


class _Facts(Plain):
    """All data of the page."""

    title: str | None = None
    verdict: Annotated[str, Field(min_length=1)]
    created: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    network: dict[str, Any] = Field(default_factory=dict)
    data: _Data | None = None
    preprocessing: str | None = None
    strategy: _Strategy | None = None
    history: list[HistoryEntry] = Field(default_factory=list)
    scores: dict[str, _Figures] = Field(default_factory=dict)
    baselines: dict[str, _Figures] = Field(default_factory=dict)
    account: _Account | None = None
    cost: dict[str, Annotated[float, Field(ge=0.0)]] = Field(default_factory=dict)
    call: str | None = None
    reliability: list[_Bin] = Field(default_factory=list)
    worst: list[_Item] = Field(default_factory=list)
    candidates: list[Candidate] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


def write_facts(folder: str | Path, facts: dict[str, Any], *, scores: Sequence[str] = SCORES) -> Path:
    """Write the report data to a folder, so that the page can be made again. Return the path of `report.json`."""
    write_json(Path(folder) / _SCORES_FILE, {name: facts[name] for name in scores if name in facts}, default=str)
    write_json(Path(folder) / _FACTS_FILE, {name: value for name, value in facts.items() if name not in scores}, default=str)
    return Path(folder) / _FACTS_FILE


def read_facts(folder: str | Path) -> dict[str, Any]:
    """Read and check the data that `write_facts` wrote."""
    facts: dict[str, Any] = {}
    for name in (_SCORES_FILE, _FACTS_FILE):  # earlier versions wrote everything to report.json
        source = member(Path(folder), name)
        if not source.is_file() and name == _FACTS_FILE:
            raise DataError(
                f"{printable(folder)} holds no {name}; expected a folder that regraft adapt --out, or result.save(), has written."
            )
        if source.is_file():
            found = read_json(source, "report", remedy=_REMEDY)
            if not isinstance(found, dict):
                raise DataError(f"{printable(source)} holds a {type(found).__name__}; expected an object with the facts of a report.")
            facts |= {name: _with_present_names(value, name) for name, value in found.items()}
    checked(facts, _Facts, what=f"The report in {printable(folder)!r}", error=DataError)
    return facts


_EARLIER = {name: name.replace("items", "examples") for name in ("items", "old_items", "new_items", "frozen_forward_items")}


def _with_present_names(value: Any, part: str) -> Any:
    """Return a part of the facts with "examples" where earlier versions wrote "items". Keys of other parts may be class names."""
    if isinstance(value, list) and part == "reliability":
        return [_with_present_names(one, part) for one in value]
    if not isinstance(value, dict) or part not in {"scores", "baselines", "cost", "reliability", "data"}:
        return value
    inner = value if part == "data" else {name: _with_present_names(one, part) for name, one in value.items()}
    return {_EARLIER.get(name, name) if isinstance(one, int | float) else name: one for name, one in inner.items()}
