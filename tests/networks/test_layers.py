"""Networks of one family as the other: the same function, layer by layer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import NetworkError
from regraft.networks.network import Coding

keras = pytest.importorskip("keras")
from regraft.networks.edits import Taps  # noqa: E402  # after Keras
from regraft.networks.layers import attention, converting  # noqa: E402  # needs Keras
from regraft.networks.layers.from_keras import ROWS  # noqa: E402  # needs Keras
from regraft.networks.layers.graph import LAYERS  # noqa: E402  # after Keras
from regraft.networks.parts.taps import grid_shares  # noqa: E402  # after Keras

L, ops = keras.layers, keras.ops
ABC = ["a", "b", "c"]
PICTURE, STEPS, BOX = (9, 8, 3), (7, 6), (5, 6, 5, 2)
FEW_STEPS = (5, 6)
"""Of recurrent layers: the exporter writes each step out, which is most of the time that a conversion takes."""


def _both(kind: Any, *given: Any, **named: Any) -> list[Any]:
    """The layer with either padding, one after the other."""
    return [kind(*given, padding="same", **named), kind(*given, padding="valid", **named)]


def _augmenting() -> list[Any]:
    """Every layer that changes pictures in training only."""
    factors = ("Rotation", "Zoom", "Contrast", "Brightness", "Hue", "Saturation", "Sharpness", "Perspective")
    one = [getattr(L, f"Random{kind}")(0.3) for kind in factors]
    two = [getattr(L, f"Random{kind}")(0.3, 0.3) for kind in ("Translation", "Shear")]
    return [*one, *two, *(getattr(L, f"Random{kind}")() for kind in ("Flip", "Erasing", "GaussianBlur", "ColorJitter"))]


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
    "averages with uneven edges": (
        PICTURE,
        lambda: [*_both(L.AveragePooling2D, 2), L.AveragePooling2D((2, 3), strides=(1, 2), padding="same")],
    ),
    "averages of lines and boxes": (
        BOX,
        lambda: [L.AveragePooling3D(2, padding="same"), L.Reshape((-1, 2)), L.AveragePooling1D(4, 1, "same")],
    ),
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
    "larger boxes": (BOX, lambda: [L.UpSampling3D((2, 1, 1)), L.Conv3DTranspose(3, 3, strides=2, padding="same")]),
    "each step": (STEPS, lambda: [L.TimeDistributed(L.Dense(4, activation="tanh")), L.TimeDistributed(L.ReLU())]),
    "left out steps": (FEW_STEPS, lambda: [L.Dense(4, activation="relu"), L.Masking(), L.GRU(4, return_sequences=True), L.SimpleRNN(3)]),
    "shapes": (PICTURE, lambda: [L.Permute((2, 1, 3)), L.Reshape((72, 3)), L.Reshape((36, -1)), L.Flatten()]),
    "repeated": ((5,), lambda: [L.RepeatVector(4), L.LSTM(3)]),
    "LSTM": (FEW_STEPS, lambda: [L.LSTM(4, return_sequences=True), L.LSTM(3, go_backwards=True, use_bias=False)]),
    "GRU": (FEW_STEPS, lambda: [L.GRU(4, return_sequences=True, go_backwards=True), L.GRU(3)]),
    "recurrent": (FEW_STEPS, lambda: [L.SimpleRNN(4)]),
    "both ways": (FEW_STEPS, lambda: [L.Bidirectional(L.LSTM(4, return_sequences=True)), L.Bidirectional(L.GRU(3))]),
    "both ways, joined": (
        FEW_STEPS,
        lambda: [L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode=mode) for mode in ("sum", "mul", "ave")],
    ),
    "rectified": (PICTURE, lambda: [L.LeakyReLU(0.1), L.ELU(0.5), L.PReLU(shared_axes=[1, 2]), L.ReLU(6.0), L.ReLU(2.0, 0.1, 0.2)]),
    "probabilities": (STEPS, lambda: [L.Softmax(), L.Softmax(axis=1)]),
    "augmentation": (PICTURE, _augmenting),
    "left out": (PICTURE, lambda: [L.Dropout(0.2), L.SpatialDropout2D(0.2), L.GaussianNoise(1.0), L.GaussianDropout(0.3), L.Identity()]),
    "left out of lines": (STEPS, lambda: [L.SpatialDropout1D(0.2), L.ActivityRegularization(0.1)]),
    "scaled": (PICTURE, lambda: [L.Rescaling(1 / 127.5, -1.0), L.Normalization(mean=[1.0, 2.0, 3.0], variance=[4.0, 5.0, 6.0])]),
    "GRU that resets first": (
        FEW_STEPS,
        lambda: [L.GRU(4, reset_after=False, return_sequences=True, go_backwards=True), L.Bidirectional(L.GRU(3, reset_after=False))],
    ),
    "recurrent with other activations": (
        FEW_STEPS,
        lambda: [
            *(
                L.LSTM(4, activation="relu", recurrent_activation="hard_sigmoid", return_sequences=True),
                L.SimpleRNN(4, activation="linear"),
            ),
            *(L.RepeatVector(3), L.Bidirectional(L.GRU(3, activation="softsign", use_bias=False), merge_mode="sum")),
        ],
    ),
}


def _activations() -> Any:
    entry, names = keras.Input(STEPS), (
        *("relu", "relu6", "sigmoid", "tanh", "softmax", "log_softmax", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus"),
        *("softsign", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "exponential", "log_sigmoid", "tanh_shrink", "linear"),
    )  # fmt: skip
    return keras.Model(entry, L.Dense(3)(L.Flatten()(L.Concatenate()([L.Activation(name)(entry) for name in names]))))


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


def _functions() -> Any:
    """Functions of Keras that pooled outputs of blocks are made of."""
    entry = keras.Input(PICTURE)
    maps = L.Conv2D(4, 3, activation="relu")(entry)
    line = ops.matmul(grid_shares(7, 3), ops.mean(maps, axis=2))
    spread = ops.sqrt(ops.var(maps, axis=(1, 2)) + 1e-6)
    whole = ops.sum(ops.square(ops.cast(maps, "float32")), axis=-1, keepdims=True)
    parts = [spread, ops.reshape(line, (-1, 12)), ops.take(line, 0, axis=1), line[:, -1], maps[:, 2], ops.var(maps, axis=-1), whole]
    parts += [maps[:, 1:-2], maps[:, :, 2:, 1:3], line[:, 1:, -2], maps[:, -1, :3, :2]]
    return keras.Model(entry, L.Dense(3)(L.Concatenate()([L.Flatten()(part) for part in parts])))


def _masked(*layers: Any) -> Callable[[], Any]:
    """A network of tokens, of which 0 is left out."""
    return lambda: keras.Sequential(
        [keras.Input((5,), dtype="int32"), L.Embedding(20, 6, mask_zero=True), *(one() for one in layers), L.Dense(3)]
    )


def _masked_attention() -> Any:
    entry = keras.Input((7,), dtype="int32")
    value = L.Embedding(20, 6, mask_zero=True)(entry)
    one = L.MultiHeadAttention(2, 3)(value, value, use_causal_mask=True)
    pairs = ops.logical_and(ops.expand_dims(ops.not_equal(entry, 3), 1), ops.expand_dims(ops.not_equal(entry, 4), -1))
    two = L.MultiHeadAttention(2, 3)(one, value, attention_mask=pairs)
    return keras.Model(entry, L.Dense(3)(L.GlobalAveragePooling1D(keepdims=True)(L.LayerNormalization()(L.Add()([value, two])))[:, 0]))


def _products() -> Any:
    entry = keras.Input(STEPS)
    steps, row = L.Dense(5)(entry), L.Dense(5)(L.GlobalAveragePooling1D()(entry))
    parts = [L.Dot(axes=2)([entry, entry]), L.Dot(axes=(1, 1), normalize=True)([entry, steps]), L.Dot(axes=(2, 1))([steps, row])]
    parts += [L.Dot(axes=(1, 2))([row, steps]), L.Dot(axes=-1, normalize=True)([row, row])]
    return keras.Model(entry, L.Dense(3)(L.Concatenate()([L.Flatten()(part) for part in parts])))


def _moved() -> Any:
    entry = keras.Input(STEPS)
    value = ops.sigmoid(L.Conv2D(2, 3)(ops.expand_dims(ops.transpose(entry, (0, 2, 1)), -1)))
    value = ops.tanh(ops.moveaxis(value, -1, 1))
    return keras.Model(entry, L.Dense(3)(L.Flatten()(ops.relu(value - ops.max(value, axis=(2, 3), keepdims=True)))))


GRAPHS: dict[str, Callable[[], Any]] = {
    "mask, LSTM": _masked(lambda: L.LSTM(4, return_sequences=True), lambda: L.Dropout(0.1), lambda: L.LSTM(3, go_backwards=True)),
    "mask, GRU": _masked(lambda: L.GRU(4, return_sequences=True, go_backwards=True), lambda: L.GlobalAveragePooling1D()),
    "mask, both ways": _masked(
        lambda: L.Bidirectional(L.LSTM(4, return_sequences=True)), lambda: L.Bidirectional(L.GRU(3), merge_mode="sum")
    ),
    "mask that nothing reads": _masked(lambda: L.Conv1D(4, 3), lambda: L.GlobalMaxPooling1D()),
    "mask, GRU that resets first": _masked(lambda: L.GRU(4, reset_after=False), lambda: L.RepeatVector(2), lambda: L.Flatten()),
    "mask, attention": _masked_attention,
    "activations": _activations,
    **{"moved": _moved, "products": _products},
    **{"tokens": _tokens, "branches": _branches, "attention": _attention, "nested": _nested, "functions": _functions},
}


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
    items = draws.normal(size=shape).astype(np.float32)
    if net.takes_integers:
        items = draws.integers(1, 20, shape) * (draws.random(shape) < 0.7)
    return items, np.moveaxis(items, -1, 1) if len(net.input_shape) == 3 else items


@pytest.mark.parametrize("name", [*SEQUENTIAL, *GRAPHS])
def test_keras_layers_become_layers_of_pytorch_and_again_of_keras(name: str, tmp_path: Path) -> None:
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
    back = made.to("keras")
    assert back.family == "keras" and back.classes == net.classes and back.input_shape == net.input_shape
    np.testing.assert_allclose(back.logits(items), expected, atol=1e-5 * np.abs(expected).max())
    path = back.export(tmp_path / "x.keras")
    plain, own = (model(items, training=False).detach().numpy() for model in (keras.models.load_model(path), net.module))
    np.testing.assert_allclose(plain, own, atol=1e-5)


class _Steps(nn.Module):
    """Recurrent layers whose states, or whose outputs and states, are read."""

    def __init__(self, kind: Callable[..., nn.Module], *, both: bool, count: int = 1) -> None:
        super().__init__()
        self.cells = kind(6, 4, batch_first=True, bidirectional=both, num_layers=count)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, states = self.cells(x)
        last = states[0] if isinstance(states, tuple) else states
        read = last[-1] if self.cells.num_layers == 1 else outputs[:, -1, :4]
        return self.head(read + outputs[:, 0, :4] if self.cells.bidirectional else read)


class _States(nn.Module):
    """Two recurrent layers, of which the last states and the outputs are read; `first`: the steps are along the first axis."""

    def __init__(self, kind: type[nn.Module], *, both: bool, first: bool, outputs: bool) -> None:
        super().__init__()
        self.cells = kind(6, 4, num_layers=2, bidirectional=both, batch_first=not first)
        self.first, self.outputs, self.head = first, outputs, nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, states = self.cells(x.transpose(0, 1) if self.first else x)
        last = states[0] if isinstance(states, tuple) else states
        read = torch.cat([last[-1], last[0]], 1) + last.transpose(0, 1).flatten(1)[:, -8:]
        read = read + outputs.mean(0 if self.first else 1)[:, :1] if self.outputs else read
        return self.head(read[:, :4] * read[:, 4:])


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(20, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.layer(self.token(x))
        query, key, value = self.qkv(value).reshape(x.shape[0], 7, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        made = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.head(made.transpose(1, 2).flatten(2).mean(1))


class _Looking(nn.Module):
    """Attention that leaves steps out."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left_out = (x[..., 0] > 1) | (x[..., 1] == 0)
        return self.head(self.attention(x, x, x, key_padding_mask=left_out, need_weights=False)[0].mean(1))


