"""Examples of no known class: what `predict(unknown=True)` tells them by, beside each score of the field alone.

    python benchmarks/unknown.py [--data FOLDER] [--turns 3] [--json FILE]

Pairs are those of `pairs.py`. In each turn a fifth of the classes is withheld: the network is adapted to the others, the rule is learned by
`regraft.adapt` from these alone, and the test examples of known and withheld classes are scored. Figures are areas under the curve (0.5 is
chance), means over the turns. Single scores see the same features and the same known examples.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pairs import Pair, only, pairs
from sklearn.metrics import roc_auc_score

os.environ.setdefault("KERAS_BACKEND", "torch")

NAMES = ("50 each", "letters A-M -> digits", "voices", "sayings")
MOST = 600


def turns(kinds: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yield the classes that are withheld, a fifth of them in each turn."""
    order, hidden = np.random.default_rng(1).permutation(kinds), max(1, len(kinds) // 5)
    for turn in range(count):
        yield order[(turn * hidden + np.arange(hidden)) % len(kinds)]


def measured(pair: Pair, count: int) -> dict[str, float]:
    """Return the area under the curve of the rule that was chosen, of each score alone, and how often each was chosen."""
    import regraft
    from regraft.probes import unknown_scores
    from regraft.probes.unknown import UNKNOWN_SCORES

    found: list[dict[str, float]] = []
    for hidden in turns(np.unique(pair.learn[1]), count):
        learn = only(pair.learn, lambda label, hidden=hidden: label not in hidden)  # type: ignore[misc]
        test = tuple(part[:MOST] for part in pair.test)
        net = regraft.adapt(pair.network, learn, strategy="probe", probe="lda", holdout=0.0, test=learn, cache="memory").network
        rule, strange = net.unknown, np.isin(test[1], hidden)
        features = net.features(test[0])
        known = net.features(learn[0])[:, :: rule.every]
        single = unknown_scores(features[:, :: rule.every], statistics=rule.statistics, reference=known)
        areas = {name: float(roc_auc_score(strange, single[name])) for name in UNKNOWN_SCORES}
        found.append({"chosen": float(roc_auc_score(strange, rule.scores(features))), **areas})
        print("   ", rule.choice.score, {name: round(area, 3) for name, area in found[-1].items()}, flush=True)
    return {name: float(np.mean([turn[name] for turn in found])) for name in found[0]}


def main() -> None:
    """Measure, and print a table."""
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--data", type=Path)
    words.add_argument("--turns", type=int, default=3)
    words.add_argument("--json", type=Path)
    asked, table = words.parse_args(), {}
    for name, make in pairs(asked.data):
        if any(part in name for part in NAMES) and "40 speakers" not in name:
            print(name, flush=True)
            table[name] = measured(make(), asked.turns)
    table["mean"] = {score: float(np.mean([row[score] for row in table.values()])) for score in next(iter(table.values()))}
    shown = sorted(table["mean"], key=lambda score: -table["mean"][score])
    print("| pair |", " | ".join(shown), "|\n| --- |", " | ".join("---" for _ in shown), "|")
    for name, row in table.items():
        print(f"| {name} |", " | ".join(f"{row[score]:.3f}" for score in shown), "|")
    if asked.json:
        asked.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
