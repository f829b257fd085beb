"""Layers that a plan trains, given what the owner of the network has frozen: notes, and an error if nothing is left to train."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..errors import SettingError
from ..freezing import counted_layers, frozen_up_to, held_layers, matching_layers
from ..heads.retarget import retargeted_rows
from ..methods import METHODS
from ..networks.network import Network
from ..words import counted
from .choosing.candidates import frozen_layers
from .plan import ALL, AUTO_BLOCK, FRESH, Plan, check_plan

__all__ = ["check_trained", "hold_", "looks_fresh", "with_fresh", "without_solving"]

FEWEST = 256  # Smallest number of weights of a layer whose distribution is tested
DRAWS = (
    "The network draws at random, in inference too: nothing is cached, closed-form heads are solved on one draw, and its figures and "
    "predictions differ from call to call."
)


def hold_(network: Network, plan: Plan, *, new_rows: Mapping[str, np.ndarray], placed: Collection[str] = ()) -> None:
    """Hold the layers that the plan excludes or, if it names none, those that the owner froze; heads with new classes are always trained.
    `new_rows` maps tasks of the network to the rows of their new classes. The heads of the tasks `placed` are trained too: what their
    outputs meant is not known."""
    if plan.trainable == ALL:
        network.body.hold_(())
    elif plan.trainable is not None:
        wanted = matching_layers(network, plan.trainable, setting="trainable")
        network.body.hold_([layer.name for layer in network.layers if layer.parameters and layer.name not in wanted])
    for task, rows in new_rows.items():
        if (len(rows) or task in placed) and network.heads[task].groups is None:
            network.body.release_(task)
    network.account = network.account.with_frozen(_held_names(network))


def with_fresh(network: Network, plan: Plan) -> Plan:
    """Return a plan that first trains the layers of a network that were never trained; "auto" becomes "head"."""
    names = tuple(dict.fromkeys([*(plan.fresh or ()), *network.fresh]))
    if plan.strategy == "scratch" or not names:
        return plan
    if plan.strategy not in FRESH and plan.fresh is None:
        raise SettingError(
            f"strategy={plan.strategy!r} would take the layers {', '.join(map(repr, names))} for trained ones; regraft.retarget has built "
            f"them, and nothing has trained them yet. Adapt the network with strategy={' or '.join(map(repr, FRESH))} first."
        )
    plan = replace(plan, fresh=names)
    check_plan(plan)
    if plan.strategy != "auto":
        return plan
    why = "Layers below the head were never trained: 'auto' is strategy='head' here, which trains them; 'full' then trains all layers."
    return replace(plan, strategy="head", budget=None).with_reasons(why)


def without_solving(network: Network, plan: Plan, *, tasks: Iterable[str]) -> Plan:
    """Return a plan without closed-form heads if the logits of one are not linear in the first head's features; "auto" becomes "full"."""
    apart = [task for task in tasks if task in network.heads and network.heads[task].apart]
    apart = [task for task in apart if not _is_replaced(network, task, classes=plan.classes or ())]
    if not apart or plan.strategy == "scratch":
        return plan
    if plan.strategy not in FRESH or plan.base != "head" or plan.probe != "auto":
        raise SettingError(
            f"strategy={plan.strategy!r} solves heads on the features of {network.head.task!r}, in which the logits of "
            f"{', '.join(map(repr, apart))} are not linear. Choose strategy='head', 'partial' or 'full' "
            "without base= and probe=, or give the data of one task."
        )
    if plan.strategy != "auto":
        return plan
    why = f"The logits of {', '.join(map(repr, apart))} are not linear in the features of {network.head.task!r}: 'auto' is 'full' here."
    return replace(plan, strategy="full", budget=None).with_reasons(why)


def _is_replaced(network: Network, task: str, *, classes: Sequence[str]) -> bool:
    """Tell whether no class weights of a head stay, so that the layers beside it become zero."""
    found = network.body.found.get(task)
    return found is not None and bool(found.beside) and not retargeted_rows(network.heads[task], classes)[0].weight.any()


def _held_names(network: Network) -> list[str]:
    """Return the names of the layers that a `network` holds, in the order of execution."""
    place = {layer.name: at for at, layer in enumerate(network.layers)}
    return sorted(network.body.held, key=lambda name: (place.get(name, place.get(name.rpartition(".")[0], len(place))), name))


def _last_frozen(network: Network, frozen: int | str) -> str:
    """Return a sentence on where the plan's frozen part ends."""
    chosen, count = frozen_up_to(network, frozen), counted_layers(frozen)
    names = [layer.name for layer in network.layers if layer.name in chosen]
    last = network.body.counted()[count - 1] if count else names[-1] if names else "none"
    weights = sum(layer.parameters > 0 for layer in network.layers if layer.name in chosen)
    return f"frozen={frozen!r}: {counted(weights, 'layer')} with weights, and the last frozen layer is {last!r}."


