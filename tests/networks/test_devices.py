"""A network on another device than the CPU: it predicts, is edited, saved and exported as on the CPU, and the strategy `probe` runs there.

PyTorch's lazy device stands for a GPU: it refuses tensors of the CPU as a GPU does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch._lazy.ts_backend

import regraft
from regraft.networks.samples import placed

EXAMPLES = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
LABELS = np.where(EXAMPLES[:, 0] > 0, "a", "b")


@pytest.fixture(scope="module", autouse=True)
def lazy_device() -> None:
    # PyTorch starts threads for every device that it knows at its first gradient, and a process that has such threads cannot be forked.
    torch.ones(1, requires_grad=True).sum().backward()
    torch._lazy.ts_backend.init()


@pytest.fixture
def net() -> regraft.Network:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return regraft.load(module, inputs=(4,), classes=["a", "b"])


def moved(net: regraft.Network) -> regraft.Network:
    twin = net.copy()
    twin.body.move_(torch.device("lazy"))
    return twin


EDITS: dict[str, Callable[[regraft.Network], regraft.Network]] = {
    "none": lambda net: net,
    "retarget": lambda net: regraft.retarget(net, ["b", "c", "a"]),
    "extend": lambda net: regraft.extend(net, ["c"], (EXAMPLES[:5], ["c"] * 5)),
    "stack": lambda net: regraft.stack(net, ["x", "y"], start="random"),
    "branch": lambda net: regraft.branch(net, "side", ["left", "right"], start="random"),
    "combine": lambda net: regraft.combine({"a": net, "b": net}),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_and_predictions_are_those_of_the_cpu(net: regraft.Network, edit: str) -> None:
    here, there = EDITS[edit](net), EDITS[edit](moved(net))
    np.testing.assert_allclose(there.logits(EXAMPLES), here.logits(EXAMPLES), atol=1e-5)
    np.testing.assert_allclose(there.features(EXAMPLES), here.features(EXAMPLES), atol=1e-5)
    assert list(there.predict(EXAMPLES).labels) == list(here.predict(EXAMPLES).labels)


def test_files_do_not_know_the_device(net: regraft.Network, tmp_path: Path) -> None:
    there = moved(net)
    there.export(tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    np.testing.assert_allclose(program(torch.from_numpy(EXAMPLES)).detach().numpy(), net.logits(EXAMPLES), atol=1e-5)
    there.export(tmp_path / "net.onnx")
    np.testing.assert_allclose(regraft.load(tmp_path / "net.onnx").logits(EXAMPLES), net.logits(EXAMPLES), atol=1e-5)
    np.testing.assert_allclose(regraft.load(there.save(tmp_path / "kept")).logits(EXAMPLES), net.logits(EXAMPLES), atol=1e-5)


def test_a_result_predicts_where_it_was_made(net: regraft.Network) -> None:
    result = regraft.adapt(net, (EXAMPLES, LABELS), strategy="probe", cache="memory", device="lazy")
    assert {value.device.type for value in result.network.state().values()} == {"lazy"}
    assert regraft.evaluate(result.network, (EXAMPLES, LABELS)).scores["accuracy"] > 0.8
    many = np.tile(EXAMPLES, (20, 1))  # as many as "auto" considers an engine for
    for engine in ("auto", "onnxruntime"):
        assert list(regraft.predict(result.network, many, engine=engine).labels[:60]) == list(result.network.predict(EXAMPLES).labels)


class Recorded:
    """A tensor of the CPU that notes how it is moved."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def pin_memory(self) -> Recorded:
        self.calls.append("pinned")
        return self

    def to(self, device: torch.device, **how: Any) -> Recorded:
        self.calls.append((str(device), how))
        return self


@pytest.mark.parametrize("device, calls", [("cuda:1", ["pinned", ("cuda:1", {"non_blocking": True})]), ("lazy", [("lazy", {})])])
def test_batches_go_to_a_gpu_through_page_locked_memory(device: str, calls: list[Any]) -> None:
    given: Any = {"x": Recorded()}
    placed(given, torch.device(device), order=torch.channels_last)
    assert given["x"].calls == calls
