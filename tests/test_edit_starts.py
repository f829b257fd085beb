"""An edit at its start changes no logit, in any family: what is added does nothing until it is trained."""

from __future__ import annotations

import pytest
import torch
from tests.edits import EDITS, batch, outputs
from tests.test_families import NETWORKS, opened

import regraft

STARTING = ("copy", "lhuc", "film", "low rank", "entrance", "codes", "codes at the entrance", "extend")
"""Edits that begin where they change nothing; of "extend", the logits of the classes that were there."""
REFUSED = {"subclassed": {"lhuc", "film", "entrance", "codes", "codes at the entrance"}}  # they need a graph


@pytest.mark.parametrize("edit", STARTING)
@pytest.mark.parametrize("name", NETWORKS)
def test_an_edit_at_its_start_changes_no_logit(name: str, edit: str) -> None:
    net, _ = opened(name)
    if edit in REFUSED.get(name, ()):
        with pytest.raises(regraft.RegraftError):
            EDITS[edit](net, 0)
        return
    twin = EDITS[edit](net, 0)
    inputs = batch(twin, seed=1)
    plain = inputs if torch.is_tensor(inputs) else {key: values for key, values in inputs.items() if key != "condition"}
    given = plain if torch.is_tensor(plain) or len(plain) > 1 else next(iter(plain.values()))
    before, after = outputs(net, given), outputs(twin, inputs)
    assert before.keys() == after.keys()
    for task, values in before.items():
        assert torch.equal(after[task][:, : values.shape[1]], values)
