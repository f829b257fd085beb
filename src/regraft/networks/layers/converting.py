"""Convert a network to the other family: the same function, with its heads, class names and preprocessing."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError, RegraftError
from ...files.formats import reason_of
from ..account import Account
from ..edits import Codes
from ..keras.body import KerasBody
from ..keras.family import open_keras
from ..keras.library import keras
from ..keras.saving import as_given
from ..keras.structure import CODES, CONDITION
from ..network import Network
from ..parts.coding import ENTRANCE, LAYERS
from ..parts.head import told_binary
from ..parts.onnx_export import input_names, is_coarse, why_not_exported
from ..parts.program_export import exported_program
from ..parts.protocols import by_name, on_device
from ..samples import lengthened
from ..torch.family import open_torch
from ..torch.graft import for_exporter_
from ..tracing import hooked, relative_difference
from .attention import whole_layers_
from .from_keras import ROWS
from .from_torch import ROWS as TORCH_ROWS
from .graph import SOURCE, LayerGraph
from .keras_reader import KerasReader
from .torch_reader import TorchReader, TorchValue, channels_last

Shapes = Mapping[str, tuple[int | None, ...]]
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2
"""Largest allowed difference, relative to the largest score; the second applies to a source that computes in 16 bits."""


def as_torch(network: Network, *, turn: bool = True) -> Network:
    """Convert a Keras network to PyTorch layers.
    With `turn`, images that are the only input become channels first, as PyTorch's convolutions need."""
    return _converted(network, _torch_of, turn=turn)


def as_keras(network: Network) -> Network:
    """Convert a PyTorch network to a functional Keras model. Images that are the only input become channels last."""
    network.body.refuse_change("made of Keras layers")
    return _converted(network, _keras_of, turn=True)


def _converted(network: Network, convert: Callable[..., tuple[Network, Mapping[str, str]]], *, turn: bool) -> Network:
    """Convert a network; sequences may have any length after as before, unless the result needs that of the sample."""
    turned = turn and _turns(network)
    if not turned and _sequences(network):
        with suppress(Exception):  # a length that became a number of the graph fails in any way
            return _carried_over(network, partial(convert, shapes=_sequences(network)), turned=False)
    return _carried_over(network, convert, turned=turned)


