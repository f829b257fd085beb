"""What the old head says while a network is tuned, the pull to the start, and the third that the gradients choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.methods import examples

import regraft
from regraft.networks.network import Network
from regraft.planning.tuning import switches

QUICK = {
    "holdout": 0.33,
    "validation": 0,
    "epochs": 6,
    "learning_rate": 1e-2,
    "batch_size": 8,
    "cache": "memory",
    "statistics": False,
    "start": "zeros",
    "layer_decay": 1.0,
}
families = pytest.mark.parametrize("kind", ["torch CNN", "Keras functional"])


def adapted(kind: str, other: bool = False, **options: Any) -> Network:
    net = examples.opened(kind, examples.OTHER_CLASSES if other else examples.CLASSES)
    return regraft.adapt(net, examples.items(kind), **QUICK | {"strategy": "full"} | options).network


def distance(first: Network, second: Network) -> float:
    """Return how far apart two networks' weights are, heads and moving averages left out."""
    heads = set(first.head_layers)
    names = [name for layer, named in first.layer_parameters().items() if layer not in heads for name in named]
    return float(sum((first.state()[name] - second.state()[name]).square().sum() for name in names)) ** 0.5


@families
def test_a_stronger_pull_stays_nearer(kind: str) -> None:
    source = examples.opened(kind)
    far = [distance(adapted(kind, stay_near=strength), source) for strength in (0.0, 10.0, 90.0)]
    assert far[0] > far[1] > far[2] > 0


@families
def test_what_the_old_head_said_is_kept(kind: str) -> None:
    items = examples.items(kind)
    old = examples.opened(kind).predict(items).probabilities
    moved = [np.abs(adapted(kind, distill=share).predict(items).probabilities - old).mean() for share in (0.0, 0.9)]
    assert moved[1] < moved[0]


@families
@pytest.mark.parametrize("options", [{"co_tuning": 2.0}, {"distill": 0.5}, {"strategy": "lin", "distill": 0.5}], ids=str)
def test_the_old_head_is_gone_afterwards(kind: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []
    made = switches._with_old_head

    def watched(setup: Any, *args: Any, **named: Any) -> Any:
        other = made(setup, *args, **named)
        seen.append(tuple(other.network.heads))
        return other

    monkeypatch.setattr(switches, "_with_old_head", watched)
    net = adapted(kind, other=True, **options)
    assert seen == [("main", switches.OLD_HEAD)]
    assert list(net.heads) == ["main"] and net.classes == examples.CLASSES
    assert not any("old" in name for name in net.state())
    assert net.scores(net.sample).keys() == {"main"}


@families
def test_co_tuning_teaches_the_features_something_else(kind: str) -> None:
    plain, taught = adapted(kind, other=True), adapted(kind, other=True, co_tuning=2.0)
    assert distance(plain, taught) > 1e-3


@families
def test_the_report_says_why(kind: str, tmp_path: Path) -> None:
    options = QUICK | {"strategy": "surgical", "block": "auto", "distill": 0.2}
    result = regraft.adapt(examples.opened(kind), examples.items(kind), out=tmp_path / "out", **options)
    text = " ".join(result.plan.reasons)
    assert "A share of 0.2 of each target" in text and "largest in proportion to its weights" in text
    assert result.plan.block == "auto"
    plan = regraft.planning.Plan.from_json((tmp_path / "out" / "plan.json").read_text(encoding="utf-8"))
    assert plan.settings.distill == 0.2


def test_surgical_auto_trains_the_third_with_the_largest_gradient() -> None:
    source = examples.opened("torch CNN")
    result = regraft.adapt(source, examples.items("torch CNN"), strategy="surgical", block="auto", **QUICK)
    named = next(reason for reason in result.plan.reasons if "third of the blocks was trained" in reason)
    chosen = named.split()[1]
    again = regraft.adapt(source, examples.items("torch CNN"), strategy="surgical", block=chosen, **QUICK)
    for name, values in result.network.state().items():  # the head was solved on features of another cut, which round otherwise
        torch.testing.assert_close(values, again.network.state()[name], rtol=1e-5, atol=1e-6)


@families
def test_switches_go_with_codes_and_with_several_tasks(kind: str) -> None:
    net = adapted(kind, other=True, strategy="codes", co_tuning=1.0, size=2)
    assert net.coding is not None and list(net.heads) == ["main"]
    branched = regraft.branch(examples.opened(kind, examples.OTHER_CLASSES), "size", ["small", "large"])
    result = regraft.adapt(branched, examples.items(kind), strategy="full", distill=0.5, **QUICK)
    assert list(result.network.heads) == ["main", "size"]
