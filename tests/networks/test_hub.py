"""Networks in Hugging Face format from a local folder: text, pictures and sound, with and without a head."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import NetworkError
from regraft.networks.hub.files import checked_config
from regraft.networks.hub.opening import hub_module, open_hub
from regraft.networks.hub.processors import measured_processor
from regraft.networks.sources.building import Limits

transformers = pytest.importorskip("transformers")


def vit(folder: Path, *, head: bool) -> Path:
    names = {0: "cat", 1: "dog", 2: "bus"}
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8, id2label=names
    )
    model = transformers.ViTForImageClassification(config) if head else transformers.ViTModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.4] * 3, image_std=[0.3] * 3).save_pretrained(folder)
    return folder


def wav2vec(folder: Path) -> Path:
    config = transformers.Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8), conv_stride=(20, 16),
        conv_kernel=(20, 16), num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, num_labels=3,
        classifier_proj_size=8, mask_time_prob=0.0,
    )  # fmt: skip
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("head", [True, False])
def test_image_networks_bring_class_names_and_preprocessing(head: bool, tmp_path: Path) -> None:
    net = regraft.load(f"hf:{vit(tmp_path / 'vit', head=head)}")
    assert (net.preprocessing.height, net.preprocessing.mean) == (32, (0.4, 0.4, 0.4))
    assert (net.classes == ("cat", "dog", "bus")) if head else not net.heads
    assert len(net.blocks) >= 3
    pictures = np.random.default_rng(0).integers(0, 255, (40, 20, 20, 3)).astype(np.uint8)
    result = regraft.adapt(
        net, (pictures, np.array(["dog", "plane"] * 20)), strategy="partial", frozen=2, epochs=1, cache="memory", out=tmp_path / "out"
    )
    assert result.account.to_dict()["kept"] == (["dog"] if head else [])
    again = regraft.load(tmp_path / "out")
    assert np.array_equal(again.logits(pictures[:5]), result.network.logits(pictures[:5]))


def test_sound_networks_take_waveforms(tmp_path: Path) -> None:
    net = regraft.load(f"hf:{wav2vec(tmp_path / 'sound')}")
    assert net.preprocessing.features == "waveform"
    waves = np.random.default_rng(0).normal(size=(24, 8000)).astype(np.float32)
    result = regraft.adapt(net, (waves, np.array(["a", "b"] * 12)), strategy="head", epochs=1, cache="memory", out=tmp_path / "out")
    assert result.cost["frozen_forward_examples"] == 24
    assert np.array_equal(regraft.load(tmp_path / "out").logits(waves[:3]), result.network.logits(waves[:3]))


def test_a_folder_that_is_none_and_pickled_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(regraft.RegraftError, match="Hugging Face format"):
        regraft.load(f"hf:{tmp_path / 'nothing'}")
    folder = vit(tmp_path / "vit", head=True)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle would be here")
    with pytest.raises(regraft.RegraftError, match="pickled weights are not opened"):
        regraft.load(f"hf:{folder}")


_TEXT = {"vocab_size": 12, "num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
_SIGHT = {"image_size": 32, "num_channels": 3}
_SOUND = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": (8, 8),
    "conv_stride": (20, 16), "conv_kernel": (20, 16), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_prob": 0.0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, object]] = {
    "BertForSequenceClassification": _TEXT,
    "BertModel": _TEXT,
    "RobertaForSequenceClassification": _TEXT | {"pad_token_id": 0},
    "DistilBertForSequenceClassification": {"vocab_size": 12, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "DebertaV2ForSequenceClassification": _TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pad_token_id": 0},
    "ModernBertForSequenceClassification": _TEXT | {"pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 4},
    "GPT2ForSequenceClassification": {"vocab_size": 12, "n_embd": 16, "n_layer": 2, "n_head": 2, "pad_token_id": 0},
    "ViTForImageClassification": _SIGHT | {key: value for key, value in _TEXT.items() if key != "vocab_size"},
    "SwinForImageClassification": _SIGHT | {"patch_size": 4, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4},
    "ConvNextForImageClassification": _SIGHT | {"hidden_sizes": [8, 8], "depths": [1, 2], "num_stages": 2},
    "Wav2Vec2ForSequenceClassification": _SOUND,
    "HubertForSequenceClassification": _SOUND,
    "WavLMForSequenceClassification": _SOUND,
}


@pytest.mark.filterwarnings("ignore:.*preprocessor_config")
@pytest.mark.parametrize("family", FAMILIES)
def test_the_network_is_the_one_that_transformers_opens(family: str, tmp_path: Path) -> None:
    made_of = getattr(transformers, family)
    torch.manual_seed(0)
    labels = {"id2label": {0: "cat/dog", 1: "bus: red", 2: "tram"}} if "For" in family else {}
    made_of(made_of.config_class(**FAMILIES[family], **labels)).save_pretrained(tmp_path / "hub")
    expected = made_of.from_pretrained(tmp_path / "hub").eval()
    opened = open_hub(str(tmp_path / "hub"), pretrained=True)
    named = opened.sample if isinstance(opened.sample, dict) else {expected.main_input_name: opened.sample}
    own = opened.module.eval() if "For" in family else opened.module.encoder.eval()
    with torch.no_grad():
        assert torch.equal(own(**named)[0], expected(**named)[0])
    assert opened.classes == (("cat/dog", "bus: red", "tram") if "For" in family else None)
    known = {name: value for name, value in expected.config.to_dict().items() if name not in _DECIDED and not name.startswith("_")}
    assert {name: opened.origin["config"].get(name) for name in known} == known
    again = hub_module(json.loads(json.dumps(opened.origin["config"])), limits=Limits.of(opened.module.state_dict()), what="'x'")
    again.load_state_dict(opened.module.state_dict(), strict=True)
    again.eval()
    with torch.no_grad():
        assert torch.equal((again if "For" in family else again.encoder)(**named)[0], own(**named)[0])


_DECIDED = {"dtype", "torch_dtype", "label2id", "name_or_path", "transformers_version"}


@pytest.mark.slow
def test_every_configuration_keeps_its_values_or_is_refused_by_name() -> None:
    checked = 0
    for kind in transformers.CONFIG_MAPPING:
        try:
            plain = json.loads(json.dumps(transformers.CONFIG_MAPPING[kind]().to_dict(), default=str))
            expected = transformers.AutoConfig.for_model(**plain).to_dict()
        except Exception:  # defaults that the library itself does not take (back) fail in any way
            continue
        try:
            found, fields = checked_config(plain, transformers=transformers, what=kind)
        except NetworkError as error:
            assert re.search("made of other networks|settings of their own|path or a repository", str(error)), kind
            continue
        again = transformers.AutoConfig.for_model(found, **fields).to_dict()
        other = {name for name in {*expected, *again} if expected.get(name) != again.get(name) and not name.startswith("_")}
        assert other <= _DECIDED | {"architectures"}, kind
        checked += 1
    assert checked > 100


def test_a_number_of_classes_and_numbers_without_end_are_settings() -> None:
    plain = {"model_type": "bert", "num_labels": 4, "layer_norm_eps": {"__float__": "Infinity"}, "hidden_size": 8}
    kind, fields = checked_config(plain, transformers=transformers, what="'x'")
    assert (kind, fields["num_labels"], fields["layer_norm_eps"], fields["hidden_size"]) == ("bert", 4, float("inf"), 8)


def _centre(pixels: np.ndarray, side: int = 280) -> np.ndarray:
    top, left = (len(pixels) - side) // 2, (pixels.shape[1] - side) // 2
    return pixels.transpose(2, 0, 1)[:, top : top + side, left : left + side] / 255


def _refuses(_pixels: np.ndarray) -> np.ndarray:
    raise ValueError("no such picture")


_UNMEASURED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "refuses": _refuses,
    "one channel": lambda pixels: _centre(pixels)[:1],
    "another size for turned pictures": lambda pixels: pixels.transpose(2, 0, 1),
    "inverted": lambda pixels: -_centre(pixels),
    "no numbers": lambda pixels: _centre(pixels) * np.nan,
    "turned": lambda pixels: _centre(pixels).transpose(0, 2, 1),
    "off the centre": lambda pixels: pixels.transpose(2, 0, 1)[:, :200, :200],
    "padded": lambda pixels: np.pad(_centre(pixels, 300), ((0, 0), (9, 9), (9, 9)), mode="reflect", reflect_type="odd"),
}


def test_what_a_processor_does_is_measured_or_not_told() -> None:
    def measured(change: Callable[[np.ndarray], np.ndarray]) -> Any:
        return measured_processor(lambda images, **_: {"pixel_values": [change(np.asarray(images[0], float))]})

    found = measured(_centre)
    assert (found["height"], found["width"], found["resize"], found["crop_fraction"]) == (280, 280, "crop", 280 / 300)
    assert (found["mean"], found["std"], found["bgr"]) == ([0.0] * 3, [1.0] * 3, False)
    assert {name: measured(change) for name, change in _UNMEASURED.items()} == dict.fromkeys(_UNMEASURED)
