"""PyTorch networks: any `torch.nn.Module` behind the contract."""

from __future__ import annotations

import copy
import io
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module, Parameter

from ..randomness import seeded
from .account import Account, unused_outputs
from .contract import Head, Inputs, Layer, Network, Point, Scores
from .edits import Edit, LowRank
from .fingerprints.values import Structure
from .parts.head import HeadChoice
from .parts.structure import blocks_of, prefixes, torch_layers, torch_units
from .parts.taps import TapSlice
from .samples import check_sample, first_working_sample, is_pictures, to_inputs
from .torch_changes import adjusting, changes, codes, low_ranks
from .torch_changes.wrappers import call_module, tap_slices
from .torch_parts import holding
from .torch_parts.computation import module_structure
from .torch_parts.drawing import draw_
from .torch_parts.exporting import export_module, write_graph, write_program
from .torch_parts.graft import for_exporter_, former_name, grafts, module_at, within
from .torch_parts.heads import FoundHead, find_head
from .torch_parts.plain import copied, in_single_precision, made_plain, unwrapped
from .torch_parts.programs import FEATURES, logits_name, refuse_program
from .torch_parts.rows import last_axis, put_, row_weight
from .torch_parts.summed import joined_rows, parted_rows
from .torch_parts.uncalled import readers
from .tracing import as_tensor, capture, pooled, trace, watching

__all__ = ["TorchNetwork", "open_torch"]

WEIGHTS_FILE = "network.safetensors"
_KINDS = {"multi_label_classification": "multi-label", "regression": "regression"}
"""What a Hugging Face config calls a kind of task that its logits do not show."""
_ORDERS = (torch.contiguous_format, torch.channels_last)


def open_torch(  # over the limit: what is known of a module beside it, each optional
    module: Module,
    *,
    classes: Sequence[str] | None = None,
    inputs: Sequence[int] | None = None,
    sample: Inputs | None = None,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
    head: HeadChoice = None,
) -> TorchNetwork:
    """Open a live PyTorch module.

    Args:
        module: any module whose forward takes one tensor, or named tensors where `sample` is a dict.
        classes: class names in row order.
        inputs: shape of one item without the batch axis, when it cannot be known otherwise.
        sample: a batch of two items to run it with, in place of `inputs`.
        origin: what opening it again needs.
        take: use the module itself rather than a copy (for modules made by regraft).
        head: the name of the layer that is its head, where there are several candidates; or the layer of each task.

    Returns:
        The network; the module given is not modified unless `take`.

    Raises:
        NetworkError: if it is scripted, no sample runs through it, it has several candidates for its head, or `classes` do not fit it.
    """
    inner, notes = unwrapped(module)
    own, further = made_plain(inner if take else copied(inner))
    holding.note_flags_(own)
    guessed = sample is None and inputs is None

    def run(changed: bool) -> Inputs:
        if sample is None:
            return first_working_sample(lambda batch: call_module(own.eval(), batch), own, shape=inputs)
        if changed:
            check_sample(lambda batch: call_module(own.eval(), batch), own, sample=sample)
        return sample

    ran, last = in_single_precision(own, run)
    facts = origin or {"source": "module", "class": f"{type(module).__module__}.{type(module).__qualname__}"}
    network = TorchNetwork(own, ran, origin=facts if head is None else {**facts, "head": head})
    network.input_guessed = guessed
    if inputs is not None and None in inputs:
        network.input_shape = tuple(inputs)
    network.freeze_(())
    others = [other for one in network.found.values() for other in one.others]
    network.account = Account(notes=(*notes, *further, *last, *unused_outputs(head, others)))
    if classes is not None:
        network.name_classes_(classes)
    return network


