"""Frozen parts in bfloat16, used if a probe is as accurate on their features."""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from ..data import PreparedData
from ..errors import RegraftError
from ..files.formats import reason_of
from ..networks.network import Inputs
from ..probes.ridge import fit_ridge
from ..words import counted
from .cut import LiveOutput
from .engines import Engine, Values, half_name

HALF_OFF = 0.05  # Maximum difference between values in bfloat16 and float32, relative to the largest value; 0.03 was measured
_JUDGED, _AT_A_TIME = 256, 64


def halved(  # over the limit: what a choice depends on
    engine: Engine, items: PreparedData, *, compared: np.ndarray, live: Sequence[LiveOutput], device: str, measured: bool
) -> tuple[Engine, str]:
    """Return the engine in bfloat16 or the given one, and the reason.
    Both compute up to 256 random examples. A ridge probe on the features of each is compared by its exact leave-one-out predictions of the
    first task: accuracy for classes, squared error for other targets.
    `compared`: (n,) indices of examples whose labels may be used. `measured`: keep the given engine if bfloat16 is not faster."""
    name = half_name(engine.name.partition(" ")[0])
    if name is None:
        return engine, "ONNX Runtime computes in bfloat16 only where OpenVINO is installed"
    try:
        plain = engine.half() if engine.half is not None else _autocast(engine, device)
        plain(items.batch(compared[:2]))
    except Exception as problem:  # a forward may raise anything where its values have another dtype
        return engine, f"it does not compute in bfloat16 ({reason_of(problem)})"

    def half(inputs: Inputs) -> list[Tensor]:
        return [found.to(part.dtype) for found, part in zip(plain(inputs), live, strict=True)]

    rows = np.sort(np.random.default_rng(0).permutation(compared)[:_JUDGED])
    both: tuple[list[Tensor], list[Tensor]] = ([], [])
    seconds: tuple[list[float], list[float]] = ([], [])
    for _, inputs in items.batches(_AT_A_TIME, rows):
        for values, found, spent in zip((engine.values, half), both, seconds, strict=True):
            start = perf_counter()
            found.append(torch.cat([_pooled(part) for part in values(inputs)], 1))
            spent.append(perf_counter() - start)
    fine, coarse = (sum(spent[1:]) or sum(spent) for spent in seconds)  # the first batch includes one-time set-up
    if measured and coarse >= fine:
        return engine, f"bfloat16 took {coarse / fine:.2f} times as long"
    try:
        full, short = (_judged(torch.cat(found).numpy(), items, rows=rows) for found in both)
    except RegraftError as problem:
        return engine, f"no probe could compare the features ({str(problem).rstrip('.')})"
    lost, spread = float((full - short).mean()), float(full.std() / np.sqrt(len(full)))
    told = f"leave-one-out {full.mean():.3g} in float32 and {short.mean():.3g} in bfloat16 on {counted(len(rows), 'example')}"
    told += f", standard error {spread:.2g}"
    if lost > spread:
        return engine, told
    faster = engine.faster + (fine - coarse) / len(rows)
    return replace(engine, name=name, values=half, faster=faster), f"{fine / coarse:.1f} times as fast; {told}"


def _pooled(part: Tensor) -> Tensor:
    """Return features (n, d): maps and sequences (n, d, …) are averaged over the trailing axes."""
    return part.float().flatten(2).mean(2) if part.ndim > 2 else part.float().reshape(len(part), -1)


def _autocast(engine: Engine, device: str) -> Values:
    """Return the engine's function under PyTorch's autocast to bfloat16."""

    def values(inputs: Inputs) -> list[Tensor]:
        with torch.autocast(device, dtype=torch.bfloat16):
            return engine.values(inputs)

    return values


def _judged(features: np.ndarray, items: PreparedData, *, rows: np.ndarray) -> np.ndarray:
    """Return a score of the leave-one-out prediction of each example, (n,); higher is better."""
    data = items.data
    targets = np.asarray(data.targets)[rows]
    probe = fit_ridge(features, targets, kind=data.task, classes=len(data.classes or ()))
    if data.task == "classification":
        return np.asarray(probe.loo_scores.argmax(1) == targets, float)
    wanted = np.asarray(targets, float).reshape(len(rows), -1)
    made = 1 / (1 + np.exp(-probe.loo_scores)) if data.task == "multi-label" else probe.loo_scores
    return np.asarray(-((made - wanted) ** 2).mean(1))
