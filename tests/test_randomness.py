"""The shared generators: a result depends on its seed alone, the user's numbers stay, and threads do not disturb each other."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import condition_examples, torch_examples
from tests.reliability import cases

import regraft
from regraft.networks.keras.library import keras
from regraft.networks.keras.running import seeded as keras_seeded
from regraft.randomness import seeded

FAMILIES = pytest.mark.parametrize("family", cases.FAMILIES)


def _numbers() -> list[Any]:
    return [random.random(), np.random.rand(3).tolist(), torch.rand(3).tolist()]


def _states() -> list[Any]:
    numpy: Any = np.random.get_state()
    return [random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()]


@pytest.fixture(autouse=True)
def _moved() -> None:
    """Leave the generators where no seed of ours would put them."""
    random.seed(77), np.random.seed(78), torch.manual_seed(79)
    _numbers()


# ── the context ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**63 + 5])
def test_equal_seeds_give_equal_numbers_and_what_was_before_comes_back(seed: int) -> None:
    before = _states()
    with seeded(seed):
        first = _numbers()
        with seeded(seed + 1):
            other = _numbers()
        then = _numbers()
    with pytest.raises(ZeroDivisionError), seeded(seed):
        assert _numbers() == first
        assert _numbers() == then
        _ = 1 / 0
    assert first != other and _states() == before


def test_the_numbers_of_a_seed_are_those_of_each_library() -> None:
    with seeded(5):
        found = _numbers()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert found == _numbers()


def test_another_thread_waits() -> None:
    found: dict[int, list[Any]] = {}
    inside, go_on = threading.Event(), threading.Event()

    def drawing(seed: int) -> None:
        with seeded(seed):
            first = _numbers()
            inside.set()
            go_on.wait(0.2)  # where the other is let in it draws now
            found[seed] = [first, _numbers()]

    threads = [threading.Thread(target=drawing, args=(seed,)) for seed in (1, 2)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        with seeded(seed):
            assert found[seed] == [_numbers(), _numbers()]


def test_the_generator_of_keras_comes_back_too() -> None:
    keras.utils.set_random_seed(11)
    first = keras.random.normal((2,)).tolist()
    with keras_seeded(3):
        inner = keras.random.normal((2,)).tolist()
    then = keras.random.normal((2,)).tolist()
    keras.utils.set_random_seed(11)
    assert [first, then] == [keras.random.normal((2,)).tolist() for _ in range(2)]
    keras.utils.set_random_seed(3)
    assert inner == keras.random.normal((2,)).tolist()


def test_generators_of_a_device_are_touched_only_where_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["state"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", calls.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", calls.append)
    for in_use, expected in ((False, []), (True, [5, ["state"]])):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda in_use=in_use: in_use)
        with seeded(5):
            pass
        assert calls == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_generator_of_a_device_comes_back_too() -> None:
    torch.cuda.manual_seed_all(4)
    before = [torch.rand(3, device="cuda"), torch.cuda.get_rng_state()]
    with seeded(1):
        first = torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before[1])
    with seeded(1):
        assert torch.equal(first, torch.rand(3, device="cuda")) and not torch.equal(first, before[0])


# ── what draws ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kept(result: regraft.Result) -> tuple[dict[str, torch.Tensor], Any, Any]:
    history = [{key: value for key, value in entry.items() if key != "seconds"} for entry in result.history]
    return result.network.state(), history, result.scores


def _equal(first: Any, second: Any) -> bool:
    return torch_examples.bit_equal(first[0], second[0]) and first[1:] == second[1:]


QUICKEST = ("full", "scratch", "codes")


@FAMILIES
@pytest.mark.parametrize("case", [case if case in QUICKEST else pytest.param(case, marks=pytest.mark.slow) for case in cases.CASES])
def test_adapt_leaves_the_users_numbers_alone(case: str, family: str, tmp_path: Path) -> None:
    net = cases.network(family)
    _numbers()
    before = _states()
    cases.adapted(case, family, net=net, out=tmp_path / "out")  # whatever draws outside `seeded` moves a generator for good
    assert _states() == before


@FAMILIES
@pytest.mark.parametrize("case", QUICKEST)
def test_adapt_does_not_depend_on_what_was_drawn_before(case: str, family: str) -> None:
    net = cases.network(family)
    first = _kept(cases.adapted(case, family, net=net))
    _numbers()
    assert _equal(first, _kept(cases.adapted(case, family, net=net)))


def _extended(net: Any) -> None:
    wider = regraft.extend(net, ["new"])
    regraft.retarget(wider, ["a", "class 0"], start="random")
    regraft.stack(net, ["x", "y"])
    regraft.branch(net, "mood", ["good", "bad"])


SPACE = {"learning_rate": [0.1, 0.01], "dropout": [0.2]}
VERBS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "profile": lambda net, data, coded: regraft.profile(net, data),
    "search": lambda net, data, coded: regraft.search(net, data, trials=2, epochs=1, cache="memory", space=SPACE),
    "heads": lambda net, data, coded: _extended(net),
    "fit": lambda net, data, coded: regraft.TransferClassifier(net, strategy="full", epochs=1, dropout=0.1).fit(data.items, data.targets),
    "condition": lambda net, data, coded: regraft.adapt_condition(coded, condition_examples.items(), fit="adam", steps=2),
}


@FAMILIES
@pytest.mark.parametrize("verb", VERBS)
def test_the_other_verbs_do_so_too(verb: str, family: str) -> None:
    given = cases.network(family), cases.data(family), condition_examples.coded(family)
    before = _states()
    VERBS[verb](*given)
    assert _states() == before


# ── threads ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@FAMILIES
@pytest.mark.parametrize("shared", [True, False], ids=["one network", "two networks"])
def test_two_threads_get_what_one_after_the_other_gets(shared: bool, family: str) -> None:
    wanted = [("full", 0), ("scratch", 1), ("head", 2), ("full", 3)]
    one = cases.network(family)
    expected = [_kept(cases.adapted(case, family, net=one, seed=seed)) for case, seed in wanted]
    nets = [one if shared else cases.network(family) for _ in wanted]
    found: dict[int, Any] = {}
    before, ready = _states(), threading.Barrier(len(wanted))

    def work(place: int) -> None:
        case, seed = wanted[place]
        ready.wait()
        found[place] = _kept(cases.adapted(case, family, net=nets[place], seed=seed))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(wanted))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(wanted) and all(_equal(expected[place], found[place]) for place in found)
    assert _states() == before
