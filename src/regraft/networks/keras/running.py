"""Run Keras models: seeds, a sample batch, calls of whole or split models, frozen layers, recurrent layers as single operators."""

import inspect
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ... import randomness
from ...errors import NetworkError, near_names
from ..family import Body
from ..parts.protocols import Inputs, Scores
from ..parts.recurrent import GATES, cells, weights_of
from ..parts.structure import below, prefixes
from ..samples import Shapes, first_that_runs, named_tensors, sample_of
from ..tracing import trace
from .library import keras
from .structure import graph_of, is_leaf, named_modules, own_variables, steps_of

_FREE_SIZES = (32, 224, 64, 96, 128, 16, 299)


def called(model: Any, inputs: Any, *, training: bool | None) -> Any:
    """Call a model with one batch. Named tensors go to the inputs, or to the arguments of `call`, of the same names; a model without either
    gets them in one mapping, list or tuple, as it was built."""
    graph = graph_of(model)
    if not isinstance(inputs, dict) or (graph is not None and isinstance(graph.input, dict)):
        return model(inputs, training=training)
    if graph is not None:
        tensors = [inputs[tensor.name] for tensor in graph.inputs]
        return model(tensors if isinstance(graph.input, list | tuple) else tensors[0], training=training)
    if inputs.keys() <= inspect.signature(model.call).parameters.keys():
        return model(**inputs, training=training)
    form: Any = next(iter((getattr(model, "_build_shapes_dict", None) or {}).values()), None)
    several = isinstance(form, list | tuple) and any(isinstance(one, list | tuple) for one in form)
    return model(type(form)(inputs.values()) if several else inputs, training=training)


def _first_called(model: Any, inputs: Inputs) -> Any:
    """Call a model that may not be built yet: with named tensors in one mapping, or else in a list."""
    try:
        with warnings.catch_warnings():
            if isinstance(inputs, dict) and not model.built:
                warnings.simplefilter("ignore")  # about the state in which a failed attempt leaves it
            return called(model, inputs, training=False)
    except Exception as problem:  # the code of a model may raise anything
        if not isinstance(inputs, dict) or graph_of(model) is not None:
            raise
        try:
            made = model(list(inputs.values()), training=False)
        except Exception:
            raise problem from None
    model._build_shapes_dict = {"input_shape": [tuple(tensor.shape) for tensor in inputs.values()]}  # a failed attempt leaves another form
    return made


def by_number(inputs: Sequence[Any]) -> dict[str, Any]:
    """Return the inputs that a model without a graph takes in a list, or their shapes, by the names that they have here."""
    return {f"input_{number}": one for number, one in enumerate(inputs, 1)}


def shapes_of(model: Any) -> dict[str, Any]:
    """Return the example shapes that a functional model states: "inputs" for a single input, "named_inputs" for several."""
    graph = graph_of(model)
    if graph is None:
        return {}
    shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in graph.inputs}
    return {"inputs": next(iter(shapes.values()))} if len(shapes) == 1 and not isinstance(graph.input, dict) else {"named_inputs": shapes}


_SUCH = "(224, 224, 3), or inputs={'pixels': (224, 224, 3), 'age': ()} if it takes a mapping of tensors"


def sample_for(model: Any, inputs: Shapes) -> Inputs:
    """Return a batch of two examples that a model accepts.
    `inputs`: the shape of one example, or of each input by name, if known."""
    options, name = (_sample(model, inputs, size=size) for size in _FREE_SIZES), f"{type(model).__name__} '{model.name}'"
    such = _SUCH if graph_of(model) is None else "(224, 224, 3)"
    made: Inputs = first_that_runs(options, partial(_first_called, model), name=name, shape=inputs, such=such)
    return _with_ids(model, made) if isinstance(made, dict) and graph_of(model) is None else made


def _with_ids(model: Any, sample: Mapping[str, Tensor]) -> Inputs:
    """Return a sample with token ids for the inputs that embeddings look up. They take other numbers too, so that each is traced."""
    drawn = {name: tensor + at if tensor.is_floating_point() else tensor for at, (name, tensor) in enumerate(sample.items())}
    looked_up = {name: layer for name, layer in named_modules(model).items() if isinstance(layer, keras.layers.Embedding)}
    read = trace(looked_up, partial(called, model, drawn, training=False)).inputs.values()
    ids = {name for name, tensor in drawn.items() if any(one.shape == tensor.shape and (one == tensor).all() for one in read)}
    return {name: sample_of(tensor.shape[1:], integers=True) if name in ids else tensor for name, tensor in sample.items()}


