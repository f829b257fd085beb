"""Networks of timm and torchvision by name, with or without trained weights.

Each opener returns the bare module with its facts. `SourceModule.preprocessing` is plain data for `regraft.data`. A name must be in the
library's own list. Paths and hub repositories are not accepted.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, cast

from torch import Size
from torch.nn import Module

from ...errors import NetworkError, near_names, optional_import
from ...files.formats import reason_of
from ...files.given import unreachable_weights
from ...files.text import printable
from ..network import Inputs
from ..samples import failure, sample_of
from .building import cached_only_when_offline

_SIBLINGS = 5  # Number of similarly named architectures to compare with one
_NAME = re.compile(r"\w+(\.\w+)*", re.ASCII)


@dataclass
class SourceModule:
    """Module of a named network, with the facts that its source knows.
    `tasks`: kind, classes, activation and thresholds of the heads, by task, if the source knows them."""

    module: Module
    origin: dict[str, Any]  # plain data to rebuild the same architecture
    sample: Inputs
    classes: tuple[str, ...] | None = None  # class names in the order of the head's outputs, or None
    preprocessing: dict[str, Any] | None = None  # plain data, or None
    notes: list[str] = field(default_factory=list)
    open: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)  # shapes of one example that have open axes, by input name
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def _fetched(make: Callable[[bool], Module], pretrained: bool, *, source: str) -> Module:
    """Build a network, with its trained weights if requested."""
    if not pretrained:
        return make(False)
    try:
        with cached_only_when_offline():
            return make(True)
    except NetworkError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise NetworkError(unreachable_weights(source, reason_of(error))) from error


def _unsuited_size(source: str, inputs: Sequence[int | None] | None, *, reason: str) -> NetworkError:
    return NetworkError(f"{source!r} cannot be made for pictures of the shape {tuple(inputs or ())}: {reason}.")


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with a running number appended to duplicates (ImageNet has two cranes)."""
    lowered = [name.strip().casefold() for name in names]
    return tuple(
        name if lowered.count(key) == 1 else f"{name} ({index})" for index, (name, key) in enumerate(zip(names, lowered, strict=True))
    )


def open_timm(
    name: str, *, pretrained: bool, inputs: Sequence[int | None] | None = None, img_size: Sequence[int] | None = None
) -> SourceModule:
    """Open a network of timm with its preprocessing.
    One that does not run on pictures of the shape `inputs`, (channels, height, width), is made for that size, which its origin then tells
    as `img_size`. With that argument it is made for the size at once."""
    timm, source = optional_import("timm", "vision", purpose=f"'timm:{printable(name)}'"), f"timm:{name}"
    if not _NAME.fullmatch(name) or not timm.is_model(name.split(".")[0]):  # timm itself would also accept hub repositories and folders
        raise NetworkError(f"timm knows no network called {printable(name)!r}{near_names(name, timm.list_models())}")

    def make(trained: bool, **own: Any) -> Module:
        return cast(Module, timm.create_model(name, pretrained=trained, **own))

    def made_for_size(trained: bool) -> Module:
        try:
            return make(trained, img_size=size)
        except AssertionError as error:
            raise _unsuited_size(source, inputs, reason=reason_of(error)) from error
        except RuntimeError as error:
            if "size mismatch" in str(error):
                raise _unsuited_size(source, inputs, reason="timm does not resize its trained weights") from error
            raise

    if img_size is not None:
        return _of_timm(make(False, img_size=tuple(img_size)), timm, origin={"source": source, "img_size": list(img_size)})
    module = _fetched(make, pretrained, source=source)
    size = () if inputs is None or len(inputs) != 3 or None in inputs else tuple(inputs[1:])
    fixed = size and getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False)
    if not fixed or failure(module.eval(), sample_of(inputs or ()), caught=Exception) is None:  # it may refuse another size in any way
        return _of_timm(module, timm, origin={"source": source})
    before = {parameter: one.shape for parameter, one in module.named_parameters()}
    module = _fetched(made_for_size, pretrained, source=source)
    note = _sized_note(module, before, size=size, trained=pretrained)
    return replace(_of_timm(module, timm, origin={"source": source, "img_size": list(size)}), notes=[note])


def _sized_note(module: Module, before: Mapping[str, Size], *, size: Sequence[int | None], trained: bool) -> str:
    """Return what an account says of a network of timm that was made for pictures of another `size`.
    `before`: shapes of the parameters of the network for its own size."""
    said = f"made for pictures of {size[0]} x {size[1]}"
    resized = [name for name, one in module.named_parameters() if name in before and one.shape != before[name]]
    if not (trained and resized):
        return said
    more = f" and {len(resized) - 3} more" if len(resized) > 3 else ""
    return f"{said}: timm resized its trained {', '.join(resized[:3])}{more}"


