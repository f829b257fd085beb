"""Learning an input of a frozen network by gradient descent: the whole input, or one named input beside given examples.

Shape letters: V learned inputs, M numbers per input, N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Dataset, PreparedData
from ...errors import NetworkError, SettingError, near_names
from ...networks.network import Inputs, Network
from ...networks.samples import placed
from ...training.full_batch import Evaluate, minimise, value_and_gradient
from ...words import counted
from ..preparing import preprocessing_for
from .items import batch_rows
from .losses import Aim
from .matching import target_aims, with_heads_of


@dataclass(frozen=True)
class TunedInput:
    """Learned inputs."""

    values: np.ndarray = field(repr=False)  # (V, ...) float32, each in the network's input shape
    names: tuple[str, ...]  # class names or conditions of the V inputs; "" if one input serves all examples
    losses: np.ndarray  # (V,) mean loss per example at the values
    path: np.ndarray = field(repr=False)  # (S + 1, V) mean loss before the first step and after each step


# over the limit: what is learned, from where, how
def learn_input(
    net: Network,
    data: Dataset | Sequence[str],
    *,
    name: str | None = None,
    start: Any = None,
    fit: str = "normalised",
    steps: int | None = None,
    step: float | None = None,
) -> TunedInput:
    """Learn an input of a network by gradient descent; the network is not changed. Without a `name`, `data` are class names, and the whole
    input is learned for each; with one, they are examples for the network's other inputs. `start`: array in the shape of the input, or of
    all V inputs; None: zeros. `fit`: one of `FITS`."""
    twin = net.copy()
    twin.freeze_([layer.name for layer in twin.layers])
    twin.mode_(False)
    whole = _whole(twin, data) if name is None else _beside(twin, data, name=name)
    shape = tuple(whole.sample.shape[1:])
    first = np.zeros(shape, np.float32) if start is None else np.asarray(start, np.float32)
    if first.shape not in (shape, (len(whole.names), *shape)) or not np.isfinite(first).all():
        raise SettingError(f"start has the shape {first.shape}; expected finite numbers of shape {shape}, as the network takes them.")
    begun = np.broadcast_to(first, (len(whole.names), *shape)).reshape(len(whole.names), -1).copy()
    evaluate = whole.evaluate(twin)
    if not evaluate(begun, np.arange(len(begun)))[1].any():
        raise SettingError(
            f"The loss has no slope at the start ({'zeros' if start is None else 'as given'}), so that no step can be taken; many "
            "networks answer alike to inputs near zero. Give another with start=, such as an example, or small random numbers."
        )
    found = minimise(fit, evaluate, start=begun, steps=steps, step=step)
    values = found.values.astype(np.float32).reshape(len(whole.names), *shape)
    return TunedInput(values, whole.names, found.losses, found.path)


@dataclass(frozen=True)
class _InputProblem:
    """Minimisation problem of learned inputs."""

    sample: Tensor  # sample of the learned input, for shape and dtype
    names: tuple[str, ...]  # class names or conditions of the V learned inputs
    inputs: dict[str, Tensor]  # the network's other inputs for the N examples; empty if there are none
    key: str  # name of the learned input; "" for the only input
    aims: tuple[Aim, ...]  # aims of the heads for the examples
    rows: np.ndarray  # (N,) index of the learned input of each example

    def evaluate(self, net: Network) -> Evaluate:
        """Return the function that computes the mean loss of each learned input's examples, and its gradient."""
        counts = np.bincount(self.rows, minlength=len(self.names))
        size = batch_rows([self.sample, *self.inputs.values()])

        def evaluated(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            table = torch.from_numpy(values.reshape(-1, *self.sample.shape[1:])).to(self.sample).requires_grad_(True)
            places = np.full(len(self.names), -1)
            places[rows] = np.arange(len(rows))
            chosen = np.flatnonzero(places[self.rows] >= 0)
            parts = (self._losses(net, table, chosen[at : at + size], places) for at in range(0, len(chosen), size))
            losses, gradient = value_and_gradient(parts, table, count=len(rows))
            shares = 1.0 / counts[rows]
            return losses * shares, gradient.reshape(len(rows), -1) * shares[:, None]

        return evaluated

    # over the limit: a part of the items, and where their inputs stand
    def _losses(self, net: Network, table: Tensor, chosen: np.ndarray, places: np.ndarray) -> tuple[Tensor, np.ndarray]:
        index, rows = torch.from_numpy(chosen), places[self.rows[chosen]]
        learned = table[torch.from_numpy(rows)]
        given: Inputs = learned if not self.key else {**{name: held[index] for name, held in self.inputs.items()}, self.key: learned}
        scores = net.scores(given)
        return torch.stack([aim.losses(scores, index) for aim in self.aims]).sum(0), rows


def _whole(net: Network, data: Dataset | Sequence[str]) -> _InputProblem:
    """Return the problem of learning one whole input for each of the given classes."""
    if isinstance(net.sample, dict):
        raise SettingError(f"The network takes several inputs; choose one with input={next(iter(net.sample))!r} or another.")
    if isinstance(data, Dataset):
        raise SettingError(
            f"Received {counted(len(data), 'example')} and no input=; expected class names, or the name of the input beside the examples."
        )
    head, wanted = net.head, (data,) if isinstance(data, str) else tuple(map(str, data))
    classes = head.classes or ()
    unknown = [one for one in wanted if one not in classes]
    if unknown or not wanted or head.kind == "regression":
        asked = unknown[0] if unknown else list(wanted)
        raise SettingError(f"The head {head.task!r} ({head.kind}) has no class {asked!r}{near_names(str(asked), classes)}")
    rows = torch.tensor([classes.index(one) for one in wanted])
    targets = rows if head.kind == "classification" else torch.eye(len(classes))[rows]
    aim = Aim(head.task, head.kind, targets, torch.ones(len(wanted)))
    return _InputProblem(_real(net.sample, "the input"), wanted, {}, "", (aim,), np.arange(len(wanted)))


def _beside(net: Network, data: Any, *, name: str) -> _InputProblem:
    """Return the problem of learning one named input for given examples: one for all, or one per condition."""
    named = net.sample if isinstance(net.sample, dict) else {}
    if name not in named:
        raise SettingError(f"input={name!r}: the network has no input of that name{near_names(name, named) or '; it takes one tensor.'}")
    kept, rest = with_heads_of(net, data, supervised=True), [other for other in named if other != name]
    items = PreparedData(kept, preprocessing_for(net, kept))
    found: dict[str, list[Tensor]] = {}
    for _, batch in items.batches(64):
        given = placed(batch, (cpu := torch.device("cpu")), order=net.body.training_order(cpu))
        for key, tensor in (given if isinstance(given, dict) else {rest[0]: given}).items():
            found.setdefault(key, []).append(tensor)
    inputs = {key: torch.cat(parts) for key, parts in found.items() if key != name}
    missing = [other for other in rest if other not in inputs]
    if missing:
        raise SettingError(
            f"input={name!r}: the network also takes {missing[0]!r}, which the examples do not give; they give {list(inputs)}."
        )
    groups, rows = (("",), np.zeros(len(kept), np.int64)) if data.conditions is None else _by_condition(data.conditions)
    return _InputProblem(_real(named[name], f"input={name!r}"), groups, inputs, name, target_aims(kept), rows)


def _by_condition(conditions: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    names = tuple(dict.fromkeys(str(one) for one in conditions))
    return names, np.array([names.index(str(one)) for one in conditions])


def _real(sample: Tensor, what: str) -> Tensor:
    if not sample.is_floating_point():
        raise NetworkError(f"{what} is made of {sample.dtype} numbers, which have no gradient; expected real ones.")
    return sample