def _fresh_words(network: Network, plan: Plan) -> list[str]:
    """Return a warning if layers below the head look untrained; raise if `fresh=` names a head or a frozen layer."""
    if plan.fresh is not None:
        named = matching_layers(network, plan.fresh, setting="fresh")
        frozen = held_layers(network) | (frozen_up_to(network, plan.frozen) if plan.strategy == "partial" and plan.frozen else frozenset())
        wrong = sorted(named & {*network.head_layers, *frozen})
        if wrong:
            raise SettingError(
                f"fresh= names {wrong[0]!r}, which is a head or frozen; expected layers below the head that are to be trained."
            )
        return []
    if plan.strategy == "scratch":
        return []
    found = looks_fresh(network)
    if not found:
        return []
    shown = ", ".join(map(repr, found[:4])) + (f", … ({len(found) - 4} more)" if len(found) > 4 else "")
    return [
        f"Warning: the weights of {shown} look freshly drawn, as if nothing had trained them. A head solved on what they give is worth "
        "little. If so, name them with fresh=; or give the trained weights."
    ]


def looks_fresh(network: Network) -> list[str]:
    """Return the layers below the heads of a `network` whose weights look like a draw of their library's default initialiser.
    The test: weights uniform up to the bound that the layer's size gives, and biases that are zero (Glorot, Keras) or within the same bound
    (PyTorch). Training moves some weights beyond the bound, or biases away from zero."""
    parameters, heads = network.layer_parameters(), set(network.head_layers)
    kinds = {layer.name: layer.kind for layer in network.layers if layer.name not in heads}
    return [
        name for name, kind in kinds.items() if kind.startswith(("Linear", "Conv", "Dense")) and _is_drawn(list(parameters[name].values()))
    ]


def _is_drawn(tensors: Sequence[Tensor]) -> bool:
    """Tell whether a weight and its bias look freshly initialised."""
    if len(tensors) != 2 or tensors[0].ndim < 2 or tensors[0].numel() < FEWEST:
        return False
    weight, bias = (one.detach().float() for one in tensors)
    bound = float(math.prod(weight.shape[1:])) ** -0.5
    if not bias.any():
        bound = float(6 / (math.prod(weight.shape[:-2]) * (weight.shape[-1] + weight.shape[-2]))) ** 0.5
    elif float(bias.abs().max()) > bound:
        return False
    largest, spread = float(weight.abs().max()), float(weight.std()) * 3**0.5
    return bool(0.98 * bound <= largest <= bound * (1 + 1e-6) and abs(spread / bound - 1) < 3 / weight.numel() ** 0.5)


def check_trained(network: Network, plan: Plan) -> list[str]:
    """Raise if the held layers leave a plan nothing to train; else return notes for the user."""
    held, further = _held_names(network), [DRAWS] if network.body.draws else []
    further += [_last_frozen(network, plan.frozen)] if plan.strategy == "partial" and plan.frozen else []
    further += _fresh_words(network, plan)
    if not held:
        return further
    owner = "its freeze flags" if plan.trainable is None else "trainable="
    shown = ", ".join(map(repr, held[:4])) + (f", … ({len(held) - 4} more)" if len(held) > 4 else "")
    said = f"Frozen by {owner}, and not trained: {shown}."
    heads = set(network.head_layers)
    if plan.strategy in ("auto", "probe") and heads and heads <= held_layers(network):
        raise SettingError(
            f"strategy={plan.strategy!r} solves the head, which is frozen by {owner}: {shown}. Give trainable='all', or the names of the "
            "layers to train; strategy='full' trains what is not frozen."
        )
    if plan.strategy in ("auto", "probe", *METHODS) or plan.block == AUTO_BLOCK:
        return [said, *further]
    frozen = held_layers(network) | {layer.name for layer in network.layers if layer.name in network.body.held}
    if plan.strategy == "head":
        frozen |= {layer.name for layer in network.layers} - set(network.head_layers)
    else:
        frozen |= frozen_layers(network, plan)
    left = {layer.name for layer in network.layers if layer.parameters and layer.name not in frozen}
    if not left:
        raise SettingError(
            f"strategy={plan.strategy!r} has nothing to train: {shown} {'is' if len(held) == 1 else 'are'} frozen by {owner}. "
            "Give trainable='all', or the names of the layers to train."
        )
    alone = plan.strategy != "head" and left <= set(network.head_layers)
    said += f" strategy={plan.strategy!r} trains only the head: all layers below it are frozen." if alone else ""
    return [said, *further]
