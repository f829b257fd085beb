"""Training at defaults beside the loops that a user would write.

    python benchmarks/training.py [--data FOLDER] [--only PART_OF_A_NAME] [--draws 5] [--side ours|rivals|both] [--names full auto …]
        [--again full auto …] [--out FILE] [--table]

For each pair and draw, the same examples are given to every strategy of regraft at its defaults and to the rivals; the test set judges,
and chooses nothing. Rivals, for the trained weights with a new last layer and for freshly drawn ones:

    plain    Adam, the best of 1e-3, 3e-4 and 1e-4 on 15 % of the examples, stop after 10 epochs without progress, at most 100 epochs,
             best weights restored: in PyTorch for a PyTorch network, in Keras (`EarlyStopping`) for a Keras one
    refit    the same, then once more on all examples for as many epochs
    fastai   `fine_tune(20)` written out from its documentation: one epoch of the last layer at 2e-3, then all at 1e-3 above and a
             hundredth of it below, one-cycle schedules, AdamW with weight decay 0.01
    timm     AdamW, rate 1e-3, weight decay 0.05, 5 epochs of warm-up, cosine over 50 epochs
    sklearn  StandardScaler and LogisticRegressionCV on the network's features

fastai and timm are for PyTorch networks. Seconds are CPU seconds of the process on one thread, so that other work on the machine does not
count. The file is written after every run and holds each of them (pair, draw, who); what it holds is not run again, so that rivals, which
do not depend on regraft, are run once. `--again full auto` runs those again, `--names full auto` no others. `--table` runs nothing.
Printed: `full`, `scratch` and `head` beside the best of their rivals, and the regret of `auto` against everything else, with paired 95 %
intervals (t) over the draws.
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
OURS: dict[str, dict[str, Any]] = {
    "full": {"strategy": "full"},
    "scratch": {"strategy": "scratch"},
    "head": {"strategy": "head"},
    "auto": {"strategy": "auto"},
    "probe": {"strategy": "probe"},
    "partial, a third frozen": {"strategy": "partial", "frozen": 1 / 3},
    "partial, two thirds frozen": {"strategy": "partial", "frozen": 2 / 3},
    "full, probe first": {"strategy": "full", "base": "probe"},
    "surgical, first block": {"strategy": "surgical", "block": "first"},
    "surgical, last block": {"strategy": "surgical", "block": "last"},
}
COMPARED = ("full", "scratch", "head")
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


def torch_plain(start: Callable[[], nn.Module], draw: Draw, seed: int) -> dict[str, tuple[float, float]]:
    """Return the accuracy and CPU seconds of the loop with early stopping, and of its repetition on all examples."""
    began = time.process_time()
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
    plain = right(module, test_x, test_y), time.process_time() - began
    again = start()
    step = stepping(torch.optim.Adam(again.parameters(), rate))
    for _ in range(epochs):
        epoch_(again, x, y, step=step)
    return {"plain": plain, "refit": (right(again, test_x, test_y), time.process_time() - began)}


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


def keras_plain(start: Callable[[], Any], draw: Draw, seed: int) -> dict[str, tuple[float, float]]:
    """Return the accuracy and CPU seconds of `fit` with EarlyStopping, and of its repetition on all examples."""
    import keras

    began = time.process_time()
    x, y, test_x, test_y = draw
    fit, select = split(y, seed)
    right_of = lambda model: float((model.predict(test_x, verbose=0).argmax(1) == test_y).mean())  # noqa: E731
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
    plain = right_of(model), time.process_time() - began
    again = start()
    again.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    again.fit(x, y, epochs=epochs, batch_size=BATCH, verbose=0)
    return {"plain": plain, "refit": (right_of(again), time.process_time() - began)}


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


def drawn(pair: Pair, number: int) -> tuple[Any, Any]:
    """Return examples and test set of one draw: as many a class as the pair has, from all of its examples."""
    each = int(np.unique(pair.learn[1], return_counts=True)[1].max())
    items = np.concatenate([np.asarray(pair.learn[0]), np.asarray(pair.test[0])]), np.concatenate([pair.learn[1], pair.test[1]])
    return few(items, each, seed=number)


def timed(names: tuple[str, ...], work: Callable[[], Any]) -> dict[str, tuple[float, float]]:
    """Return the accuracy and the CPU seconds of each; work that gives several says the seconds until each itself."""
    began = time.process_time()
    found = work()
    if isinstance(found, dict):
        return {name: found[name.split()[0]] for name in names}
    return {names[0]: (found, time.process_time() - began)}


def ours(pair: Pair, learn: Any, test: Any, seed: int, *, options: Mapping[str, Any]) -> float:
    """Return the accuracy of one strategy at defaults."""
    import regraft

    options = {**pair.settings, **options}
    if "frozen" in options:
        options["frozen"] = max(1, int(options["frozen"] * len(pair.network.blocks)))
    result = regraft.adapt(pair.network, learn, test=test, holdout=0, seed=seed, cache="memory", **options)
    return float(result.scores["test"]["accuracy"])


def logistic(network: Any, draw: Draw) -> float:
    """Return the accuracy of scikit-learn's pipeline on the network's features."""
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=2000, cv=min(5, int(np.bincount(draw[1]).min()))))
    return float(model.fit(features_of(network, draw[0]), draw[1]).score(features_of(network, draw[2]), draw[3]))


def works(pair: Pair, learn: Any, test: Any, seed: int) -> Iterator[tuple[tuple[str, ...], Callable[[], Any]]]:
    """Yield what can be run on one draw: its names, and what returns the accuracy of each."""
    for name, options in OURS.items():
        yield (name,), lambda options=options: ours(pair, learn, test, seed, options=options)
    encoder = LabelEncoder().fit(learn[1])
    x, test_x = (np.asarray(part[0], np.float32) for part in (learn, test))
    draw, classes = (x, encoder.transform(learn[1]), test_x, encoder.transform(test[1])), len(encoder.classes_)
    keras = pair.network.family == "keras"
    for strategy, drawn in (("full", False), ("scratch", True)):
        start = lambda drawn=drawn: (keras_start if keras else torch_start)(pair.network, classes, drawn=drawn, seed=seed)  # noqa: E731
        plain = keras_plain if keras else torch_plain
        yield (f"plain {strategy}", f"refit {strategy}"), lambda start=start, plain=plain: plain(start, draw, seed)
        for recipe in () if keras else ((timm,) if drawn else (timm, fastai)):
            yield (f"{recipe.__name__} {strategy}",), lambda start=start, recipe=recipe: recipe(start(), draw)
    yield ("sklearn head",), lambda: logistic(pair.network, draw)


def rivals(strategy: str) -> tuple[str, ...]:
    """Return the rivals of a strategy."""
    return ("sklearn head",) if strategy == "head" else tuple(f"{kind} {strategy}" for kind in ("plain", "refit", "fastai", "timm"))


def interval(gaps: np.ndarray) -> str:
    """Return a mean difference in points, with its paired 95 % interval where there are two draws or more."""
    if len(gaps) < 2:
        return f"{100 * gaps.mean():+.1f}"
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / np.sqrt(len(gaps))
    return f"{100 * gaps.mean():+.1f} ± {100 * half:.1f}"


def beside(entries: list[dict[str, Any]], strategy: str, names: tuple[str, ...]) -> tuple[str, np.ndarray, np.ndarray, float] | None:
    """Return the best of some others by its mean, our and its accuracy on the draws that both have, and the ratio of seconds."""
    names = tuple(name for name in names if name != strategy and all(name in one for one in entries))
    entries = [one for one in entries if strategy in one]
    if not names or not entries:
        return None
    accuracy = {name: np.array([one[name]["accuracy"] for one in entries]) for name in (strategy, *names)}
    best = max(names, key=lambda name: accuracy[name].mean())
    seconds = {name: sum(one[name]["seconds"] for one in entries) for name in (strategy, best)}
    return best, accuracy[strategy], accuracy[best], seconds[strategy] / max(seconds[best], 1e-9)


def complete(draws: Mapping[str, dict[str, Any]], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the draws that hold all names which any of them holds."""
    wanted = {name for one in draws.values() for name in one if name in names}
    return [one for one in draws.values() if wanted <= set(one)]


