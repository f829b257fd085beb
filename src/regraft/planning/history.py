"""The history of a training: one mapping an epoch, and as columns."""

from __future__ import annotations

import math
from typing import Any

from ..errors import optional_import

__all__ = ["History"]

_COLUMNS = {"loss": "train_loss", "val_loss": "validation_loss", "val_accuracy": "validation_accuracy", "learning_rate": "learning_rate"}
"""What Keras calls a column -> its name in an entry."""


class History(list[dict[str, Any]]):
    """One mapping an epoch, in order; read by a name, a column as Keras has it, so that `dict(history)` has Keras' form.

    Columns are those of the training itself, and of the one on all examples that follows it, without the short trainings that were
    compared and the folds. An entry that lacks a figure has NaN; a column without figures is left out.
    """

    def keys(self) -> list[str]:
        """Return the names of the columns: some of "loss", "val_loss", "val_accuracy" and "learning_rate"."""
        return [name for name in _COLUMNS if not all(map(math.isnan, self._column(name)))]

    def __getitem__(self, key: Any) -> Any:  # an entry, some entries, or a column
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self.keys():
            raise KeyError(f"{key!r}; the history has the columns {', '.join(map(repr, self.keys()))}")
        return self._column(key)

    def _column(self, name: str) -> list[float]:
        entries = [entry for entry in self if not str(entry.get("phase", "")).startswith(("search", "fold"))]
        values = [entry.get(_COLUMNS[name]) for entry in entries]
        return [math.nan if value is None else float(value) for value in values]

    def to_frame(self) -> Any:
        """Return all entries as a table of pandas, one row an epoch, those of compared trainings included.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        return optional_import("pandas", "tables", purpose="A table of the history").DataFrame(list(self))
