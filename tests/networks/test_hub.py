"""Networks in Hugging Face format from a local folder: text, pictures and sound, with and without a head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import regraft

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
    assert np.array_equal(again.raw_scores(pictures[:5]), result.network.raw_scores(pictures[:5]))


def test_sound_networks_take_waveforms(tmp_path: Path) -> None:
    net = regraft.load(f"hf:{wav2vec(tmp_path / 'sound')}")
    assert net.preprocessing.features == "waveform"
    waves = np.random.default_rng(0).normal(size=(24, 8000)).astype(np.float32)
    result = regraft.adapt(net, (waves, np.array(["a", "b"] * 12)), strategy="head", epochs=1, cache="memory", out=tmp_path / "out")
    assert result.cost["frozen_forward_items"] == 24
    assert np.array_equal(regraft.load(tmp_path / "out").raw_scores(waves[:3]), result.network.raw_scores(waves[:3]))


def test_a_folder_that_is_none_and_pickled_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(regraft.RegraftError, match="Hugging Face format"):
        regraft.load(f"hf:{tmp_path / 'nothing'}")
    folder = vit(tmp_path / "vit", head=True)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle would be here")
    with pytest.raises(regraft.RegraftError, match="pickled weights are not opened"):
        regraft.load(f"hf:{folder}")
