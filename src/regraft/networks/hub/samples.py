"""Sample inputs of Hugging Face networks: two examples by the name of the main input, with ids of ordinary tokens."""

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.nn import Module

from ...errors import NetworkError
from ..network import Inputs
from ..samples import sample_of

_SIDE = 224  # Default image size, if neither the configuration nor the preprocessor states one
_TOKENS, _SAMPLES = 8, 32_000


def hub_sample(module: Module, *, side: tuple[int, int] | None = None) -> Inputs:
    """Return two examples; `side` is the default height and width of images."""
    config, name = cast(Any, module.config), str(getattr(module, "main_input_name", ""))
    if type(module).__name__.startswith("ImageGPT"):
        return sample_of((int(config.n_positions),), integers=True)
    of_pictures = "ForImageClassification" in type(module).__name__
    if name == "input_ids" or (name == "inputs" and getattr(config, "vocab_size", None) and not of_pictures):
        ids = torch.zeros((2, _TOKENS), dtype=torch.int64)
        named = {name: ids, "attention_mask": torch.ones_like(ids)}
        known = inspect.signature(module.forward).parameters
        return suited_sample(module, {key: tensor for key, tensor in named.items() if key in known})
    seen = getattr(config, "vision_config", None) or config
    if "pixel_attention_mask" in inspect.signature(module.forward).parameters and getattr(seen, "num_patches", None):
        shape = (int(seen.num_patches), int(seen.num_channels) * int(seen.patch_size) ** 2)
        mask = torch.ones((2, shape[0]), dtype=torch.int64)
        return suited_sample(module, {"pixel_values": sample_of(shape), "pixel_attention_mask": mask, "spatial_shapes": mask[:, :2]})
    if name in ("pixel_values", "inputs"):
        size = getattr(seen, "image_size", None) or side or _SIDE
        height, width = (size, size) if isinstance(size, int) else (int(part) for part in size)
        return sample_of((int(getattr(seen, "num_channels", None) or 3), height, width))
    bands = getattr(config, "num_mel_bins", None)
    if name in ("input_values", "input_features") and not bands and getattr(config, "conv_dim", None):
        return sample_of((_SAMPLES,))
    if name == "input_values" and bands and getattr(config, "max_length", None):
        return sample_of((int(config.max_length), int(bands)))
    if name == "input_features" and bands and getattr(config, "max_source_positions", None):
        return sample_of((int(bands), 2 * int(config.max_source_positions)))
    if name == "input_features" and getattr(config, "feature_projection_input_dim", None):
        return sample_of((2 * _TOKENS, int(config.feature_projection_input_dim)))
    raise NetworkError(
        f"The model type {config.model_type!r} takes {name or 'nothing that it names'!r}; expected texts, pictures or sound, one of them."
    )


def suited_sample(module: Module, sample: Inputs) -> Inputs:
    """Return a sample with two non-special token ids, and the end token in the last position for encoder-decoder networks.
    A sample of patches with a mask (SigLIP 2) gets the shape of their grid."""
    config = getattr(module, "config", None) or getattr(getattr(module, "encoder", None), "config", None)
    named = sample if isinstance(sample, dict) else {"input_ids": sample}
    if "spatial_shapes" in named and "pixel_attention_mask" in named:  # rows and columns of patches: as square as their number allows
        count = named["pixel_attention_mask"].shape[1]
        rows = next(side for side in range(int(count**0.5), 0, -1) if not count % side)
        return {**named, "spatial_shapes": torch.tensor([[rows, count // rows]] * 2)}
    key = "inputs" if "inputs" in named else "input_ids"
    ids = named.get(key)
    if config is None or ids is None or ids.is_floating_point():
        return sample
    special = {value for name, value in config.to_dict().items() if name.endswith("_token_id") and isinstance(value, int)}
    words = [number for number in range(getattr(config, "vocab_size", None) or 256) if number not in special][:2] or [0]
    pattern = sample_of(tuple(ids.shape[1:]), integers=True, batch=len(ids))
    made = torch.where(pattern == 1, words[-1], words[0])
    end = config.eos_token_id if isinstance(getattr(config, "eos_token_id", None), int) else None
    if end is not None and getattr(config, "is_encoder_decoder", False):
        made[:, -1] = end
    return {**named, key: made} if isinstance(sample, dict) else made


def pad_token_(settings: Any, tokenizer: Mapping[str, Any], *, named: Mapping[str, Any]) -> list[str]:
    """Set the padding token of a configuration without one, because classifiers look for the last token before it; return the notes.
    It is the tokenizer's padding token, or else its end token, which `TextPreprocessing` then pads with."""
    inner = settings.get_text_config()
    if getattr(inner, "pad_token_id", None) is not None or not getattr(inner, "vocab_size", None):
        return []
    added = {part.get("content"): part.get("id") for part in tokenizer.get("added_tokens") or () if isinstance(part, dict)}
    vocabulary = _mapping(_mapping(tokenizer.get("model")).get("vocab"))
    tokens = [named.get(kind) for kind in ("pad_token", "eos_token")]  # stored as a text, or as a mapping with "content"
    found = [token.get("content") if isinstance(token, dict) else token for token in tokens]
    ids = [added.get(text, vocabulary.get(text)) for text in found if text and isinstance(text, str)]
    ids += [getattr(inner, "eos_token_id", None), 0]
    chosen = next(number for number in ids if isinstance(number, int) and 0 <= number < inner.vocab_size)
    inner.pad_token_id = settings.pad_token_id = chosen
    return [f"Its configuration names no padding token; token {chosen} is taken."]


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return a value of a file if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}
