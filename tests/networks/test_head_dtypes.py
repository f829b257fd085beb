"""Heads whose result has another data type than the layer: mixed precision in Keras, a cast or a softmax in another type in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regraft

pytestmark = pytest.mark.usefixtures("without_onnx_form")

DRAW = np.random.default_rng(0)
ROWS = DRAW.normal(size=(40, 6)).astype(np.float32)
LABELS = np.array(["a", "b", "c"])[np.arange(40) % 3]


class Ended(nn.Module):
    """A classifier whose result is what `end` makes of the logits."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.head, self.end = nn.Linear(6, 8), nn.Linear(8, 3), end

    def forward(self, rows: Tensor) -> Tensor:
        return self.end(self.head(self.body(rows).relu()))


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax in float64": lambda logits: logits.softmax(1, dtype=torch.float64),
    "logarithm of softmax in float64": lambda logits: logits.log_softmax(1, dtype=torch.float64),
    "cast to float64": lambda logits: logits.double(),
    "cast to float16": lambda logits: logits.half(),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_module_whose_result_has_another_type_keeps_its_head(name: str) -> None:
    module = Ended(ENDS[name]).eval()
    net = regraft.load(module, inputs=(6,), classes=["a", "b", "c"])
    assert net.head.layer == "head"
    logits = module.head(module.body(torch.from_numpy(ROWS)).relu()).detach().numpy()
    np.testing.assert_allclose(net.logits(ROWS), logits, rtol=1e-3, atol=1e-3)
    kept = regraft.retarget(net, ["c", "a"])
    np.testing.assert_array_equal(kept.head.row("a")[0], net.head.row("a")[0])


BARE: dict[str, Callable[[Tensor], Tensor]] = {
    "whole numbers": lambda logits: (logits > 0).long(),
    "truth values": lambda logits: logits > 0,
    "whole numbers at positions": lambda logits: (logits > 0).long()[:, :, None].repeat(1, 1, 2),
    "float64 of no head": lambda logits: logits.double().cos().relu(),
    "float16 of no head": lambda logits: logits.half().cos().relu(),
}


@pytest.mark.parametrize("name", BARE)
def test_a_module_without_a_head_gets_one_on_a_result_of_any_type(name: str, tmp_path: Path) -> None:
    module = Ended(BARE[name]).eval()
    net = regraft.load(module, inputs=(6,))
    assert not net.heads
    for strategy in ("head", "full"):
        result = regraft.adapt(net, (ROWS, LABELS), strategy=strategy, epochs=1, cache="memory")
        result.network.save(tmp_path / strategy)
        again = regraft.load(tmp_path / strategy, architecture=module)
        np.testing.assert_array_equal(again.logits(ROWS), result.network.logits(ROWS))


def _mixed(policy: str, end: str) -> Any:
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_global_policy(policy)
    try:
        ends = {
            "an activation of its own": [keras.layers.Dense(3), keras.layers.Activation("softmax", dtype="float32")],
            "a softmax layer": [keras.layers.Dense(3), keras.layers.Softmax(dtype="float32")],
            "a head in float32": [keras.layers.Dense(3, "softmax", dtype="float32")],
            "a sigmoid of its own": [keras.layers.Dense(3), keras.layers.Activation("sigmoid", dtype="float32")],
        }
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), *ends[end]])
    finally:
        keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("end", ["an activation of its own", "a softmax layer", "a head in float32", "a sigmoid of its own"])
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_mixed_precision_with_an_end_in_float32(policy: str, end: str, tmp_path: Path) -> None:
    model = _mixed(policy, end)
    net = regraft.load(model, classes=["a", "b", "c"])
    assert net.head.layer == next(layer.name for layer in reversed(model.layers) if isinstance(layer, keras.layers.Dense))
    own = model.predict(ROWS, verbose=0)
    np.testing.assert_allclose(net.predict(ROWS).probabilities, own, atol=2e-3)
    net.save(tmp_path / "saved")
    np.testing.assert_array_equal(regraft.load(tmp_path / "saved").logits(ROWS), net.logits(ROWS))
    if end == "an activation of its own":
        result = regraft.adapt(net, (ROWS, LABELS), strategy="full", epochs=1, cache="memory", out=tmp_path / "out")
        np.testing.assert_array_equal(regraft.load(tmp_path / "out").logits(ROWS), result.network.logits(ROWS))
