"""Preprocessing of examples with number columns: the named inputs of another preprocessing, and the scaled columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError, near_names
from ...networks.parts.protocols import Inputs
from ...words import counted
from ..dataset import Dataset
from ..items import without_labels
from ..readers.tables import is_table, read_unlabelled
from .preprocessing import WrappedPreprocessing, check_scaling
from .schemas import Constants, Names


@dataclass(frozen=True)
class ColumnsPreprocessing(WrappedPreprocessing):
    """Preprocess examples with `inner` and add number columns, each minus its mean and divided by its standard deviation, float32.
    `inferred`: made from the network's input shape alone; `inner` says so for the examples. Views are those of `inner`; all views share the
    columns."""

    kind: ClassVar[str] = "columns"
    names: Names  # the k columns, in the order in which the network takes them
    mean: Constants | None = None  # mean of each column over the data; None before `fit`
    std: Constants | None = None  # standard deviation of each column over the data, 1 for a constant column; None before `fit`
    inferred: bool = False

    def __post_init__(self) -> None:
        check_scaling(self.mean, self.std)
        wrong = [len(part) for part in (self.mean, self.std) if part is not None and len(part) != len(self.names)]
        if not self.names or len(set(self.names)) != len(self.names) or wrong:
            raise DataError(
                f"Columns preprocessing was given the names {list(self.names)} and mean and std of {wrong or len(self.names)} numbers; "
                "expected one or more different names, and a number for each."
            )

    @property
    def fitted(self) -> bool:
        return self.inner.fitted and self.mean is not None and self.std is not None

    def fit(self, data: Dataset) -> ColumnsPreprocessing:
        """Measure the unknown means and standard deviations of the columns, and fit `inner` if it is not fitted."""
        inner = self.inner if self.inner.fitted else self.inner.fit(data)
        rows = self._rows(data).astype(np.float64)
        mean = self.mean or tuple(rows.mean(axis=0).tolist())
        std = self.std or tuple(np.where(np.ptp(rows, axis=0) > 0, rows.std(axis=0), 1.0).tolist())
        return dataclasses.replace(self, inner=inner, mean=mean, std=std)

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Inputs:
        """Raise: raw examples have no columns. `batch_of` takes them from a data set."""
        raise DataError(f"{counted(len(items), 'raw example', verb='were')} received. {self._wanted()}")

    def added(self, data: Dataset, indices: np.ndarray, *, raw: bool = False) -> dict[str, np.ndarray]:
        """Return "columns": (n, k) float32, scaled unless `raw`."""
        rows = self._rows(data)[indices]
        if not raw:
            rows = (rows - np.asarray(self.mean or 0.0)) / np.asarray(self.std or 1.0)
        return {"columns": np.asarray(rows, np.float32)}

    def dataset(self, items: Any) -> Dataset:
        items = without_labels(items)
        if is_table(items, self.names):
            return read_unlabelled(items, self.item_kind, columns=self.names, rows=self.row_columns)
        if not isinstance(items, Dataset):
            raise DataError(f"Examples without columns were received ({type(items).__name__}). {self._wanted()}")
        self._rows(items)
        return self.inner.dataset(items)

    def describe(self) -> str:
        return f"{self.inner.describe()}; beside each example {counted(len(self.names), 'column')}: {', '.join(self.names)}"

    def _rows(self, data: Dataset) -> np.ndarray:
        """Return the wanted columns of the data, (N, k), in the order of `names`; raise if any is missing."""
        if data.columns is None:
            raise DataError(f"The data, {counted(len(data), 'example')}, have no columns. {self._wanted()}")
        missing = [name for name in self.names if name not in data.column_names]
        if missing:
            found = ", ".join(map(repr, missing))
            raise DataError(f"The data lack the columns {found} that this network takes{near_names(missing[0], data.column_names)}")
        return data.columns[:, [data.column_names.index(name) for name in self.names]]

    def _wanted(self) -> str:
        names = ", ".join(map(repr, self.names))
        return (
            f"This network takes columns {names} beside each example; give a Dataset read with columns=[{names}], or a table that has them."
        )
