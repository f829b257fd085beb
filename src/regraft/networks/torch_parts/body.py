"""A PyTorch module with what one run of a sample told about it."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError
from ...randomness import seeded
from ..family import Body
from ..fingerprints.values import Structure
from ..parts.head import Head, HeadChoice
from ..parts.layers import Layer
from ..parts.protocols import Inputs, Scores
from ..parts.structure import blocks_of, prefixes, torch_layers, torch_units
from ..parts.taps import TapSlice
from ..samples import is_pictures, to_inputs
from ..torch_changes.conditioned import CodedNetwork
from ..torch_changes.wrappers import call_module, tap_slices
from ..tracing import Trace, as_tensor, capture, pooled, read_by, trace, watching, without_padding
from . import holding
from .computation import module_structure
from .drawing import draw_
from .graft import find_graft, for_exporter_, former_name, grafts, module_at, within
from .heads import FoundHead, find_head
from .plain import copied
from .programs import FEATURES, OnnxProgram, TorchProgram, logits_name, refuse_program
from .rows import is_wide, last_axis, put_, row_weight
from .summed import joined_rows, parted_rows
from .uncalled import readers

__all__ = ["TorchBody", "codes_around", "inspected"]

_KINDS = {"multi_label_classification": "multi-label", "regression": "regression"}
"""What a Hugging Face config calls a kind of task that its logits do not show."""
_ORDERS = (torch.contiguous_format, torch.channels_last)


@dataclass(eq=False)
class TorchBody(Body):
    """A PyTorch module with its heads and the edits made of it so far.

    Attributes:
        holds_given: whether the layers are held that the owner of the module has frozen; else those that `hold_` said.
        found_order: the order in memory that it takes; None until it is asked for.
    """

    module: Module
    holds_given: bool = True
    found_order: torch.memory_format | None = None
    trains_in_order: bool | None = None

    def take_sample_(self, sample: Inputs) -> None:
        """Take another `sample` to run the module with."""
        self.sample = to_inputs(sample)
        self.input_shape = () if isinstance(self.sample, dict) else tuple(self.sample.shape[1:])

    def inspect_(self) -> Trace:
        """Find the layers and blocks that one run of the sample shows; return its trace."""
        was_training = self.module.training
        self.module.eval()
        self.found_order = self.trains_in_order = None
        modules = self.modules()
        run = partial(call_module, self.module, self.sample)
        seen = trace(modules, run)
        self.layers = torch_layers(modules, seen.order, readers=readers(modules, seen.order, run=run))
        alone = not any(True for _ in module_at(self.module, "").children())
        self.blocks = blocks_of(self.layers, torch_units(modules, aside=within(self.module)), alone=alone)
        self.module.train(was_training)
        return seen

    def anew(self, found: Mapping[str, FoundHead], heads: Mapping[str, Head]) -> Self:
        """Inspect the changed module, give its `heads` their names and rows as `found`, and return this body."""
        self.inspect_()
        self.found = dict(found)
        self.heads = {task: replace(head, layer=found[task].layer) if task in found else head for task, head in heads.items()}
        return self

    def head_at(self, task: str, found: FoundHead) -> Head:
        """Return the head of a `task` that was `found`, without class names."""
        weight, bias = self.layer_rows(found.layer)
        if len(weight) == 1 and found.activation == "sigmoid":
            return Head(task, None, "classification", "sigmoid", found.layer, weight, bias).as_binary()
        kind = "multi-label" if found.activation == "sigmoid" and len(weight) > 1 else "classification" if len(weight) > 1 else "regression"
        kind = _KINDS.get(str(getattr(getattr(self.module, "config", None), "problem_type", None)), kind)
        return Head(task, None, kind, found.activation, found.layer, weight, bias)

    @property
    def memory_order(self) -> torch.memory_format:
        """Channels last, in which convolutions are fastest, where the module takes it and gives what it gives otherwise."""
        if self.found_order is None:
            self.found_order = torch.channels_last if self._takes_channels_last() else torch.contiguous_format
        return self.found_order

    def training_order(self, device: torch.device) -> torch.memory_format:
        """Return `memory_order`; on a CPU only where it was timed to pay (depthwise convolutions) and its backward pass works.

        With torch 2.14.1 the backward pass of a strided 1x1 convolution writes outside its memory there; no other size of kernel,
        stride or number of groups was found that does (1,414 combinations).
        """
        if device.type != "cpu" or self.memory_order == torch.contiguous_format:
            return self.memory_order
        if self.trains_in_order is None:
            layers = [module for module in self.module.modules() if isinstance(module, torch.nn.Conv2d)]
            pays = any(1 < layer.in_channels == layer.groups for layer in layers)
            works = not any(set(layer.kernel_size) == {1} and set(layer.stride) != {1} for layer in layers)
            self.trains_in_order = pays and works
        return self.memory_order if self.trains_in_order else torch.contiguous_format

    def _takes_channels_last(self) -> bool:
        if not is_pictures(self.sample):
            return False
        plain = cast(Tensor, self.sample)
        device = next((tensor.device for tensor in self.state().values()), plain.device)
        training = [module for module in self.module.modules() if module.training]
        self.module.eval()
        try:
            with torch.no_grad(), redirect_stderr(io.StringIO()):  # a module of torch.fx prints what fails
                own, other = (as_tensor(call_module(self.module, plain.to(device, memory_format=order))) for order in _ORDERS)
        except Exception:  # a Python forward may fail in any way where a view is not possible
            return False
        finally:
            for module in training:
                module.training = True
        return own is not None and other is not None and torch.allclose(own, other, rtol=1e-3, atol=1e-4, equal_nan=True)

    def modules(self) -> dict[str, Module]:
        """Return every module by name, containers too."""
        return dict(self.module.named_modules())

    def copied_module(self) -> Module:
        """Return an independent copy of the module: same weights, no shared storage."""
        return copied(self.module)

    def redraw_(self, seed: int) -> None:
        """Let every module with `reset_parameters` draw its own weights.

        Parameters held by other modules (class tokens, position embeddings) are drawn from a normal distribution with the mean and
        standard deviation that they had.
        """
        with seeded(seed), torch.no_grad():
            for module in self.module.modules():
                draw_(module)

    def own_scores(self, inputs: Inputs) -> Scores:
        """Return the raw scores of the heads with rows of their own, in the present mode."""
        if isinstance(self.module, OnnxProgram | TorchProgram):
            results = call_module(self.module, inputs)
            own = {task: results[found.layer] for task, found in self.found.items()}
            return own or {"main": results[logits_name(0)]}
        if len(self.found) < 2 and all(found.reading == "result" for found in self.found.values()):
            return {next(iter(self.heads), "main"): cast(Tensor, as_tensor(call_module(self.module, inputs)))}
        with ExitStack() as stack:
            heads = {name: module_at(self.module, name) for found in self.found.values() for name in found.layers}
            seen = {name: stack.enter_context(capture(head)) for name, head in heads.items()}
            result = cast(Tensor, as_tensor(call_module(self.module, inputs)))
        own = {name: pooled(seen[name]["output"], channels_last=last_axis(head)) for name, head in heads.items() if "output" in seen[name]}
        return {task: result if found.reading == "result" else _sum_of(found, own) for task, found in self.found.items()}

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the heads read, (N, d), averaged over positions; without a head, the pooled output.

        Raises:
            NetworkError: if this is a program that does not give them.
        """
        if isinstance(self.module, OnnxProgram | TorchProgram):
            results = call_module(self.module, inputs)
            if FEATURES not in results:
                refuse_program({"source": "program", "class": self.module.own}, "asked for features")
            return cast(Tensor, results[FEATURES])
        if not self.heads:
            output = cast(Tensor, as_tensor(call_module(self.module, inputs)))
            return pooled(output, channels_last=output.ndim == 3)
        head, found = module_at(self.module, self.head.layer), self.found[self.head.task]
        if found.shares:
            with watching([module_at(self.module, name) for name in found.layers], channels_last=False) as read:
                call_module(self.module, inputs)
            return read()
        with capture(head, replace_by_input=not is_wide(head)) as seen:
            result = as_tensor(call_module(self.module, inputs))
        features = seen["input"]
        if features.ndim > 2 and not is_wide(head) and found.reading == "result" and result is not None and result.ndim == 2:
            return result  # the steps after the head (choice of a token, average) applied to its input
        return read_by(head, features, channels_last=last_axis(head))

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        """Return the raw scores (N, C) that a head's `layer` makes of `features` (N, d)."""
        head = module_at(self.module, layer)
        first = module_at(self.module, self.head.layer)
        found = self._summed(layer)
        if found is not None:
            layers = [module_at(self.module, name) for name in found.layers]
            parts = torch.split(features, [cast(Tensor, row_weight(part)).shape[1] for part in layers], dim=1)
            return _sum_of(found, {name: part(values) for name, part, values in zip(found.layers, layers, parts, strict=True)})
        if head is not first:
            return cast(Tensor, head(read_by(first, features, channels_last=last_axis(first))))
        if last_axis(head) or features.ndim > 2:
            return pooled(head(features), channels_last=last_axis(head))
        with without_padding(head):
            places = cast(torch.nn.Conv2d, head).kernel_size
            return cast(Tensor, head(features.reshape(len(features), -1, *places))).flatten(1)

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers and single parameters, and those that are held; all others become trainable."""
        self.frozen = frozenset(layers) | self.held
        own = [(layer, name, one) for layer, parameters in self.layer_parameters().items() for name, one in parameters.items()]
        for layer, name, parameter in own:
            parameter.requires_grad_(layer not in self.frozen and name not in self.frozen)
        for layer, name, parameter in own:  # once more: a parameter that two layers share is frozen
            if layer in self.frozen or name in self.frozen:
                parameter.requires_grad_(False)
        self.blocks = tuple(replace(block, frozen=all(layer in self.frozen for layer in block.layers)) for block in self.blocks)

    def counted(self) -> tuple[str, ...]:
        """Return the names of the modules without modules in them, in the order of definition."""
        return tuple(name for name, module in self.modules().items() if not list(module.children()))

    @property
    def held(self) -> frozenset[str]:
        """The layers and single parameters that no training changes."""
        names = holding.held_parameters(self.module, given=self.holds_given)
        found = {layer: set(own) for layer, own in self.layer_parameters().items()} if names else {}
        whole = {layer for layer, own in found.items() if own and own <= names}
        return frozenset(whole | (names - {name for layer in whole for name in found[layer]}))

    def hold_(self, layers: Collection[str] | None) -> None:
        """Hold exactly these layers or single parameters; None: those that the owner has frozen."""
        own = self.layer_parameters()
        self.holds_given = layers is None
        names = {name for layer in layers or () for name in own.get(layer, (layer,))}
        holding.mark_(self.module, names, given=False)

    def release_(self, layer: str) -> None:
        """Hold a layer no longer."""
        holding.release_(module_at(self.module, layer))

    @property
    def fresh(self) -> tuple[str, ...]:
        """The layers that were built here and that nothing has trained yet."""
        modules = self.modules()
        return tuple(layer.name for layer in self.layers if holding.FRESH in vars(modules[layer.name]))

    def fresh_(self, layers: Collection[str]) -> None:
        """Take note that exactly these `layers` were never trained."""
        for name, module in self.modules().items():
            vars(module).pop(holding.FRESH, None)
            if name in layers:
                vars(module)[holding.FRESH] = True

    def mode_(self, training: bool) -> None:
        """Switch the part that is not frozen to training or to inference; a container is frozen when all its layers are.

        A layer with a frozen parameter runs as in inference: its moving statistics would change with what is trained.
        """
        self.module.train(training)
        if not training or not self.frozen:
            return
        names = {layer.name for layer in self.layers}
        frozen = {next((outer for outer in prefixes(name) if outer in names), name) for name in self.frozen}
        live = {prefix for name in names - frozen for prefix in prefixes(name)}
        still = {prefix for name in frozen for prefix in prefixes(name)} - live
        for name, module in self.modules().items():
            if name in still:
                module.eval()
            elif name in frozen:  # what it calls may be trained
                module.training = False

    def state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, sharing storage with the network."""
        return dict(self.module.state_dict(keep_vars=False))

    def former_name(self, name: str) -> str:
        """Return what folders of format 1 call the parameter or buffer of this `name`."""
        return former_name(self.module, name)

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return each layer's own parameters."""
        modules = self.modules()
        return {layer.name: _parameters_of(layer, modules[layer.name]) for layer in self.layers}

    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        """Return what the layers, and the modules around and in them, compute: their classes, attributes, hooks and code."""
        return module_structure(self.modules(), layers, edits=grafts(self.module), ignored=ignored)

    def _summed(self, layer: str) -> FoundHead | None:
        """Return the head of several layers of which a `layer` is the first."""
        return next((found for found in self.found.values() if found.shares and found.layer == layer), None)

    def layer_rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a row layer's weight (C, d) and bias (C,); those of a head of several layers stand side by side."""
        found = self._summed(layer)
        if found is not None:
            return joined_rows([self._own_rows(name) for name in found.layers], [share for _, share in found.shares])
        return self._own_rows(layer)

    def _own_rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        module = module_at(self.module, layer)
        weight = cast(Tensor, row_weight(module)).detach().cpu().float().numpy().copy()
        bias = cast("Tensor | None", getattr(module, "bias", None))
        return weight, np.zeros(len(weight), np.float32) if bias is None else bias.detach().cpu().float().numpy().copy()

    def set_layer_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Put rows (C, d) and bias (C,) into a linear layer; False where it has no bias, or its weight is computed (weight norm)."""
        found = self._summed(layer)
        modules = [module_at(self.module, name) for name in ((layer,) if found is None else found.layers)]
        if any(not isinstance(getattr(one, "bias", None), Tensor) or "parametrizations" in dict(one.named_children()) for one in modules):
            return False
        shares = (1.0,) if found is None else [share for _, share in found.shares]
        parts = parted_rows(np.asarray(weight, np.float32), np.asarray(bias, np.float32), layers=modules, shares=shares)
        for module, (own, shift) in zip(modules, parts, strict=True):
            put_(module, torch.from_numpy(own), bias=torch.from_numpy(shift))
        return True

    def recount_(self, name: str) -> None:
        """Count the parameters of the layer of this `name` anew, and those of the blocks."""
        count = sum(parameter.numel() for parameter in module_at(self.module, name).parameters())
        self.layers = tuple(replace(layer, parameters=count) if layer.name == name else layer for layer in self.layers)
        sizes = {layer.name: layer.parameters for layer in self.layers}
        self.blocks = tuple(replace(block, parameters=sum(sizes[part] for part in block.layers)) for block in self.blocks)

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        """Which features come from which tap."""
        return tap_slices(self.module)

    def order(self) -> list[str]:
        """Return the names of the modules that the sample runs through, in order."""
        self.mode_(False)
        return trace(self.modules(), lambda: call_module(self.module, self.sample)).order

    def code_table(self) -> Parameter:
        """Return the module's own table of codes, (1 + K, size)."""
        return cast(Parameter, codes_around(self).codes.weight)

    def ready_for_export_(self) -> None:
        """Make a private copy one on the CPU, in inference mode."""
        self.move_(torch.device("cpu"))
        self.mode_(False)

    def name_for_export_(self) -> None:
        """Name the parts of edits by their attributes, which PyTorch's exporter follows."""
        for_exporter_(self.module)


