"""Names, layers, blocks and hook points of a Keras model."""

import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import FunctionType, MethodType
from typing import Any

from ...errors import NetworkError
from ..family import Body
from ..fingerprints.libraries import library_of
from ..fingerprints.values import Fingerprint, Structure
from ..parts.structure import Block, Layer, below, merged_blocks, numbered, prefixes
from ..parts.taps import TapSlice, slices_of
from .heads import channels_last
from .library import keras

_MOST_BLOCKS = 40
_UNDER_LORA = ("kernel", "embeddings")
TAPS = "taps"  # Name of the operation that concatenates the pooled outputs of blocks, and name prefix of the pooling operations
READ = "_regraft_read"
"""Class attribute of a model without a graph that returns pooled outputs of its layers: the hook points that it reads."""
CONDITION = "condition"  # Name of the input with row indices into the table of codes
CODES = "codes"
"""Name of the Embedding that holds the codes of conditions, and name prefix of the layers that bring them to their hook points."""
CODE_INPUT = "codes_input"  # Name of the input through which a nested model takes the codes
ADJUSTED = "adjusted_"  # Name prefix of the layers that scale and shift by channel; they exist only in training
_CODE_PARTS = tuple(f"{CODES}_{part}_" for part in ("to", "at", "plus", "then"))


def sublayers(layer: Any) -> list[Any]:
    """Return the direct sublayers of a layer, without input layers."""
    found = layer.layers if isinstance(layer, keras.Model) else layer._flatten_layers(include_self=False, recursive=False)
    return [part for part in found if not isinstance(part, keras.layers.InputLayer)]


def is_leaf(layer: Any) -> bool:
    """Tell whether a layer counts as a single layer: all but models and user-defined layers with sublayers."""
    if isinstance(layer, keras.Model):
        return False
    return type(layer).__module__.split(".")[0] == "keras" or not sublayers(layer)


def named_modules(model: Any) -> dict[str, Any]:
    """Return every layer of a model by name, with containers. A part of a container is called "container.part".
    A layer used in several places has its first name. Equal names in one container get "_1", "_2", …."""
    found: dict[str, Any] = {}
    seen: set[int] = {id(model)}

    def walk(layer: Any, prefix: str) -> None:
        for part in sublayers(layer):
            if id(part) in seen:
                continue
            seen.add(id(part))
            name = next(name for name in numbered(prefix + part.name) if name not in found)
            found[name] = part
            walk(part, name + ".")

    walk(model, "")
    return found


def named_module(model: Any, name: str) -> Any:
    """Return the layer of a `model` that `named_modules` calls `name`."""
    return named_modules(model)[name]


def own_variables(name: str, layer: Any, *, trainable_only: bool = False) -> dict[str, Any]:
    """Return a layer's own variables by state name, without those of its sublayers."""
    prefix = f"{name}." if name else ""
    variables = list(layer._trainable_variables)
    if trainable_only and getattr(layer, "lora_enabled", False):  # the weights under a low-rank change are not trained
        variables = [variable for variable in variables if variable.name not in _UNDER_LORA]
    if not trainable_only:
        variables += [*layer._non_trainable_variables, *(generator.state for generator in layer._seed_generators)]
    found: dict[str, Any] = {}
    for variable in variables:
        found[next(key for key in numbered(prefix + variable.name) if key not in found)] = variable
    return found


def variables_below(name: str, modules: Mapping[str, Any], *, trainable_only: bool = False) -> dict[str, Any]:
    """Return the variables of the layer `name`: a leaf's include those of its sublayers, a container's are only its own."""
    layer = modules[name]
    inside = [part for part in modules if below(part, name)] if is_leaf(layer) and sublayers(layer) else [name]
    return {key: value for part in inside for key, value in own_variables(part, modules[part], trainable_only=trainable_only).items()}


def layers_of(modules: Mapping[str, Any], order: Sequence[str]) -> tuple[Layer, ...]:
    """Return the layers in the order of execution. Layers with parameters that were not called come last."""
    leaves, called = {name for name, module in modules.items() if is_leaf(module)}, set(order)
    inner = {name for name in modules if not leaves.isdisjoint(prefixes(name)[1:])}
    found = []
    for name in [*order, *(name for name in modules if name not in called)]:
        count = sum(variable.value.numel() for variable in variables_below(name, modules, trainable_only=True).values())
        if name not in inner and (count or (is_leaf(modules[name]) and name in called)):
            found.append(Layer(name, type(modules[name]).__name__, count))
    return tuple(found)


