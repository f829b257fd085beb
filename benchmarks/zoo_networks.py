"""The networks of `zoo.py`: small ones of each library with random weights, and what it makes itself for another number of classes."""

from __future__ import annotations

import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import timm
import torch
import torchvision.models
import transformers
from transformers.models.auto import modeling_auto

import regraft

CLASSES = 3
WORDS = ["[PAD]", "[UNK]", "[X]", "[Y]", "a", "good", "bad", "bus", "tram", "and", "very", "slow"]


class NotBuilt(Exception):
    """The library itself makes no such network here."""


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        key: what it stands for: a module, family or class.
        name: of the network.
        classes: rows of the head that the library gives it.
        opened: makes it a network of regraft; a folder may be used.
        examples: that many.
        retargeted: names and shapes of the weights that the library makes for three classes, for the network that was opened.
        texts: it takes texts.
        note: on how it was opened.
    """

    key: str
    name: str
    classes: int
    opened: Callable[[Path], Any]
    examples: Callable[[int], Any]
    retargeted: Callable[[Any], list[tuple[str, list[int]]]]
    texts: bool = False
    note: str = ""


def pictures(count: int) -> np.ndarray:
    """Return pictures (count, 72, 72, 3), bytes, of three levels in turn."""
    draw = np.random.default_rng(0).integers(0, 150, (count, 72, 72, 3))
    return (draw + 50 * (np.arange(count) % 3)[:, None, None, None]).astype(np.uint8)


def waves(count: int) -> np.ndarray:
    """Return sounds (count, 8000)."""
    return np.random.default_rng(0).normal(size=(count, 8000)).astype(np.float32)


def colours(count: int) -> np.ndarray:
    """Return pictures as numbers of colours (count, 64), as ImageGPT takes them."""
    return np.random.default_rng(0).integers(0, 60, (count, 64))


def texts(count: int) -> list[str]:
    """Return short texts of known words."""
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS[4:], 3 + index % 4)) for index in range(count)]


def shapes(module: torch.nn.Module) -> list[tuple[str, list[int]]]:
    """Return names and shapes of all weights of a module."""
    return [(name, list(tensor.shape)) for name, tensor in module.state_dict().items()]


def at_small_pictures(source: str, side: int) -> Any:
    """Return a network that is given pictures of `side` pixels where it takes them; they are quicker."""
    try:
        small = regraft.load(source, weights="random", inputs=(3, side, side))
        torch.nn.Module.train(small.module)  # heads that only training calls may need larger ones
        small.scores(torch.as_tensor(small.preprocessing.batch(list(pictures(4)))))
        small.module.eval()
    except Exception:  # a Python forward may refuse another size in any way
        return regraft.load(source, weights="random")
    return small


# ── timm and torchvision ──────────────────────────────────────────────────────────────────────────────────
LARGE = 100_000_000  # weights; pictures of 64 pixels for networks above it
SMALLEST = Path(__file__).with_name("zoo_smallest.json")


def timm_cases() -> list[Case]:
    """Return the smallest network of every module, by the product of its weights and the pixels of its pictures; the smaller ones first."""
    return [_timm_case(module, name) for module, name in json.loads(SMALLEST.read_text()).items()]


def _timm_case(module: str, name: str) -> Case:
    config = timm.get_pretrained_cfg(name)
    side = max(96, (config.min_input_size or (3, 96, 96))[1])

    def remade(net: Any) -> list[tuple[str, list[int]]]:
        return shapes(_reset(timm.create_model(name, **{key: net.origin[key] for key in ("img_size",) if key in net.origin})))

    return Case(module, name, int(config.num_classes), lambda _folder: at_small_pictures(f"timm:{name}", side), pictures, remade)


def _reset(module: torch.nn.Module) -> torch.nn.Module:
    """Let timm give a network another number of classes, in as many heads as it has."""
    second = {"distillation": True} if "distillation" in inspect.signature(module.reset_classifier).parameters else {}
    module.reset_classifier(CLASSES, **second)
    return module


def torchvision_cases() -> list[Case]:
    """Return every classifier."""
    return [_torchvision_case(name) for name in torchvision.models.list_models(module=torchvision.models)]


def _torchvision_case(name: str) -> Case:
    large = torchvision.models.get_model_weights(name).DEFAULT.meta["num_params"] > LARGE
    side = (70 if large else 98) if name.endswith("_14") else 64 if large else 96  # a multiple of the patches' side
    own = {"image_size": side} if name.startswith("vit_") else {}

    def remade(_net: Any) -> list[tuple[str, list[int]]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return shapes(torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **own))

    return Case(name, name, 1000, lambda _folder: at_small_pictures(f"torchvision:{name}", side), pictures, remade)


# ── keras.applications ────────────────────────────────────────────────────────────────────────────────────
KERAS = (
    "ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionResNetV2", "InceptionV3", "MobileNet", "MobileNetV2",
    "MobileNetV3Small", "NASNetMobile", "ResNet50", "ResNet50V2", "VGG16", "Xception",
)  # fmt: skip


def keras_cases() -> list[Case]:
    """Return the smallest network of every family."""
    return [_keras_case(name) for name in KERAS]


def _keras_case(name: str) -> Case:
    def made(classes: int) -> Any:
        import keras

        side = 75 if "Inception" in name or name == "Xception" else 64
        try:
            return getattr(keras.applications, name)(weights=None, classes=classes, input_shape=(side, side, 3))
        except ValueError as error:  # NASNet's is not for the torch backend
            raise NotBuilt(str(error)) from error

    def opened(_folder: Path) -> Any:
        side = 75 if "Inception" in name or name == "Xception" else 64
        return regraft.load(
            made(10),
            preprocessing={"kind": "image", "height": side, "width": side, "channels": 3, "layout": "channels_last", "scale": 1 / 255},
        )

    def remade(_net: Any) -> list[tuple[str, list[int]]]:
        return [(str(index), list(weight.shape)) for index, weight in enumerate(made(CLASSES).weights)]

    return Case(name, name, 10, opened, pictures, remade)


# ── Transformers ──────────────────────────────────────────────────────────────────────────────────────────
KINDS = {"Image": pictures, "Audio": waves, "Sequence": texts}
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "dim", "n_embd", "embed_dim", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layers", "n_layer", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers", "num_global_layers", "num_encoder_blocks"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "d_inner", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "dff", "ffn_hidden_size", "n_inner"), 64),
    **dict.fromkeys(("d_kv", "head_dim", "d_head", "kv_channels"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_source_positions", "max_target_positions"), 64),
    "vocab_size": 64, "pad_token_id": 0, "image_size": 64, "type_vocab_size": 2, "num_channels": 3,
}  # fmt: skip
FOR_SOUND = {
    "conv_dim": (8, 8), "conv_stride": (20, 16), "conv_kernel": (20, 16), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_prob": 0.0, "feat_extract_norm": "layer",
}  # fmt: skip


def patches(count: int) -> dict[str, np.ndarray]:
    """Return patches of square pictures as SigLIP 2's processor does."""
    rows = np.random.default_rng(0).normal(size=(count, 256, 768)).astype(np.float32)
    return {"pixel_values": rows, "pixel_attention_mask": np.ones((count, 256), np.int64), "spatial_shapes": np.full((count, 2), 16)}


