"""How much `auto` loses against the best strategy of an exhaustive comparison, and at what cost.

    python benchmarks/regret.py [--data FOLDER] [--only PART_OF_A_NAME] [--out benchmarks/regret.json] [--fresh]

For each pair every strategy is run to its best (rates over two decades for those that train) and then `auto`, all judged on the same
test items, which choose nothing for `auto`. The best of the exhaustive list is chosen on the test items themselves, so that the regret is
an upper bound. Cost is that of the process in CPU seconds, on one thread: other processes on the same cores do not count. Prints a
table in Markdown and writes JSON after every pair; pairs that the file holds are not run again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pairs import Pair, pairs

RATES = (3e-4, 3e-3)
FULL_RATES = (1e-4, *RATES)


def exhaustive(pair: Pair) -> dict[str, list[dict[str, Any]]]:
    """Return what is run of each strategy; of a pair that is cut down, one rate and two thirds of the network are left."""
    rates, few = pair.rates or RATES, bool(pair.rates)
    return {
        "probe": [{}],
        "head": [{}],
        "partial": [{"frozen": share, "learning_rate": rate} for share in (1 / 3, 2 / 3) for rate in rates],
        "full": [{"learning_rate": rate} for rate in ((1e-4, *rates) if few else FULL_RATES)],
        "full, probe first": [{"strategy": "full", "base": "probe"}],
        "surgical": [{"block": block} for block in (("first", "last") if few else ("first", "middle", "last"))],
        "scratch": [{"learning_rate": rate} for rate in rates],
    }


def run(pair: Pair, strategy: str, options: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return accuracy on the test items, and seconds of the CPU and of the wall."""
    import regraft

    options = {"strategy": strategy, **pair.settings, **options}
    if "frozen" in options:
        options["frozen"] = max(1, int(options["frozen"] * len(pair.network.blocks)))
    started, worked = time.perf_counter(), time.process_time()
    result = regraft.adapt(pair.network, pair.learn, test=pair.test, cache="memory", **options)
    return result.scores["test"]["accuracy"], time.process_time() - worked, time.perf_counter() - started


def compare(pair: Pair) -> dict[str, Any]:
    """Return accuracies and seconds of every strategy and of `auto` on one pair."""
    run(pair, "probe", {})  # what the first run loads is nobody's cost
    found = {name: [run(pair, name, options) for options in tries] for name, tries in exhaustive(pair).items()}
    best = {name: max(accuracy for accuracy, *_ in tries) for name, tries in found.items()}
    cpu, wall = (sum(one[index] for tries in found.values() for one in tries) for index in (1, 2))
    accuracy, worked, waited = run(pair, "auto", {})
    winner = max(best, key=lambda name: best[name])
    return {
        "pair": pair.name, "test_items": len(pair.test[1]), "settings": dict(pair.settings), "best": best, "winner": winner,
        "auto": accuracy, "regret": best[winner] - accuracy, "cpu_seconds": worked, "exhaustive_cpu_seconds": cpu, "cost": worked / cpu,
        "seconds": waited, "exhaustive_seconds": wall,
    }  # fmt: skip


def shown(row: Mapping[str, Any]) -> str:
    """Return a pair's line of the table."""
    best = " | ".join(f"{100 * accuracy:.1f}" for accuracy in row["best"].values())
    return f"| {row['pair']} | {best} | **{100 * row['auto']:.1f}** | {100 * row['regret']:.1f} | {row['cost']:.0%} |"


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures over all pairs; a pair where `auto` is better than all counts as no regret in "mean_regret"."""
    regrets = [row["regret"] for row in rows]
    cost = sum(row["cpu_seconds"] for row in rows) / sum(row["exhaustive_cpu_seconds"] for row in rows)
    wall = sum(row["seconds"] for row in rows) / sum(row["exhaustive_seconds"] for row in rows)
    return {
        "mean_regret": sum(max(regret, 0.0) for regret in regrets) / len(rows),
        "mean_difference": sum(regrets) / len(rows),
        "worst_regret": max(regrets),
        "cost": cost,
        "mean_cost": sum(row["cost"] for row in rows) / len(rows),
        "wall_cost": wall,
    }


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("regret.json"))
    parser.add_argument("--fresh", action="store_true", help="run pairs that the file holds again")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = {} if asked.fresh or not asked.out.is_file() else {row["pair"]: row for row in json.loads(asked.out.read_text())["pairs"]}
    rows: list[dict[str, Any]] = []
    for name, make in pairs(asked.data):
        if asked.only not in name:
            continue
        torch.manual_seed(0)
        rows.append(known[name] if name in known else compare(make()))
        if len(rows) == 1:
            print("| pair | " + " | ".join(rows[0]["best"]) + " | auto | regret | cost |\n|" + " --- |" * (len(rows[0]["best"]) + 4))
        print(shown(rows[-1]), flush=True)
        asked.out.write_text(json.dumps({**summary(rows), "pairs": rows}, indent=1) + "\n")
    if rows:
        figures = summary(rows)
        print("\n" + ", ".join(f"{name} {100 * value:.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