def graph_of(model: Any) -> Any | None:
    """Return the functional graph of a functional or Sequential model; None for other models."""
    if isinstance(model, keras.Sequential):
        return model._functional
    return model if isinstance(model, keras.Model) and hasattr(model, "_nodes_by_depth") else None


def no_graph(model: Any) -> NetworkError:
    """Return the error for a model without a graph, with what to do."""
    return NetworkError(
        f"{type(model).__name__} '{model.name}' has no graph of layers; expected a functional or Sequential model. "
        "Make the change in the class's own code and load its weights with weights=, or build the model with the functional API."
    )


def steps_of(graph: Any) -> list[Any]:
    """Return the nodes of a functional graph in topological order, without inputs."""
    return [node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth] if not node.is_input]


def is_tap(operation: Any) -> bool:
    """Tell whether an operation belongs to the pooling of several blocks' outputs."""
    return bool(operation.name == TAPS or operation.name.startswith(f"{TAPS}_"))


def is_code(operation: Any) -> bool:
    """Tell whether an operation is the table of codes or brings codes to their hook points."""
    return (operation.name == CODES and isinstance(operation, keras.layers.Embedding)) or operation.name.startswith(_CODE_PARTS)


def _code_tensors(graph: Any, steps: Sequence[Any]) -> set[int]:
    """Return the ids of the tensors that the code layers compute from the condition alone."""
    found = {id(tensor) for tensor in graph.inputs if tensor.name in {CONDITION, CODE_INPUT}}
    for node in steps:
        if is_code(node.operation) and node.input_tensors and all(id(tensor) in found for tensor in node.input_tensors):
            found |= {id(tensor) for tensor in node.outputs}
    return found if any(is_code(node.operation) for node in steps) else set()


def tap_slices(model: Any, head: Any) -> tuple[TapSlice, ...]:
    """Return the slice of the features that comes from each tap; empty if the features are not those of taps.
    `head`: the layer that reads the features; None if they are the model's result."""
    graph = graph_of(model)
    if graph is None and head is None:
        return _read_slices(model)
    steps = [] if graph is None else steps_of(graph)
    joined = next((step for step in steps if step.operation.name == TAPS), None)
    read = [tensor for step in steps if step.operation is head for tensor in step.input_tensors] if head else getattr(graph, "outputs", [])
    if joined is None and len(read) == 1:
        return _read_slices(read[0]._keras_history.operation)
    if joined is None or all(tensor is not joined.outputs[0] for tensor in read):
        return ()
    parts = []
    for tensor in joined.input_tensors:
        pool, _, block = tensor._keras_history.operation.name.removeprefix(f"{TAPS}_").partition(".")
        parts.append((block, pool, tensor.shape[1]))
    return slices_of(parts)


def _read_slices(model: Any) -> tuple[TapSlice, ...]:
    """Return the slices of a model without a graph that is read by hooks; empty for any other operation."""
    return slices_of([(point.block, pool, width) for point in getattr(model, READ, ()) for pool, width in point.widths()])


def _bottlenecks(graph: Any, steps: Sequence[Any]) -> list[bool]:
    """Tell for each step whether all data flow through it: no earlier tensor is read later, apart from taps and codes."""
    codes = _code_tensors(graph, steps)
    last_use: dict[int, int] = {id(tensor): len(steps) for tensor in graph.outputs}
    for at, node in enumerate(steps):
        for tensor in [] if is_tap(node.operation) else node.input_tensors:
            last_use[id(tensor)] = max(at, last_use.get(id(tensor), -1))
    last_use |= dict.fromkeys(codes, -1)
    made = [node for node in steps if not is_code(node.operation) and codes.issuperset(map(id, node.input_tensors))]  # in place of an input
    entries = [*graph.inputs, *(tensor for node in made for tensor in node.outputs)]
    farthest = max((last_use.get(id(tensor), -1) for tensor in entries), default=-1)
    found = []
    for at, node in enumerate(steps):
        found.append(farthest <= at and not codes & {id(tensor) for tensor in node.outputs})
        farthest = max([farthest, *(last_use.get(id(tensor), at) for tensor in node.outputs)])
    return found


