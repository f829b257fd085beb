"""Opening of networks in Hugging Face format: classifiers and bare encoders of text, images and audio. `files` lists what is read."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, RegraftError, optional_import
from ...files.text import printable
from ...words import counted
from ..network import Inputs
from ..sources.building import Limits, building
from ..sources.zoo import SourceModule, image_spec, unique_names
from ..torch.plain import copied
from .files import ADAPTER_FILE, CONFIG_FILE, checked_config, hub_folder, read_hub_json, read_hub_weights
from .processors import features_of, measured_processor, numbers_of, processor_of, sound_extractor, sound_settings
from .samples import hub_sample, pad_token_

__all__ = ["PooledEncoder", "hub_module", "live_hub", "open_hub"]


class PooledEncoder(Module):
    """A bare Transformers encoder with pooled hidden states.
    `pooling`: "mean" averages over positions that are not padding; "cls" takes the first position."""

    def __init__(self, encoder: Module, pooling: str = "mean") -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Return the pooled hidden states (N, d) for token ids, images or audio."""
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


_LARGEST_SIDE = 4096
_HUB_HEADS = {f"For{kind}Classification": f"AutoModelFor{kind}Classification" for kind in ("Sequence", "Image", "Audio")}


def open_hub(name: str, *, pretrained: bool) -> SourceModule:
    """Open a Transformers classifier or bare encoder from a folder or hub id. Code in the folder is never run."""
    transformers = optional_import("transformers", "text", purpose=f"'hf:{printable(name)}'")
    folder, what = hub_folder(name, weights=pretrained), f"'hf:{printable(name)}'"
    content, notes = _read_config(folder, what)
    tensors = read_hub_weights(folder) if pretrained else None
    limits = Limits.of_memory() if tensors is None else Limits.of(tensors)
    settings, suffix = _settings(content, transformers=transformers, what=what, limits=limits)
    padded = _padded_(settings, folder) if suffix else []
    with building(what, limits, drawn=not pretrained), _quiet(transformers):
        module = getattr(transformers, _HUB_HEADS.get(suffix, "AutoModel")).from_config(settings)
    if tensors is not None:
        module, missing = _with_weights(type(module), settings, transformers=transformers, tensors=tensors, what=what)
        notes += missing if suffix else []
    if not suffix:  # a folder of sentence-transformers tells its pooling
        stated = read_hub_json(folder, "1_Pooling/config.json") or {}
        module = PooledEncoder(module, "cls" if stated.get("pooling_mode_cls_token") is True else "mean")
    plain = settings.to_dict() | ({} if suffix else {"regraft_pooling": module.pooling})
    classes = _class_names(settings) if suffix else None
    with building(what, limits):
        sample, spec = _hub_sample(folder, module if suffix else module.encoder, transformers=transformers, notes=notes)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return SourceModule(module, {"source": f"hf:{name}", "config": plain}, sample, classes, spec, [*notes, *padded])


def live_hub(module: Module) -> SourceModule | None:
    """Return a Transformers classifier in memory with its class names and sample; None for any other module.
    A saved folder opens it again from its configuration, provided that the configuration builds the same network."""
    kind = type(module)
    if not kind.__module__.startswith("transformers.models.") or not any(suffix in kind.__name__ for suffix in _HUB_HEADS):
        return None
    transformers = optional_import("transformers", "text", purpose=kind.__name__)
    try:
        sample = hub_sample(module)
    except NetworkError:  # its inputs are then found by trying, as for any module
        return None
    module = copied(module)
    settings = cast(Any, module.config)
    notes = pad_token_(settings, {}, named={}) if isinstance(sample, dict) else []
    plain = {**settings.to_dict(), "architectures": [kind.__name__]}
    origin = {"source": "hf:live", "config": plain} if _makes(plain, module, transformers=transformers) else {}
    return SourceModule(module, origin, sample, _class_names(settings), None, notes)


def _makes(plain: Mapping[str, Any], module: Module, *, transformers: Any) -> bool:
    """Return whether a configuration builds a network of the same class with the same names and shapes of weights."""
    what = type(module).__name__
    try:
        settings, suffix = _settings(json.loads(json.dumps(plain)), transformers=transformers, what=what, limits=Limits.of_memory())
        with building(what, Limits.of_memory(), drawn=False), _quiet(transformers), torch.device("meta"):
            made = getattr(transformers, _HUB_HEADS[suffix]).from_config(settings)
    except (RegraftError, KeyError, TypeError, ValueError):
        return False
    own, other = ({name: tensor.shape for name, tensor in each.state_dict().items()} for each in (module, made))
    return type(made) is type(module) and own == other


