"""What is ordinary with Transformers: classifiers without a padding token, of parts, in memory, with what they say of themselves."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import DataError, NetworkError
from regraft.networks.hub.processors import sound_extractor
from regraft.networks.network import Network

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "</s>", "a", "good", "bad", "bus", "tram"]
TEXTS = ["good bus", "a bad tram", "a good good tram", "bad"]
_TEXT = {"vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_BART = {
    "vocab_size": 16, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 3, "decoder_start_token_id": 2,
    "forced_eos_token_id": None, "max_position_embeddings": 32,
}  # fmt: skip
_T5 = {
    "vocab_size": 16,
    "d_model": 16,
    "d_ff": 16,
    "d_kv": 8,
    "num_layers": 1,
    "num_heads": 2,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
TEXT_NETWORKS: dict[str, dict[str, Any]] = {
    "BertForSequenceClassification": _TEXT,
    "LlamaForSequenceClassification": _TEXT | {"num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 2},
    "GPT2ForSequenceClassification": {"vocab_size": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 2, "eos_token_id": 2},
    "BartForSequenceClassification": _BART,
    "T5ForSequenceClassification": _T5,
}
_SIGHT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
_PARTS = {"vision_config": _SIGHT, "text_config": _TEXT | {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 0}}
OTHERS: dict[str, dict[str, Any]] = {
    "ResNetForImageClassification": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    "SegformerForImageClassification": {
        "hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "sr_ratios": [2, 1], "num_attention_heads": [1, 2],
        "patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2],
    },
    "PvtForImageClassification": {
        "hidden_sizes": [8, 16], "depths": [1, 1], "num_encoder_blocks": 2, "num_attention_heads": [1, 2],
        "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2], "strides": [4, 2], "mlp_ratios": [2, 2], "image_size": 32,
        "num_labels": 3,
    },
    "SwiftFormerForImageClassification": {"depths": [1, 1, 1, 1], "embed_dims": [8, 8, 16, 16], "image_size": 64},
    "CLIPForImageClassification": _PARTS,
    "SiglipForImageClassification": _PARTS,
    "WhisperForAudioClassification": {
        "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
        "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_mel_bins": 8, "max_source_positions": 20, "classifier_proj_size": 8,
    },
    "ASTForAudioClassification": {key: value for key, value in _SIGHT.items() if key != "image_size"}
    | {"max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8},
}  # fmt: skip
NAMES = {0: "no", 1: "yes", 2: "perhaps"}


def made(kind: str, settings: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, kind)
    return model(model.config_class(**settings, id2label=NAMES)).eval()


def tokenizer(*, words: list[str] = WORDS, pad: bool = True, end: bool = False, longest: int | None = None) -> Any:
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if end:
        own.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    given = {"pad_token": "[PAD]"} if pad else {}
    given |= {"model_max_length": longest} if longest else {}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=own, unk_token="[UNK]", eos_token="</s>", **given)


def folder_of(kind: str, folder: Path, *, pad: bool = True) -> Any:
    model = made(kind, TEXT_NETWORKS[kind])
    model.save_pretrained(folder)
    tokenizer(pad=pad, end=kind in ("BartForSequenceClassification", "T5ForSequenceClassification")).save_pretrained(folder)
    return model


def same_logits(net: Network, other: Network) -> bool:
    return np.array_equal(net.logits(TEXTS), other.logits(TEXTS))


@pytest.mark.parametrize("kind", TEXT_NETWORKS)
def test_a_classifier_of_texts_is_opened_adapted_and_opened_again(kind: str, tmp_path: Path) -> None:
    model = folder_of(kind, tmp_path / "hub")
    net = regraft.load(f"hf:{tmp_path / 'hub'}")
    assert net.classes == tuple(NAMES.values())
    batch = net.preprocessing.batch(TEXTS)
    model.config.pad_token_id = 0
    with torch.no_grad():
        assert np.allclose(net.logits(TEXTS), model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits, atol=1e-6)
    data = regraft.read((TEXTS * 6, ["yes", "new", "new", "yes"] * 6), kind="text")
    result = regraft.adapt(net, data, strategy="head", epochs=1, cache="memory", out=tmp_path / "out")
    assert same_logits(regraft.load(tmp_path / "out"), result.network)


@pytest.mark.filterwarnings("ignore:It takes pictures as 16 numbers of colours")
def test_pictures_as_numbers_of_colours(tmp_path: Path) -> None:
    sizes = {"n_positions": 16, "vocab_size": 33, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model, colours = made("ImageGPTForImageClassification", sizes), np.random.default_rng(0).integers(0, 32, (24, 16))
    model.save_pretrained(tmp_path / "hub")
    net = regraft.load(f"hf:{tmp_path / 'hub'}")
    assert any("numbers of colours" in note for note in net.account.notes)
    with torch.no_grad():
        assert np.allclose(net.logits(colours), model(torch.from_numpy(colours)).logits, atol=1e-6)
    made_of = regraft.adapt(net, (colours, ["yes", "new", "no"] * 8), strategy="head", epochs=1, out=tmp_path / "out").network
    assert np.array_equal(regraft.load(tmp_path / "out").logits(colours), made_of.logits(colours))


@pytest.mark.parametrize("kind", ["BartForSequenceClassification", "T5ForSequenceClassification"])
def test_a_tokenizer_that_does_not_end_its_texts_is_told(kind: str, tmp_path: Path) -> None:
    folder_of(kind, tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(NetworkError, match=f"{kind} looks for the token 2 at the end of each text"):
        regraft.load(f"hf:{tmp_path}")


@pytest.mark.parametrize("kind", ["LlamaForSequenceClassification", "GPT2ForSequenceClassification"])
@pytest.mark.parametrize(("pad", "token"), [(True, 0), (False, 2)], ids=["of its tokenizer", "of neither: the end of a text"])
def test_a_padding_token_that_no_configuration_names(kind: str, pad: bool, token: int, tmp_path: Path) -> None:
    """What stands for a text is what its last token gives, padded or alone."""
    folder_of(kind, tmp_path, pad=pad)
    net = regraft.load(f"hf:{tmp_path}")
    assert f"token {token} is taken" in str(net.account)
    assert net.module.config.pad_token_id == token
    alone = np.concatenate([net.logits([text]) for text in TEXTS])
    assert np.allclose(net.logits(TEXTS), alone, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*preprocessor_config")
@pytest.mark.parametrize("kind", OTHERS)
def test_classifiers_of_pictures_and_sound_are_opened(kind: str, tmp_path: Path) -> None:
    model = made(kind, OTHERS[kind])
    model.save_pretrained(tmp_path / "hub")
    net = regraft.load(f"hf:{tmp_path / 'hub'}")
    assert net.classes == tuple(NAMES.values())
    assert isinstance(net.sample, torch.Tensor)
    with torch.no_grad():
        assert torch.allclose(net.scores(net.sample)["main"], model(net.sample).logits, atol=1e-6)
    changed = regraft.retarget(net, ["no", "other"])
    changed.save(tmp_path / "out")
    again = regraft.load(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(again.scores(net.sample)["main"], changed.scores(net.sample)["main"])


@pytest.mark.parametrize("kind", [*TEXT_NETWORKS, *OTHERS])
def test_a_network_in_memory_keeps_its_class_names_and_is_opened_again(kind: str, tmp_path: Path) -> None:
    """It needs nothing but its folder, and takes token ids where it takes texts."""
    net = regraft.load(made(kind, {**TEXT_NETWORKS, **OTHERS}[kind]))
    assert net.classes == tuple(NAMES.values())
    net.save(tmp_path)
    again = regraft.load(tmp_path)
    assert again.classes == net.classes
    if kind in TEXT_NETWORKS:
        ids = np.array([[4, 6, 3, 2], [5, 7, 4, 2]])
        assert net.logits(ids).shape == (2, 3)
        assert np.array_equal(again.logits(ids), net.logits(ids))


def test_a_network_in_memory_with_a_tokenizer_predicts_from_its_folder(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path / "tokenizer")
    net = regraft.load(made("BertForSequenceClassification", _TEXT), preprocessing={"kind": "text", "tokenizer": tmp_path / "tokenizer"})
    result = regraft.adapt(net, (TEXTS * 4, ["a", "b", "b", "a"] * 4), strategy="head", epochs=1, cache="memory", out=tmp_path / "out")
    again = regraft.load(tmp_path / "out")
    assert again.predict(TEXTS).labels == result.network.predict(TEXTS).labels
    assert same_logits(again, result.network)


def test_a_network_that_its_configuration_does_not_make_is_saved_as_any_module(tmp_path: Path) -> None:
    model = made("ResNetForImageClassification", OTHERS["ResNetForImageClassification"])
    model.classifier = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    net = regraft.load(model)
    assert net.origin["source"] == "module"
    net.save(tmp_path)
    with torch.no_grad():
        assert torch.allclose(regraft.load(tmp_path).scores(net.sample)["main"], net.scores(net.sample)["main"], atol=1e-6)


def test_ids_are_whole_numbers() -> None:
    net = regraft.load(made("BertForSequenceClassification", _TEXT), inputs={"input_ids": (6,), "attention_mask": (6,)})
    assert isinstance(net.sample, dict)
    assert {name: tensor.dtype for name, tensor in net.sample.items()} == dict.fromkeys(net.sample, torch.int64)
    assert bool((net.sample["attention_mask"] == 1).all())


def test_networks_of_timm_in_memory_keep_their_preprocessing() -> None:
    timm = pytest.importorskip("timm")
    net = regraft.load(timm.create_model("test_resnet"))
    assert net.preprocessing.to_dict() == regraft.load("timm:test_resnet", weights="random").preprocessing.to_dict()
    assert net.classes is not None
    assert len(net.classes) == 1000


def test_a_network_of_timm_without_a_head_keeps_the_names_of_its_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    volo = pytest.importorskip("timm.models.volo")
    sizes = {"img_size": 64, "layers": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 32), "num_heads": (2, 2, 2, 2)}

    forward_head = volo.VOLO.forward_head
    monkeypatch.setattr(volo.VOLO, "forward_head", lambda self, x, **given: forward_head(self, x, **given) ** 3)
    module = volo.VOLO(**sizes)
    module.pretrained_cfg = volo.default_cfgs["volo_d1_224"].default.to_dict()
    net = regraft.load(module)
    assert not net.heads and net.classes is not None and net.classes[0] == "tench, Tinca tinca"
    assert net.predict(np.zeros((1, 64, 64, 3), np.uint8)).labels[0] in net.classes


def test_texts_are_cut_at_the_positions_that_the_network_has(tmp_path: Path) -> None:
    """BERT has as many as its table has rows, RoBERTa fewer, and T5, which has a table of distances, any number."""
    longest = {}
    for kind, settings in {
        "BertForSequenceClassification": _TEXT | {"max_position_embeddings": 20},
        "RobertaForSequenceClassification": _TEXT | {"max_position_embeddings": 20, "pad_token_id": 0},
        "T5ForSequenceClassification": _T5,
    }.items():
        made(kind, settings).save_pretrained(tmp_path / kind)
        tokenizer(end=kind.startswith("T5")).save_pretrained(tmp_path / kind)
        net = regraft.load(f"hf:{tmp_path / kind}")
        longest[kind[:2]] = net.preprocessing.maximum
        with pytest.warns(UserWarning, match=f"1 of 2 texts is longer than {longest[kind[:2]]} tokens"):
            assert net.logits(["bad bus " * 300, "good"]).shape == (2, 3)
        assert ("positions" in str(net.account)) == (not kind.startswith("T5"))
        net.save(tmp_path / "out")
        assert regraft.load(tmp_path / "out").preprocessing == net.preprocessing
    assert longest == {"Be": 20, "Ro": 19, "T5": 512}


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_token_that_the_network_does_not_know_is_refused_by_its_name(family: str, tmp_path: Path) -> None:
    tokenizer(words=[*WORDS, "lorry", "ferry"]).save_pretrained(tmp_path)
    if family == "torch":
        model: Any = made("BertForSequenceClassification", _TEXT | {"vocab_size": 9})
        named = {"inputs": ("input_ids", "attention_mask")}
    else:
        keras = pytest.importorskip("keras")
        layers = [keras.layers.Embedding(9, 4), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3, activation="softmax")]
        model, named = keras.Sequential([keras.Input((None,), name="input_ids", dtype="int64"), *layers]), {"inputs": ("input_ids",)}
    text = regraft.data.TextPreprocessing(tmp_path)
    net = regraft.load(model, preprocessing={**text.to_dict(), **named})
    assert "its tokenizer knows 10 tokens and its embedding 9" in str(net.account)
    assert net.predict(["good lorry"]).probabilities.shape == (1, 3)
    with pytest.raises(DataError, match=r"'ferry' the token 9, and the network knows the tokens 0 to 8"):
        net.predict(["good ferry"])


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "squashed": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}),
    "cropped out of a larger size": ("CLIPImageProcessor", {"size": {"shortest_edge": 60}, "crop_size": {"height": 48, "width": 48}}),
    "squashed, then cropped": ("DeiTImageProcessor", {"size": {"height": 60, "width": 60}, "crop_size": {"height": 48, "width": 48}}),
    "crop_pct": ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.8}),
    "crop_pct of another class": (
        "PoolFormerImageProcessor", {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}, "crop_pct": 0.8},
    ),
    "not normalised": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "do_normalize": False}),
    "another factor": ("ViTImageProcessor", {"size": {"height": 48, "width": 48}, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3}),
    "not rescaled": (
        "ViTImageProcessor",
        {"size": {"height": 48, "width": 48}, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    ),
    "224 pixels": ("ViTImageProcessor", {}),
    "blue first": ("MobileViTImageProcessor", {"size": {"shortest_edge": 54}, "crop_size": {"height": 48, "width": 48}}),
}  # fmt: skip


@pytest.mark.parametrize("case", PROCESSORS)
def test_pictures_are_made_as_the_processor_makes_them(case: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    kind, settings = PROCESSORS[case]
    made("ResNetForImageClassification", OTHERS["ResNetForImageClassification"]).save_pretrained(tmp_path)
    processor = getattr(transformers, kind)(**settings)
    processor.save_pretrained(tmp_path)
    net = regraft.load(f"hf:{tmp_path}")
    rows, columns = np.mgrid[0:90, 0:130]
    waves = [127 + 120 * np.sin(rows / 11 + columns / (9 + channel)) for channel in range(3)]
    picture = image.fromarray(np.stack(waves, -1).astype(np.uint8))
    with torch.no_grad():
        expected = torch.as_tensor(np.asarray(processor(images=[picture], return_tensors="np")["pixel_values"]))
        own = torch.as_tensor(net.preprocessing.batch([picture]))
    assert own.shape == expected.shape
    assert float((own - expected).abs().mean() / expected.std()) < 0.02, net.preprocessing.describe()


def test_sounds_have_the_rate_and_the_scale_of_their_processor(tmp_path: Path) -> None:
    settings = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": (8, 8),
        "conv_stride": (20, 16), "conv_kernel": (20, 16), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8, "mask_time_prob": 0.0,
    }  # fmt: skip
    made("Wav2Vec2ForSequenceClassification", settings).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=False).save_pretrained(tmp_path)
    net = regraft.load(f"hf:{tmp_path}")
    assert (net.preprocessing.sample_rate, net.preprocessing.standardise) == (8000, False)


@pytest.mark.parametrize("kind", ["ASTForAudioClassification", "WhisperForAudioClassification"])
def test_features_of_sound_are_those_of_the_processor(kind: str, tmp_path: Path) -> None:
    """Of recordings shorter and longer than what the network takes at once; the saved folder makes the same."""
    made(kind, OTHERS[kind] | ({"max_source_positions": 50} if kind.startswith("Whisper") else {})).save_pretrained(tmp_path / "hub")
    if kind.startswith("AST"):
        extractor = transformers.ASTFeatureExtractor(max_length=32, num_mel_bins=16, mean=-4.0, std=3.0)
    else:
        extractor = transformers.WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    extractor.save_pretrained(tmp_path / "hub")
    net = regraft.load(f"hf:{tmp_path / 'hub'}")
    waves = np.random.default_rng(0).normal(0, 0.1, (3, 4000)).astype(np.float32)
    own = {"ASTForAudioClassification": "input_values", "WhisperForAudioClassification": "input_features"}[kind]
    expected = np.concatenate([extractor(wave, sampling_rate=16000, return_tensors="np")[own] for wave in waves])
    assert np.allclose(np.asarray(net.preprocessing.batch(list(waves))), expected, atol=1e-6)
    with torch.no_grad():
        assert np.allclose(net.logits(waves), net.module(torch.as_tensor(expected)).logits, atol=1e-5)
    result = regraft.adapt(net, (np.tile(waves, (8, 1)), ["a", "b", "c"] * 8), strategy="probe", cache="memory")
    result.network.save(tmp_path / "saved")
    again = regraft.load(tmp_path / "saved")
    assert np.array_equal(again.logits(waves), result.network.logits(waves))
    assert again.predict(np.zeros((1, 40_000), np.float32)).labels[0] in "abc"


def test_features_of_sound_of_another_size_are_told(tmp_path: Path) -> None:
    made("ASTForAudioClassification", OTHERS["ASTForAudioClassification"]).save_pretrained(tmp_path)
    transformers.ASTFeatureExtractor().save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"ASTFeatureExtractor makes features of the shape \(1024, 128\); the network takes \(32, 16\)"):
        regraft.load(f"hf:{tmp_path}")


def test_networks_of_timm_of_another_size_keep_the_rest(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    small = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=3)
    for inputs in (None, (3, 32, 32)):
        net = regraft.load(small, inputs=inputs)
        assert (net.preprocessing.height, net.preprocessing.width, net.preprocessing.mean) == (32, 32, (0.5, 0.5, 0.5))
    net.save(tmp_path)
    pictures = np.random.default_rng(0).integers(0, 255, (3, 40, 40, 3)).astype(np.uint8)
    assert np.allclose(regraft.load(tmp_path).logits(pictures), net.logits(pictures), atol=1e-5)


def test_settings_of_sound_that_would_take_the_memory_are_not_used() -> None:
    made_of = {"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 10**6, "hop_length": 1, "feature_size": 8}
    found = sound_extractor(made_of)
    assert (found.chunk_length, found.hop_length, found.feature_size) == (30, 160, 8)
    assert sound_extractor({"feature_extractor_type": "BertModel"}) is None
    assert sound_extractor({"feature_extractor_type": "os.system"}) is None


def test_a_mixture_of_experts_is_exported_by_what_exporters_know() -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}
    config = transformers.MixtralConfig(**sizes, num_local_experts=2, vocab_size=20, pad_token_id=0, num_labels=3)
    net = regraft.load(transformers.MixtralForSequenceClassification(config), inputs={"input_ids": (6,)})
    before, twin = net.module.config._experts_implementation, net.body.copy()
    twin.ready_for_export_()
    assert twin.module.config._experts_implementation != "grouped_mm"
    assert net.module.config._experts_implementation == before
    with torch.no_grad():
        assert torch.allclose(twin.scores(net.sample)["main"], net.scores(net.sample)["main"], atol=1e-5)


@pytest.mark.parametrize("live", [True, False])
def test_patches_of_pictures_are_several_inputs(live: bool, tmp_path: Path) -> None:
    """SigLIP 2 takes what its processor returns: patches, their mask, and how many rows and columns of them a picture has."""
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Siglip2Config(
        vision_config={**part, "patch_size": 4, "num_patches": 16}, text_config={**part, "vocab_size": 50}, num_labels=3
    )
    torch.manual_seed(0)
    module = transformers.Siglip2ForImageClassification(config).eval()
    module.save_pretrained(tmp_path / "hub")
    mask, grid = np.ones((24, 16), np.int64), np.full((24, 2), 4)
    mask[4:9, 8:], grid[4:9] = 0, (2, 4)
    draw = np.random.default_rng(0).normal(size=(24, 16, 48)).astype(np.float32)
    items = {"pixel_values": draw, "pixel_attention_mask": mask, "spatial_shapes": grid}
    with nullcontext() if live else pytest.warns(UserWarning, match="what its processor returns"):
        net = regraft.load(module if live else f"hf:{tmp_path / 'hub'}")
    with torch.no_grad():
        given = module(**{name: torch.from_numpy(values) for name, values in items.items()}).logits
    assert np.allclose(net.logits(items), given, atol=1e-5)
    result = regraft.adapt(net, (items, np.array(["a", "b", "c"] * 8)), strategy="full", epochs=1, cache="memory", refit=False)
    result.network.save(tmp_path / "saved")
    assert np.array_equal(regraft.load(tmp_path / "saved").logits(items), result.network.logits(items))
