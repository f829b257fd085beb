"""Combine: join several one-class detectors into one network for all their classes."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import NetworkError, SettingError, checked_call
from ..networks.account import Account
from ..networks.names import checked_classes, index_of
from ..networks.network import Network
from ..networks.sources.opening import side_by_side
from ..probes.calibration import fit_scales, log_loss
from ..randomness import own_state
from ..words import counted
from .starts import check_shown, empty_head, ready_for

_KINDS = ("classification", "multi-label")


@checked_call
@own_state()
def combine(networks: Mapping[str, Network], data: Any = None, *, kind: str = "classification") -> Network:
    """Combine several one-class detectors into one network that has one score per class.

    Use it if each class has its own detector. Every network stays unchanged and runs on every example. The head on top of their scores is
    new: `adapt(strategy="head")` trains it on the scores of all detectors, and "full" also trains the detectors.

    The score of a class is the logit of its probability: the difference of the two logits of a network with two classes, or the logit
    itself for a network with one output or a multi-label network.

    Args:
        networks: class name -> network that detects it, two or more. A network with class names must contain that name, and at most one
            other unless it is multi-label. All networks must belong to one family and read their inputs in the same way. They are not
            changed.
        data: labelled examples of these classes for calibration. Each score gets the positive factor and the shift that minimise the
            log loss (vector scaling). Without data the scores stay unchanged and may have different scales.
        kind: "classification" (exactly one class, softmax) or "multi-label" (independent labels, sigmoid).

    Returns:
        The network. Its head reads the K scores of the K networks.

    Raises:
        NetworkError: if there are fewer than two networks, a network lacks its class or has several others, or the networks do not match.
        SettingError: if the kind is unknown.
        DataError: if a class has no examples in the data, or a label is not among the classes.

    Example:
        >>> import numpy as np, torch, regraft
        >>> def detector():
        ...     return regraft.load(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)), inputs=(4,))
        >>> both = regraft.combine({"cat": detector(), "dog": detector()})
        >>> both.classes, both.predict(np.zeros((5, 4), "float32")).probabilities.shape
        (('cat', 'dog'), (5, 2))
    """
    if kind not in _KINDS:
        raise SettingError(f"The kind of a combined network is 'classification' or 'multi-label'; received {kind!r}.")
    if not isinstance(networks, Mapping) or len(networks) < 2:
        given = f"{len(networks)} network" if isinstance(networks, Mapping) else f"a {type(networks).__name__}"
        raise NetworkError(f"Received {given}; expected two networks or more, each under the name of its class.")
    names = checked_classes(networks)
    named = dict(zip(names, networks.values(), strict=True))
    rows = [_row(name, net) for name, net in named.items()]
    _check_alike(named)
    parts = [_scoring(net, row) for net, row in zip(named.values(), rows, strict=True)]
    head = empty_head("main", names, kind=kind, features=len(names))
    combined = side_by_side(parts).with_head(replace(head, weight=np.eye(len(names), dtype=np.float32)))
    combined.preprocessing = next(iter(networks.values())).preprocessing
    note = f"{len(names)} networks side by side; the score of each is that of its class"
    combined.account = Account({"new": list(names)}, notes=(note,))
    return combined if data is None else _calibrated(combined, data)


def _row(name: str, net: Network) -> np.ndarray:
    """Return the vector (C,) whose product with the logits of the first head scores the class `name`; a binary head has two logits."""
    net.refuse_training_form()
    head = net.head
    if net.coding is not None:
        raise NetworkError(f"The network for {name!r} takes codes of conditions; expected one without. Fold one in first: regraft.fold.")
    count, classes = len(head.weight), head.classes
    if count == 1 or (head.binary and classes is None):  # one output, linear or with a sigmoid
        return np.array([-1, 1], np.float32)[-count:]
    if classes is None:
        raise NetworkError(
            f"The network for {name!r} has {counted(count, 'output')} without names. Give classes= when the network is loaded, "
            "or adapt it first."
        )
    row = np.zeros(count, np.float32)
    row[index_of(name, classes)] = 1
    if head.kind == "multi-label":
        return row
    if count > 2:
        raise NetworkError(
            f"The network for {name!r} tells {counted(count, 'class')} apart ({', '.join(map(repr, classes[:5]))}); expected it and at "
            "most one other. A network of several classes gets further ones with regraft.extend."
        )
    return 2 * row - 1


def _check_alike(networks: Mapping[str, Network]) -> None:
    """Raise if two networks differ in input shape or preprocessing."""
    (first, known), *others = networks.items()
    for name, net in others:
        here, there = ({"shape": list(one.input_shape), **one.preprocessing.to_dict()} for one in (known, net))
        different = [key for key in here | there if here.get(key) != there.get(key)]
        if different:
            key = different[0]
            raise NetworkError(
                f"The networks for {first!r} and {name!r} read their inputs differently: {key} {here.get(key)!r} and {there.get(key)!r}; "
                "expected the same. Load them with the same inputs= and preprocessing=."
            )


def _scoring(net: Network, row: np.ndarray) -> Network:
    """Return a network with a single output: the product of `row` and the logits."""
    net = net.with_head(net.head.as_softmax()) if net.head.binary else net
    scoring = net.with_stack(empty_head(net.head.task, ["score"], kind="regression", features=len(row)), "linear")
    scoring.set_rows_(scoring.head.layer, row[None], bias=np.zeros(1, np.float32))
    return scoring


def _calibrated(net: Network, given: Any) -> Network:
    """Return the network with its scores calibrated on the data (vector scaling)."""
    net, items = ready_for(net, given)
    data = items.with_classes(net.classes or ())
    counts = data.class_counts()
    check_shown(net.classes or (), counts, needs="expected one or more of every class.")
    scores, kind, head = net.features(data), net.head.kind, net.head
    truth = np.eye(len(counts))[data.targets] if data.targets.ndim == 1 else np.asarray(data.targets, float)
    factors, shifts = fit_scales(scores, truth, kind=kind)
    own = replace(head, weight=np.diag(factors).astype(np.float32), bias=shifts.astype(np.float32))
    net.set_rows_(head.layer, own.weight, bias=own.bias)
    net.body.refresh_heads_()
    told, figures = f"calibrated on {counted(len(data), 'example')}: a factor and a shift for the score of each class", dict[str, float]()
    if kind == "classification":
        figures = {"log_loss_before": log_loss(scores, data.targets), "log_loss": log_loss(scores * factors + shifts, data.targets)}
    net.account = net.account.joined(Account(notes=(told,), figures=figures))
    return net
