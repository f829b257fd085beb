"""Predictions: from logits to labels and probabilities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from scipy.special import expit, softmax

from ..errors import NetworkError, RegraftError, optional_import
from ..files.formats import reason_of
from ..files.text import printable
from ..tensors import Tensor, torch
from ..words import counted
from .padding import CHUNK, by_length, skips_padding, sorts_by_length
from .parts.head import Head
from .parts.protocols import Inputs, Preprocessing, by_name, on_device

T = TypeVar("T")
_SHOWN = 6  # Maximum number of labels in the short form of predictions
Run = Callable[..., np.ndarray]  # A function that runs another one over batches of examples, with the signature of `concatenated`


class _Predictor(Protocol):
    """A network, or an engine that serves one without PyTorch."""

    preprocessing: Preprocessing
    sample: Inputs

    def mode_(self, training: bool) -> None:
        """Switch to training or inference mode."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a network for N examples.
    `tasks`: the predictions of every task, by name; the other fields are those of the first."""

    labels: list[str]  # one class name per example; for multi-label, the names joined by "|"; for regression, the numbers as text
    probabilities: np.ndarray = field(repr=False)  # (N, C); for regression, the values
    classes: tuple[str, ...]
    unknown: np.ndarray | None = None  # (N,) whether an example belongs to none of the classes; None if that was not requested
    tasks: Mapping[str, Predictions] = field(default_factory=dict, repr=False)
    values: bool = False  # whether `probabilities` holds the values of a regression
    notes: tuple[str, ...] = field(default=(), repr=False)  # messages from the computation, for example which engine ran

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        first = ", ".join(self.labels[:_SHOWN]) + (", …" if len(self) > _SHOWN else "")
        return printable(f"<Predictions of {counted(len(self), 'example')}: {first}>", width=200)

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with one row per example: "label", "unknown" (if requested), and one column per class.
        A class column "p(NAME)" holds the probability; a regression column "NAME" holds the value. Columns of further tasks are prefixed
        with the task's name: "colour.label", "colour.p(red)"."""
        first = next(iter(self.tasks), None)
        columns = {f"{task}.{name}": values for task, one in self.tasks.items() if task != first for name, values in one._columns().items()}
        return optional_import("pandas", "tables", purpose="A table of predictions").DataFrame({**self._columns(), **columns})

    def _columns(self) -> dict[str, Any]:
        strange = {} if self.unknown is None else {"unknown": self.unknown}
        names = self.classes if self.values else [f"p({name})" for name in self.classes]
        return {"label": self.labels, **strange, **dict(zip(names, self.probabilities.T, strict=True))}


def concatenated(function: Callable[[Any, Inputs], Tensor], network: _Predictor, *, items: Any, batch_size: int) -> np.ndarray:
    """Run a function of a network over batches of `items` in inference mode; return the concatenated results, (N, …) float32.
    Results of examples that are split into windows are averaged."""
    network.mode_(False)
    with torch.no_grad():
        preprocessing = network.preprocessing
        windows = preprocessing.windows(preprocessing.dataset(items))
        sample = next(iter(by_name(network.sample).values()))  # on the network's device

        def run(batch: Inputs) -> list[Tensor]:
            return [of_batch(partial(function, network), network, batch=on_device(batch, sample.device)).float().cpu()]

        masked, skips, parts = sorts_by_length(network.sample), None, list[np.ndarray]()
        for batch in preprocessing.batches(windows, max(batch_size, CHUNK) if masked else batch_size):
            skips = skips_padding(run, batch) if skips is None else skips
            parts += [made.numpy() for made in by_length(run, batch, batch_size=batch_size, skips=skips)]
    made = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    return made if windows is items else preprocessing.averaged(made, windows.items)


