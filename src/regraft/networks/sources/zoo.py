"""Networks by name: "timm:NAME", "torchvision:NAME", "hf:PATH_OR_ID" (Keras: `keras_zoo`).

Each opener returns the bare module with its facts; `Opened.preprocessing` is plain data for `regraft.data`.
"""

from __future__ import annotations

import socket
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, near_names, optional_import
from ..contract import Inputs
from ..samples import sample_of

__all__ = ["Opened", "PooledEncoder", "open_hub", "open_named", "open_timm", "open_torchvision", "unique_names"]


@dataclass
class Opened:
    """A module by name, and what is known of it.

    Attributes:
        module: the native object.
        origin: what making the same architecture again needs, as plain data.
        sample: two items to run it with.
        classes: class names in row order, where the source knows them.
        preprocessing: as plain data, where the source knows it.
        notes: sentences for people.
    """

    module: Module
    origin: dict[str, Any]
    sample: Inputs
    classes: tuple[str, ...] | None = None
    preprocessing: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)


def open_named(origin: Mapping[str, Any], *, pretrained: bool) -> Opened:
    """Open a network from its origin: {"source": "timm:NAME"} and so on; "hf" origins may carry their configuration.

    Args:
        origin: as `Opened.origin`.
        pretrained: with its trained weights; otherwise freshly drawn.

    Returns:
        The network's module and facts.

    Raises:
        NetworkError: if the kind of source is not known, or the name is not.
    """
    source = str(origin["source"])
    kind, _, name = source.partition(":")
    if kind == "timm":
        return open_timm(name, pretrained=pretrained)
    if kind == "torchvision":
        return open_torchvision(name, pretrained=pretrained)
    if kind == "hf":
        return open_hub(name, pretrained=pretrained, config=origin.get("config"))
    raise NetworkError(f"Unknown network source {source!r}{near_names(kind, ['timm', 'torchvision', 'keras', 'hf'])}")


def _with_fallback(make: Callable[[bool], Module], pretrained: bool, *, source: str) -> tuple[Module, list[str]]:
    """Make a network with its weights, or, where they cannot be fetched, with random ones and a clear warning."""
    if not pretrained:
        return make(False), []
    try:
        with _cached_only_when_offline():
            return make(True), []
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        note = (
            f"The trained weights of {source!r} could not be fetched ({reason}); it starts from RANDOM weights. Give a file with weights=."
        )
        warnings.warn(note, stacklevel=2)
        return make(False), [note]


