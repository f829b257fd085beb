"""Networks by name: opened on the user's request, or rebuilt without network access for a saved folder."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn import Module

from ...errors import NetworkError, near_names, optional_import
from ...files.text import printable
from ..hub.opening import hub_module, open_hub
from ..layers.graph import SOURCE as LAYERS_SOURCE
from ..layers.graph import graph_module
from .building import Limits, building
from .dense import dense_module
from .zoo import SourceModule, open_timm, open_torchvision

_SIZED = {"timm": open_timm, "torchvision": open_torchvision}


def open_named(source: str, *, pretrained: bool, inputs: Sequence[int | None] | None = None) -> SourceModule:
    """Open a network by name: "timm:NAME", "torchvision:NAME" or "hf:PATH_OR_ID". `keras_zoo` handles Keras names.
    `inputs` is the shape of one example: networks of timm that run on one size of picture only, and torchvision's vision transformers
    without weights, are made for pictures of that size."""
    kind, _, name = source.partition(":")
    if kind in _SIZED:
        return _SIZED[kind](name, pretrained=pretrained, inputs=inputs)
    if kind != "hf":
        raise NetworkError(f"Unknown network source {printable(source)!r}{near_names(kind, (*_SIZED, 'hf', 'keras'))}")
    return open_hub(name, pretrained=pretrained)


def made_again(origin: Mapping[str, Any], *, limits: Limits, what: str, inputs: Sequence[int | None] | None = None) -> Module:
    """Rebuild the architecture of a saved network from the origin in its folder. Its weights are placeholders.
    Nothing is downloaded, whatever the origin names. timm and torchvision build their networks by name, and dense layers follow from their
    sizes. A Hugging Face network is built from the configuration in the folder, and its name is not used."""
    source, config = origin.get("source"), origin.get("config")
    kind, _, name = source.partition(":") if isinstance(source, str) else ("", "", "")
    if kind == "hf" and isinstance(config, Mapping):
        return hub_module(config, what=what, limits=limits)
    if kind == LAYERS_SOURCE:
        with building(what, limits, drawn=False):
            return graph_module(origin)
    if kind not in ("timm", "torchvision", "dense"):
        received = f"the origin {printable(repr(source), width=100)}" + (" without its configuration" if kind == "hf" else "")
        raise NetworkError(
            f"{what} has {received}; expected 'timm:NAME', 'torchvision:NAME', 'dense:SIZES', or 'hf:…' with a configuration. "
            "It was changed since it was saved: save the network again, or open it with architecture=."
        )
    if kind != "dense":
        optional_import(kind, "vision", purpose=what)  # sets the switch of the hub client, so it must come before `building`
    with building(what, limits, drawn=False):
        if kind == "timm":
            return open_timm(name, pretrained=False, img_size=origin.get("img_size")).module
        return dense_module(name) if kind == "dense" else open_torchvision(name, pretrained=False, inputs=inputs).module
