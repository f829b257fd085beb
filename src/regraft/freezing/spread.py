"""Pass of examples through a network on a cluster."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, PreparedData
from ..data.items import Clip, in_files
from ..errors import SettingError
from ..files.formats import opening
from ..files.scratch import scratch_folder
from ..networks.network import Inputs, Network
from ..scale import all_see, on_cluster, packed, unpacked

T = TypeVar("T")
_ASKED = 16
"""Number of files, evenly spread over the examples, that decide whether all machines have them."""

Chunk = Sequence[tuple[np.ndarray, int]]  # Examples of one task, as (indices, view) pairs


@dataclass(frozen=True)
class SharedData:
    """Data that all tasks of a pass share."""

    values: Callable[[Inputs], list[Tensor]]  # function from inputs to results
    items: PreparedData  # source of the batches
    batch_size: int
    threads: int  # number of threads per operator, as in the calling process, because rounding depends on it


def batches_of(shared: SharedData, chunk: Chunk) -> Iterator[list[Tensor]]:
    """Yield the results of each batch of a chunk."""
    with torch.no_grad():
        for examples, view in chunk:
            for _, inputs in shared.items.batches(shared.batch_size, examples, view):
                yield shared.values(inputs)


def _task(shared: SharedData, piece: tuple[Chunk, Mapping[Path, bytes]]) -> list[list[Tensor]]:
    """Compute a chunk in a worker. Files that came with it are written to a temporary folder."""
    torch.set_num_threads(shared.threads)
    chunk, files = piece
    if not files:
        return list(batches_of(shared, chunk))
    data = shared.items.data
    with scratch_folder("files") as folder:
        places = {path: folder / f"{number}{path.suffix}" for number, path in enumerate(files)}
        for path, content in files.items():
            places[path].write_bytes(content)
        items = list(data.items)
        for index in _rows_of(chunk):
            item, place = items[index], places[_source(items[index])]
            items[index] = replace(item, source=place) if isinstance(item, Clip) else place
        return list(batches_of(replace(shared, items=shared.items.of(replace(data, items=items))), chunk))


def _rows_of(chunk: Chunk) -> list[int]:
    return list(map(int, np.unique(np.concatenate([examples for examples, _ in chunk]))))


def _source(item: Any) -> Path:
    return Path(item.source if isinstance(item, Clip) else item)


def _all_have(data: Dataset, cluster: str) -> bool:
    """Return whether every machine of a cluster has the files of the data under the same paths, if all examples are local files, or windows
    of them."""
    sources = (item.source if isinstance(item, Clip) else item for item in data.items)
    if not in_files(data.items, data.kind) or not all(isinstance(source, str | Path) for source in sources):
        return True
    asked = map(int, np.unique(np.linspace(0, len(data) - 1, _ASKED).round()))
    return all_see([_source(data.items[index]) for index in asked], cluster)


def check_seen(data: Dataset, cluster: str) -> None:
    """Raise `SettingError` if some machine of a cluster does not have the files of the data, for tasks that files do not come with."""
    if not _all_have(data, cluster):
        raise SettingError(
            f"cluster={cluster!r}: not every machine has the files of the data under their paths, such as "
            f"{str(_source(data.items[0]))!r}. Put them where all machines read them, or give an address such as 's3://bucket/photos'."
        )


def spread(shared: SharedData, chunks: Iterable[Chunk], *, network: Network, cluster: str) -> Iterator[list[list[Tensor]]]:
    """Return the results of the batches of each chunk, in order. Each chunk is one task of the cluster.
    Files are sent with the tasks if some machine does not have them under the same path."""
    rows, data = np.arange(min(2, len(shared.items))), shared.items.data
    content = sent(shared, [network], values=lambda one: one.values(one.items.batch(rows)))
    away = not _all_have(data, cluster)

    def files(chunk: Chunk) -> dict[Path, bytes]:
        found = {}
        for path in {_source(data.items[index]) for index in _rows_of(chunk)} if away else ():
            with opening(path, "recording" if data.kind == "audio" else "picture") as file:
                found[path] = file.read_bytes()
        return found

    return on_cluster(_task, content, pieces=((chunk, files(chunk)) for chunk in chunks), cluster=cluster, threads=shared.threads)


def sent(shared: T, networks: Sequence[Network], *, values: Callable[[T], Sequence[Tensor]]) -> bytes:
    """Return data that hold networks, pickled. Raises `SettingError` if an unpickled copy does not compute bit-identical `values`."""

    def reduced(part: Any) -> Any:
        if isinstance(part, torch.memory_format):  # pickle would look up its name in `__main__`
            return getattr, (torch, str(part).removeprefix("torch."))
        return next((made for network in networks if (made := network.body.reduced(part)) is not NotImplemented), NotImplemented)

    content = packed(shared, reduced)
    with torch.no_grad():
        if not all(torch.equal(one, two) for one, two in zip(values(shared), values(unpacked(content)), strict=True)):
            raise SettingError("cluster=: a copy of the network for other processes computes something else. Leave cluster= out.")
    return content
