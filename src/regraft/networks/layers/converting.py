"""Convert a network to the other family: the same function, with its heads, class names and preprocessing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError, RegraftError
from ..account import Account
from ..contract import Network
from ..keras.body import KerasBody
from ..keras.family import open_keras
from ..keras.library import keras
from ..keras.saving import as_given
from ..parts.head import told_binary
from ..parts.onnx_export import is_coarse, why_not_exported
from ..torch.exporting import exported_program
from ..torch.family import open_torch
from ..torch.graft import for_exporter_
from ..torch.programs import refuse_program
from .attention import whole_layers_
from .from_keras import ROWS
from .from_torch import ROWS as TORCH_ROWS
from .graph import SOURCE, LayerGraph
from .keras_reader import KerasReader
from .torch_reader import TorchReader, Turned, channels_last

__all__ = ["as_application", "as_keras", "as_torch"]

_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2
"""Largest allowed difference, relative to the largest score; the second applies to a source that computes in 16 bits."""


def as_torch(network: Network, *, turn: bool = True) -> Network:
    """Convert a Keras network to PyTorch layers. With `turn`, images become channels first, as PyTorch's convolutions need."""
    _check(network)
    turned = turn and _turns(network)
    sample = network.sample.cpu().movedim(-1, 1) if turned else network.sample.cpu()  # type: ignore[union-attr]  # checked to be one
    reader = KerasReader(sample.contiguous(), turned, ROWS)
    with as_given(cast(KerasBody, network.body)):
        outputs = reader.read(network.module)
    module = LayerGraph(reader.steps, outputs)
    for name, part in reader.modules.items():
        module._modules[name] = part
    layers: Any = network.modules()
    heads = {task: reader.names[layers[head.layer].path] for task, head in network.heads.items() if head.groups is None}
    chosen: Any = heads if len(heads) > 1 else next(iter(heads.values()), None)
    origin = {"source": SOURCE, "layers": reader.steps, "outputs": outputs}
    twin = open_torch(module.eval(), sample=sample, origin=origin, take=True, head=chosen)
    return _told(network, twin, turned=turned)


def as_keras(network: Network) -> Network:
    """Convert a PyTorch network to a functional Keras model. Images become channels last, the default of Keras."""
    refuse_program(network.origin, "made of Keras layers")
    _check(network)
    turned, twin = _turns(network), network.for_export()
    own = {id(module): name for name, module in twin.modules().items()}
    for_exporter_(twin.module)
    called = {path: own[id(module)] for path, module in twin.module.named_modules() if id(module) in own}
    whole_layers_(twin.module)
    sample: Any = twin.sample
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = exported_program(twin.module, sample)
    except Exception as problem:  # not every forward can be exported
        end = "" if isinstance(problem, RegraftError) else " Export it as .onnx."
        raise NetworkError(f"The network cannot be made of Keras layers: {why_not_exported(problem).rstrip('.')}.{end}") from problem
    shape = list(sample.movedim(1, -1).shape[1:] if turned else sample.shape[1:])
    entry = keras.Input(shape, dtype=str(sample.dtype).removeprefix("torch."), name="input")
    reader = TorchReader(TORCH_ROWS, network.holds, called)
    outputs = reader.read(program, Turned(entry, channels_last(sample.ndim) if turned else tuple(range(sample.ndim))))
    heads = {task: reader.names.get(head.layer) for task, head in network.heads.items() if head.groups is None}
    model = keras.Model(entry, [value.tensor for value in outputs] if len(heads) > 1 else outputs[0].tensor)
    chosen: Any = heads if len(heads) > 1 else next(iter(heads.values()), None)
    return _told(network, open_keras(model, take=True, head=chosen, origin={"source": "layers"}), turned=turned)


def as_application(network: Network, plain: Network, *, architecture: Any) -> Network:
    """Copy a network's weights into a Keras model layer by layer, and return it if it computes the same function.

    `architecture` must have weights of the same shapes in the same order.
    """
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


def _check(network: Network) -> None:
    """Raise if a network takes more than one tensor or the codes of conditions."""
    if network.coding is not None:
        raise NetworkError(f"This network takes the codes of {len(network.coding.conditions)} conditions. Fold one in first: regraft.fold.")
    if isinstance(network.sample, dict):
        raise NetworkError(
            f"This network takes {len(network.sample)} tensors by name ({', '.join(network.sample)}); expected one of one input. Export it "
            "as .onnx."
        )


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
    made.preprocessing = _turned_preprocessing(source, made) if turned else source.preprocessing
    made.history, made.statistics, made.unknown, made.body.draws = source.history, source.statistics, source.unknown, source.body.draws
    largest = _difference(source, made, turned=turned)
    note = f"made of a network of {source.family}: on random inputs it differs by {largest:.1g} of the largest score"
    made.account = source.account.joined(Account(notes=(note,), figures={"largest_difference": largest}))
    return made


def _turned_preprocessing(source: Network, made: Network) -> Any:
    own: Any = source.preprocessing
    if own.to_dict()["kind"] == "image":
        return replace(own, layout=made.layout)
    return replace(own, shape=made.input_shape)


def _difference(source: Network, made: Network, *, turned: bool) -> float:
    """Return the largest difference between the outputs of two networks, relative to the largest logit. Raise above the tolerance."""
    source, made = source.copy(), made.copy()
    largest = 0.0
    for network in (source, made):
        network.mode_(False)
        network.module.cpu()
    for batch in _batches(source.sample.cpu()):  # type: ignore[union-attr]  # checked to be one
        axis = (1, -1) if source.layout == "channels_first" else (-1, 1)
        with torch.no_grad():
            other = batch.movedim(*axis).contiguous() if turned else batch
            if source.heads:
                wanted, found = source.scores(batch), made.scores(other)
            else:
                wanted, found = {"": source.feature_batch(batch)}, {"": made.feature_batch(other)}
        for task, scores in wanted.items():
            scale = max(float(scores.abs().max()), 1e-12)
            same = found[task].shape == scores.shape
            largest = max(largest, float((found[task] - scores).abs().max()) / scale) if same else torch.inf
    limit = _HALF_TOLERANCE if is_coarse(source) else _TOLERANCE
    if not largest <= limit:
        raise NetworkError(
            f"The network made of this one differs from it by {largest:.2g} of the largest score on random inputs; expected at most "
            f"{limit:.0e}. It is not taken. Export the network as .onnx."
        )
    return largest


def _batches(sample: Tensor) -> Iterator[Tensor]:
    """Yield the sample, three random examples, and one. Some tokens become 0, which masks skip, but never the first of an example."""
    draws = torch.Generator().manual_seed(0)
    yield sample
    for count in (3, 1):
        shape = (count, *sample.shape[1:])
        whole = bool((sample == sample.round()).all())  # tokens: shuffle those of the sample
        known = sample.flatten()[torch.randint(0, sample.numel(), shape, generator=draws)]
        if whole and sample.ndim == 2:
            known[:, 1:] *= (torch.rand((count, sample.shape[1] - 1), generator=draws) < 0.7).to(known.dtype)
        yield known if whole else torch.randn(shape, generator=draws)
