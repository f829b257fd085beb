"""Evaluation of a network on labelled data: the metrics of each task, for `regraft.evaluate` and the command line."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np

from ..data import Dataset, Preprocessing, preprocessing_from_dict
from ..data.readers.tables import is_table
from ..errors import DataError, near_names
from ..files.text import notebook_html, printable_lines
from ..networks.parts.head import Head
from ..words import FIGURES, counted, metric_words, with_interval
from .metrics import confusion_matrix, judge

__all__ = ["Evaluation", "evaluated", "heads_of", "names_of", "reading_for", "task_data"]

_NAMELESS = "main"
_SHOWN = 20  # Maximum number of classes whose recall is printed


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a network on labelled data.

    Attributes:
        tasks: task name -> metrics, as `regraft.tasks.judge` returns them: "accuracy" with its 95 % interval, "per_class", …
        classes: task name -> C class names, in the order of the metrics.
        notes: notes from reading the data.

    Example:
        >>> import numpy as np, torch, regraft
        >>> layer = torch.nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.eye(2)), layer.bias.data.zero_()
        >>> net = regraft.load(torch.nn.Sequential(layer), classes=["left", "right"], inputs=(2,))
        >>> rows = np.array([[1, 0], [0, 1], [0, 1]], dtype="float32")
        >>> evaluation = regraft.evaluate(net, (rows, ["left", "right", "left"]))
        >>> round(evaluation.scores["accuracy"], 3), evaluation.recalls()
        (0.667, {'left': 0.5, 'right': 1.0})
        >>> evaluation.confusion().tolist()
        [[1, 1], [0, 1]]
    """

    tasks: Mapping[str, Mapping[str, Any]]
    classes: Mapping[str, tuple[str, ...]] = field(repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        first = next((key for key, _ in FIGURES if key in self.scores), "examples")
        told = f": {dict(FIGURES)[first]} {with_interval(self.scores, first)}" if first != "examples" else ""
        return f"<Evaluation of {counted(self.scores['examples'], 'example')}{told}>"

    def __str__(self) -> str:
        lines = []
        for task, figures in self.tasks.items():
            lines.append(f"{task}: {counted(figures['examples'], 'example')}")
            lines += [f"  {name:<24}{with_interval(figures, key)}" for key, name in FIGURES if figures.get(key) is not None]
            recalls = [(name, row) for name, row in figures["per_class"].items() if row.get("recall") is not None][:_SHOWN]
            lines += [f"  recall of {name!r:<15}{metric_words('recall', row['recall'])} of {row['examples']:,}" for name, row in recalls]
        return printable_lines("\n".join(lines))

    def _repr_html_(self) -> str:
        return notebook_html(str(self), title=repr(self).strip("<>"))

    @property
    def scores(self) -> Mapping[str, Any]:
        """The metrics of the first task."""
        return next(iter(self.tasks.values()))

    def confusion(self, task: str | None = None) -> np.ndarray:
        """Return the confusion matrix of a classification task.

        Args:
            task: name of the task. None for the first.

        Returns:
            (C, C) counts. Rows are true classes, columns are predicted classes, both in the order of `classes`.

        Raises:
            DataError: if the task does not exist, or has no confusion matrix.

        Example:
            >>> evaluation.confusion()
            array([[1, 1],
                   [0, 1]])
        """
        name, figures = self._of(task)
        if "confusion" not in figures:
            raise DataError(f"The task {name!r} has no confusion matrix; expected one in which each example is of one class.")
        return confusion_matrix(figures["confusion"], len(self.classes[name]))

    def recalls(self, task: str | None = None) -> dict[str, float | None]:
        """Return the recall of each class of a task.

        Args:
            task: name of the task. None for the first.

        Returns:
            Class name -> recall, 0 to 1; None for a class without examples.

        Raises:
            DataError: if the task does not exist, or is a regression.

        Example:
            >>> evaluation.recalls()
            {'left': 0.5, 'right': 1.0}
        """
        name, figures = self._of(task)
        if any("recall" not in row for row in figures["per_class"].values()):
            raise DataError(f"The task {name!r} is a regression, which has no recall; its figures of each output are in tasks[{name!r}].")
        return {of: row["recall"] for of, row in figures["per_class"].items()}

    def _of(self, task: str | None) -> tuple[str, Mapping[str, Any]]:
        name = next(iter(self.tasks)) if task is None else task
        if name not in self.tasks:
            raise DataError(f"Nothing was judged of a task {name!r}{near_names(str(name), self.tasks)}")
        return name, self.tasks[name]


def evaluated(net: Any, data: Dataset, *, named: bool, **running: Any) -> Evaluation:
    """Evaluate a network on data. If `named`, each task is matched to the head of its name; otherwise the first head is evaluated."""
    heads = heads_of(net, list(data.tasks)) if named else {data.name: net.head}
    found: dict[str, Mapping[str, Any]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for task, head in heads.items():
        own = task_data(data, head, task=task)
        limits = head.thresholds if head.kind == "multi-label" else None
        names = tuple(own.classes or head.classes or ())
        name = task if named else head.task
        found[name] = judge(net.logits(own, task=head.task, **running), own.targets, names or None, kind=head.kind, thresholds=limits)
        classes[name] = tuple(found[name]["per_class"])
    return Evaluation(found, classes, tuple(data.notes))


def heads_of(net: Any, tasks: list[str]) -> dict[str, Head]:
    """Return the head of each task, matched by name. The first task may also match the first head if that has the default name "main"."""
    unasked = [task for task in net.heads if task not in tasks]
    unknown = tasks[0] not in net.heads and not get_close_matches(tasks[0], unasked)
    nameless = unknown and net.head.task == _NAMELESS and _NAMELESS in unasked
    return {task: net.head if nameless and task == tasks[0] else net.head_of(task) for task in tasks}


def reading_for(net: Any, source: Any, *, target: Any) -> dict[str, Any]:
    """Return the keywords of `regraft.read` that follow from a network: its class names, and the columns of each of its inputs."""
    heads = heads_of(net, list(target)) if isinstance(target, Mapping) else {None: net.head}
    own: Preprocessing = preprocessing_from_dict(net.preprocessing.to_dict())
    return {"classes": names_of(heads), "inputs": own.input_columns if is_table(source) else None}


def names_of(heads: Mapping[Any, Head]) -> Any:
    """Return the class names of the `heads`, by task, in the form that `regraft.read` accepts; None if no head has names."""
    named = {task: head.classes for task, head in heads.items() if head.kind != "regression" and head.classes}
    return named.get(None, named or None)


def task_data(data: Dataset, head: Head, *, task: str | None = None) -> Dataset:
    """Return the examples with a known target for a task of the data (None: the first), with targets in the form of a head's outputs."""
    own = data.of_task(data.name if task is None else task)
    known = own if own.known.all() else own.subset(np.flatnonzero(own.known))
    known = _of_kind(known, head)
    return known.with_classes(head.classes) if head.classes and head.kind != "regression" else known


def _of_kind(data: Dataset, head: Head) -> Dataset:
    """Convert the targets to the kind of the head. The reader takes whole numbers and rows with a single 1 for classes."""
    if data.task in (head.kind, "classification"):
        with suppress(DataError):
            return data.as_task(head.kind)
    shown = ", ".join(map(repr, data.classes[:3])) or "numbers"
    raise DataError(
        f"The network's task {head.task!r} is of the kind {head.kind!r}; the labels of the data ({shown}) are of the kind {data.task!r}. "
        "Choose another column with target= (--target)."
    )
