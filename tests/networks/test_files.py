"""Weights files: opened without running code, put into a network with an account."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests import torch_examples as examples
from torch import nn

import regraft
from regraft.errors import NetworkError, UnsafeFileError
from regraft.networks.sources.torch_files import put_weights_, read_torch_weights
from regraft.networks.torch.family import open_torch


class Ran:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def _state(classes: int = 3) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return examples.Cnn(classes).state_dict()


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_named_tensors_in_any_dress(tmp_path: Path, ending: str, wrapped: str | None, prefix: str) -> None:
    path, state = tmp_path / f"w{ending}", {prefix + name: tensor for name, tensor in _state().items()}
    if ending == ".safetensors":
        save_file(state, path)
    else:
        torch.save({wrapped: state, "epoch": 3} if wrapped else state, path)
    net = regraft.load(examples.Cnn(), weights=path, inputs=(1, 8, 8))
    assert all(torch.equal(net.state()[name], tensor) for name, tensor in _state().items() if "num_batches" not in name)
    assert len(net.account.to_dict()["matched"]) == 16
    assert torch.equal(torch.from_numpy(net.head.weight), _state()["fc2.weight"])


def test_a_head_of_another_size_does_not_stop_the_rest(tmp_path: Path) -> None:
    torch.save(_state(7), tmp_path / "w.pt")
    module = examples.Cnn(3)
    net = regraft.load(module, weights=tmp_path / "w.pt", inputs=(1, 8, 8))
    account = net.account.to_dict()
    assert account["reshaped"] == ["fc2.weight", "fc2.bias"]
    assert len(account["matched"]) == 14
    assert torch.equal(net.state()["conv2.weight"], _state()["conv2.weight"])
    assert torch.equal(net.state()["fc2.weight"], module.fc2.weight)
    assert "(7, 8)" in str(net.account)


def test_missing_and_unexpected_weights_are_listed() -> None:
    state = _state()
    del state["norm1.weight"]
    state["extra.weight"] = torch.zeros(3)
    net = open_torch(examples.Cnn(), inputs=(1, 8, 8))
    account = put_weights_(net, state).to_dict()
    assert account["missing"] == ["norm1.weight"]
    assert account["unexpected"] == ["extra.weight"]


def test_weights_of_something_else_are_refused() -> None:
    net = open_torch(examples.Cnn(), inputs=(1, 8, 8))
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    with pytest.raises(NetworkError, match="same architecture"):
        put_weights_(net, {"q.weight": torch.zeros(13, 17), "r.weight": torch.zeros(2, 2, 2)})
    assert examples.bit_equal(before, net.state())


@pytest.mark.parametrize("how", ["torch", "pickle", "nested"])
def test_a_pickle_of_objects_is_refused_without_running_it(tmp_path: Path, how: str) -> None:
    path, trace = tmp_path / "w.pt", tmp_path / "ran"
    content: Any = {"state_dict": _state(), "config": Ran(trace)} if how == "nested" else Ran(trace)
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    for call in (
        lambda: read_torch_weights(path),
        lambda: regraft.load(path),
        lambda: regraft.load(examples.Cnn(), weights=path, inputs=(1, 8, 8)),
    ):
        with pytest.raises(UnsafeFileError, match=r"w\.pt.*objects \([\w.]+\).*state_dict"):
            call()
    assert not trace.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "m.pt")
    with pytest.raises(UnsafeFileError, match="state_dict"):
        regraft.load(tmp_path / "m.pt")


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_file_is_one_error(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"w{ending}"
    save_file(_state(), path) if ending == ".safetensors" else torch.save(_state(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(NetworkError, match="w"):
        read_torch_weights(path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3), {}])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match="no named tensors"):
        read_torch_weights(tmp_path / "w.pt")


KEYS = ("", "state_dict", "net", "params", "model_state", "ema", "model.state_dict", "generator")


@pytest.mark.parametrize(
    ("ending", "key"), [*((".pt", key) for key in KEYS), *((ending, "net") for ending in (".pth", ".pth.tar", ".ckpt", ".bin", ".PTH"))]
)
def test_checkpoints_of_other_programs(tmp_path: Path, ending: str, key: str) -> None:
    content: Any = _state()
    for part in reversed(key.split(".") if key else []):
        content = {"epoch": 3, part: content}
    torch.save(content, tmp_path / f"w{ending}")
    net = regraft.load(examples.Cnn(), weights=tmp_path / f"w{ending}", inputs=(1, 8, 8))
    assert examples.bit_equal(_state(), net.state()) and not any("several sets" in note for note in net.account.notes)


def test_which_of_several_sets_of_weights_was_taken_is_said(tmp_path: Path) -> None:
    averaged = {name: torch.zeros_like(tensor) for name, tensor in _state().items()}
    torch.save({"model_ema": averaged, "model": _state(), "config": {"model": "cnn"}}, tmp_path / "w.pth")
    net = regraft.load(examples.Cnn(), weights=tmp_path / "w.pth", inputs=(1, 8, 8))
    assert examples.bit_equal(_state(), net.state())
    assert any("taken: 'model', left: 'model_ema'" in note for note in net.account.notes)


def test_several_networks_in_one_file_are_refused_by_their_keys(tmp_path: Path) -> None:
    torch.save({"generator": _state(), "critic": _state(), "optimizer": {"state": {0: {"mean": torch.zeros(3)}}}}, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=r"holds several networks: 'generator', 'critic'; expected one state dict"):
        read_torch_weights(tmp_path / "w.pt")


def test_a_checkpoint_that_contains_itself_is_refused(tmp_path: Path) -> None:
    content: Any = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match="no named tensors"):
        read_torch_weights(tmp_path / "w.pt")
