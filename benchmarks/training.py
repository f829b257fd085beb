"""Training at defaults beside the loops that a user would write.

    python benchmarks/training.py [--data FOLDER] [--only PART_OF_A_NAME] [--draws 5] [--out benchmarks/training.json] [--fresh]

For each pair and draw, the same examples are given to regraft at its defaults (`full`, `scratch`, `head`, `auto`) and to its rivals; the
test set judges, and chooses nothing. Rivals, for the trained weights with a new last layer and for freshly drawn ones:

    plain    Adam, the best of 1e-3, 3e-4 and 1e-4 on 15 % of the examples, stop after 10 epochs without progress, at most 100 epochs,
             best weights restored: in PyTorch for a PyTorch network, in Keras (`EarlyStopping`) for a Keras one
    refit    the same, then once more on all examples for as many epochs
    fastai   `fine_tune(20)` written out from its documentation: one epoch of the last layer at 2e-3, then all at 1e-3 above and a
             hundredth of it below, one-cycle schedules, AdamW with weight decay 0.01
    timm     AdamW, rate 1e-3, weight decay 0.05, 5 epochs of warm-up, cosine over 50 epochs
    sklearn  StandardScaler and LogisticRegressionCV on the network's features

fastai and timm are for PyTorch networks. Seconds are CPU seconds of the process on one thread. Writes JSON after every draw; draws that
the file holds are not run again. Prints the means over pairs, and paired 95 % intervals (t) of the difference to the best rival.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from pairs import Pair, few, pairs
from scipy import stats
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, StandardScaler
from torch import Tensor, nn

RATES, EPOCHS, PATIENCE, BATCH = (1e-3, 3e-4, 1e-4), 100, 10, 32
OURS = ("full", "scratch", "head", "auto")
Draw = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


# ── PyTorch ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def last_layer(module: nn.Module) -> str:
    """Return the name of the last linear layer."""
    return [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)][-1]


def torch_start(network: Any, classes: int, *, drawn: bool, seed: int) -> nn.Module:
    """Return a copy of the module with a new last layer, all weights drawn anew where that is asked for."""
    module = copy.deepcopy(network.module)
    torch.manual_seed(seed)
    for layer in module.modules() if drawn else ():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    name = last_layer(module)
    parent = module.get_submodule(name.rpartition(".")[0])
    setattr(parent, name.rpartition(".")[2], nn.Linear(module.get_submodule(name).in_features, classes))
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module


def epoch_(module: nn.Module, x: Tensor, y: Tensor, *, step: Callable[[Tensor], None]) -> None:
    """Run one epoch; a batch of one is left out, for BatchNorm."""
    module.train()
    for rows in torch.randperm(len(x)).split(BATCH):
        if len(rows) > 1:
            step(nn.functional.cross_entropy(module(x[rows]), y[rows]))
    module.eval()


def stepping(optimizer: torch.optim.Optimizer, scheduler: Any = None) -> Callable[[Tensor], None]:
    """Return what does one step of an optimizer, and of a schedule."""

    def step(loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    return step


@torch.no_grad()
def right(module: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the share of right answers."""
    return float(torch.cat([module(part).argmax(1) for part in x.split(512)]).eq(y).float().mean())


def torch_plain(start: Callable[[], nn.Module], draw: Draw, seed: int) -> dict[str, float]:
    """Return the accuracy of the loop with early stopping, and of its repetition on all examples."""
    x, y, test_x, test_y = (torch.from_numpy(part) for part in draw)
    fit, select = split(draw[1], seed)
    found: list[tuple[float, float, int, nn.Module]] = []
    for rate in RATES:
        module, best, waited = start(), (float("inf"), 0, {}), 0
        step = stepping(torch.optim.Adam(module.parameters(), rate))
        for number in range(EPOCHS):
            epoch_(module, x[fit], y[fit], step=step)
            with torch.no_grad():
                loss = float(nn.functional.cross_entropy(module(x[select]), y[select]))
            waited += 1
            if loss < best[0]:
                best, waited = (loss, number + 1, copy.deepcopy(module.state_dict())), 0
            if waited >= PATIENCE:
                break
        module.load_state_dict(best[2])
        found.append((best[0], rate, best[1], module))
    _, rate, epochs, module = min(found, key=lambda one: one[0])
    again = start()
    step = stepping(torch.optim.Adam(again.parameters(), rate))
    for _ in range(epochs):
        epoch_(again, x, y, step=step)
    return {"plain": right(module, test_x, test_y), "refit": right(again, test_x, test_y)}