def of_batch(function: Callable[[Inputs], T], network: _Predictor, *, batch: Inputs) -> T:
    """Return the result of a function for one batch; errors of unsuitable inputs are explained as `NetworkError`."""
    try:
        return function(batch)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, RegraftError | torch.OutOfMemoryError):
            raise
        names = list(network.sample) if isinstance(network.sample, dict) else []
        missing = [name for name in names if name not in batch] if isinstance(batch, dict) else names[1:]
        given, known = _shapes(batch), _shapes(network.sample)
        spans = _spans(batch) if isinstance(error, IndexError) and not missing else ""
        if spans:
            raise NetworkError(
                f"The network cannot run on examples of the numbers {spans}: it has no row for some of them. Expected numbers of tokens or "
                f"categories that it knows. ({reason_of(error)})"
            ) from error
        if not missing and given == known:
            raise
        if not missing:
            raise NetworkError(
                f"The network cannot run on examples of the shape and type {given}; it was opened with {known}. Give examples of that "
                f"shape, or a preprocessing= that makes them. ({reason_of(error)})"
            ) from error
        raise NetworkError(
            f"The network takes the inputs {', '.join(map(repr, names))}, and the examples do not give {' and '.join(map(repr, missing))}. "
            f"Where {missing[0]!r} is the code of a condition, regraft.adapt_condition(net, data, input={missing[0]!r}) learns it; where "
            f"it is at hand, give it with the others, by name. (Without it: {str(error).partition(chr(10))[0]})"
        ) from error


def _spans(batch: Inputs) -> str:
    """Return the smallest and the largest number of each input of whole numbers; "" if there is none."""
    whole = {name: tensor for name, tensor in by_name(batch).items() if not tensor.is_floating_point() and tensor.numel()}
    return ", ".join(f"{int(tensor.min())} to {int(tensor.max())}" + f" in {name!r}" * bool(name) for name, tensor in whole.items())


def _shapes(batch: Inputs) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape[1:])} {tensor.dtype}".strip() for name, tensor in by_name(batch).items())


def predictions(raw: np.ndarray, head: Head) -> Predictions:
    """Return the labels and probabilities of logits `raw` (N, C).
    The kind of the `head` decides: "classification" (softmax, one label), "multi-label" (sigmoid, every label at or above its threshold) or
    "regression". A head without class names gets "0", "1", …."""
    names = head.classes if head.classes is not None else tuple(str(index) for index in range(raw.shape[1]))
    values = np.asarray(raw, np.float64)
    if head.kind == "regression":
        return Predictions([", ".join(f"{value:g}" for value in row) for row in raw], raw, names, values=True)
    if head.kind == "multi-label":
        scores, least = expit(values), head.thresholds or (0.5,) * len(names)
        present = [[name for name, score, low in zip(names, row, least, strict=True) if score >= low] for row in scores]
        return Predictions(["|".join(labels) for labels in present], scores, names)
    scores = softmax(values, axis=1)
    return Predictions([names[index] for index in scores.argmax(1)], scores, names)


def result_head(made: Tensor) -> Head:
    """Return a head that stands for the output `made` (N, C) of a network without one: probabilities if each row sums to 1, else logits."""
    if made.ndim != 2:
        raise NetworkError(
            f"Received a network without a head, whose result has the shape {tuple(made.shape)} for {counted(len(made), 'example')}; "
            "expected one score a class for each. Give it a head with regraft.retarget."
        )
    probable = bool((made >= 0).all()) and bool(torch.allclose(made.sum(1), torch.ones_like(made[:, 0]), atol=1e-4))
    kind, count = "classification" if made.shape[1] > 1 else "regression", made.shape[1]
    return Head("main", None, kind, "softmax" if probable else "linear", "", np.zeros((count, 0), np.float32), np.zeros(count, np.float32))


def together(tasks: Mapping[str, Predictions]) -> Predictions:
    """Return the predictions of the first task, with those of all `tasks` attached."""
    return replace(next(iter(tasks.values())), tasks=tasks)


def grouped_scores(raw: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """Return the log probabilities (N, G) of groups of classes: the log of the summed softmax of `raw` (N, C) over each group."""
    chances = raw.log_softmax(1)
    return torch.stack([chances[:, list(members)].logsumexp(1) for members in groups], 1)
