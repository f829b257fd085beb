"""Real recorded speakers: a small Keras network of 55 voices, saved as HDF5 weights, becomes one of 15 others.

    python benchmarks/voices.py FOLDER [--splits 0 1 2] [--pieces 18] [--out FILE]

FOLDER holds Debian packages, unpacked with `dpkg -x`: klettres-data, ktuberling-data, tuxpaint-stamps-default, fillets-ng-data-cs,
fillets-ng-data-nl, hedgewars-data, asterisk-core-sounds-{en,fr,it,ru}-wav, asterisk-prompt-{es-co,fr-armelle,it-menardi-wav}. A speaker is
a language of klettres, ktuberling or Tux Paint, a fish of Fish Fillets, a voice of Hedgewars, a set of prompts of Asterisk.

Every recording: mono, 8,000 Hz, silence at its ends cut, equal loudness; pieces of 1.5 s, at most three of a file, shorter ones repeated;
40 mel bands from 200 to 3,400 Hz, decibels down to 40 below the loudest: of codec and microphone that is left which passes a telephone.
`same package` counts an example as right if the best of the classes of its own package is right, `packages` how often the package is
right. Pieces of a file are never on both sides of a split.

Rivals: Keras with Adam 1e-3, batches of 64 and EarlyStopping(10) on 15 %, best weights restored, or 60 and 100 epochs on everything; from
the trained weights with a new last layer, and from scratch. StandardScaler and LogisticRegressionCV on what the last layer reads.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import librosa
import numpy as np
import soundfile
from scipy import stats
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import regraft

RATE, LENGTH, NEW, LEAST, MOST, JUDGED = 8000, 12_000, 15, 25, 60, 25
OURS = ("full", "scratch", "auto", "head", "probe")
RIVALS = {"full": ("keras full", "keras full 60", "keras full 100"), "scratch": ("keras scratch", "keras scratch 60", "keras scratch 100")}


def voices(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each speaker that has enough of them; the first word of a name is the package."""
    share, found = folder / "usr" / "share", {}
    for path in sorted(path for path in share.rglob("*") if path.suffix.lower() in (".ogg", ".wav", ".gsm", ".opus")):
        package, *rest = path.relative_to(share).parts
        name = None
        if package == "klettres":
            name = f"klettres {rest[0]}"
        elif package == "ktuberling" and "@" not in rest[1]:
            name = f"ktuberling {rest[1]}"
        elif package == "tuxpaint" and (language := re.search(r"_desc_(\w+)$", path.stem)):
            name = f"tuxpaint {language[1]}"
        elif "fillets-ng" in rest and (fish := re.search("-([mv])-", path.name)):
            name = f"fillets {path.parent.name} {fish[1]}"
        elif "voices" in rest:
            name = f"hedgewars {path.parent.name}"
        elif package == "asterisk" and "silence" not in rest and rest[1] != "es_MX_f_Allison":  # the voice of en_US
            name = f"asterisk {rest[1]}"
        if name:
            found.setdefault(name, []).append(path)
    return {name: files for name, files in found.items() if len(files) >= LEAST}


