"""Pass of a whole network over examples on a chosen engine, used by `predict` and `evaluate`."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..data import PreparedData, Preprocessing
from ..errors import SettingError
from ..networks.network import Inputs, Network
from ..networks.padding import by_length, skips_padding, sorts_by_length
from ..networks.parts.onnx_export import WholeNetwork
from ..networks.parts.protocols import by_name
from ..networks.predictions import concatenated, of_batch
from .cache import CHUNK
from .engines import EAGER, ENGINES, FEWEST, EngineLog, Work, check_engine, chosen_engine
from .spread import SharedData, spread

Function = Callable[[Network, Inputs], Tensor]


@dataclass(frozen=True)
class WholePass:
    """Runner of a function of a network over examples, like `concatenated`."""

    engine: str = "auto"  # one of `ENGINES`
    cluster: str | None = None  # Ray cluster that computes, "ray://HOST:PORT" or "auto"; None: this process
    notes: list[str] = field(default_factory=list)  # list that receives messages about the engine
    log: EngineLog = field(default_factory=EngineLog)  # record of building time and saved time

    def __call__(self, function: Function, network: Network, *, items: Any, batch_size: int) -> np.ndarray:
        """Return the results of a function for the examples, (N, …) float32."""
        given = network.preprocessing.dataset(items)
        data = network.preprocessing.windows(given)
        if self.cluster is not None:
            made = self._spread(
                function, network, items=PreparedData(data, cast(Preprocessing, network.preprocessing)), batch_size=batch_size
            )
            return made if data is given else network.preprocessing.averaged(made, data.items)
        on_cpu = all(tensor.device.type == "cpu" for tensor in by_name(network.sample).values())  # the sample is on the network's device
        if self.engine == EAGER or not on_cpu or len(data) < 2 or network.body.draws:
            return concatenated(function, network, items=given, batch_size=batch_size)

        values = _values(function, network)
        if self.engine == "auto" and sorts_by_length(network.sample):
            network.mode_(False)
            with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # whatever is unusable is told by the pass itself
                if skips_padding(values, next(iter(network.preprocessing.batches(data, CHUNK)))):
                    return concatenated(function, network, items=given, batch_size=batch_size)

        def module() -> WholeNetwork:
            return _Results(function, network.for_export()).eval()

        layers, watched = frozenset(layer.name for layer in network.layers), frozenset(network.head_layers)
        work = Work("The network", network, layers, values, module, watched)
        network.mode_(False)
        with torch.no_grad():
            batches = network.preprocessing.batches(data, batch_size)
            first = [work.timed(inputs) for inputs in islice(batches, 1 if self.engine == "auto" and len(data) < FEWEST else 2)]
            engine, parts = chosen_engine(work, first, wanted=self.engine, rows=len(data), log=self.log, say=self.notes.append)
            parts += map(engine.values, batches)
        self.log.saved += len(data) * engine.faster
        made = np.concatenate([part[0].numpy() for part in parts])
        return made if data is given else network.preprocessing.averaged(made, data.items)

    def _spread(self, function: Function, network: Network, *, items: PreparedData, batch_size: int) -> np.ndarray:
        """Return the results from a cluster, with one task per chunk."""
        items.preprocessing.check_values(items.data)
        items = items.of(items.data, items.preprocessing.widened(items.data))
        network.mode_(False)

        values = _values(function, network)
        masked = sorts_by_length(network.sample) and len(items) > 0
        with torch.no_grad():
            skips = masked and skips_padding(values, items.batch(np.arange(min(len(items), CHUNK))))
        inner = partial(by_length, values, batch_size=batch_size)  # as `concatenated` computes them
        made: Callable[[Inputs], list[Tensor]] = inner if skips else values
        shared = SharedData(made, items, CHUNK if skips else batch_size, torch.get_num_threads())
        chunks = [[(np.arange(first, min(first + CHUNK, len(items))), 0)] for first in range(0, len(items), CHUNK)]
        done = spread(shared, chunks, network=network, cluster=str(self.cluster))
        parts = [part.numpy() for chunk in done for (part,) in chunk]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _values(function: Function, network: Network) -> Callable[[Inputs], list[Tensor]]:
    """Return the function from inputs to results of a network, in a list as an engine gives them."""

    def values(inputs: Inputs) -> list[Tensor]:
        return [of_batch(partial(function, network), network, batch=inputs).float()]

    return values


def whole_pass(engine: str, cluster: str | None = None) -> WholePass:
    """Return the runner of a whole network on an engine. `cluster`: "ray://HOST:PORT", "auto" or None."""
    if engine not in ENGINES:
        raise SettingError(f"engine={engine!r}: expected one of {', '.join(ENGINES)}.")
    check_engine(engine, cluster)
    ignored = [] if cluster is None or engine in ("auto", EAGER) else [f"The cluster ran PyTorch: engine={engine!r} is for one machine."]
    return WholePass(engine, cluster, notes=ignored)


class _Results(WholeNetwork):
    """Function of a network as a module."""

    def __init__(self, function: Function, network: Network) -> None:
        super().__init__(network)
        self.__dict__["function"] = function

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the result as a tuple of one."""
        return (self.__dict__["function"](self.__dict__["network"], self.inputs(tensors)).float(),)
