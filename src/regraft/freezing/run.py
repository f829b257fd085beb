"""Filling of feature caches: each example and view goes through the frozen part once."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..console import progress
from ..data import PreparedData
from ..errors import CacheError, SettingError
from ..files.locks import held_folder
from ..files.remote import brought, is_url, taken
from ..networks.network import Inputs, Network
from ..networks.padding import by_length, skips_padding, sorts_by_length
from ..networks.samples import placed
from .cache import CHUNK, ActivationCache
from .checking import ROUNDING, Check, pieces_of
from .cut import Cut
from .engines import EAGER, FEWEST, HALF, MOST_OFF, Engine, EngineLog, chosen_engine, engine_names, frozen_work
from .half import HALF_OFF, halved
from .identity import FrozenIdentity, cache_identity, engine_of, frozen_identity
from .spread import Chunk, SharedData, batches_of, spread
from .storage import CacheFolder

MOST_KEPT = 2**28  # Maximum size in bytes of all caches that a run keeps in memory; the newest one is always kept
MOST_NAMED = 3  # Maximum number of opaque parts named in a note


def default_cache_folder() -> Path:
    """Return the folder of feature caches: `REGRAFT_CACHE`, else `regraft` in the user's cache folder."""
    given = os.environ.get("REGRAFT_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "regraft"


@dataclass
class Counter:
    """Number of examples that went through the frozen part, and the engines used."""

    items: int = 0
    engines: EngineLog = field(default_factory=EngineLog)


@dataclass(frozen=True)
class _PassStart:
    """Start of a pass: its engine, and the values that it has already computed for the first examples."""

    engine: Engine
    values: tuple[Sequence[Tensor], ...] = ()


class RunCaches:
    """Caches by key that live as long as a run, so that no cache is computed twice."""

    def __init__(self) -> None:
        self._caches: dict[str, tuple[ActivationCache, Any]] = {}

    def get(self, key: str) -> ActivationCache | None:
        """Return the cache with this key, or None."""
        return self._caches[key][0] if key in self._caches else None

    def add(self, key: str, cache: ActivationCache, *, of: Any) -> None:
        """Keep a cache, and drop the oldest ones if the total size exceeds `MOST_KEPT`.
        `of`: objects whose ids are part of the key, kept alive so that no id is reused."""
        self._caches[key] = (cache, of)
        while len(self._caches) > 1 and sum(one.bytes for one, _ in self._caches.values()) > MOST_KEPT:
            del self._caches[next(iter(self._caches))]


@dataclass(frozen=True)
class FrozenPass:
    """Pass of examples through the frozen part, which makes the feature caches of one cut."""

    network: Network
    cut: Cut
    where: str | Path  # folder, or "memory", or a URL. With a URL, caches are copied between it and the user's cache folder
    dtype: str = "float32"  # dtype of stored features, "float32" or "float16"
    batch_size: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    counter: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)  # list that receives messages about the pass, each once
    kept: RunCaches = field(default_factory=RunCaches)  # caches that this run has in memory
    engine: str = EAGER  # engine on a CPU, one of `ENGINES`
    cluster: str | None = None  # Ray cluster that computes, "ray://HOST:PORT" or "auto"; None: this process
    precision: str = "float32"  # "float32"; "bfloat16" (if a probe is as accurate on its features); "auto" (if it is also faster)
    compared: np.ndarray | None = None  # (n,) examples that this probe may use, without the holdout set; None: all
    sorts: bool = False  # whether examples are computed by length, without their padding; `cached` decides it

    def cached(self, items: PreparedData, views: Sequence[int] = (0,)) -> ActivationCache:
        """Return the filled cache of these examples and views. Rows of a matching cache are reused.
        If the values depend on something without content to compare, the cache lives only as long as the process."""
        if self.engine not in ("auto", self._wanted):
            self._say_once(
                f"The frozen part ran on PyTorch as it is: engine={self.engine!r} is for a CPU of this machine, and it ran on "
                f"{self.device.type if self.cluster is None else 'a cluster'}."
            )
        if self._wanted in ("auto", EAGER) and sorts_by_length(self.network.sample) and len(items):
            first = items.batch(np.arange(min(len(items), CHUNK)), views[0])
            if skips_padding(self._batch_values, first):
                return replace(self, sorts=True, engine=EAGER)._cached(items, views)
        return self._cached(items, views)

    def _cached(self, items: PreparedData, views: Sequence[int]) -> ActivationCache:
        frozen = frozen_identity(self.network, self.cut.layers)
        if self.where == "memory":
            return self._for_this_run(frozen, items, views=views)
        if frozen.opaque:
            more = f" and {len(frozen.opaque) - MOST_NAMED} more" if len(frozen.opaque) > MOST_NAMED else ""
            self._say_once(
                "The frozen part is computed anew in each run: its values may depend on what has no content to compare: "
                f"{'; '.join(frozen.opaque[:MOST_NAMED])}{more}."
            )
            return self._for_this_run(frozen, items, views=views, folder=_made(self._folder))
        return self._from_folder(frozen, items, views=views)

    @property
    def _folder(self) -> Path:
        return default_cache_folder() if is_url(self.where) else Path(self.where)

    @property
    def _wanted(self) -> str:
        return self.engine if self.device.type == "cpu" and self.cluster is None else EAGER

    @property
    def _names(self) -> dict[str, list[str]]:
        """Engine -> names in the identity of a cache, for the engines that may compute here; plain PyTorch comes last."""
        return engine_names(self._wanted, half=self.precision != "float32")

    @property
    def _sought(self) -> list[tuple[str, str]]:
        """Engines whose caches may be used, the requested one or all, with each of their names among `_names`."""
        return [(name, known) for name, found in self._names.items() if self._wanted in ("auto", name) for known in found]

    def _identity(self, frozen: FrozenIdentity, items: str, *, views: Sequence[int], engine: str) -> tuple[str, dict[str, Any]]:
        live = [part.name for part in self.cut.live]
        said = f"{items} {list(views)}, {self.batch_size} at a time" + (" by length" if self.sorts else "")
        return cache_identity(frozen.digest, live, items=said, dtype=self.dtype, device=self.device.type, engine=engine)

    def _say_once(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _for_this_run(
        self, frozen: FrozenIdentity, items: PreparedData, *, views: Sequence[int], folder: Path | None = None
    ) -> ActivationCache:
        """Return a cache that lives as long as the run. Its key contains the ids of the data objects."""
        objects = (items.data, items.preprocessing, items.augment)
        said = f"{[id(one) for one in objects]} {items.view_seed}"
        keys = {known: self._identity(frozen, said, views=views, engine=known)[0] for known in chain(*self._names.values())}
        found = next((cache for _, known in self._sought if (cache := self.kept.get(keys[known])) is not None), None)
        if found is not None:
            return found
        begun = self._begun(frozen, items, views=views, wanted=self._wanted)
        cache = self.kept.get(keys[begun.engine.name])  # PyTorch may have run in place of the requested engine before
        if cache is None:
            cache = ActivationCache.in_memory(self.cut.live, len(items) * len(views), dtype=self.dtype, folder=folder)
            self._fill_(cache, items, views=views, begun=begun)
            self.kept.add(keys[begun.engine.name], cache, of=objects)
        return cache

    def _from_folder(self, frozen: FrozenIdentity, items: PreparedData, *, views: Sequence[int]) -> ActivationCache:
        said, wanted = items.identity(max(views) + 1), self._wanted
        elsewhere = str(self.where) if is_url(self.where) else None
        places, in_part = dict[str, CacheFolder](), dict[tuple[bool, int], str]()
        about = {
            "network": str(self.network.origin.get("source", "")),
            "data": f"{len(items)} {items.data.kind}" + ("" if items.data.names is None else f" from {items.data.names[0]}"),
        }
        for known in chain(*self._names.values()):
            key, facts = self._identity(frozen, said, views=views, engine=known)
            rows, here = len(items) * len(views), engine_of(self.device)
            places[known] = CacheFolder(self._folder / key, self.cut.live, rows, self.dtype, facts, here, about)
        for engine, known in self._sought:
            found = places[known].opened()
            if elsewhere is not None and (found is None or found.missing):
                with held_folder(places[known].path, error=CacheError, wait=math.inf):
                    taken(f"{elsewhere}/{places[known].path.name}", places[known].path)
                found = places[known].opened()
            if found is not None and not found.missing and self._holds(found, places[known], items=items, views=views):
                if elsewhere is not None:
                    brought(places[known].path, f"{elsewhere}/{places[known].path.name}")
                return found
            if found is not None and found.finished:
                in_part.setdefault((HALF in known, len(found.finished)), engine)
        if in_part and wanted == "auto":
            wanted = in_part[max(in_part)]  # continue the fullest cache with the engine that began it
        begun = self._begun(frozen, items, views=views, wanted=wanted)
        place = places[begun.engine.name]
        with held_folder(place.path, error=CacheError, wait=math.inf):
            cache = place.opened(writing=True)
            if cache is None or not self._holds(cache, place, items=items, views=views):
                if cache is not None:
                    cache.close()
                cache = place.made()
            try:
                self._fill_(cache, items, views=views, begun=begun)
            finally:
                cache.close()
        if elsewhere is not None:
            brought(place.path, f"{elsewhere}/{place.path.name}")
        return cache

    def _holds(self, cache: ActivationCache, place: CacheFolder, *, items: PreparedData, views: Sequence[int]) -> bool:
        """Return whether the finished rows match the current network. Plain PyTorch recomputes them, so that no engine must be built."""
        other = "engine" in place.facts
        exact = self.device.type == "cpu" and place.engines() == [place.engine] and not other and not self.sorts
        rounding = HALF_OFF if HALF in str(place.facts.get("engine")) else MOST_OFF if other else ROUNDING
        return Check(items, views, self._values, self.batch_size, exact, rounding).holds(cache)

    def _values(self, inputs: Inputs) -> list[Tensor]:
        return by_length(self._batch_values, inputs, batch_size=self.batch_size) if self.sorts else self._batch_values(inputs)

    def _batch_values(self, inputs: Inputs) -> list[Tensor]:
        return self.cut.frozen_part(placed(inputs, self.device, order=self.network.body.memory_order))

    def _begun(self, frozen: FrozenIdentity, items: PreparedData, *, views: Sequence[int], wanted: str) -> _PassStart:
        """Choose the engine of a pass and its precision."""
        begun = self._begun_in_full(frozen, items, views=views, wanted=wanted)
        if self.precision == "float32" or (self.precision == "auto" and len(items) * len(views) < FEWEST):
            return begun
        compared = np.arange(len(items)) if self.compared is None else self.compared
        key = f"{frozen.digest} {[part.name for part in self.cut.live]} {wanted} {HALF}"
        log = self.counter.engines
        if key not in log.built and len(compared) < 3:
            return begun
        if key not in log.built:
            start = perf_counter()
            how: dict[str, Any] = {"live": self.cut.live, "device": self.device.type, "measured": self.precision == "auto"}
            engine, why = halved(begun.engine, items, compared=compared, **how)
            log.building += perf_counter() - start
            log.built[key] = engine
            self._say_once(f"The frozen part {'was computed in bfloat16' if HALF in engine.name else 'stayed in float32'}: {why}.")
        return begun if log.built[key].name == begun.engine.name else _PassStart(log.built[key])

    def _begun_in_full(self, frozen: FrozenIdentity, items: PreparedData, *, views: Sequence[int], wanted: str) -> _PassStart:
        """Choose the engine of a pass in float32. "auto" decides by PyTorch's time for the first examples, if there are enough examples."""
        eager, rows = Engine(EAGER, self._values), len(items) * len(views)
        if wanted == EAGER or len(items) < 2:
            return _PassStart(eager)
        key = f"{frozen.digest} {[part.name for part in self.cut.live]} {wanted}"
        known = self.counter.engines.built.get(key)
        if known is not None:
            return _PassStart(known if known.name != EAGER else eager)
        few = wanted == "auto" and rows < FEWEST
        work, log = frozen_work(self.network, self.cut, values=self._values), self.counter.engines
        chosen = np.arange(min(len(items), self.batch_size if few else 2 * self.batch_size, CHUNK))
        first = [work.timed(inputs) for _, inputs in items.batches(self.batch_size, chosen, views[0])]
        before = log.building
        engine, values = chosen_engine(work, first, wanted=wanted, rows=rows, log=log, say=self._say_once)
        if log.building > before:
            log.built[key] = engine
        return _PassStart(engine, tuple(values))

    def _fill_(self, cache: ActivationCache, items: PreparedData, *, views: Sequence[int], begun: _PassStart) -> None:
        missing = cache.missing
        chunks = [[(piece.items, views[piece.view]) for piece in pieces_of(rows, len(items), batch_size=len(rows))] for rows in missing]
        begun = begun if missing[:1] == [cache.rows_of(0)] else _PassStart(begun.engine)
        with progress("frozen part", sum(len(rows) for rows in missing)) as advance:
            for rows, batches in zip(missing, self._computed(chunks, items, begun=begun), strict=True):
                first = rows.start
                for values in batches:
                    cache.put(first, values)
                    first += len(values[0])
                    self.counter.items += len(values[0])
                    self.counter.engines.saved += len(values[0]) * begun.engine.faster
                    advance(len(values[0]))
                cache.finish(rows)
        cache.flush()

    def _computed(self, chunks: Sequence[Chunk], items: PreparedData, *, begun: _PassStart) -> Iterator[Iterable[Sequence[Tensor]]]:
        """Yield the results of the batches of each chunk, computed by the cluster if one is set."""
        shared = SharedData(begun.engine.values, items, CHUNK if self.sorts else self.batch_size, torch.get_num_threads())
        done = 0
        if self.cluster is not None:
            try:
                for values in spread(shared, chunks, network=self.network, cluster=self.cluster):
                    done += 1
                    yield values
                return
            except SettingError as problem:
                self._say_once(f"The frozen part ran on this machine{' from then on' if done else ''}. {problem}")
        for number, chunk in enumerate(chunks[done:], done):
            known = () if number else begun.values
            (examples, view), *further = chunk
            yield chain(known, batches_of(shared, [(examples[sum(len(values[0]) for values in known) :], view), *further]))


def _made(folder: Path) -> Path:
    """Create a folder if necessary, and return it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CacheError(
            f"The cache folder {str(folder)!r} cannot be written: {problem.strerror or problem}. Give another one with cache=."
        ) from problem
    return folder