class _Encoders(nn.Module):
    """Encoder layers with a mask of the padding, which PyTorch makes one of floats, and of causal steps."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.first, self.then = (nn.TransformerEncoder(layer, 1, enable_nested_tensor=False) for _ in range(2))
        self.token, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        later = nn.Transformer.generate_square_subsequent_mask(7)
        made = self.first(self.token(x), mask=later, src_key_padding_mask=x == 3)
        return self.head(self.then(made, later, x == 3, False).mean(1))


class _Masked(nn.Module):
    """The same attention under four masks: causal, constant numbers, true and false by example, numbers by example."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(6, 24), nn.Linear(8, 3)
        self.register_buffer("slope", torch.linspace(-3, 0, 7).expand(7, 7).clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts, attend = self.qkv(x).reshape(-1, 7, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0), nn.functional.scaled_dot_product_attention
        masks = [
            {"is_causal": True},
            *({"attn_mask": one} for one in (self.slope, (x[..., 0] > -1)[:, None, None], x[:, None, None, :, 0])),
        ]
        return self.head(sum(attend(*parts, **mask) for mask in masks).transpose(1, 2).flatten(2).mean(1))


class _ByHand(nn.Module):
    """Causal attention written out, with a mask that is the same for all examples, and arithmetic around it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        count, steps, _ = x.shape
        query, key, value = (part.view(count, steps, 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        scores = (query @ key.transpose(-2, -1)) * 4**-0.5
        later = torch.ones(steps, steps, device=x.device).triu(1).bool()
        made = (scores.masked_fill(later, float("-inf")).softmax(-1) @ value).transpose(1, 2).contiguous().view(count, steps, 8)
        made = torch.where(made > 0, 2 - made, 0.25) + 1 / (made.square() + 1) + (x[..., :1] > 0).float()
        return self.head(made.mean(1))


class _Mixed(nn.Module):
    """Operators that stand in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3]).reshape(1, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.first((x - self.mean) / 0.5).relu_()
        one, two = self.second(value).chunk(2, 1)
        value = torch.cat([two * one.sigmoid(), one.abs() + 1], 1) + value
        value = self.norm(value.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        value = nn.functional.max_pool2d(value, 3, 2, padding=1, ceil_mode=True)
        value = nn.functional.pad(value, (1, 0, 0, 1)).clamp(-1, 2)[:, :, 1:]
        return self.head(nn.functional.gelu(value, approximate="tanh").amax((2, 3)) - 2 * value.mean((-1, -2)))


def _stack(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


MODULES: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "LSTM, last state": (FEW_STEPS, lambda: _Steps(nn.LSTM, both=False)),
    "LSTM, both ways": (FEW_STEPS, lambda: _Steps(nn.LSTM, both=True)),
    "GRU, both ways": (FEW_STEPS, lambda: _Steps(nn.GRU, both=True)),
    "RNN of two layers": (FEW_STEPS, lambda: _Steps(nn.RNN, both=False, count=2)),
    "GRU of two layers": (FEW_STEPS, lambda: _Steps(nn.GRU, both=True, count=2)),
    "last states of all layers": (FEW_STEPS, lambda: _States(nn.LSTM, both=False, first=False, outputs=False)),
    "last states of all layers, both ways": (FEW_STEPS, lambda: _States(nn.GRU, both=True, first=False, outputs=True)),
    "a plain RNN with ReLU": (FEW_STEPS, lambda: _Steps(functools.partial(nn.RNN, nonlinearity="relu"), both=False)),
    "steps along the first axis": (FEW_STEPS, lambda: _States(nn.GRU, both=True, first=True, outputs=True)),
    "mixed": ((3, 9, 8), _Mixed),
    "pooling": (
        (3, 9, 8),
        lambda: _stack(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1), nn.AvgPool2d(2, 1, 1), nn.AdaptiveAvgPool2d((3, 1))),
    ),
    "repeated values": (
        (7, 6),
        lambda: nn.Sequential(_Compared(lambda x: torch.cat(torch.broadcast_tensors(x[:, :1] * 2, x), 1)), nn.Flatten(), nn.Linear(84, 3)),
    ),
    "padded rows": ((6,), lambda: _stack(nn.ConstantPad1d((1, 2), 0.5), nn.Linear(9, 5), nn.ReLU())),
    "transposed": ((3, 5, 4), lambda: _stack(nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1), nn.ConvTranspose2d(4, 3, 2, 3))),
    "lines": ((6, 9), lambda: _stack(nn.Conv1d(6, 4, 3, padding=2, stride=2), nn.BatchNorm1d(4), nn.PReLU(4), nn.MaxPool1d(2))),
    "in place": ((3, 8, 8), lambda: _stack(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.Dropout2d(0.1))),
    "averages with edges": (
        (3, 9, 8),
        lambda: _stack(
            *(nn.AvgPool2d(2, 1, 1, count_include_pad=False), nn.AvgPool2d(3, 2, 1, ceil_mode=True), nn.AvgPool2d(2, ceil_mode=True)),
            nn.ReplicationPad2d((1, 0, 2, 1)),
        ),
    ),
    **{"masked attention": ((7, 6), _Looking), "masks of functions": ((7, 6), _Masked), "attention by hand": ((7, 6), _ByHand)},
    "largest of windows": ((3, 9, 8), lambda: _stack(nn.AdaptiveMaxPool2d((3, None)), nn.Flatten(2), nn.AdaptiveMaxPool1d(4))),
    "larger": ((3, 4, 4), lambda: _stack(nn.Upsample(scale_factor=2), nn.Upsample(size=(16, 8), mode="bilinear"), nn.GroupNorm(3, 3))),
}


