"""Files read from a Hugging Face folder: a few files by name, configuration keys by allow-list, and safetensors weights.

The library never sees the folder: it gets plain configuration values and tensors. Nothing in a folder can therefore name code, a kernel,
an adapter, another repository or a path that the library would import, fetch or read.
"""

import dataclasses
import dis
import inspect
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import NetworkError, UnsafeFileError, near_names, optional_import
from ...files.formats import member, reason_of
from ...files.schema import read_json
from ...files.text import printable
from ..sources.building import cached_only_when_offline
from ..sources.torch_files import read_torch_weights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_config.json"
SMALL_FILES = (
    CONFIG_FILE, ADAPTER_FILE, "preprocessor_config.json", "1_Pooling/config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "tokenizer.model",
)  # fmt: skip
_WEIGHTS = (WEIGHTS_FILE, INDEX_FILE, "model-*-of-*.safetensors")

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_ALSO = frozenset({
    "bos_token_id", "chunk_size_feed_forward", "decoder_start_token_id", "embed_dim", "eos_token_id", "global_rope_theta", "head_dim",
    "is_causal", "is_decoder", "local_rope_theta", "pad_token_id", "partial_rotary_factor", "qkv_bias", "rope_local_base_freq",
    "rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base", "rotary_pct", "sliding_window", "sliding_window_pattern",
    "tie_word_embeddings", "use_bias",
})  # fmt: skip
"""Allowed keys that configuration classes do not declare: common keys and former names."""
_NEVER = frozenset({
    "architectures", "attn_implementation", "dtype", "experts_implementation", "fusion_config", "label2id", "model_type", "name_or_path",
    "output_attentions", "output_hidden_states", "quantization_config", "return_dict", "torch_dtype", "torchscript",
    "transformers_version", "transformers_weights",
})  # fmt: skip
"""Declared keys that regraft sets itself: the classes, the dtype, and the implementation of attention."""
_FOREIGN = frozenset({"architecture", "backbone", "backbone_config", "backbone_kwargs", "model_args", "use_timm_backbone"})
"""Keys of networks that contain another one, named in another library or on the hub."""
_REFUSED = {
    "quantization_config": "its weights are quantised. Save them once in full precision: model.dequantize(), then save_pretrained",
    "per_layer_config": "single layers have settings of their own. Open it with transformers and give the module: regraft.load(module)",
}
_READERS = ("__post_init__", "__init__", "convert_rope_params_to_dict")
"""Methods in which a configuration class reads former names of its keys."""
_MANY = re.compile(r"(?!.*(size|dim|width|vocab))(.*(layer|depth|block|stage|expert|heads|branch|group|levels))")
_LARGEST_COUNT = 2**15
_LARGEST = 2**24
_LONGEST = 100_000
_MOST_CLASSES = 1_000_000


def hub_folder(name: str, *, weights: bool) -> Path:
    """Return the local folder of a network in Hugging Face format; of a hub id, only the allowed files are downloaded."""
    if Path(name).is_dir():
        return Path(name)
    expected = "expected a folder in Hugging Face format (config.json, model.safetensors) or a hub id that can be reached"
    if not _REPOSITORY.fullmatch(name):
        raise NetworkError(f"'hf:{printable(name)}' cannot be opened: {expected}. There is no such folder, and no id has this form.")
    hub = optional_import("huggingface_hub", "text", purpose=f"'hf:{name}'")
    try:
        with cached_only_when_offline():
            return Path(hub.snapshot_download(name, allow_patterns=[*SMALL_FILES, *(_WEIGHTS if weights else ())]))
    except (OSError, ValueError, RuntimeError) as error:
        raise NetworkError(f"'hf:{name}' cannot be opened: {expected}. {reason_of(error)}.") from error


