"""Shifts and scales by channel in a Keras network: a training form that folds into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ...errors import NetworkError, near_names
from ..edits import ScaleShift
from ..keras_parts.body import KerasBody
from ..keras_parts.library import keras
from ..keras_parts.points import Site, channel_axis, sites_of
from ..keras_parts.structure import ADJUSTED, graph_of
from ..parts.scaling import film, lhuc
from .folding import begun
from .inserting import Rewiring, Step
from .opened import opened
from .sizes import taken_activation_

__all__ = ["adjusted"]


class _Adjustment(keras.layers.Layer):  # type: ignore[misc]  # Keras comes through a door without types
    """A scale, and a shift, by channel; at first it changes nothing."""

    def __init__(self, form: str, axis: int, *, name: str, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.form, self.axis, self.supports_masking = form, axis, True

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Make the parameters, (C,) each."""
        shape = (input_shape[self.axis],)
        if self.form == "lhuc":
            self.a = self.add_weight(shape=shape, initializer="zeros", name="a")
        else:
            self.g = self.add_weight(shape=shape, initializer="ones", name="g")
            self.b = self.add_weight(shape=shape, initializer="zeros", name="b")

    def call(self, inputs: Any) -> Any:
        """Return values of the same shape."""
        shape = [-1 if axis == self.axis else 1 for axis in range(len(inputs.shape))]
        scale, shift = self.by_channel()
        return film(inputs, scale.reshape(shape), shift=None if shift is None else shift.reshape(shape))

    def by_channel(self) -> tuple[Tensor, Tensor | None]:
        """Return the scale (C,) and the shift (C,)."""
        return (lhuc(self.a.value), None) if self.form == "lhuc" else (self.g.value, self.b.value)

    def get_config(self) -> dict[str, Any]:
        """Return what another one of the kind is made of."""
        return {"form": self.form, "axis": self.axis, "name": self.name, "dtype": self.dtype_policy.name}


def adjusted(body: KerasBody, edit: ScaleShift) -> KerasBody:
    """Return a copy of a `body` whose values at the points of an `edit` are scaled and shifted by channel; `settled` folds it.

    Raises:
        NetworkError: if a point is unknown.
    """
    sites = sites_of(body)
    wrong = [name for name in edit.points if name not in sites]
    if wrong:
        raise NetworkError(f"The network has no point {wrong[0]!r}{near_names(wrong[0], sites)}")
    module, layers, heads = body.copied()
    names = {id(layer): name for name, layer in body.modules().items()}
    pass_, added = Rewiring(), {}
    for name in edit.points:
        site = sites[name]
        own = Site(layers[name], layers[names[id(site.linear)]], site.channels)
        pass_.behind[id(own.layer)] = _adjusting(own, edit.form)
        added[name] = f"{name[: -len(own.layer.name)]}{ADJUSTED}{own.layer.name}"
    whole = opened(module).model(pass_.outputs(graph_of(module), {}))
    return begun(body.anew(whole, pass_.renewed(layers), heads=heads), body, adjusting=added)


def _adjusting(site: Site, form: str) -> Step:
    """Return the step that scales and shifts a layer's values; the layer's own activation comes after it."""
    name, policy = site.layer.name, site.layer.dtype_policy
    activation = taken_activation_(site.linear, name=f"{ADJUSTED}then_{name}") if site.layer is site.linear else None
    made: list[Any] = []

    def step(values: Any, _code: Any) -> Any:
        made[:] = made or [_Adjustment(form, channel_axis(site.layer, len(values.shape)), name=f"{ADJUSTED}{name}", dtype=policy)]
        shifted = made[0](values)
        return shifted if activation is None else activation(shifted)

    return step
