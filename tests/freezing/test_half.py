"""bfloat16: taken where a probe does as well on such features, said, and part of the identity of a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from tests.freezing.test_engines import INSTALLED, NETWORKS, _cut, _items

import regraft
from regraft.errors import SettingError
from regraft.freezing import FrozenPass, half


def _made(case: str, where: str | Path, **further: Any) -> tuple[list[np.ndarray], FrozenPass]:
    make, trained = NETWORKS[case]
    network = make()
    items = _items(network, 300)
    made = FrozenPass(network, _cut(network, items, trained=trained), where, **further)
    return made.cached(items).stored(np.arange(300)), made


@pytest.mark.parametrize(
    "case, engine", [("torch", "eager"), ("keras", "eager"), *([("torch", "openvino")] if "openvino" in INSTALLED else [])]
)
def test_features_in_bfloat16_are_near_and_said(case: str, engine: str, tmp_path: Path) -> None:
    plain, _ = _made(case, "memory", engine="eager")
    found, made = _made(case, tmp_path, engine=engine, precision="bfloat16")
    largest = np.abs(plain[0]).max()
    assert 0 < np.abs(found[0] - plain[0]).max() <= half.HALF_OFF * largest
    told = [note for note in made.notes if note.startswith("The frozen part was computed in bfloat16: ")]
    assert told and "standard error" in told[0], made.notes
    again = _made(case, tmp_path, engine=engine, precision="bfloat16")[1]
    assert again.counter.items == 0
    exact = _made(case, tmp_path, engine="eager")
    assert exact[1].counter.items == 300  # a cache in bfloat16 is none of single precision
    assert exact[0][0].tobytes() == plain[0].tobytes()
    assert _made(case, tmp_path, engine="eager", precision="bfloat16")[1].counter.items == 0


def test_bfloat16_is_left_where_a_probe_does_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = _made("torch", "memory", engine="eager")
    own, calls = half._judged, []

    def worse(*args: Any, **named: Any) -> np.ndarray:
        calls.append(own(*args, **named))
        return calls[0] if len(calls) == 1 else calls[0] - 1.1 * calls[0].std() / np.sqrt(len(calls[0]))

    monkeypatch.setattr(half, "_judged", worse)
    found, made = _made("torch", "memory", engine="eager", precision="bfloat16")
    assert found[0].tobytes() == plain[0].tobytes()
    assert made.notes[0].startswith("The frozen part stayed in float32: leave-one-out"), made.notes


class Strict(torch.nn.Sequential):
    """A network that takes no other dtype than its own within."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        inner = self[0](batch)
        if inner.dtype != torch.float32:
            raise TypeError("float32 is needed")
        return self[2](self[1](inner))


def test_a_network_that_does_not_compute_in_bfloat16_stays_in_float32() -> None:
    net = regraft.load(Strict(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 3)), inputs=(1, 8, 8))
    result = regraft.adapt(net, examples.pictures(60), strategy="probe", cache="memory", precision="bfloat16")
    said = "The frozen part stayed in float32: it does not compute in bfloat16 (float32 is needed)."
    assert said in result.plan.reasons, result.plan.reasons


def test_labels_that_judge_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    own = half._judged
    monkeypatch.setattr(half, "_judged", lambda *args, rows, **named: seen.append(rows) or own(*args, rows=rows, **named))
    X, y = examples.pictures(60)
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    for strategy in ("probe", "partial"):
        seen.clear()
        how = {"cache": "memory"} | ({"frozen": 1, "epochs": 1} if strategy == "partial" else {})
        result = regraft.adapt(net, (X, y), strategy=strategy, test=(X, y), holdout=0.2, precision="bfloat16", **how)
        assert {len(rows) for rows in seen} == {48}, strategy
        assert any("bfloat16" in reason for reason in result.plan.reasons)


def test_auto_takes_bfloat16_only_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.freezing.run.FEWEST", 1)
    for step, expected in (
        (0.5, "was computed in bfloat16: 2.0 times as fast"),
        (2.0, "stayed in float32: bfloat16 took 2.00 times as long"),
    ):
        ticks = iter(np.cumsum([0.0, 1.0, 0.0, step] * 50).tolist())
        monkeypatch.setattr(half, "perf_counter", ticks.__next__)
        _, made = _made("torch", "memory", engine="eager", precision="auto")
        assert expected in made.notes[0], made.notes


@pytest.mark.parametrize("kind", ["classification", "regression", "multi-label"])
def test_adapt_says_the_precision(kind: str) -> None:
    torch.manual_seed(0)
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    X, y = examples.pictures(60)
    means = X.mean((1, 2, 3))
    targets = {
        "classification": y,
        "regression": means.astype("float32"),
        "multi-label": np.stack([means > 0, means < 0.1, means > 0.1], 1),
    }
    result = regraft.adapt(net, (X, targets[kind]), task=kind, strategy="probe", cache="memory", precision="bfloat16")
    assert [reason for reason in result.plan.reasons if "bfloat16" in reason], result.plan.reasons
    with pytest.raises(SettingError, match="precision='half': expected one of auto, float32, bfloat16"):
        regraft.adapt(net, (X, y), precision="half")