STATES = ("LSTM, both ways", "last states of all layers", "last states of all layers, both ways", "steps along the first axis")
"""Networks that go back to PyTorch: their states are parts of outputs."""


@pytest.mark.parametrize("name", [*MODULES, "encoder", "masked encoder"])
def test_modules_of_pytorch_become_keras_layers(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape, make = MODULES.get(name, ((7,), _Encoder if name == "encoder" else _Encoders))
    module, draws = make().eval(), np.random.default_rng(0)
    items = draws.integers(0, 20, (4, *shape)) if name.endswith("encoder") else draws.normal(size=(4, *shape)).astype(np.float32)
    with torch.no_grad():
        module(torch.from_numpy(items))
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    net = regraft.load(module, classes=ABC, inputs=shape)
    made = net.to("keras")
    turned = np.moveaxis(items, 1, -1) if len(shape) == 3 else items
    expected = net.logits(items)
    assert made.family == "keras" and made.classes == tuple(ABC) and made.account.figures["largest_difference"] <= 1e-5
    np.testing.assert_allclose(made.logits(turned), expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(made.features(turned), net.features(items), rtol=1e-4, atol=1e-5)
    opened = regraft.load(made.save(tmp_path / "kept"))
    np.testing.assert_array_equal(opened.logits(turned), made.logits(turned))
    if name in STATES:
        np.testing.assert_allclose(made.to("torch").logits(items), expected, atol=1e-5 * np.abs(expected).max())


def _keras_of(*layers: Any, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    return keras.Sequential([keras.Input(shape, dtype=dtype), *layers, L.Dense(3)])


def _keras_maps() -> Any:
    first = [L.Conv2D(4, 3, padding="same"), L.BatchNormalization(), L.ReLU(), L.MaxPooling2D(2)]
    return _keras_of(*first, L.Conv2D(6, 3, activation="relu"), L.GlobalAveragePooling2D(), shape=(12, 10, 2))


def _mean() -> nn.Module:
    return LAYERS["Over"](kind="mean", axes=(1,))


def _torch_maps() -> nn.Module:
    first = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def _torch_steps() -> nn.Module:
    first = [nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*first, nn.Conv1d(4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(5, 3))


PROBED: dict[tuple[str, str], tuple[tuple[int, ...], Callable[[], Any]]] = {
    ("keras", "maps"): ((12, 10, 2), _keras_maps),
    ("torch", "maps"): ((2, 12, 10), _torch_maps),
    ("keras", "steps"): (
        (12, 3),
        lambda: _keras_of(L.Conv1D(4, 3), L.MaxPooling1D(2), L.Conv1D(5, 3), L.GlobalAveragePooling1D(), shape=(12, 3)),
    ),
    ("torch", "steps"): ((3, 12), _torch_steps),
    ("keras", "columns"): ((6,), lambda: _keras_of(L.Dense(8, activation="relu"), L.BatchNormalization(), L.Dense(5), shape=(6,))),
    ("torch", "columns"): ((6,), lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 5), nn.Linear(5, 3))),
    ("keras", "tokens"): (
        (7,),
        lambda: _keras_of(L.Embedding(20, 6), L.LSTM(5, return_sequences=True), L.LSTM(4), shape=(7,), dtype="int32"),
    ),
    ("keras", "masked tokens"): (
        (7,),
        lambda: _keras_of(L.Embedding(20, 6, mask_zero=True), L.LSTM(5, return_sequences=True), L.LSTM(4), shape=(7,), dtype="int32"),
    ),
    ("torch", "tokens"): ((7,), lambda: nn.Sequential(nn.Embedding(20, 6), nn.Linear(6, 5), nn.ReLU(), _mean(), nn.Linear(5, 3))),
}


@pytest.mark.parametrize(("family", "kind"), PROBED)
def test_probes_that_read_several_depths_go_to_the_other_family_and_back(family: str, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    (shape, make), draws = PROBED[family, kind], np.random.default_rng(0)
    classes = np.arange(48) % 3
    level = classes.reshape(-1, *(1,) * len(shape))
    items = (
        draws.integers(0, 8, (48, *shape)) + 6 * level
        if kind.endswith("tokens")
        else draws.normal(level, size=(48, *shape)).astype(np.float32)
    )
    net = regraft.load(make(), **({"inputs": shape} if family == "torch" else {}))
    net = regraft.adapt(net, regraft.read((items, np.array(ABC)[classes])), strategy="probe", cache="memory").network
    (taps,) = [edit for edit in net.edits if isinstance(edit, Taps)]
    assert len(taps.points) > 1 or kind == "masked tokens"
    made = net.to("keras" if family == "torch" else "torch")
    turned = items if kind != "maps" else np.moveaxis(items, *((1, -1) if family == "torch" else (-1, 1)))
    expected = net.logits(items)
    assert made.family != family and made.classes == tuple(ABC) and list(made.heads) == list(net.heads) and made.head.kind == net.head.kind
    np.testing.assert_allclose(made.logits(turned), expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(made.features(turned), net.features(items), rtol=1e-4, atol=1e-5)
    assert made.predict(turned).labels == net.predict(items).labels
    opened = regraft.load(made.save(tmp_path / "kept"))
    np.testing.assert_array_equal(opened.logits(turned), made.logits(turned))
    np.testing.assert_allclose(made.to(family).logits(items), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: ops.cast(ops.cast(x, "float16"), "float32"), "dtype='float16'"),
        (lambda x: x - ops.mean(x, axis=0, keepdims=True), "axis=[0], which mixes examples"),
        (lambda x: x * ops.var(x), "axis=None, which mixes examples"),
        (lambda x: ops.reshape(x, (-1, 6)), "the shape (-1, 6), which may mix examples"),
        (lambda x: x[:, ::2], "taken of a value, not positions that follow one another"),
        (lambda x: ops.matmul(np.ones((3, 7), np.float32), x), "an array of the shape (3, 7) that is no pooling"),
        (lambda x: ops.matmul(x, x[:, :6]), "a product that is no pooling"),
    ],
)
def test_functions_of_keras_that_pytorch_does_not_get_are_refused_by_name(function: Callable[[Any], Any], said: str) -> None:
    entry = keras.Input(STEPS)
    net = regraft.load(keras.Model(entry, L.Dense(3)(L.Flatten()(function(entry)))))
    with pytest.raises(NetworkError) as caught:
        net.to("torch")
    assert said in str(caught.value) and "The layer '" in str(caught.value) and ".onnx" in str(caught.value)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: L.Attention()([L.Masking()(x), x]), "a mask"),
        (lambda x: L.Attention()([x, L.Masking()(x)]), "a mask"),
        (lambda x: L.Attention()([x, x], use_causal_mask=True), "the argument 'use_causal_mask'"),
        (lambda x: L.LSTM(6)(x, initial_state=[x[:, 0], x[:, 1]]), "the argument 'initial_state'"),
        (lambda x: L.Dense(3)(inputs=x), "the argument 'inputs'"),
    ],
)
def test_arguments_of_a_call_that_pytorch_does_not_get_are_refused_by_the_name_of_the_layer(function: Any, said: str) -> None:
    entry = keras.Input(STEPS)
    net = regraft.load(keras.Model(entry, L.Dense(3)(L.Flatten()(function(entry)))))
    with pytest.raises(NetworkError, match=rf"^The layer '\w+' \(\w+\) has {said}"):
        net.to("torch")