def pieces(path: Path) -> list[np.ndarray]:
    """Return the pieces of a recording as decibels of mel bands, (47, 40); none of one that is nearly silent or below 0.3 s."""
    with soundfile.SoundFile(path) as sound:  # librosa.load cannot read GSM
        wave = librosa.resample(sound.read(sound.frames, dtype="float32", always_2d=True).mean(1), orig_sr=sound.samplerate, target_sr=RATE)
    wave, _ = librosa.effects.trim(wave, top_db=35)
    if len(wave) < 0.3 * RATE or not wave.any():
        return []
    count = min(3, max(1, len(wave) // LENGTH))
    made = []
    for number in range(count):
        piece = np.resize(wave, LENGTH) if len(wave) < LENGTH else wave[number * LENGTH : (number + 1) * LENGTH]
        power = librosa.feature.melspectrogram(
            y=piece / np.sqrt((piece**2).mean() + 1e-12), sr=RATE, n_fft=512, hop_length=256, n_mels=40, fmin=200, fmax=3400
        )
        made.append(librosa.power_to_db(power, ref=np.max, top_db=40).T.astype(np.float32) / 10)
    return made


def collected(folder: Path) -> dict[str, list[list[np.ndarray]]]:
    """Return the pieces of at most 60 recordings of each speaker, by recording; they are kept in a file beside the packages."""
    kept, found = folder / "voices.npz", {}
    if not kept.exists():
        for name, files in voices(folder).items():
            chosen = np.random.default_rng(0).permutation(len(files))[: 2 * MOST]
            taken = [made for made in (pieces(files[index]) for index in chosen) if made][:MOST]
            found[name] = (
                np.concatenate([np.stack(made) for made in taken]),
                np.repeat(np.arange(len(taken)), [len(made) for made in taken]),
            )
        np.savez(kept, **{f"{name}|{part}": array for name, both in found.items() for part, array in zip("xg", both, strict=True)})
    with np.load(kept) as arrays:
        names = sorted({key[:-2] for key in arrays})
        return {name: [list(arrays[name + "|x"][arrays[name + "|g"] == g]) for g in np.unique(arrays[name + "|g"])] for name in names}


def network(speakers: int) -> Any:
    """Return the small network that a student would write."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((47, 40)), layers.Conv1D(64, 5, activation="relu"), layers.MaxPooling1D(2)])
    for part in (layers.Dropout(0.25), layers.Conv1D(128, 3, activation="relu"), layers.MaxPooling1D(2), layers.Dropout(0.25)):
        model.add(part)
    model.add(layers.Flatten())
    model.add(layers.Dense(128, activation="relu"))
    model.add(layers.Dropout(0.25))
    model.add(layers.Dense(speakers, activation="softmax"))
    return model


def fitted(model: Any, x: np.ndarray, y: np.ndarray, *, seed: int, epochs: int | None = None) -> Any:
    """Train as most would: Adam, batches of 64, early stopping on 15 %, or a number of epochs on everything."""
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    stop = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    options = {"epochs": epochs} if epochs else {"epochs": 300, "validation_split": 0.15, "callbacks": [stop]}
    model.fit(x[order], y[order], batch_size=64, verbose=0, **options)
    return model


def source(folder: Path, old: dict[str, list[list[np.ndarray]]]) -> Path:
    """Return the file of the weights that plain Keras has learned from the other speakers."""
    path = folder / "voices.weights.h5"
    if not path.exists():
        x = np.stack([piece for recordings in old.values() for recording in recordings for piece in recording])
        y = np.repeat(np.arange(len(old)), [sum(map(len, recordings)) for recordings in old.values()])
        keras.utils.set_random_seed(1)
        model = fitted(network(len(old)), x, y, seed=1)
        print("source:", len(old), "speakers,", len(x), "pieces", flush=True)
        model.save_weights(path)
    return path


def split(new: dict[str, list[list[np.ndarray]]], learned: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return pieces and speakers to learn from, and those of other recordings that judge."""
    parts: tuple[list[Any], ...] = ([], [], [], [])
    for name, recordings in new.items():
        order = np.random.default_rng(seed).permutation(len(recordings))
        half = len(order) // 2
        for part, chosen, most in ((0, order[:half], learned), (2, order[half:], JUDGED)):
            found = [piece for index in chosen for piece in recordings[index]][:most]
            parts[part].extend(found)
            parts[part + 1].extend([name] * len(found))
    return tuple(np.stack(part) for part in parts)  # type: ignore[return-value]


def runs(weights: Path, count: int, draw: Any, seed: int) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """Yield names, and what returns the probabilities of the test examples."""
    x, names, test_x, test_names = draw
    known, y = np.unique(names, return_inverse=True)

    def ours(strategy: str) -> np.ndarray:
        net = regraft.load(network(count), weights=weights)
        result = regraft.adapt(
            net, (x, names), strategy=strategy, test=(test_x, test_names), holdout=0, seed=seed, cache="memory", baselines=False
        )
        predicted = result.network.predict(test_x)
        return np.asarray(predicted.probabilities)[:, [predicted.classes.index(name) for name in known]]

    def start(trained: bool) -> Any:
        keras.utils.set_random_seed(seed)
        model = network(count)
        if trained:
            model.load_weights(weights)
        body = keras.Model(model.inputs, model.layers[-2].output)
        return body, keras.Model(body.inputs, keras.layers.Dense(len(known), activation="softmax")(body.outputs[0]))

    def logistic() -> np.ndarray:
        body, _ = start(True)
        fold = min(5, int(np.bincount(y).min()))
        model = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=2000, cv=fold)).fit(body.predict(x, verbose=0), y)
        return np.asarray(model.predict_proba(body.predict(test_x, verbose=0)))

    for strategy in OURS:
        yield strategy, lambda strategy=strategy: ours(strategy)
    for strategy, kinds in RIVALS.items():
        for name, epochs in zip(kinds, (None, 60, 100), strict=True):
            yield (
                name,
                lambda strategy=strategy, epochs=epochs: fitted(start(strategy == "full")[1], x, y, seed=seed, epochs=epochs).predict(
                    test_x, verbose=0
                ),
            )
    yield "sklearn", logistic


