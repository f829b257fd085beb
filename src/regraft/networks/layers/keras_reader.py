"""Reader that turns a Keras graph into PyTorch layers, call by call. `from_keras` defines the converters."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import NetworkError
from ...files.formats import reason_of
from ..keras.library import keras
from ..keras.structure import graph_of, no_graph, steps_of
from ..parts.protocols import Inputs
from .graph import layer_of

_ODD = re.compile(r"\W")
_MASKED = ("LSTM", "GRU", "SimpleRNN", "Bidirectional", "GlobalAveragePooling1D", "BatchNormalization", "TimeDistributed")
"""Layers that accept a mask. Batch normalization uses its mask in training only."""
_READ = ("query", "value", "key")
_TAKEN = {"input", "outputs", "steps"}
Row = Callable[["KerasReader", "Call"], "KerasValue"]  # Converter of one kind of layer: its call in the graph -> the resulting value


@dataclass(frozen=True)
class KerasValue:
    """Value within the network."""

    name: str
    tensor: Tensor  # the value for the sample
    first: bool = False  # whether its channels stand behind the batch, as in PyTorch's convolutions, although they stand last in Keras


@dataclass(frozen=True)
class Call:
    """Call of a layer."""

    layer: Any
    values: list[Any]  # positional inputs: values, or numbers in their place
    named: Mapping[str, Any]

    @property
    def value(self) -> KerasValue:
        """The first input."""
        first: KerasValue = self.values[0]
        return first


@dataclass
class KerasReader:
    """Reader of a Keras model."""

    sample: Inputs  # a batch in the axis order of the PyTorch network; by name if it takes several tensors
    first: bool  # whether the channels of the sample stand behind the batch, although they stand last in Keras
    rows: Mapping[str, Row]  # converter for each kind of layer, by class name
    steps: list[dict[str, Any]] = field(default_factory=list)  # the layers, as `LayerGraph` takes them
    modules: dict[str, nn.Module] = field(default_factory=dict)  # the same layers with their weights, by name
    names: dict[str, str] = field(default_factory=dict)  # step that holds the weights of a Keras layer, by layer path
    _turned: dict[tuple[str, bool], KerasValue] = field(default_factory=dict)
    _unmasked: set[int] = field(default_factory=set)  # tensors that lost their mask: Keras attention removes the mask of what it reads

    def read(self, model: Any) -> list[str]:
        """Convert a model and return the names of its outputs."""
        self._check(_operations(model))
        graph: Any = graph_of(model)
        with torch.no_grad():
            outputs = self._run(model, self._given([tensor.name for tensor in graph.inputs]))
            return [self.turned(value, first=self.first and value.tensor.ndim > 3).name for value in outputs]

    def read_first(self, given: Sequence[Any], steps: Sequence[Any]) -> tuple[list[Any], dict[int, KerasValue]]:
        """Convert the `steps` of a graph, in order, that have a counterpart, compute in single precision and read only what was converted
        before. Return them, and the values by the ids of their symbolic tensors. `given`: the symbolic tensors of the sample, in order."""
        known, done = dict(zip(map(id, given), self._given(self.sample), strict=True)), list[Any]()
        with torch.no_grad():
            for node in steps:
                inside = _operations(node.operation) if graph_of(node.operation) is not None else [node.operation]
                if any(id(tensor) not in known for tensor in node.input_tensors) or not all(map(_is_single, inside)):
                    continue
                with suppress(Exception):  # whatever is not converted stays with Keras
                    self._check(inside)
                    self._step_(node, known)
                    done.append(node)
        return done, known

    def _given(self, names: Iterable[str]) -> list[KerasValue]:
        if isinstance(self.sample, dict):
            return [KerasValue(name, self.sample[name]) for name in names]
        return [KerasValue("input", self.sample, self.first)]

    def _check(self, layers: Sequence[Any]) -> None:
        own = [layer for layer in layers if type(layer).__name__ not in self.rows or not type(layer).__module__.startswith("keras.")]
        if own:
            named = ", ".join(f"{layer.name!r} ({type(layer).__name__})" for layer in own[:8])
            raise NetworkError(
                f"These layers of Keras have no counterpart in PyTorch here: {named}. Expected layers of the table in "
                "docs/export.md. Export the network as .onnx, which takes more of them."
            )

    def _run(self, model: Any, inputs: Sequence[KerasValue]) -> list[KerasValue]:
        graph: Any = graph_of(model)
        known = {id(tensor): value for tensor, value in zip(graph.inputs, inputs, strict=True)}
        for node in steps_of(graph):
            self._step_(node, known)
        return [known[id(tensor)] for tensor in graph.outputs]

    def _step_(self, node: Any, known: dict[int, KerasValue]) -> None:
        layer, kind = node.operation, type(node.operation).__name__
        given, named = node.arguments.fill_in(known)
        values = [part for one in given for part in (one if isinstance(one, list | tuple) else [one])]
        if graph_of(layer) is not None:
            made = self._run(layer, values)
        else:
            asked = {name: one for name, one in named.items() if name != "training"}
            if kind == "MultiHeadAttention":  # its masks are not arguments in the graph: they come with the inputs
                asked |= {f"{name}_mask": self._mask(read, known) for name, read in zip(_READ, node.input_tensors, strict=False)}
                read = [id(tensor) for tensor in node.input_tensors]
                self._unmasked |= {*read, *(id(tensor) for tensor in node.outputs if read[0] in self._unmasked)}
            elif isinstance(layer, keras.Layer):
                mask, more = asked.get("mask"), [name for name, one in asked.items() if name != "mask" and one not in (None, False)]
                if len(node.input_tensors) > 1 and layer._call_has_mask_arg:  # the masks of all inputs are no argument in the graph
                    mask = mask or next(filter(None, (self._mask(read, known) for read in node.input_tensors)), None)
                if more or (mask is not None and kind not in _MASKED):
                    raise refusal(layer, f"the argument {more[0]!r}" if more else "a mask")
            if kind != "MultiHeadAttention" and any(id(tensor) in self._unmasked for tensor in node.input_tensors):
                self._unmasked |= {id(tensor) for tensor in node.outputs}
            try:
                made = [self.rows[kind](self, Call(layer, values, asked))]
            except NetworkError:
                raise
            except Exception as problem:  # settings that PyTorch does not take fail in any way
                raise refusal(layer, f"what PyTorch does not take ({reason_of(problem)})") from problem
        known |= {id(tensor): value for tensor, value in zip(node.outputs, made, strict=True)}

    def _mask(self, tensor: Any, known: dict[int, KerasValue]) -> KerasValue | None:
        """Return the mask of a tensor in the graph, or None."""
        mask = None if id(tensor) in self._unmasked else getattr(tensor, "_keras_mask", None)
        waiting = [] if mask is None else [mask]
        while waiting:
            node = waiting[-1]._keras_history.operation._inbound_nodes[waiting[-1]._keras_history.node_index]
            further = [read for read in node.input_tensors if id(read) not in known]
            if not further and id(waiting.pop()) not in known:
                self._step_(node, known)
            waiting += further
        return None if mask is None else known[id(mask)]

    def add(  # over the limit: a layer, what it reads, and all that it has
        self,
        layer: Any,
        kind: str,
        /,
        *values: KerasValue,
        weights: Mapping[str, Any] = MappingProxyType({}),
        first: bool | None = None,
        part: str = "",
        **settings: Any,
    ) -> KerasValue:
        """Add a step and return its value.
        `first` says whether the result is channels first. None copies this from the first value."""
        module = layer_of(kind, settings).eval()
        state = module.state_dict()
        given = {name: torch.tensor(np.asarray(array), dtype=torch.float32) for name, array in weights.items()}
        state.update({name: tensor.reshape(state[name].shape) for name, tensor in given.items()})
        module.load_state_dict(state)
        if not getattr(layer, "trainable", True):
            module.requires_grad_(False)
        name = self._free(layer.name + part)
        if weights and hasattr(layer, "path"):
            self.names.setdefault(layer.path, name)
        self.steps.append({"name": name, "kind": kind, "of": [value.name for value in values], "settings": settings})
        self.modules[name] = module
        return KerasValue(name, module(*(value.tensor for value in values)), values[0].first if first is None else first)

    def _free(self, name: str) -> str:
        plain = _ODD.sub("_", name)
        taken = {*_TAKEN, *(self.sample if isinstance(self.sample, dict) else ())}
        while plain in self.modules or plain in taken or hasattr(nn.Module, plain) or plain == "training":
            plain += "_"
        return plain

    def as_keras(self, value: KerasValue) -> KerasValue:
        """Return a value in the axis order of Keras."""
        return self.turned(value, first=False)

    def channels_first(self, value: KerasValue) -> KerasValue:
        """Return a value with its channels behind the batch."""
        return self.turned(value, first=True)

    def turned(self, value: KerasValue, *, first: bool) -> KerasValue:
        """Return a value with its channels behind the batch (`first`) or last."""
        rank = value.tensor.ndim
        if value.first == first or rank < 3:
            return KerasValue(value.name, value.tensor, first)
        if (value.name, first) not in self._turned:
            axes = (0, rank - 1, *range(1, rank - 1)) if first else (0, *range(2, rank), 1)
            name = self._free(f"{value.name}_{'first' if first else 'last'}")
            self.steps.append({"name": name, "kind": "Permute", "of": [value.name], "settings": {"axes": list(axes)}})
            self.modules[name] = layer_of("Permute", {"axes": axes})
            self._turned[value.name, first] = KerasValue(name, value.tensor.permute(axes), first)
            self._turned[name, not first] = value
        return self._turned[value.name, first]

    def spatial(self, layer: Any, value: KerasValue) -> KerasValue:
        """Return the input of a layer over positions, channels first."""
        if getattr(layer, "data_format", "channels_last") == "channels_first":
            return KerasValue(self.as_keras(value).name, self.as_keras(value).tensor, first=True)
        return self.channels_first(value)

    def placed(self, layer: Any, value: KerasValue) -> KerasValue:
        """Return the output of a layer over positions with its axis order marked."""
        return KerasValue(value.name, value.tensor, first=getattr(layer, "data_format", "channels_last") != "channels_first")

    def activated(self, layer: Any, value: KerasValue) -> KerasValue:
        """Return a value after the activation of a layer."""
        function = layer.activation
        name = getattr(function, "__name__", type(function).__name__)
        if name == "linear":
            return value
        if name not in ACTIVATIONS or not getattr(function, "__module__", "").startswith("keras."):
            raise refusal(layer, f"the activation {name!r}")
        kind, settings = ACTIVATIONS[name]
        read = self.as_keras(value) if "dim" in settings else value
        return self.add(layer, kind, read, part=f"_{name}", **settings)


def refusal(layer: Any, what: str) -> NetworkError:
    """Return the error for a layer that has no PyTorch counterpart because of `what`."""
    return NetworkError(
        f"The layer {layer.name!r} ({type(layer).__name__}) has {what}, which has no counterpart in PyTorch here. Export the network as "
        ".onnx."
    )


def _is_single(layer: Any) -> bool:
    """Tell whether a layer computes with its own weights in single precision, or is a function."""
    changed = getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None)
    return not changed and getattr(layer, "compute_dtype", "float32") == "float32"


def _operations(model: Any) -> list[Any]:
    graph = graph_of(model)
    if graph is None:
        raise no_graph(model)
    own = [node.operation for node in steps_of(graph)]
    return [part for one in own for part in (_operations(one) if graph_of(one) is not None else [one])]


def array_of(variable: Any) -> np.ndarray:
    """Return the numbers of a Keras variable, or of a tensor that LoRA computes in its place, as float32."""
    return np.asarray(getattr(variable, "value", variable).detach().cpu().float().numpy())


def same_edges(length: int, size: int, *, stride: int) -> tuple[int, int]:
    """Return the padding (before, after) of an axis that padding="same" stands for. With a stride of 1 every `length` has the same."""
    whole = max((-(-length // stride) - 1) * stride + size - length, 0)
    return whole // 2, whole - whole // 2


ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{"relu": ("ReLU", {}), "relu6": ("ReLU6", {}), "sigmoid": ("Sigmoid", {}), "tanh": ("Tanh", {}), "softmax": ("Softmax", {"dim": -1})},
    **{"log_softmax": ("LogSoftmax", {"dim": -1}), "elu": ("ELU", {}), "selu": ("SELU", {}), "celu": ("CELU", {}), "gelu": ("GELU", {})},
    **{"silu": ("SiLU", {}), "mish": ("Mish", {}), "softplus": ("Softplus", {}), "softsign": ("Softsign", {})},
    **{"hard_sigmoid": ("Hardsigmoid", {}), "hard_silu": ("Hardswish", {}), "hard_tanh": ("Hardtanh", {})},
    **{"leaky_relu": ("LeakyReLU", {"negative_slope": 0.2}), "exponential": ("Function", {"kind": "exp"})},
    **{"log_sigmoid": ("LogSigmoid", {}), "tanh_shrink": ("Tanhshrink", {}), "linear": ("Identity", {})},
}
