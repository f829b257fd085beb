"""Base class of all preprocessings: from raw examples to the tensors that a network takes.

Each kind has its own file in this package. A subclass registers itself under its `kind`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from ...errors import DataError, SettingError, near_names
from ...files.schema import checked, schema_of
from ...networks.parts.protocols import Inputs
from ...tensors import Tensor, torch
from ..dataset import Dataset, unlabelled
from ..decoding.threads import prefetched
from ..items import alone, as_frame, as_numpy, file_names, in_files, is_frame, listed, mean_of_windows, take, without_labels
from ..readers.examples import are_examples, examples_alone
from ..readers.tables import columns_in, read_unlabelled
from ..readers.unlabelled import is_file_of_items, read_elsewhere, read_files, single_picture
from .augmenting import plain_name
from .schemas import LARGEST, SMALLEST

Item = np.ndarray | dict[str, np.ndarray]  # One example as the network takes it, without batch axis

_KNOWN: dict[str, type[Preprocessing]] = {}


class Preprocessing(abc.ABC):
    """Map from a raw example to the network's input tensor; saved with the network. Subclasses are frozen dataclasses.
    View 0 is the plain example. View k > 0 is its k-th fixed augmented copy, a pure function of the example, k and a seed."""

    inferred: bool = False  # made from the network's input shape alone
    measured: str = ""  # the comparison by which it was chosen, in words; empty if nothing was measured
    kind: ClassVar[str]

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):
            _KNOWN[cls.kind] = cls

    @classmethod
    def for_shape(cls, input_shape: tuple[int | None, ...], layout: str = "channels_first") -> Self:
        """Return a preprocessing that suits a network with this input shape; raise for a kind that needs more than a shape.
        `input_shape` is the shape of one example without batch axis (None: any length); empty if unknown."""
        raise DataError(f"The preprocessing {cls.kind!r} of a network does not follow from its input shape {input_shape}; give it.")

    @classmethod
    def from_plain(cls, fields: dict[str, Any]) -> Self:
        """Make a preprocessing from the plain data of its fields, which may come from a file."""
        return cls(**fields)

    @property
    @abc.abstractmethod
    def fitted(self) -> bool:
        """Whether the settings that depend on the data are fixed."""

    @abc.abstractmethod
    def fit(self, data: Dataset) -> Preprocessing:
        """Fix the settings that depend on the data, such as the value range or the text length."""

    def check_values(self, data: Dataset) -> None:  # noqa: B027  # files and texts have no values to compare
        """Compare the values of the examples with those that the network was trained on."""

    @abc.abstractmethod
    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Inputs:
        """Return n raw examples as one batch: a tensor (n, ...) float32, or named tensors (n, length) int64.
        `view`: 0 for the plain examples, k > 0 for their k-th augmented copy."""

    def viewing(self, augment: str | Callable[..., Any]) -> Preprocessing:
        """Return this preprocessing with another augmentation, which is not saved with it."""
        if augment == "light":
            return self
        raise SettingError(
            f"augment={plain_name(augment)!r} is for pictures; the network takes examples of the kind {self.item_kind!r}. Leave it out, or "
            "read pictures with kind='image'."
        )

    def of_photographs(self, data: Dataset) -> bool:
        """Return whether the examples look like photographs; always false except for pictures."""
        return False

    @property
    def item_kind(self) -> str:
        """Kind of the examples: "array", "image", "audio" or "text"."""
        return self.kind

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the table columns that an example consists of, in the order of the training data; empty if there was no table."""
        return ()

    @property
    def input_columns(self) -> dict[str, Sequence[str]] | None:
        """Names of the table columns of each input, for a network with several inputs; None for one input."""
        return None

    def batch_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, view: int = 0, seeds: Sequence[int] | None = None) -> Inputs:
        """Return some examples of a data set as one batch, with their columns if the network takes any.
        `indices`: (n,); `view`: 0 for the plain examples, k > 0 for their k-th augmented copy."""
        return self.batch(take(data.items, indices), view, seeds=seeds)

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> Item:
        """Return some examples of a data set (view 0) as one batch of arrays, for an engine other than PyTorch.
        Kinds that need PyTorch for this (arrays resized like pictures) import it here.
        `indices`: (n,). `raw` leaves out the steps that a graph with built-in preprocessing does itself: pictures are (n, H, W, C) bytes of
        one size, numbers are unscaled. Otherwise the values are those of `batch_of`. Result: array (n, ...), or arrays by name."""
        made = self.batch_of(data, indices)
        return {name: values.numpy() for name, values in made.items()} if isinstance(made, dict) else made.numpy()

    def dataset(self, items: Any) -> Dataset:
        """Return examples of any supported form, without labels, as a data set; see `as_dataset`."""
        return as_dataset(items, self.item_kind)

    def without_conditions(self) -> Preprocessing:
        """Return this preprocessing without lookup of conditions, also in the one that it holds."""
        return self

    @abc.abstractmethod
    def describe(self) -> str:
        """Return a one-line description."""

    def item(self, item: Any, view: int = 0, seed: int = 0) -> Item:  # over the limit: which view, by which seed: one address
        """Return one raw example as the network takes it, without batch axis.
        `view`: 0 for the plain example, k > 0 for its k-th augmented copy."""
        made = self.batch([item], view, seeds=[seed])
        if isinstance(made, dict):
            return {name: np.asarray(values[0].numpy()) for name, values in made.items()}
        return np.asarray(made[0].numpy())

    def widened(self, data: Dataset) -> Preprocessing:
        """Return this preprocessing, widened if the examples are longer than those it was fitted to, such as texts."""
        return self

    def windows(self, data: Dataset) -> Dataset:
        """Return data in which each example longer than the network's input, such as a recording, is split into windows."""
        return data

    def averaged(self, values: np.ndarray, items: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return the mean over the windows of each recording.
        `values`: (N, …), one for each example; result: (recordings, …), or `values` if the examples are not windows."""
        return mean_of_windows(values, items)

    def batches(self, items: Any, batch_size: int) -> Iterator[Inputs]:
        """Yield examples of any supported form as consecutive batches of at most `batch_size`, in order, all of one length.
        For files, the next batch is read while the current one is in use.
        `items`: a `Dataset`, raw examples, an array (N, ...), or paths of files or folders."""
        data = self.dataset(items)
        ready = self._ready(data).widened(data)
        parts = [np.arange(start, min(start + batch_size, len(data))) for start in range(0, len(data), batch_size)]
        ahead = in_files(data.items, data.kind)
        yield from (batch for _, batch in prefetched(lambda part: ready.batch_of(data, part), parts, ahead=ahead))

    def array_batches(self, items: Any, batch_size: int, *, raw: bool = False) -> Iterator[Item]:
        """Yield the batches of `batches` as arrays, made by `arrays_of`.
        `items`: a `Dataset`, raw examples, an array (N, ...), or paths of files or folders."""
        data = self.dataset(items)
        ready, size = self._ready(data), 1 if raw and self.item_kind == "image" else batch_size
        for start in range(0, len(data), size):
            yield ready.arrays_of(data, np.arange(start, min(start + size, len(data))), raw=raw)

    def _ready(self, data: Dataset) -> Preprocessing:
        ready = self if self.fitted else self.fit(data)
        ready.check_values(data)
        return ready

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which `from_dict` restores this preprocessing."""
        if _KNOWN.get(self.kind) is not type(self) or not hasattr(self, "__dataclass_fields__"):
            raise DataError(
                f"{type(self).__name__} cannot be kept with a network: a preprocessing of your own is a dataclass (frozen=True) with a "
                f"`kind` that no other class has; received kind={self.kind!r}."
            )
        return {"kind": self.kind, **{name: _plain(getattr(self, name)) for name in _kept(type(self))}}


@dataclass(frozen=True)
class WrappedPreprocessing(Preprocessing):
    """Preprocessing that adds a tensor to those of another one, `inner`."""

    inner: Preprocessing

    @abc.abstractmethod
    def added(self, data: Dataset, indices: np.ndarray, *, raw: bool = False) -> dict[str, np.ndarray]:
        """Return what stands beside some examples of a data set, by name; `raw` as in `arrays_of`. `indices`: (n,) int64."""

    @property
    def unnamed(self) -> str:
        """Name of the tensor of `inner` if it makes a single unnamed one."""
        return "inputs"

    def beside(self, made: Any, added: dict[str, Any]) -> dict[str, Any]:
        """Return the tensors or arrays that `inner` has made, by name, with those that are added to them."""
        return {**(made if isinstance(made, dict) else {self.unnamed: made}), **added}

    def batch_of(
        self, data: Dataset, indices: Sequence[int] | np.ndarray, *, view: int = 0, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        added = self.added(data, np.asarray(indices, dtype=np.int64))
        tensors = {name: torch.from_numpy(values) for name, values in added.items()}
        return self.beside(self.inner.batch_of(data, indices, view=view, seeds=seeds), tensors)

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> dict[str, np.ndarray]:
        added = self.added(data, np.asarray(indices, dtype=np.int64), raw=raw)
        return self.beside(self.inner.arrays_of(data, indices, raw=raw), added)

    @property
    def item_kind(self) -> str:
        return self.inner.item_kind

    @property
    def fitted(self) -> bool:
        return self.inner.fitted

    @property
    def row_columns(self) -> tuple[str, ...]:
        return self.inner.row_columns

    @property
    def input_columns(self) -> dict[str, Sequence[str]] | None:
        return self.inner.input_columns

    def fit(self, data: Dataset) -> Self:
        return self if self.inner.fitted else dataclasses.replace(self, inner=self.inner.fit(data))

    def widened(self, data: Dataset) -> Self:
        return dataclasses.replace(self, inner=self.inner.widened(data))

    def windows(self, data: Dataset) -> Dataset:
        return self.inner.windows(data)

    def check_values(self, data: Dataset) -> None:
        self.inner.check_values(data)

    def viewing(self, augment: str | Callable[..., Any]) -> Self:
        return dataclasses.replace(self, inner=self.inner.viewing(augment))

    def of_photographs(self, data: Dataset) -> bool:
        return self.inner.of_photographs(data)

    def dataset(self, items: Any) -> Dataset:
        return self.inner.dataset(items)

    def without_conditions(self) -> Preprocessing:
        return dataclasses.replace(self, inner=self.inner.without_conditions())


def _kept(cls: type[Preprocessing]) -> list[str]:
    """Return the names of the saved fields."""
    every = dataclasses.fields(cls)  # type: ignore[arg-type]  # subclasses are dataclasses
    return [each.name for each in every if each.metadata.get("kept", True)]


def _plain(value: Any) -> Any:
    if isinstance(value, Preprocessing):
        return value.to_dict()
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _value(value: Any) -> Any:
    """Return the value of a field; the plain data of nested preprocessings become these preprocessings."""
    if isinstance(value, tuple):
        return tuple(map(_value, value))
    return from_dict(value) if isinstance(value, dict) else value


def _tuples(value: Any) -> Any:
    """Return a value of plain data as a field holds it: lists as tuples; plain data made in code may contain NumPy numbers."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def from_dict(plain: dict[str, Any]) -> Preprocessing:
    """Make a preprocessing from plain data.
    `plain`: `{"kind": "image", "height": 224, …}`: the kind and the fields that differ from their defaults."""
    cls = _known(str(plain.get("kind")))
    valid = _kept(cls)
    unknown = [name for name in plain if name not in (*valid, "kind")]
    if unknown:
        raise DataError(f"{cls.kind} preprocessing has no setting {unknown[0]!r}{near_names(unknown[0], valid)}")
    own = {name: _tuples(value) for name, value in plain.items()}
    checked(own, schema_of(cls, tuple(valid), nested=Preprocessing), what=f"{cls.kind} preprocessing", error=DataError)
    return cls.from_plain({name: _value(value) for name, value in own.items() if name != "kind"})


def _known(kind: str) -> type[Preprocessing]:
    if kind not in _KNOWN:
        raise DataError(
            f"No kind of preprocessing is called {kind!r}{near_names(kind, _KNOWN)} One of your own is known once its module is imported."
        )
    return _KNOWN[kind]


# over the limit: shape and layout are one record
def default_preprocessing(kind: str, input_shape: tuple[int | None, ...] | None, layout: str) -> Preprocessing:
    """Return a preprocessing for a network that has none; it is marked as inferred.
    `input_shape`: shape of one example without batch axis (None: any length), or None if unknown."""
    made = _known(kind).for_shape(() if input_shape is None else tuple(input_shape), layout)
    return dataclasses.replace(made, inferred=True)  # type: ignore[type-var]  # subclasses are dataclasses with that field


def as_dataset(items: Any, kind: str) -> Dataset:
    """Return examples of any supported form, without labels, as a data set.
    `items`: a `Dataset`, raw examples, an array or tensor (N, ...), a data frame or series; the path of a file, folder or table, a file
    pattern, or an address; a single picture as PIL image or array (H, W, C); a pair (X, y) or a data set of another library, without its
    labels; any of them as the only entry of a mapping, by the name of the network's input."""
    if isinstance(items, Dataset):
        return items.part(*items.part_names) if len(items.part_names) == 1 else items
    items = as_frame(without_labels(items))
    if kind == "text" or (kind == "array" and not is_frame(items)):
        columns = columns_in(items)
        if columns is not None:
            return read_unlabelled(columns, kind, columns=())
    items = alone(items)
    if isinstance(items, np.ndarray) and items.ndim == 1 and items.dtype.kind in "OUS":
        items = list(items) if items.dtype.kind == "O" else items.tolist()
    found = read_elsewhere(items, kind) if isinstance(items, str | Path) else None
    if found is not None:
        return found
    named = [items] if isinstance(items, str | Path) else list(items) if isinstance(items, list | tuple) else []
    if named and all(isinstance(one, Path) or (isinstance(one, str) and (kind != "text" or is_file_of_items(one))) for one in named):
        return read_files(map(Path, named), kind)
    rows = _unlabelled(items, kind)
    if not len(rows):
        raise DataError(f"No examples were received ({type(items).__name__} of length 0); expected one or more.")
    return unlabelled(rows, kind, names=file_names(rows))


def _unlabelled(items: Any, kind: str) -> Sequence[Any] | np.ndarray:
    of_files = kind in ("image", "audio")
    if isinstance(items, str):
        return [items]
    if is_frame(items) or (type(items).__module__.split(".")[0] == "torch" and hasattr(items, "detach")):
        items = as_numpy(items)
    if isinstance(items, np.ndarray):
        return single_picture(items) if kind == "image" else items
    if type(items).__module__.split(".")[0] == "PIL":
        return [items]
    if isinstance(items, Mapping):
        wanted = {"text": "texts", "array": "an array (N, d) with the columns in the order of the training"}
        raise DataError(
            f"A mapping of {listed(map(repr, items)) or 'nothing'} was received; this network knows no names of columns or inputs. Give "
            f"the values alone: {wanted.get(kind, f'files or arrays ({kind})')}."
        )
    if isinstance(items, bytes) or (not isinstance(items, Iterable) and not are_examples(items)):
        raise DataError(
            f"Examples of the type {type(items).__name__} were received; expected files, texts or arrays, one or a list of them."
        )
    values = list(examples_alone(items)) if are_examples(items) else list(items)
    absent = [at for at, value in enumerate(values) if value is None]
    if absent:
        raise DataError(f"Examples {listed(absent)} of {len(values)} are None; expected files, texts or arrays. Leave them out.")
    odd = next((value for value in values if of_files and isinstance(value, bytes | int | float | Mapping)), None)
    if odd is not None:
        raise DataError(f"An example is of the type {type(odd).__name__}; expected files or arrays ({kind}).")
    if of_files:
        return [Path(value) if isinstance(value, str) else value for value in values]
    if values and not isinstance(values[0], str):
        lengths = len({np.shape(value) for value in values if np.ndim(value) > 1}) > 1  # arrays of different lengths stay a list
        return [as_numpy(value) for value in values] if lengths else as_numpy(values)
    return values


def check_scaling(mean: Any, std: Any) -> None:
    """Raise unless `mean` and `std` are usable; otherwise predictions would silently become NaN or infinite.
    `mean`: one or more finite numbers, or None for no subtraction; `std`: one or more numbers above 0, or None for no division."""
    for name, value, low, expected in (("mean", mean, -LARGEST, "finite numbers"), ("std", std, SMALLEST, "finite numbers above 0")):
        if value is None:
            continue
        numbers = as_numpy(value)
        usable = numbers.dtype.kind in "iuf" and numbers.ndim < 2 and numbers.size > 0
        if not usable or not ((numbers >= low) & (numbers <= LARGEST)).all():  # NaN fails both comparisons
            raise DataError(f"{name}={str(value)[:80]} cannot be used by a preprocessing; expected {expected}, in size up to {LARGEST:g}.")
