"""PyTorch networks: any `torch.nn.Module` behind the contract."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from inspect import isfunction
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Module, Parameter

from ..errors import NetworkError, near_names
from .account import Account
from .contract import Head, Inputs, Layer, Network, Scores
from .samples import first_working_sample, sample_of, to_inputs
from .structure import blocks_of, prefixes, torch_layers, torch_units
from .taps import Tap, TapSlice, checked_points, refuse_read_input
from .torch_parts import surgery
from .torch_parts.channels import channel_rule, first_convolution, note_channel_count_, with_other_channels
from .torch_parts.drawing import draw_
from .torch_parts.exporting import export_module, export_raw_scores
from .torch_parts.heads import FoundHead, find_head
from .torch_parts.rows import put_, row_weight, set_submodule_
from .torch_parts.wrappers import call_module, tap_slices
from .tracing import as_tensor, capture, flat_tensors, pooled, trace

__all__ = ["TorchNetwork", "open_torch"]

WEIGHTS_FILE = "network.safetensors"
PROGRAM_FILE = "network.pt2"


def open_torch(  # over the limit: what is known of a module beside it, each optional
    module: Module,
    *,
    classes: Sequence[str] | None = None,
    inputs: Sequence[int] | None = None,
    sample: Inputs | None = None,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
    head: str | None = None,
) -> TorchNetwork:
    """Open a live PyTorch module.

    Args:
        module: any module whose forward takes one tensor, or named tensors where `sample` is a dict.
        classes: class names in row order.
        inputs: shape of one item without the batch axis, when it cannot be known otherwise.
        sample: a batch of two items to run it with, in place of `inputs`.
        origin: what opening it again needs.
        take: use the module itself rather than a copy (for modules made by regraft).
        head: the name of the layer that is its head, where there are several candidates.

    Returns:
        The network; the module given is not modified unless `take`.

    Raises:
        NetworkError: if no sample runs through it, it has several candidates for its head, or `classes` do not fit it.
    """
    own = module if take else copy.deepcopy(module)
    guessed = sample is None and inputs is None
    if sample is None:
        sample = first_working_sample(lambda batch: call_module(own.eval(), batch), own, shape=inputs)
    facts = origin or {"source": "module", "class": f"{type(module).__module__}.{type(module).__qualname__}"}
    network = TorchNetwork(own, sample, origin=facts if head is None else {**facts, "head": head})
    network.input_guessed = guessed
    if classes is not None:
        network.name_classes_(classes)
    return network


class TorchNetwork(Network):
    """A PyTorch module with what one run of a sample told about it.

    Its origin is what opening it again needs: where the module came from, and the edits made since, in order.
    """

    family: ClassVar[str] = "torch"
    module: Module

    def __init__(self, module: Module, sample: Inputs, *, origin: Mapping[str, Any]) -> None:
        self.module = module
        self.origin = dict(origin)
        self.account = Account()
        self._frozen: frozenset[str] = frozenset()
        self.input_guessed = False
        self._take_sample_(sample)
        self._inspect_()

    def _take_sample_(self, sample: Inputs) -> None:
        self.sample = to_inputs(sample)
        self.input_shape = () if isinstance(self.sample, dict) else tuple(self.sample.shape[1:])

    def _inspect_(self, known: Mapping[str, FoundHead] | None = None) -> None:
        """Run the sample; find layers, blocks and the head, unless the heads are known."""
        was_training = self.module.training
        self.module.eval()
        modules = self.modules()
        seen = trace(modules, lambda: call_module(self.module, self.sample))
        self.layers = torch_layers(modules, seen.order)
        self.blocks = blocks_of(self.layers, torch_units(modules))
        if known is None:
            found = find_head(modules, seen, wanted=self.origin.get("head"))
            known = {"main": found} if found else {}
        self._found = dict(known)
        self.heads = {task: self._head_of(task, found) for task, found in known.items()}
        self.module.train(was_training)

    def _head_of(self, task: str, found: FoundHead) -> Head:
        weight, bias = self.rows(found.layer)
        kind = "multi-label" if found.activation == "sigmoid" and len(weight) > 1 else "classification" if len(weight) > 1 else "regression"
        return Head(task, None, kind, found.activation, found.layer, weight, bias)

    def modules(self) -> dict[str, Module]:
        """Return every module by name, containers too."""
        return dict(self.module.named_modules())

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage."""
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module)
        twin.heads, twin.origin = dict(self.heads), dict(self.origin)
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
                draw_(module)
        return twin

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) by task, in the present mode."""
        if len(self._found) < 2 and all(found.reading == "result" for found in self._found.values()):
            results = flat_tensors(call_module(self.module, inputs)) if self._is_program else []
            own = dict(zip(self.heads or ("main",), results, strict=False)) if results else self._only_result(inputs)
            return self.with_derived(own)
        with ExitStack() as stack:
            heads = {task: self.module.get_submodule(found.layer) for task, found in self._found.items()}
            seen = {task: stack.enter_context(capture(head)) for task, head in heads.items()}
            result = cast(Tensor, as_tensor(call_module(self.module, inputs)))
        return self.with_derived(
            {
                task: result if found.reading == "result" else pooled(seen[task]["output"], channels_last=_last(heads[task]))
                for task, found in self._found.items()
            }
        )

    def _only_result(self, inputs: Inputs) -> Scores:
        return {next(iter(self.heads), "main"): cast(Tensor, as_tensor(call_module(self.module, inputs)))}

    @property
    def _is_program(self) -> bool:
        return self.origin.get("source") == "program"

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the heads read, (N, d), averaged over positions; without a head, the pooled output.

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
        if features.ndim > 2 and self._found[self.head.task].reading == "result" and result is not None and result.ndim == 2:
            return result  # the steps after the head (choice of a token, average) applied to its input
        return pooled(features, channels_last=_last(head))

    def scores_of_features(self, features: Tensor) -> Scores:
        """Return the raw scores (N, C) by task that the heads make of their input (N, d)."""
        return self.with_derived({task: self._scores_of(found.layer, features) for task, found in self._found.items()})

    def _scores_of(self, layer: str, features: Tensor) -> Tensor:
        head = self.module.get_submodule(layer)
        first = self.module.get_submodule(self.head.layer)
        if head is not first:
            return cast(Tensor, head(pooled(features, channels_last=_last(first))))
        flat = _last(head) or features.ndim > 2
        positions = features if flat else features[(..., *(None,) * (cast(Tensor, head.weight).ndim - 2))]
        return pooled(head(positions), channels_last=_last(head))

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
        still = {prefix for name in self._frozen for prefix in prefixes(name)} - live
        for name, module in self.modules().items() if training and still else ():
            if name in still:
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
        return "\n".join([*(f"{name}: {modules[name]!r}" for name in sorted(layers)), *code, *map(repr, self.tap_slices)])

    def rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a row layer's weight (C, d) and bias (C,)."""
        module = self.module.get_submodule(layer)
        weight = cast(Tensor, row_weight(module)).detach().cpu().float().numpy().copy()
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
        put_(module, torch.from_numpy(np.asarray(weight, np.float32)), bias=torch.from_numpy(np.asarray(bias, np.float32)))
        return True

    def reseed_(self, seed: int) -> None:
        """Do nothing: PyTorch layers draw from the global generator, which the training loop seeds."""

    def with_head(self, head: Head) -> Self:
        """Return a copy whose head of that task has these rows; a network without a head gets one, a further task a branch.

        Raises:
            NetworkError: if this is an exported program, or the rows do not fit what the head reads.
        """
        self._whole("given another head")
        expected = self.heads.get(head.task, self.head).features if self.heads else head.features
        if expected != head.features:
            raise NetworkError(f"The rows have {head.features} features; the network has {expected}. Give rows of that length.")
        branch = bool(self.heads) and head.task != self.head.task
        twin = self._edited("head", {**_size(head), "branch": branch}, parts=list(head.parts))
        if not self.heads:
            twin.module = surgery.attached(twin.module, head)
            return twin._reopened({head.task: FoundHead("head", "linear", "result")}, {head.task: head})
        if head.task in self.heads:
            layer = self._found[head.task].layer
            surgery.resize_(twin.module, layer, head=head)
            if head.task == self.head.task:
                surgery.note_class_count_(twin.module, len(head.weight))
            twin._recount_(layer)
            twin.heads[head.task] = replace(head, layer=layer)
            return twin
        found, wrapped = dict(self._found), len(self._found) > 1
        chosen = not wrapped and self._choice_commutes()
        twin.module, layer = surgery.branched(twin.module, self.head, head=head, chosen=chosen)
        if not wrapped:
            found = {task: replace(known, layer=f"network.{known.layer}") for task, known in found.items()}
        return twin._reopened({**found, head.task: FoundHead(layer, "linear", "layer")}, {**self.heads, head.task: head})

    def _reopened(self, found: Mapping[str, FoundHead], heads: Mapping[str, Head]) -> Self:
        """Inspect the changed module and give its heads their names and rows; return this network."""
        self._inspect_(found)
        self.heads = {task: replace(head, layer=found[task].layer) if task in found else head for task, head in heads.items()}
        return self

    def _recount_(self, name: str) -> None:
        """Count the parameters of one layer anew, and those of the blocks."""
        count = sum(parameter.numel() for parameter in self.module.get_submodule(name).parameters())
        self.layers = tuple(replace(layer, parameters=count) if layer.name == name else layer for layer in self.layers)
        sizes = {layer.name: layer.parameters for layer in self.layers}
        self.blocks = tuple(replace(block, parameters=sum(sizes[part] for part in block.layers)) for block in self.blocks)

    def _choice_commutes(self) -> bool:
        """Tell whether what follows the head (the choice of one token) may as well come before it."""
        head = self.module.get_submodule(self.head.layer)
        self.mode_(False)
        with torch.no_grad():
            with capture(head) as seen:
                scores = self.scores(self.sample)[self.head.task]
            if seen["input"].ndim <= 2 or not _last(head) or self._found[self.head.task].reading != "result":
                return False
            return bool(torch.allclose(self._scores_of(self.head.layer, self.feature_batch(self.sample)), scores, rtol=1e-4, atol=1e-5))

    def _edited(self, edit: str, facts: Mapping[str, Any] | None = None, *, parts: Sequence[int] = ()) -> Self:
        """Return a copy that takes note of an edit; opening the saved folder repeats the edits in order."""
        twin = self.copy()
        noted = {"edit": edit, **(facts or {}), **({"parts": list(parts)} if parts else {})}
        twin.origin["edits"] = [*self.origin.get("edits", ()), noted]
        twin.origin.setdefault("sample", _sample_facts(self.sample))  # of the module before any edit
        return twin

    def with_stack(self, head: Head, activation: str) -> Self:
        """Return a copy with a new head on top of the first head's raw scores."""
        self._whole("given another head")
        twin = self._edited("stack", {**_size(head), "activation": activation})
        first = self._found[self.head.task]
        tapped = "" if first.reading == "result" and len(self._found) == 1 else first.layer
        twin.module = surgery.stacked(twin.module, tapped, head=head, activation=activation)
        own = replace(head, activation="linear")
        return twin._reopened({head.task: FoundHead("head", "linear", "result")}, {head.task: own})

    def ended(self, block: str) -> Self:
        """Return a copy that ends at the output of a block.

        Raises:
            NetworkError: if there is no such block.
        """
        self._whole("cut")
        found = next((known for known in self.blocks if known.name == block), None)
        if found is None:
            raise NetworkError(f"The network has no block {block!r}{near_names(block, [known.name for known in self.blocks])}")
        twin = self._edited("cut", {"block": block})
        names = [layer.name for layer in self.layers]
        twin.module = surgery.ended(twin.module, found, layers=names, order=self._order(), sample=self.sample)
        return twin._reopened({}, {})

    def tapped(self, points: Sequence[Tap]) -> Self:
        """Return a copy without a head whose output are the pooled outputs of several blocks side by side, (N, D)."""
        self._whole("tapped")
        taps, names = checked_points(points, [block.name for block in self.blocks]), [layer.name for layer in self.layers]
        twin = self._edited("taps", {"points": [[tap.block, list(tap.pools)] for tap in taps]})
        twin.module = surgery.tapped(twin.module, taps, blocks=self.blocks, layers=names, order=self._order(), sample=self.sample)
        twin.statistics = twin.unknown = None
        return twin._reopened({}, {})

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        """Which features come from which tap."""
        return tap_slices(self.module)

    def _order(self) -> list[str]:
        self.mode_(False)
        return trace(self.modules(), lambda: call_module(self.module, self.sample)).order

    def with_channels(self, count: int) -> Self:
        """Return a copy whose first convolution reads `count` channels.

        Raises:
            NetworkError: if the network does not begin with a convolution over channels.
        """
        self._whole("given other channels")
        if isinstance(self.sample, dict) or self.sample.ndim < 3:
            raise NetworkError(f"channels={count} needs a network that takes pictures or signals; this one takes {self.input_shape}.")
        modules, old = self.modules(), self.sample.shape[1]
        refuse_read_input(self.tap_slices, f"channels={count}")
        name = first_convolution(modules, self._order(), channels=old)
        twin = self._edited("channels", {"count": count})
        set_submodule_(twin.module, name, module=with_other_channels(modules[name], count))
        note_channel_count_(twin.module, name, old=old, new=count)
        twin._take_sample_(sample_of((count, *self.sample.shape[2:])).to(self.sample.device))
        note = f"'{name}' reads {count} channels: {channel_rule(old, count)}"
        twin.account = self.account.joined(Account({"reshaped": [f"{name}.weight"]}, notes=(note,)))
        return twin._reopened(self._found, self.heads)

    def with_columns(self, count: int) -> Self:
        """Return a copy whose head also reads `count` numbers beside each item.

        Raises:
            NetworkError: if the network has no head, or several.
        """
        self._whole("given further inputs")
        if len(self.heads) != 1:
            raise NetworkError(f"Further inputs go to one head; this network has {len(self.heads)}: {', '.join(self.heads) or 'none'}.")
        head, twin = self.head, self._edited("columns", {"count": count})
        wide = replace(head, weight=np.concatenate([head.weight, np.zeros((len(head.weight), count), np.float32)], 1))
        twin.module = surgery.joined(twin.module, head.layer, head=wide, count=count)
        own = self.sample if isinstance(self.sample, dict) else {"inputs": self.sample}
        columns = sample_of((count,), batch=len(next(iter(own.values()))))
        twin._take_sample_({**own, "columns": columns.to(next(iter(own.values())).device)})
        return twin._reopened({head.task: replace(self._found[head.task], layer=f"network.{head.layer}.linear")}, {head.task: wide})

    def edited_by(self, edits: Sequence[Mapping[str, Any]]) -> TorchNetwork:
        """Repeat edits that another network with this module's origin has noted; new rows are zero.

        Args:
            edits: plain data, in order.

        Returns:
            The network.
        """
        network: TorchNetwork = self
        for edit in edits:
            network = _EDITS[edit["edit"]](network, edit)
        return network

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
            export_raw_scores(twin, folder / PROGRAM_FILE)
        except Exception as problem:  # not every forward can be exported; the weights are saved all the same
            return {**facts, "no_program": f"{type(problem).__name__}: {str(problem)[:300]}"}
        return facts

    def export(self, path: str | Path) -> Path:
        """Write an exported program (`.pt2`) with a free batch axis; `torch.export.load` opens it without this class."""
        self._whole("exported")
        twin = self.copy()
        export_module(twin.module, twin.sample, path=Path(path))
        return Path(path)

    def _whole(self, done: str) -> None:
        """Raise unless the modules are there: an exported program hides them."""
        if self.origin.get("source") == "program":
            raise NetworkError(
                f"This network is the exported program of {self.origin['class']}: it predicts, but cannot be {done}. "
                "Open its folder with architecture=, a module or a function that makes it."
            )


