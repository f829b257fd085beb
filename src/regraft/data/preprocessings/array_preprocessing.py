"""Preprocessing of arrays for a network's input: type and shape only, unless scaling is requested."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ...errors import DataError, near_names
from ...tensors import Tensor, torch
from ...words import counted
from ..dataset import Dataset
from ..items import alone, listed, padded_to, spread_rows, take, without_labels
from ..ranges import BYTES, Range, check_range, limits_of, usual_range
from ..readers.tables import columns_in, is_table, read_unlabelled
from .preprocessing import Preprocessing, check_scaling
from .schemas import MOST, Constant, Length, Limits, Name, Spread

__all__ = ["ArrayPreprocessing", "augmented_array"]

NOISE = 0.05
SHIFT = 0.05
SAMPLE = 2000
MOST_POSITIONS = 4096
"""Maximum number of positions with a spread of their own. Larger examples get one number, to keep the saved description small."""


@dataclass(frozen=True)
class ArrayPreprocessing(Preprocessing):
    """Pass arrays unchanged as float32, reshaped to the network's shape if only axes of length 1 differ.

    Attributes:
        shape: shape of one example as the network takes it (None: any length); None leaves shapes unchecked.
        mean: number to subtract, or one for each element of the last axis or of the whole example.
        integers: the network takes integers (token ids); they stay int64.
        spread: standard deviation of each position over the data, or one number; it scales the noise of views. None before `fit`.
        padded: shape that examples of different lengths are brought to: zeros are added at the end, what is longer is left out and said.
        value_range: (minimum, maximum) of pixels or of examples with two or more axes; later arrays are compared with it.
        columns: names of the table columns of the training data, in the order in which the network takes them; empty: there was no table.
        inferred: made from the network's input shape alone, because the network has no preprocessing of its own. Views add Gaussian noise
            of 5 % of the spread (not to integers) and shift examples with two or more axes by up to 5 % along the longest axis.
    """

    kind: ClassVar[str] = "array"
    shape: tuple[Length | None, ...] | None = None
    mean: Constant | None = None
    std: Constant | None = None
    integers: bool = False
    spread: Spread | tuple[Spread, ...] | None = None
    padded: tuple[Length, ...] | None = None
    value_range: Limits | None = None
    columns: tuple[Name, ...] = ()
    inferred: bool = False

    def __post_init__(self) -> None:
        check_scaling(self.mean, self.std)

    @classmethod
    def from_plain(cls, fields: dict[str, Any]) -> Self:
        """Make it from plain data; raise for examples that take too much memory, and for constants that do not fit the shape."""
        made = super().from_plain(fields)
        if len(set(made.columns)) < len(made.columns):
            raise DataError(f"An array preprocessing has columns that stand twice, among {listed(made.columns)}.")
        for sides in (made.padded, made.item_shape):
            if sides is not None and math.prod(sides) > MOST:
                raise DataError(f"An array preprocessing has examples of the shape {sides}; expected {MOST} numbers at most.")
        for name in ("mean", "std", "spread") if made.shape is not None and None not in made.shape else ():
            value, sides = getattr(made, name), made.item_shape or ()
            if isinstance(value, tuple) and len(value) not in (1, *sides[-1:], math.prod(sides)):
                raise DataError(
                    f"An array preprocessing has {counted(len(value), 'number')} of {name} for examples of the shape {made.shape}."
                )
        return made

    @classmethod
    def for_shape(cls, input_shape: tuple[int | None, ...], layout: str = "channels_first") -> Self:
        """Return a preprocessing that only checks arrays against the network's shape; the layout is part of the shape."""
        return cls(shape=input_shape or None)

    @property
    def fitted(self) -> bool:
        """Whether the spread of the data is known; only views need it."""
        return self.spread is not None

    @property
    def item_shape(self) -> tuple[int, ...] | None:
        """Shape of an example as the network takes it; None if any side is open."""
        if self.padded is not None:
            return self.padded
        sides = () if self.shape is None else tuple(side for side in self.shape if side is not None)
        return sides if self.shape is not None and len(sides) == len(self.shape) else None

    def fit(self, data: Dataset) -> ArrayPreprocessing:
        """Check the first example's shape and measure the spread of up to 2,000 examples."""
        if not isinstance(data[0], np.ndarray | np.generic | int | float):
            kind = f"{data.kind} examples" if data.kind != self.kind else f"of the type {type(data[0]).__name__}"
            raise DataError(
                f"The network takes arrays and the data are {kind}, such as {data.name_of(0)}; expected numbers (X, y). For files and "
                f"texts give the network's preprocessing=, such as {self._of_pictures()}."
            )
        if data.row_columns and not (self.columns and set(self.columns) <= set(data.row_columns)):
            return dataclasses.replace(self, columns=data.row_columns)._fitted(data)
        return (self if data.length_axis is None else self._for_lengths(data))._fitted(self._by_name(data))

    def _for_lengths(self, data: Dataset) -> Self:
        """Return this preprocessing for examples that differ in length; raise if the network's input is shorter than some of them."""
        longest = np.shape(data.items[0])
        shape = longest if self.shape is None or len(longest) != len(self.shape) else self.shape
        made = tuple(
            want if want and axis == data.length_axis else have for axis, (have, want) in enumerate(zip(longest, shape, strict=True))
        )
        short = next((most for have, most in zip(longest, made, strict=True) if have > most), None)
        if short is not None:
            raise DataError(
                f"Examples differ in length, and the longest has the shape {longest}; the network takes {self.shape}. Cut the "
                f"examples to a length of {short} first."
            )
        return dataclasses.replace(self, padded=made)

    def _fitted(self, data: Dataset) -> Self:
        self._arrays(take(data.items, [0]))
        shown = self._stacked(take(data.items, spread_rows(len(data), SAMPLE)))
        spread = shown.std(axis=0, dtype=np.float64).ravel()
        kept = tuple(spread.tolist()) if 1 < spread.size <= MOST_POSITIONS else float(spread.mean())
        return dataclasses.replace(self, spread=kept, value_range=None if self.integers else _range_of(shown))

    def check_values(self, data: Dataset) -> None:
        """Compare the values of the examples with those of the training data. Rows of measurements have no common range."""
        if self.value_range is not None:
            check_range(limits_of(data.items), self.value_range)
        if self.padded is not None and len(data) and np.ndim(data.items[0]) == len(self.padded):
            over = (one for one in data.items if any(map(int.__gt__, np.shape(one), self.padded)))
            long = sum(bool(np.count_nonzero(one) > np.count_nonzero(padded_to(one, self.padded))) for one in over)
            if long:
                warnings.warn(
                    f"{counted(long, 'example', verb='are', of=len(data))} longer than {self.padded}, the longest of the training data; "
                    "what is beyond is left out.",
                    stacklevel=2,
                )

    @property
    def row_columns(self) -> tuple[str, ...]:
        return self.columns

    def dataset(self, items: Any) -> Dataset:
        items = without_labels(items)
        for table in (items, alone(items)) if self.columns else ():
            known = [name for name in self.columns if name in table] if isinstance(table, Mapping) else []
            columns = columns_in(table, known)
            named = columns is not None and [*columns] != [*map(str, range(len(columns)))]
            if named or (isinstance(table, str | Path) and is_table(table)):
                return read_unlabelled(table, self.kind, columns=(), rows=self.columns)
        return self._by_name(super().dataset(items))

    def _by_name(self, data: Dataset) -> Dataset:
        """Return the data with the columns of the training data, in that order, if both are tables with names."""
        names = data.row_columns
        if not self.columns or not names or names == self.columns:
            return data
        at = {name: index for index, name in enumerate(names)}
        missing = [name for name in self.columns if name not in at]
        if missing:
            raise DataError(
                f"The network reads {counted(len(self.columns), 'column')} by name; the table has no numbers called "
                f"{listed(map(repr, missing))}{near_names(missing[0], names)} Name the columns as in training, or give an array without "
                "names, in that order."
            )
        facts = {fact["column"]: fact for fact in data.table}
        items = np.asarray(take(data.items, np.arange(len(data))))[:, [at[name] for name in self.columns]]
        return dataclasses.replace(data, items=items, table=tuple(facts[name] for name in self.columns))

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Return n arrays as the network takes them, (n, *shape) float32, or int64 if `integers`.
        `items`: (n, ...) array or n arrays of one shape; `view`: 0 for the plain arrays, k > 0 for their k-th augmented copy."""
        return torch.from_numpy(self._arrays(items, view, seeds=seeds))

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> np.ndarray:
        """Return some examples as one batch of arrays; `raw` skips mean and std. See `Preprocessing.arrays_of`."""
        plain = dataclasses.replace(self, mean=None, std=None) if raw else self
        return plain._arrays(take(data.items, indices))

    def _arrays(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> np.ndarray:
        arrays = self._as_numbers(self._stacked(items))
        shape = self._shape_for(arrays.shape[1:])
        if view:
            noise = 0.0 if self.integers or self.spread is None else NOISE * self._constant(self.spread, arrays.shape[1:])
            generators = [np.random.default_rng([seed, view]) for seed in seeds or [0] * len(arrays)]
            arrays = np.stack([augmented_array(*pair, noise=noise) for pair in zip(arrays, generators, strict=True)])
        if self.mean is not None:
            arrays = arrays - self._constant(self.mean, arrays.shape[1:])
        if self.std is not None:
            arrays = arrays / self._constant(self.std, arrays.shape[1:])
        return np.ascontiguousarray(arrays.reshape(len(arrays), *shape))

    def _stacked(self, items: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return n arrays as one, (n, ...), brought to one length if the training data differed in length."""
        arrays = [np.asarray(item) for item in items] if self.padded is not None or not isinstance(items, np.ndarray) else items
        if self.padded is not None:
            arrays = [padded_to(one, self.padded) if one.ndim == len(self.padded) else one for one in arrays]
        shapes = [] if isinstance(arrays, np.ndarray) else sorted({one.shape for one in arrays})
        if len(shapes) > 1:
            raise DataError(
                f"The examples differ in shape, such as {shapes[:3]}, and the network was adapted to examples of one shape. Bring them to "
                "one, or adapt it to examples of different lengths, which are then padded."
            )
        return np.asarray(arrays)

    def describe(self) -> str:
        kept = "integers" if self.integers else "float32"
        shape = "any shape" if self.shape is None else f"the shape {tuple('any' if side is None else side for side in self.shape)}"
        scaled = "" if self.mean is None and self.std is None else ", minus mean, divided by std"
        padded = "" if self.padded is None else f", padded with zeros at the end to {self.padded}"
        line = f"arrays: {kept} of {shape}{scaled}{padded}" + (", inferred from the network's input" if self.inferred else "")
        return line + ("; values pass as they are, without scaling" if self.inferred and not self.fitted and not self.integers else "")

    def _of_pictures(self) -> str:
        """Return an example of image settings for messages, with the network's shape if it can be that of a picture."""
        sides = self.item_shape or ()
        last = len(sides) == 3 and sides[0] not in (1, 3, 4) and sides[2] in (1, 3, 4)
        height, width, channels = (sides if last else (*sides[1:], sides[0])) if len(sides) == 3 else (224, 224, 3)
        layout = ", 'layout': 'channels_last'" if last else ""
        return f"{{'kind': 'image', 'height': {height}, 'width': {width}, 'channels': {channels}{layout}}}"

    def _as_numbers(self, arrays: np.ndarray) -> np.ndarray:
        """Convert arrays to the network's type; raise if that would lose more than precision."""
        if arrays.dtype.kind not in "biuf":
            raise DataError(f"Examples of the type {arrays.dtype} and the shape {arrays.shape[1:]} were received; expected numbers.")
        if self.integers and arrays.dtype.kind == "f" and (arrays != np.round(arrays)).any():
            odd = float(arrays[arrays != np.round(arrays)].flat[0])
            raise DataError(f"The network takes whole numbers, of tokens or categories; received {odd:g} ({arrays.dtype}). Give integers.")
        return arrays.astype(np.int64 if self.integers else np.float32)

    def _shape_for(self, received: tuple[int, ...]) -> tuple[int, ...]:
        if self.shape is None or _fits(received, self.shape):
            return received
        open_sides = iter(side for side in received if side != 1)
        squeezed = tuple(side for side in received if side != 1)
        if _fits(squeezed, tuple(side for side in self.shape if side != 1)):
            return tuple(1 if side == 1 else next(open_sides) for side in self.shape)
        picture = len(self.shape) == 3 and len(received) in (2, 3)
        hint = " For pictures to be resized to it, read the data with kind='image'." if picture else ""
        wide = len(received) == len(self.shape) == 1 and received[0] > (self.shape[0] or received[0])
        remedy = "Leave the other columns out, or name them with columns=, target= or group=." if wide else "Reshape X."
        remedy = "Give one example with an axis for the batch: X[None]." if _fits(received, self.shape[1:]) else remedy
        raise DataError(f"An example has the shape {received}; expected {self.shape}, as the network takes it. {remedy}{hint}")

    def _constant(self, value: float | tuple[float, ...], shape: tuple[int, ...]) -> np.ndarray:
        """Return a constant that broadcasts over an example: one number, one per element of the last axis, or one per position."""
        constant = np.asarray(value, dtype=np.float32)
        if constant.size in (1, shape[-1] if shape else 1):
            return constant
        if constant.size == int(np.prod(shape)):
            return constant.reshape(shape)
        raise DataError(
            f"mean, std or spread has {counted(constant.size, 'number')} for examples of the shape {shape}; expected 1, {shape[-1:]} or "
            "all."
        )


def _range_of(shown: np.ndarray) -> Range | None:
    """Return the common value range of arrays: that of pixels, or the measured one if examples have two or more axes."""
    limits = limits_of(shown)
    if limits is None or limits[0] == limits[1]:
        return None
    if shown.dtype == np.uint8:
        return BYTES
    return None if shown.ndim < 3 else usual_range(limits)


def _fits(received: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(received) == len(expected) and all(want in (None, have) for have, want in zip(received, expected, strict=True))


def augmented_array(array: np.ndarray, generator: np.random.Generator, *, noise: np.ndarray | float = 0.0) -> np.ndarray:
    """Return an example with noise, shifted along its longest axis if it has two or more axes.
    Shape and type are unchanged. A shift repeats the edge value."""
    if np.any(noise):
        array = (array + generator.standard_normal(array.shape) * noise).astype(array.dtype)
    if array.ndim < 2:
        return array
    axis = int(np.argmax(array.shape))
    most = int(array.shape[axis] * SHIFT)
    offset = int(generator.integers(-most, most + 1))
    rows = np.clip(np.arange(array.shape[axis]) - offset, 0, array.shape[axis] - 1)
    return np.take(array, rows, axis=axis)
