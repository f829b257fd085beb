"""What a strategy leaves behind, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..networks.contract import Network
from ..probes import LinearProbe
from ..tasks import fit_thresholds
from ..training import Feed
from ..training.measured import Measured

__all__ = ["Outcome", "Solved", "Source"]


@dataclass(frozen=True)
class Solved:
    """The closed-form head of one task, and the (n,) examples that it was solved on."""

    probe: LinearProbe
    rows: np.ndarray

    def thresholds(self, targets: np.ndarray) -> np.ndarray:
        """Return (C,) thresholds of labels, fitted to the leave-one-out scores; `targets` (N, C) are those of all examples."""
        return fit_thresholds(self.probe.loo_scores, targets[self.rows])


@dataclass(frozen=True)
class Source:
    """What the source network's features say, before anything is trained: what the baselines are made of, as far as it was computed.

    Attributes:
        features: (N, d) of the examples learned from.
        judging: (n, d) of the examples that judge, those of the holdout or the test set.
        probes: task of the data -> its closed-form head on these features.
    """

    features: Tensor | None = None
    judging: Tensor | None = None
    probes: Mapping[str, Solved] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a strategy leaves behind.

    Attributes:
        network: the adapted network.
        feed: to judge it with.
        frozen: the layers that stayed frozen.
        history: one dict an epoch.
        source: what the source network's features say.
        head_features: (N, D) what the head of the adapted network reads, where it is another and they were computed.
        test_feed: the same as `feed` for the test set, where it was computed.
        solved: task of the data -> the closed-form head that the network has, where it has one.
        measured: the training whose settings were measured; None where there was none.
        candidates: what was compared, as plain data, in the order of the report.
        chosen: how the best of them was made: strategy and what goes with it.
    """

    network: Network
    feed: Feed
    frozen: frozenset[str]
    history: list[dict[str, Any]] = field(default_factory=list)
    source: Source = field(default_factory=Source)
    head_features: Tensor | None = None
    test_feed: Feed | None = None
    solved: Mapping[str, Solved] = field(default_factory=dict)
    measured: Measured | None = None
    candidates: tuple[dict[str, Any], ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held_out(self) -> tuple[Mapping[str, np.ndarray], np.ndarray] | None:
        """Scores by task of examples that the training had not learned from before it was repeated on all, and which examples."""
        return None if self.measured is None else self.measured.held_out