class _Compared(nn.Module):
    def __init__(self, compare: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.compare = compare

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compare(x)


def _within(x: torch.Tensor) -> torch.Tensor:
    x[:, :3].view(-1, 18).relu_()
    return x


class _Position(nn.Module):
    def __init__(self, size: int = 6) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.place


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (_Position(), "'0.place'"),
        (nn.Fold((7, 6), (1, 1)), "col2im"),
        (nn.LSTM(6, 5, proj_size=3, batch_first=True), "projections"),
        (nn.Softplus(beta=2), "beta=2"),
        (nn.CELU(2.0), "alpha=2.0"),
        (nn.ConvTranspose1d(7, 3, 2, dilation=2), "dilation=[2]"),
        (nn.MaxPool1d(2, dilation=2), "dilation=[2]"),
        (nn.BatchNorm1d(7, track_running_stats=False), "statistics of the batch itself"),
        (_Compared(lambda x: torch.add(x, x, alpha=2)), "alpha=2"),
        (_Compared(lambda x: nn.functional.pad(x, (1, 1), mode="reflect")), "mode='reflect'"),
        (_Compared(lambda x: x + x[:1]), "single examples"),
        (_Compared(lambda x: x.expand(2, *x.shape)[0]), "further axes"),
        (_Compared(lambda x: x.half().float()), "dtype=torch.float16"),
        (_Compared(lambda x: x - x.mean()), "dim=None, which mixes examples"),
        (_Compared(lambda x: (x.reshape(-1, 2) * 2).reshape(-1, 42)), "a shape that mixes examples"),
        (_Compared(lambda x: x.clamp(min=x[:, :1])), "values as limits"),
        (_Compared(lambda x: _within(x * 2)), "a part of a value that is read whole later, in place"),
        (_Compared(lambda x: x * nn.functional.mse_loss(x, x * 2)), "a mean over examples"),
        (_Compared(lambda x: torch.cat(torch.broadcast_tensors(x, torch.arange(6.0)), 1)), "examples of the shapes (7, 6), "),
    ],
)
def test_operators_without_a_counterpart_are_refused_by_the_layer_that_calls_them(layer: nn.Module, said: str) -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("0", layer)
            self.head = nn.LazyLinear(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.get_submodule("0")(x.transpose(1, 2) if isinstance(layer, nn.Fold) else x)
            return self.head((made[0] if isinstance(made, tuple) else made).flatten(1))

    shape = (42, 6) if isinstance(layer, nn.Fold) else (7, 6)
    whole = Whole()
    whole(torch.zeros(2, *shape))
    with pytest.raises(NetworkError) as caught:
        regraft.load(whole, inputs=shape).to("keras")
    assert "'0" in str(caught.value) and said in str(caught.value) and ".onnx" in str(caught.value)


class _Asking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x if x.sum() > 0 else -x)