def _stretches(layer: Any, names: Mapping[int, str]) -> list[list[str]]:
    """Return module names in groups between the bottlenecks of the graph; nested models are opened."""
    graph = graph_of(layer)
    groups: list[list[str]] = []
    if graph is None:
        total = layer.count_params() if layer.built else 0
        for part in sublayers(layer):
            opened = not is_leaf(part) and (graph_of(part) is not None or part.count_params() > total / 2)
            groups += _stretches(part, names) if opened else [[names[id(part)]]]
        return groups
    steps = steps_of(graph)
    groups.append([])
    for node, bottleneck in zip(steps, _bottlenecks(graph, steps), strict=True):
        name = names.get(id(node.operation))
        if bottleneck and isinstance(node.operation, keras.Model):
            groups += [*_stretches(node.operation, names), []]
            continue
        groups[-1] += [name] if name else []
        if bottleneck:
            groups.append([])
    return [group for group in groups if group]


def blocks_of_model(model: Any, modules: Mapping[str, Any], *, layers: Sequence[Layer]) -> tuple[Block, ...]:
    """Return at most 40 blocks of a model: stretches between the layers through which all data flow.
    A normalisation alone joins the block before it. In a model without a graph, the children are the blocks."""
    names = {id(module): name for name, module in modules.items()}
    groups = _stretches(model, names)
    members: list[list[Layer]] = [[] for _ in groups]
    last = 0
    for layer in layers:
        last = next((at for at, group in enumerate(groups) if any(below(layer.name, name) for name in group)), last)
        members[last].append(layer)
    filled = [group for group in members if group]
    filled.sort(key=lambda group: layers.index(group[0]))
    side = {name for name, module in modules.items() if is_code(module) or module.name.startswith(ADJUSTED)}
    weights = {layer: 0 if layer.name in side else layer.parameters for layer in layers}
    named = [(next((layer.name for layer in group if weights[layer]), group[0].name), group) for group in _joined(filled, weights=weights)]
    return merged_blocks(named)


def _joined(groups: Sequence[list[Layer]], *, weights: Mapping[Layer, int]) -> list[list[Layer]]:
    """Join groups that stand for no depth of their own with the group before them; the `weights` of a layer that serves codes or scales
    count as 0."""
    joined: list[list[Layer]] = []
    for group in groups:
        if joined and all(layer.kind.endswith("Normalization") or not weights[layer] for layer in group):
            joined[-1] += group
        else:
            joined.append(list(group))
    if len(joined) > 1 and any(layer.parameters for layer in joined[0]) and not any(weights[layer] for layer in joined[0]):
        joined[:2] = [joined[0] + joined[1]]
    sizes = [sum(weights[layer] for layer in group) for group in joined]
    while len(joined) > _MOST_BLOCKS:
        at = min(range(len(joined) - 2), key=lambda at: sizes[at] + sizes[at + 1])
        joined[at : at + 2] = [joined[at] + joined[at + 1]]
        sizes[at : at + 2] = [sizes[at] + sizes[at + 1]]
    return joined


# ── hook points, found in the graph ──────────────────────────────────────────────────────────────────────────────────────

_NAMES = ("Dense", "EinsumDense", *(f"{kind}{rank}D" for kind in ("Conv", "DepthwiseConv", "SeparableConv") for rank in (1, 2, 3)))
_TRANSPOSED = tuple(f"Conv{rank}DTranspose" for rank in (1, 2, 3))
_LINEAR = tuple(getattr(keras.layers, name) for name in (*_NAMES, *_TRANSPOSED) if hasattr(keras.layers, name))


@dataclass(frozen=True)
class Site:
    """One hook point."""

    layer: Any  # the layer whose weights a channel-wise shift or scale folds into: the linear layer, or the BatchNormalization behind it
    linear: Any  # the linear layer; its own activation comes after the hook point
    channels: int
    axis: int  # the channel axis, counted from the last one (-1)


def sites_of(body: Body) -> dict[str, Site]:
    """Return the hook points of a `body` by name. Raise if it has no graph.
    A layer has no hook point if several graphs call it, if it comes after a head, or if its weights cannot be scaled by channel."""
    graph = graph_of(body.module)
    if graph is None:
        raise no_graph(body.module)
    heads = {id(body.modules()[found.layer]) for found in body.found.values()}
    graphs = list(_graphs(graph, set()))
    homes = Counter(number for one in graphs for number in {id(node.operation) for node in steps_of(one)})
    excluded: set[int] = heads | {number for number, count in homes.items() if count > 1}
    _note_late_(graph, heads, reached=False, late=excluded)
    names = {id(module): name for name, module in body.modules().items()}
    found = {names[id(site.layer)]: site for one in graphs for site in _sites(one, excluded) if id(site.layer) in names}
    return {layer.name: found[layer.name] for layer in body.layers if layer.name in found}


