"""Sixty voices are known, twenty more are met: for each of them a code of a few numbers is learned from twenty frames.

    python examples/conditions.py [--family keras] [--quick]

What is told apart are ten vowels, from one short frame of sound (32 bands of its spectrum, in decibels). Every voice has its own vocal
tract, pitch and timbre and speaks in its own room. One frame does not tell which voice it is: one speaker's "head" looks like another's
"had". The voices are made up (no real person), because real ones cannot be shipped.

1. A network learns all frames of the 60 voices, without being told the voices.
2. It learns a code for each voice (strategy="codes").
3. For 20 new voices the codes alone are learned, all of them in one call.
4. The same frames train the biases, or all weights, of the network of step 1, one copy a voice.

`benchmarks/conditions.py` has the whole comparison: 1 to 20 frames, and every way there is to adapt.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch: in so small a network threads only wait for each other
os.environ.setdefault("KERAS_BACKEND", "torch")  # before keras is imported: regraft runs Keras on its torch backend

import numpy as np

FORMANTS = {
    "heed": (270, 2290, 3010), "hid": (390, 1990, 2550), "head": (530, 1840, 2480), "had": (660, 1720, 2410), "hod": (730, 1090, 2440),
    "hawed": (570, 840, 2410), "hood": (440, 1020, 2240), "who'd": (300, 870, 2240), "hud": (640, 1190, 2390), "heard": (490, 1350, 1690),
}  # fmt: skip
"""Means of 33 men in Hz: Peterson & Barney, Control Methods Used in a Study of the Vowels, 1952, table II."""
BANDS = 700 * (10 ** (np.linspace(150, 2363, 32) / 2595) - 1)
"""Centres of the bands in Hz, evenly spaced in mel from 100 to 5000 Hz."""
TRAINING, NEW = range(60), range(60, 80)


def frames(number: int, words: Sequence[str], *, seed: int = 0) -> np.ndarray:
    """Return a frame (len(words), 32) of one voice from the vowel of each word."""
    draw = np.random.default_rng([9, number])
    small = draw.integers(2)
    tract = np.exp(draw.normal(0.16 * small, 0.07)) * np.exp(draw.normal(0, 0.05, 3))
    pitch, tilt, width = np.exp(draw.normal(4.8 + 0.55 * small, 0.12)), draw.normal(-6, 2), draw.uniform(60, 140)
    room = np.interp(np.linspace(0, 5, 32), np.arange(6), draw.normal(0, 2, 6))
    draw = np.random.default_rng([9, number, seed])
    count = len(words)
    formants = np.array([FORMANTS[word] for word in words]) * tract * np.exp(draw.normal(0, 0.06, (count, 3)))
    gain = np.ones((count, len(BANDS)))
    for index, formant in enumerate(formants.T[..., None]):
        half = width * (1 + index / 2) / 2
        gain *= (formant**2 + half**2) / np.abs((half + 1j * (BANDS - formant)) * (half + 1j * (BANDS + formant)))
    pulses = 2 * np.cos(2 * np.pi * BANDS / (pitch * np.exp(draw.normal(0, 0.1, (count, 1))))) * np.exp(-BANDS / 1200)
    level = 20 * np.log10(gain) + tilt * np.log2(BANDS / 100) / 2 + pulses + room + draw.normal(0, 3, (count, 1))
    return ((level + 1.5 * draw.normal(size=level.shape) + 20) / 15).astype(np.float32)


def several(voices: Sequence[int], times: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frames of voices that say every word so many times, the words, and the names of the voices."""
    words = np.array(list(FORMANTS) * times)
    x = np.concatenate([frames(number, words) for number in voices])
    return x, np.tile(words, len(voices)), np.repeat([f"voice {number}" for number in voices], len(words))


def network(family: str) -> Any:
    """Return two hidden layers of 128 and a head, not trained yet."""
    if family == "keras":
        import keras
        from keras import layers

        hidden = [layers.Dense(128, activation="relu"), layers.Dense(128, activation="relu")]
        return keras.Sequential([keras.Input((32,)), *hidden, layers.Dense(10, activation="softmax")])
    from torch import nn

    return nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def wrong(net: Any, number: int, condition: str | None = None) -> float:
    """Return the share of 300 further frames of a voice whose word a network gets wrong."""
    words = np.array(list(FORMANTS) * 30)
    found = net.predict(frames(number, words, seed=1), condition=condition)
    return float(np.mean(np.array(found.labels) != words))


def main(family: str = "torch", *, quick: bool = False, times: int = 2) -> dict[str, list[float]]:
    """Run all steps, print what came of them, and return the share of wrong words of each new voice by what was done."""
    import regraft

    old, new = (TRAINING[:12], NEW[:3]) if quick else (TRAINING, NEW)
    options = {"epochs": 3 if quick else 20, "batch_size": 64, "learning_rate": 2e-3, "patience": None, "cache": "memory"}
    x, y, voices = several(old, 5 if quick else 15)
    started = time.perf_counter()
    untrained = regraft.load(network(family), classes=list(FORMANTS), inputs=(32,))
    plain = regraft.adapt(untrained, (x, y), strategy="scratch", **options).network
    print(f"1. the network has learned {len(x):,} frames of {len(old)} voices ({time.perf_counter() - started:.0f} s)")
    coded = regraft.adapt(plain, regraft.read((x, y), condition=voices), strategy="codes", **options).network
    print(f"2. and a code of {coded.coding.size} numbers for each of {len(coded.codes)} voices ({time.perf_counter() - started:.0f} s)")

    x, y, voices = several(new, times)
    started = time.perf_counter()
    known = regraft.adapt_condition(coded, regraft.read((x, y), condition=voices))
    print(f"3. codes of {len(new)} new voices, {len(x) // len(new)} frames each ({time.perf_counter() - started:.1f} s)")
    found = {"no adaptation": [wrong(plain, number) for number in new], "mean code": [wrong(coded, number) for number in new]}
    found["codes"] = [wrong(known, number, f"voice {number}") for number in new]
    folded = regraft.fold(known, f"voice {new[0]}")  # a plain network again, for this voice alone
    assert abs(wrong(folded, new[0]) - found["codes"][0]) < 0.01

    for strategy in ("bias", "full"):
        own = [regraft.adapt(plain, several([number], times)[:2], strategy=strategy).network for number in new]
        found[strategy] = [wrong(net, number) for net, number in zip(own, new, strict=True)]
    print(f"4. wrong words of {len(new)} new voices, mean with 95 % interval:")
    for name, shares in found.items():
        print(f"   {name:<14}{np.mean(shares):6.1%} ± {1.96 * np.std(shares, ddof=1) / len(shares) ** 0.5:.1%}")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=("torch", "keras"), default="torch")
    parser.add_argument("--quick", action="store_true", help="a few voices and epochs: shows that it runs, not what it is worth")
    asked = parser.parse_args()
    main(asked.family, quick=asked.quick)