def read_hub_json(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the content of a JSON file in a folder, or None if it does not exist."""
    path = member(folder, name)
    if not path.exists():
        return None
    content = read_json(path, "hub config")
    if not isinstance(content, dict):
        raise NetworkError(f"{printable(path)!r} holds a {type(content).__name__}; expected a mapping, as transformers saves it.")
    return content


def read_hub_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights of a folder as float32, from `model.safetensors` or the files named in its index; never from a pickle."""
    files = [WEIGHTS_FILE]
    if not member(folder, WEIGHTS_FILE).exists():
        index = read_hub_json(folder, INDEX_FILE)
        if index is None:
            raise NetworkError(
                f"'hf:{printable(folder)}' has no readable model.safetensors (pickled weights are not opened). "
                "Convert them once in an environment that you can lose: model.save_pretrained(folder, safe_serialization=True)."
            )
        names = index.get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
            raise NetworkError(f"{INDEX_FILE} in {printable(folder)!r} names no files; expected 'weight_map', from tensors to files.")
        files = sorted(set(names.values()))
    tensors: dict[str, Tensor] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise UnsafeFileError(f"{INDEX_FILE} in {printable(folder)!r} names {printable(file)!r}; only safetensors files are opened.")
        tensors |= read_torch_weights(member(folder, file))
    return {name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def checked_config(content: Mapping[str, Any], *, transformers: Any, what: str) -> tuple[str, dict[str, Any]]:
    """Return the model type and the allowed settings of an untrusted configuration."""
    for key, why in _REFUSED.items():
        if content.get(key):
            raise NetworkError(f"{what} has {key!r}: {why}.")
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in transformers.CONFIG_MAPPING:
        own = " It names code of its own ('auto_map'), which is never run." if "auto_map" in content else ""
        near = (
            near_names(printable(kind, width=80), transformers.CONFIG_MAPPING) if isinstance(kind, str) else "; its config.json names none"
        )
        raise NetworkError(
            f"{what}: transformers {transformers.__version__} knows no network of the type {printable(kind, width=80)!r}{near}.{own}"
        )
    made_of, labels = transformers.CONFIG_MAPPING[kind], _labels(content, what=what)
    if "id2label" in labels and "num_labels" in _declared(made_of):  # PVT, whose own default counts whatever names are given
        labels["num_labels"] = len(labels["id2label"])
    return kind, _allowed(content, made_of, what=what) | labels


def _allowed(content: Mapping[str, Any], made_of: Any, *, what: str) -> dict[str, Any]:
    """Return the allowed keys of a configuration class and, recursively, of its fixed sub-configurations."""
    declared, parts = _declared(made_of), getattr(made_of, "sub_configs", None) or {}
    named = [name for name, part in parts.items() if part.__name__ == "AutoConfig"]
    if named or declared & _FOREIGN:
        raise UnsafeFileError(
            f"{what} is of the type {made_of.model_type!r}, which is made of other networks that its configuration names; expected one "
            "encoder of texts, pictures or sound. Where you trust it, open it with transformers yourself and give the module: "
            "regraft.load(module)."
        )
    allowed = (declared | _ALSO) - _NEVER - {"id2label", "num_labels"}
    found = {key: _checked(key, value, what=what) for key, value in content.items() if key in allowed and key not in parts}
    inner = {name: value for name, value in content.items() if name in parts and isinstance(value, dict)}
    return found | {name: _allowed(value, parts[name], what=what) for name, value in inner.items()}


def _declared(made_of: type) -> frozenset[str]:
    """Return the keys that a configuration class takes: its dataclass fields or, in earlier versions of the library, its arguments.
    They include the former names that it still reads and the values that it derives; without them the configuration would describe another
    network."""
    if dataclasses.is_dataclass(made_of):
        names = {each.name for each in dataclasses.fields(made_of)}
    else:
        names = {name for base in made_of.__mro__ if "__init__" in vars(base) for name in inspect.signature(base.__init__).parameters}  # type: ignore[misc]
    own = [base for base in made_of.__mro__ if not base.__module__.endswith(".configuration_utils")]
    readers = [inspect.unwrap(vars(base)[name]) for base in own for name in _READERS if inspect.isfunction(vars(base).get(name))]
    read = {text for reader in readers for text in reader.__code__.co_consts if isinstance(text, str) and text.isidentifier()}
    kept = {str(step.argval) for reader in readers for step in dis.get_instructions(reader) if step.opname == "STORE_ATTR"}
    return frozenset(names | {name for name in read | kept if not name.startswith("_")} | set(getattr(made_of, "attribute_map", ())))


def _labels(content: Mapping[str, Any], *, what: str) -> dict[str, Any]:
    """Return the class names in row order, or their number, as settings of the library."""
    labels, count = content.get("id2label"), content.get("num_labels")
    if labels is None and count is None:
        return {}
    if labels is None:
        if not isinstance(count, int) or not 1 <= count <= _MOST_CLASSES:
            raise NetworkError(
                f"{what} has num_labels={printable(repr(count), width=60)}; expected a whole number from 1 to {_MOST_CLASSES:,}."
            )
        return {"num_labels": count}
    rows = [str(index) for index in range(len(labels))] if isinstance(labels, dict) and len(labels) <= _MOST_CLASSES else None
    named = {} if rows is None else {str(key): str(label) for key, label in labels.items()}
    if rows is None or set(named) != set(rows) or not all(isinstance(label, str | int) for label in labels.values()):
        raise NetworkError(
            f"{what} has id2label={printable(repr(labels), width=80)}; expected a name for each class, from 0 without a gap."
        )
    ordered = {int(row): named[row] for row in rows}
    return {"id2label": ordered, "label2id": {label: row for row, label in ordered.items()}}


def _checked(key: str, value: Any, *, what: str, deep: int = 0) -> Any:
    """Return a configuration value after checking that it is plain, of a plausible size, and no path or repository."""
    shown = f"{what} has {printable(key, width=80)}={printable(repr(value), width=60)}"
    if isinstance(value, int):
        largest = _LARGEST_COUNT if _MANY.match(key) else 2**53 if "theta" in key or "base" in key else _LARGEST
        if abs(value) > largest:
            raise NetworkError(f"{shown}; expected at most {largest:,}. The configuration is damaged, or was not saved by transformers.")
    if isinstance(value, float) and math.isnan(value):
        raise NetworkError(f"{shown}; expected a number. The configuration is damaged.")
    if isinstance(value, str) and (len(value) > 200 or not value.isprintable() or any(mark in value for mark in "/\\:")):
        raise UnsafeFileError(f"{shown}, which could be a path or a repository; expected a setting of the network.")
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, list | tuple | dict) and len(value) <= _LONGEST and deep < 4:
        if isinstance(value, dict):
            if set(value) == {"__float__"} and value["__float__"] in ("Infinity", "-Infinity"):
                return float(value["__float__"])
            return {str(name): _checked(f"{key}.{name}", part, what=what, deep=deep + 1) for name, part in value.items()}
        return [_checked(key, part, what=what, deep=deep + 1) for part in value]
    raise NetworkError(f"{shown}; expected a number, a short text or a list of these. The configuration is damaged.")
