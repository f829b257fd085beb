"""The verbs: plan, then carry out. Everything else is below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .data import ArrayPreprocessing, Dataset, checked, default_preprocessing, preprocessing_from_dict, with_channels
from .data import read as read_data
from .errors import NetworkError, SettingError
from .networks.contract import Network
from .networks.sources.opening import Architecture, open_source
from .planning import Plan, Result, carry_out, make_plan

__all__ = ["adapt", "load", "read"]

read = read_data


def load(  # noqa: PLR0913  # over the limit: the public contract
    source: Any,
    *,
    classes: Sequence[str] | None = None,
    weights: str | Path | None = None,
    architecture: Architecture = None,
    inputs: Sequence[int] | None = None,
    preprocessing: Any = None,
    head: str | None = None,
    channels: int | None = None,
) -> Network:
    """Open a trained network.

    Args:
        source: a live `torch.nn.Module` or Keras 3 model, a path (`.keras`, `.h5`, `.hdf5`, `.safetensors` with `architecture`, a
            folder saved by regraft), "timm:NAME", "torchvision:NAME", "keras:NAME" or "hf:PATH_OR_ID".
        classes: class names in row order.
        weights: a weights-only file put into `source`; the account says what matched.
        architecture: the module, or a function that makes it, for a weights-only `source` or a folder of your own torch class.
        inputs: shape of one item without the batch axis, when it cannot be known otherwise.
        preprocessing: as plain data or a `Preprocessing`, in place of what the source knows.
        head: the name of the layer that is its head, where there are several candidates.
        channels: of the pictures or signals that it shall take: the first layer's weights are summed (1) or repeated, and accounted.

    Returns:
        The network; a live object given is not modified.

    Raises:
        NetworkError: if it cannot be opened; the message says what would do.
        SettingError: if `channels` is no number of channels.
    """
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise SettingError(f"channels={channels!r}: expected a whole number, 1 or more.")
    opened = open_source(source, classes=classes, weights=weights, architecture=architecture, inputs=inputs, head=head)
    network = opened.network
    given = preprocessing if preprocessing is not None else opened.preprocessing
    if channels is not None:
        network = network.with_channels(channels)
        if isinstance(given, dict):
            given = with_channels(given, channels)
    if given is None:
        made = default_preprocessing("array", network.input_shape or None, network.layout)
        network.preprocessing = replace(made, integers=network.takes_integers) if isinstance(made, ArrayPreprocessing) else made
    else:
        network.preprocessing = preprocessing_from_dict(given) if isinstance(given, dict) else given
    return network


def adapt(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    data: Any,
    *,
    strategy: str | Plan = "auto",
    valid: float = 0.2,
    test: Any = None,
    budget: str | None = None,
    views: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    **settings: Any,
) -> Result:
    """Adapt a network to data.

    Args:
        net: a `Network`, or whatever `load` opens.
        data: a `Dataset`, or whatever `read` reads.
        strategy: "auto", "head", "partial" (with frozen=), "full", "scratch", or a `Plan`.
        valid: share of the items kept aside to judge.
        test: further data that only judge.
        budget: None; time limits come with measured planning.
        views: fixed versions of each fitting item, the plain one included.
        seed: decides splits, order, dropout and views.
        out: folder for checkpoints and the saved result.
        resume: go on after an interruption.
        settings: frozen, classes, rename (old class -> new one), start (how rows of new classes start; "auto": the closed-form probe
            where that is better), select (share of the learning items that choose, 0.15), statistics (whether class statistics are
            kept with the network), skip_bad, and those of `regraft.training.Settings`; unknown names are an error that lists the
            near ones.

    Returns:
        The adapted network with its plan, history, scores, baselines, account and cost.

    Raises:
        InputError: if something does not fit; nothing has been started then.
    """
    if budget is not None:
        raise SettingError(f"budget={budget!r}: time limits are not available yet. Choose a strategy and epochs= in its place.")
    skip_bad = bool(settings.pop("skip_bad", False))
    given = {"valid": (valid, 0.2), "views": (views, 1), "seed": (seed, 0)}
    plan = make_plan(strategy, {**{name: value for name, (value, default) in given.items() if value != default}, **settings})
    dataset = checked(data if isinstance(data, Dataset) else read(data), skip_bad)
    network = net if isinstance(net, Network) else _opened_for(net, dataset)
    judges = None if test is None else checked(test if isinstance(test, Dataset) else read(test), skip_bad)
    return carry_out(network, dataset, plan=plan, test=judges, out=out, resume=resume)


def _opened_for(source: Any, data: Dataset) -> Network:
    """Open a network; where its source does not tell the shape of its items, take that of the data."""
    try:
        return load(source)
    except NetworkError:
        if isinstance(source, str | Path) or data.kind != "array":
            raise
        return load(source, inputs=np.shape(data[0]))
