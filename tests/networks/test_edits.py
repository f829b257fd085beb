"""Edits are plain data, the same in every family: they go through JSON, and a network and its edits give the edited network again."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.edits import EDITS, batch, outputs, stirred_
from tests.test_families import NETWORKS, opened

import regraft
from regraft.errors import NetworkError
from regraft.networks.edits import edit_from_dict
from regraft.networks.network import Network

UNLISTED = ("copy", "reinitialised", "derived branch")
"""What is no edit: weights drawn anew, and a head that sums another one's probabilities, which is noted among the heads."""


def replayed(net: Network, edits: list[dict[str, Any]]) -> Network:
    for plain in edits:
        net = net.edited(edit_from_dict(plain))
    return net


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name == "sequential" else ()) for name in NETWORKS])
def test_the_source_and_its_edits_out_of_json_give_the_edited_network(name: str) -> None:
    done = 0
    for edit, make in EDITS.items():
        net, _ = opened(name)
        try:
            twin = make(net, 0)
        except regraft.RegraftError:
            continue
        assert bool(twin.edits) is (edit not in UNLISTED) and not net.edits, edit
        stirred_(twin, net, seed=0)
        for made in (twin, twin.settled(), *([twin.folded("ben")] if twin.coding is not None else [])):
            plain = json.loads(json.dumps([one.to_dict() for one in made.edits]))
            assert tuple(map(edit_from_dict, plain)) == made.edits, edit
            again, state = replayed(net, plain), made.state()
            assert again.state().keys() == state.keys() and again.edits == made.edits, (edit, plain)
            with torch.no_grad():
                for key, values in again.state().items():
                    values.copy_(state[key])
            inputs = batch(made, seed=1)
            known, found = outputs(made, inputs), outputs(again, inputs)
            assert all(torch.equal(found[task], known[task]) for task in found), (edit, plain)
            done += 1
    assert done >= (10 if name == "subclassed" else 20)


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"edit": "hed"}, "edit 'hed' is unknown; did you mean 'head'"),
        ({}, "edit None is unknown; valid: 'head', 'stack'"),
        (5, "edit 5 is unknown"),
        ({"edit": "head", "task": "main", "features": 3}, "'head' lacks 'rows'"),
        ({"edit": "head", "task": "main", "rows": 2**20, "features": 2**20}, "more than 268435456 numbers"),
        ({"edit": "head", "task": "main", "rows": 3, "features": 2, "parts": [1, 1]}, "parts of 2 rows for 3 rows"),
        ({"edit": "stack", "task": "main", "rows": 3, "features": 2, "activation": "rel"}, "activation 'rel', which is not known"),
        ({"edit": "channels", "count": True}, "count: Input should be a valid integer"),
        ({"edit": "taps", "points": [5]}, r"points\.0"),
        ({"edit": "codes", "coding": {"size": 0, "conditions": []}}, "codes of 0 numbers"),
        ({"edit": "codes", "coding": {"size": 2, "conditions": ["a", "a"]}}, "that are not different"),
        ({"edit": "scale_shift", "form": "flim", "points": ["fc"]}, "form: String should match"),
    ],
)
def test_plain_data_that_are_no_edit_are_refused_by_name(plain: Any, said: str) -> None:
    with pytest.raises(NetworkError, match=said):
        edit_from_dict(plain)


def test_a_stack_of_an_earlier_version_says_what_its_scores_go_through_as_activation() -> None:
    plain = {"edit": "stack", "task": "main", "rows": 3, "features": 2, "bias": False, "activation": "tanh", "newer": 1}
    stack = edit_from_dict(plain)
    assert stack.to_dict() == {"edit": "stack", "task": "main", "rows": 3, "features": 2, "bias": False, "between": "tanh"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_head_of_other_features_is_refused(name: str) -> None:
    net, _ = opened(name)
    wide = replace(net.head, weight=np.ones((2, 77), np.float32), bias=np.zeros(2, np.float32), classes=None)
    for change in (lambda: net.with_stack(wide, "relu"), lambda: net.with_head(wide), lambda: net.with_head(replace(wide, task="other"))):
        with pytest.raises(NetworkError, match=r"The class weights have 77 features; the .*head '.*\. Give weights of that length"):
            change()
