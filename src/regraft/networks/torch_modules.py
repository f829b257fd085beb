"""PyTorch networks: any `torch.nn.Module` behind the contract."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import isfunction
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module, Parameter

from ..errors import NetworkError
from .account import Account
from .contract import Head, Inputs, Layer, Network, Scores
from .samples import first_working_sample, to_inputs
from .structure import blocks_of, prefixes, torch_layers, torch_units
from .tracing import Trace, as_tensor, capture, head_reading, pooled, trace

__all__ = ["AttachedHead", "TorchNetwork", "call_module", "open_torch"]

WEIGHTS_FILE = "network.safetensors"
PROGRAM_FILE = "network.pt2"


class AttachedHead(Module):
    """A backbone without a head, its output averaged over all positions, and a linear head on top.

    Attributes:
        backbone: any module whose output holds a tensor.
        features: the width d of its averaged output; the head is `Linear(features, classes)`.
        classes: the number of rows C.
    """

    def __init__(self, backbone: Module, features: int, *, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = torch.nn.Linear(features, classes)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return raw scores (N, C) of whatever the backbone takes.

        Raises:
            NetworkError: if the backbone returns no tensor.
        """
        output = as_tensor(self.backbone(*inputs, **named))
        if output is None:
            raise NetworkError(f"The backbone {type(self.backbone).__name__} returned no tensor.")
        return cast(Tensor, self.head(pooled(output, channels_last=output.ndim == 3)))


@dataclass(frozen=True)
class _FoundHead:
    layer: str
    activation: str
    reading: str  # "layer": the layer's output is read; "result": the network's own output is