def _sample(model: Any, inputs: Shapes, *, size: int) -> Inputs:
    graph = graph_of(model)

    def made(shape: Sequence[int | None], *, integers: bool) -> Tensor:
        return sample_of([size if length is None else int(length) for length in shape], integers=integers)

    if graph is not None:
        one = len(graph.inputs) == 1 and not isinstance(graph.input, dict)
        known = inputs if isinstance(inputs, Mapping) else {} if inputs is None or not one else {graph.inputs[0].name: inputs}
        names = [tensor.name for tensor in graph.inputs]
        unknown = next((name for name in known if name not in names), None)
        if unknown is not None:
            raise NetworkError(f"{type(model).__name__} '{model.name}' takes no input {unknown!r}{near_names(unknown, names)}")
        shapes = [known.get(tensor.name, tensor.shape[1:]) for tensor in graph.inputs]
        read = [id(layer.input) for layer in graph.layers if isinstance(layer, keras.layers.Embedding) and len(layer._inbound_nodes) == 1]
        tensors = []
        for shape, tensor in zip(shapes, graph.inputs, strict=True):
            whole = "int" in tensor.dtype
            drawn = made(shape, integers=whole or id(tensor) in read)
            tensors.append(drawn if whole else drawn.float())
        return tensors[0] if one else {tensor.name: values for tensor, values in zip(graph.inputs, tensors, strict=True)}
    if inputs is None:  # those that a subclassed model was built with
        built = [shape for shape in (getattr(model, "_build_shapes_dict", None) or {}).values() if isinstance(shape, (tuple, list, dict))]
        if len(built) == 1 and isinstance(built[0], (tuple, list)) and all(isinstance(shape, (tuple, list)) for shape in built[0]):
            built = [by_number(built[0])]
        shapes = list(built[0].values()) if built and isinstance(built[0], dict) else built
        if len(built) != 1 or any(isinstance(part, (tuple, list, dict)) for shape in shapes for part in shape):
            raise NetworkError(
                f"{type(model).__name__} '{model.name}' does not state the shape of what it takes ({len(built)} shapes known). "
                f"Give the shape of one example without the batch, such as inputs={_SUCH}."
            )
        inputs = {name: shape[1:] for name, shape in built[0].items()} if isinstance(built[0], dict) else built[0][1:]
    if isinstance(inputs, Mapping):
        return named_tensors({name: [size if length is None else length for length in shape] for name, shape in inputs.items()})
    return made(inputs, integers=len(inputs) == 1 and any(isinstance(layer, keras.layers.Embedding) for layer in model._flatten_layers()))


Split = tuple[Callable[[Inputs], list[Tensor]], Callable[[Sequence[Tensor]], Scores]]


@dataclass(frozen=True, eq=False)
class _GraphCut:
    """A body of which the graph is cut behind its frozen steps. Its two parts share the layers.
    After pickling it cuts the graph again, because tensors are identified by their ids."""

    body: Any
    frozen: frozenset[str]
    graph: Any
    border: list[Any]  # the symbolic tensors that the trainable part reads
    frozen_steps: list[Any]
    live_steps: list[Any]

    def frozen_part(self, inputs: Inputs) -> list[Tensor]:
        """Return the values of `border` for one batch, without gradients and in inference mode."""
        with torch.no_grad():
            known = _begun(self.graph, [inputs])
            run_steps_(self.frozen_steps, known, training=False)
        return [known[id(tensor)] for tensor in self.border]

    def trainable_part(self, tensors: Sequence[Tensor]) -> Scores:
        """Return the logits by task for the values of `border`, in the current mode."""

        def run() -> Any:
            known: dict[int, Any] = {id(symbolic): tensor for symbolic, tensor in zip(self.border, tensors, strict=True)}
            run_steps_(self.live_steps, known, training=self.body.training)
            return [known[id(tensor)] for tensor in self.graph.outputs]

        scores: Scores = self.body.with_derived(self.body.scores_of_run(run))
        return scores

    def __reduce__(self) -> Any:
        return cut_graph, (self.body, self.frozen)


def cut_graph(body: Body, frozen: Collection[str]) -> _GraphCut | None:
    """Return a body with its graph cut behind the frozen layers; None if the graph cannot be cut there."""
    graph = graph_of(body.module)
    if graph is None or len(graph.inputs) != 1:
        return None
    frozen_steps, live_steps = parted(body, graph, frozen=frozen)
    made = [*graph.inputs, *(tensor for node in frozen_steps for tensor in node.outputs)]
    known = set(map(id, made))
    if not all(id(tensor) in known for node in frozen_steps for tensor in node.input_tensors):
        return None
    border = read_after(graph, live_steps, made=made)
    if not frozen_steps or not live_steps or border is None:
        return None
    return _GraphCut(body, frozenset(frozen), graph, border, frozen_steps, live_steps)