def shown(rows: Mapping[str, Mapping[str, dict[str, Any]]]) -> str:
    """Return both tables in Markdown."""
    lines = [
        "| pair | draws | " + " | ".join(f"{name}, best rival, difference" for name in COMPARED) + " |",
        "| --- " * (len(COMPARED) + 2) + "|",
    ]
    means: dict[str, list[tuple[float, float, float]]] = {name: [] for name in COMPARED}
    for pair, draws in rows.items():
        cells, counted = [], 0
        for strategy in COMPARED:
            entries = complete(draws, (strategy, *rivals(strategy)))
            found = beside(entries, strategy, rivals(strategy))
            if found is None:
                cells.append("")
                continue
            best, mine, other, ratio = found
            counted = max(counted, len(mine))
            means[strategy].append((mine.mean(), other.mean(), ratio))
            cells.append(f"{100 * mine.mean():.1f}, {100 * other.mean():.1f} ({best.split()[0]}), {interval(mine - other)}")
        if counted:
            lines.append(f"| {pair} | {counted} | " + " | ".join(cells) + " |")
    cells = []
    for values in means.values():
        mine, other, _ = np.mean(values, axis=0) if values else (float("nan"),) * 3
        ratio = np.median([one[2] for one in values]) if values else float("nan")
        cells.append(f"**{100 * mine:.1f}**, {100 * other:.1f}, {100 * (mine - other):+.1f}; median {ratio:.1f} x its seconds")
    return "\n".join([*lines, "| mean | | " + " | ".join(cells) + " |", "", *regret(rows)])