def test_an_export_that_fails_prints_no_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = regraft.load(_Asking(), inputs=(4,))
    for done in (lambda: net.to("keras"), lambda: net.export(tmp_path / "x.pt2")):
        with pytest.raises(NetworkError, match="depend on the values that it is given"):
            done()
    assert capfd.readouterr() == ("", "") and not list(tmp_path.iterdir())


def test_tasks_and_groups_go_along() -> None:
    net = regraft.load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), classes=ABC, inputs=(4,))
    net = regraft.branch(net, "style", ["x", "y"])
    net = regraft.branch(net, "coarse", None, groups={"ab": ["a", "b"], "c": ["c"]})
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = net.predict(rows)
    for made in (net.to("keras"), net.to("keras").to("torch")):
        assert list(made.heads) == ["main", "style", "coarse"]
        for task in made.heads:
            np.testing.assert_allclose(made.logits(rows, task=task), net.logits(rows, task=task), atol=1e-5)
        assert made.predict(rows).labels == expected.labels


class _Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eyes, self.facts, self.token, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), nn.Embedding(20, 3), nn.Linear(12, 3)

    def forward(self, picture: torch.Tensor, facts: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        parts = [self.eyes(picture).relu().mean((2, 3)), self.facts(facts).tanh(), self.token(words).mean(1)]
        return self.head(torch.cat(parts, 1))


def _several() -> Any:
    picture, facts, words = (
        keras.Input(PICTURE, name="picture"),
        keras.Input((4,), name="facts"),
        keras.Input((5,), None, "int32", name="words"),
    )
    parts = [L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(picture)), L.Dense(5)(facts), L.GRU(4)(L.Embedding(20, 3, mask_zero=True)(words))]
    return keras.Model([picture, facts, words], L.Dense(3)(L.Concatenate()(parts)))


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_several_inputs_keep_their_names_and_axes(family: str, tmp_path: Path) -> None:
    shapes = {"picture": (3, 9, 8), "facts": (4,), "words": (5,)}
    net = regraft.load(_Several(), inputs=shapes, classes=ABC) if family == "torch" else regraft.load(_several(), classes=ABC)
    draws = np.random.default_rng(0)
    items = {name: draws.normal(size=(4, *one.shape[1:])).astype(np.float32) for name, one in net.sample.items()}
    items["words"] = draws.integers(1, 20, (4, 5)) * (draws.random((4, 5)) < 0.7)
    made, expected = net.to("keras" if family == "torch" else "torch"), net.logits(items)
    assert list(made.sample) == list(items) and made.account.figures["largest_difference"] <= 1e-5
    for one in (made, regraft.load(made.save(tmp_path / "kept")), made.to(family)):
        np.testing.assert_allclose(one.logits(items), expected, atol=1e-5 * np.abs(expected).max())