def live_timm(module: Module) -> SourceModule | None:
    """Return the preprocessing and class names of a live timm network; None for any other module."""
    if not type(module).__module__.startswith("timm.models.") or not isinstance(getattr(module, "pretrained_cfg", None), dict):
        return None
    return _of_timm(module, optional_import("timm", "vision", purpose=type(module).__name__), origin={})


def _of_timm(module: Module, timm: Any, *, origin: dict[str, Any]) -> SourceModule:
    config = timm.data.resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    spec = image_spec((height, width, channels), config["mean"], std=config["std"])
    spec |= {"resize": "crop", "crop_fraction": float(config["crop_pct"]), "interpolation": _known_interpolation(config["interpolation"])}
    classes = None
    if getattr(module, "num_classes", 0) == 1000:
        info = timm.data.ImageNetInfo()
        classes = unique_names([info.index_to_description(index) for index in range(1000)])
    return SourceModule(module, origin, sample_of((channels, height, width)), classes, spec)


def timm_siblings(module: Module) -> Iterator[tuple[str, SourceModule]]:
    """Yield timm networks with names similar to that of a timm module, with random weights. Yield nothing for other modules."""
    config = getattr(module, "pretrained_cfg", None)
    if not type(module).__module__.startswith("timm.models.") or not isinstance(config, dict):
        return
    own = str(config.get("architecture", ""))
    names = optional_import("timm", "vision", purpose=own).list_models()
    for name in get_close_matches(own, [other for other in names if other != own], n=_SIBLINGS, cutoff=0.8):
        yield name, open_timm(name, pretrained=False)


def _known_interpolation(name: str) -> str:
    return name if name in {"bicubic", "bilinear"} else "bicubic"


def image_spec(size: tuple[int, int, int], mean: Sequence[float], *, std: Sequence[float]) -> dict[str, Any]:
    """Return image preprocessing as plain data, for a PyTorch network; `size` is (height, width, channels)."""
    height, width, channels = size
    return {
        "kind": "image",
        "height": height,
        "width": width,
        "channels": channels,
        "layout": "channels_first",
        "scale": 1 / 255,
        "mean": [float(value) for value in mean],
        "std": [float(value) for value in std],
    }


def open_torchvision(name: str, *, pretrained: bool, inputs: Sequence[int | None] | None = None) -> SourceModule:
    """Open a torchvision classification network with the transforms of its best weights.
    A vision transformer without weights is made for pictures of the shape `inputs`, (3, side, side); without it, for those of its
    weights."""
    source = f"torchvision:{name}"
    models = optional_import("torchvision.models", "vision", purpose=repr(printable(source)))
    known = models.list_models(module=models)
    if name not in known:
        raise NetworkError(f"torchvision knows no classification network called {printable(name)!r}{near_names(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    spec = recipe_spec(weights.transforms())

    def make(trained: bool) -> Module:
        sized = models.get_model_builder(name).__annotations__.get("return") is models.VisionTransformer and not trained
        side = inputs[1] if inputs is not None and len(inputs) == 3 and inputs[1] == inputs[2] else None
        own = {"image_size": side or spec["height"]} if sized else {}  # torchvision sets it with weights
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            try:
                return cast(Module, models.get_model(name, weights=weights if trained else None, **own))
            except AssertionError as error:
                raise _unsuited_size(source, inputs, reason=reason_of(error)) from error

    module, sample = _fetched(make, pretrained, source=source), sample_of((3, spec["height"], spec["width"]))
    return SourceModule(module, {"source": source}, sample, unique_names(weights.meta["categories"]), spec)


def recipe_spec(recipe: Any) -> dict[str, Any]:
    """Return the transforms of a torchvision classification network as plain data."""
    side = recipe.crop_size[0]
    return image_spec((side, side, 3), recipe.mean, std=recipe.std) | {
        "resize": "crop",
        "crop_fraction": side / recipe.resize_size[0],
        "interpolation": _known_interpolation(recipe.interpolation.value),
    }


def is_recipe(given: Any) -> bool:
    """Return whether `given` is a torchvision preset of transforms, as `weights.transforms()` returns."""
    return type(given).__module__ == "torchvision.transforms._presets" and type(given).__name__ == "ImageClassification"