def regret(rows: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[str]:
    """Return the table of `auto` beside everything else of the same draws, and what it costs in terms of regraft's other strategies.

    The cost is taken on the draws on which all of them ran; a star marks pairs without such a draw, where it is taken on all.
    """
    lines = ["| pair | draws | auto | the best of all others | regret | cost |", "| --- " * 6 + "|"]
    regrets, costs = [], []
    for pair, draws in rows.items():
        own = [one for one in draws.values() if "auto" in one]
        names = tuple(sorted(set.intersection(*({*one} for one in own)))) if own else ()
        entries = [one for one in own if any(name not in OURS for name in one)]
        found = beside(entries, "auto", names)
        if found is None:
            continue
        best, mine, other, _ = found
        regrets.append((other - mine).mean())
        whole = [one for one in entries if all(name in one for name in OURS)]
        rest = sum(one[name]["seconds"] for one in whole or entries for name in OURS if name != "auto" and name in one)
        costs.append(sum(one["auto"]["seconds"] for one in whole or entries) / max(rest, 1e-9))
        cost = f"{costs[-1]:.0%}{'' if whole else '*'}"
        figures = (f"{100 * mine.mean():.1f}", f"{100 * other.mean():.1f} ({best})", interval(other - mine), cost)
        lines.append(f"| {pair} | {len(mine)} | " + " | ".join(figures) + " |")
    if regrets:
        lines.append(
            f"| mean, worst | | | | {100 * np.mean(np.maximum(regrets, 0)):.2f}, {100 * max(regrets):.1f} | {np.mean(costs):.0%} |"
        )
    return lines


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "rivals", "both"), default="both")
    parser.add_argument("--again", nargs="*", default=(), help="run these again")
    parser.add_argument("--names", nargs="*", default=(), help="run these alone")
    parser.add_argument("--table", action="store_true", help="print the tables of what the file holds")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("training.json"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known: dict[str, dict[str, dict[str, Any]]] = json.loads(asked.out.read_text())["pairs"] if asked.out.is_file() else {}
    chosen = () if asked.table else tuple((name, make) for name, make in pairs(asked.data) if asked.only in name and "sayings" not in name)
    made: dict[str, Pair] = {}
    for number in range(asked.draws):
        for name, make in chosen:
            entry = known.setdefault(name, {}).setdefault(str(number), {})
            made[name] = made[name] if name in made else make()
            for names, work in works(made[name], *drawn(made[name], number), number):
                if asked.side != "both" and (names[0] in OURS) == (asked.side == "rivals"):
                    continue
                if asked.names and names[0] not in asked.names:
                    continue
                if all(one in entry and one not in asked.again for one in names):
                    continue
                torch.manual_seed(number)
                for one, (accuracy, seconds) in timed(names, work).items():
                    entry[one] = {"accuracy": round(accuracy, 5), "seconds": round(seconds, 2)}
                print(name, number, names[0], entry[names[0]], flush=True)
                asked.out.write_text(json.dumps({"torch": torch.__version__, "pairs": known}, indent=1) + "\n")
    print(shown({name: entries for name, entries in known.items() if asked.only in name}))


if __name__ == "__main__":
    main()
