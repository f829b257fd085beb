"""Small Keras models of the kinds that people bring."""

from __future__ import annotations

from typing import Any

import torch

from regraft.networks.keras_parts.library import keras

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