def parted(body: Body, graph: Any, *, frozen: Collection[str]) -> tuple[list[Any], list[Any]]:
    """Divide the steps of a graph into those of the frozen layers and the others.
    A layer's step is frozen if all its layers are; a step without layers if all its inputs are."""
    names, frozen = {id(module): name for name, module in body.modules().items()}, set(frozen)
    known = [layer.name for layer in body.layers]
    made = set(map(id, graph.inputs))
    frozen_steps: list[Any] = []
    live_steps: list[Any] = []
    for node in steps_of(graph):
        name = names.get(id(node.operation))
        inside = [layer for layer in known if name is not None and below(layer, name)]
        still = frozen.issuperset(inside) if inside else all(id(tensor) in made for tensor in node.input_tensors)
        (frozen_steps if still else live_steps).append(node)
        made |= set(map(id, node.outputs)) if still else set()
    return frozen_steps, live_steps


def read_after(graph: Any, steps: Sequence[Any], *, made: Sequence[Any]) -> list[Any] | None:
    """Return the symbolic tensors of `made` that these steps read or the graph returns; None if one of them has a mask."""
    own = set(map(id, made))
    read = [tensor for node in steps for tensor in node.input_tensors] + list(graph.outputs)
    found = list({id(tensor): tensor for tensor in read if id(tensor) in own}.values())
    return None if any(getattr(tensor, "_keras_mask", None) is not None for tensor in found) else found


_LEADING = "_regraft_leading"  # Attribute of a graph some of whose steps another function computes


def lead_(
    graph: Any,
    run: Callable[..., Sequence[Tensor]],
    *,
    before: Sequence[Any],
    read: Sequence[Any],
    steps: Collection[Any],
    made: Sequence[Any],
) -> None:
    """Let a function compute `steps` of the graph of a private copy, in inference mode, after the steps `before` them.
    It maps the values of `read`, inputs of the graph or made before, to those of `made`, which other steps read: symbolic tensors."""

    def begun(known: dict[int, Any]) -> dict[int, Any]:
        run_steps_(before, known, training=False)
        found = run(*(known[id(tensor)] for tensor in read))
        return known | dict.fromkeys(map(id, [*before, *steps])) | dict(zip(map(id, made), found, strict=True))

    def call(inputs: Any, training: bool | None = None, mask: Any = None, **_further: Any) -> Any:
        known = _begun(graph, graph._standardize_inputs(inputs))
        run_steps_(steps_of(graph), known, training=bool(training))
        found = keras.tree.map_structure(lambda tensor: known[id(tensor)], graph._outputs_struct)
        return found[0] if isinstance(found, list) and len(found) == 1 else found

    vars(graph).update({_LEADING: begun, "call": call})


def _begun(graph: Any, inputs: Sequence[Any]) -> dict[int, Any]:
    """Return what is known before the steps of a graph run, by id: its inputs and what another function computes."""
    known = dict(zip(map(id, graph.inputs), inputs, strict=True))
    leading = vars(graph).get(_LEADING)
    return leading(known) if leading else known


def run_steps_(steps: Sequence[Any], known: dict[int, Any], *, training: bool) -> None:
    """Run graph nodes in order and store their outputs in `known`, by the symbolic tensor's id. Nodes that `known` holds are done."""
    for node in steps:
        if id(node) in known:
            continue
        args, kwargs = node.arguments.fill_in(known)
        if "training" in getattr(node.operation, "_call_context_args", ()):
            kwargs["training"] = training
        outputs = node.operation(*args, **kwargs)
        known.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))


_KINDS = {"LSTM": "LSTM", "GRU": "GRU", "SimpleRNN": "RNN"}
_ACTIVATIONS = {"tanh": "Tanh", "sigmoid": "Sigmoid", "relu": "Relu", "softsign": "Softsign", "softplus": "Softplus"}
"""Activations that the operators of ONNX have, by Keras' names."""


