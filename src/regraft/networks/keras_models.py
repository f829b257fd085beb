"""Keras networks: functional, Sequential and subclassed Keras 3 models behind the contract."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ..errors import NetworkError, near_names
from .account import Account
from .contract import Head, Inputs, Network, Scores
from .keras_parts.clone import cloned
from .keras_parts.description import described, own_code, wiring
from .keras_parts.heads import FoundHead, attached, channels_last, find_head, head_of, linear_activation, resize_, rows_of
from .keras_parts.library import keras
from .keras_parts.samples import called, sample_for, shapes_of
from .keras_parts.split import Split, split_graph
from .keras_parts.structure import blocks_of_model, is_leaf, layers_of, named_modules, own_variables, variables_below
from .structure import below
from .tracing import as_tensor, capture, pooled, trace

__all__ = ["KerasNetwork", "open_keras"]

_FILE = "network.keras"


def open_keras(
    model: Any,
    *,
    classes: Sequence[str] | None = None,
    inputs: Sequence[int] | None = None,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
) -> KerasNetwork:
    """Open a live Keras 3 model.

    Args:
        model: functional, Sequential or subclassed; a model without weights as yet is built from `inputs`.
        classes: class names in row order.
        inputs: shape of one item without the batch axis, where the model does not know it.
        origin: what opening it again needs.
        take: use the model itself rather than a copy (for models made by regraft).

    Returns:
        The network; the model given is not modified unless `take`.

    Raises:
        NetworkError: if no sample runs through it, it has several heads, or `classes` do not fit its head.
    """
    if not isinstance(model, keras.Model):
        raise NetworkError(
            f"Received {type(model).__module__}.{type(model).__name__}; expected a keras.Model (functional, Sequential or a subclass)."
        )
    own = model if take else cloned(model)
    sample = sample_for(own, inputs)
    facts = origin or {"source": "model", "class": f"{type(model).__module__}.{type(model).__qualname__}"}
    network = KerasNetwork(own, sample, origin=facts)
    if classes is not None:
        network.name_classes_(classes)
    return network


def _inference(_module: Module, *call: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    args, kwargs = call
    return (args, {**kwargs, "training": False}) if "training" in kwargs else None


class KerasNetwork(Network):
    """A Keras model with what one run of a sample told about it.

    Args:
        module: a built model; it becomes the network's own.
        sample: a batch that it takes.
        origin: where it came from.
    """

    family: ClassVar[str] = "keras"

    def __init__(self, module: Any, sample: Inputs, *, origin: Mapping[str, Any]) -> None:
        self.module = module
        self.origin = {**origin, **shapes_of(module)}
        self.account = Account()
        self.sample = sample
        self.input_shape = () if isinstance(sample, dict) else tuple(self.origin.get("inputs") or sample.shape[1:])
        self._training = False
        self._frozen: frozenset[str] = frozenset()
        self._hooks: list[Any] = []
        self._modules = named_modules(module)
        self._trainable = {name: layer._trainable for name, layer in self._named_with_root()}
        module.trainable = True
        self._inspect_()

    def _named_with_root(self) -> list[tuple[str, Any]]:
        return [("", self.module), *self._modules.items()]

    def _inspect_(self) -> None:
        def run() -> Any:
            return called(self.module, self.sample, training=False)

        seen = trace(self._modules, run)
        self.layers = layers_of(self._modules, seen.order)
        self.blocks = blocks_of_model(self.module, self._modules, layers=self.layers)
        self._found = find_head(self._modules, self.layers, seen=seen, run=run)
        self.heads = {"main": head_of(self._found, self._modules[self._found.layer])} if self._found else {}

    def modules(self) -> dict[str, Module]:
        """Return every layer by name, containers and the parts of wrappers too."""
        return dict(self._modules)

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage."""
        return self._twin(cloned(self.module))

    def _twin(self, module: Any) -> Self:
        """Return a network like this one around a copy of its module that has the same layers."""
        twin = copy.copy(self)
        twin.module = module
        twin._modules = named_modules(module)
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
        with _seeded(seed):
            for layer in twin.layers:
                _draw_(layer.name, twin._modules)
        if twin._found:
            fresh = head_of(twin._found, twin._modules[twin._found.layer])
            twin.heads = {task: replace(head, weight=fresh.weight, bias=fresh.bias) for task, head in self.heads.items()}
        twin.reseed_(seed)
        return twin

    @contextmanager
    def _watched_head(self) -> Iterator[tuple[Any, dict[str, Tensor]]]:
        layer = self._modules[cast(FoundHead, self._found).layer]
        with linear_activation(layer), capture(layer) as seen:
            yield layer, seen

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) by task, in the present mode."""
        return self.scores_of(lambda: called(self.module, inputs, training=self._training))

    def scores_of(self, run: Callable[[], Any]) -> Scores:
        """Return raw scores (N, C) by task of a run that calls the head.

        Args:
            run: runs the model, or the part of it from the frontier on, and returns its result.
        """
        if self._found is None or self._found.whole:
            return {next(iter(self.heads), "main"): cast(Tensor, as_tensor(run()))}
        with self._watched_head() as (layer, seen):
            run()
        return {self.head.task: pooled(seen["output"], channels_last(layer))}

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the head reads, (N, d), averaged over positions; without a head, the pooled output."""
        if self._found is None:
            return pooled(cast(Tensor, as_tensor(called(self.module, inputs, training=self._training))), channels_last=True)
        with self._watched_head() as (layer, seen):
            called(self.module, inputs, training=self._training)
        return pooled(seen["input"], channels_last(layer))

    def scores_of_features(self, features: Tensor) -> Scores:
        """Return the raw scores (N, C) that the head makes of its input (N, d)."""
        layer = self._modules[self.head.layer]
        positions = (1,) * len(getattr(layer, "kernel_size", ()))
        shape = (-1, *positions, self.head.features) if channels_last(layer) else (-1, self.head.features, *positions)
        with linear_activation(layer):
            return {self.head.task: cast(Tensor, layer(features.reshape(shape))).flatten(1)}

    def sample_features(self) -> Tensor:
        """Return the features of the sample, (2, d)."""
        before, self._training = self._training, False
        try:
            with torch.no_grad():
                return self.feature_batch(self.sample)
        finally:
            self._training = before

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these layers; all others become trainable. The name of a container stands for all layers in it.

        Raises:
            NetworkError: if a name is neither a layer nor a container.
        """
        known = [layer.name for layer in self.layers]
        unknown = [name for name in layers if name not in self._modules]
        if unknown:
            raise NetworkError(f"No layer is called {unknown[0]!r}{near_names(unknown[0], known)}")
        exact = {name for name in layers if name in known}
        self._frozen = frozenset(exact | {name for name in known for wanted in set(layers) - exact if below(name, wanted)})
        for hook in self._hooks:
            hook.remove()
        for name in known:
            for variable in variables_below(name, self._modules, trainable_only=True).values():
                variable.value.requires_grad_(name not in self._frozen)
        self._hooks = [module.register_forward_pre_hook(_inference, with_kwargs=True) for module in self._frozen_modules()]
        self.blocks = tuple(replace(block, frozen=all(name in self._frozen for name in block.layers)) for block in self.blocks)

    def _frozen_modules(self) -> list[Any]:
        inside = {part for name in self._frozen if is_leaf(self._modules[name]) for part in self._modules if below(part, name)}
        return [self._modules[name] for name in inside]

    def mode_(self, training: bool) -> None:
        """Switch the part that is not frozen to training or to inference."""
        self._training = training

    def _variables(self) -> dict[str, Any]:
        return {key: variable for name, layer in self._named_with_root() for key, variable in own_variables(name, layer).items()}

    def state(self) -> dict[str, Tensor]:
        """Return all variables by name (seeds and moving statistics too), sharing storage with the network."""
        return {name: variable.value.detach() for name, variable in self._variables().items()}

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return each layer's own trainable parameters: no moving statistics, no seeds."""
        return {
            layer.name: {name: variable.value for name, variable in variables_below(layer.name, self._modules, trainable_only=True).items()}
            for layer in self.layers
        }

    def reseed_(self, seed: int) -> None:
        """Set the state of every seed generator: `seed` plus its index.

        On its torch backend Keras uses it only in dropout layers made with `seed=`; the others draw from torch's own generator.
        """
        generators = [generator for _, layer in self._named_with_root() for generator in layer._seed_generators]
        for index, generator in enumerate(generators):
            generator.state.assign([(seed + index) % 2**31, 0])

    def with_head(self, head: Head) -> Self:
        """Return a copy whose head has these rows; a network without a head gets one on its pooled output.

        Raises:
            NetworkError: if the rows do not fit what the head reads, or the copy does not give one score a row.
        """
        if self._found is None:
            return self._with_new_head(head)
        module = cloned(self.module)
        twin = self._twin(module)
        resize_(module, twin._modules[self._found.layer], head=head, activation=self._found.activation)
        twin._found = replace(self._found, activation=head.activation)
        twin._recount_(head)
        width = twin.scores(twin.sample)[head.task].shape[-1]
        if width != len(head.weight):
            raise NetworkError(
                f"The changed network gives {width} scores for {len(head.weight)} rows: a step after the head fixes their number. "
                "Make the model with the new number of classes in code and load its weights with weights=."
            )
        return twin

    def _recount_(self, head: Head) -> None:
        """Take over a head that has been put into the module, with the number of its parameters."""
        name = cast(FoundHead, self._found).layer
        count = sum(variable.value.numel() for variable in variables_below(name, self._modules, trainable_only=True).values())
        self.layers = tuple(replace(layer, parameters=count) if layer.name == name else layer for layer in self.layers)
        sizes = {layer.name: layer.parameters for layer in self.layers}
        self.blocks = tuple(replace(block, parameters=sum(sizes[part] for part in block.layers)) for block in self.blocks)
        self.heads = {head.task: replace(head, layer=name)}
        self.freeze_(self._frozen)

    def _with_new_head(self, head: Head) -> Self:
        module = cloned(self.module)
        with torch.no_grad():
            output = cast(Tensor, as_tensor(called(module, self.sample, training=False)))
        dtype = None if isinstance(self.sample, dict) else str(self.sample.dtype).split(".")[-1]
        inputs = keras.Input(tuple(self.input_shape), dtype=dtype) if dtype else None
        whole, name = attached(module, head, sample_output=output, inputs=inputs)
        twin = type(self)(whole, self.sample, origin=self.origin)
        twin._found = FoundHead(name, head.activation, False)
        twin.account = self.account
        twin._trainable = {**twin._trainable, **{key: flag for key, flag in self._trainable.items() if key in twin._trainable}}
        twin._recount_(head)
        return twin

    def split(self, frozen_layers: Collection[str]) -> Split | None:
        """Cut a functional or Sequential model at the border of its frozen layers.

        Args:
            frozen_layers: names of layers that depend on no layer outside them.

        Returns:
            Two functions that share the network's layers: from inputs to the live tensors (no gradients, inference), and from
            these to raw scores in the present mode. None where the model is not made of such layers or carries masks.
        """
        return split_graph(self, frozen_layers)

    def structure(self, layers: Collection[str]) -> str:
        """Return the layers' configs and the code of every layer class that is not Keras' own, and the graph of the whole."""
        configs = [f"{name}: {described(self._modules[name])}" for name in sorted(layers)]
        return "\n".join([*configs, *own_code(self.module, self._modules), *wiring(self.module, self._modules)])

    def rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a linear layer's weight (C, d) and bias (C,)."""
        return rows_of(self._modules[layer])

    def fresh_rows(self, count: int, features: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw rows with the initialisers of the present head; without one, with those of a Dense layer."""
        like = self._modules[self._found.layer] if self._found else keras.layers.Dense(1)
        kernel, bias = (
            _drawn(one, shape, seed=seed)
            for one, shape in ((like.kernel_initializer, (features, count)), (like.bias_initializer, (count,)))
        )
        return np.ascontiguousarray(kernel.T), bias

    def set_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Put rows (C, d) and bias (C,) into a linear layer; False where it has no bias."""
        target = self._modules[layer]
        if not target.use_bias:
            return False
        target.kernel.assign(np.asarray(weight, np.float32).T.reshape(target.kernel.shape))
        target.bias.assign(np.asarray(bias, np.float32))
        return True

    def write(self, folder: Path) -> Mapping[str, Any]:
        """Write `network.keras`, which plain Keras opens on any backend."""
        self.export(Path(folder) / _FILE)
        return {"family": "keras", "file": _FILE, "inputs": list(self.input_shape) or None}

    def export(self, path: str | Path) -> Path:
        """Write a `.keras` file with the activation as it was and the layers' own `trainable` flags.

        Raises:
            NetworkError: if the path has another ending, or Keras cannot serialise the model.
        """
        target = Path(path)
        if target.suffix != ".keras":
            raise NetworkError(f"Received the path {str(path)!r}; a Keras network is written to a file that ends in '.keras'.")
        with self._as_given():
            try:
                self.module.save(target)
            except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
                raise NetworkError(
                    f"Keras cannot write this {type(self.module).__name__}: {error}. Give the class a get_config() and register it with "
                    "keras.saving.register_keras_serializable, or save the weights alone: net.module.save_weights('net.weights.h5')."
                ) from error
        return target

    @contextmanager
    def _as_given(self) -> Iterator[None]:
        """Give the layers their own `trainable` flags while the context lasts."""
        gradients = [(variable.value, variable.value.requires_grad) for variable in self._variables().values()]
        with ExitStack() as stack:
            for name, layer in self._named_with_root():
                stack.callback(vars(layer).__setitem__, "_trainable", layer._trainable)
                vars(layer)["_trainable"] = self._trainable.get(name, True)
            yield
        for value, wanted in gradients:
            value.requires_grad_(wanted)


def _drawn(initializer: Any, shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Return what an initialiser draws with this seed in place of its own."""
    config = initializer.get_config()
    own = type(initializer).from_config({**config, "seed": seed} if "seed" in config else config)
    return np.asarray(keras.ops.convert_to_numpy(own(shape)), np.float32)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Python, NumPy and torch while the context lasts; their states come back after it."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        keras.utils.set_random_seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _draw_(name: str, modules: Mapping[str, Any]) -> None:
    """Give one layer the weights of a freshly built twin.

    Raises:
        NetworkError: if the twin cannot be made.
    """
    layer = modules[name]
    mine = variables_below(name, modules)
    if not mine or isinstance(layer, keras.layers.Normalization):
        return
    try:
        fresh = type(layer).from_config(layer.get_config())
        fresh.build_from_config(layer.get_build_config())
    except Exception as error:
        raise NetworkError(
            f"The layer '{name}' ({type(layer).__name__}) cannot be drawn anew: {error}. Give it get_config() and get_build_config(), "
            "or pass a freshly built model in place of strategy='scratch'."
        ) from error
    theirs = variables_below("fresh", {"fresh": fresh, **{f"fresh.{key}": part for key, part in named_modules(fresh).items()}})
    for variable, drawn in zip(mine.values(), theirs.values(), strict=True):
        variable.assign(drawn.value)