class TorchNetwork(Network):
    """A PyTorch module with what one run of a sample told about it.

    Its origin is what opening it again needs, before its edits are repeated.
    """

    family: ClassVar[str] = "torch"
    own_endings: ClassVar[tuple[str, ...]] = (".pt2",)
    module: Module
    _holds_given = True

    def __init__(self, module: Module, sample: Inputs, *, origin: Mapping[str, Any]) -> None:
        self.module = module
        self.origin = dict(origin)
        self.account = Account()
        self._frozen: frozenset[str] = frozenset()
        self.input_guessed = False
        self.take_sample_(sample)
        self._inspect_()

    def take_sample_(self, sample: Inputs) -> None:
        """Take another `sample` to run the module with."""
        self.sample = to_inputs(sample)
        self.input_shape = () if isinstance(self.sample, dict) else tuple(self.sample.shape[1:])

    def _inspect_(self, known: Mapping[str, FoundHead] | None = None) -> None:
        """Run the sample; find layers, blocks and the head, unless the heads are known."""
        was_training = self.module.training
        self.module.eval()
        self._memory_order: torch.memory_format | None = None
        self._trains_in_order: bool | None = None
        modules = self.modules()
        run = partial(call_module, self.module, self.sample)
        seen = trace(modules, run)
        self.layers = torch_layers(modules, seen.order, readers=readers(modules, seen.order, run=run))
        alone = not any(True for _ in module_at(self.module, "").children())
        self.blocks = blocks_of(self.layers, torch_units(modules, aside=within(self.module)), alone=alone)
        asked = known is None
        if known is None:
            wanted = self.origin.get("head")
            chosen = wanted if isinstance(wanted, Mapping) else {"main": wanted}
            candidates = {task: find_head(modules, seen, run=run, wanted=layer) for task, layer in chosen.items()}
            known = {task: head if len(chosen) == 1 else replace(head, others=()) for task, head in candidates.items() if head}
        self.found = dict(known)
        self.heads = {task: self._head_of(task, found) for task, found in known.items()}
        if asked and isinstance(self.origin.get("head"), Mapping):
            self.note_apart_()
        self.module.train(was_training)

    def _head_of(self, task: str, found: FoundHead) -> Head:
        weight, bias = self.layer_rows(found.layer)
        if len(weight) == 1 and found.activation == "sigmoid":
            return Head(task, None, "classification", "sigmoid", found.layer, weight, bias).as_binary()
        kind = "multi-label" if found.activation == "sigmoid" and len(weight) > 1 else "classification" if len(weight) > 1 else "regression"
        kind = _KINDS.get(str(getattr(getattr(self.module, "config", None), "problem_type", None)), kind)
        return Head(task, None, kind, found.activation, found.layer, weight, bias)

    @property
    def memory_order(self) -> torch.memory_format:
        """Channels last, in which convolutions are fastest, where the module takes it and gives what it gives otherwise."""
        if self._memory_order is None:
            self._memory_order = torch.channels_last if self._takes_channels_last() else torch.contiguous_format
        return self._memory_order

    def training_order(self, device: torch.device) -> torch.memory_format:
        """Return `memory_order`; on a CPU only where it was timed to pay (depthwise convolutions) and its backward pass works.

        With torch 2.14.1 the backward pass of a strided 1x1 convolution writes outside its memory there; no other size of kernel,
        stride or number of groups was found that does (1,414 combinations).
        """
        if device.type != "cpu" or self.memory_order == torch.contiguous_format:
            return self.memory_order
        if self._trains_in_order is None:
            layers = [module for module in self.module.modules() if isinstance(module, torch.nn.Conv2d)]
            pays = any(1 < layer.in_channels == layer.groups for layer in layers)
            works = not any(set(layer.kernel_size) == {1} and set(layer.stride) != {1} for layer in layers)
            self._trains_in_order = pays and works
        return self.memory_order if self._trains_in_order else torch.contiguous_format

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

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage."""
        twin = copy.copy(self)
        twin.module = copied(self.module)
        twin.heads, twin.origin = dict(self.heads), dict(self.origin)
        return twin

    def reinitialised(self, seed: int) -> Self:
        """Return a copy with freshly drawn weights.

        Every module with `reset_parameters` draws its own; parameters held by other modules (class tokens, position
        embeddings) are drawn from a normal distribution with the mean and standard deviation that they had.
        """
        twin = self.copy()
        with seeded(seed), torch.no_grad():
            for module in twin.module.modules():
                draw_(module)
        twin.keep_held_(self)
        return twin

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) by task, in the present mode."""
        if self._is_program:
            results = call_module(self.module, inputs)
            own = {task: results[found.layer] for task, found in self.found.items()}
            return self.with_derived(own or {"main": results[logits_name(0)]})
        if len(self.found) < 2 and all(found.reading == "result" for found in self.found.values()):
            return self.with_derived({next(iter(self.heads), "main"): cast(Tensor, as_tensor(call_module(self.module, inputs)))})
        with ExitStack() as stack:
            heads = {name: module_at(self.module, name) for found in self.found.values() for name in found.layers}
            seen = {name: stack.enter_context(capture(head)) for name, head in heads.items()}
            result = cast(Tensor, as_tensor(call_module(self.module, inputs)))
        own = {name: pooled(seen[name]["output"], channels_last=last_axis(head)) for name, head in heads.items() if "output" in seen[name]}
        return self.with_derived({task: result if found.reading == "result" else _sum_of(found, own) for task, found in self.found.items()})

    @property
    def _is_program(self) -> bool:
        return self.origin.get("source") == "program"

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the heads read, (N, d), averaged over positions; without a head, the pooled output.

        Raises:
            NetworkError: if this is a program that does not give them.
        """
        if self._is_program:
            results = call_module(self.module, inputs)
            if FEATURES not in results:
                refuse_program(self.origin, "asked for features")
            return cast(Tensor, results[FEATURES])
        if not self.heads:
            output = cast(Tensor, as_tensor(call_module(self.module, inputs)))
            return pooled(output, channels_last=output.ndim == 3)
        head, found = module_at(self.module, self.head.layer), self.found[self.head.task]
        if found.shares:
            with watching([module_at(self.module, name) for name in found.layers], channels_last=False) as read:
                call_module(self.module, inputs)
            return read()
        with capture(head, replace_by_input=True) as seen:
            result = as_tensor(call_module(self.module, inputs))
        features = seen["input"]
        if features.ndim > 2 and found.reading == "result" and result is not None and result.ndim == 2:
            return result  # the steps after the head (choice of a token, average) applied to its input
        return pooled(features, channels_last=last_axis(head))

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
            return cast(Tensor, head(pooled(features, channels_last=last_axis(first))))
        flat = last_axis(head) or features.ndim > 2
        positions = features if flat else features[(..., *(None,) * (cast(Tensor, head.weight).ndim - 2))]
        return pooled(head(positions), channels_last=last_axis(head))

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers and single parameters, and those that are held; all others become trainable."""
        self._frozen = frozenset(layers) | self.held
        own = [(layer, name, one) for layer, parameters in self.layer_parameters().items() for name, one in parameters.items()]
        for layer, name, parameter in own:
            parameter.requires_grad_(layer not in self._frozen and name not in self._frozen)
        for layer, name, parameter in own:  # once more: a parameter that two layers share is frozen
            if layer in self._frozen or name in self._frozen:
                parameter.requires_grad_(False)
        self.blocks = tuple(replace(block, frozen=all(layer in self._frozen for layer in block.layers)) for block in self.blocks)

    def counted(self) -> tuple[str, ...]:
        """Return the names of the modules without modules in them, in the order of definition."""
        return tuple(name for name, module in self.modules().items() if not list(module.children()))

    @property
    def held(self) -> frozenset[str]:
        """The layers and single parameters that no training changes."""
        names = holding.held_parameters(self.module, given=self._holds_given)
        found = {layer: set(own) for layer, own in self.layer_parameters().items()} if names else {}
        whole = {layer for layer, own in found.items() if own and own <= names}
        return frozenset(whole | (names - {name for layer in whole for name in found[layer]}))

    def hold_(self, layers: Collection[str] | None) -> None:
        """Hold exactly these layers or single parameters; None: those that the owner has frozen."""
        own = self.layer_parameters()
        self._holds_given = layers is None
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
        if not training or not self._frozen:
            return
        names = {layer.name for layer in self.layers}
        frozen = {next((outer for outer in prefixes(name) if outer in names), name) for name in self._frozen}
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

    def changed_by(self, edit: Edit, *, head: Head | None, seed: int) -> Self:
        """Return a changed copy, whose origin also has the sample of the module before any edit."""
        twin = changes.changed_by(self, edit, head=head, seed=seed)
        twin.origin.setdefault("sample", _sample_facts(self.sample))
        return twin

    def unedited(self, edit: Edit, *, code: Tensor | None = None) -> tuple[Self, tuple[str, ...]]:
        """Return a copy with what an `edit` added folded into the weights, one `code` for all items; and layers that got a bias."""
        if code is not None:
            return codes.folded(self, code)
        return low_ranks.settled(self) if isinstance(edit, LowRank) else adjusting.settled(self)

    def points(self) -> tuple[Point, ...]:
        """Return where the network can be shifted or scaled by channel, in the order of execution."""
        return adjusting.points_of(self)

    def code_table(self) -> Parameter:
        """Return the network's own table of codes, (1 + K, size)."""
        return codes.code_table(self)

    def put_codes_(self, table: np.ndarray) -> None:
        """Give the network another `table` of codes, (1 + K, size)."""
        codes.put_codes_(self, table)

    def reopened(self, found: Mapping[str, FoundHead], heads: Mapping[str, Head]) -> Self:
        """Inspect the changed module, give its `heads` their names and rows as `found`, and return this network."""
        self._inspect_(found)
        self.heads = {task: replace(head, layer=found[task].layer) if task in found else head for task, head in heads.items()}
        return self

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

    def write(self, folder: Path) -> Mapping[str, Any]:
        """Write the weights as safetensors and return what opening them needs.

        Beside a class of the user's own goes the network in ONNX form, which opens without the class.
        """
        state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.state().items()}
        save_file(state, folder / WEIGHTS_FILE)
        origin = self.origin | ({"edits": [edit.to_dict() for edit in self.edits]} if self.edits else {})
        facts = {"family": "torch", "file": WEIGHTS_FILE, "origin": origin, "sample": _sample_facts(self.sample)}
        facts["held"] = sorted(holding.held_parameters(self.module, given=True))
        if self.origin["source"] == "onnx":
            write_graph(self.module, folder)
        return facts if self.origin["source"] != "module" else {**facts, **write_program(self, folder)}

    def export_own(self, path: Path) -> Path:
        """Write an exported program with a free batch axis; `torch.export.load` opens it without this class."""
        refuse_program(self.origin, "exported")
        twin = self.copy()
        for_exporter_(twin.module)
        export_module(twin.module, twin.sample, path=path)
        return path

    def for_export(self) -> Self:
        """Return a private copy on the CPU, in inference mode."""
        twin = self.copy()
        twin.module.cpu()
        twin.mode_(False)
        return twin

    def name_for_export_(self) -> None:
        """Name the parts of edits by their attributes, which PyTorch's exporter follows."""
        for_exporter_(self.module)


def _sum_of(found: FoundHead, outputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits that the outputs of a head's layers make."""
    parts = [outputs[name] if share == 1 else share * outputs[name] for name, share in found.shares or ((found.layer, 1.0),)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _sample_facts(sample: Inputs) -> dict[str, Any]:
    if isinstance(sample, dict):
        return {name: [list(tensor.shape[1:]), str(tensor.dtype)] for name, tensor in sample.items()}
    return {"": [list(sample.shape[1:]), str(sample.dtype)]}


def _parameters_of(layer: Layer, module: Module) -> dict[str, Parameter]:
    prefix = f"{layer.name}." if layer.name else ""
    wrapped = "parametrizations" in dict(module.named_children())
    return {prefix + name: parameter for name, parameter in module.named_parameters(recurse=wrapped)}