def _class_names(settings: Any) -> tuple[str, ...] | None:
    """Return the class names of a configuration in row order; None for the library's defaults LABEL_0, LABEL_1, …."""
    labels = [settings.id2label[index] for index in range(len(settings.id2label))] if settings.id2label else []
    return unique_names(labels) if labels and labels != [f"LABEL_{index}" for index in range(len(labels))] else None


def hub_module(config: Mapping[str, Any], *, what: str, limits: Limits) -> Module:
    """Return the network of a configuration from a saved folder, with arbitrary weights; nothing is downloaded."""
    transformers = optional_import("transformers", "text", purpose=what)
    settings, suffix = _settings(config, transformers=transformers, what=what, limits=limits)
    with building(what, limits, drawn=False), _quiet(transformers):
        module = cast(Module, getattr(transformers, _HUB_HEADS.get(suffix, "AutoModel")).from_config(settings))
    return module if suffix else PooledEncoder(module, "cls" if config.get("regraft_pooling") == "cls" else "mean")


def _settings(content: Mapping[str, Any], *, transformers: Any, what: str, limits: Limits) -> tuple[Any, str]:
    """Return the library's configuration and the suffix of its classifier class; "" for a bare encoder."""
    kind, fields = checked_config(content, transformers=transformers, what=what)
    named = content.get("architectures") or [""]
    architecture = named[0] if isinstance(named, list) and isinstance(named[0], str) else ""
    suffix = next((suffix for suffix in _HUB_HEADS if suffix in architecture), "")  # …Learned, …WithTeacher are classifiers too
    with building(what, limits), _quiet(transformers):
        settings = transformers.AutoConfig.for_model(kind, **fields)
        settings.architectures = [architecture] if architecture.isidentifier() else None
    if suffix == "ForSequenceClassification" and type(settings) in transformers.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING:
        suffix = "ForAudioClassification"  # the library's name for classifiers of whole recordings
    return settings, suffix


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Silence the library's log and progress bars, which print names from files unescaped."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _with_weights(made_of: Any, settings: Any, *, transformers: Any, tensors: Mapping[str, Tensor], what: str) -> tuple[Module, list[str]]:
    """Return a network with the given weights, under the names of any library version, and a note on missing ones."""
    remedy = "Expected the weights of the network that config.json describes."
    with building(what, Limits.of(tensors), remedy=remedy), _quiet(transformers):
        module, found = made_of.from_pretrained(None, config=settings, state_dict=dict(tensors), output_loading_info=True)
    missing = sorted(found["missing_keys"])
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    if 2 * sum(sizes.get(name, 0) for name in missing) > sum(sizes.values()):
        raise NetworkError(
            f"The weights of {what} are not those of its config.json: {counted(len(missing), 'tensor', verb='are', of=len(sizes))} "
            f"missing, such as {missing[0]!r}. {remedy}"
        )
    names = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
    return module, [
        f"The weights of {what} lack {counted(len(missing), 'tensor')} ({names}); these start from RANDOM values."
    ] if missing else []


def _read_config(folder: Path, what: str) -> tuple[Mapping[str, Any], list[str]]:
    """Return the configuration in a folder, and a note on an adapter there. Adapters are never used, because they name another network to
    download."""
    content, adapter = read_hub_json(folder, CONFIG_FILE), (folder / ADAPTER_FILE).exists()
    if content is None and adapter:
        raise NetworkError(
            f"{what} is an adapter: its {ADAPTER_FILE} names the network that it belongs to, which is not followed. "
            "Merge them once: peft.AutoPeftModel.from_pretrained(folder).merge_and_unload().save_pretrained(other)."
        )
    if content is None:
        raise NetworkError(
            f"{what} cannot be opened: {printable(folder)!r} has no config.json. Expected a folder that save_pretrained wrote."
        )
    note = f"{what} also holds an adapter ({ADAPTER_FILE}), which is not used. Merge it into the network first if you want it."
    return content, [note] if adapter else []


def _padded_(settings: Any, folder: Path) -> list[str]:
    """Set a padding token in the settings of a text classifier that has none; return the notes on it."""
    named = read_hub_json(folder, "special_tokens_map.json") or {}
    named |= read_hub_json(folder, "tokenizer_config.json") or {}
    return pad_token_(settings, read_hub_json(folder, "tokenizer.json") or {}, named=named)


