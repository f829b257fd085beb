"""Keras networks: functional, Sequential and subclassed Keras 3 models behind the contract."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from torch import Tensor
from torch.nn import Module, Parameter

from ..errors import NetworkError
from .account import Account, unused_outputs
from .contract import Head, Inputs, Network, Point, Scores
from .edits import Edit
from .fingerprints.values import Structure
from .keras_changes import changes, codes, folding
from .keras_changes.summed import with_joined_heads
from .keras_parts.clone import cloned
from .keras_parts.drawing import draw_, drawn, seeded
from .keras_parts.freezing import frozen_names, held_names, inference, renamed, set_gradients_, still_modules
from .keras_parts.heads import (
    FoundHead,
    channels_last,
    chosen_head,
    find_heads,
    given_heads,
    head_of,
    linear_activation,
    outputs_of,
    parts_hook,
    rows_of,
    scores_from,
)
from .keras_parts.keras2 import write_keras2
from .keras_parts.library import keras
from .keras_parts.points import points_of
from .keras_parts.record import Place, TrainingForm
from .keras_parts.recurrent import as_operators_
from .keras_parts.samples import called, sample_for, shapes_of
from .keras_parts.saving import as_given, layer_names, save
from .keras_parts.split import Split, split_graph
from .keras_parts.structure import (
    blocks_of_model,
    layer_structure,
    layers_of,
    named_module,
    named_modules,
    own_variables,
    tap_slices,
    variables_below,
)
from .parts.head import HeadChoice
from .parts.structure import prefixes
from .parts.taps import TapSlice
from .torch_parts.exporting import export_module
from .tracing import Trace, as_tensor, capture, pooled, trace

__all__ = ["KerasNetwork", "open_keras"]

_FILE, _LEGACY, _PROGRAM = "network.keras", ".h5", ".pt2"


def open_keras(
    model: Any,
    *,
    classes: Sequence[str] | None = None,
    inputs: Sequence[int] | None = None,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
    head: HeadChoice = None,
    heads: Sequence[Mapping[str, Any]] | None = None,
) -> KerasNetwork:
    """Open a live Keras 3 model.

    Args:
        model: functional, Sequential or subclassed; a model without weights as yet is built from `inputs`.
        classes: class names in row order.
        inputs: shape of one item without the batch axis, where the model does not know it.
        origin: what opening it again needs.
        take: use the model itself rather than a copy (for models made by regraft).
        head: the name of the layer to take as head where several outputs have one; the other outputs are left out. Or the layer of each
            task.
        heads: what a saved folder says of its heads ("task", "layer", "activation", "parts", …): exactly these are taken.

    Returns:
        The network; the model given is not modified unless `take`.

    Raises:
        NetworkError: if no sample runs through it, it has several heads and none is chosen, `head` or `heads` are not there, or
            `classes` do not fit its head.
    """
    if not isinstance(model, keras.Model):
        raise NetworkError(
            f"Received {type(model).__module__}.{type(model).__name__}; expected a keras.Model (functional, Sequential or a subclass)."
        )
    own = model if take else cloned(model)
    sample = sample_for(own, inputs)
    facts = origin or {"source": "model", "class": f"{type(model).__module__}.{type(model).__qualname__}"}
    network = KerasNetwork(own, sample, origin=facts, head=head, heads=heads)
    if isinstance(head, str) and heads is None:
        network = changes.with_one_output(network)
    elif head is None and heads is None:
        network = with_joined_heads(network)
    if classes is not None:
        network.name_classes_(classes)
    return network


class KerasNetwork(Network):
    """A Keras model with what one run of a sample told about it. In its training form it knows what it settles to, in `form`.

    Args:
        module: a built model; it becomes the network's own.
        sample: a batch that it takes.
        origin: where it came from.
        head: the layer to take as head where several outputs have one, or those of several tasks.
        heads: what a saved folder says of its heads; None to find one.
    """

    family: ClassVar[str] = "keras"
    layout: ClassVar[str] = "channels_last"
    own_endings: ClassVar[tuple[str, ...]] = (".keras", _LEGACY, _PROGRAM)
    form: TrainingForm | None = None
    _given: frozenset[str]
    _planned: frozenset[str] | None

    def __init__(
        self,
        module: Any,
        sample: Inputs,
        *,
        origin: Mapping[str, Any],
        head: HeadChoice = None,
        heads: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.origin = dict(origin)
        self.account = Account()
        self._take_(module, sample)
        seen = self._inspect_()
        self.found: dict[str, FoundHead] = {}
        if heads is not None:
            given = given_heads(heads, self._by_name, seen=seen, run=self.sample_run)
            self.found = {task: found for task, (found, _) in given.items()}
            self.heads = {task: known for task, (_, known) in given.items()}
        else:
            candidates = find_heads(self._by_name, self.layers, seen=seen, run=self.sample_run)
            wanted = head if isinstance(head, Mapping) else {"main": head}
            chosen = {task: chosen_head(candidates, layer) for task, layer in wanted.items()}
            self.account = Account(notes=unused_outputs(head, [other for other in candidates if other not in wanted.values()]))
            self.found = {task: found for task, found in chosen.items() if found}
            self.heads = {task: head_of(one, self._by_name[one.layer], task=task) for task, one in self.found.items()}
            self.note_apart_()
        self.freeze_(())

    def _take_(self, module: Any, sample: Inputs) -> None:
        """Become the network of another module; what is known of its layers and heads is still to be found."""
        self.module = module
        self.origin = {key: value for key, value in self.origin.items() if key not in {"inputs", "named_inputs"}} | shapes_of(module)
        self.sample = sample
        self.input_shape = () if isinstance(sample, dict) else tuple(self.origin.get("inputs") or sample.shape[1:])
        self.training = False
        self._frozen: frozenset[str] = frozenset()
        self._hooks: list[Any] = []
        self._by_name = named_modules(module)
        self.given_trainable = {name: layer._trainable for name, layer in self.named_with_root()}
        self._given, self._planned = held_names(self._by_name, self.given_trainable), None
        module.trainable = True

    def named_with_root(self) -> list[tuple[str, Any]]:
        """Return the model itself, called "", and every layer by name."""
        return [("", self.module), *self._by_name.items()]

    def sample_run(self) -> Any:
        """Return what the model makes of the sample, in inference mode; the same each time, also where it draws at random."""
        with seeded(0):
            return called(self.module, self.sample, training=False)

    def _inspect_(self) -> Trace:
        """Take over the layers and blocks that one run of the sample shows, and return its trace."""
        seen = trace(self._by_name, self.sample_run)
        self.layers = layers_of(self._by_name, seen.order)
        self.blocks = blocks_of_model(self.module, self._by_name, layers=self.layers)
        return seen

    def modules(self) -> dict[str, Module]:
        """Return every layer by name, containers and the parts of wrappers too."""
        return dict(self._by_name)

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage."""
        return self._twin(cloned(self.module))

    def _twin(self, module: Any) -> Self:
        """Return a network like this one around a copy of its module that has the same layers."""
        twin = copy.copy(self)
        twin.module = module
        twin._by_name = named_modules(module)
        twin.heads, twin.origin, twin._hooks = dict(self.heads), dict(self.origin), []
        twin.freeze_(self._frozen)
        return twin

    def reinitialised(self, seed: int) -> Self:
        """Return a copy whose layers drew their weights anew with their own initialisers.

        What a Normalization layer learnt about the raw data stays, and so does a fixed seed in an initialiser.

        Raises:
            NetworkError: if a layer of the user's own cannot be made again from its config.
        """
        twin = self.copy()
        with seeded(seed):
            for layer in twin.layers:
                draw_(layer.name, twin._by_name)
        twin.keep_held_(self)
        twin.refresh_heads_()
        twin.reseed_(seed)
        return twin

    @contextmanager
    def _watched(self, found: FoundHead) -> Iterator[dict[str, Tensor]]:
        layer = self._by_name[found.layer]
        with linear_activation(layer), capture(layer) as seen:
            yield seen

    @property
    def first(self) -> FoundHead:
        """What is known of the first head's layer."""
        return next(iter(self.found.values()))

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) by task, in the present mode."""
        return self.scores_of(lambda: called(self.module, inputs, training=self.training))

    def scores_of(self, run: Callable[[], Any]) -> Scores:
        """Return raw scores (N, C) by task of a run that calls the heads.

        Args:
            run: runs the model, or the part of it from the frontier on, and returns its result.
        """
        return self.with_derived(self.own_scores(run))

    def own_scores(self, run: Callable[[], Any]) -> Scores:
        """Return the scores by task that a `run` makes in the heads with rows of their own."""
        if not self.found:
            return {"main": cast(Tensor, as_tensor(run()))}
        with ExitStack() as stack:
            seen = {task: stack.enter_context(self._watched(found)) for task, found in self.found.items() if not found.whole}
            result = outputs_of(run())
        return {
            task: result[found.output] if found.whole else pooled(seen[task]["output"], channels_last(self._by_name[found.layer]))
            for task, found in self.found.items()
        }

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the heads read, (N, d), averaged over positions; without a head, the pooled output."""
        if not self.found:
            return pooled(cast(Tensor, as_tensor(called(self.module, inputs, training=self.training))), channels_last=True)
        with self._watched(self.first) as seen:
            called(self.module, inputs, training=self.training)
        return pooled(seen["input"], channels_last(self._by_name[self.first.layer]))

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        """Return the raw scores (N, C) that a head's `layer` makes of `features` (N, d), or of what the first head's layer reads."""
        first = self.first.layer
        return scores_from(self._by_name[layer], features if layer == first else pooled(features, channels_last(self._by_name[first])))

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers or single variables, and those that are held; all else becomes trainable.

        A container stands for its layers.

        Raises:
            NetworkError: if a name is neither a layer, a container nor a variable.
        """
        names = [layer.name for layer in self.layers]
        self._frozen = frozen_names(layers, names, modules=self._by_name, variables=self.variables()) | self.held
        whole = set_gradients_(names, self._by_name, frozen=self._frozen)
        self._hook_()
        self.blocks = tuple(replace(block, frozen=whole.issuperset(block.layers)) for block in self.blocks)

    def counted(self) -> tuple[str, ...]:
        """Return the names of the layers in `model.layers`."""
        names = {id(layer): name for name, layer in self._by_name.items()}
        return tuple(names.get(id(layer), layer.name) for layer in self.module.layers)

    @property
    def held(self) -> frozenset[str]:
        """The layers and single variables that no training changes."""
        return self._given if self._planned is None else self._planned

    def hold_(self, layers: Collection[str] | None) -> None:
        """Hold exactly these layers or single variables; None: those that the owner has frozen."""
        self._planned = None if layers is None else frozenset(layers)

    def release_(self, layer: str) -> None:
        """Hold a layer, with its variables, no longer."""
        self._given = frozenset(name for name in self._given if layer not in prefixes(name))
        if self._planned is not None:
            self._planned = frozenset(name for name in self._planned if layer not in prefixes(name))

    def _hook_(self) -> None:
        """Let frozen layers run as in inference, and heads with parts multiply these apart."""
        for hook in self._hooks:
            hook.remove()
        parted = [(self.heads[task].parts, self._by_name[found.layer]) for task, found in self.found.items() if self.heads[task].parts]
        self._hooks = [
            module.register_forward_pre_hook(inference, with_kwargs=True)
            for module in still_modules(self._by_name, self._frozen)
            if module.weights or not self.draws  # else what draws in inference would not do so while it is trained
        ]
        self._hooks += [layer.register_forward_hook(parts_hook(parts), with_kwargs=True) for parts, layer in parted]

    def variables(self) -> dict[str, Any]:
        """Return every variable by its name in `state()`."""
        return {key: variable for name, layer in self.named_with_root() for key, variable in own_variables(name, layer).items()}

    def state(self) -> dict[str, Tensor]:
        """Return all variables by name (seeds and moving statistics too), sharing storage with the network."""
        return {name: variable.value.detach() for name, variable in self.variables().items()}

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return each layer's own trainable parameters: no moving statistics, no seeds."""
        return {
            layer.name: {name: variable.value for name, variable in variables_below(layer.name, self._by_name, trainable_only=True).items()}
            for layer in self.layers
        }

    def reseed_(self, seed: int) -> None:
        """Set the state of every seed generator: `seed` plus its index.

        On its torch backend Keras uses it only in dropout layers made with `seed=`; the others draw from torch's own generator.
        """
        generators = [generator for _, layer in self.named_with_root() for generator in layer._seed_generators]
        for index, generator in enumerate(generators):
            generator.state.assign([(seed + index) % 2**31, 0])

    def changed_by(self, edit: Edit, *, head: Head | None, seed: int) -> Self:
        """Return a copy that is changed by an `edit`, a `head` being the class weights of one of a head."""
        return changes.changed_by(self, edit, head=head, seed=seed)

    def unedited(self, edit: Edit, *, code: Tensor | None = None) -> tuple[Self, tuple[str, ...]]:
        """Return a copy with what an `edit` added folded into the weights, one `code` for all items; and layers that got a bias."""
        return folding.settled(self) if code is None else codes.folded(self, code)

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        """Which features come from which tap; the graph tells it."""
        return tap_slices(self.module, self._by_name[self.first.layer] if self.found else None)

    def points(self) -> tuple[Point, ...]:
        """Return where the network can be shifted or scaled by channel, in the order of execution."""
        return points_of(self)

    def code_table(self) -> Parameter:
        """Return the network's own table of codes, (1 + K, size)."""
        return codes.code_table(self)

    def put_codes_(self, table: np.ndarray) -> None:
        """Give the network another `table` of codes, (1 + K, size)."""
        codes.put_codes_(self, table)

    def recount_(self, changed: Collection[str]) -> None:
        """Take over the number of parameters of layers that have been changed in the module."""
        sizes = {layer.name: layer.parameters for layer in self.layers}
        for name in changed:
            own = variables_below(name, self._by_name, trainable_only=True)
            sizes[name] = sum(variable.value.numel() for variable in own.values())
        self.layers = tuple(replace(layer, parameters=sizes[layer.name]) for layer in self.layers)
        self.blocks = tuple(replace(block, parameters=sum(sizes[part] for part in block.layers)) for block in self.blocks)
        self._freeze_again_(self._frozen)

    def _freeze_again_(self, names: Collection[str]) -> None:
        """Freeze those of these layers and variables that are there."""
        here = self._by_name.keys() | self.variables().keys()
        self.freeze_([name for name in names if name in here])

    def rebuilt(self, module: Any, old: Mapping[str, Any], *, heads: Sequence[Place], sample: Inputs | None = None) -> Self:
        """Return a network like this one around another module.

        Args:
            module: built out of the layers of a copy.
            old: those layers by the names that they have here.
            heads: the heads that it has.
            sample: a batch that it takes, where that is another one.
        """
        twin = copy.copy(self)
        twin._take_(module, self.sample if sample is None else sample)
        names = {id(layer): name for name, layer in twin._by_name.items()}
        now = {name: names[id(layer)] for name, layer in old.items() if id(layer) in names}
        twin.given_trainable |= {"": self.given_trainable[""]} | {new: self.given_trainable[name] for name, new in now.items()}
        twin.fresh_(renamed(frozenset(self.fresh), now))
        twin._given, twin._planned = renamed(self._given, now), None if self._planned is None else renamed(self._planned, now)
        twin.found = {head.task: replace(found, layer=names[id(layer)]) for head, found, layer in heads if found is not None}
        twin.heads = {head.task: replace(head, layer=names.get(id(layer), "")) for head, _, layer in heads}
        twin._inspect_()
        twin._freeze_again_([now.get(name, name) for name in self._frozen if name in now or name not in self._by_name])
        return twin

    def copied(self) -> tuple[Any, dict[str, Any], list[Place]]:
        """Return a copy of the module, its layers by name, and the heads with their layers there."""
        module = cloned(self.module)
        layers = named_modules(module)
        return module, layers, [(head, self.found.get(task), layers.get(head.layer)) for task, head in self.heads.items()]

    def split(self, frozen_layers: Collection[str]) -> Split | None:
        """Cut a functional or Sequential model at the border of its frozen layers.

        Args:
            frozen_layers: names of layers that depend on no layer outside them.

        Returns:
            Two functions that share the network's layers: from inputs to the live tensors (no gradients, inference), and from
            these to raw scores in the present mode. None where the model is not made of such layers or carries masks.
        """
        return split_graph(self, frozen_layers)

    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        """Return what the layers, and those around and in them, compute: configs, attributes and code, and the graph of the whole."""
        return layer_structure(self.module, self._by_name, layers, beside=self.tap_slices, ignored=ignored)

    def layer_rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a linear layer's weight (C, d) and bias (C,)."""
        return rows_of(self._by_name[layer])

    def fresh_rows(self, count: int, features: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows with the initialisers of the present head; without one, with those of a Dense layer."""
        like = self._by_name[self.first.layer] if self.found else keras.layers.Dense(1)
        kernel, bias = (
            drawn(one, shape, seed=seed) for one, shape in ((like.kernel_initializer, (features, count)), (like.bias_initializer, (count,)))
        )
        return np.ascontiguousarray(kernel.T), bias

    def set_layer_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Put rows (C, d) and bias (C,) into a linear layer; False where it has no bias."""
        target = self._by_name[layer]
        if not target.use_bias:
            return False
        target.kernel.assign(np.asarray(weight, np.float32).T.reshape(target.kernel.shape))
        target.bias.assign(np.asarray(bias, np.float32))
        return True

    def write(self, folder: Path) -> Mapping[str, Any]:
        """Write `network.keras`, which plain Keras opens on any backend.

        Raises:
            NetworkError: if Keras cannot serialise the model.
        """
        save(self, self.module, target=Path(folder) / _FILE)
        edits = [edit.to_dict() for edit in self.edits]
        facts = {"family": "keras", "file": _FILE, "inputs": list(self.input_shape) or None}
        return {**facts, "edits": edits, "layers": layer_names(self.module)}

    def export_own(self, path: Path) -> Path:
        """Write a `.keras` file with the activation as it was and the layers' own `trainable` flags; derived heads are further outputs.

        A model without a graph is written without its derived heads. An `.h5` file is in the form of Keras 2. A `.pt2` file is an
        exported program of PyTorch, which needs no Keras.

        Raises:
            NetworkError: if Keras cannot serialise the model, Keras 2 has no words for it, or a program would have several inputs.
        """
        with as_given(self):
            whole = changes.with_groups(self)
            if path.suffix.lower() == _PROGRAM:
                if isinstance(self.sample, dict):
                    named, folded = ", ".join(map(repr, self.sample)), ", or condition=, which folds its code in" if self.coding else ""
                    raise NetworkError(
                        f"A Keras network of {len(self.sample)} inputs ({named}) cannot be written as a {_PROGRAM} file, which takes one. "
                        f"Expected a path that ends in '.keras', '.h5' or '.onnx'{folded}."
                    )
                export_module(whole, self.sample, path=path)
                return path
            if path.suffix.lower() == _LEGACY:
                write_keras2(whole, self.sample, kinds=[head.kind for head in self.heads.values()] or ["regression"], target=path)
                return path
        save(self, whole, target=path)
        return path

    def reduced(self, part: Any) -> Any:
        """Return how pickle makes a `part` again: the layers out of the model, which pickle makes as a whole."""
        name = next((name for name, layer in self._by_name.items() if layer is part), None)
        return NotImplemented if name is None else (named_module, (self.module, name))

    def for_export(self) -> Self:
        """Return a private copy in inference mode whose recurrent layers are single operators."""
        twin = self.copy()
        twin.mode_(False)
        as_operators_(twin.modules().values())
        return twin
