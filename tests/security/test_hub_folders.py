"""Folders in Hugging Face format, and saved folders with an origin by name, made by somebody else: no code runs, nothing is fetched, and
no other file is read; each ends in a right network or in one error of regraft."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.security.hostile import TEXTS, Harm, changed, origin_changed, refused

import regraft
from regraft.errors import NetworkError, RegraftError, UnsafeFileError

transformers = pytest.importorskip("transformers")
huggingface_hub = pytest.importorskip("huggingface_hub")


# ── saved folders ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["bert-saved", "vit-saved", "timm-saved"])
def test_a_saved_folder_opens_without_the_network(name: str, copy: Any, asked: list[Any]) -> None:
    folder = copy(name)
    expected = regraft.load(folder)
    if name != "timm-saved":
        origin_changed(folder, source="hf:somebody/else")
    net = regraft.load(folder)
    examples: Any = TEXTS if name == "bert-saved" else np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3), dtype=np.uint8)
    assert np.array_equal(net.logits(examples), expected.logits(examples))
    assert not asked


@pytest.mark.parametrize(
    "source",
    ["hf:somebody/else", "timm:hf-hub:somebody/else", "timm:hf_hub:somebody/else", "timm:local-dir:{elsewhere}", "timm:{elsewhere}",
     "timm:somebody/else", "timm:nothing\x1b[31m", "torchvision:../../x", "torchvision:{elsewhere}", "keras:VGG16",
     "https://somebody/else", "", None, 5, ["timm:test_resnet"]],
)  # fmt: skip
def test_an_origin_that_regraft_does_not_write_is_refused(source: Any, copy: Any, asked: list[Any], secret: Path) -> None:
    folder = copy("timm-saved")
    origin_changed(folder, source=source.format(elsewhere=secret.parent) if isinstance(source, str) else source)
    refused(lambda: regraft.load(folder))
    assert not asked


def test_an_origin_of_other_size_takes_no_memory(copy: Any, asked: list[Any]) -> None:
    folder = copy("timm-saved")
    origin_changed(folder, source="timm:vit_giant_patch14_dinov2")
    refused(lambda: regraft.load(folder), match="declares a network of more than")
    assert not asked


@pytest.mark.parametrize("edit", [{"edit": "head", "task": "main", "rows": 2**40, "features": 16}, {"edit": "channels", "count": 2**40}])
def test_edits_of_other_size_take_no_memory(edit: dict[str, Any], copy: Any) -> None:
    folder = copy("timm-saved")
    changed(folder / "regraft.json", lambda facts: facts["network"]["origin"]["edits"].append(edit))
    refused(lambda: regraft.load(folder), match="larger than its weights|less than or equal to")


def test_a_sample_of_other_size_takes_no_memory(copy: Any) -> None:
    folder = copy("timm-saved")
    origin_changed(folder, sample={"": [[3, 2**20, 2**20], "torch.float32"]})
    refused(lambda: regraft.load(folder), match="declares|more than 268435456 numbers")


@pytest.mark.parametrize("file", ["../apart/secret.txt", "/etc/hostname", "", "..", "link.safetensors"])
def test_the_weights_of_a_saved_folder_lie_in_it(file: str, copy: Any, secret: Path) -> None:
    folder = copy("timm-saved")
    (folder / "link.safetensors").symlink_to(secret)
    changed(folder / "regraft.json", lambda facts: facts["network"].update(file=file))
    refused(lambda: regraft.load(folder), match="no file of the folder|no checksum")


@pytest.mark.parametrize("tokenizer", ["{elsewhere}", "somebody/else", "", None, 5])
def test_a_saved_folder_names_no_tokenizer_elsewhere(tokenizer: Any, copy: Any, asked: list[Any], secret: Path) -> None:
    folder = copy("bert-saved")
    named = tokenizer.format(elsewhere=secret.parent) if isinstance(tokenizer, str) else tokenizer
    changed(folder / "regraft.json", lambda facts: facts["preprocessing"].update(tokenizer=named))
    refused(lambda: regraft.load(folder), kind=RegraftError, match="expected")
    assert not asked


def test_a_keras_application_opens_from_its_file_alone(tmp_path: Path, asked: list[Any], secret: Path) -> None:
    pytest.importorskip("keras")
    regraft.load("keras:MobileNetV3Small", inputs=(32, 32, 3), weights="random").save(tmp_path / "out")
    asked.clear()
    expected = regraft.load(tmp_path / "out")
    changed(tmp_path / "out" / "regraft.json", lambda facts: facts["network"].setdefault("origin", {}).update(source="keras:VGG16"))
    again = regraft.load(tmp_path / "out")
    pictures = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    assert np.array_equal(again.features(pictures), expected.features(pictures))
    changed(tmp_path / "out" / "regraft.json", lambda facts: facts["network"].update(file="../apart/secret.txt"))
    refused(lambda: regraft.load(tmp_path / "out"), match="no file of the folder")
    assert not asked


# ── configurations: the same in a folder and in what a saved folder carries ───────────────────────────────────────────────────────────

CONFIGS: list[tuple[dict[str, Any], str | None]] = [
    ({"auto_map": {"AutoModel": "harm.Model", "AutoConfig": "somebody/else--harm.Config"}}, None),
    ({"attn_implementation": "somebody/kernels"}, None),
    ({"_attn_implementation": "somebody/kernels:flash"}, None),
    ({"_attn_implementation_internal": "somebody/kernels"}, None),
    ({"experts_implementation": "somebody/kernels"}, None),
    ({"_name_or_path": "somebody/else", "name_or_path": "somebody/else"}, None),
    ({"torch_dtype": "__class__", "dtype": "__class__"}, None),
    ({"custom_pipelines": {"x": {"impl": "harm.Pipeline"}}, "trust_remote_code": True}, None),
    ({"fusion_config": {"patch_embeddings": True}}, None),
    ({"per_layer_config": {"0": {"hidden_size": 5}}}, "settings of their own"),
    ({"transformers_weights": "../apart/secret.txt", "tie_word_embeddings": True}, None),
    ({"return_dict": False, "torchscript": True, "output_hidden_states": True}, None),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "quantised"),
    ({"model_type": "timm_wrapper", "architecture": "hf-hub:somebody/else"}, "made of other networks"),
    ({"model_type": "timm_backbone", "backbone": "resnet50", "use_pretrained_backbone": True}, "made of other networks"),
    ({"model_type": "detr", "backbone": "somebody/else", "use_pretrained_backbone": True}, "made of other networks"),
    ({"model_type": "vision-encoder-decoder"}, "made of other networks"),
    ({"model_type": "harm"}, "knows no network of the type"),
    ({"model_type": "harm\x1b[31m", "auto_map": {"AutoModel": "harm.Model"}}, "never run"),
    ({"model_type": None}, "names none"),
    ({"model_type": ["bert"]}, "names none"),
    ({"hidden_act": "somebody/else"}, "path or a repository"),
    ({"hidden_act": "../harm"}, "path or a repository"),
    ({"hidden_act": "no such function"}, "cannot be made"),
    ({"hidden_act": None}, "cannot be made"),
    ({"hidden_size": "16"}, "cannot be made"),
    ({"hidden_size": -16}, "cannot be made"),
    ({"hidden_size": 15}, "cannot be made"),
    ({"hidden_size": 2**40}, "expected at most"),
    ({"hidden_size": 2**20}, "declares a network of more than"),
    ({"vocab_size": 2**24, "hidden_size": 2**10}, "declares a network of more than"),
    ({"num_hidden_layers": 10**9}, "expected at most"),
    ({"num_hidden_layers": 30_000, "hidden_size": 2, "intermediate_size": 1}, "declares a network of more than"),
    ({"max_position_embeddings": 10**30}, "expected at most"),
    ({"layer_norm_eps": float("nan")}, "expected a number"),
    ({"id2label": {"0": "a", "7": "b"}}, "without a gap"),
    ({"id2label": ["a", "b"]}, "without a gap"),
    ({"id2label": {"0": {"a": 1}}}, "without a gap"),
    ({"id2label": None, "num_labels": 10**12}, "whole number"),
    ({"problem_type": {"a": [[[[[1]]]]]}}, "expected a number"),
    ({"vocab_size": 13}, "weights"),
]


@pytest.mark.parametrize("saved", [False, True], ids=["folder", "saved"])
@pytest.mark.parametrize(("values", "message"), CONFIGS, ids=[str(values)[:60] for values, _ in CONFIGS])
def test_configurations(
    values: dict[str, Any], message: str | None, *, saved: bool, copy: Any, asked: list[Any], marker: Path, secret: Path
) -> None:
    folder = copy("bert-saved" if saved else "bert")
    (folder / "harm.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Model: ...\nclass Config: ...\n")
    source: Any = folder if saved else f"hf:{folder}"
    expected = regraft.load(source).logits(TEXTS) if message is None else None
    if saved:
        changed(folder / "regraft.json", lambda facts: facts["network"]["origin"]["config"].update(values))
    else:
        changed(folder / "config.json", lambda config: config.update(values))
    if message is None:
        assert np.array_equal(regraft.load(source).logits(TEXTS), expected)
    else:
        refused(lambda: regraft.load(source), match="" if message == "weights" else message)
    assert not asked
    assert "harm" not in sys.modules


@pytest.mark.parametrize("named", [[{"a": 1}], "BertForSequenceClassification", 5, ["__import__('os')"], ["harm.Model"], None])
def test_a_configuration_of_no_known_class_is_that_of_an_encoder(named: Any, copy: Any) -> None:
    folder = copy("bert")
    changed(folder / "config.json", lambda config: config.update(architectures=named, transformers_version=["5"]))
    net = regraft.load(f"hf:{folder}")
    assert not net.heads
    assert net.features(TEXTS).shape == (4, 16)


# ── files of a folder in Hugging Face format ──────────────────────────────────────────────────────────────────────────────────────────


def _pickled(folder: Path, marker: Path) -> None:
    (folder / "model.safetensors").unlink()
    for name in ("pytorch_model.bin", "model.bin", "model.pt"):
        (folder / name).write_bytes(pickle.dumps({"classifier.weight": Harm(marker)}))


def _indexed(folder: Path, files: Any) -> None:
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_weights_in_several_files(copy: Any) -> None:
    folder = copy("bert")
    expected = regraft.load(f"hf:{folder}").logits(TEXTS)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(state)}
    for file in set(halves.values()):
        save_file({name: tensor for name, tensor in state.items() if halves[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": halves}))
    assert np.array_equal(regraft.load(f"hf:{folder}").logits(TEXTS), expected)


def _fifo(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def _linked(folder: Path, name: str, secret: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)


FILES: dict[str, tuple[Callable[[Path, Path, Path], None], type[RegraftError], str]] = {
    "pickles": (lambda folder, marker, _: _pickled(folder, marker), NetworkError, "pickled weights are not opened"),
    "a shard elsewhere": (lambda folder, _, secret: _indexed(folder, {"a": "../apart/x.safetensors"}), UnsafeFileError, "inside"),
    "a shard at the root": (lambda folder, _, secret: _indexed(folder, {"a": f"{secret}.safetensors"}), UnsafeFileError, "inside"),
    "a pickled shard": (lambda folder, _, secret: _indexed(folder, {"a": "model.bin"}), UnsafeFileError, "only safetensors"),
    "an index of nothing": (lambda folder, _, secret: _indexed(folder, []), NetworkError, "names no files"),
    "an index of numbers": (lambda folder, _, secret: _indexed(folder, {"a": 5}), NetworkError, "names no files"),
    "a shard that is missing": (lambda folder, _, secret: _indexed(folder, {"a": "x.safetensors"}), NetworkError, "x.safetensors"),
    "linked config": (lambda folder, _, secret: _linked(folder, "config.json", secret), UnsafeFileError, "link out of the folder"),
    "linked weights": (lambda folder, _, secret: _linked(folder, "model.safetensors", secret), UnsafeFileError, "link out of the folder"),
    "linked tokenizer": (lambda folder, _, secret: _linked(folder, "tokenizer.json", secret), UnsafeFileError, "link out of the folder"),
    "a link to itself": (lambda folder, _, secret: _linked(folder, "config.json", folder / "config.json"), RegraftError, ""),
    "a pipe": (lambda folder, _, secret: _fifo(folder, "config.json"), UnsafeFileError, "pipe"),
    "a piped tokenizer": (lambda folder, _, secret: _fifo(folder, "tokenizer.json"), UnsafeFileError, "pipe"),
    "no json": (lambda folder, _, secret: (folder / "config.json").write_bytes(b"\xff\x00{") and None, NetworkError, "cannot be read"),
    "nested": (lambda folder, _, secret: (folder / "config.json").write_text("[" * 200_000) and None, NetworkError, "nested too deeply"),
    "a list": (lambda folder, _, secret: (folder / "config.json").write_text("[1]") and None, NetworkError, "expected a mapping"),
    "no config": (lambda folder, _, secret: (folder / "config.json").unlink(), NetworkError, "no config.json"),
    "cut weights": (lambda folder, _, secret: os.truncate(folder / "model.safetensors", 3000), NetworkError, "safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_files(case: str, copy: Any, asked: list[Any], marker: Path, secret: Path) -> None:
    change, kind, message = FILES[case]
    folder = copy("bert")
    change(folder, marker, secret)
    refused(lambda: regraft.load(f"hf:{folder}"), kind=kind, match=message)
    assert not asked


def test_a_folder_of_the_cache_of_the_hub_holds_links(copy: Any, tmp_path: Path) -> None:
    folder, place = copy("bert"), tmp_path / "models--a--b"
    expected = regraft.load(f"hf:{folder}").logits(TEXTS)
    (place / "snapshots" / "1").mkdir(parents=True)
    (place / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(place / "blobs" / str(number))
        (place / "snapshots" / "1" / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    assert np.array_equal(regraft.load(f"hf:{place / 'snapshots' / '1'}").logits(TEXTS), expected)


def test_of_a_repository_only_the_files_that_are_read_are_fetched(copy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, received = copy("bert"), {}

    def fetched(name: str, **named: Any) -> str:
        received.update(named, name=name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    net = regraft.load("hf:somebody/network")
    assert net.origin["source"] == "hf:somebody/network"
    assert net.classes == ("good", "bad")
    assert received["name"] == "somebody/network"
    assert not any(pattern.endswith((".bin", ".py", ".pkl", "*")) for pattern in received["allow_patterns"])


@pytest.mark.parametrize("name", ["../x", "/no/such", "a/b/c", "a b", "https://somebody/else", "-x", ""])
def test_a_name_that_is_no_repository_is_not_asked_for(name: str, asked: list[Any]) -> None:
    refused(lambda: regraft.load(f"hf:{name}"))
    assert not asked


@pytest.mark.parametrize("name", ["hf-hub:somebody/else", "hf_hub:somebody/else", "local-dir:{}", "{}", "test_resnet.hf-hub:x"])
def test_timm_names_no_repository_and_no_folder(name: str, asked: list[Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": {"file": "harm.bin"}}))
    refused(lambda: regraft.load(f"timm:{name.format(tmp_path)}"), match="timm knows no network")
    assert not asked


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_is_not_followed(copy: Any, whole: bool, asked: list[Any]) -> None:
    folder = copy("bert")
    expected = regraft.load(f"hf:{folder}").logits(TEXTS)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/else", "peft_type": "LORA"}))
    (folder / "adapter_model.bin").write_bytes(b"a pickle would be here")
    if whole:
        with pytest.warns(UserWarning, match="adapter"):
            net = regraft.load(f"hf:{folder}")
        assert np.array_equal(net.logits(TEXTS), expected)
        assert any("adapter" in note for note in net.account.notes)
    else:
        (folder / "config.json").unlink()
        refused(lambda: regraft.load(f"hf:{folder}"), match="adapter")
    assert not asked


def test_weights_of_another_network_are_refused_and_missing_ones_are_said(copy: Any) -> None:
    folder = copy("bert")
    state = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in state.items() if "classifier" not in name}, folder / "model.safetensors")
    with pytest.warns(UserWarning, match=r"lack 2 tensors .*classifier.bias.* RANDOM"):
        net = regraft.load(f"hf:{folder}")
    assert any("RANDOM" in note for note in net.account.notes)
    save_file({f"other.{name}": tensor for name, tensor in state.items()}, folder / "model.safetensors")
    refused(lambda: regraft.load(f"hf:{folder}"), match="not those of its config.json")
    save_file(state | {"classifier.weight": torch.zeros(5, 16)}, folder / "model.safetensors")
    refused(lambda: regraft.load(f"hf:{folder}"), match="weights of the network that config.json describes")


PROCESSORS: list[tuple[Any, str | None]] = [
    ({"auto_map": {"AutoImageProcessor": "harm.Processor"}, "image_mean": [0.4] * 3, "image_std": [0.3] * 3, "resample": 2}, None),
    ({"image_processor_type": "AutoModel", "image_mean": [0.4] * 3, "image_std": [0.3] * 3, "resample": 2}, None),
    ({"image_processor_type": "os.system", "image_mean": [0.4] * 3, "image_std": [0.3] * 3, "resample": 2}, None),
    ({"image_std": [0.3, 0.3, 0]}, "above 0"),
    ({"image_mean": [float("nan")] * 3}, "expected 3 numbers"),
    ({"image_mean": "0.5"}, "expected 3 numbers"),
    ({"image_mean": [0.5]}, "expected 3 numbers"),
    ([1], "expected a mapping"),
]


@pytest.mark.parametrize(("content", "message"), PROCESSORS)
def test_preprocessors(content: Any, message: str | None, copy: Any, asked: list[Any], marker: Path) -> None:
    folder = copy("vit")
    (folder / "harm.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    if message is None:
        spec = regraft.load(f"hf:{folder}").preprocessing
        assert (spec.mean, spec.std, spec.interpolation) == ((0.4,) * 3, (0.3,) * 3, "bilinear")
    else:
        refused(lambda: regraft.load(f"hf:{folder}"), match=message)
    assert not asked


def test_no_preprocessor_is_said(copy: Any) -> None:
    folder = copy("vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match="assumed"):
        assert regraft.load(f"hf:{folder}").preprocessing.mean == (0.5,) * 3
