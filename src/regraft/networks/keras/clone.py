"""Copy a Keras model as it stands: every layer, graph node and variable once, whether or not the model can be serialised.

Keras copies a model by saving and loading it, which takes seconds for deep networks and fails for models without a
config. Here every layer, variable, node and symbolic tensor is created as an empty shell first and filled second. Functions,
classes and data types are shared. Objects are pickled one at a time, so the depth of the network does not matter.
"""

import copy
import inspect
import io
import pickle
from collections import OrderedDict
from functools import cache
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from .library import keras

_graphs: Any = keras.src.ops.function
_tracking: Any = keras.src.utils.tracking

_SHELLS = (
    keras.Operation,
    keras.KerasTensor,
    keras.Variable,
    keras.random.SeedGenerator,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.losses.Loss,
    keras.src.ops.node.Node,
)
_SHARED = (
    type,
    ModuleType,
    FunctionType,
    BuiltinFunctionType,
    inspect.Signature,
    torch.dtype,
    torch.device,
    keras.initializers.Initializer,
    keras.dtype_policies.DTypePolicy,
    keras.src.utils.backend_utils.DynamicBackend,  # held by the preprocessing layers at the start of many applications
)
_CONTAINERS = ("TrackedList", "TrackedDict", "TrackedOrderedDict", "TrackedSet")  # TrackedOrderedDict is newer
_TRACKED = tuple(getattr(_tracking, name) for name in _CONTAINERS if hasattr(_tracking, name))
_OWN_FUNCTIONS = ("build", "quantize")  # closures over the instance, made by Keras in `__new__`
_COMPILED = (
    "optimizer",
    "loss",
    "train_function",
    "test_function",
    "predict_function",
    "_compile_loss",
    "_compile_metrics",
    "_loss_tracker",
)


class _Parts:
    """The objects found so far, each with its copy."""

    def __init__(self) -> None:
        self.old: list[Any] = []
        self.new: list[Any] = []
        self.index: dict[int, int] = {}

    def number(self, value: Any) -> int:
        """Return the number of an object. The first call creates its copy or its empty shell."""
        number = self.index.get(id(value))
        if number is None:
            number = self.index[id(value)] = len(self.old)
            self.old.append(value)
            made: Any = value
            if isinstance(value, Tensor):
                made = value.detach().clone()
                if isinstance(value, torch.nn.Parameter):
                    made = torch.nn.Parameter(made, requires_grad=value.requires_grad)
            elif isinstance(value, _SHELLS):
                kind: Any = type(value)
                made = kind.__new__(kind)
            self.new.append(made)
        return number


@cache
def _is_part(kind: type) -> bool:
    """Tell whether objects of a class are referenced by number. Cached: it is called a hundred thousand times per network."""
    return issubclass(kind, (Tensor, *_SHELLS, *_SHARED))


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO, parts: _Parts) -> None:
        super().__init__(file, protocol=5)
        self.parts = parts

    def persistent_id(self, obj: Any) -> int | None:
        """Reference parts by number; everything else goes into the stream."""
        kind: Any = type(obj)
        return self.parts.number(obj) if _is_part(kind) else None

    def reducer_override(self, obj: Any) -> Any:
        """Create tracked containers empty and without a tracker: filling one that has a tracker would track twice."""
        if not isinstance(obj, _TRACKED):
            return NotImplemented
        state = dict(vars(obj))
        if isinstance(obj, _tracking.TrackedSet):
            return type(obj), (list(obj),), state
        if isinstance(obj, _tracking.TrackedList):
            return type(obj), (), state, iter(obj)
        return type(obj), (), state, None, iter(obj.items())


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, parts: _Parts) -> None:
        super().__init__(file)
        self.parts = parts

    def persistent_load(self, pid: Any) -> Any:
        """Return the copy of the part with this number."""
        return self.parts.new[pid]


def _state_of(value: Any, root: Any) -> dict[str, Any]:
    """Return an object's attributes without what a copy must not share: hooks, graphs of other models, the compiled state."""
    state = dict(vars(value))
    if isinstance(value, keras.Operation):
        state["_outbound_nodes"] = []
        state = {key: OrderedDict() if "_hooks" in key and isinstance(part, dict) else part for key, part in state.items()}
    if isinstance(value, keras.Layer):
        state = {key: part for key, part in state.items() if key not in _OWN_FUNCTIONS}
    if isinstance(value, keras.Model):
        state = {key: None if key in _COMPILED else part for key, part in state.items()}
        state["compiled"] = False
    if value is root:
        state["_inbound_nodes"] = []
    return state


def _fill_(twin: Any, state: dict[str, Any]) -> None:
    own = {key: vars(twin)[key] for key in _OWN_FUNCTIONS if key in vars(twin)} if isinstance(twin, keras.Layer) else {}
    vars(twin).clear()
    vars(twin).update(state, **own)
    tracker = state.get("_tracker")
    if isinstance(tracker, _tracking.Tracker):
        tracker.stored_ids = {name: {id(value) for value in store} for name, (_, store) in tracker.config.items()}


def cloned(model: Any) -> Any:
    """Return an independent, uncompiled copy of a Keras model: same class, same weights, no shared storage."""
    parts, streams = _Parts(), dict[int, bytes]()
    parts.number(model)
    try:
        for number, value in enumerate(parts.old):  # parts that are found on the way are appended during the walk
            if isinstance(value, _SHELLS):
                file = io.BytesIO()
                _Pickler(file, parts).dump(_state_of(value, model))
                streams[number] = file.getvalue()
    except (pickle.PicklingError, TypeError, AttributeError):
        return copy.deepcopy(model)
    for number, stream in streams.items():
        _fill_(parts.new[number], _Unpickler(io.BytesIO(stream), parts).load())
    for graph in [part for part in parts.new if isinstance(part, _graphs.Function)]:  # Keras makes node keys of the addresses of layers
        nodes = [(node.operation, node) for level in graph._nodes_by_depth.values() for node in level]
        places = ((layer, next(at for at, other in enumerate(layer._inbound_nodes) if other is node)) for layer, node in nodes)
        vars(graph)["_nodes"] = {_graphs.make_node_key(layer, at) for layer, at in places}
    return parts.new[0]