def _sequences(network: Network) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of inputs of any length, by name: (length,), (length, features) or (channels, length)."""
    return {name: shape for name, shape in network.body.open_shapes.items() if len(shape) < 3 and shape.count(None) == 1}


def _carried_over(network: Network, convert: Callable[..., tuple[Network, Mapping[str, str]]], *, turned: bool) -> Network:
    """Convert a network. Codes of conditions are removed before and added to the same layers after."""
    coding = network.coding
    if coding is None:
        return _told(network, convert(network, turned=turned)[0], turned=turned)
    if coding.into != LAYERS:
        remedy = "Fold one: regraft.fold." if coding.into == ENTRANCE else "Export it as .onnx."
        raise NetworkError(f"This network reads the codes of conditions at {coding.into!r}; expected {LAYERS!r}. {remedy}")
    plain, _ = network.unedited(Codes(coding), code=torch.zeros(coding.size))
    made, places = convert(plain, turned=False)
    twin = made.edited(Codes(replace(coding, points=tuple(places.get(point, point) for point in coding.points))))
    twin.body.put_codes_(network.body.code_table().detach().cpu().numpy())
    maps = {places.get(point, point): weight for point, weight in _maps(network).items()}
    with torch.no_grad():
        for point, weight in _maps(twin).items():
            weight.copy_(maps[point])
    return _told(network, twin, turned=False)


def _maps(network: Network) -> dict[str, Tensor]:
    """Return the linear map of the codes at each hook point, (channels, size)."""
    body: Any = network.body
    if network.family == "torch":
        return {site.name: part.weight for site, part in body.codes_around().by_site().items()}
    found = {name: layer for name, layer in body.by_name.items() if f"{CODES}_to_" in name}
    return {name.replace(f"{CODES}_to_", ""): layer.kernel.value.T for name, layer in found.items()}


def _torch_of(network: Network, *, turned: bool, shapes: Shapes = MappingProxyType({})) -> tuple[Network, Mapping[str, str]]:
    """Return a Keras network as PyTorch layers, and their names by those of the Keras layers. `shapes` have open axes, by input name."""
    sample: Any = on_device(network.sample, "cpu")
    sample = sample.movedim(-1, 1).contiguous() if turned else sample
    reader = KerasReader(sample, turned, ROWS)
    with as_given(cast(KerasBody, network.body)):
        outputs = reader.read(network.module)
    inputs = input_names(sample)
    module = LayerGraph(reader.steps, outputs, inputs=inputs, modules=reader.modules)
    layers: Any = network.modules()
    places = {name: reader.names[layer.path] for name, layer in layers.items() if getattr(layer, "path", None) in reader.names}
    heads = {task: places[head.layer] for task, head in network.heads.items() if head.groups is None}
    chosen: Any = heads if len(heads) > 1 else next(iter(heads.values()), None)
    origin = {"source": SOURCE, "layers": reader.steps, "outputs": outputs, **({"inputs": inputs} if inputs else {})}
    made = open_torch(module.eval(), sample=sample, origin=origin, take=True, head=chosen)
    made.body.open_(shapes)
    return made, places


def _keras_of(network: Network, *, turned: bool, shapes: Shapes = MappingProxyType({})) -> tuple[Network, Mapping[str, str]]:
    """Return a PyTorch network as a functional Keras model, and the names of its layers by those of the modules.
    `shapes` have open axes, by input name."""
    twin = network.for_export()
    own = {id(module): name for name, module in twin.modules().items()}
    for_exporter_(twin.module)
    called = {path: own[id(module)] for path, module in twin.module.named_modules() if id(module) in own}
    whole_layers_(twin.module)
    sample: Any = twin.sample
    try:
        program = exported_program(twin.module, sample)
    except Exception as problem:  # not every forward can be exported
        end = "" if isinstance(problem, RegraftError) else " Export it as .onnx."
        raise NetworkError(f"The network cannot be made of Keras layers: {why_not_exported(problem).rstrip('.')}.{end}") from problem
    given = sample if isinstance(sample, dict) else {"input": sample.movedim(1, -1) if turned else sample}
    sides = {"input": shapes[""]} if "" in shapes else shapes
    entries = [
        keras.Input(sides.get(name, one.shape[1:]), dtype=str(one.dtype).removeprefix("torch."), name=name) for name, one in given.items()
    ]
    reader = TorchReader(TORCH_ROWS, network.holds, called, taken=list(given))
    axes = [channels_last(one.ndim) if turned else tuple(range(one.ndim)) for one in given.values()]
    outputs = reader.read(program, [TorchValue(*pair) for pair in zip(entries, axes, strict=True)])
    heads = {task: reader.names.get(head.layer) for task, head in network.heads.items() if head.groups is None}
    made = [value.tensor for value in outputs] if len(heads) > 1 else outputs[0].tensor
    model = keras.Model(entries if isinstance(sample, dict) else entries[0], made)
    chosen: Any = heads if len(heads) > 1 else next(iter(heads.values()), None)
    return open_keras(model, take=True, head=chosen, origin={"source": "layers"}), reader.names


def as_application(network: Network, plain: Network, *, architecture: Any) -> Network:
    """Copy a network's weights into a Keras model layer by layer, and return it if it computes the same function.
    `architecture` must have weights of the same shapes in the same order."""
    if network.family != "keras":
        _take_prepared_(architecture)
    aside = _PREPARING if network.family != "keras" else ()
    own, other = ([layer for layer in _leaves(one) if layer.weights and layer.name not in aside] for one in (plain.module, architecture))
    kernels = _channels_last(plain.module)
    for layer, aim in zip_longest(own, other):
        here, there = ([tuple(weight.shape) for weight in one.weights] if one is not None else "nothing" for one in (layer, aim))
        if here != there:
            named, called = (one.name if one is not None else "its end" for one in (layer, aim))
            raise NetworkError(
                f"The layer {named!r} has weights of the shapes {here}; {called!r} of {architecture.name} has {there}. "
                "Name another architecture, or convert with net.to('keras')."
            )
        weights = layer.get_weights()
        aim.set_weights([kernels.get(layer.name, weights[0]), *weights[1:]])
        for fact in ("epsilon", "momentum"):
            if hasattr(aim, fact) and hasattr(layer, fact):
                setattr(aim, fact, getattr(layer, fact))
    made = open_keras(architecture, take=True, origin={"source": architecture.name})
    return _told(network, made, turned=network.family != "keras" and _turns(network))


_PREPARING = ("rescaling", "normalization", "rescaling_1")
"""Preprocessing layers of keras.applications, made neutral: the network that gives the weights takes preprocessed pixels."""


def _take_prepared_(architecture: Any) -> None:
    for layer in architecture.layers:
        if layer.name in _PREPARING and isinstance(layer, keras.layers.Rescaling):
            layer.scale, layer.offset = 1.0, 0.0
        elif layer.name in _PREPARING:
            mean, *_ = layer.get_weights()
            layer.set_weights([np.zeros_like(mean), np.ones_like(mean), np.array(0)])
            layer.finalize_state()


def _channels_last(model: Any) -> dict[str, np.ndarray]:
    """Return, with rows reordered to channels last, the kernels of the dense layers that read maps flattened channels first."""
    made = {}
    for node in (layer for layer in model.layers if isinstance(layer, keras.layers.Flatten)):
        source = node._inbound_nodes[0].input_tensors[0]._keras_history.operation
        if isinstance(source, keras.layers.Permute) and tuple(source.dims) == (3, 1, 2):
            for dense in (reader.operation for reader in node._outbound_nodes if isinstance(reader.operation, keras.layers.Dense)):
                kernel = dense.get_weights()[0].reshape(*source.output.shape[1:], -1)
                made[dense.name] = np.moveaxis(kernel, 0, 2).reshape(-1, kernel.shape[-1])
    return made


def _leaves(model: Any) -> list[Any]:
    """Return the layers of a model in order, with nested models expanded."""
    return [part for layer in model.layers for part in (_leaves(layer) if isinstance(layer, keras.Model) else [layer])]


def _turns(network: Network) -> bool:
    """Return whether the examples are images whose axis order differs between the families. A Keras model may be channels first itself."""
    plain, module = network.preprocessing.to_dict(), network.module
    spatial = [layer for layer in _leaves(module) if not isinstance(layer, keras.layers.Flatten)] if network.family == "keras" else []
    if next((layer.data_format for layer in spatial if hasattr(layer, "data_format")), None) == "channels_first":
        return False
    pictures = plain["kind"] == "image" or (plain["kind"] == "array" and plain["mean"] is None and plain["std"] is None)
    return pictures and isinstance(network.sample, Tensor) and network.sample.ndim == 4


def _told(source: Network, made: Network, *, turned: bool) -> Network:
    """Transfer everything but the weights to a converted network. Raise if the two differ on random inputs."""
    for task, head in source.heads.items():
        if head.groups is not None:
            made.heads[task] = head
            continue
        if task not in made.heads:
            made.rename_task_(made.head.task, task)
        own = told_binary(made.heads[task], {"binary": head.binary})
        made.heads[task] = replace(own, classes=head.classes, kind=head.kind, thresholds=head.thresholds)
    preprocessing: Any = source.preprocessing
    if turned:
        picture = preprocessing.to_dict()["kind"] == "image"
        preprocessing = replace(preprocessing, **({"layout": made.layout} if picture else {"shape": made.input_shape}))
    made.preprocessing = preprocessing
    made.history, made.statistics, made.unknown, made.body.draws = source.history, source.statistics, source.unknown, source.body.draws
    largest = _difference(source, made, turned=turned)
    note = f"made of a network of {source.family}: on random inputs it differs by {largest:.1g} of the largest score"
    made.account = source.account.joined(Account(notes=(note,), figures={"largest_difference": largest}))
    return made


def _difference(source: Network, made: Network, *, turned: bool) -> float:
    """Return the largest difference between the outputs of two networks, relative to the largest logit. Raise above the tolerance."""
    source, made = source.copy(), made.copy()
    largest = 0.0
    for network in (source, made):
        network.mode_(False)
        network.module.cpu()
    batches = list(_batches(source))
    if not turned and _sequences(made):
        batches.append(lengthened(batches[0], _sequences(made)))
    for batch in batches:
        axis = (1, -1) if source.layout == "channels_first" else (-1, 1)
        with torch.no_grad():
            other = batch.movedim(*axis).contiguous() if turned and isinstance(batch, Tensor) else batch
            wanted, found = _results(source, batch), _results(made, other)
        for task, scores in wanted.items():
            same = found[task].shape == scores.shape
            largest = max(largest, relative_difference(found[task], scores)) if same else torch.inf
    limit = _HALF_TOLERANCE if is_coarse(source) else _TOLERANCE
    if not largest <= limit:
        raise NetworkError(
            f"The network made of this one differs from it by {largest:.2g} of the largest score on random inputs; expected at most "
            f"{limit:.0e}. It is not taken. Export the network as .onnx."
        )
    return largest


def _results(network: Network, batch: Any) -> Mapping[str, Tensor]:
    """Return the scores of a batch by task, or the features of a network without a head."""
    running: list[str] = []
    watched = hooked(network.modules(), before=lambda name, *_: running.append(name), after=lambda *_: running.__delitem__(-1))
    try:
        with watched:
            return network.scores(batch) if network.heads else {"": network.feature_batch(batch)}
    except RegraftError:
        raise
    except Exception as problem:  # a forward may raise anything
        given, where = by_name(batch).values(), f"its layer {running[-1]!r}" if running else "it"
        shapes = ", ".join(f"{tuple(one.shape)} {str(one.dtype).removeprefix('torch.')}" for one in given)
        raise NetworkError(
            f"The two networks are compared on random examples, and the one of {network.family} does not run on them: {where} fails on "
            f"inputs of the shape {shapes} with {reason_of(problem)!r}. Export the network as .onnx, which is compared on its own sample."
        ) from problem


def _batches(network: Network) -> Iterator[Any]:
    """Yield the sample of a network, three random examples, and one."""
    draws, sample = torch.Generator().manual_seed(0), on_device(network.sample, "cpu")
    layers: Any = network.modules().values()
    marks = [float(layer.mask_value) for layer in layers if type(layer).__name__ == "Masking"]
    yield sample
    for count in (3, 1):
        if isinstance(sample, dict):
            codes = {CONDITION: torch.arange(count) % len(network.body.code_table())} if network.coding else {}
            yield {name: _drawn(one, count, draws=draws) for name, one in sample.items()} | codes
        else:
            drawn = _drawn(sample, count, draws=draws)
            for at, mark in enumerate(marks):
                drawn[:, at % drawn.shape[1]] = mark  # a step that layers leave out
            yield drawn


def _drawn(sample: Tensor, count: int, *, draws: torch.Generator) -> Tensor:
    """Return random examples. Some tokens become 0, which masks skip, but never the first of an example."""
    shape = (count, *sample.shape[1:])
    if not bool((sample == sample.round()).all()):
        return torch.randn(shape, generator=draws)
    known = sample.flatten()[torch.randint(0, sample.numel(), shape, generator=draws)]  # tokens: those of the sample
    if sample.ndim == 2:
        known[:, 1:] *= (torch.rand((count, sample.shape[1] - 1), generator=draws) < 0.7).to(known.dtype)
    return known
