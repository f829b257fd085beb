"""What stands around a PyTorch module or a call: wrappers, number types, the process's own state, batches of one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.zoo.test_torch_networks import pictures
from tests.zoo.torch_networks import Plain, Viewed
from torch import nn

import regraft
from regraft.errors import NetworkError, SettingError


@contextmanager
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def elsewhere() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device("cpu")


STATES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "double": double,
    "autocast": partial(torch.autocast, "cpu", torch.bfloat16),
    "elsewhere": elsewhere,
}


def plain() -> Plain:
    torch.manual_seed(0)
    return Plain()


@pytest.mark.parametrize("strategy", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("probe", "head")), "full", "auto"])
@pytest.mark.parametrize("state", STATES)
def test_the_state_around_a_call_changes_nothing(state: str, strategy: str) -> None:
    settings = {} if strategy == "probe" else {"epochs": 1}
    results = []
    for around in (STATES[state], torch.enable_grad):
        module = plain()
        with around():
            before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
            net = regraft.load(module, inputs=(3, 16, 16))
            made = regraft.adapt(net, pictures(), strategy=strategy, cache="memory", **settings).network
            results.append(made.predict(pictures()).probabilities)
            results[-1] = np.concatenate([results[-1], made.logits(pictures()), net.logits(pictures())])
            assert before == (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype())
    assert np.array_equal(*results)


@pytest.mark.parametrize("strategy", ["probe", "full", "auto"])
def test_generators_are_left_as_they_were(strategy: str) -> None:
    module, data = plain(), pictures()
    torch.manual_seed(4), np.random.seed(4), random.seed(4)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    settings = {} if strategy == "probe" else {"epochs": 1, "views": 2}
    regraft.adapt(regraft.load(module, inputs=(3, 16, 16)), data, strategy=strategy, cache="memory", **settings)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


@pytest.mark.parametrize("strategy", ["probe", "full"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_computed_in_single_precision(kind: torch.dtype, strategy: str) -> None:
    module = plain().to(kind)
    net = regraft.load(module, inputs=(3, 16, 16))
    assert any(str(kind).removeprefix("torch.") in note for note in net.account.notes)
    settings = {} if strategy == "probe" else {"epochs": 1}
    made = regraft.adapt(net, pictures(), strategy=strategy, cache="memory", **settings).network
    assert all(values.dtype == torch.float32 for values in made.state().values() if values.is_floating_point())
    assert {values.dtype for values in module.parameters()} == {kind}


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "OptimizedModule": lambda module: torch.compile(module, backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_only_runs_a_module_otherwise_is_taken_off(wrapper: str) -> None:
    net = regraft.load(WRAPPERS[wrapper](plain()), inputs=(3, 16, 16))
    assert net.head.layer == "fc" and any(wrapper in note for note in net.account.notes)
    assert np.array_equal(net.logits(pictures()), regraft.load(plain(), inputs=(3, 16, 16)).logits(pictures()))


@pytest.mark.parametrize("made", [torch.jit.script, lambda module: torch.jit.trace(module.eval(), torch.zeros(2, 3, 16, 16))])
@pytest.mark.parametrize("inside", [False, True])
def test_scripted_modules_are_refused(made: Callable[[nn.Module], nn.Module], inside: bool) -> None:
    module = made(plain())
    with pytest.raises(NetworkError, match="scripted or traced"):
        regraft.load(nn.Sequential(module) if inside else module, inputs=(3, 16, 16))


def test_a_detector_is_refused() -> None:
    class Detector(Plain):
        def forward(self, x: torch.Tensor) -> list[dict[str, torch.Tensor]]:
            return [{"boxes": torch.zeros(4, 4), "labels": torch.zeros(4)} for _ in self.maps(x)]

    with pytest.raises(NetworkError, match="'boxes', 'labels', as detectors do"):
        regraft.load(Detector(), inputs=(3, 16, 16))


def test_batches_of_one_with_batch_norm() -> None:
    class Rows(nn.Sequential):
        pass

    def rows() -> nn.Module:
        return Rows(nn.Flatten(), nn.Linear(768, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))

    net = regraft.load(rows(), inputs=(3, 16, 16))
    made = regraft.adapt(net, pictures(), strategy="full", epochs=1, batch_size=1, cache="memory").network
    assert torch.equal(made.state()["2.running_mean"], net.state()["2.running_mean"])
    with pytest.raises(SettingError, match="batch_norm='frozen'"):
        regraft.adapt(net, pictures(), strategy="full", epochs=1, batch_size=1, batch_norm="batch", cache="memory")


@pytest.mark.parametrize("trained", [False, True])
def test_old_weight_norm_keeps_its_numbers(trained: bool) -> None:
    from tests.zoo.torch_networks import OldWeightNorm

    module = OldWeightNorm()
    inputs = torch.zeros(2, 3, 16, 16) + torch.arange(2).reshape(2, 1, 1, 1)
    module.train(trained)
    expected = module(inputs)
    module.eval()
    own = module(inputs).detach()
    net = regraft.load(module, inputs=(3, 16, 16))
    assert expected.requires_grad and torch.equal(net.module(inputs), own) and torch.equal(net.copy().module(inputs), own)
    assert np.isfinite(regraft.retarget(net, ["a", "b"], start="random").logits(pictures())).all()


def test_a_traced_graph_prints_nothing_where_another_order_in_memory_fails(capfd: pytest.CaptureFixture[str]) -> None:
    net = regraft.load(torch.fx.symbolic_trace(Viewed()), inputs=(3, 16, 16))
    assert net.body.memory_order == torch.contiguous_format
    assert capfd.readouterr().err == ""


def test_a_program_of_a_fixed_batch_is_refused_when_it_is_opened() -> None:
    program = torch.export.export(plain().eval(), (torch.zeros(2, 3, 16, 16),)).module()
    with pytest.raises(NetworkError, match="runs with 2 examples in a batch, and not with 3"):
        regraft.load(program, inputs=(3, 16, 16))


def test_results_that_depend_on_the_other_examples_are_said(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    net = regraft.load(module, inputs=(6,))
    assert not net.body.draws and str(net.account).count("depends on the others in its batch") == 1
    with pytest.warns(UserWarning, match="opens only with its class"):
        net.save(tmp_path / "saved")
    assert str(regraft.load(tmp_path / "saved", architecture=module).account).count("depends on the others in its batch") == 1