def hub_cases() -> list[Case]:
    """Return one tiny network of every class that classifies pictures, sound or texts."""
    cases = {}
    for kind, examples in KINDS.items():
        names = getattr(modeling_auto, f"MODEL_FOR_{kind.upper()}_CLASSIFICATION_MAPPING_NAMES")
        for model_type, classes in names.items():
            name = classes if isinstance(classes, str) else classes[0]
            if name != "TimmWrapperForImageClassification" and name not in cases:
                own = {"imagegpt": colours, "siglip2": patches}.get(model_type, examples)
                cases[name] = _hub_case(model_type, name, kind=kind, examples=own)
    return [cases[name] for name in sorted(cases)]


def configured(model_type: str, kind: str, *, classes: int) -> Any:
    """Return a tiny configuration."""
    made_of = transformers.CONFIG_MAPPING[model_type]
    plain = made_of().to_dict()
    given = {key: value for key, value in small(plain).items()}
    if kind == "Audio":
        given |= {key: value for key, value in FOR_SOUND.items() if key in plain}
    if model_type in AS_THEY_ARE:
        given.pop("hidden_sizes", None)
    if "num_labels" in plain:  # PVT, whose default is 1,000 whatever names are given
        given["num_labels"] = classes
    given |= SPECIAL.get(model_type, {})
    return made_of(**given, id2label={index: f"label {index}" for index in range(classes)})


