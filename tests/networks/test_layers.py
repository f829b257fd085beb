"""Networks of one family as the other: the same function, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import NetworkError

keras = pytest.importorskip("keras")
from regraft.networks.layers.from_keras import ROWS  # noqa: E402  # needs Keras

L = keras.layers
ABC = ["a", "b", "c"]
PICTURE, STEPS, BOX = (9, 8, 3), (7, 6), (5, 6, 5, 2)


def _both(kind: Any, *given: Any, **named: Any) -> list[Any]:
    """The layer with either padding, one after the other."""
    return [kind(*given, padding="same", **named), kind(*given, padding="valid", **named)]


SEQUENTIAL: dict[str, tuple[tuple[int, ...], Callable[[], list[Any]]]] = {
    "convolutions": (PICTURE, lambda: [*_both(L.Conv2D, 4, 3, strides=1, activation="relu"), L.Conv2D(4, 3, strides=2, padding="same")]),
    "strides": (PICTURE, lambda: _both(L.Conv2D, 4, (3, 2), strides=2, activation="silu")),
    "groups": (PICTURE, lambda: [L.Conv2D(4, 1), L.Conv2D(6, 3, groups=2, dilation_rate=2, padding="same")]),
    "depthwise": (PICTURE, lambda: [*_both(L.DepthwiseConv2D, 3, depth_multiplier=2), *_both(L.SeparableConv2D, 4, 2, activation="tanh")]),
    "transposed": (PICTURE, lambda: [*_both(L.Conv2DTranspose, 4, 3, strides=2), L.Conv2DTranspose(3, (4, 1), strides=2, padding="same")]),
    "smaller than its strides": (PICTURE, lambda: _both(L.Conv2DTranspose, 4, 2, strides=3)),
    "lines": (STEPS, lambda: [*_both(L.Conv1D, 4, 3), L.Conv1D(4, 3, padding="causal", dilation_rate=2), L.SeparableConv1D(5, 2)]),
    "lines by channel": (STEPS, lambda: [L.DepthwiseConv1D(3), *_both(L.Conv1DTranspose, 4, 3, strides=2)]),
    "boxes": (BOX, lambda: [L.Conv3D(3, 2), L.ZeroPadding3D(1), L.Cropping3D(1), L.MaxPooling3D(2), L.AveragePooling3D(1)]),
    "means of boxes": (BOX, lambda: [L.GlobalAveragePooling3D()]),
    "largest of boxes": (BOX, lambda: [L.GlobalMaxPooling3D()]),
    "pooling": (PICTURE, lambda: [*_both(L.MaxPooling2D, 2), L.AveragePooling2D(2)]),
    "averages": (PICTURE, lambda: _both(L.AveragePooling2D, 3, strides=1)),
    "pooling of lines": (STEPS, lambda: [L.MaxPooling1D(2, padding="same"), L.AveragePooling1D(2), L.GlobalMaxPooling1D()]),
    "means": (PICTURE, lambda: [L.GlobalAveragePooling2D()]),
    "largest": (PICTURE, lambda: [L.GlobalMaxPooling2D(keepdims=True)]),
    "means of lines": (STEPS, lambda: [L.GlobalAveragePooling1D()]),
    "norms": (PICTURE, lambda: [L.BatchNormalization(), L.LayerNormalization(), L.Conv2D(4, 1), L.GroupNormalization(2)]),
    "norm without scale": (STEPS, lambda: [L.BatchNormalization(scale=False, center=False), L.LayerNormalization(axis=[1, 2])]),
    "norm of rows": ((5,), lambda: [L.Dense(4), L.BatchNormalization(epsilon=0.01), L.LayerNormalization(center=False)]),
    "edges": (PICTURE, lambda: [L.ZeroPadding2D(((0, 1), (2, 0))), L.Cropping2D(((1, 0), (0, 1)))]),
    "edges of lines": (STEPS, lambda: [L.ZeroPadding1D((2, 1)), L.Cropping1D(1)]),
    "larger": (PICTURE, lambda: [L.UpSampling2D(2), L.UpSampling2D((1, 2), interpolation="bilinear")]),
    "longer": (STEPS, lambda: [L.UpSampling1D(2)]),
    "shapes": (PICTURE, lambda: [L.Permute((2, 1, 3)), L.Reshape((72, 3)), L.Reshape((36, -1)), L.Flatten()]),
    "repeated": ((5,), lambda: [L.RepeatVector(4), L.LSTM(3)]),
    "LSTM": (STEPS, lambda: [L.LSTM(4, return_sequences=True), L.LSTM(3, go_backwards=True, use_bias=False)]),
    "GRU": (STEPS, lambda: [L.GRU(4, return_sequences=True, go_backwards=True), L.GRU(3)]),
    "recurrent": (STEPS, lambda: [L.SimpleRNN(4)]),
    "both ways": (STEPS, lambda: [L.Bidirectional(L.LSTM(4, return_sequences=True)), L.Bidirectional(L.GRU(3))]),
    "both ways, joined": (
        STEPS,
        lambda: [L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode=mode) for mode in ("sum", "mul", "ave")],
    ),
    "rectified": (PICTURE, lambda: [L.LeakyReLU(0.1), L.ELU(0.5), L.PReLU(shared_axes=[1, 2]), L.ReLU(6.0), L.ReLU(2.0, 0.1, 0.2)]),
    "probabilities": (STEPS, lambda: [L.Softmax(), L.Softmax(axis=1)]),
    "left out": (PICTURE, lambda: [L.Dropout(0.2), L.SpatialDropout2D(0.2), L.GaussianNoise(1.0), L.GaussianDropout(0.3), L.Identity()]),
    "left out of lines": (STEPS, lambda: [L.SpatialDropout1D(0.2), L.ActivityRegularization(0.1)]),
    "scaled": (PICTURE, lambda: [L.Rescaling(1 / 127.5, -1.0), L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])]),
    **{
        f"activation {name}": (STEPS, lambda name=name: [L.Activation(name)])  # type: ignore[misc]
        for name in (
            *("relu", "relu6", "sigmoid", "tanh", "softmax", "log_softmax", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
            *("softsign", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "exponential", "log_sigmoid", "tanh_shrink", "linear"),
        )
    },
}


def _tokens() -> Any:
    entry = keras.Input((7,), dtype="int32")
    return keras.Model(entry, L.Dense(3)(L.GlobalMaxPooling1D()(L.Embedding(20, 6)(entry))))


def _branches() -> Any:
    entry = keras.Input(PICTURE)
    one, two = L.Conv2D(4, 3, padding="same")(entry), L.Conv2D(4, 1)(entry)
    joined = [kind()([one, two]) for kind in (L.Add, L.Subtract, L.Multiply, L.Average, L.Maximum, L.Minimum)]
    gate = L.GlobalAveragePooling2D(keepdims=True)(one)
    whole = L.Concatenate()([*joined, L.Multiply()([two, gate]), entry])
    deeper = L.Concatenate(axis=1)([whole, (whole + 1.0) / 2.0 - 0.5 * whole])
    return keras.Model(entry, L.Dense(3, activation="softmax")(L.Flatten()(deeper)))


def _attention() -> Any:
    entry = keras.Input(STEPS)
    one = L.MultiHeadAttention(2, 5, value_dim=3)(entry, entry, use_causal_mask=True)
    two = L.Attention()([one, entry, entry])
    return keras.Model(entry, L.Dense(3)(L.Flatten()(L.LayerNormalization()(one + two))))


def _nested() -> Any:
    entry = keras.Input(PICTURE)
    inner = keras.Sequential([keras.Input(PICTURE), L.Conv2D(4, 3), L.GlobalAveragePooling2D()], name="backbone")
    return keras.Model(entry, L.Dense(3, activation="softmax")(inner(entry)))


GRAPHS: dict[str, Callable[[], Any]] = {"tokens": _tokens, "branches": _branches, "attention": _attention, "nested": _nested}


def _made(name: str) -> Any:
    if name in GRAPHS:
        model = GRAPHS[name]()
    else:
        shape, layers = SEQUENTIAL[name]
        model = keras.Sequential([keras.Input(shape), *layers(), L.Flatten(), L.Dense(3, activation="softmax")])
    draws = np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32" and "norm" not in weight.path.split("/")[-2:][0] * ("count" in weight.path):
            positive = "variance" in weight.path
            weight.assign(draws.uniform(0.5, 1.5, weight.shape) if positive else draws.normal(size=weight.shape) / 2)
    return model


def _items(net: regraft.Network) -> tuple[np.ndarray, np.ndarray]:
    """Random items as the Keras network takes them, and as the PyTorch network does."""
    draws = np.random.default_rng(1)
    shape = (4, *net.input_shape)
    items = draws.integers(0, 20, shape) if net.takes_integers else draws.normal(size=shape).astype(np.float32)
    return items, np.moveaxis(items, -1, 1) if len(net.input_shape) == 3 else items


@pytest.mark.parametrize("name", [*SEQUENTIAL, *GRAPHS])
def test_keras_layers_become_layers_of_pytorch(name: str, tmp_path: Path) -> None:
    net = regraft.load(_made(name), classes=ABC)
    made = net.to("torch")
    items, turned = _items(net)
    expected = net.logits(items)
    assert made.family == "torch" and made.classes == tuple(ABC) and made.head.kind == net.head.kind
    assert made.account.figures["largest_difference"] <= 1e-5
    np.testing.assert_allclose(made.logits(turned), expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(made.predict(turned).probabilities, net.predict(items).probabilities, atol=1e-5)
    np.testing.assert_allclose(made.features(turned), net.features(items), rtol=1e-4, atol=1e-5)
    opened = regraft.load(made.save(tmp_path / "kept"))
    np.testing.assert_array_equal(opened.logits(turned), made.logits(turned))


def test_every_row_has_a_network() -> None:
    seen = set()
    for name in (*SEQUENTIAL, *GRAPHS):
        todo = [_made(name)]
        while todo:
            model = todo.pop()
            for operation in getattr(model, "_functional", model).operations:
                seen.add(type(operation).__name__)
                todo += [operation] if hasattr(operation, "_nodes_by_depth") or hasattr(operation, "_functional") else []
    assert set(ROWS) - seen <= {"Divide"}, "rows of from_keras.ROWS without a test"


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (lambda: L.TimeDistributed(L.Dense(3)), "(TimeDistributed)"),
        (lambda: L.LSTM(3, activation="relu"), "another activation than tanh"),
        (lambda: L.GRU(3, reset_after=False), "reset_after=False"),
        (lambda: L.UnitNormalization(), "(UnitNormalization)"),
        (lambda: L.Dense(4, activation=lambda x: x * 2), "the activation '<lambda>'"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_the_name_of_the_layer(layer: Callable[[], Any], said: str) -> None:
    made = layer()
    net = regraft.load(keras.Sequential([keras.Input(STEPS), made, L.Flatten(), L.Dense(3)]))
    with pytest.raises(NetworkError) as caught:
        net.to("torch")
    assert repr(made.name) in str(caught.value) and said in str(caught.value) and ".onnx" in str(caught.value)


def test_layers_that_were_frozen_stay_so_and_the_network_trains(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input(PICTURE), L.Conv2D(4, 3, name="eyes"), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")]
    )
    model.get_layer("eyes").trainable = False
    made = regraft.load(model, classes=ABC).to("torch")
    assert made.held == {"eyes"}
    assert type(made.module.eyes) is torch.nn.Conv2d
    draws = np.random.default_rng(0)
    targets = np.array(ABC * 8)
    data = regraft.read((draws.normal(size=(24, 3, 9, 8)).astype(np.float32), targets))
    before = made.module.eyes.weight.detach().clone()
    result = regraft.adapt(made, data, strategy="full", epochs=1, out=tmp_path / "run")
    assert torch.equal(result.network.module.eyes.weight, before)


def test_pictures_keep_their_preprocessing() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")])
    plain = {"kind": "image", "height": 8, "width": 8, "layout": "channels_last", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    net = regraft.load(model, classes=ABC, preprocessing=plain)
    made = net.to("torch")
    pictures = np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3)).astype(np.uint8)
    assert made.preprocessing.to_dict() == net.preprocessing.to_dict() | {"layout": "channels_first"}
    np.testing.assert_allclose(made.predict(pictures).probabilities, net.predict(pictures).probabilities, atol=1e-6)


def test_an_unknown_family_is_refused() -> None:
    net = regraft.load(torch.nn.Sequential(torch.nn.Linear(4, 3)), inputs=(4,))
    with pytest.raises(NetworkError, match="'pytorch'"):
        net.to("pytorch")
    assert net.to("torch") is not net
