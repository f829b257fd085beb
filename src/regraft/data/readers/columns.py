"""Number columns beside the examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import DataError
from ...words import counted
from ..items import as_numpy, is_frame
from .targets import is_missing

_TYPES = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers", "M": "dates", "m": "times"}
"""By NumPy kind; any other kind is "texts"."""


def column_facts(name: str, values: np.ndarray, *, use: str) -> dict[str, Any]:
    """Return how a table column was read. `values`: (N,)."""
    kind = values.dtype.kind
    facts: dict[str, Any] = {"column": name, "type": _TYPES.get(kind, "texts"), "use": use}
    if kind in "iuf":
        known = values[np.isfinite(values)]
        facts["values"] = {"least": _number(known.min()), "most": _number(known.max())} if known.size else {}
        missing = len(values) - len(known)
    else:
        missing = sum(value is None or value != value for value in values.tolist())
    return facts | ({"missing": missing} if missing else {})


def _number(value: np.generic) -> float:
    """Return a number with as many digits as its type holds: 0.1 for a float32, not 0.10000000149."""
    return float(str(value)) if isinstance(value, np.floating) else value.item()


def column_array(columns: Any, count: int) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return the columns for a source without columns of its own: (N, k) float32 and k names, or None and no names.
    `columns`: (N, k) or (N,) array, a mapping from name to (N,) array, a data frame, or None. Columns of an array are named "column 0",
    …."""
    if columns is None:
        return None, ()
    if isinstance(columns, Mapping):
        return column_numbers({str(name): as_numpy(values) for name, values in columns.items()}, count)
    array = as_numpy(columns)
    if is_frame(columns) and array.ndim == 2:
        return column_numbers({str(name): as_numpy(columns[name]) for name in columns.columns}, count)
    if array.dtype.kind in "US":
        raise DataError(
            f"columns={columns!r} names columns, and this source has none; expected an array ({count}, k), or a mapping from name to array."
        )
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"columns has the shape {array.shape}; expected ({count}, k): k numbers beside each example.")
    return column_numbers({f"column {at}": array[:, at] for at in range(array.shape[1])}, count)


def column_numbers(named: Mapping[str, np.ndarray], count: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return named columns, (N,) each, as one array (N, k) float32 and the k names. A missing number becomes NaN."""
    if not named:
        raise DataError(f"columns={list(named)} names nothing; expected one column or more, or leave it out.")
    for name, values in named.items():
        if values.shape != (count,):
            raise DataError(
                f"Column {name!r} has the shape {values.shape} for {counted(count, 'example')}; expected one number for each example: "
                f"({count},)."
            )
    return np.column_stack([_numbers(name, values) for name, values in named.items()]).astype(np.float32), tuple(named)


def weight_numbers(weight: Any, count: int) -> np.ndarray | None:
    """Return the weight of each example, (N,) float32; None if `weight` is None. `weight`: N numbers, 0 or more, not all 0."""
    if weight is None:
        return None
    if isinstance(weight, str):
        raise DataError(
            f"sample_weight={weight!r} names a column, and this source has none; expected an array of {counted(count, 'number')}."
        )
    numbers = column_numbers({"sample_weight": as_numpy(weight)}, count)[0][:, 0]
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if len(wrong) or not numbers.any():
        found = f"example {wrong[0]} has {numbers[wrong[0]]:g}" if len(wrong) else "all are 0"
        raise DataError(f"sample_weight: {found}; expected a number for each example, 0 or more, and some above 0.")
    return np.asarray(numbers)


def _numbers(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    listed = values.tolist()
    odd = next((value for value in listed if not isinstance(value, int | float) and not is_missing(value)), None)
    if odd is not None:
        raise DataError(f"Column {name!r} holds {odd!r} ({type(odd).__name__}); expected numbers. Give texts and codes as numbers first.")
    return np.array([np.nan if is_missing(value) else float(value) for value in listed])
