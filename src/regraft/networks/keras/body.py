"""Body of a Keras network: the model and what one run of a sample shows about it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

import numpy as np
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError, near_names
from ..account import Account, unused_outputs
from ..family import Body, Places
from ..fingerprints.values import Structure
from ..parts.head import HeadChoice, HeadLocation
from ..parts.protocols import Inputs, Scores
from ..parts.structure import below, prefixes
from ..parts.taps import TapSlice
from ..tracing import CallRecord, Trace, as_tensor, capture, in_columns, pooled, read_by, replaced, trace
from .clone import cloned
from .heads import (
    channels_last,
    chosen_head,
    find_heads,
    found_beside,
    given_heads,
    kernel_of,
    linear_activation,
    outputs_of,
    parts_hook,
    rows_of,
    scores_from,
)
from .library import keras
from .running import Split, as_operators, called, cut_graph, drawn, held_names, hook_strided_, inference, seeded, shapes_of
from .sizes import reset_, retrack_
from .structure import (
    CODES,
    Site,
    blocks_of_model,
    is_leaf,
    layer_structure,
    layers_of,
    named_module,
    named_modules,
    own_variables,
    sites_of,
    tap_slices,
    variables_below,
)


@dataclass(eq=False)
class KerasBody(Body):
    """A Keras model with its heads.
    `given_trainable`: the original `trainable` flag of each layer and of the model itself ("").
    `adjusting`: hook point -> name of the layer that scales and shifts there, in the training form."""

    by_name: dict[str, Any] = field(default_factory=dict)  # every layer by name, including containers and the layers inside wrappers
    given_trainable: dict[str, bool] = field(default_factory=dict)
    plain: KerasBody | None = None  # a private copy of the unchanged network, if this one is in its training form; its weights are stale
    end_read: bool = False  # whether the end of the graph became a linear layer
    unread: KerasBody | None = None  # the network before that, which shares all other layers; None in copies
    adjusting: Mapping[str, str] = field(default_factory=dict)
    hooks: list[Any] = field(default_factory=list)  # handles of the hooks for frozen layers, parted heads and strided convolutions

    def take_(self, module: Any, sample: Inputs) -> None:
        """Become the body of another module. The caller must find its layers and heads afterwards."""
        self.module, self.sample = module, sample
        stated = shapes_of(module)
        self.input_shape = () if isinstance(sample, dict) else tuple(stated.get("inputs") or sample.shape[1:])
        self.input_shapes = stated.get("named_inputs", {})
        self.training = False
        self.frozen = frozenset()
        self.hooks = []
        self.by_name = named_modules(module)
        self.given_trainable = {name: layer._trainable for name, layer in self.named_with_root()}
        self.given, self.planned = held_names(self.by_name, self.given_trainable), None
        module.trainable = True

    def named_with_root(self) -> list[tuple[str, Any]]:
        """Return every layer by name, with the model itself as ""."""
        return [("", self.module), *self.by_name.items()]

    def sample_run(self) -> Any:
        """Return the model's result for the sample in inference mode. A fixed seed makes random models repeatable."""
        with seeded(0):
            return called(self.module, self.sample, training=False)

    def inspect_(self) -> Trace:
        """Find the layers and blocks by one run of the sample and return the trace."""
        seen = trace(self.by_name, self.sample_run)
        self.layers = layers_of(self.by_name, seen.order)
        self.blocks = blocks_of_model(self.module, self.by_name, layers=self.layers)
        return seen

    def modules(self) -> dict[str, Module]:
        return dict(self.by_name)

    def copied_module(self) -> Any:
        return cloned(self.module)

    def copy(self) -> Self:
        twin = super().copy()
        twin.by_name, twin.hooks, twin.unread = named_modules(twin.module), [], None
        twin.freeze_(self.frozen)
        return twin

    def __copy__(self) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "by_name": {}, "hooks": [], "unread": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the layers of the unpickled model, which Keras builds anew."""
        self.__dict__.update(state)
        self.by_name = named_modules(self.module)
        self.freeze_(self.frozen)

    def redraw_(self, seed: int) -> None:
        """Give all layers the weights of freshly built twins. Statistics of Normalization layers and fixed initialiser seeds stay."""
        with seeded(seed):
            for name in [layer.name for layer in self.layers]:
                layer, mine = self.by_name[name], variables_below(name, self.by_name)
                if not mine or isinstance(layer, keras.layers.Normalization):
                    continue
                try:
                    fresh = type(layer).from_config(layer.get_config())
                    fresh.build_from_config(layer.get_build_config())
                except Exception as error:
                    raise NetworkError(
                        f"The layer '{name}' ({type(layer).__name__}) cannot be drawn anew: {error}. Give it get_config() and "
                        "get_build_config(), or pass a freshly built model in place of strategy='scratch'."
                    ) from error
                theirs = variables_below("fresh", {"fresh": fresh, **{f"fresh.{key}": part for key, part in named_modules(fresh).items()}})
                for variable, value in zip(mine.values(), theirs.values(), strict=True):
                    variable.assign(value.value)
        self.refresh_heads_()
        self.reseed_(seed)

    @contextmanager
    def _watched(self, found: HeadLocation) -> Iterator[CallRecord]:
        layer = self.by_name[found.layer]
        with linear_activation(layer), capture(layer) as seen:
            yield seen

    @property
    def first(self) -> HeadLocation:
        """What is known of the first head's layer."""
        return next(iter(self.found.values()))

    def own_scores(self, inputs: Inputs) -> Scores:
        return self.scores_of_run(lambda: called(self.module, inputs, training=self.training))

    def scores_of_run(self, run: Callable[[], Any]) -> Scores:
        """Return, by task, the logits that a `run` produces in the heads with their own class weights."""
        if not self.found:
            return {"main": in_columns(cast(Tensor, as_tensor(run())))}
        with ExitStack() as stack:
            seen = {task: stack.enter_context(self._watched(found)) for task, found in self.found.items() if not found.whole}
            result = outputs_of(run())
        return {
            task: result[found.output]
            if found.whole
            else pooled(seen[task].of_examples("output", result[found.output]), channels_last(self.by_name[found.layer]))
            for task, found in self.found.items()
        }

    def feature_batch(self, inputs: Inputs) -> Tensor:
        if not self.found:
            return pooled(cast(Tensor, as_tensor(called(self.module, inputs, training=self.training))), channels_last=True)
        with self._watched(self.first) as seen:
            result = as_tensor(called(self.module, inputs, training=self.training))
        head = self.by_name[self.first.layer]
        return read_by(head, seen.of_examples("input", result), channels_last=channels_last(head))

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        first = self.by_name[self.first.layer]
        own = layer == self.first.layer
        return scores_from(self.by_name[layer], features if own else read_by(first, features, channels_last=channels_last(first)))

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers or single variables, plus those that are held. A container stands for its layers."""
        variables, modules, names = self.variables(), self.by_name, [layer.name for layer in self.layers]
        unknown = [name for name in layers if name not in modules and name not in variables]
        if unknown:
            raise NetworkError(f"No layer is called {unknown[0]!r}{near_names(unknown[0], [*names, *variables])}")
        exact = {name for name in layers if name in names or name not in modules}
        inside = {name for name in names for container in set(layers) - exact if below(name, container)}
        for variable in variables.values():
            variable.value.requires_grad_(False)
        super().freeze_(exact | inside)
        self._hook_()

    def counted(self) -> tuple[str, ...]:
        """Return the names of the layers in `model.layers`."""
        names = {id(layer): name for name, layer in self.by_name.items()}
        return tuple(names.get(id(layer), layer.name) for layer in self.module.layers)

    def _hook_(self) -> None:
        """Renew the hooks: frozen layers run in inference mode, heads with row groups multiply them separately."""
        for hook in self.hooks:
            hook.remove()
        touched = {name for one in self.frozen for name in prefixes(one)}  # a layer with a frozen variable counts, and its sublayers
        still = {name for name in touched if name in self.by_name and is_leaf(self.by_name[name])}
        own = [(self.heads[task].parts, name) for task, found in self.found.items() for name in (found.layer, *found.beside)]
        parted = [(parts, self.by_name[name]) for parts, name in own if parts]
        self.hooks = [
            module.register_forward_pre_hook(inference, with_kwargs=True)
            for name, module in self.by_name.items()
            if not still.isdisjoint(prefixes(name))
            and (module.weights or not self.draws)  # weightless layers that draw even in inference must keep drawing
        ]
        self.hooks += hook_strided_(self.by_name.values())
        self.hooks += [layer.register_forward_hook(parts_hook(parts), with_kwargs=True) for parts, layer in parted]

    def variables(self) -> dict[str, Any]:
        """Return every variable by its name in `state()`."""
        return {key: variable for name, layer in self.named_with_root() for key, variable in own_variables(name, layer).items()}

    def state(self) -> dict[str, Tensor]:
        return {name: variable.value.detach() for name, variable in self.variables().items()}

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        return {
            layer.name: {name: variable.value for name, variable in variables_below(layer.name, self.by_name, trainable_only=True).items()}
            for layer in self.layers
        }

    def reseed_(self, seed: int) -> None:
        """Set the state of every seed generator to `seed` plus its index.
        On the torch backend, Keras uses these only in dropout layers created with `seed=`. Others draw from torch's own generator."""
        generators = [generator for _, layer in self.named_with_root() for generator in layer._seed_generators]
        for index, generator in enumerate(generators):
            generator.state.assign([(seed + index) % 2**31, 0])

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        return tap_slices(self.module, self.by_name[self.first.layer] if self.found else None)

    def recount_(self, changed: Collection[str]) -> None:
        """Recount the parameters of the `changed` layers and reapply the freezing."""
        super().recount_(changed)
        self._freeze_again_(self.frozen)

    def _freeze_again_(self, names: Collection[str]) -> None:
        """Freeze those of these layers and variables that still exist."""
        here = self.by_name.keys() | self.variables().keys()
        self.freeze_([name for name in names if name in here])

    def anew(  # over the limit: what a body is made of, each part optional
        self, module: Any, heads: Places | None = None, *, sample: Inputs | None = None, renewed: Mapping[int, Any] | None = None
    ) -> Self:
        """Become the body of a `module` built from its layers, with other `heads` and another `sample` where given. Private copies only.
        `renewed` maps the id of each replaced nested model to its replacement. A head may be in a new layer."""
        before, places = copy.copy(self), self.placed() if heads is None else heads
        for hook in self.hooks:
            hook.remove()
        self.take_(module, self.sample if sample is None else sample)
        names = {id(layer): name for name, layer in self.by_name.items()}
        old = {name: (renewed or {}).get(id(layer), layer) for name, layer in before.by_name.items()}
        now = {name: names[id(layer)] for name, layer in old.items() if id(layer) in names}
        self.given_trainable |= {"": before.given_trainable[""]} | {new: before.given_trainable[name] for name, new in now.items()}
        self.given, self.planned = before.given, before.planned
        self.rename_(now)
        moved = {
            task: (found, [now.get(name, name) for name in (found.layer, *found.beside)]) for task, (_, found) in places.items() if found
        }
        self.found = {task: replace(found, layer=layer, beside=tuple(beside)) for task, (found, [layer, *beside]) in moved.items()}
        self.heads = {task: replace(head, layer=self.found[task].layer if found else "") for task, (head, found) in places.items()}
        self.inspect_()
        self._freeze_again_([now.get(name, name) for name in before.frozen if name in now or name not in before.by_name])
        return self

    def split(self, frozen_layers: Collection[str]) -> Split | None:
        """Split a functional or Sequential model at the freeze boundary into two functions that share its layers.
        The first maps inputs to the boundary tensors, without gradients and in inference mode. The second maps these to logits in the
        current mode. None if the model has no such graph or carries masks."""
        cut = cut_graph(self, frozen_layers)
        return None if cut is None else (cut.frozen_part, cut.trainable_part)

    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        """Return a digest of what the layers, and those around and in them, compute: configs, attributes, code and the whole graph."""
        return layer_structure(self.module, self.by_name, layers, beside=self.tap_slices, ignored=ignored)

    def layer_rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        return rows_of(self.by_name[layer])

    def fresh_rows(self, count: int, features: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw class weights with the initialisers of the first head's layer, or of a Dense layer without a head."""
        like = self.by_name[self.first.layer] if self.found else keras.layers.Dense(1)
        kernel, bias = (
            drawn(one, shape, seed=seed) for one, shape in ((like.kernel_initializer, (features, count)), (like.bias_initializer, (count,)))
        )
        return np.ascontiguousarray(kernel.T), bias

    def set_layer_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Write class weights (C, d) and bias (C,) into a linear layer. False: it has no bias, or a low-rank change of its own."""
        target = self.by_name[layer]
        if not target.use_bias or getattr(target, "lora_enabled", False):
            return False
        target.kernel.assign(kernel_of(target, weight))
        target.bias.assign(np.asarray(bias, np.float32))
        return True

    def code_table(self) -> Parameter:
        if self.coding is None:
            raise NetworkError("The network knows no conditions; expected one that takes codes. Train codes with strategy='codes'.")
        return cast(Parameter, self.by_name[CODES].embeddings.value)

    def put_codes_(self, table: np.ndarray) -> None:
        if len(table) != self.by_name[CODES].input_dim:
            reset_(self.by_name[CODES], {"input_dim": len(table)})
            retrack_(self.module)
            self.recount_([CODES])
        super().put_codes_(table)

    def sites(self) -> dict[str, Site]:
        """Return the hook points by name. Raise if the model has no graph."""
        return sites_of(self)

    def reduced(self, part: Any) -> Any:
        """Return how to pickle a `part`: layers are looked up by name in the model, which is pickled as a whole."""
        name = next((name for name, layer in self.by_name.items() if layer is part), None)
        return NotImplemented if name is None else (named_module, (self.module, name))

    def ready_for_export_(self) -> None:
        self.mode_(False)

    def for_onnx(self) -> AbstractContextManager[None]:
        return replaced(as_operators(self.modules().values()))


def inspected(module: Any, sample: Inputs, *, head: HeadChoice = None, heads: Sequence[Mapping[str, Any]] | None = None) -> KerasBody:
    """Return the body of a built model, which it takes over, with its heads.
    `heads`: facts of a saved folder about its heads; None to find the heads by running the model."""
    body = KerasBody(module, sample)
    body.take_(module, sample)
    seen = body.inspect_()
    if heads is not None:
        given = given_heads(heads, seen)
        body.found = {task: found for task, (found, _) in given.items()}
        body.heads = {task: known for task, (_, known) in given.items()}
    else:
        candidates = find_heads(body.layers, seen)
        wanted = head if isinstance(head, Mapping) else {"main": head}
        chosen = {task: chosen_head(candidates, layer) for task, layer in wanted.items()}
        body.account = Account(notes=unused_outputs(head, [other for other in candidates if other not in wanted.values()]))
        kept = {task: found for task, found in chosen.items() if found}
        body.found = {task: found_beside(found, seen) or found for task, found in kept.items()}
        body.heads = {task: one.head(*rows_of(body.by_name[one.layer]), task=task) for task, one in body.found.items()}
        body.note_apart_()
    body.freeze_(())
    return body
