"""What every test of hostile files looks after: no code out of a file runs, nothing is fetched, no other file is read."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.security.hostile import WORDS

import regraft

_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_watch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach another machine; a proxy is set, so that no part of the program takes itself for offline."""
    tried: list[Any] = []

    def refuse(*args: Any, **_named: Any) -> Any:
        tried.append(args)
        raise OSError("no network in tests")

    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    huggingface_hub = pytest.importorskip("huggingface_hub")
    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, refuse)
    return tried


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file that no opening may read; what is opened from Python meanwhile is watched."""
    global _watching
    path = tmp_path / "apart" / "secret.txt"
    path.parent.mkdir()
    path.write_text("secret\n")
    _opened.clear()
    _watching = True
    yield path
    _watching = False
    assert not [name for name in _opened if str(path.parent) in name]


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that code out of a folder would make."""
    path = tmp_path / "marker"
    yield path
    assert not path.exists()


def _bert_folder(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=12, id2label={0: "good", 1: "bad"}
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return folder


def _vit_folder(folder: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8, num_labels=3
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    plain = {"image_processor_type": "ViTImageProcessor", "image_mean": [0.4] * 3, "image_std": [0.3] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(plain))
    return folder


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Honest folders, made once: of Hugging Face, and saved by regraft with each kind of origin."""
    pytest.importorskip("timm")
    root = tmp_path_factory.mktemp("made")
    folders = {"bert": _bert_folder(root / "bert"), "vit": _vit_folder(root / "vit")}
    for name in ("bert", "vit"):
        regraft.load(f"hf:{folders[name]}").save(root / f"{name}-saved")
        folders[f"{name}-saved"] = root / f"{name}-saved"
    net = regraft.load("timm:test_resnet", weights="random")
    regraft.retarget(net, ["a", "b"]).save(root / "timm-saved")
    return folders | {"timm-saved": root / "timm-saved"}


@pytest.fixture
def copy(made: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the honest folders, to be changed."""
    return lambda name: Path(shutil.copytree(made[name], tmp_path / name))