def test_a_single_input_by_name_may_be_called_x() -> None:
    entry = keras.Input((4,), name="x")
    made = regraft.load(keras.Model({"x": entry}, L.Dense(3)(entry)), classes=ABC).to("torch")
    assert list(made.sample) == ["x"] and made.account.figures["largest_difference"] <= 1e-5


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_codes_of_conditions_go_to_the_other_family(family: str, tmp_path: Path) -> None:
    hidden = [L.Dense(8, activation="relu"), L.Dense(5, use_bias=False), L.BatchNormalization(), L.ReLU()]
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    net = regraft.load(module, inputs=(6,)) if family == "torch" else regraft.load(_keras_of(*hidden, shape=(6,)))
    labels = np.arange(24) % 3
    rows = np.random.default_rng(0).normal(labels[:, None], size=(24, 6)).astype(np.float32)
    data = regraft.read((rows, np.array(ABC)[labels]), condition=np.array(["anna", "ben"] * 12))
    net = regraft.adapt(net, data, strategy="codes", epochs=1, cache="memory").network
    with torch.no_grad():
        for weight in net.module.parameters():
            weight.add_(torch.rand_like(weight) / 2)  # a variance stays positive
    made = net.to("keras" if family == "torch" else "torch")
    assert made.coding is not None and made.coding.conditions == ("anna", "ben") and len(made.coding.points) == len(net.coding.points)
    expected = {name: net.predict(rows, condition=name).probabilities for name in ("mean", "anna", "ben")}
    assert np.abs(expected["anna"] - expected["ben"]).max() > 1e-3
    for one in (made, regraft.load(made.save(tmp_path / "kept")), made.to(family)):
        for name, values in expected.items():
            np.testing.assert_allclose(one.predict(rows, condition=name).probabilities, values, atol=1e-5)
    np.testing.assert_allclose(regraft.fold(made, "ben").predict(rows).probabilities, expected["ben"], atol=1e-5)


@pytest.mark.parametrize("family", ["torch", "keras"])
@pytest.mark.parametrize("into", ["entrance", "input facts"])
def test_codes_elsewhere_are_refused_with_what_to_do(family: str, into: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    if into == "entrance":
        stack = [L.Dense(8, activation="relu")]
        plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        net = regraft.load(_keras_of(*stack, shape=(4,)) if family == "keras" else plain, inputs=(4,), classes=ABC)
    else:
        entries = [keras.Input((4,), name="row"), keras.Input((3,), name="facts")]
        model = keras.Model(entries, L.Dense(3)(L.Concatenate()([L.Dense(5)(entries[0]), entries[1]])))
        shapes = {"row": (4,), "facts": (3,)}
        net = regraft.load(model, classes=ABC) if family == "keras" else regraft.load(_Facts(), inputs=shapes, classes=ABC)
    net = net.coded(Coding(3, ("anna", "ben"), into), seed=0)
    with torch.no_grad():
        for weight in net.module.parameters():
            weight.add_(torch.rand_like(weight) / 2)
    other = "keras" if family == "torch" else "torch"
    remedy = "Fold one: regraft.fold" if into == "entrance" else "Export it as .onnx"
    with pytest.raises(NetworkError, match=rf"reads the codes of conditions at '{into}'.*{remedy}"):
        net.to(other)
    if into == "entrance":
        folded = regraft.fold(net, "anna")
        np.testing.assert_allclose(folded.to(other).logits(rows), folded.logits(rows), atol=1e-5)
    else:
        assert net.export(tmp_path / "x.onnx").is_file() and net.export(tmp_path / "anna.onnx", condition="anna").is_file()


class _Facts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(8, 3)

    def forward(self, row: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.first(row), facts], 1))


def test_a_conversion_that_gives_no_number_is_refused() -> None:
    net = regraft.load(nn.Sequential(nn.Linear(4, 3)), inputs=(4,))
    other = net.copy()
    with torch.no_grad():
        other.module[0].bias[1] = torch.nan
    assert converting._difference(other, other, turned=False) == 0
    for pair in ((net, other), (other, net)):
        with pytest.raises(NetworkError, match="differs from it by inf"):
            converting._difference(*pair, turned=False)