@contextmanager
def _cached_only_when_offline() -> Iterator[None]:
    """Without a way to the hub, look in its local cache only: the client would retry for most of a minute."""
    constants: Any = optional_import("huggingface_hub.constants", "vision", purpose="Fetching trained weights")
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not (urllib.request.getproxies() or _resolves(urlsplit(constants.ENDPOINT).hostname or ""))
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, 443))
    except OSError:
        return False


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names with a running number behind those that occur more than once (ImageNet has two cranes)."""
    lowered = [name.strip().casefold() for name in names]
    return tuple(
        name if lowered.count(key) == 1 else f"{name} ({index})" for index, (name, key) in enumerate(zip(names, lowered, strict=True))
    )


def open_timm(name: str, *, pretrained: bool) -> Opened:
    """Open a network of timm with its data configuration.

    Args:
        name: as timm has it, such as "tf_efficientnet_lite0".
        pretrained: with its trained weights.

    Returns:
        The module and its facts.

    Raises:
        NetworkError: if timm does not know the name.
    """
    timm = optional_import("timm", "vision", purpose=f"'timm:{name}'")
    if not timm.is_model(name.split(".")[0]):
        raise NetworkError(f"timm knows no network called {name!r}{near_names(name, timm.list_models())}")
    source = f"timm:{name}"
    module, notes = _with_fallback(lambda trained: cast(Module, timm.create_model(name, pretrained=trained)), pretrained, source=source)
    config = timm.data.resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    spec = _image_spec((height, width, channels), config["mean"], std=config["std"])
    spec |= {"resize": "crop", "crop_fraction": float(config["crop_pct"]), "interpolation": _known_interpolation(config["interpolation"])}
    classes = None
    if getattr(module, "num_classes", 0) == 1000:
        info = timm.data.ImageNetInfo()
        classes = unique_names([info.index_to_description(index) for index in range(1000)])
    return Opened(module, {"source": source}, sample_of((channels, height, width)), classes, spec, notes)


def _known_interpolation(name: str) -> str:
    return name if name in {"bicubic", "bilinear"} else "bicubic"


def _image_spec(size: tuple[int, int, int], mean: Sequence[float], *, std: Sequence[float]) -> dict[str, Any]:
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


def open_torchvision(name: str, *, pretrained: bool) -> Opened:
    """Open a classification network of torchvision with the transforms of its best weights.

    Args:
        name: as torchvision has it, such as "resnet18".
        pretrained: with its trained weights.

    Returns:
        The module and its facts.

    Raises:
        NetworkError: if torchvision does not know the name.
    """
    models = optional_import("torchvision.models", "vision", purpose=f"'torchvision:{name}'")
    known = models.list_models(module=models)
    if name not in known:
        raise NetworkError(f"torchvision knows no classification network called {name!r}{near_names(name, known)}")
    source = f"torchvision:{name}"
    weights = models.get_model_weights(name).DEFAULT

    def make(trained: bool) -> Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return cast(Module, models.get_model(name, weights=weights if trained else None))

    module, notes = _with_fallback(make, pretrained, source=source)
    recipe = weights.transforms()
    side = recipe.crop_size[0]
    spec = _image_spec((side, side, 3), recipe.mean, std=recipe.std)
    spec |= {
        "resize": "crop",
        "crop_fraction": side / recipe.resize_size[0],
        "interpolation": _known_interpolation(recipe.interpolation.value),
    }
    return Opened(module, {"source": source}, sample_of((3, side, side)), unique_names(weights.meta["categories"]), spec, notes)


class PooledEncoder(Module):
    """A bare Transformers encoder with pooled hidden states.

    Attributes:
        encoder: the bare encoder.
        pooling: "mean" averages over the positions that are not padding; "cls" takes the first.
    """

    def __init__(self, encoder: Module, pooling: str = "mean") -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return (N, d) for token ids, pictures or sound."""
        output = self.encoder(*inputs, **named)
        hidden = cast(Tensor, output.last_hidden_state)
        if hidden.ndim == 4:
            return hidden.flatten(2).mean(2)
        if self.pooling == "cls":
            return hidden[:, 0]
        mask = named.get("attention_mask")
        if mask is None or mask.shape[1] != hidden.shape[1]:
            return hidden.mean(1)
        weight = mask[:, :, None].to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)


_HUB_HEADS = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForImageClassification": "AutoModelForImageClassification",
    "ForAudioClassification": "AutoModelForAudioClassification",
}


def open_hub(name: str, *, pretrained: bool, config: Mapping[str, Any] | None = None) -> Opened:
    """Open a Transformers classifier or bare encoder from a folder or a hub id; code that comes with it is never run.

    Args:
        name: a folder in Hugging Face format, or a hub id.
        pretrained: with its trained weights (safetensors only).
        config: the configuration as plain data, in place of reading it (a saved network carries it).

    Returns:
        The module and its facts.

    Raises:
        NetworkError: if there is no such folder or id, or it has no safetensors weights.
    """
    transformers = optional_import("transformers", "text", purpose=f"'hf:{name}'")
    settings = _hub_config(transformers, name, config=config)
    architecture = str((settings.architectures or [""])[0])
    suffix = next((suffix for suffix in _HUB_HEADS if architecture.endswith(suffix)), "")
    if suffix == "ForSequenceClassification" and getattr(settings, "conv_dim", None):
        suffix = "ForAudioClassification"  # speech encoders call their classifiers of whole recordings so
    auto = getattr(transformers, _HUB_HEADS.get(suffix, "AutoModel"))
    module = _hub_module(auto, name, settings=settings) if pretrained else auto.from_config(settings)
    if not suffix:
        module = PooledEncoder(module, _sentence_pooling(name) if config is None else str(config.get("regraft_pooling", "mean")))
    plain = settings.to_dict() | ({} if suffix else {"regraft_pooling": module.pooling})
    labels = [settings.id2label[index] for index in range(len(settings.id2label))] if suffix and settings.id2label else None
    classes = unique_names(labels) if labels and labels != [f"LABEL_{index}" for index in range(len(labels))] else None
    sample, spec = _hub_sample(name, settings, transformers=transformers)
    return Opened(module, {"source": f"hf:{name}", "config": plain}, sample, classes, spec if config is None else None)