def _graphs(graph: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a graph and those of all nested models, each once."""
    if id(graph) not in seen:
        seen.add(id(graph))
        yield graph
        for node in steps_of(graph):
            inner = graph_of(node.operation)
            if inner is not None:
                yield from _graphs(inner, seen)


def _note_late_(graph: Any, heads: Collection[int], *, reached: bool, late: set[int]) -> bool:
    """Add the operations called after a head to `late`. Return whether the graph holds a head."""
    behind = {id(tensor) for tensor in graph.inputs} if reached else set()
    found = False
    for node in steps_of(graph):
        reads = any(id(tensor) in behind for tensor in node.input_tensors)
        inner = graph_of(node.operation)
        inside = id(node.operation) in heads if inner is None else _note_late_(inner, heads, reached=reads, late=late)
        found = found or inside
        late |= {id(node.operation)} if reads else set()
        behind |= {id(tensor) for tensor in node.outputs} if reads or inside else set()
    return found


def _sites(graph: Any, excluded: Collection[int]) -> Iterator[Site]:
    steps = steps_of(graph)
    readers = Counter(id(tensor) for node in steps for tensor in node.input_tensors) + Counter(map(id, graph.outputs))
    calls = Counter(id(node.operation) for node in steps)
    normalised = {
        id(node.input_tensors[0]): node.operation
        for node in steps
        if type(node.operation) is keras.layers.BatchNormalization and calls[id(node.operation)] == 1 and id(node.operation) not in excluded
    }
    seen: set[int] = set()
    for node in steps:
        linear, output = node.operation, node.outputs[0]
        if id(linear) in excluded or id(linear) in seen or not _foldable(linear):
            continue
        seen.add(id(linear))
        rank = len(output.shape)
        axis = -1 if channels_last(linear) else 1 - rank
        norm = normalised.get(id(output)) if readers[id(output)] == 1 == calls[id(linear)] else None
        plain = linear.activation is keras.activations.linear
        behind = plain and norm is not None and norm.axis % rank == axis % rank  # over the same channels
        yield Site(norm if behind else linear, linear, output.shape[axis], axis)


def _foldable(layer: Any) -> bool:
    """Tell whether a layer is linear and its weights can scale its output channels. Subclasses are excluded: their code may differ."""
    if type(layer) not in _LINEAR or is_code(layer) or getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return False
    if not isinstance(layer, keras.layers.EinsumDense):
        return True
    read, _, rest = layer.equation.partition(",")  # the kernel contributes only the last output axis, as in a Dense layer
    kernel, _, made = rest.partition("->")
    fresh = [label for label in kernel if label not in read]
    return fresh == [made[-1]] == [kernel[-1]] and set(layer.bias_axes or "") <= set(fresh)


# ── what the layers compute, apart from their weights ───────────────────────────────────────────────────────────────────

_OF_EVERY_MODEL = frozenset(
    {
        *("stop_predicting", "stop_training", "optimizer", "history", "_compiled_trainable_state", "_compile_config", "_functional"),
        *("_eval_epoch_iterator", "_inputs_struct", "_outputs_struct", "_inputs", "_outputs", "_nodes", "_nodes_by_depth", "_operations"),
        *("_operations_by_depth", "input_names", "output_names", "_input_names", "_output_names", "_torch_params"),
    }
)
"""Attributes that models get when built, compiled or run."""
_OF_EVERY_OBJECT = frozenset({"tracker", "_tracker", "_lock", "_auto_config"})
_CALLABLE = (FunctionType, MethodType, partial)


def layer_structure(  # over the limit: what a structure is of, and what does not count
    model: Any, modules: Mapping[str, Any], layers: Collection[str], *, beside: Sequence[Any] = (), ignored: Collection[str] = ()
) -> Structure:
    """Return the structure of some layers: the layers in them, the containers whose code calls them, and the whole graph."""
    named = {"": model, **modules}
    known = {id(module): name or "the network" for name, module in named.items()}
    for name, module in named.items():
        for key, variable in own_variables(name, module).items():
            known |= {id(variable): key, id(variable.value): key}
    prints = Fingerprint(known, config_of=_config_of, left_out=_OF_EVERY_OBJECT, ignored=ignored)
    around, chosen = {outer for layer in layers for outer in prefixes(layer)}, set(layers)
    reached = [name for name in named if name in around or not chosen.isdisjoint(prefixes(name))]
    lines = [f"{name}: {_described(named[name], name, prints=prints, listed=name in chosen)}" for name in sorted(reached)]
    lines += _wiring(named, prints)
    lines += [prints.of(value, "taps") for value in beside]
    return prints.structure(lines)


def _described(layer: Any, name: str, *, prints: Fingerprint, listed: bool) -> str:
    """Return the digest of a layer's class, config and own attributes.
    Attributes that every layer has (its path in the model, whether it is built) are left out: they differ between equal layers. A Keras
    layer is identified by its config and the functions it holds."""
    kind, of_all = type(layer), _of_all()[0]
    own = {key: value for key, value in vars(layer).items() if key not in of_all}
    if library_of(kind.__module__):
        own = {key: value for key, value in own.items() if isinstance(value, _CALLABLE)}
    config = _config_of(layer) if listed else None
    hooks = [list(vars(layer)[key].values()) for key in ("_forward_pre_hooks", "_forward_hooks") if vars(layer).get(key)]
    parts = {"class": kind, "call": kind.call, "config": config, "hooks": hooks}
    return " ".join(prints.of(value, f"{name}.{key}") for key, value in [*parts.items(), *sorted(own.items())])


@cache
def _of_all() -> tuple[frozenset[str], frozenset[str]]:
    """Return the attributes that every layer or model has, and those that every operation has."""
    layers = {*vars(keras.layers.Layer()), *vars(keras.Model()), *_OF_EVERY_MODEL}
    return frozenset(layers), frozenset(vars(keras.Operation()))


def _config_of(value: Any) -> Any:
    """Return the config from which Keras would recreate an object; None if there is none."""
    if isinstance(value, keras.random.SeedGenerator):
        return "seeds"  # only dropout and noise read seeds, and both are off in inference
    if not hasattr(value, "get_config") or isinstance(value, type):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # warns that a lambda cannot be loaded again; nothing is saved here
            config = value.get_config()
    except Exception:  # the class has no config, or one that Keras cannot serialise
        return None
    unnamed = {key: part for key, part in config.items() if key not in {"trainable", "layers"}} if isinstance(config, dict) else config
    return _without_code(unnamed)


def _without_code(config: Any) -> Any:
    """Return a config without the code of functions: it differs between processes, and functions have their own digests."""
    if isinstance(config, dict):
        if config.get("class_name") in {"__lambda__", "function"}:
            return config["class_name"]
        return {key: _without_code(part) for key, part in config.items()}
    return [_without_code(part) for part in config] if isinstance(config, (list, tuple)) else config


def _wiring(named: Mapping[str, Any], prints: Fingerprint) -> list[str]:
    """Return one line per step of the functional graphs: its inputs, its call arguments and its operation.
    `named`: name -> model and layers, used for nested graphs and names."""
    names = {id(module): name for name, module in named.items() if name}
    lines = []
    for name, part in named.items():
        graph = graph_of(part)
        if graph is None:
            continue
        numbers = {id(tensor): f"input {at}" for at, tensor in enumerate(graph.inputs)}
        for at, node in enumerate(steps_of(graph)):
            step, said = f"{name}#{at}", names.get(id(node.operation), "")
            given = [numbers.get(id(tensor), "?") for tensor in node.input_tensors]
            leaves = keras.tree.flatten([node.arguments.args, node.arguments.kwargs])
            constant, own = [leaf for leaf in leaves if not isinstance(leaf, keras.KerasTensor)], []
            if not said:  # an operation that is no layer: what it holds beside what every operation has
                held = sorted(vars(node.operation).items())
                own = [type(node.operation), *(value for key, value in held if key not in _of_all()[1])]
            lines.append(f"{step} {said} {given} {sorted(node.arguments.kwargs)} {prints.of([constant, own], step)}")
            numbers.update({id(tensor): f"{at}.{index}" for index, tensor in enumerate(node.outputs)})
    return lines