class _NotAlone(nn.Module):
    """Runs on several examples, and on one only while it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest, self.head = nn.Linear(4, 5), _NeedsTwo(), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rest(self.first(x)))


class _NeedsTwo(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting() and len(x) == 1:
            raise RuntimeError("expected more than 1 value")
        return x


def test_a_network_that_does_not_run_on_the_examples_of_the_comparison_is_refused_by_its_layer() -> None:
    net = regraft.load(_NotAlone(), classes=ABC, inputs=(4,))
    with pytest.raises(NetworkError, match=r"one of torch does not run.*'rest' fails on.*\(1, 4\) float32 with 'expected more.*Export"):
        net.to("keras")


@pytest.mark.parametrize("several", [False, True])
def test_tokens_that_keras_takes_as_fractions_go_to_pytorch(several: bool) -> None:
    """The type of Keras' inputs is float32 unless it is given."""
    keras.utils.set_random_seed(0)
    draws, parts = np.random.default_rng(0), [L.Embedding(3, 4), L.GlobalAveragePooling1D()]
    tokens, facts = draws.integers(0, 3, (9, 6)).astype(np.float32), draws.normal(size=(9, 4)).astype(np.float32)
    if several:
        words, numbers = keras.Input((6,), name="words"), keras.Input((4,), name="numbers")
        model = keras.Model([numbers, words], L.Dense(3)(L.Concatenate()([numbers, parts[1](parts[0](words))])))
    else:
        model = keras.Sequential([keras.Input((6,)), *parts, L.Dense(3)])
    net, items = regraft.load(model, classes=ABC), {"numbers": facts, "words": tokens} if several else tokens
    np.testing.assert_allclose(net.to("torch").logits(items), net.logits(items), atol=1e-6)


def test_the_comparison_has_steps_that_are_left_out() -> None:
    stack = [L.LSTM(4), L.Dense(3)]
    masked, plain = (keras.Sequential([keras.Input(STEPS), *first, *stack]) for first in ([L.Masking(-1.0)], []))
    made = regraft.load(plain).to("torch")
    with pytest.raises(NetworkError, match="differs from it by"):
        converting._difference(regraft.load(masked), made, turned=False)


def test_operators_are_registered_again_where_two_threads_begin_at_once() -> None:
    for make in (attention._attention, attention._recurrent):
        make()
        make.cache_clear()
        assert callable(make())
    with pytest.raises(NotImplementedError, match="only exported"):
        attention._recurrent()(torch.zeros(1, 2, 3), None, [torch.zeros(4, 3), torch.zeros(4, 4)], "RNN", True, False, "concat", "", True)


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
        (lambda: L.TimeDistributed(L.LayerNormalization()), "a LayerNormalization for each step"),
        (lambda: L.LSTM(3, activation="exponential"), "the activations 'sigmoid', 'exponential' at each step"),
        (lambda: L.GRU(3, activation=L.LeakyReLU()), "the activations 'sigmoid', 'own' at each step"),
        (lambda: L.GRU(3, activation=lambda x: x), "the activations 'sigmoid', 'own' at each step"),
        (lambda: L.UnitNormalization(), "(UnitNormalization)"),
        (lambda: L.Conv1DTranspose(3, 3, strides=2, output_padding=1), "output_padding=(1,)"),
        (lambda: L.PReLU(), "slopes of the shape (7, 6)"),
        (lambda: L.Softmax(axis=(1, 2)), "axis=(1, 2)"),
        (lambda: L.Normalization(axis=1, mean=np.ones(7), variance=np.ones(7)), "axis=(1,)"),
        (lambda: L.Bidirectional(L.LSTM(3), backward_layer=L.GRU(3, go_backwards=True)), "a backward layer (GRU) that differs"),
        (lambda: L.Bidirectional(L.GRU(3), backward_layer=L.GRU(3, "relu", go_backwards=True)), "a backward layer (GRU) that differs"),
        (lambda: L.ConvLSTM2D(2, 2), "(ConvLSTM2D)"),
        (lambda: L.Dense(4, activation=lambda x: x * 2), "the activation '<lambda>'"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_the_name_of_the_layer(layer: Callable[[], Any], said: str) -> None:
    made = layer()
    shape = BOX if isinstance(made, L.ConvLSTM2D) else STEPS
    net = regraft.load(keras.Sequential([keras.Input(shape), made, L.Flatten(), L.Dense(3)]))
    with pytest.raises(NetworkError) as caught:
        net.to("torch")
    assert repr(made.name) in str(caught.value) and said in str(caught.value) and ".onnx" in str(caught.value)


FIRST = {"data_format": "channels_first"}
CHANNELS_FIRST: dict[str, Callable[[], list[Any]]] = {
    "pooled": lambda: [
        *(L.Conv2D(5, 3, padding="same", **FIRST), L.BatchNormalization(axis=1), L.ReLU(), L.MaxPooling2D(2, **FIRST)),
        *(L.Conv2D(6, 3, **FIRST), L.GlobalAveragePooling2D(**FIRST)),
    ],
    "flattened": lambda: [
        *(L.SeparableConv2D(5, 3, **FIRST), L.GroupNormalization(5, axis=1), L.PReLU(shared_axes=[2, 3]), L.ZeroPadding2D(1, **FIRST)),
        *(L.UpSampling2D(2, **FIRST), L.AveragePooling2D(2, **FIRST), L.Flatten(**FIRST)),
    ],
}


@pytest.mark.parametrize("name", CHANNELS_FIRST)
def test_pictures_whose_channels_stand_first_in_keras_do_so_in_pytorch(name: str) -> None:
    keras.utils.set_random_seed(0)
    net = regraft.load(keras.Sequential([keras.Input((3, 8, 10)), *CHANNELS_FIRST[name](), L.Dense(3)]), classes=ABC)
    labels = np.arange(36) % 3
    items = np.random.default_rng(0).normal(labels.reshape(-1, 1, 1, 1), size=(36, 3, 8, 10)).astype(np.float32)
    probed = regraft.adapt(net, (items, np.array(ABC)[labels]), strategy="probe", cache="memory").network
    assert any(isinstance(edit, Taps) for edit in probed.edits)
    for one in (net, probed):
        made, expected = one.to("torch"), one.logits(items)
        assert made.input_shape == net.input_shape
        np.testing.assert_allclose(made.logits(items), expected, atol=1e-5 * np.abs(expected).max())
        back = made.to("keras")
        assert back.input_shape == (8, 10, 3)
        np.testing.assert_allclose(back.logits(np.moveaxis(items, 1, -1)), expected, atol=1e-5 * np.abs(expected).max())
    pictures = np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3)).astype(np.uint8)
    plain = {"kind": "image", "height": 8, "width": 10, "layout": "channels_first"}
    net = regraft.load(net.module, classes=ABC, preprocessing=plain)
    np.testing.assert_allclose(net.to("torch").predict(pictures).probabilities, net.predict(pictures).probabilities, atol=1e-6)