def figures(probabilities: np.ndarray, speakers: np.ndarray) -> dict[str, float]:
    """Return how often the speaker is right, the speaker among those of the package, and the package."""
    known = np.unique(speakers)
    packages, true = np.array([name.split()[0] for name in known]), np.searchsorted(known, speakers)
    same = packages[None] == packages[true][:, None]
    found = probabilities.argmax(1)
    within = np.where(same, probabilities, -1).argmax(1)
    right = {"accuracy": found == true, "same package": within == true, "packages": packages[found] == packages[true]}
    return {name: round(float(values.mean()), 5) for name, values in right.items()}


def table(entries: list[dict[str, Any]]) -> str:
    """Return the means in Markdown, with the paired difference to the strategy beside which each stands."""
    lines = ["| | right | among its package | package right | `full` or `scratch` minus this |", "| --- " * 5 + "|"]
    for name in entries[0]:
        values = {key: np.array([entry[name][key] for entry in entries]) for key in entries[0][name]}
        beside, gap = next((strategy for strategy, kinds in RIVALS.items() if name in kinds), None), ""
        if beside in entries[0]:
            gaps = 100 * (np.array([entry[beside]["accuracy"] for entry in entries]) - values["accuracy"])
            half = stats.t.ppf(0.975, max(1, len(gaps) - 1)) * gaps.std(ddof=1) / np.sqrt(len(gaps)) if len(gaps) > 1 else np.nan
            gap = f"{gaps.mean():+.1f} ± {half:.1f}"
        lines.append(f"| {name} | " + " | ".join(f"{100 * part.mean():.1f}" for part in values.values()) + f" | {gap} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--splits", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--pieces", type=int, default=18)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("voices.json"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    everyone = collected(asked.folder)
    chosen = [name for index, name in enumerate(everyone) if (index + 1) * NEW // len(everyone) > index * NEW // len(everyone)]
    old, new = ({name: everyone[name] for name in everyone if (name in chosen) == taken} for taken in (False, True))
    weights = source(asked.folder, old)
    known = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    rows = known.setdefault(f"{asked.pieces} pieces", {})
    for seed in asked.splits:
        draw, entry = split(new, asked.pieces, seed), rows.setdefault(str(seed), {})
        print(f"split {seed}: {len(new)} speakers, {len(draw[0])} pieces to learn from, {len(draw[2])} judge", flush=True)
        for name, work in runs(weights, len(old), draw, seed):
            if name not in entry:
                entry[name] = figures(work(), draw[3])
                print(name, entry[name], flush=True)
                asked.out.write_text(json.dumps(known, indent=1) + "\n")
    print(table(list(rows.values())))


if __name__ == "__main__":
    main()