def small(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return small values for those settings of a configuration that decide its size."""
    found: dict[str, Any] = {}
    for key, value in plain.items():
        if key in SMALL and isinstance(value, int) and not isinstance(value, bool):
            found[key] = min(SMALL[key], value) if key != "image_size" else SMALL[key]
        elif key in ("hidden_sizes", "embed_dims", "widths") and isinstance(value, list | tuple):
            found[key] = [16 * (index + 1) for index in range(len(value))]
        elif key in ("depths", "depth") and isinstance(value, list | tuple):
            found[key] = [1] * len(value)
        elif (key.endswith("_config") or key in ("encoder", "decoder")) and isinstance(value, dict) and key != "quantization_config":
            found[key] = small(value)
    return found


AS_THEY_ARE = ("poolformer", "pvt", "textnet")
"""Types whose sizes belong to those of other settings."""
T5GEMMA = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 64, "head_dim": 8,
    "vocab_size": 64, "max_position_embeddings": 64, "layer_types": ["sliding_attention", "full_attention"],
    "cross_attention_hidden_size": 32,
}  # fmt: skip
"""Encoder and decoder of T5Gemma."""
SPECIAL: dict[str, dict[str, Any]] = {
    "bit": {"hidden_sizes": [32, 64, 96, 128], "num_groups": 8, "embedding_size": 16},
    "cvt": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3], "cls_token": [False, False, True]},
    "deit": {"image_size": 64},
    "pvt": {"num_encoder_blocks": 4},
    "xmod": {"default_language": "en_XX"},
    "whisper": {"max_source_positions": 50},
    "donut-swin": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
    "swin": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
    "siglip2": {"vision_config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}},
    **{kind: {"layer_types": ["linear_attention", "full_attention"]} for kind in ("qwen3_5_text", "qwen3_next")},
    "swinv2": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2]},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
    "hgnet_v2": {"stage_in_channels": [16, 16, 32, 32], "stage_mid_channels": [8, 8, 8, 8], "stage_out_channels": [16, 32, 32, 32],
                 "stem_channels": [3, 8, 16], "hidden_sizes": [16, 32, 32, 32], "stage_num_blocks": [1, 1, 1, 1]},
    "levit": {"hidden_sizes": [16, 32, 48], "depths": [1, 1, 1], "num_attention_heads": [2, 2, 2], "image_size": 64},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevitv2": {"width_multiplier": 0.5},
    "perceiver": {"num_latents": 8, "d_latents": 32, "d_model": 32, "num_self_attends_per_block": 2, "num_blocks": 1,
                  "num_self_attention_heads": 2, "num_cross_attention_heads": 2},
    "deepseek_v2": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    **{
        kind: {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
               "v_head_dim": 8, "head_dim": 8}
        for kind in ("deepseek_v3", "axk1", "axk2")
    },
    "esm": {"vocab_size": 64, "pad_token_id": 0, "mask_token_id": 1, "position_embedding_type": "rotary"},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "markuplm": {"max_xpath_tag_unit_embeddings": 220, "max_xpath_subs_unit_embeddings": 1010},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 4, "hidden_size": 32},
    "roc_bert": {"pronunciation_vocab_size": 64, "shape_vocab_size": 64},
    "gptj": {"rotary_dim": 4}, "jamba": {"num_hidden_layers": 8, "num_experts": 2, "mamba_dt_rank": 4},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 32},
    "lilt": {"hidden_size": 48, "channel_shrink_ratio": 2},
    "nemotron": {"num_key_value_heads": 4},
    "zamba": {"layer_types": ["mamba", "hybrid"], "mamba_expand": 2, "n_mamba_heads": 2, "mamba_dt_rank": 4},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "layer_types": ["mamba", "hybrid"], "n_mamba_heads": 2},
    "ministral": {"head_dim": 8}, "hunyuan_v1_dense": {"head_dim": 8}, "hunyuan_v1_moe": {"head_dim": 8},
    **{kind: {"decoder_start_token_id": 0} for kind in ("t5", "mt5", "umt5")},
    **{kind: {"eos_token_id": 40} for kind in ("bigbird_pegasus", "mvp", "plbart")},
    "t5gemma": {"encoder": T5GEMMA, "decoder": T5GEMMA, "vocab_size": 64},
    "mistral4": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "qk_rope_head_dim": 8,
                 "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 16, "q_lora_rank": 16, "kv_lora_rank": 16},
    "poolformer": {"num_encoder_blocks": 4, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "qwen3_5": {
        "text_config": {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 8,
            "intermediate_size": 64, "vocab_size": 64, "layer_types": ["linear_attention", "full_attention"], "max_position_embeddings": 64,
            "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        },
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32},
    },
}  # fmt: skip
"""Settings of single types, where those above do not go together."""


def _hub_case(model_type: str, name: str, *, kind: str, examples: Callable[[int], Any]) -> Case:
    def made(classes: int) -> Any:
        try:
            return getattr(transformers, name)(configured(model_type, kind, classes=classes))
        except Exception as error:
            raise NotBuilt(f"{type(error).__name__}: {error}") from error

    def opened(folder: Path) -> Any:
        module = made(5)
        module.save_pretrained(folder)
        if kind == "Sequence":
            tokenizer_for(folder, module.config)
        if model_type == "audio-spectrogram-transformer":
            sizes = {"max_length": module.config.max_length, "num_mel_bins": module.config.num_mel_bins}
            transformers.ASTFeatureExtractor(**sizes).save_pretrained(folder)
        if model_type == "whisper":
            transformers.WhisperFeatureExtractor(feature_size=module.config.num_mel_bins, chunk_length=1).save_pretrained(folder)
        if model_type == "wav2vec2-bert":
            transformers.SeamlessM4TFeatureExtractor().save_pretrained(folder)
        return regraft.load(f"hf:{folder}")

    def remade(_net: Any) -> list[tuple[str, list[int]]]:
        return shapes(made(CLASSES))

    return Case(name, name, 5, opened, examples, remade, texts=kind == "Sequence")


def tokenizer_for(folder: Path, config: Any) -> None:
    """Write a tokenizer of whole words into a folder; for networks that look for the end of a text it adds that."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    end = config.eos_token_id if config.is_encoder_decoder else None
    if end is not None:
        made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", end)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)


LIBRARIES: dict[str, Callable[[], list[Case]]] = {
    "torchvision": torchvision_cases,
    "Hugging Face": hub_cases,
    "keras.applications": keras_cases,
    "timm": timm_cases,
}
