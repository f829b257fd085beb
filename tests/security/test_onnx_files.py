"""Hostile ONNX files given to `regraft.load` and `regraft predict`: refused, or opened without what made them hostile."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from tests.security.hostile_onnx import DAMAGED, UNSAFE, Small, parsed, raw_files, written

import regraft
from regraft.errors import RegraftError
from regraft.exchange.served import serve
from regraft.networks.torch.exporting import GRAPH

pytest.importorskip("onnx2pytorch")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    torch.manual_seed(0)
    folder = regraft.load(Small(), inputs=(6,), classes=["a", "b", "c"]).save(tmp_path_factory.mktemp("sound") / "net")
    return Path(folder, "network.onnx").read_bytes()


@pytest.mark.parametrize("name", [*UNSAFE, *DAMAGED])
def test_hostile_models(name: str, sound: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x01" * 4096)
    model = parsed(sound)
    {**UNSAFE, **DAMAGED}[name](model, secret)
    path = tmp_path / "x.onnx"
    path.write_bytes(written(model))
    _opened_safely(path)


def test_contents_that_are_no_model(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for content in raw_files(sound).values():
        path.write_bytes(content)
        with pytest.raises(RegraftError):
            regraft.load(path)
        with pytest.raises(RegraftError):
            serve(path)


def _opened_safely(path: Path) -> None:
    """Open a file as a network: it is refused by an error of regraft, or nothing of another file is in it."""
    before = sorted(path.parent.iterdir())
    try:
        net = regraft.load(path)
    except RegraftError:
        pass
    else:
        graph = onnx.ModelProto.FromString(getattr(net.module, GRAPH)).graph
        assert not any(tensor.data_location or len(tensor.external_data) for tensor in graph.initializer)
        assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
        assert not {node.op_type for node in graph.node} & {"Loop", "Scan", "SequenceMap"}
    with pytest.raises(RegraftError):
        serve(path)
    assert sorted(path.parent.iterdir()) == before