def fastai(module: nn.Module, draw: Draw) -> float:
    """Return the accuracy of `fine_tune(20)`."""
    x, y, test_x, test_y = (torch.from_numpy(part) for part in draw)
    steps = max(1, -(-len(x) // BATCH))
    head = module.get_submodule(last_layer(module))
    body = [parameter for parameter in module.parameters() if all(parameter is not other for other in head.parameters())]
    first = torch.optim.AdamW(head.parameters(), 2e-3, weight_decay=0.01)
    for parameter in body:
        parameter.requires_grad_(False)
    epoch_(module, x, y, step=stepping(first, torch.optim.lr_scheduler.OneCycleLR(first, 2e-3, total_steps=steps + 1, pct_start=0.99)))
    for parameter in body:
        parameter.requires_grad_(True)
    rates = np.geomspace(1e-5, 1e-3, max(len(body), 2))[: len(body)]
    groups = [{"params": [parameter], "lr": rate} for parameter, rate in zip(body, rates, strict=True)]
    groups.append({"params": list(head.parameters()), "lr": 1e-3})
    second = torch.optim.AdamW(groups, weight_decay=0.01)
    highest = [group["lr"] for group in groups]
    cycle = torch.optim.lr_scheduler.OneCycleLR(second, highest, total_steps=20 * steps + 1, pct_start=0.3, div_factor=5)
    for _ in range(20):
        epoch_(module, x, y, step=stepping(second, cycle))
    return right(module, test_x, test_y)


def timm(module: nn.Module, draw: Draw) -> float:
    """Return the accuracy of AdamW with warm-up and half a cosine."""
    x, y, test_x, test_y = (torch.from_numpy(part) for part in draw)
    optimizer, steps = torch.optim.AdamW(module.parameters(), 1e-3, weight_decay=0.05), max(1, -(-len(x) // BATCH))
    rising, whole = 5 * steps, 50 * steps
    factor = lambda step: (step + 1) / rising if step < rising else 0.5 * (1 + np.cos(np.pi * min(1, (step - rising) / (whole - rising))))  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for _ in range(50):
        epoch_(module, x, y, step=stepping(optimizer, scheduler))
    return right(module, test_x, test_y)


# ── Keras ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def keras_start(network: Any, classes: int, *, drawn: bool, seed: int) -> Any:
    """Return the Keras model with a new last layer, all weights drawn anew where that is asked for."""
    import keras

    keras.utils.set_random_seed(seed)
    old = network.module
    body = keras.Model(old.inputs, old.layers[-1].input)
    copied = keras.models.clone_model(body)
    if not drawn:
        copied.set_weights(body.get_weights())
    copied.trainable = True
    return keras.Model(copied.inputs, keras.layers.Dense(classes, activation="softmax")(copied.outputs[0]))


def keras_plain(start: Callable[[], Any], draw: Draw, seed: int) -> dict[str, float]:
    """Return the accuracy of `fit` with EarlyStopping, and of its repetition on all examples."""
    import keras

    x, y, test_x, test_y = draw
    fit, select = split(y, seed)
    found = []
    for rate in RATES:
        model = start()
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        stop = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
        losses = model.fit(
            x[fit], y[fit], validation_data=(x[select], y[select]), epochs=EPOCHS, batch_size=BATCH, callbacks=[stop], verbose=0
        ).history["val_loss"]
        found.append((min(losses), rate, int(np.argmin(losses)) + 1, model))
    _, rate, epochs, model = min(found, key=lambda one: one[0])
    again = start()
    again.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    again.fit(x, y, epochs=epochs, batch_size=BATCH, verbose=0)
    return {name: float((one.predict(test_x, verbose=0).argmax(1) == test_y).mean()) for name, one in (("plain", model), ("refit", again))}


# ── all ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def split(y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 85 % and 15 % of the examples, by class where there are enough."""
    enough = np.bincount(y).min() > 1 and 0.15 * len(y) >= len(np.unique(y))
    return tuple(train_test_split(np.arange(len(y)), test_size=0.15, random_state=seed, stratify=y if enough else None))


def features_of(network: Any, x: np.ndarray) -> np.ndarray:
    """Return what the last layer reads."""
    if network.family == "keras":
        import keras

        return np.asarray(keras.Model(network.module.inputs, network.module.layers[-1].input).predict(x, verbose=0))
    module, seen = copy.deepcopy(network.module).eval(), []
    module.get_submodule(last_layer(module)).register_forward_hook(lambda _layer, given, _out: seen.append(given[0]))
    with torch.no_grad():
        for part in torch.from_numpy(x).split(512):
            module(part)
    return torch.cat(seen).flatten(1).numpy()


def draws(pair: Pair, count: int) -> Iterator[tuple[int, tuple[Any, Any], tuple[Any, Any]]]:
    """Yield number, examples and test set of each draw: as many a class as the pair has, from all of its examples."""
    each = int(np.unique(pair.learn[1], return_counts=True)[1].max())
    items = np.concatenate([np.asarray(pair.learn[0]), np.asarray(pair.test[0])]), np.concatenate([pair.learn[1], pair.test[1]])
    for number in range(count):
        yield (number, *few(items, each, seed=number))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what some work gives, and its CPU seconds."""
    began = time.process_time()
    return work(), time.process_time() - began


def compare(pair: Pair, learn: Any, test: Any, seed: int) -> dict[str, dict[str, float]]:
    """Return accuracy and CPU seconds of everything on one draw."""
    import regraft

    found: dict[str, dict[str, float]] = {}

    def enter(name: str, accuracy: float, seconds: float) -> None:
        found[name] = {"accuracy": round(accuracy, 5), "seconds": round(seconds, 2)}

    for strategy in OURS:
        options = {"strategy": strategy, "holdout": 0, "seed": seed, "cache": "memory"}
        result, seconds = timed(lambda options=options: regraft.adapt(pair.network, learn, test=test, **options))
        enter(strategy, result.scores["test"]["accuracy"], seconds)
    encoder = LabelEncoder().fit(learn[1])
    x, test_x = (np.asarray(part[0], np.float32) for part in (learn, test))
    draw, classes = (x, encoder.transform(learn[1]), test_x, encoder.transform(test[1])), len(encoder.classes_)
    keras = pair.network.family == "keras"
    for strategy, drawn in (("full", False), ("scratch", True)):
        start = lambda drawn=drawn: (keras_start if keras else torch_start)(pair.network, classes, drawn=drawn, seed=seed)  # noqa: E731
        plain, seconds = timed(lambda start=start: (keras_plain if keras else torch_plain)(start, draw, seed))
        for name, accuracy in plain.items():
            enter(f"{name} {strategy}", accuracy, seconds)
        if not keras:
            torch.manual_seed(seed)
            enter(f"timm {strategy}", *timed(lambda start=start: timm(start(), draw)))
            if not drawn:
                enter(f"fastai {strategy}", *timed(lambda start=start: fastai(start(), draw)))
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=2000, cv=min(5, int(np.bincount(draw[1]).min()))))
    fitted, seconds = timed(lambda: model.fit(features_of(pair.network, x), draw[1]))
    enter("sklearn head", fitted.score(features_of(pair.network, test_x), draw[3]), seconds)
    return found


def rivals(strategy: str) -> tuple[str, ...]:
    """Return the rivals of a strategy; those of `auto` are all."""
    of = {"full": ("full",), "scratch": ("scratch",), "head": (), "auto": ("full", "scratch")}[strategy]
    names = [f"{kind} {one}" for one in of for kind in ("plain", "refit", "fastai", "timm")]
    return (*names, *(("sklearn head",) if strategy in ("head", "auto") else ()))


def shown(rows: Mapping[str, list[Mapping[str, Any]]]) -> str:
    """Return the table: for each pair and strategy, our mean, and the difference to the rival with the best mean."""
    lines = ["| pair | draws | " + " | ".join(f"{name}, best rival, difference" for name in OURS) + " |", "| --- " * (len(OURS) + 2) + "|"]
    means: dict[str, list[tuple[float, float, float]]] = {name: [] for name in OURS}
    for pair, entries in rows.items():
        cells = []
        for strategy in OURS:
            names = [name for name in (strategy, *rivals(strategy)) if name in entries[0]]
            table = {name: np.array([one[name]["accuracy"] for one in entries]) for name in names}
            ours, best = table.pop(strategy), max(table, key=lambda name: table[name].mean())
            gap = ours - table[best]
            half = stats.t.ppf(0.975, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap)) if len(gap) > 1 else float("nan")
            ratio = np.mean([one[strategy]["seconds"] for one in entries]) / np.mean([one[best]["seconds"] for one in entries])
            means[strategy].append((ours.mean(), table[best].mean(), ratio))
            cells.append(f"{100 * ours.mean():.1f}, {100 * table[best].mean():.1f} ({best}), {100 * gap.mean():+.1f} ± {100 * half:.1f}")
        lines.append(f"| {pair} | {len(entries)} | " + " | ".join(cells) + " |")
    totals = {name: np.mean(values, axis=0) for name, values in means.items()}
    cells = [f"**{100 * a:.1f}**, {100 * b:.1f}, {100 * (a - b):+.1f}; {c:.1f} x its seconds" for a, b, c in totals.values()]
    return "\n".join([*lines, "| mean | | " + " | ".join(cells) + " |"])


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("training.json"))
    parser.add_argument("--fresh", action="store_true", help="run draws that the file holds again")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known: dict[str, list[Any]] = {} if asked.fresh or not asked.out.is_file() else json.loads(asked.out.read_text())["pairs"]
    for name, make in pairs(asked.data):
        if asked.only not in name or "sayings" in name or len(known.get(name, [])) >= asked.draws:
            continue
        pair, entries = make(), known.setdefault(name, [])
        for number, learn, test in draws(pair, asked.draws):
            if number >= len(entries):
                entries.append(compare(pair, learn, test, number))
                print(name, number, json.dumps({key: value["accuracy"] for key, value in entries[-1].items()}), flush=True)
                asked.out.write_text(json.dumps({"torch": torch.__version__, "pairs": known}, indent=1) + "\n")
    print(shown({name: entries for name, entries in known.items() if asked.only in name}))


if __name__ == "__main__":
    main()
