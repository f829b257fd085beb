"""What the head that the network came with already knows of the new classes: by their names, and by how it sees their items."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from ...heads.retarget import retargeted_rows
from ...networks.contract import Head, Network
from ...probes.common import NEVER

__all__ = ["mapped_scores", "old_scores", "relation_scores", "shared_rows"]

_AT_ONCE = 1024


def old_scores(network: Network, features: Tensor) -> np.ndarray | None:
    """Return the raw scores (N, S) of the head of a classification; None where the network has no such head.

    Args:
        network: with the head that it came with.
        features: (N, d) what the head reads.
    """
    if not network.heads or network.head.kind != "classification" or network.head.groups is not None or len(network.head.weight) < 2:
        return None
    device = next(iter(network.state().values())).device
    network.mode_(False)
    with torch.no_grad():
        pieces = (features[start : start + _AT_ONCE].to(device) for start in range(0, len(features), _AT_ONCE))
        parts = [network.scores_of_features(piece)[network.head.task].float().cpu() for piece in pieces]
    return torch.cat(parts).numpy().astype(np.float64)


def shared_rows(head: Head, classes: tuple[str, ...]) -> np.ndarray:
    """Return for each new class the row of the old one of its name, or -1, (C,).

    Args:
        classes: C new names; they compare as in `regraft.retarget`.
    """
    numbers = np.arange(1, len(head.weight) + 1, dtype=np.float32)[:, None]
    counted = replace(head, weight=numbers, bias=np.zeros(len(numbers), np.float32))
    return np.asarray(retargeted_rows(counted, classes)[0].weight[:, 0].astype(np.int64) - 1)


def mapped_scores(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return (N, C) scores of the new classes by the old rows of their names; a class without one is never the highest.

    Args:
        scores: (N, S) of the old head.
        rows: (C,) as of `shared_rows`, one or more of them not -1.
    """
    found = scores[:, np.maximum(rows, 0)]
    found[:, rows < 0] = found[:, rows >= 0].min(axis=1, keepdims=True) - NEVER
    return np.asarray(found)


def relation_scores(scores: np.ndarray, targets: np.ndarray, *, classes: int, groups: np.ndarray | None) -> np.ndarray:
    """Return the probability (N, C) of each new class by what the old head says: sum over old classes s of p(s | x) P(t | s).

    P(t | s) is estimated on the items without the one (or the group) that is scored.

    Source: Nguyen, Hassner, Seeger & Archambeau, ICML 2020, section 3 (the empirical predictor of LEEP); You, Kou, Long & Wang,
    Co-Tuning, NeurIPS 2020, section 4.1 (the relation of classes).

    Args:
        scores: (N, S) raw scores of the old head.
        targets: (N,) class indices.
        groups: (N,) numbers from 0 of items left out together, or None.
    """
    chances = softmax(scores, axis=1)
    wanted = np.eye(classes)[targets]
    together, every = wanted.T @ chances, np.maximum(chances.sum(axis=0), 1e-12)
    if groups is None:
        relative = chances / np.maximum(every - chances, 1e-12)
        own = (relative * chances).sum(axis=1)
        found = relative @ together.T
        found[np.arange(len(targets)), targets] -= own
        return np.asarray(found)
    found = np.empty((len(targets), classes))
    for group in range(int(groups.max()) + 1):
        inside = groups == group
        rest = together - wanted[inside].T @ chances[inside]
        found[inside] = chances[inside] @ (rest / np.maximum(rest.sum(axis=0), 1e-12)).T
    return found