def call_module(module: Module, inputs: Inputs) -> Any:
    """Call a module with one batch, inputs that are a tensor or named tensors, and return what it returns."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def _linear_weight(module: Module) -> Tensor | None:
    """Return the (C, d) weight of a linear layer or 1x1 convolution, None for other modules."""
    weight = getattr(module, "weight", None)
    if isinstance(module, torch.nn.Linear):
        return cast(Tensor, weight)
    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)) and module.groups == 1 and set(module.kernel_size) == {1}:
        return cast(Tensor, weight).flatten(1)
    return None


def _found_head(modules: Mapping[str, Module], seen: Trace) -> _FoundHead | None:
    """Find the linear layer from which the network's result follows.

    Raises:
        NetworkError: if the network has several results, each with a head of its own.
    """
    result = as_tensor(seen.result)
    if result is None:
        raise NetworkError("The network returned no tensor; expected scores of shape (N, C) or an output with 'logits'.")
    linear = [name for name in seen.order if _linear_weight(modules[name]) is not None]
    for name in reversed(linear):
        reading = head_reading(seen.outputs[name], result, channels_last=isinstance(modules[name], torch.nn.Linear))
        if reading is not None:
            activation = {"tail": "linear", "log_softmax": "softmax"}.get(reading, reading)
            return _FoundHead(name, activation, "result" if reading in {"linear", "tail"} else "layer")
    return None


def open_torch(
    module: Module,
    *,
    classes: Sequence[str] | None = None,
    inputs: Sequence[int] | None = None,
    sample: Inputs | None = None,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
) -> TorchNetwork:
    """Open a live PyTorch module.

    Args:
        module: any module whose forward takes one tensor, or named tensors where `sample` is a dict.
        classes: class names in row order.
        inputs: shape of one item without the batch axis, when it cannot be known otherwise.
        sample: a batch of two items to run it with, in place of `inputs`.
        origin: what opening it again needs.
        take: use the module itself rather than a copy (for modules made by regraft).

    Returns:
        The network; the module given is not modified unless `take`.

    Raises:
        NetworkError: if no sample runs through it, or `classes` do not fit its head.
    """
    own = module if take else copy.deepcopy(module)
    guessed = sample is None and inputs is None
    if sample is None:
        sample = first_working_sample(lambda batch: call_module(own.eval(), batch), own, shape=inputs)
    network = TorchNetwork(
        own, sample, origin=origin or {"source": "module", "class": f"{type(module).__module__}.{type(module).__qualname__}"}
    )
    network.input_guessed = guessed
    if classes is not None:
        network.name_classes_(classes)
    return network


class TorchNetwork(Network):
    """A PyTorch module with what one run of a sample told about it; its origin is what opening it again needs."""

    family: ClassVar[str] = "torch"
    module: Module

    def __init__(self, module: Module, sample: Inputs, *, origin: Mapping[str, Any]) -> None:
        self.module = module
        self.origin = dict(origin)
        self.account = Account()
        self.sample = to_inputs(sample)
        self.input_shape = () if isinstance(self.sample, dict) else tuple(self.sample.shape[1:])
        self.input_guessed = False
        self._frozen: frozenset[str] = frozenset()
        self._inspect_()

    def _inspect_(self) -> None:
        was_training = self.module.training
        self.module.eval()
        modules = self.modules()
        seen = trace(modules, lambda: call_module(self.module, self.sample))
        self.layers = torch_layers(modules, seen.order)
        self.blocks = blocks_of(self.layers, torch_units(modules))
        found = _found_head(modules, seen)
        self._reading = found.reading if found else "result"
        self.heads = {"main": self._head_of(found)} if found else {}
        self.module.train(was_training)

    def _head_of(self, found: _FoundHead) -> Head:
        weight, bias = self.rows(found.layer)
        kind = "multi-label" if found.activation == "sigmoid" and len(weight) > 1 else "classification" if len(weight) > 1 else "regression"
        return Head("main", None, kind, found.activation, found.layer, weight, bias)

    def modules(self) -> dict[str, Module]:
        """Return every module by name, containers too."""
        return dict(self.module.named_modules())

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage."""
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module)
        twin.heads = dict(self.heads)
        return twin

    def reinitialised(self, seed: int) -> Self:
        """Return a copy with freshly drawn weights.

        Every module with `reset_parameters` draws its own; parameters held by other modules (class tokens, position
        embeddings) are drawn from a normal distribution with the mean and standard deviation that they had.
        """
        twin = self.copy()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            for module in twin.module.modules():
                _draw_(module)
        return twin

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) by task, in the present mode."""
        if self._reading == "result":
            return {"main": cast(Tensor, as_tensor(call_module(self.module, inputs)))}
        head = self.module.get_submodule(self.head.layer)
        with capture(head) as found:
            call_module(self.module, inputs)
        return {"main": pooled(found["output"], channels_last=isinstance(head, torch.nn.Linear))}

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the head reads, (N, d), averaged over positions; without a head, the pooled output.

        Raises:
            NetworkError: if this is an exported program, which has no head to read from.
        """
        self._whole("asked for features")
        if not self.heads:
            output = cast(Tensor, as_tensor(call_module(self.module, inputs)))
            return pooled(output, channels_last=output.ndim == 3)
        head = self.module.get_submodule(self.head.layer)
        with capture(head, replace_by_input=True) as found:
            result = as_tensor(call_module(self.module, inputs))
        features = found["input"]
        if features.ndim > 2 and self._reading == "result" and result is not None and result.ndim == 2:
            return result  # the steps after the head (choice of a token, average) applied to its input
        return pooled(features, channels_last=isinstance(head, torch.nn.Linear))

    def scores_of_features(self, features: Tensor) -> Scores:
        """Return the raw scores (N, C) that the head makes of its input (N, d)."""
        head = self.module.get_submodule(self.head.layer)
        linear = isinstance(head, torch.nn.Linear)
        positions = features if linear or features.ndim > 2 else features[(..., *(None,) * (cast(Tensor, head.weight).ndim - 2))]
        return {self.head.task: pooled(head(positions), channels_last=linear)}

    def sample_features(self) -> Tensor:
        """Return the features of the sample, (2, d)."""
        self.mode_(False)
        with torch.no_grad():
            return self.feature_batch(self.sample)

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers; all others become trainable."""
        self._frozen = frozenset(layers)
        owned = self.layer_parameters()
        for name in sorted(owned, key=self._frozen.__contains__):  # frozen ones last: a parameter that two layers share is frozen
            for parameter in owned[name].values():
                parameter.requires_grad_(name not in self._frozen)
        self.blocks = tuple(replace(block, frozen=all(layer in self._frozen for layer in block.layers)) for block in self.blocks)

    def mode_(self, training: bool) -> None:
        """Switch the part that is not frozen to training or to inference; a container is frozen when all its layers are."""
        self.module.train(training)
        live = {prefix for layer in self.layers if layer.name not in self._frozen for prefix in prefixes(layer.name)}
        inside = {prefix for layer in self.layers for prefix in prefixes(layer.name)}
        for name, module in self.modules().items():
            if name in inside and name not in live:
                module.eval()

    def state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, sharing storage with the network."""
        return dict(self.module.state_dict(keep_vars=False))

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return each layer's own parameters."""
        modules = self.modules()
        return {layer.name: _parameters_of(layer, modules[layer.name]) for layer in self.layers}

    def split(self, layers: Collection[str]) -> None:
        """Return None: PyTorch has no graph to cut at, so the cut is found by running."""

    def structure(self, layers: Collection[str]) -> str:
        """Return the layers' own descriptions and the code of every forward, which a description leaves out."""
        modules = self.modules()
        forwards = {type(module) for module in modules.values()}
        code = sorted(
            f"{kind.__module__}.{kind.__qualname__} {kind.forward.__code__.co_code.hex()}" for kind in forwards if isfunction(kind.forward)
        )
        return "\n".join([*(f"{name}: {modules[name]!r}" for name in sorted(layers)), *code])

    def rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a linear layer's weight (C, d) and bias (C,)."""
        module = self.module.get_submodule(layer)
        weight = cast(Tensor, _linear_weight(module)).detach().cpu().float().numpy().copy()
        bias = cast("Tensor | None", getattr(module, "bias", None))
        return weight, np.zeros(len(weight), np.float32) if bias is None else bias.detach().cpu().float().numpy().copy()

    def fresh_rows(self, count: int, features: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows as `torch.nn.Linear` does: uniform within 1 / sqrt(d)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layer = torch.nn.Linear(features, count)
        return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()

    def set_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Put rows (C, d) and bias (C,) into a linear layer; False where it has no bias, or its weight is computed (weight norm)."""
        module = self.module.get_submodule(layer)
        if not isinstance(getattr(module, "bias", None), Tensor) or "parametrizations" in dict(module.named_children()):
            return False
        _fill_(module, torch.from_numpy(np.asarray(weight, np.float32)), bias=torch.from_numpy(np.asarray(bias, np.float32)))
        return True

    def reseed_(self, seed: int) -> None:
        """Do nothing: PyTorch layers draw from the global generator, which the training loop seeds."""

    def with_head(self, head: Head) -> Self:
        """Return a copy whose head has these rows; a network without a head gets one on its pooled output."""
        self._whole("given another head")
        twin = self.copy()
        if not self.heads:
            twin.module = AttachedHead(twin.module, head.features, classes=len(head.weight))
            twin.origin = {**self.origin, "attached": head.features}
            twin._inspect_()
        else:
            old = twin.module.get_submodule(self.head.layer)
            _set_submodule_(
                twin.module, self.head.layer, module=_linear_like(old, torch.from_numpy(head.weight), bias=torch.from_numpy(head.bias))
            )
            _note_class_count_(twin.module, len(head.weight))
            twin.layers = tuple(
                _recounted(layer, twin.modules()[layer.name]) if layer.name == self.head.layer else layer for layer in self.layers
            )
            sizes = {layer.name: layer.parameters for layer in twin.layers}
            twin.blocks = tuple(replace(block, parameters=sum(sizes[name] for name in block.layers)) for block in self.blocks)
        if not self.heads:
            layer = twin.module.get_submodule("head")
            _fill_(layer, torch.from_numpy(head.weight), bias=torch.from_numpy(head.bias))
            head = replace(head, layer="head")
        twin.heads = {head.task: replace(head, layer=head.layer if not self.heads else self.head.layer)}
        return twin

    def write(self, folder: Path) -> Mapping[str, Any]:
        """Write the weights as safetensors and return what opening them needs.

        Beside a class of the user's own goes an exported program, which opens without the class.
        """
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.state().items()}
        save_file(state, folder / WEIGHTS_FILE)
        facts = {"family": "torch", "file": WEIGHTS_FILE, "origin": self.origin, "sample": _sample_facts(self.sample)}
        if self.origin["source"] != "module":
            return facts
        (folder / PROGRAM_FILE).unlink(missing_ok=True)
        try:
            twin = self.copy()
            twin.module.cpu()
            _export(_RawScores(twin), twin.sample, path=folder / PROGRAM_FILE)
        except Exception as problem:  # not every forward can be exported; the weights are saved all the same
            return {**facts, "no_program": f"{type(problem).__name__}: {str(problem)[:300]}"}
        return facts

    def export(self, path: str | Path) -> Path:
        """Write an exported program (`.pt2`) with a free batch axis; `torch.export.load` opens it without this class."""
        self._whole("exported")
        twin = self.copy()
        _export(twin.module, twin.sample, path=Path(path))
        return Path(path)

    def _whole(self, done: str) -> None:
        """Raise unless the modules are there: an exported program hides them."""
        if self.origin.get("source") == "program":
            raise NetworkError(
                f"This network is the exported program of {self.origin['class']}: it predicts, but cannot be {done}. "
                "Open its folder with architecture=, a module or a function that makes it."
            )


class _RawScores(Module):
    """A network's raw scores as a module's result: what the saved program computes."""

    def __init__(self, network: TorchNetwork) -> None:
        super().__init__()
        self.module = network.module
        self.__dict__["network"] = network

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        network = self.__dict__["network"]
        return cast(Tensor, network.scores(named or inputs[0])[next(iter(network.heads), "main")])


def _export(module: Module, sample: Inputs, *, path: Path) -> None:
    """Write an exported program of `module` in inference mode, its batch axis free."""
    batch = torch.export.Dim("batch", min=1)
    starred = isinstance(module, (AttachedHead, _RawScores))  # torch.export names what stands behind * and **
    if isinstance(sample, dict):
        named: Any = {name: {0: batch} for name in sample}
        shapes: Any = {"named": named} if starred else named
        program = torch.export.export(module.eval(), (), dict(sample), dynamic_shapes=shapes)
    else:
        shapes = {"inputs": ({0: batch},)} if starred else ({0: batch},)
        program = torch.export.export(module.eval(), (sample,), dynamic_shapes=shapes)
    torch.export.save(program, path)


def _sample_facts(sample: Inputs) -> dict[str, Any]:
    if isinstance(sample, dict):
        return {name: [list(tensor.shape[1:]), str(tensor.dtype)] for name, tensor in sample.items()}
    return {"": [list(sample.shape[1:]), str(sample.dtype)]}


def _parameters_of(layer: Layer, module: Module) -> dict[str, Parameter]:
    prefix = f"{layer.name}." if layer.name else ""
    wrapped = "parametrizations" in dict(module.named_children())
    return {prefix + name: parameter for name, parameter in module.named_parameters(recurse=wrapped)}


def _recounted(layer: Layer, module: Module) -> Layer:
    return replace(layer, parameters=sum(parameter.numel() for parameter in module.parameters()))


def _draw_(module: Module) -> None:
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        parameter.normal_(float(parameter.mean()), spread)


def _fill_(layer: Module, weight: Tensor, *, bias: Tensor) -> None:
    """Put rows (C, d) and bias (C,) into a linear layer or 1x1 convolution of that size."""
    with torch.no_grad():
        kernel = cast(Tensor, layer.weight)
        kernel.copy_(weight.reshape(kernel.shape))
        if isinstance(layer.bias, Tensor):
            layer.bias.copy_(bias)


def _linear_like(old: Module, weight: Tensor, *, bias: Tensor) -> Module:
    """Return a linear layer or 1x1 convolution like `old` with rows `weight` (C, d); it has a bias if `old` has or `bias` is not zero."""
    device, dtype = cast(Tensor, old.weight).device, cast(Tensor, old.weight).dtype
    biased = isinstance(getattr(old, "bias", None), Tensor) or bool(bias.any())
    if isinstance(old, torch.nn.Linear):
        new: Module = torch.nn.Linear(weight.shape[1], len(weight), bias=biased, device=device, dtype=dtype)
    else:
        convolution = cast(torch.nn.Conv2d, old)
        kind: Any = next(kind for kind in (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d) if isinstance(old, kind))
        new = kind(weight.shape[1], len(weight), 1, stride=convolution.stride, bias=biased, device=device, dtype=dtype)
    _fill_(new, weight, bias=bias)
    return new


def _set_submodule_(root: Module, name: str, *, module: Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(root.get_submodule(parent), child, module)


def _note_class_count_(module: Module, count: int) -> None:
    """Keep the class count that some libraries store beside the head (timm: num_classes; Transformers: config.num_labels)."""
    owner: Any = module
    if isinstance(getattr(owner, "num_classes", None), int):
        owner.num_classes = count
    if isinstance(getattr(owner, "num_labels", None), int):
        owner.num_labels = count
    config = getattr(owner, "config", None)
    if config is not None and isinstance(getattr(config, "num_labels", None), int):
        config.num_labels = count
