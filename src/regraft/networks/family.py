"""What a framework gives: a raw module as a `Body`, and the edits and files of its `Family`. Neither of them knows a `Network`.

A family is a folder with these two: a `Body` that runs, freezes and lists its module, and a `Family`, which has no state of its own. What
a family cannot do it leaves as it is here, where it is refused in words.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
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
from .edits import Biased, Channels, Codes, Columns, Cut, Edit, InputLayer, LowRank, Rows, ScaleShift, Stack, Taps
from .fingerprints.values import Structure
from .parts.coding import Coding
from .parts.head import FoundHead, Head, two_rows
from .parts.layers import Block, Layer
from .parts.protocols import Inputs, Scores, on_device
from .parts.structure import prefixes
from .parts.taps import TapSlice
from .predictions import grouped_scores
from .tracing import capture

__all__ = ["B", "Body", "Family", "Places", "edit_table"]

Places = Mapping[str, tuple[Head, FoundHead | None]]
"""Heads by task, each with where it is found; nowhere for a derived one."""


@dataclass(eq=False)
class Body(abc.ABC):
    """A raw module with what one run of a sample told about it: all of a network that an edit changes.

    Attributes:
        module: the framework's own object.
        input_shape: that of one example; () where there are several inputs.
        blocks: the units in which depth is counted.
        found: where each head that has rows of its own was found, by task.
        coding: how it takes the codes of conditions; None where it takes none.
        account: what the edit that made it did to weights.
        frozen: the names of layers and single parameters that are frozen.
        training: whether the part that is not frozen is in training.
        draws: whether two passes over the same examples differ, in inference too.
        given: the names of the layers and single parameters that the owner of the module has frozen.
        planned: those that are held in their place; None for the owner's.
        untrained: layers that were built here and that nothing has trained yet, where the family notes them here.
    """

    module: Any
    sample: Inputs
    input_shape: tuple[int | None, ...] = ()
    layers: tuple[Layer, ...] = ()
    blocks: tuple[Block, ...] = ()
    heads: dict[str, Head] = field(default_factory=dict)
    found: dict[str, FoundHead] = field(default_factory=dict)
    coding: Coding | None = None
    account: Account = field(default_factory=Account)
    frozen: frozenset[str] = frozenset()
    training: bool = False
    draws: bool = False
    given: frozenset[str] = frozenset()
    planned: frozenset[str] | None = None
    untrained: frozenset[str] = frozenset()

    @property
    def head(self) -> Head:
        """The first head."""
        if not self.heads:
            raise NetworkError("Received a network without a head; expected one. Give it a head with regraft.retarget.")
        return next(iter(self.heads.values()))

    @property
    def head_layers(self) -> tuple[str, ...]:
        """The names of the linear layers of all heads that have rows of their own."""
        return tuple(layer for task, head in self.heads.items() if head.groups is None for layer in self.layers_of(task))

    def layers_of(self, task: str) -> tuple[str, ...]:
        """Return the names of the linear layers that make the logits of a `task`, `head.layer` first: several where they are added up."""
        return self.found[task].layers if task in self.found else (self.heads[task].layer,)

    def placed(self) -> Places:
        """Return the heads with where they are found."""
        return {task: (head, self.found.get(task)) for task, head in self.heads.items()}

    # ── running ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

    @abc.abstractmethod
    def modules(self) -> dict[str, Module]:
        """Return every module by name, containers too; a part of a container is called "container.part"."""

    def own_scores(self, inputs: Inputs) -> Scores:
        """Return the raw scores of the heads with rows of their own, a column a row of the layer, by task; "main" where there is none."""
        features = self.feature_batch(inputs)
        made = {task: self.scores_of_layer(head.layer, features) for task, head in self.heads.items() if not head.groups}
        return made or {"main": features}

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) of a batch of inputs by task, with gradients where they are on, in the present mode."""
        return self.with_derived(self.own_scores(inputs))

    def with_derived(self, scores: Scores) -> Scores:
        """Return the scores of the heads with rows of their own, and beside them those of the derived heads, in the order of `heads`."""
        for task, head in self.heads.items():
            if head.binary and scores[task].shape[1] == 1:
                scores = {**scores, task: torch.cat([torch.zeros_like(scores[task]), scores[task]], 1)}
        derived = {task: grouped_scores(scores[self.head.task], head.groups) for task, head in self.heads.items() if head.groups}
        return {task: (scores | derived)[task] for task in self.heads} if derived else scores

    @abc.abstractmethod
    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the first head reads of a batch of inputs, (N, d); without a head, the pooled output."""

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        """Return the raw scores (N, C) that a head's `layer` makes of `features` (N, d), or of what the first head's layer reads."""
        return cast(Tensor, self.modules()[layer](features))

    def split(self, layers: Collection[str]) -> tuple[Callable[[Inputs], list[Tensor]], Callable[[Sequence[Tensor]], Scores]] | None:
        """Return the family's own cut behind these layers (frozen part, trainable part); None where it is to be found by running."""
        return None

    def mode_(self, training: bool) -> None:
        """Switch the part that is not frozen to training or to inference."""
        self.training = training

    def move_(self, device: torch.device) -> None:
        """Move the weights to a device, and the sample that the module is run with."""
        for module in [self.module] if isinstance(self.module, Module) else self.modules().values():
            module.to(device)
        self.sample = on_device(self.sample, device)

    @property
    def memory_order(self) -> torch.memory_format:
        """The order in memory in which pictures are given to the network, where that is open."""
        return torch.contiguous_format

    def training_order(self, device: torch.device) -> torch.memory_format:
        """Return the same where gradients are computed on `device`."""
        return self.memory_order

    def sites(self) -> Mapping[str, Any]:
        """Return what stands where values can be scaled and shifted by channel, by name, in the order of execution; none behind a head."""
        return {}

    def chosen_sites(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the sites with these `names`, or all, in the order of execution; an error lists names near one that is missing."""
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
        """Which features come from which tap, in order; empty where the features are not those of taps."""
        return ()

    def code_table(self) -> Parameter:
        """Return the module's own table of codes, (1 + K, size); row 0 is the mean code."""
        raise NetworkError(f"{type(self.module).__name__} takes no codes; expected a network trained with strategy='codes'.")

    def put_codes_(self, table: np.ndarray) -> None:
        """Put another `table` of codes, (1 + K, size), in the place of the one that is there."""
        with torch.no_grad():
            self.code_table().copy_(torch.from_numpy(table))

    def note_apart_(self) -> None:
        """Take note of the heads that read other features than the first one, as one run of the sample shows."""
        if len(self.found) < 2:
            return
        modules = self.modules()
        self.mode_(False)
        with ExitStack() as stack, torch.no_grad():
            seen = {task: stack.enter_context(capture(modules[self.layers_of(task)[0]])) for task in self.found}
            self.scores(self.sample)
        first = seen[self.head.task]["input"]
        apart = {task: one["input"].shape != first.shape or not torch.equal(one["input"], first) for task, one in seen.items()}
        self.heads = {task: replaced(head, apart=apart.get(task, False)) for task, head in self.heads.items()}

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

    def former_name(self, name: str) -> str:
        """Return what folders of format 1 call the parameter or buffer of this `name`."""
        return name

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return each layer's own parameters: layer name -> name in `state()` -> parameter."""
        known: Mapping[str, Any] = {layer.name: self.modules().get(layer.name) for layer in self.layers}
        return {layer: {f"{layer}.{name}": one for name, one in part.named_parameters()} if part else {} for layer, part in known.items()}

    def recount_(self, changed: Collection[str]) -> None:
        """Count the parameters of those layers anew that an edit has `changed`, and those of their blocks."""
        own = self.layer_parameters()
        sizes = {layer.name: layer.parameters for layer in self.layers}
        sizes |= {name: sum(one.numel() for one in own[name].values()) for name in changed}
        self.layers = tuple(replaced(layer, parameters=sizes[layer.name]) for layer in self.layers)
        self.blocks = tuple(replaced(block, parameters=sum(sizes[part] for part in block.layers)) for block in self.blocks)

    @abc.abstractmethod
    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        """Return what changes whenever the computation of these layers changes, their weights left aside."""

    def layer_rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of the weight (C, d) and the bias (C,) that a linear `layer` has."""
        own = self.modules()[layer].state_dict()
        return own["weight"].cpu().numpy().copy(), own["bias"].cpu().numpy().copy()

    def set_layer_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Put rows, weight (C, d) and bias (C,), into a linear `layer` of that size; return False where it has no place for them."""
        rows = {"weight": torch.tensor(weight, dtype=torch.float32), "bias": torch.tensor(bias, dtype=torch.float32)}
        self.modules()[layer].load_state_dict(rows)
        return True

    def is_binary(self, layer: str) -> bool:
        """Tell whether a `layer` is that of a binary head, which has one row for two classes."""
        return any(head.binary and head.layer == layer for head in self.heads.values())

    def rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a linear layer's weight (C, d) and bias (C,); those of a binary head are as `Head` has them."""
        weight, bias = self.layer_rows(layer)
        return two_rows(weight, bias) if self.is_binary(layer) and len(weight) == 1 else (weight, bias)

    def refresh_heads_(self) -> None:
        """Take the heads' copies of their rows anew, after the weights have changed."""
        for task, head in self.heads.items():
            if head.groups is None:
                weight, bias = self.rows(head.layer)
                self.heads[task] = replaced(head, weight=weight, bias=bias)

    def fresh_rows(self, count: int, features: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows as the framework initialises its linear layers; here as `torch.nn.Linear` does, uniform within 1 / sqrt(d).

        Result: Weight (count, d) and bias (count,).
        """
        with seeded(seed):
            layer = torch.nn.Linear(features, count)
        return layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()

    def redraw_(self, seed: int) -> None:
        """Draw all weights anew, as the framework draws them after `seed`."""
        raise NetworkError(f"{type(self.module).__name__} has no weights that are drawn from seed={seed}. Use another strategy.")

    def reseed_(self, seed: int) -> None:  # noqa: B027  # nothing to do in most families
        """Set the module's own random generators to `seed`; layers of PyTorch draw from those of the process, which training seeds."""

    # ── freezing ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

    @abc.abstractmethod
    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers and those that are `held`: no gradients, BatchNorm statistics unmoved, dropout off, in every mode."""

    def counted(self) -> tuple[str, ...]:
        """Return the names of the layers as people count them in this family, inputs, pools and dropout included."""
        return tuple(layer.name for layer in self.layers)

    @property
    def held(self) -> frozenset[str]:
        """Layers, and single parameters, that no training changes: those that the owner has frozen, unless `hold_` says otherwise.

        A layer without weights is never among them. A family that does not train holds all layers below its heads.
        """
        return self.given if self.planned is None else self.planned

    def hold_(self, layers: Collection[str] | None) -> None:
        """Hold exactly these layers or parameters in place of those that the owner has frozen; None: the owner's again."""
        self.planned = None if layers is None else frozenset(layers)

    def release_(self, layer: str) -> None:
        """Hold a layer, with its parameters, no longer, whoever froze it: it is new."""
        self.given = frozenset(name for name in self.given if layer not in prefixes(name))
        if self.planned is not None:
            self.planned = frozenset(name for name in self.planned if layer not in prefixes(name))

    @property
    def fresh(self) -> tuple[str, ...]:
        """The layers below the heads that were built here and that nothing has trained yet, in the order of execution."""
        return tuple(layer.name for layer in self.layers if layer.name in self.untrained)

    def fresh_(self, layers: Collection[str]) -> None:
        """Take note that exactly these `layers` were never trained."""
        self.untrained = frozenset(layers)

    # ── other processes and exporters ─────────────────────────────────────────────────────────────────────────────────────────

    def reduced(self, part: Any) -> Any:
        """Return how pickle makes a `part` of the module again in another process; NotImplemented for pickle's own way."""
        return NotImplemented

    def ready_for_export_(self) -> None:
        """Make a private copy one on the CPU, in inference mode, that exporters can read."""
        raise NetworkError(f"{type(self.module).__name__} cannot be exported; expected a network of PyTorch or Keras.")

    def name_for_export_(self) -> None:  # noqa: B027  # nothing to do in most families
        """Let the modules of a private copy have the names that an exporter follows; once all that goes by its names is done."""


B = TypeVar("B", bound=Body)


def edit_table(
    *,
    rows: Callable[..., Any],
    stack: Callable[..., Any],
    cut: Callable[..., Any],
    taps: Callable[..., Any],
    channels: Callable[..., Any],
    columns: Callable[..., Any],
    others: Any,
) -> Mapping[type[Edit], Callable[..., Any]]:
    """Return what carries out each kind of edit from a private copy of a body, edit, head and seed.

    `others` holds, by these names, what carries out the edits that add something inside or before the network.
    """
    return {
        Rows: lambda twin, _edit, head, _seed: rows(twin, head),
        Stack: lambda twin, edit, head, _seed: stack(twin, edit, head=head),
        Cut: lambda twin, edit, _head, _seed: cut(twin, edit.block),
        Taps: lambda twin, edit, _head, _seed: taps(twin, edit.points),
        Channels: lambda twin, edit, _head, _seed: channels(twin, edit.count),
        Columns: lambda twin, edit, _head, _seed: columns(twin, edit.count),
        Codes: lambda twin, edit, _head, seed: others.coded(twin, edit.coding, seed=seed),
        InputLayer: lambda twin, _edit, _head, _seed: others.with_entrance(twin),
        ScaleShift: lambda twin, edit, _head, _seed: others.adjusted(twin, edit),
        LowRank: lambda twin, edit, _head, seed: others.low_rank(twin, edit, seed=seed),
        Biased: lambda twin, edit, _head, _seed: others.biased(twin, edit.layers),
    }


class Family(Generic[B]):
    """What a framework can do with a `Body` of its own; one object for each framework, without state.

    `name` is what users call it, `layout` where the channels of a picture stand, "channels_first" or "channels_last", and `own_endings`
    are the endings of the files that `export_own` writes, the framework's own first.
    """

    name: ClassVar[str]
    layout: ClassVar[str] = "channels_first"
    own_endings: ClassVar[tuple[str, ...]] = ()
    edits: ClassVar[Mapping[type[Edit], Callable[..., Any]]] = {}
    """What carries out each kind of edit that the family knows, from a private copy of the body, edit, head and seed."""
    becomes: ClassVar[dict[str, Callable[[Any, str], Any]]] = {}
    """How a network becomes one of a family, by its name; the opening of networks, which knows all of them, fills it in."""

    def _refuse(self, what: str) -> NoReturn:
        raise NetworkError(f"A network of the family {self.name!r} {what}")

    def edit(self, body: B, edit: Edit, *, head: Head | None, seed: int) -> B:
        """Return a changed copy of a `body`."""
        work = self.edits.get(type(edit))
        if work is None:
            self._refuse(f"cannot be changed by {edit!r}.")
        with seeded():
            return cast(B, work(body.copy(), edit, head, seed))

    def unedit(self, body: B, edit: Edit, *, code: Tensor | None) -> tuple[B, tuple[str, ...]]:
        """Return a copy in which what an edit has added is folded into the weights, and the names of layers that got a bias for it.

        `code`: (size,), which is to stand for that of every example, of a `Codes`.
        """
        self._refuse(f"cannot undo {edit!r}.")

    def write(self, body: B, folder: Path, *, origin: Mapping[str, Any], edits: Sequence[Edit]) -> Mapping[str, Any]:
        """Write the weights of a `body` into `folder`, and return what opening them needs, as plain data."""
        self._refuse(f"cannot be saved in {printable(folder)!r}; save its weights yourself.")

    def export_own(self, body: B, path: Path) -> Path:
        """Write a file that the framework itself opens, and return its path, which ends in one of `own_endings`."""
        self._refuse(f"has no file of its own; received {path.name!r}.")

    def put_file_(self, body: B, path: Path) -> Account:
        """Put the weights of a file into a `body` of a similar architecture; return the account of the match."""
        self._refuse(f"takes no weights of a file; received {printable(path.name)!r}.")