def as_operators(layers: Iterable[Any]) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Yield, for `replaced`, what makes recurrent layers one ONNX operator each where no mask is given and ONNX has their activations."""
    for layer in layers:
        if type(layer).__name__ in _KINDS and type(layer).__module__.startswith("keras.") and not layer.stateful:
            gate, own = (getattr(getattr(layer, name, None), "__name__", "") for name in ("recurrent_activation", "activation"))
            wanted = {"LSTM": [gate, own, own], "GRU": [gate, own], "SimpleRNN": [own]}[type(layer).__name__]
            if _ACTIVATIONS.keys() >= set(wanted) and "inner_loop" not in vars(layer):
                run = partial(
                    cells, _KINDS[type(layer).__name__], weights=_weights(layer), activations=[_ACTIVATIONS[name] for name in wanted]
                )
                if (before := getattr(layer, "reset_after", None)) is not None:
                    run.keywords["linear_before_reset"] = int(before)
                yield layer, "inner_loop", partial(_run, layer, layer.inner_loop, run)


def _weights(layer: Any) -> list[Tensor]:
    cell, kind = layer.cell, _KINDS[type(layer).__name__]
    parts = [cell.kernel.value.T, cell.recurrent_kernel.value.T]
    if layer.use_bias:
        bias = cell.bias.value
        parts += list(bias) if bias.ndim == 2 else [bias, torch.zeros_like(bias)]
    return weights_of([parts], range(3) if kind == "GRU" else GATES[kind])


def _run(layer: Any, stepwise: Any, run: Any, /, *, sequences: Tensor, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """Return the last output, all outputs and the last states, as Keras does."""
    if mask is not None:
        return stepwise(sequences, initial_state, mask, training=training)
    first = [state[None] for state in (initial_state if isinstance(initial_state, list | tuple) else [initial_state])]
    outputs, last = run(sequences.flip(1) if layer.go_backwards else sequences, states=first)
    return last[0][0], outputs, [state[0] for state in last]


def hook_strided_(layers: Iterable[Any]) -> list[Any]:
    """Let strided 1x1 convolutions subsample their input first, and return the hook handles.
    Keras 3.15 computes convolutions channels-last on PyTorch. On a CPU, torch 2.14.1 then writes the gradients of strided 1x1 convolutions
    outside their memory (8 → 16 channels, 62 x 62, batch 32, stride 2). The process crashes, in Keras's own `fit` too."""
    hooks = []
    for layer in layers:
        if isinstance(layer, keras.layers.Conv2D) and type(layer).__name__ == "Conv2D":
            strides = tuple(layer.strides)
            if set(layer.kernel_size) == {1} and set(strides) != {1}:
                hooks.append(layer.register_forward_pre_hook(_thinned))
                hooks.append(layer.register_forward_hook(partial(_restored, strides), always_call=True))
    return hooks


def _thinned(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    values = args[0] if args else None
    if not isinstance(values, Tensor) or values.device.type != "cpu" or not torch.is_grad_enabled() or set(layer.strides) == {1}:
        return None
    steps = [slice(None, None, step) for step in layer.strides]
    layer.strides = (1,) * len(steps)
    return (values[(slice(None), slice(None), *steps) if layer.data_format == "channels_first" else (slice(None), *steps)], *args[1:])


def _restored(strides: tuple[int, ...], layer: Any, *_call: Any) -> None:
    if tuple(layer.strides) != strides:
        layer.strides = strides


# ── frozen layers, seeds and initial values ───────────────────────────────────────────────────────────────────────────────


def held_names(modules: Mapping[str, Any], trainable: Mapping[str, bool]) -> frozenset[str]:
    """Return the layers, and single variables, that the owner of a model has frozen.
    Layers without weights do not count: as in Keras, their flag has no effect (dropout stays active). The flag of the model itself does not
    count either: setting it sets those of all layers, so a layer with another flag was set on purpose. `trainable`: the original flags."""
    frozen = {name for name in modules if not all(trainable.get(outer, True) for outer in prefixes(name)[:-1])}
    whole = {name for name in frozen if is_leaf(modules[name]) and modules[name].weights}
    single = {
        key
        for name in modules.keys() - frozen
        for key, variable in own_variables(name, modules[name], trainable_only=True).items()
        if not variable.trainable
    }
    return frozenset(whole | single)


def inference(_module: Module, *call: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Forward pre-hook that makes a layer's `call` run in inference mode."""
    args, kwargs = call
    return (args, {**kwargs, "training": False}) if "training" in kwargs else None


_global_state: Any = keras.src.backend.common.global_state
_KERAS_GENERATOR = ("global_random_seed", "global_seed_generator")
"""The seed of Keras' global generator, and the generator itself, which Keras creates from the seed when missing."""


def drawn(initializer: Any, shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Return what an initialiser draws with this seed instead of its own."""
    config = initializer.get_config()
    own = type(initializer).from_config({**config, "seed": seed} if "seed" in config else config)
    return np.asarray(keras.ops.convert_to_numpy(own(shape)), np.float32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the process-wide generators and that of Keras while the context lasts, then restore their states."""
    with randomness.seeded(seed):
        before = {name: _global_state.get_global_attribute(name) for name in _KERAS_GENERATOR}
        try:
            for name, value in zip(_KERAS_GENERATOR, (seed % 2**32, None), strict=True):
                _global_state.set_global_attribute(name, value)
            yield
        finally:
            for name, value in before.items():
                _global_state.set_global_attribute(name, value)
