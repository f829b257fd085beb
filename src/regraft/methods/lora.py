"""`lora`: low-rank changes of weights are trained, and the heads; afterwards they are added to the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import NetworkError, near_names
from ..freezing import frozen_but, head_parameters
from ..networks.contract import Network
from .contract import Begun, Method, Option, are_names

__all__ = ["METHOD", "low_rank_layers"]

RANK = 8
_LINEAR = frozenset({"Linear", "NonDynamicallyQuantizableLinear", "Dense", "EinsumDense"})
_CONVOLUTIONS = frozenset({"Conv1d", "Conv2d", "Conv3d", "Conv2dSame", "Conv1D", "Conv2D", "Conv3D"})
_ATTENTION = frozenset({"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "qkv", "c_attn", "query_key_value"})
"""What the projections to queries and values are called in the libraries of transformers; joint ones bring the keys with them."""


def low_rank_layers(network: Network) -> tuple[str, ...]:
    """Return the layers that are changed where nobody names any.

    Source: LoRA (Hu et al., ICLR 2022, section 7.1): in transformers the projections to queries and values. Elsewhere all linear
    layers and convolutions before the heads, those by groups of channels left out.

    Args:
        network: with its heads.

    Returns:
        Names, in the order of execution; none where there are none.
    """
    heads, modules = set(network.head_layers), network.modules()
    layers = [layer for layer in network.layers if layer.name not in heads and not network.holds(layer.name)]
    linear = [layer.name for layer in layers if layer.kind in _LINEAR]
    attention = [name for name in linear if name.rpartition(".")[2] in _ATTENTION]
    if attention:
        return tuple(attention)
    kinds = _LINEAR | _CONVOLUTIONS
    found = (layer.name for layer in layers if layer.kind in kinds)
    return tuple(name for name in found if getattr(modules[name], "groups", 1) == 1)


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> Begun:
    """Put low-rank changes beside the weights, W + (alpha / r) B A with B = 0 at first, and leave them and the heads open.

    `peft` computes them in PyTorch networks, Keras in its own.

    Source: LoRA (Hu et al., ICLR 2022, section 4.1, equation 3).

    Raises:
        NetworkError: if a layer is not known or is a head, or there is none to change.
    """
    heads = set(network.head_layers)
    known = [layer.name for layer in network.layers if layer.name not in heads and not network.holds(layer.name)]
    layers = tuple(options["layers"] or low_rank_layers(network))
    wrong = next((name for name in layers if name not in known), None)
    if wrong is not None:
        raise NetworkError(f"layers: {wrong!r} is no layer before the head that may be trained{near_names(wrong, known)}")
    if not layers:
        raise NetworkError(
            f"strategy='lora' changes linear layers and convolutions; received a network without any to train before {sorted(heads)}. "
            "Choose 'bias'."
        )
    rank = options["rank"]
    twin = network.low_rank(rank, alpha=float(options["alpha"] or 2 * rank), layers=layers, seed=seed)
    before = set(network.state())
    # both libraries call the new parameters so; PyTorch's calls the weights beside them NAME.base_layer now
    added = {name for names in twin.layer_parameters().values() for name in names if "lora" in name and name not in before}
    return Begun(twin, frozen_but(twin, {*added, *head_parameters(twin)}))


METHOD = Method(
    "lora",
    "low-rank changes of weights",
    _begin,
    end=lambda network: network.settled(),
    options={
        "rank": Option(RANK, "a whole number, 1 or more", lambda value: isinstance(value, int) and value is not True and value >= 1),
        "alpha": Option(None, "a number above 0, or None for twice the rank", lambda value: value is None or value > 0),
        "layers": Option(None, "names of layers, or None", are_names),
    },
    settings={"layer_decay": 1.0},
)
