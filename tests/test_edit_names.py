"""Names of layers and parameters never change under an edit, in any family; what an edit adds has names of its own."""

from __future__ import annotations

import pytest
import torch
from tests.edits import EDITS
from tests.test_families import NETWORKS, opened

import regraft

OTHER_ROWS = {"retarget": "fc2", "extend": "fc2", "join": "fc2", "channels": "conv1", "one channel": "conv1"}
"""Edit -> the layer whose weights are of another shape afterwards, under the same names."""
SHORTER = ("cut", "taps")
"""Edits that take out what runs later; what is left keeps its names."""
RENAMING = {
    ("torch", "low rank"): "peft puts a layer of its own around each changed one",
    ("subclassed", "stack"): "a Keras class without a graph becomes a part of a new model",
    ("subclassed", "stack softmax"): "a Keras class without a graph becomes a part of a new model",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_layer_keeps_its_name(name: str) -> None:
    net, _ = opened(name)
    before = {key: values.clone() for key, values in net.state().items() if "seed_generator" not in key}
    refused = []
    for edit, make in EDITS.items():
        try:
            twin = make(net, 0)
        except regraft.RegraftError:
            refused.append(edit)
            continue
        after = twin.state()
        kept = {key for key in before if key in after}
        if (name, edit) in RENAMING:
            assert kept < before.keys(), f"{edit} keeps all names now: leave it out of RENAMING"
            continue
        assert kept == before.keys() or edit in SHORTER, (edit, before.keys() - kept)
        if edit == "reinitialised":
            continue
        changed = {key.rpartition(".")[0] for key in kept if not torch.equal(after[key], before[key])}
        assert changed <= {OTHER_ROWS.get(edit)}, (edit, changed)
        if edit not in SHORTER:
            weighty = [layer.name for layer in net.layers if layer.parameters]
            assert set(weighty) <= {layer.name for layer in twin.layers}, edit
            places = [layer.name for layer in twin.layers if layer.name in weighty]
            assert places == weighty, f"{edit}: the order of execution"
    assert len(refused) <= (12 if name == "subclassed" else 0), refused
