"""Rows are carried over by class name, never by count or position."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regraft.errors import NetworkError, SettingError
from regraft.heads import retarget
from regraft.heads.retarget import retargeted_rows
from regraft.networks.network import Head, Network, Tap
from regraft.networks.torch.family import open_torch

NAMES = ["bus", "Car", "ﬁre", "tram ", "Ünit", "ßee", "a", "A", "b", "c", "CAR", "car"]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _origin(name: str, old: list[str], new: list[str]) -> list[int]:
    """Return the row that a new name keeps: of the same name, else of the one that differs in case alone, where only one does."""
    exact = [row for row, before in enumerate(old) if _key(before) == _key(name)]
    folded = [row for row, before in enumerate(old) if _key(before).casefold() == _key(name).casefold()]
    alone = sum(_key(other).casefold() == _key(name).casefold() for other in new) == 1
    return exact or (folded if len(folded) == 1 and alone else [])


def _head(names: list[str] | None, count: int | None = None) -> Head:
    rows = len(names) if names is not None else count or 3
    weight = np.arange(1, rows * 4 + 1, dtype=np.float32).reshape(rows, 4)
    return Head(
        "main",
        tuple(names) if names is not None else None,
        "classification",
        "softmax",
        "fc",
        weight,
        np.arange(1, rows + 1, dtype=np.float32),
    )


@st.composite
def _changes(draw: st.DrawFn) -> tuple[list[str], list[str], dict[str, str]]:
    old = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    new = draw(st.lists(st.sampled_from([*NAMES, "x", "y"]), min_size=1, unique=True))
    new = [draw(st.sampled_from([str, str.upper, str.lower]))(name) if name != "ßee" else name for name in new]
    new = list({_key(name): name for name in new}.values())
    befores = draw(st.lists(st.sampled_from(old), unique=True, max_size=3))
    afters = draw(st.lists(st.sampled_from(new), unique=True, min_size=0, max_size=3))
    return old, new, dict(zip(befores, afters, strict=False))


@settings(max_examples=150, deadline=None)
@given(_changes())
def test_rows_by_name_against_a_brute_force_model(change: tuple[list[str], list[str], dict[str, str]]) -> None:
    old, new, rename = change
    called = {name: rename.get(name, name) for name in old}
    collides = len({_key(name) for name in called.values()}) < len(old)
    if collides:
        with pytest.raises(NetworkError, match="two classes become one"):
            retargeted_rows(_head(old), new, rename=rename)
        return
    head, account = retargeted_rows(_head(old), new, rename=rename)
    source, used = _head(old), set()
    for row, name in enumerate(new):
        origin = _origin(name, [called[before] for before in old], new)
        used |= set(origin)
        expected = (source.weight[origin[0]], source.bias[origin[0]]) if origin else (np.zeros(4), 0.0)
        assert np.array_equal(head.weight[row], expected[0])
        assert head.bias[row] == expected[1]
    entries = account.to_dict()
    assert len(entries["kept"]) + len(entries["renamed"]) == len(used)
    assert entries["new"] == [name for name in new if not _origin(name, [called[before] for before in old], new)]
    assert entries["dropped"] == [name for index, name in enumerate(old) if index not in used]
    assert head.classes == tuple(new)


def test_same_count_with_other_names_reuses_nothing() -> None:
    head, account = retargeted_rows(_head(["a", "b", "c"]), ["d", "e", "f"])
    assert not head.weight.any()
    assert not head.bias.any()
    assert account.to_dict()["new"] == ["d", "e", "f"]
    assert account.to_dict()["dropped"] == ["a", "b", "c"]
    assert "no class name is shared" in str(account)


def test_rows_without_names_are_not_carried_over() -> None:
    head, account = retargeted_rows(_head(None, 3), ["d", "e", "f"])
    assert account.to_dict()["dropped"] == ["unnamed class 1", "unnamed class 2", "unnamed class 3"]
    assert not head.weight.any()
    assert "no class names" in str(account)


@pytest.mark.parametrize(
    ("classes", "rename", "message"),
    [
        ([], None, "empty"),
        (["x", " "], None, "empty"),
        (["x", "x "], None, "same once trimmed"),
        (["x"], {"buss": "x"}, "'bus'"),
        (["xx"], {"bus": "xy"}, "'xx'"),
        (["x"], {"bus": "x", "car": "x"}, "two classes become one"),
        (["car"], {"bus": "car"}, "two classes become one"),
    ],
)
def test_names_that_do_not_fit_are_refused(classes: list[str], rename: dict[str, str] | None, message: str) -> None:
    net = open_torch(nn.Sequential(nn.Linear(4, 2)), inputs=(4,), classes=["bus", "car"])
    with pytest.raises(NetworkError, match=message):
        retarget(net, classes, rename=rename)


@pytest.mark.parametrize(
    ("old", "new", "rows", "rules"),
    [
        (["a", "A", "b"], ["A", "a", "B"], [1, 0, 2], {"B": "differs in case alone from the old class 'b'"}),
        (["Cat", "dog"], ["cat", "CAT", "Dog"], [None, None, 1], {"Dog": "differs in case alone from the old class 'dog'"}),
        (["Cat", "CAT"], ["cat"], [None], {}),
        (["a"], ["A", "a"], [None, 0], {}),
    ],
)
def test_names_that_differ_in_case_are_different_classes(
    old: list[str], new: list[str], rows: list[int | None], rules: dict[str, str]
) -> None:
    head, account = retargeted_rows(_head(old), new)
    for at, row in enumerate(rows):
        assert np.array_equal(head.weight[at], np.zeros(4) if row is None else _head(old).weight[row])
    assert dict(account.rules) == rules


def test_two_classes_may_change_places() -> None:
    head, account = retargeted_rows(_head(["a", "b"]), ["a", "b"], rename={"a": "b", "b": "a"})
    assert np.array_equal(head.weight, _head(["a", "b"]).weight[::-1])
    assert len(account.to_dict()["renamed"]) == 2


def _network(head: nn.Module) -> Network:
    torch.manual_seed(0)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()] if isinstance(head, nn.Conv2d) else []
    start = [nn.Conv2d(1, 4, 3), nn.ReLU()] if pool else [nn.Linear(6, 4), nn.ReLU()]
    return open_torch(nn.Sequential(*start, head, *pool), inputs=(1, 6, 6) if pool else (6,), classes=["a", "b"])


@pytest.mark.parametrize("head", [nn.Linear(4, 2), nn.Linear(4, 2, bias=False), nn.Conv2d(4, 2, 1)], ids=["linear", "without bias", "1x1"])
def test_the_network_given_is_left_alone_and_old_scores_stay(head: nn.Module) -> None:
    net = _network(head)
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    other = retarget(net, ["c", "b", "a", "d"])
    assert net.classes == ("a", "b")
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state().items())
    batch = torch.randn(3, *net.input_shape)
    with torch.no_grad():
        old, new = net.scores(batch)["main"], other.scores(batch)["main"]
    torch.testing.assert_close(new[:, [2, 1]], old)
    assert not new[:, [0, 3]].any()
    assert other.head.row("B")[0].tolist() == net.head.row("b")[0].tolist()
    with pytest.raises(NetworkError, match="valid"):
        other.head.row("zebra")


def test_a_network_without_a_head_gets_one() -> None:
    net = open_torch(nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU()), inputs=(1, 6, 6))
    assert net.heads == {}
    with pytest.raises(NetworkError, match=r"without a head.*retarget"):
        _ = net.head
    other = retarget(net, ["a", "b", "c"])
    assert other.head.weight.shape == (3, 5)
    with torch.no_grad():
        assert other.scores(torch.randn(2, 1, 6, 6))["main"].shape == (2, 3)
    assert "put on its pooled output" in str(other.account)
    for ended in (net.ended("0"), net.tapped([Tap("0", ("mean",))])):
        assert "put on the output of '0'" in str(retarget(ended, ["a", "b", "c"]).account)


def test_an_unknown_kind_is_refused() -> None:
    net = open_torch(nn.Linear(4, 2), classes=["a", "b"], inputs=(4,))
    for hidden in ((), [(3, "relu")]):
        with pytest.raises(SettingError, match="kind='clasification' is not known; did you mean 'classification'"):
            retarget(net, ["a", "c"], kind="clasification", hidden=hidden)
