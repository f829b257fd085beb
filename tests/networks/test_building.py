"""Architectures made under a limit: counted before memory is taken, without the network, and every failure is one error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from regraft.errors import NetworkError, UnsafeFileError
from regraft.networks.edits import Rows
from regraft.networks.sources.building import Limits, building

SMALL = Limits(4 * 2**20, 50)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(2**15, 2**15),
        lambda: nn.Embedding(2**40, 2),
        lambda: torch.zeros(2**40),
        lambda: torch.empty(2**20, 2**20, dtype=torch.uint8),
        lambda: torch.full((2**21,), 1.0),
        lambda: torch.arange(2**40),
        lambda: torch.linspace(0, 1, 2**30),
        lambda: torch.eye(2**20),
        lambda: torch.randn(2**30, generator=torch.Generator()),
        lambda: [nn.Linear(1, 1) for _ in range(10**9)],
        lambda: [torch.zeros(2**10, 2**8) for _ in range(10)],
    ],
)
def test_what_is_too_large_takes_no_memory(make: Callable[[], Any]) -> None:
    with pytest.raises(NetworkError, match="'x' declares a network of more than"), building("'x'", SMALL):
        make()


def test_limits_follow_from_the_weights() -> None:
    own = nn.Sequential(*(nn.Linear(100, 100) for _ in range(20)))
    with building("'x'", Limits.of(own.state_dict())):
        nn.Sequential(*(nn.Linear(100, 100) for _ in range(20)))
    few, many = Limits.of({"a": torch.zeros(1)}), Limits.of({"a": torch.zeros(10**6)})
    assert many.size - few.size == 12 * (10**6 - 1)
    assert Limits.of_memory().size > many.size


@pytest.mark.parametrize("error", [RuntimeError, KeyError, MemoryError, RecursionError, type("Panic", (BaseException,), {})])
def test_any_failure_is_one_error(error: type[BaseException]) -> None:
    with pytest.raises(NetworkError, match=r"'x' cannot be made into a network.* Do this."), building("'x'", SMALL, remedy="Do this."):
        raise error("\x1b[31m")


@pytest.mark.parametrize("error", [UnsafeFileError, KeyboardInterrupt, SystemExit])
def test_errors_of_regraft_and_the_end_of_the_program_pass(error: type[BaseException]) -> None:
    with pytest.raises(error), building("'x'", SMALL):
        raise error("y")


@pytest.mark.parametrize(
    "draw",
    [
        lambda tensor: tensor.normal_(3.0, 0.1),
        lambda tensor: nn.init.normal_(tensor, mean=3.0, std=0.1),
        lambda tensor: tensor.uniform_(2.5, to=3.5),
        lambda tensor: nn.init.uniform_(tensor, a=2.5, b=3.5),
        lambda tensor: nn.init.trunc_normal_(tensor, mean=3.0, std=0.1, a=2.8, b=3.2),
        lambda tensor: nn.init.trunc_normal_(tensor, mean=3.0, std=1.0, a=2.9, b=3.1),
    ],
)
def test_weights_that_a_file_replaces_are_like_drawn_ones(draw: Callable[[torch.Tensor], Any]) -> None:
    tensor = torch.zeros(300, 301)
    before = torch.get_rng_state()
    with building("'x'", Limits.of_memory(), drawn=False):
        draw(tensor)
    assert 2.0 < float(tensor.min()) < 2.99 < 3.01 < float(tensor.max()) < 4.0
    assert float(tensor.mean()) == pytest.approx(3.0, abs=0.1)
    assert len(torch.unique(tensor, dim=0)) == 300
    if "trunc" not in draw.__code__.co_names[-1]:  # a draw that is repeated until it suits may come to be drawn
        assert torch.equal(torch.get_rng_state(), before)


def test_layers_that_a_file_replaces_are_finite_and_differ() -> None:
    with building("'x'", Limits.of_memory(), drawn=False):
        made = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LSTM(8, 8), nn.Linear(512, 512), nn.TransformerEncoderLayer(8, 2))
    assert all(torch.isfinite(value).all() for value in made.state_dict().values())
    assert torch.linalg.matrix_rank(made[3].weight) > 500


def test_the_client_of_the_hub_is_off_meanwhile() -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(NetworkError), building("'x'", SMALL):
        assert constants.HF_HUB_OFFLINE
        raise ValueError("y")
    assert before == constants.HF_HUB_OFFLINE


def test_an_edit_that_is_larger_than_the_weights_is_refused() -> None:
    SMALL.check([Rows(task="main", rows=1000, features=1000)], what="'x'")
    with pytest.raises(NetworkError, match=r"'x' notes the edit .*'rows': 2000.* larger than its weights"):
        SMALL.check([Rows(task="main", rows=2000, features=1000)], what="'x'")
