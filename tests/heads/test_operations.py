"""The contract of every operation on heads, over one table of networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.networks.plain_keras import assert_opens_afresh, kept

import regraft

from .examples import OLD, TABLE, opened, pictures, shape_of

NEW = np.array(["plane", "ship"] * 12)
ALL = np.array([*OLD, "plane", "ship"] * 6)
OTHER = ("ship", "dog", "plane", "cat")
GROUPS = {"animal": ["cat", "dog"], "vehicle": None}

Operation = Callable[[regraft.Network, str], regraft.Network]


def _columned(net: regraft.Network, _name: str) -> regraft.Network:
    return regraft.join(net, ["age", "price"])


OPERATIONS: dict[str, Operation] = {
    "retarget": lambda net, name: regraft.retarget(net, OTHER, start="probe", data=_only(name, *OTHER)),
    "extend": lambda net, name: regraft.extend(net, ["plane", "ship"], (pictures(name, NEW), NEW)),
    "stack": lambda net, _name: regraft.stack(net, ["indoors", "outdoors", "sky"], activation="softmax", start="random"),
    "branch": lambda net, _name: regraft.branch(net, "place", ["indoors", "outdoors"], start="random"),
    "derived branch": lambda net, _name: regraft.branch(net, "kind", groups=GROUPS),
    "grouped branch": lambda net, _name: regraft.branch(net, "kind", groups=GROUPS, start="mean"),
    "cut": lambda net, _name: regraft.cut(net, net.blocks[0].name),
    "join": _columned,
    "channels": lambda _net, name: opened(name, channels=1),
}  # fmt: skip


def _only(name: str, *wanted: str) -> tuple[np.ndarray, np.ndarray]:
    labels = ALL[np.isin(ALL, wanted)]
    return pictures(name, labels), labels


def _batch(net: regraft.Network, name: str) -> torch.Tensor | dict[str, torch.Tensor]:
    channels = net.input_shape[-1 if "Keras" in name else 0] if net.input_shape else 3
    images = torch.from_numpy(pictures(name, ALL[:8], channels=int(channels or 3)))
    if isinstance(net.sample, dict):
        main = next(key for key in net.sample if key != "columns")
        return {main: images, "columns": torch.linspace(-1, 1, 16).reshape(8, 2)}
    return images


def _scores(net: regraft.Network, name: str) -> dict[str, np.ndarray]:
    net.mode_(False)
    with torch.no_grad():
        return {task: scores.numpy() for task, scores in net.scores(_batch(net, name)).items()}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", TABLE)
def test_operations_return_a_new_network_and_leave_the_argument(name: str, operation: str) -> None:
    net = opened(name)
    before = {key: value.clone() for key, value in net.state().items()}
    heads, shape = dict(net.heads), net.input_shape
    changed = OPERATIONS[operation](net, name)
    assert changed is not net and str(changed.account) and changed.summary()
    assert all(torch.equal(before[key], value) for key, value in net.state().items())
    assert list(net.heads) == list(heads) and net.input_shape == shape
    assert all(np.array_equal(net.heads[task].weight, heads[task].weight) for task in heads)
    scores = _scores(changed, name)
    assert set(scores) == set(changed.heads) or operation == "cut"
    assert all(np.isfinite(part).all() for part in scores.values())
    for task, head in changed.heads.items():
        assert scores[task].shape == (8, len(head.weight)) == (8, len(head.classes))


@pytest.mark.parametrize("name", TABLE)
def test_old_scores_stay_to_the_bit_when_classes_are_added(name: str) -> None:
    net = opened(name)
    once = OPERATIONS["extend"](net, name)
    twice = regraft.extend(once, ["train"], (pictures(name, NEW), np.array(["train"] * len(NEW))))
    assert once.account.to_dict()["figures"]["max_score_change"] == 0.0 == twice.account.to_dict()["figures"]["max_score_change"]
    assert twice.classes == (*OLD, "plane", "ship", "train")
    for count in (1, 7, 30):
        items = pictures(name, ALL[:count])
        assert np.array_equal(net.logits(items), twice.logits(items)[:, :5])
        assert np.array_equal(once.logits(items), twice.logits(items)[:, :7])
    assert np.array_equal(twice.head.weight[:5], net.head.weight) and np.array_equal(twice.head.bias[:5], net.head.bias)


@pytest.mark.parametrize("name", TABLE)
def test_branches_and_columns_leave_the_first_head_as_it_was(name: str) -> None:
    net = opened(name)
    plain = _scores(net, name)["main"]
    for operation in ("branch", "derived branch", "grouped branch", "join"):
        np.testing.assert_allclose(_scores(OPERATIONS[operation](net, name), name)["main"], plain, rtol=1e-5, atol=1e-6)
    derived = OPERATIONS["derived branch"](net, name).predict(pictures(name, ALL[:8]))
    assert list(derived.tasks) == ["main", "kind"] and derived.tasks["kind"].classes == ("animal", "vehicle")
    np.testing.assert_allclose(derived.tasks["kind"].probabilities[:, 0], derived.probabilities[:, :2].sum(1), atol=1e-6)


@pytest.mark.parametrize("name", TABLE)
def test_branches_read_the_features_of_the_head(name: str) -> None:
    net = opened(name)
    branched = OPERATIONS["branch"](net, name)
    items, head = pictures(name, ALL[:8]), branched.heads["place"]
    features = branched.features(items)
    np.testing.assert_allclose(features, net.features(items), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(branched.logits(items, task="place"), features @ head.weight.T + head.bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TABLE)
def test_stacked_heads_read_the_old_scores(name: str) -> None:
    net = opened(name)
    items = pictures(name, ALL[:8])
    old = net.logits(items).astype(np.float64)
    read = {"linear": old, "relu": np.maximum(old, 0), "softmax": np.exp(old) / np.exp(old).sum(1, keepdims=True)}
    for activation, features in read.items():
        stacked = regraft.stack(net, ["in", "out"], activation=activation, start="random", seed=3)
        expected = features @ stacked.head.weight.T + stacked.head.bias
        np.testing.assert_allclose(stacked.logits(items), expected, rtol=1e-3, atol=1e-4)
        assert stacked.classes == ("in", "out") and stacked.head.features == 5


@pytest.mark.parametrize("name", TABLE)
def test_a_cut_network_ends_early_and_takes_a_head(name: str) -> None:
    net = opened(name)
    shorter = OPERATIONS["cut"](net, name)
    assert not shorter.heads and len(shorter.blocks) < len(net.blocks)
    assert sum(block.parameters for block in shorter.blocks) == net.blocks[0].parameters
    whole = regraft.retarget(shorter, ["plane", "ship"], start="probe", data=(pictures(name, NEW), NEW))
    assert whole.predict(pictures(name, NEW)).classes == ("plane", "ship")


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_other_channels_are_summed_or_repeated(name: str, channels: int) -> None:
    net, changed = opened(name), opened(name, channels=channels)
    axis = -1 if "Keras" in name else 0
    assert changed.input_shape[axis] == channels
    assert changed.account.to_dict()["reshaped"]
    grey = np.repeat(pictures(name, ALL[:8], channels=1), channels, axis=axis if axis < 0 else 1)
    same = np.repeat(pictures(name, ALL[:8], channels=1), 3, axis=axis if axis < 0 else 1)
    if channels in (1, 6):  # the same picture in every channel: the response is that of the old network
        np.testing.assert_allclose(
            _raw(changed, grey)[:, :5], _raw(net, same)[:, :5], rtol=1e-3, atol=1e-3 * float(np.abs(_raw(net, same)).max())
        )


def _raw(net: regraft.Network, images: np.ndarray) -> np.ndarray:
    net.mode_(False)
    with torch.no_grad():
        return net.scores(torch.from_numpy(images))["main"].numpy()


def _pairs(names: Sequence[str], part: int) -> list[tuple[str, str]]:
    """Return each operation with one of the networks: every pair stands in one part, and every network in each."""
    return [(names[(at + part) % len(names)], operation) for at, operation in enumerate(OPERATIONS)]


@pytest.mark.parametrize("part", [None, *(pytest.param(part, marks=pytest.mark.slow) for part in range(len(TABLE)))])
def test_everything_saves_and_loads_with_the_same_scores_to_the_bit(part: int | None, tmp_path: Path) -> None:
    """Without a part: to write a large network of PyTorch without its class takes seconds."""
    paths, names = [], [name for name in reversed(TABLE) if part is not None or name not in ("timm", "Hugging Face")]
    for name, operation in _pairs(names, part or 0):
        net = OPERATIONS[operation](opened(name), name)
        folder = net.save(tmp_path / f"{name} {operation}".replace(" ", "_"))
        allowed = 0.0 if "Keras" in name else 1e-5  # ONNX Runtime sums in another order
        paths.append(kept(folder, _batch(net, name), _scores(net, name).values(), atol=allowed, rtol=allowed))
    assert_opens_afresh(paths)


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2))])
def test_keras_files_open_in_plain_keras(part: int, tmp_path: Path) -> None:
    paths = []
    for name, operation in _pairs([name for name in TABLE if "Keras" in name], part):
        net = OPERATIONS[operation](opened(name), name)
        path, inputs = net.export(tmp_path / f"{name} {operation}.keras".replace(" ", "_")), _batch(net, name)
        paths.append(kept(path, inputs, _native(net, inputs), atol=1e-5, rtol=1e-4))
    assert_opens_afresh(paths)


def _native(net: regraft.Network, inputs: torch.Tensor | dict[str, torch.Tensor]) -> list[np.ndarray]:
    """Return the model's own outputs, and the probabilities of derived heads."""
    with torch.no_grad():
        result = net.module(inputs, training=False)
        own = [part.numpy() for part in (result if isinstance(result, list) else [result])]
        derived = [task for task, head in net.heads.items() if head.groups]
        return own + [net.scores(inputs)[task].softmax(1).numpy() for task in derived]


def test_shapes_of_the_table() -> None:
    assert shape_of("Keras functional", 1) == (32, 32, 1) and shape_of("timm") == (3, 32, 32)


@pytest.mark.parametrize("operation", [operation for operation in OPERATIONS if operation != "channels"])  # that makes the first layer anew
@pytest.mark.parametrize("name", ["torch linear", "Keras functional"])
def test_the_backbone_is_copied_at_most_once(name: str, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, copies = opened(name), []
    first = next(iter(net.module.parameters()))
    clone = type(first).clone

    def counted(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if tensor.shape == first.shape:
            copies.append(tensor)
        return clone(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "clone", counted)
    OPERATIONS[operation](net, name)
    assert len(copies) <= 1
