"""The primitives of a framework: a raw module as a `Body`, and the edits and file formats of its `Family`.

Each family is a package that subclasses both: a `Body` runs, freezes and lists its module; a `Family` is stateless. A method that a
family does not override raises a `NetworkError` or does nothing. Neither class knows `Network`.
"""

import abc
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ..errors import NetworkError, near_names
from ..files.text import printable
from ..randomness import seeded
from .account import Account
from .edits import Edit
from .fingerprints.values import Structure
from .parts.coding import Coding
from .parts.head import Head, HeadLocation, two_rows
from .parts.protocols import Inputs, Scores, by_name, changed, on_device
from .parts.structure import Block, Layer, prefixes
from .parts.taps import TapSlice
from .predictions import grouped_scores
from .tracing import capture

Places = Mapping[str, tuple[Head, HeadLocation | None]]  # Heads by task, each with its location in the module, or None for a derived head
EditTable = Mapping[type[Edit], Callable[..., Any]]
"""The functions that apply the supported kinds of edits: private copy of the body, edit, `head` and `seed` -> changed body."""


@dataclass(eq=False)
class Body(abc.ABC):
    """A raw module with the facts found by running it once on a sample: the part of a network that edits change.
    `input_shapes`: shapes of several inputs by name, if the module states them; None for an open axis."""

    module: Any  # the framework's own object
    sample: Inputs
    input_shape: tuple[int | None, ...] = ()  # shape of one example; () for several inputs
    input_shapes: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    blocks: tuple[Block, ...] = ()  # the units in which depth is counted
    heads: dict[str, Head] = field(default_factory=dict)
    found: dict[str, HeadLocation] = field(default_factory=dict)  # the location of each head that has its own class weights, by task
    coding: Coding | None = None  # how the module takes the codes of conditions, or None
    account: Account = field(default_factory=Account)  # what the edit that made this body did to the weights
    frozen: frozenset[str] = frozenset()  # names of the frozen layers and parameters
    training: bool = False  # whether the part that is not frozen is in training mode
    draws: bool = False  # whether two passes over the same examples differ, even in inference
    given: frozenset[str] = frozenset()  # names of the layers and parameters that the owner of the module has frozen
    planned: frozenset[str] | None = None  # names that are held instead of `given`; None to hold `given`
    untrained: frozenset[str] = frozenset()  # layers that were built here and have not been trained, if the family records them here
    only_predicts: ClassVar[bool] = False  # whether the module runs without its class, so that it predicts and nothing else

    @property
    def open_shapes(self) -> dict[str, tuple[int | None, ...]]:
        """The shapes of one example that have open axes (None), by input name ("" for the only input)."""
        shapes = self.input_shapes if isinstance(self.sample, dict) else {"": self.input_shape}
        return {name: tuple(shape) for name, shape in shapes.items() if None in shape}

    def open_(self, shapes: Mapping[str, Sequence[int | None]]) -> None:
        """Leave the axes open that are None in these shapes, which are those of `open_shapes`; shapes that do not fit change nothing."""
        named, self.input_shapes = by_name(self.sample), {}
        for name, shape in shapes.items():
            own = name if name in named else next(iter(named)) if "" in (name, *named) else None
            sides = [] if own is None else named[own].shape[1:]
            if own is None or len(sides) != len(shape) or any(side not in (None, there) for side, there in zip(shape, sides, strict=True)):
                continue
            if own:
                self.input_shapes = {**self.input_shapes, own: tuple(shape)}
            else:
                self.input_shape = tuple(shape)

    def take_sample_(self, sample: Inputs) -> None:
        """Use another `sample` to run the module. Axes that were open stay so."""
        shapes, self.sample = self.open_shapes, changed(sample, Tensor.detach)
        self.input_shape = () if isinstance(self.sample, dict) else tuple(self.sample.shape[1:])
        self.open_(shapes)

    @property
    def head(self) -> Head:
        """The first head."""
        if not self.heads:
            raise NetworkError("Received a network without a head; expected one. Give it a head with regraft.retarget.")
        return next(iter(self.heads.values()))

    @property
    def head_layers(self) -> tuple[str, ...]:
        """Names of the linear layers of all heads that have their own class weights."""
        return tuple(layer for task, head in self.heads.items() if head.groups is None for layer in self.layers_of(task))

    def layers_of(self, task: str) -> tuple[str, ...]:
        """Return the names of the linear layers whose outputs sum to the logits of a `task`; `head.layer` is the first."""
        return self.found[task].layers if task in self.found else (self.heads[task].layer,)

    def placed(self) -> Places:
        """Return the heads with their locations."""
        return {task: (head, self.found.get(task)) for task, head in self.heads.items()}

    def packed(self) -> tuple[str, ...]:
        """Return the names of the weights that are no plain tensors, as those of PyTorch's quantised layers."""
        return ()

    def refuse_change(self, done: str) -> None:
        """Raise if the module only predicts; `done` completes the error "… cannot be …"."""
        packed = self.packed()
        if packed:
            raise NetworkError(
                f"This network has quantised layers ({packed[0]!r} is no plain tensor): it predicts, but cannot be {done}. Give the "
                "network as it was before it was quantised."
            )

    # ── running ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

    @abc.abstractmethod
    def modules(self) -> dict[str, Module]:
        """Return all modules by dotted name ("container.part"), including containers."""

    def own_scores(self, inputs: Inputs) -> Scores:
        """Return the logits by task of the heads with their own class weights, one column per row of the layer.
        A network without such a head returns its pooled output as "main"."""
        features = self.feature_batch(inputs)
        made = {task: self.scores_of_layer(head.layer, features) for task, head in self.heads.items() if not head.groups}
        return made or {"main": features}

    def scores(self, inputs: Inputs) -> Scores:
        """Return the logits (N, C) of one batch by task, in the current mode and with gradients if they are enabled."""
        return self.with_derived(self.own_scores(inputs))

    def with_derived(self, scores: Scores) -> Scores:
        """Return the given logits with those of the derived heads added, in the order of `heads`; binary heads get two columns."""
        for task, head in self.heads.items():
            if head.binary and scores[task].shape[1] == 1:
                scores = {**scores, task: torch.cat([torch.zeros_like(scores[task]), scores[task]], 1)}
        derived = {task: grouped_scores(scores[self.head.task], head.groups) for task, head in self.heads.items() if head.groups}
        return {task: (scores | derived)[task] for task in self.heads} if derived else scores

    @abc.abstractmethod
    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return the features (N, d) of one batch that the first head reads; without a head, the pooled output."""

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        """Return the logits (N, C) of a head's `layer` for `features` (N, d), or for the unpooled input of the first head's layer."""
        return cast(Tensor, self.modules()[layer](features))

    def split(self, layers: Collection[str]) -> tuple[Callable[[Inputs], list[Tensor]], Callable[[Sequence[Tensor]], Scores]] | None:
        """Return the family's own split after these layers (frozen part, trainable part); None if the boundary is found by running."""
        return None

    def mode_(self, training: bool) -> None:
        """Switch the part that is not frozen to training or inference mode."""
        self.training = training

    def move_(self, device: torch.device) -> None:
        """Move the weights and the sample to a device."""
        for module in [self.module] if isinstance(self.module, Module) else self.modules().values():
            module.to(device)
        self.sample = on_device(self.sample, device)

    @property
    def memory_order(self) -> torch.memory_format:
        """Preferred memory format of image batches."""
        return torch.contiguous_format

    def training_order(self, device: torch.device) -> torch.memory_format:
        """Return the preferred memory format of image batches for training on `device`."""
        return self.memory_order

    def sites(self) -> Mapping[str, Any]:
        """Return the hook points where values can be scaled and shifted per channel, by name in execution order; none after a head."""
        return {}

    def chosen_sites(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the hook points with these `names`, or all if empty, in execution order; the error for an unknown name lists near ones."""
        sites = self.sites()
        if not sites:
            kind = type(self.module).__name__
            raise NetworkError(f"{kind} has no linear layer or convolution before its head: there is no place for {names or 'codes'}.")
        wrong = [name for name in names if name not in sites]
        if wrong:
            raise NetworkError(f"The network has no linear layer or convolution {wrong[0]!r} to be changed{near_names(wrong[0], sites)}")
        return {name: site for name, site in sites.items() if name in names or not names}

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        """The tap that each range of features comes from, in order; empty if the network is not tapped."""
        return ()

    def code_table(self) -> Parameter:
        """Return the module's own table of codes, (1 + K, size); row 0 is the mean code."""
        raise NetworkError(f"{type(self.module).__name__} takes no codes; expected a network trained with strategy='codes'.")

    def put_codes_(self, table: np.ndarray) -> None:
        """Overwrite the table of codes with `table`, (1 + K, size)."""
        with torch.no_grad():
            self.code_table().copy_(torch.from_numpy(table))

    def note_apart_(self) -> None:
        """Mark the heads whose logits are no linear function of the first head's features, found by one run of the sample."""
        self.heads = {task: replaced(head, apart=self._adds(task)) for task, head in self.heads.items()}
        if len(self.found) < 2:
            return
        modules = self.modules()
        self.mode_(False)
        with ExitStack() as stack, torch.no_grad():
            seen = {task: stack.enter_context(capture(modules[self.layers_of(task)[0]])) for task in self.found}
            self.scores(self.sample)
        first = seen[self.head.task]["input"]
        apart = {task: one["input"].shape != first.shape or not torch.equal(one["input"], first) for task, one in seen.items()}
        self.heads = {task: replaced(head, apart=head.apart or apart.get(task, False)) for task, head in self.heads.items()}

    def note_rows_(self, head: Head) -> None:
        """Note that the layers of a `head` have its class weights now; the account tells of the layers beside them."""
        layers, beside = self.layers_of(head.task), self.found[head.task].beside
        self.heads[head.task] = replaced(head, layer=layers[0])
        self.recount_([*layers, *beside])
        if beside:
            self.note_apart_()
            told = f"beside the head, {', '.join(map(repr, beside))} adds to the logits: a class whose weights in the head stay keeps its "
            self.account = Account(notes=(f"{told}weights there; others have zeros",))

    def _adds(self, task: str) -> bool:
        """Tell whether layers beside the head of a `task` add to its logits: their weights are not all zero."""
        beside = self.found[task].beside if task in self.found else ()
        return any(bool(one.any()) for name in beside for one in self.modules()[name].parameters())

    # ── weights ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

    @abc.abstractmethod
    def copied_module(self) -> Any:
        """Return an independent copy of the module: same weights, no shared storage."""

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = copy.copy(self)
        twin.module, twin.heads, twin.account = self.copied_module(), dict(self.heads), Account()
        return twin

    @abc.abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, sharing storage with the module."""

    def former_names(self) -> Mapping[str, str]:
        """Return the name in folders of format 1 of each layer, parameter and buffer that had another one there."""
        return {}

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return the parameters of each layer: layer name -> name in `state()` -> parameter."""
        known: Mapping[str, Any] = {layer.name: self.modules().get(layer.name) for layer in self.layers}
        return {layer: {f"{layer}.{name}": one for name, one in part.named_parameters()} if part else {} for layer, part in known.items()}

    def recount_(self, changed: Collection[str]) -> None:
        """Recount the parameters of the layers that an edit has `changed`, and of their blocks."""
        own = self.layer_parameters()
        sizes = {layer.name: layer.parameters for layer in self.layers}
        sizes |= {name: sum(one.numel() for one in own[name].values()) for name in changed}
        self.layers = tuple(replaced(layer, parameters=sizes[layer.name]) for layer in self.layers)
        self.blocks = tuple(replaced(block, parameters=sum(sizes[part] for part in block.layers)) for block in self.blocks)

    @abc.abstractmethod
    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        """Return a fingerprint of the computation of these layers, without their weights and without the values at `ignored`."""

    def layer_rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of the weight (C, d) and bias (C,) of a linear `layer`."""
        own = self.modules()[layer].state_dict()
        return own["weight"].cpu().numpy().copy(), own["bias"].cpu().numpy().copy()

    def set_layer_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Set weight (C, d) and bias (C,) of a linear `layer`; return False if it cannot hold them."""
        rows = {"weight": torch.tensor(weight, dtype=torch.float32), "bias": torch.tensor(bias, dtype=torch.float32)}
        self.modules()[layer].load_state_dict(rows)
        return True

    def is_binary(self, layer: str) -> bool:
        """Return whether a `layer` belongs to a binary head, which has one row for two classes."""
        return any(head.binary and head.layer == layer for head in self.heads.values())

    def rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a linear layer's weight (C, d) and bias (C,), with two rows for a binary head."""
        weight, bias = self.layer_rows(layer)
        return two_rows(weight, bias) if self.is_binary(layer) and len(weight) == 1 else (weight, bias)

    def refresh_heads_(self) -> None:
        """Update the heads' copies of their class weights after the layers have changed."""
        for task, head in self.heads.items():
            if head.groups is None:
                weight, bias = self.rows(head.layer)
                apart = self._adds(task) if task in self.found and self.found[task].beside else head.apart
                self.heads[task] = replaced(head, weight=weight, bias=bias, apart=apart)

    def fresh_rows(self, count: int, features: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a weight (count, d) and bias (count,), initialised as the framework's linear layers are.
        Default: as `torch.nn.Linear`, uniform within 1 / sqrt(d)."""
        with seeded(seed):
            layer = torch.nn.Linear(features, count)
        return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()

    def redraw_(self, seed: int) -> None:
        """Reinitialise all weights with the framework's initialisers, seeded with `seed`."""
        raise NetworkError(f"{type(self.module).__name__} has no weights that are drawn from seed={seed}. Use another strategy.")

    def reseed_(self, seed: int) -> None:  # noqa: B027  # nothing to do in most families
        """Seed the module's own random generators. PyTorch layers use the generators of the process, which training seeds."""

    # ── freezing ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers or parameters and the `held` ones: no gradients, BatchNorm statistics fixed, dropout off, always.
        A parameter that a frozen and a trainable layer share is frozen."""
        self.frozen = frozenset(layers) | self.held
        own, whole = self.layer_parameters(), set[str]()
        for layer in self.layers:
            names = own[layer.name]
            if layer.name in self.frozen or (names and self.frozen.issuperset(names)):
                whole.add(layer.name)
        still = [(layer in whole or name in self.frozen, one) for layer, named in own.items() for name, one in named.items()]
        for frozen, parameter in sorted(still, key=lambda pair: pair[0]):
            parameter.requires_grad_(not frozen)
        self.blocks = tuple(replaced(block, frozen=whole.issuperset(block.layers)) for block in self.blocks)

    def counted(self) -> tuple[str, ...]:
        """Return the layer names that users of this family count, including inputs, pooling and dropout."""
        return tuple(layer.name for layer in self.layers)

    @property
    def held(self) -> frozenset[str]:
        """Names of layers and parameters that training never changes: those that the owner froze, unless `hold_` replaced them.
        They never include a layer without weights. A family that cannot train holds all layers below its heads."""
        return self.given if self.planned is None else self.planned

    def hold_(self, layers: Collection[str] | None) -> None:
        """Hold exactly these layers or parameters instead of those that the owner froze; None restores the owner's."""
        self.planned = None if layers is None else frozenset(layers)

    def rename_(self, now: Mapping[str, str]) -> None:
        """Update the recorded names of layers and parameters; `now` maps the old name of each layer that is left to its new one."""
        self.given, self.untrained = _renamed(self.given, now), _renamed(self.untrained, now)
        self.planned = None if self.planned is None else _renamed(self.planned, now)

    def release_(self, task: str) -> None:
        """Stop holding the layers of a head and their parameters, whoever froze them, because their class weights are new."""
        new = set(self.layers_of(task))
        self.given = frozenset(name for name in self.given if new.isdisjoint(prefixes(name)))
        if self.planned is not None:
            self.planned = frozenset(name for name in self.planned if new.isdisjoint(prefixes(name)))

    @property
    def fresh(self) -> tuple[str, ...]:
        """Names of the layers below the heads that were built here and have not been trained, in execution order."""
        return tuple(layer.name for layer in self.layers if layer.name in self.untrained)

    # ── other processes and exporters ─────────────────────────────────────────────────────────────────────────────────────────

    def reduced(self, part: Any) -> Any:
        """Return the pickle reduction of a `part` of the module; NotImplemented for pickle's default."""
        return NotImplemented

    def ready_for_export_(self) -> None:
        """Prepare this private copy for exporters: on the CPU and in inference mode."""
        raise NetworkError(f"{type(self.module).__name__} cannot be exported; expected a network of PyTorch or Keras.")

    def name_for_export_(self) -> None:  # noqa: B027  # nothing to do in most families
        """Rename the modules of a private copy for an exporter. Call this last: lookups by the old names fail afterwards."""

    def for_onnx(self) -> AbstractContextManager[None]:
        """Make what ONNX has operators for single operators within the context: the modules of the copy do not compute then."""
        return nullcontext()


def _renamed(names: Collection[str], now: Mapping[str, str]) -> frozenset[str]:
    pairs = [(name, next((outer for outer in prefixes(name) if outer in now), None)) for name in names]
    return frozenset(now[layer] + name[len(layer) :] for name, layer in pairs if layer is not None)


B = TypeVar("B", bound=Body)


class Family(Generic[B]):
    """The operations of a framework on its `Body`; one stateless object per framework.
    `name` is the name that users see. `layout` is "channels_first" or "channels_last". `own_endings` lists the file endings that
    `export_own` writes, the framework's main format first."""

    name: ClassVar[str]
    layout: ClassVar[str] = "channels_first"
    own_endings: ClassVar[tuple[str, ...]] = ()
    edits: ClassVar[EditTable] = {}
    becomes: ClassVar[dict[str, Callable[[Any, str], Any]]] = {}
    """Converters to each family, by its name. `sources.opening`, which knows all families, registers them."""
    leading: ClassVar[dict[str, Callable[..., list[Module]]]] = {}
    """Functions (body, layers, watched=), by the name of the family that has one. They let faster modules compute these layers of a private
    copy of a body, except the watched ones, and return these modules. `sources.opening` registers them."""

    def _refuse(self, what: str) -> NoReturn:
        raise NetworkError(f"A network of the family {self.name!r} {what}")

    def edit(self, body: B, edit: Edit, *, head: Head | None, seed: int) -> B:
        """Return a changed copy of a `body`."""
        work = self.edits.get(type(edit))
        if work is None:
            self._refuse(f"cannot be changed by {edit!r}.")
        with seeded():
            return cast(B, work(body.copy(), edit, head=head, seed=seed))

    def unedit(self, body: B, edit: Edit, *, code: Tensor | None) -> tuple[B, tuple[str, ...]]:
        """Return a copy with the layers that `edit` added folded into the weights, and the names of layers that gained a bias.
        For `Codes`, `code` (size,) replaces the code of every example."""
        self._refuse(f"cannot undo {edit!r}.")

    def write(self, body: B, folder: Path, *, origin: Mapping[str, Any], edits: Sequence[Edit]) -> Mapping[str, Any]:
        """Write the weights of a `body` into `folder`; return the facts needed to open them, as plain data."""
        self._refuse(f"cannot be saved in {printable(folder)!r}; save its weights yourself.")

    def export_own(self, body: B, path: Path, *, weights_format: str | None = None) -> Path:
        """Write a file in the framework's own format, ending in one of `own_endings`; return its path.
        `weights_format`, of `.h5` files: "keras2" or "keras3"."""
        self._refuse(f"has no file of its own; received {path.name!r}.")

    def put_file_(self, body: B, path: Path) -> Account:
        """Load the weights of a file into a `body` of a similar architecture; return the account of the match."""
        self._refuse(f"takes no weights of a file; received {printable(path.name)!r}.")
