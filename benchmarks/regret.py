"""How much `auto` loses against the best strategy of an exhaustive comparison, and at what cost.

    python benchmarks/regret.py [--data FOLDER] [--only PART_OF_A_NAME] [--out benchmarks/regret.json]

For each pair every strategy is run to its best (rates over two decades for those that train) and then `auto`, all judged on the same
test items, which choose nothing for `auto`. The best of the exhaustive list is chosen on the test items themselves, so that the regret is
an upper bound. Prints a table in Markdown and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from pairs import Pair, pairs

RATES = (3e-4, 3e-3)
EXHAUSTIVE: dict[str, list[dict[str, Any]]] = {
    "probe": [{}],
    "head": [{}],
    "partial": [{"frozen": share, "learning_rate": rate} for share in (1 / 3, 2 / 3) for rate in RATES],
    "full": [{"learning_rate": rate} for rate in (1e-4, *RATES)],
    "full, probe first": [{"strategy": "full", "base": "probe"}],
    "surgical": [{"block": block} for block in ("first", "middle", "last")],
    "scratch": [{"learning_rate": rate} for rate in RATES],
}


def run(pair: Pair, strategy: str, options: dict[str, Any]) -> tuple[float, float]:
    """Return accuracy on the test items and seconds."""
    import regraft

    if "frozen" in options:
        options = {**options, "frozen": max(1, int(options["frozen"] * len(pair.network.blocks)))}
    started = time.perf_counter()
    result = regraft.adapt(pair.network, pair.learn, test=pair.test, cache="memory", **({"strategy": strategy} | options))
    return result.scores["test"]["accuracy"], time.perf_counter() - started


def compare(pair: Pair) -> dict[str, Any]:
    """Return accuracies and seconds of every strategy and of `auto` on one pair."""
    found = {name: [run(pair, name, dict(options)) for options in tries] for name, tries in EXHAUSTIVE.items()}
    best = {name: max(accuracy for accuracy, _ in tries) for name, tries in found.items()}
    spent = sum(seconds for tries in found.values() for _, seconds in tries)
    accuracy, seconds = run(pair, "auto", {})
    winner = max(best, key=lambda name: best[name])
    return {
        "pair": pair.name, "test_items": len(pair.test[1]), "best": best, "winner": winner, "auto": accuracy,
        "regret": best[winner] - accuracy, "seconds": seconds, "exhaustive_seconds": spent, "cost": seconds / spent,
    }  # fmt: skip


def main() -> None:
    """Run the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("regret.json"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    rows = []
    print("| pair | " + " | ".join(EXHAUSTIVE) + " | auto | regret (points) | cost |\n|" + " --- |" * (len(EXHAUSTIVE) + 4))
    for make in pairs(asked.data):
        pair = make()
        if asked.only not in pair.name:
            continue
        row = compare(pair)
        rows.append(row)
        shown = " | ".join(f"{row['best'][name]:.1%}" for name in EXHAUSTIVE)
        print(f"| {row['pair']} | {shown} | {row['auto']:.1%} | {100 * row['regret']:.1f} | {row['cost']:.0%} |", flush=True)
        mean, worst = sum(row["regret"] for row in rows) / len(rows), max(row["regret"] for row in rows)
        cost = sum(row["seconds"] for row in rows) / sum(row["exhaustive_seconds"] for row in rows)
        asked.out.write_text(json.dumps({"mean_regret": mean, "worst_regret": worst, "cost": cost, "pairs": rows}, indent=1) + "\n")
    if rows:
        print(f"\nmean regret {100 * mean:.2f} points, worst {100 * worst:.2f}, cost {cost:.1%} of the exhaustive comparison")


if __name__ == "__main__":
    main()