def _hub_config(transformers: Any, name: str, *, config: Mapping[str, Any] | None) -> Any:
    if config is not None:
        fields = {key: value for key, value in config.items() if key not in {"model_type", "regraft_pooling"}}
        return transformers.AutoConfig.for_model(config["model_type"], **fields)
    try:
        return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise NetworkError(
            f"'hf:{name}' cannot be opened: expected a folder in Hugging Face format (config.json, model.safetensors) "
            f"or a hub id that can be reached. {str(error).splitlines()[0]}"
        ) from error


def _hub_module(auto: Any, name: str, *, settings: Any) -> Module:
    try:
        return cast(Module, auto.from_pretrained(name, config=settings, use_safetensors=True, trust_remote_code=False, dtype=torch.float32))
    except OSError as error:
        raise NetworkError(
            f"'hf:{name}' has no readable model.safetensors (pickled weights are not opened). "
            f"Convert it with safetensors first. {str(error).splitlines()[0]}"
        ) from error


def _sentence_pooling(name: str) -> str:
    """Read the pooling that a sentence-transformers folder states; "mean" otherwise."""
    path = Path(name) / "1_Pooling" / "config.json"
    return "cls" if path.is_file() and '"pooling_mode_cls_token": true' in path.read_text(encoding="utf-8") else "mean"


def _hub_sample(name: str, settings: Any, *, transformers: Any) -> tuple[Inputs, dict[str, Any] | None]:
    """Return two items to run the network with, and its preprocessing as plain data."""
    if getattr(settings, "image_size", None):
        size = settings.image_size
        height, width = (size, size) if isinstance(size, int) else size
        channels = int(getattr(settings, "num_channels", 3))
        return sample_of((channels, height, width)), _hub_image_spec(name, (height, width, channels), transformers=transformers)
    if getattr(settings, "vocab_size", None) and not getattr(settings, "conv_dim", None):
        ids = sample_of((8,), integers=True)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, {"kind": "text", "tokenizer": name}
    if getattr(settings, "conv_dim", None):
        return sample_of((8000,)), {"kind": "audio", "features": "waveform", "sample_rate": 16000, "channel": False}
    if getattr(settings, "num_mel_bins", None):
        return sample_of((int(settings.max_length), int(settings.num_mel_bins))), None
    raise NetworkError(f"'hf:{name}': model type {settings.model_type!r} takes neither text, pictures nor sound as regraft knows them.")


def _hub_image_spec(name: str, size: tuple[int, int, int], *, transformers: Any) -> dict[str, Any]:
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, use_fast=False, trust_remote_code=False).to_dict()
    except (OSError, ValueError, ImportError):
        processor = {}
    spec = _image_spec(size, processor.get("image_mean") or [0.5] * size[2], std=processor.get("image_std") or [0.5] * size[2])
    bilinear = processor.get("resample", 3) == 2
    crop = bool(processor.get("do_center_crop"))
    return spec | {"interpolation": "bilinear" if bilinear else "bicubic", "resize": "crop" if crop else "squash"}