def test_layers_that_were_frozen_stay_so_and_the_network_trains() -> None:
    model = keras.Sequential(
        [keras.Input(PICTURE), L.Conv2D(4, 3, name="eyes"), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")]
    )
    model.get_layer("eyes").trainable = False
    made = regraft.load(model, classes=ABC).to("torch")
    assert made.body.held == {"eyes"}
    assert type(made.module.eyes) is torch.nn.Conv2d
    draws = np.random.default_rng(0)
    targets = np.array(ABC * 8)
    data = regraft.read((draws.normal(size=(24, 3, 9, 8)).astype(np.float32), targets))
    before = made.module.eyes.weight.detach().clone()
    result = regraft.adapt(made, data, strategy="full", epochs=1, cache="memory")
    assert torch.equal(result.network.module.eyes.weight, before)


def test_a_layer_with_lora_takes_along_what_it_has_learned() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), L.Dense(6, activation="relu"), L.Dense(3)])
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 6)))
    net, rows = regraft.load(model, classes=ABC), np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert np.allclose(net.to("torch").logits(rows), net.logits(rows), atol=1e-5)


def test_a_backbone_without_a_head_has_the_same_features() -> None:
    net = regraft.load(keras.Sequential([keras.Input((9, 8, 3)), L.Conv2D(4, 3), L.ReLU()]))
    pictures = np.random.default_rng(0).normal(size=(3, 9, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(net.to("torch").features(np.moveaxis(pictures, -1, 1)), net.features(pictures), atol=1e-6)


def test_pictures_keep_their_preprocessing() -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.GlobalAveragePooling2D(), L.Dense(3, activation="softmax")])
    plain = {"kind": "image", "height": 8, "width": 8, "layout": "channels_last", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    net = regraft.load(model, classes=ABC, preprocessing=plain)
    made = net.to("torch")
    pictures = np.random.default_rng(0).integers(0, 255, (3, 20, 30, 3)).astype(np.uint8)
    assert made.preprocessing.to_dict() == net.preprocessing.to_dict() | {"layout": "channels_first"}
    np.testing.assert_allclose(made.predict(pictures).probabilities, net.predict(pictures).probabilities, atol=1e-6)


def test_signals_of_any_length_stay_so_channels_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    stack = [nn.Conv1d(1, 4, 9, stride=4), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 3)]
    net = regraft.load(nn.Sequential(*stack), classes=ABC, inputs=(1, None))
    there = net.to("keras")
    again = regraft.load(there.to("torch").export(tmp_path / "x.onnx"))
    for length in (200, 77):
        items = np.random.default_rng(0).normal(size=(5, 1, length)).astype(np.float32)
        for one in (there, again):
            assert one.input_shape == (1, None)
            np.testing.assert_allclose(one.logits(items), net.logits(items), atol=1e-5)


def test_an_unknown_family_is_refused() -> None:
    net = regraft.load(torch.nn.Sequential(torch.nn.Linear(4, 3)), inputs=(4,))
    with pytest.raises(NetworkError, match="'pytorch'"):
        net.to("pytorch")
    assert net.to("torch") is not net


def _of_zoo(name: str) -> nn.Module:
    models, torch_models = pytest.importorskip("torchvision.models"), pytest.importorskip("timm")
    module = (
        torch_models.create_model(name, num_classes=3) if name.startswith("tf_") else getattr(models, name)(weights=None, num_classes=3)
    )
    if name == "vgg16":  # at a small size; its maps are flattened channels first
        module.avgpool, module.classifier[0] = nn.Identity(), nn.Linear(2048, 4096)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.uniform_(0.5, 1.5)
            part.running_mean.normal_(0, 0.2)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "application", "same"),
    [
        *(("densenet121", "DenseNet121", True), ("vgg16", "VGG16", True), ("tf_efficientnet_b0", "EfficientNetB0", True)),
        *(("mobilenet_v2", "MobileNetV2", False), ("resnet50", "ResNet50", False)),
    ],
)
def test_weights_go_into_an_architecture_of_keras_if_the_function_is_the_same(
    name: str, application: str, same: bool, tmp_path: Path
) -> None:
    """Some seconds for each network; needs torchvision and timm."""
    torch.manual_seed(0)
    net = regraft.load(_of_zoo(name), classes=ABC, inputs=(3, 64, 64))
    if not same:
        with pytest.raises(NetworkError, match=r"differs from it by|has weights of the shapes"):
            net.to(f"keras:{application}")
        return
    made = net.to(f"keras:{application}")
    items = np.random.default_rng(0).normal(size=(3, 3, 64, 64)).astype(np.float32)
    expected, turned = net.logits(items), np.moveaxis(items, 1, -1)
    assert made.account.figures["largest_difference"] <= 1e-5 and made.module.name == application.lower() and made.classes == tuple(ABC)
    plain = regraft.load(made.export(tmp_path / "x.keras"))  # without a preprocessing, which would take arrays for pictures
    np.testing.assert_allclose(plain.logits(turned), expected, atol=1e-5 * np.abs(expected).max())


def test_an_application_that_is_not_there_is_refused() -> None:
    net = regraft.load(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), inputs=(3, 32, 32))
    with pytest.raises(NetworkError, match="'DenseNet121'"):
        net.to("keras:DensNet121")
    with pytest.raises(NetworkError, match="has weights of the shapes"):
        net.to("keras:MobileNet")
    with pytest.raises(NetworkError, match="'torch:x'"):
        net.to("torch:x")