def codes_around(body: TorchBody) -> CodedNetwork:
    """Return the wrapper that gives a `body` the codes of conditions.

    Raises:
        NetworkError: if it takes none.
    """
    if isinstance(body.module, OnnxProgram | TorchProgram):
        refuse_program({"source": "program", "class": body.module.own}, "given codes of conditions")
    found = find_graft(body.module, CodedNetwork)
    if found is None:
        raise NetworkError("This torch network takes no codes; expected one trained with strategy='codes'.")
    return found


def inspected(module: Module, sample: Inputs, *, head: HeadChoice = None) -> TorchBody:
    """Return the body of a `module` that takes a `sample`, with the heads that are found, or whose layers `head` names.

    Raises:
        NetworkError: if it has several candidates for its head, or none of that name.
    """
    body = TorchBody(module, sample)
    body.take_sample_(sample)
    chosen = head if isinstance(head, Mapping) else {"main": head}
    seen, modules = body.inspect_(), body.modules()
    was_training = module.training
    module.eval()
    run = partial(call_module, module, body.sample)
    candidates = {task: find_head(modules, seen, run=run, wanted=layer) for task, layer in chosen.items()}
    body.found = {task: one if len(chosen) == 1 else replace(one, others=()) for task, one in candidates.items() if one}
    body.heads = {task: body.head_at(task, one) for task, one in body.found.items()}
    if isinstance(head, Mapping):
        body.note_apart_()
    module.train(was_training)
    return body


def _sum_of(found: FoundHead, outputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits that the outputs of a head's layers make."""
    parts = [outputs[name] if share == 1 else share * outputs[name] for name, share in found.shares or ((found.layer, 1.0),)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _parameters_of(layer: Layer, module: Module) -> dict[str, Parameter]:
    prefix = f"{layer.name}." if layer.name else ""
    wrapped = "parametrizations" in dict(module.named_children())
    return {prefix + name: parameter for name, parameter in module.named_parameters(recurse=wrapped)}
