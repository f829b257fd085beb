"""Small Keras models of the kinds that people bring."""

from __future__ import annotations

from typing import Any

import torch

from regraft.networks.keras.library import keras

L = keras.layers


def speaker_network(classes: int = 40) -> Any:
    """Three pairs of strided convolutions, pooling and dropout after each, three dense layers."""
    layers = [keras.Input((40, 99, 1))]
    for filters in (32, 64, 128):
        layers += [
            L.Conv2D(filters, 5, strides=3, padding="same", activation="relu"),
            L.Conv2D(filters, 3, strides=3, padding="same", activation="relu"),
            L.MaxPooling2D(2, padding="same"),
            L.Dropout(0.25),
        ]
    layers += [L.Flatten(), L.Dense(256, activation="relu"), L.Dense(128, activation="relu"), L.Dense(classes, activation="softmax")]
    return keras.Sequential(layers)


def text_network(classes: int = 3) -> Any:
    return keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            L.Embedding(50, 8),
            L.BatchNormalization(),
            L.Bidirectional(L.LSTM(4, return_sequences=True, dropout=0.2)),
            L.Bidirectional(L.LSTM(4)),
            L.Dense(classes, activation="softmax"),
        ]
    )


def backbone() -> Any:
    image = keras.Input((16, 16, 3))
    x = L.Conv2D(8, 3, padding="same", name="stem")(image)
    x = L.BatchNormalization(name="stem_bn")(x)
    y = L.Conv2D(8, 3, padding="same", name="inner")(L.Activation("relu")(x))
    return keras.Model(image, L.Add()([x, y]), name="backbone")


def nested_network(classes: int = 4) -> Any:
    """A functional backbone, frozen by the user, used as a layer."""
    base = backbone()
    base.trainable = False
    image = keras.Input((16, 16, 3))
    x = L.Dropout(0.2)(L.GlobalAveragePooling2D()(base(image)))
    return keras.Model(image, L.Dense(classes, name="scores")(x))


def convolutional_head(classes: int = 10) -> Any:
    """A head that is a 1x1 convolution with Reshape and Activation after it."""
    image = keras.Input((16, 16, 3))
    x = L.GlobalAveragePooling2D(keepdims=True)(L.Conv2D(8, 3, activation="relu")(image))
    x = L.Reshape((classes,))(L.Conv2D(classes, 1, name="conv_preds")(x))
    return keras.Model(image, L.Activation("softmax")(x))


class Subclassed(keras.Model):
    """Layers in a list, a multi-label head; no config."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [L.Dense(8, activation="relu"), L.BatchNormalization(), L.Dropout(0.5)]
        self.out = L.Dense(3, activation="sigmoid")

    def call(self, x: Any, training: bool = False) -> Any:
        for step in self.steps:
            x = step(x, training=training) if isinstance(step, L.Dropout) else step(x)
        return self.out(x)


def subclassed_network() -> Any:
    model = Subclassed()
    model(torch.ones(2, 5))
    return model


def embedding_network() -> Any:
    image = keras.Input((16, 16, 3))
    return keras.Model(image, L.Dense(6, activation="relu")(L.Flatten()(L.Conv2D(4, 3)(image))))


WITH_HEAD = {
    "speaker": speaker_network,
    "text": text_network,
    "nested": nested_network,
    "convolution": convolutional_head,
    "subclassed": subclassed_network,
}
WITHOUT_HEAD = {"feature map": backbone, "embedding": embedding_network}


def small_network(classes: int = 3) -> Any:
    """A Sequential model with fused activations."""
    layers = [keras.Input((8, 8, 3)), L.Conv2D(4, 3, activation="relu", name="conv"), L.Dropout(0.3), L.Flatten()]
    return keras.Sequential([*layers, L.Dense(6, activation="tanh", name="dense"), L.Dense(classes, activation="softmax", name="out")])


def varied_network(layout: str = "channels_last") -> Any:
    """One layer of each kind that has a point, without biases; a normalisation without scale and shift; a layer as an activation."""
    last = layout == "channels_last"
    image = keras.Input((8, 8, 3) if last else (3, 8, 8))
    x = L.Conv2D(4, 3, use_bias=False, data_format=layout, name="conv")(image)
    x = L.ReLU()(L.BatchNormalization(axis=-1 if last else 1, scale=False, center=False, name="norm")(x))
    x = L.DepthwiseConv2D(3, depth_multiplier=2, data_format=layout, activation="relu", use_bias=False, name="depthwise")(x)
    x = L.SeparableConv2D(6, 3, padding="same", data_format=layout, activation="tanh", use_bias=False, name="separable")(x)
    x = L.Conv2DTranspose(5, 3, data_format=layout, use_bias=False, activation=L.LeakyReLU(name="leaky"), name="transposed")(x)
    x = L.BatchNormalization(axis=-1 if last else 1, name="shifted_norm")(x)
    x = L.GlobalAveragePooling2D(data_format=layout)(x)
    x = L.EinsumDense("ab,bc->ac", 7, name="einsum", activation="relu")(x)
    return keras.Model(image, L.Dense(3, name="out")(x))


def masked_text_network() -> Any:
    tokens = keras.Input((6,), dtype="int32")
    x = L.LSTM(5)(L.Dense(6, activation="tanh", name="each")(L.Embedding(20, 8, mask_zero=True)(tokens)))
    return keras.Model(tokens, L.Dense(3, name="out")(L.Dense(4, activation="relu", name="dense")(x)))


def shared_network() -> Any:
    """A layer that is called twice."""
    vector, twice = keras.Input((6,)), L.Dense(6, activation="relu", name="twice")
    return keras.Model(vector, L.Dense(3, name="out")(twice(twice(vector))))


def nested_twice_network() -> Any:
    """A nested model with two inputs that is called twice, and Sequential models within each other."""
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    inner = keras.Model(
        {"a": a, "b": b}, L.Add()([L.Dense(4, activation="relu", name="left")(a), L.Dense(4, name="right")(b)]), name="inner"
    )
    deepest = keras.Sequential([keras.Input((5,)), L.Dense(5, name="low")], name="deepest")
    deep = keras.Sequential([keras.Input((4,)), L.Dense(5, activation="relu", name="high"), deepest], name="deep")
    vector = keras.Input((6,))
    x = L.Multiply()([inner({"a": vector, "b": vector}), inner({"b": L.Dense(6, name="before")(vector), "a": vector})])
    return keras.Model(vector, L.Dense(3, name="out")(deep(x)))


def two_inputs_network() -> Any:
    """Inputs X and Z, as a network that knows conditions may have them."""
    x, z = keras.Input((6,), name="X"), keras.Input((4,), name="Z")
    joined = L.Concatenate()([L.Dense(8, activation="relu", name="of_x")(x), L.Dense(8, name="of_z")(z)])
    return keras.Model([x, z], L.Dense(3, name="out")(joined))


WITH_POINTS = {
    "small": small_network,
    "varied": varied_network,
    "varied, channels first": lambda: varied_network("channels_first"),
    "nested": nested_network,
    "nested twice": nested_twice_network,
    "shared": shared_network,
    "masked text": masked_text_network,
    "two inputs": two_inputs_network,
}