def _last(layer: Module) -> bool:
    """Tell whether the class axis of a row layer's output is the last one."""
    return not isinstance(layer, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d))


def _size(head: Head) -> dict[str, Any]:
    """Return what making a head of the same size again needs, as plain data."""
    return {"task": head.task, "rows": len(head.weight), "features": head.features, "bias": bool(head.bias.any())}


def _empty_head(edit: Mapping[str, Any], network: TorchNetwork) -> Head:
    """Return a head of the noted size; a bias other than zero makes sure that there is one. The first head may have been renamed since."""
    weight = np.zeros((edit["rows"], edit["features"]), np.float32)
    bias = np.full(edit["rows"], edit.get("bias", True), np.float32)
    task = edit["task"] if edit.get("branch") or not network.heads else network.head.task
    return Head(task, None, "classification", "linear", "", weight, bias, tuple(edit.get("parts", ())))


_EDITS: dict[str, Callable[[TorchNetwork, Mapping[str, Any]], TorchNetwork]] = {
    "head": lambda network, edit: network.with_head(_empty_head(edit, network)),
    "stack": lambda network, edit: network.with_stack(_empty_head(edit, network), edit["activation"]),
    "cut": lambda network, edit: network.ended(edit["block"]),
    "channels": lambda network, edit: network.with_channels(edit["count"]),
    "columns": lambda network, edit: network.with_columns(edit["count"]),
    "taps": lambda network, edit: network.tapped([Tap(block, tuple(pools)) for block, pools in edit["points"]]),
}


def _sample_facts(sample: Inputs) -> dict[str, Any]:
    if isinstance(sample, dict):
        return {name: [list(tensor.shape[1:]), str(tensor.dtype)] for name, tensor in sample.items()}
    return {"": [list(sample.shape[1:]), str(sample.dtype)]}


def _parameters_of(layer: Layer, module: Module) -> dict[str, Parameter]:
    prefix = f"{layer.name}." if layer.name else ""
    wrapped = "parametrizations" in dict(module.named_children())
    return {prefix + name: parameter for name, parameter in module.named_parameters(recurse=wrapped)}
