"""Forty speakers become fifteen: weights of a small Keras network, saved in HDF5, adapted to other voices.

The voices are synthetic (pulses of an own pitch through vowel formants of an own vocal tract; no real person), because real
recordings cannot be shipped. Every speaker says random vowel sequences; every piece is two seconds and has its own room noise.

    python examples/speakers.py [FOLDER] [--quick]

1. A source network learns 40 voices and saves its weights only: `source.weights.h5`.
2. The same architecture, with those weights, is adapted to 15 other voices of which there are few pieces each.
3. The report compares it with the same architecture trained from scratch on the same pieces.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from scipy.signal import lfilter

os.environ.setdefault("KERAS_BACKEND", "torch")  # before keras is imported: regraft runs Keras on its torch backend

RATE = 16_000
SECONDS = 2.0
VOWELS = np.array([[730, 1090, 2440], [270, 2290, 3010], [300, 870, 2240], [530, 1840, 2480], [570, 840, 2410], [440, 1020, 2240]])
"""First three formants of six vowels in Hz (Peterson & Barney 1952, men)."""


def speaker(number: int) -> dict[str, float]:
    """Return what makes one voice: pitch, vocal tract, tilt, breath and bandwidth."""
    draw = np.random.default_rng([7, number])
    return {
        "pitch": draw.uniform(85, 250),
        "melody": draw.uniform(0.02, 0.12),
        "tract": draw.uniform(0.85, 1.2),
        "tilt": draw.uniform(0.85, 0.97),
        "breath": draw.uniform(0.005, 0.06),
        "width": draw.uniform(50, 130),
    }


def piece(voice: dict[str, float], seed: int) -> np.ndarray:
    """Return two seconds of one voice, (32000,) float32."""
    draw = np.random.default_rng(seed)
    samples = int(RATE * SECONDS)
    parts: list[np.ndarray] = []
    while sum(len(part) for part in parts) < samples:
        parts.append(_vowel(voice, draw, int(RATE * draw.uniform(0.09, 0.25))))
        if draw.random() < 0.2:
            parts.append(np.zeros(int(RATE * draw.uniform(0.03, 0.12))))
    wave = lfilter([1.0], [1.0, -voice["tilt"]], np.concatenate(parts)[:samples])
    wave /= np.abs(wave).max()
    noise = lfilter([1.0], [1.0, -draw.uniform(0.0, 0.9)], draw.normal(size=samples))
    return (wave * draw.uniform(0.3, 0.9) + noise / noise.std() * 10 ** draw.uniform(-2.5, -1.5)).astype(np.float32)


def _vowel(voice: dict[str, float], draw: np.random.Generator, length: int) -> np.ndarray:
    pitch = voice["pitch"] * np.exp(
        voice["melody"] * np.cumsum(draw.normal(size=length)) / np.sqrt(RATE / 4) + draw.normal() * voice["melody"]
    )
    pulses = np.diff(np.floor(np.cumsum(pitch / RATE)), prepend=0.0) + voice["breath"] * draw.normal(size=length)
    for formant in VOWELS[draw.integers(len(VOWELS))] * voice["tract"] * draw.normal(1, 0.03, 3):
        radius = np.exp(-np.pi * voice["width"] / RATE)
        pulses = lfilter([1 - radius], [1, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], pulses)
    return pulses * np.hanning(length) ** 0.3


def pictures(speakers: range, pieces: int, first_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return MFCC pictures (N, 40, 63, 1) and the speakers' names (N,)."""
    import librosa

    made, names = [], []
    for number in speakers:
        voice = speaker(number)
        for index in range(pieces):
            made.append(librosa.feature.mfcc(y=piece(voice, first_seed + 1000 * number + index), sr=RATE, n_mfcc=40))
            names.append(f"speaker {number:02d}")
    return np.stack(made)[..., None].astype(np.float32), np.array(names)


def network(speakers: int):  # type: ignore[no-untyped-def]  # a keras.Model; keras is imported here only
    """Return the small CNN: three pairs of convolutions with stride 3, then three dense layers."""
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((40, 63, 1))])
    for filters, kernel in ((32, 5), (64, 3), (128, 3)):
        model.add(layers.Conv2D(filters, kernel, strides=3, padding="same", activation="relu"))
        model.add(layers.Conv2D(filters, kernel, strides=3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(2, padding="same"))
        model.add(layers.Dropout(0.25))
    model.add(layers.Flatten())
    model.add(layers.Dense(256, activation="relu"))
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dense(speakers, activation="softmax"))
    return model


def main(folder: Path, *, quick: bool = False) -> dict[str, float]:
    """Run all three steps, print what came of them, and return the accuracies. `quick`: few pieces, one epoch, nothing from scratch."""
    import regraft

    heard, learned, judged, epochs = (2, 2, 1, 1) if quick else (40, 12, 20, 60)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "source.weights.h5"
    if not weights.exists():
        print("1. the source network learns 40 voices")
        source = regraft.adapt(network(40), pictures(range(40), heard, 0), strategy="scratch", epochs=epochs, patience=10, seed=1)
        print("  ", source.verdict)
        source.network.module.save_weights(weights)
    print(f"2. its weights are adapted to 15 other voices, {learned} pieces each")
    net = regraft.load(network(15), weights=weights)
    print(net.account)
    new, held_out = pictures(range(40, 55), learned, 5_000_000), pictures(range(40, 55), judged, 9_000_000)
    options = {"strategy": "full", "epochs": min(epochs, 40), "patience": 10, "baselines": not quick}
    result = regraft.adapt(net, new, test=held_out, out=folder / "adapted", resume=False, **options)
    print("3.", result.verdict)
    found = {"adapted": result.scores["test"], **result.baselines}
    for name, figures in found.items():
        low, high = figures["accuracy_interval"]
        print(f"   {name:<11} {figures['accuracy']:.1%} of {figures['examples']} held-out pieces (95 % interval {low:.1%} to {high:.1%})")
    print("   report:", folder / "adapted" / "report.html")
    return {name: figures["accuracy"] for name, figures in found.items()}


if __name__ == "__main__":
    named = [word for word in sys.argv[1:] if word != "--quick"]
    main(Path(named[0] if named else "speakers"), quick="--quick" in sys.argv)
