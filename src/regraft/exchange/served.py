"""ONNX files written by regraft, run by ONNX Runtime without PyTorch: labels, probabilities and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Preprocessing, preprocessing_from_dict
from ..errors import DataError, NetworkError
from ..files.onnx_form import read_onnx, weights_apart
from ..files.text import printable
from ..networks.names import checked_classes
from ..networks.onnx.metadata import TaskFacts, own_facts
from ..networks.onnx.session import NUMBERS, run_session, session_of
from ..networks.parts.coding import Coding, without_conditions
from ..networks.parts.head import Head, head_called
from ..networks.predictions import Predictions, predictions, together

__all__ = ["ServedNetwork", "serve"]

_BATCH = 64


@dataclass(frozen=True)
class ServedNetwork:
    """Network in an ONNX file, for prediction only."""

    session: Any
    heads: dict[str, Head]  # by task, with class names, kinds and thresholds; without weights
    preprocessing: Preprocessing  # from raw examples to network inputs
    coding: Coding | None  # the conditions whose codes are in the file; None if there are none
    inside: bool  # whether the preprocessing is part of the graph

    @property
    def head(self) -> Head:
        """The first head."""
        return next(iter(self.heads.values()))

    @property
    def sample(self) -> dict[str, np.ndarray]:
        """One example of zeros for each input of the graph, by name. Free axes have size 1."""
        inputs = self.session.get_inputs()
        return {one.name: np.zeros([side if isinstance(side, int) else 1 for side in one.shape], NUMBERS[one.type]) for one in inputs}

    def head_of(self, task: str | None) -> Head:
        """Return the head of a task; the first one for None."""
        return self.head if task is None else head_called(self.heads, task)

    def logits(self, items: Any, *, task: str | None = None) -> np.ndarray:
        """Return the logits (N, C) float32 of a task, by default the first."""
        return self._scores(items)[self.head_of(task).task]

    def predict(self, items: Any, condition: str | None = None, *, unknown: bool = False) -> Predictions:
        """Return labels and probabilities for every task; those of the first task are the main result.

        `condition` applies to all examples: a condition name in the file, or "mean". With None each example uses its own condition, or else
        the mean code.
        """
        if unknown:
            raise NetworkError("unknown=True: an ONNX file holds no rule for unknown examples. Give the saved folder instead of the file.")
        if condition is not None and self.coding is None:
            raise NetworkError(f"Received condition={condition!r}; this file knows no conditions. Leave it out.")
        row = None if condition is None or self.coding is None else self.coding.row(condition)
        raw = self._scores(items if row is None else without_conditions(items), row=row)
        return together({task: predictions(scores, self.heads[task]) for task, scores in raw.items()})

    def _scores(self, items: Any, *, row: int | None = None) -> dict[str, np.ndarray]:
        names = [one.name for one in self.session.get_outputs()]
        parts: dict[str, list[np.ndarray]] = {task: [] for task in self.heads}
        windows = self.preprocessing.windows(self.preprocessing.dataset(items))
        for feeds in self._feeds(windows, row=row):
            outputs = dict(zip(names, run_session(self.session, feeds), strict=True))
            for task, head in self.heads.items():
                parts[task].append(outputs[_output(head, alone=len(self.heads) == 1)])
        return {task: self.preprocessing.averaged(np.concatenate(found), windows.items) for task, found in parts.items()}

    def _feeds(self, items: Any, *, row: int | None) -> Iterator[dict[str, np.ndarray]]:
        """Yield the inputs of the graph by name, batch by batch."""
        inputs = {one.name: NUMBERS[one.type] for one in self.session.get_inputs()}
        for made in self.preprocessing.array_batches(items, _BATCH, raw=self.inside):
            named = dict(made) if isinstance(made, dict) else {"": made}
            count = len(next(iter(named.values())))
            if "condition" in inputs and (row is not None or "condition" not in named):
                named["condition"] = np.full(count, row or 0, np.int64)
            free = [name for name in inputs if name not in named]
            left = [name for name in named if name not in inputs]
            if len(free) != len(left) or len(free) > 1:
                raise DataError(f"The file takes the inputs {', '.join(inputs)}; the examples give {', '.join(named) or 'none'}.")
            named |= {name: named.pop(own) for name, own in zip(free, left, strict=True)}
            yield {name: np.ascontiguousarray(values, inputs[name]) for name, values in named.items()}


def serve(path: Path) -> ServedNetwork:
    """Open an ONNX file that regraft wrote, to run it with ONNX Runtime.
    Class names, kinds, thresholds and preprocessing come from the file's metadata."""
    model, texts = read_onnx(path)
    shown = repr(printable(path))
    facts = own_facts(texts, what=shown)
    if facts is None:
        raise NetworkError(
            f"{shown} was not written by regraft: its metadata hold {', '.join(map(repr, sorted(texts)[:6])) or 'nothing'}, and not the "
            "tasks and the preprocessing of a network. Open it with regraft.load, save it, and give the folder."
        )
    model, weights = weights_apart(model)
    session = session_of(model.SerializeToString(), what=shown, weights=weights)
    unknown = [one.type for one in session.get_inputs() if one.type not in NUMBERS]
    if unknown:
        raise NetworkError(f"{shown} takes inputs of the type {unknown[0]}; expected numbers. It was not written by regraft.")
    widths = {one.name: one.shape[-1] for one in session.get_outputs()}
    heads = {task: _head(task, one, widths=widths, alone=len(facts.tasks) == 1) for task, one in facts.tasks.items()}
    if not heads:
        raise NetworkError(f"{shown} has no task: its outputs are {', '.join(widths)}. Give a network with a head.")
    try:
        preprocessing = preprocessing_from_dict(facts.preprocessing)
    except DataError as error:
        raise NetworkError(f"The preprocessing of {shown} cannot be used: {error}") from error
    conditions = tuple(facts.conditions or ())[1:]
    coding = Coding(1, conditions) if facts.conditions else None
    return ServedNetwork(session, heads, preprocessing, coding, facts.preprocessing_inside)


def _head(task: str, facts: TaskFacts, *, widths: Mapping[str, Any], alone: bool) -> Head:
    classes = checked_classes(facts.classes) if facts.classes else None
    empty = Head(task, classes, facts.kind, facts.activation, "", np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
    name = _output(empty, alone=alone)
    width = widths.get(name)
    if not isinstance(width, int) or (classes is not None and len(classes) != width):
        received = f"{width} columns" if name in widths else "no such output"
        raise NetworkError(
            f"The task {task!r} of the metadata expects the output {name!r} with {len(classes or ()) or 'its'} columns; the graph has "
            f"{received}. The file is damaged, or was changed."
        )
    limits = tuple(facts.thresholds) if facts.thresholds else None
    if limits is not None and len(limits) != width:
        raise NetworkError(f"The task {task!r} has {len(limits)} thresholds for {width} labels. The file is damaged, or was changed.")
    return replace(empty, weight=np.zeros((width, 0), np.float32), bias=np.zeros(width, np.float32), thresholds=limits)


def _output(head: Head, *, alone: bool) -> str:
    kind = "value" if head.kind == "regression" else "logits"
    return kind if alone else f"{head.task}.{kind}"
