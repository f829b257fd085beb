"""Body of a PyTorch network: the module and what one run of a sample shows about it."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.modules import module as of_all_modules

from ...errors import NetworkError
from ...randomness import seeded
from ..editing.sums import joined_rows
from ..family import Body, Places
from ..fingerprints.values import Fingerprint, Structure
from ..parts.head import HeadChoice
from ..parts.protocols import Inputs, Scores, changed
from ..parts.recurrent import cells_as_operators
from ..parts.structure import below, blocks_of, prefixes, torch_layers, torch_units
from ..parts.taps import TapSlice
from ..samples import is_pictures, three_items
from ..tracing import Trace, as_tensor, capture, in_columns, pooled, read_by, replaced, trace, watching, without_padding
from .conditioned import AdjustedNetwork, CodedNetwork, EntranceNetwork, GivenInput
from .former import former_names
from .graft import find_graft, for_exporter_, grafts, module_at, within
from .heads import find_head, is_wide, last_axis, put_, row_weight
from .plain import copied, tensors_of
from .sites import Site, find_sites
from .wrappers import AttachedHead, BranchedNetwork, TappedNetwork, call_module

_KINDS = {"multi_label_classification": "multi-label", "regression": "regression"}
"""Task kinds that a Hugging Face config names and that the logits do not show."""
_TRANSPARENT = (AdjustedNetwork, BranchedNetwork, CodedNetwork, EntranceNetwork, GivenInput)
"""Edits that leave the features of the inner network unchanged."""
_ORDERS = (torch.contiguous_format, torch.channels_last)


@dataclass(eq=False)
class TorchBody(Body):
    """A PyTorch module with its heads and the edits applied so far."""

    module: Module
    found_order: torch.memory_format | None = None  # the memory format that the module accepts; None until first used
    trains_in_order: bool | None = None  # whether training on a CPU uses that format too; None until first used

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Put the whole module into inference mode while the context lasts."""
        active = [module for module in self.module.modules() if module.training]
        self.module.eval()
        try:
            yield
        finally:
            for module in active:
                module.training = True

    def traced(self) -> Trace:
        """Return the trace of one run of the sample in inference mode."""
        with self.at_rest():
            return trace(self.modules(), partial(call_module, self.module, self.sample))

    def inspect_(self) -> Trace:
        """Find the layers and blocks by one run of the sample and return the trace."""
        self.found_order = self.trains_in_order = None
        seen = self.traced()
        with self.at_rest():
            self.layers = torch_layers(seen)
        alone = not any(True for _ in module_at(self.module, "").children())
        self.blocks = blocks_of(self.layers, torch_units(seen.modules, aside=within(self.module)), alone=alone)
        return seen

    def anew(self, module: Module | None = None, heads: Places | None = None, *, sample: Inputs | None = None) -> Self:
        """Become the body of a changed `module`, with other `heads` and another `sample` where given. Call it on a private copy only."""
        if module is not None:
            device = next((parameter.device for parameter in self.module.parameters()), torch.device("cpu"))
            self.module = module.to(device).train(self.module.training)
        if sample is not None:
            self.take_sample_(sample)
        if heads is not None:
            self.found = {task: found for task, (_, found) in heads.items() if found is not None}
            self.heads = {task: head if found is None else replace(head, layer=found.layer) for task, (head, found) in heads.items()}
        self.inspect_()
        there = {name for own in self.layer_parameters().values() for name in own}
        self.given, self.planned = self.given & there, None if self.planned is None else self.planned & there
        return self

    @property
    def memory_order(self) -> torch.memory_format:
        """Channels last if the module accepts it and gives the same output, else contiguous. Convolutions are fastest in channels last."""
        if self.found_order is not None:
            return self.found_order
        self.found_order = torch.contiguous_format
        if is_pictures(self.sample):
            plain = cast(Tensor, self.sample)
            device = next((tensor.device for tensor in self.state().values()), plain.device)
            try:
                with torch.no_grad(), self.at_rest(), redirect_stderr(io.StringIO()):  # torch.fx modules print their errors
                    own, other = (as_tensor(call_module(self.module, plain.to(device, memory_format=order))) for order in _ORDERS)
            except Exception:  # a forward may raise anything where a view is impossible
                return self.found_order
            if own is not None and other is not None and torch.allclose(own, other, rtol=1e-3, atol=1e-4, equal_nan=True):
                self.found_order = torch.channels_last
        return self.found_order

    def training_order(self, device: torch.device) -> torch.memory_format:
        """Return the memory format for training on `device`.
        On a CPU this is channels last only with depthwise convolutions, where timings show a gain, and only if the backward pass is safe.
        With torch 2.14.1 the backward pass of a strided 1x1 convolution writes outside its memory in channels last. No other kernel size,
        stride or group count of 1,414 tested combinations does."""
        if device.type != "cpu" or self.memory_order == torch.contiguous_format:
            return self.memory_order
        if self.trains_in_order is None:
            layers = [module for module in self.module.modules() if isinstance(module, torch.nn.Conv2d)]
            pays = any(1 < layer.in_channels == layer.groups for layer in layers)
            works = not any(set(layer.kernel_size) == {1} and set(layer.stride) != {1} for layer in layers)
            self.trains_in_order = pays and works
        return self.memory_order if self.trains_in_order else torch.contiguous_format

    def modules(self) -> dict[str, Module]:
        return dict(self.module.named_modules())

    def copied_module(self) -> Module:
        return copied(self.module)

    def redraw_(self, seed: int) -> None:
        """Redraw the weights of every module that has `reset_parameters`.
        Parameters of other modules (class tokens, position embeddings) are drawn from a normal distribution with their previous mean and
        standard deviation."""
        with seeded(seed), torch.no_grad():
            for module in self.module.modules():
                reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
                if callable(reset):
                    reset()
                    continue
                for own in module.parameters(recurse=False):
                    parameter = torch.view_as_real(own) if own.is_complex() else own
                    spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                    parameter.normal_(float(parameter.mean()), spread)

    def own_scores(self, inputs: Inputs) -> Scores:
        if len(self.found) < 2 and all(found.whole for found in self.found.values()):
            return {next(iter(self.heads), "main"): in_columns(cast(Tensor, as_tensor(call_module(self.module, inputs))))}
        with ExitStack() as stack:
            heads = {name: module_at(self.module, name) for found in self.found.values() for name in found.layers}
            seen = {name: stack.enter_context(capture(head)) for name, head in heads.items()}
            result = cast(Tensor, as_tensor(call_module(self.module, inputs)))
        made = {name: seen[name].of_examples("output", result) for name in heads if seen[name]}
        own = {name: pooled(values, channels_last=last_axis(heads[name])) for name, values in made.items()}
        return {task: result if found.whole else _sum_of(self._shares(found.layer), own) for task, found in self.found.items()}

    def feature_batch(self, inputs: Inputs) -> Tensor:
        if not self.heads:
            output = cast(Tensor, as_tensor(call_module(self.module, inputs)))
            return pooled(output, channels_last=output.ndim == 3)
        head, found = module_at(self.module, self.head.layer), self.found[self.head.task]
        if found.shares:
            with watching([module_at(self.module, name) for name in found.layers], channels_last=False) as read:
                result = as_tensor(call_module(self.module, inputs))
            return read(result)
        with capture(head, replace_by_input=not (is_wide(head) or found.beside)) as seen:
            result = as_tensor(call_module(self.module, inputs))
        features = seen.of_examples("input", result)
        if features.ndim > 2 and not is_wide(head) and found.whole and result is not None and result.ndim == 2:
            return result  # steps after the head (token choice, average) applied to the head's input
        return read_by(head, features, channels_last=last_axis(head))

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        head = module_at(self.module, layer)
        first = module_at(self.module, self.head.layer)
        shares = self._shares(layer)
        if len(shares) > 1:
            layers = [module_at(self.module, name) for name in shares]
            parts = torch.split(features, [cast(Tensor, row_weight(part)).shape[1] for part in layers], dim=1)
            return _sum_of(shares, {name: part(values) for name, part, values in zip(shares, layers, parts, strict=True)})
        if head is not first:
            return cast(Tensor, head(read_by(first, features, channels_last=last_axis(first))))
        if last_axis(head) or features.ndim > 2:
            return pooled(head(features), channels_last=last_axis(head))
        with without_padding(head):
            places = cast(torch.nn.Conv2d, head).kernel_size
            return cast(Tensor, head(features.reshape(len(features), -1, *places))).flatten(1)

    def counted(self) -> tuple[str, ...]:
        """Return the names of the modules without submodules, in the order of definition."""
        return tuple(name for name, module in self.modules().items() if not list(module.children()))

    @property
    def held(self) -> frozenset[str]:
        """Layers and single parameters that no training changes. A layer is listed when all its parameters are held."""
        own = self.layer_parameters()
        names = super().held & {name for parameters in own.values() for name in parameters}
        whole = {layer for layer, parameters in own.items() if parameters and names.issuperset(parameters)}
        return frozenset(whole | (names - {name for layer in whole for name in own[layer]}))

    def hold_(self, layers: Collection[str] | None) -> None:
        own = self.layer_parameters()
        super().hold_(None if layers is None else [name for layer in layers for name in own.get(layer, (layer,))])

    def mode_(self, training: bool) -> None:
        """Switch the trainable part to training or inference mode. A container is frozen when all its layers are.
        A layer with any frozen parameter runs in inference mode: otherwise training would change its moving statistics."""
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
            elif name in frozen:  # its submodules may be trainable
                module.training = False

    def state(self) -> dict[str, Tensor]:
        return tensors_of(self.module)

    def packed(self) -> tuple[str, ...]:
        plain = self.state()
        return tuple(name for name in self.module.state_dict() if name not in plain)

    def former_names(self) -> dict[str, str]:
        return former_names(self.module)

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        found, modules = dict[str, dict[str, Parameter]](), self.modules()
        for layer in self.layers:
            module, prefix = modules[layer.name], f"{layer.name}." if layer.name else ""
            wrapped = "parametrizations" in dict(module.named_children())
            found[layer.name] = {prefix + name: parameter for name, parameter in module.named_parameters(recurse=wrapped)}
        return found

    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        """Return a digest of what the layers, and the modules around and in them, compute: classes, attributes, hooks and code."""
        modules, edits = self.modules(), grafts(self.module)
        known = {id(module): name or "the network" for name, module in modules.items()}
        known |= {id(edit): f"edit {at}" for at, edit in enumerate(edits)}
        known |= {id(held): name for name, held in tensors_of(self.module, keep_vars=True).items()}  # their bytes are hashed elsewhere
        prints = Fingerprint(known, ignored=ignored)
        around, chosen = {outer for layer in layers for outer in prefixes(layer)}, set(layers)
        reached = [name for name in modules if name in around or not chosen.isdisjoint(prefixes(name))]
        lines = [f"{name}: {prints.module(modules[name], name)}" for name in sorted(reached)]
        lines += [prints.module(edit, f"edit {at}") for at, edit in enumerate(edits)]
        hooks = [*of_all_modules._global_forward_pre_hooks.values(), *of_all_modules._global_forward_hooks.values()]
        return prints.structure([*lines, *(prints.of(value, "hooks of all modules") for value in hooks)])

    def _shares(self, layer: str) -> dict[str, float]:
        """Return the factors of the layers whose outputs sum to the logits of the head that begins with `layer`."""
        return next((dict(found.shares) for found in self.found.values() if found.shares and found.layer == layer), {layer: 1.0})

    def layer_rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a row layer's weight (C, d) and bias (C,). The weights of a summed head are concatenated along the features."""
        shares, rows = self._shares(layer), list[tuple[np.ndarray, np.ndarray]]()
        for module in (module_at(self.module, name) for name in shares):
            weight, bias = cast(Tensor, row_weight(module)), getattr(module, "bias", None)
            shift = bias if isinstance(bias, Tensor) else weight.new_zeros(len(weight))
            rows.append((weight.detach().cpu().float().numpy().copy(), shift.detach().cpu().float().numpy().copy()))
        return rows[0] if len(rows) == 1 else joined_rows(rows, list(shares.values()))

    def set_layer_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Write class weights (C, d) and bias (C,) into a linear layer. False: it has no bias, or computes its weight (weight norm)."""
        parts = [(module_at(self.module, name), own) for name, own in self.parts_of(layer, weight, bias=bias).items()]
        if any(not isinstance(getattr(one, "bias", None), Tensor) or "parametrizations" in dict(one.named_children()) for one, _ in parts):
            return False
        for module, (own, shift) in parts:
            put_(module, own, bias=shift)
        return True

    def parts_of(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the share of each layer of a head in its class weights (C, d) and bias (C,); `layer` is the first of several.
        All layers with a bias get the same one."""
        shares, shift = self._shares(layer), np.asarray(bias, np.float32)
        modules = {name: module_at(self.module, name) for name in shares}
        biased = {name for name, module in modules.items() if isinstance(getattr(module, "bias", None), Tensor)} or set(shares)
        whole = np.float32(sum(share for name, share in shares.items() if name in biased))
        widths = [cast(Tensor, row_weight(module)).shape[1] for module in modules.values()]
        columns = np.split(np.asarray(weight, np.float32), np.cumsum(widths)[:-1], axis=1)
        return {
            name: (part / np.float32(share), shift / whole if name in biased else np.zeros_like(shift))
            for (name, share), part in zip(shares.items(), columns, strict=True)
        }

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        around = [graft for graft in grafts(self.module) if not isinstance(graft, _TRANSPARENT)]
        read = around[1:] if around and isinstance(around[0], AttachedHead) else around
        return read[0].slices if read and isinstance(read[0], TappedNetwork) else ()

    def code_table(self) -> Parameter:
        return cast(Parameter, self.codes_around().codes.weight)

    def codes_around(self) -> CodedNetwork:
        """Return the wrapper that adds the codes of conditions. Raise if the network takes none."""
        self.refuse_change("given codes of conditions")
        found = find_graft(self.module, CodedNetwork)
        if found is None:
            raise NetworkError("This torch network takes no codes; expected one trained with strategy='codes'.")
        return found

    def put_codes_(self, table: np.ndarray) -> None:
        around = self.codes_around()
        old = around.codes.weight
        around.codes.num_embeddings = len(table)
        around.codes.weight = Parameter(torch.from_numpy(table.copy()).to(old), requires_grad=old.requires_grad)
        self.recount_([around.name_of("codes")])

    def sites(self) -> dict[str, Site]:
        """Return the hook points behind linear layers and convolutions. Edit layers, heads and anything after the first head have none."""
        modules, heads = self.modules(), self.head_layers
        beside = [graft for graft in grafts(self.module) if isinstance(graft, AdjustedNetwork | CodedNetwork | EntranceNetwork)]
        aside = [name for graft in beside for name in graft.parts()]
        without = {name for name in modules if any(below(name, other) for other in aside)}
        batches = (self.sample, three_items(self.sample), changed(self.sample, lambda tensor: tensor[:1].expand_as(tensor)))
        runs = [partial(call_module, self.module, batch) for batch in batches]
        with self.at_rest():
            found = find_sites(modules, runs, without=without | set(heads), until=heads[0] if heads else None)
        return {site.name: site for site in found}

    def ready_for_export_(self) -> None:
        self.move_(torch.device("cpu"))
        self.mode_(False)
        for module in self.module.modules():
            if vars(module).get("inplace") is True:  # ONNX has the other form; taking this one apart is a third of an export's time
                vars(module)["inplace"] = False
            config: Any = getattr(module, "config", None)
            if getattr(config, "_experts_implementation", None) == "grouped_mm":  # exporters do not support it
                config._experts_implementation = "batched_mm"

    def name_for_export_(self) -> None:
        """Name the parts of edits by their attributes, which PyTorch's exporter follows."""
        for_exporter_(self.module)

    def for_onnx(self) -> AbstractContextManager[None]:
        return replaced(cells_as_operators(self.module.modules()))


def inspected(module: Module, sample: Inputs, *, head: HeadChoice = None, kind: type[TorchBody] = TorchBody) -> TorchBody:
    """Return the body of a `module` that takes `sample`, with the heads that are found, or with the layers that `head` names."""
    body = kind(module, sample)
    body.take_sample_(sample)
    chosen = head if isinstance(head, Mapping) else {"main": head}
    seen = body.inspect_()
    with body.at_rest():
        candidates = {task: find_head(seen, layer) for task, layer in chosen.items()}
    body.found = {task: one if len(chosen) == 1 else replace(one, others=()) for task, one in candidates.items() if one}
    told = _KINDS.get(str(getattr(getattr(module, "config", None), "problem_type", None)))
    body.heads = {task: one.head(*body.layer_rows(one.layer), task=task, kind=told) for task, one in body.found.items()}
    body.note_apart_()
    return body


def _sum_of(shares: Mapping[str, float], outputs: Mapping[str, Tensor]) -> Tensor:
    """Return the logits of a head as the weighted sum of its layers' outputs."""
    parts = [outputs[name] if share == 1 else share * outputs[name] for name, share in shares.items()]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