def _hub_sample(folder: Path, module: Module, *, transformers: Any, notes: list[str]) -> tuple[Inputs, dict[str, Any] | None]:
    """Return two synthetic examples for the network, and its preprocessing as plain data."""
    file = read_hub_json(folder, "preprocessor_config.json")
    found = file or {}
    sample = hub_sample(module, side=_side(found))
    if isinstance(sample, dict) and "pixel_values" in sample:
        notes.append(f"It takes patches of pictures: give what its processor returns, arrays by the names {', '.join(sample)}.")
        return sample, None
    if isinstance(sample, dict):
        return sample, {"kind": "text", "tokenizer": folder}
    if not sample.is_floating_point():
        notes.append(f"It takes pictures as {sample.shape[1]} numbers of colours each: give arrays of what its processor returns.")
        return sample, None
    if sample.ndim == 4:
        if file is None:
            notes.append(
                f"{printable(folder)!r} has no preprocessor_config.json: mean 0.5 and standard deviation 0.5 are assumed for pictures."
            )
        channels, height, width = sample.shape[1:]
        return sample, _hub_image_spec(folder, found, size=(height, width, channels), transformers=transformers, notes=notes)
    if sample.ndim == 2:
        rate, standardise = found.get("sampling_rate", 16000), found.get("do_normalize") is not False
        spec = {"kind": "audio", "features": "waveform", "sample_rate": rate, "channel": False, "standardise": standardise, "seconds": None}
        return sample, spec
    return sample, _features_spec(found, tuple(sample.shape[1:]), notes=notes)


def _features_spec(found: Mapping[str, Any], shape: tuple[int, ...], *, notes: list[str]) -> dict[str, Any] | None:
    """Return the audio preprocessing of a network that takes features of this shape, from the extractor class that its file names.
    None if there is no such class or its features have another shape; a note says so in the second case."""
    settings = sound_settings(found)
    extractor = sound_extractor(settings)
    if extractor is None:
        return None
    rate = int(extractor.sampling_rate)
    frames = getattr(extractor, "max_length", None)  # of 10 ms each
    seconds = getattr(extractor, "chunk_length", None) or (frames / 100 if frames else None)
    made = np.shape(features_of(extractor, np.zeros(rate, np.float32)))
    if made != shape and (seconds is not None or made[1:] != shape[1:]):
        kind = type(extractor).__name__
        notes.append(f"{kind} makes features of the shape {made}; the network takes {shape}: give preprocessing=, or arrays of that shape.")
        return None
    spec = {"kind": "audio", "features": "extractor", "sample_rate": rate, "seconds": seconds, "channel": False, "standardise": False}
    return {**spec, "extractor": [list(pair) for pair in settings.items()]}


def _side(found: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return the height and width of a preprocessor's images, or None if its file does not state them."""
    for name in ("size",) if found.get("do_center_crop") is False else ("crop_size", "size"):
        size = found.get(name)
        edges = size if isinstance(size, dict) else {"shortest_edge": size}
        height, width = (edges.get(key, edges.get("shortest_edge")) for key in ("height", "width"))
        if isinstance(height, int) and isinstance(width, int) and 0 < min(height, width) <= max(height, width) <= _LARGEST_SIDE:
            return height, width
    return None


def _hub_image_spec(
    folder: Path, file: Mapping[str, Any], *, size: tuple[int, int, int], transformers: Any, notes: list[str]
) -> dict[str, Any]:
    """Return the image preprocessing, measured on the network's processor, or read from its file if that is impossible."""
    channels, processor = size[2], processor_of(file, transformers=transformers, folder=folder)
    measured = None if processor is None or channels != 3 else measured_processor(processor)
    if measured is not None:  # a file without a size implies the default of its class, which may not suit the network
        return measured | {"height": size[0], "width": size[1]}
    settings = file if processor is None else {**processor.to_dict(), **{key: value for key, value in file.items() if value is not None}}
    mean, std = (numbers_of(settings, key, count=channels, folder=folder) for key in ("image_mean", "image_std"))
    if processor is not None:
        notes.append(
            f"What {type(processor).__name__} makes of pictures could not be measured: mean, deviation and interpolation are those of its "
            "file. Where that is not enough, give the processor itself, in Python."
        )
    bilinear, crop = settings.get("resample", 3) == 2, settings.get("do_center_crop") is True
    spec = image_spec(size, mean, std=std)
    return spec | {"interpolation": "bilinear" if bilinear else "bicubic", "resize": "crop" if crop else "squash"}
