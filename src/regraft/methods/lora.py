"""`lora`: train low-rank updates of weights, and the heads. After training, the updates are merged into the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import NetworkError, near_names
from ..freezing import frozen_but, head_parameters
from ..networks.network import Layer, Network
from .contract import Method, Option, PreparedNetwork, are_names

__all__ = ["METHOD", "low_rank_layers"]

RANK = 8
_LINEAR = frozenset({"Linear", "NonDynamicallyQuantizableLinear", "Dense", "EinsumDense"})
_CONVOLUTIONS = frozenset({"Conv1d", "Conv2d", "Conv3d", "Conv2dSame", "Conv1D", "Conv2D", "Conv3D"})
_ATTENTION = frozenset({"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "qkv", "c_attn", "query_key_value"})
"""Names of the query and value projections in transformer libraries. Joint projections also contain the keys."""


def low_rank_layers(network: Network) -> tuple[str, ...]:
    """Return the layers that LoRA changes by default.

    Source: LoRA (Hu et al., ICLR 2022, section 7.1): the query and value projections in transformers. In other networks, all linear
    layers and convolutions below the heads, except grouped convolutions.

    Args:
        network: network with its heads.

    Returns:
        Layer names in execution order; empty if there are none.
    """
    layers, modules = _layers_below(network), network.modules()
    linear = [layer.name for layer in layers if layer.kind in _LINEAR]
    attention = [name for name in linear if name.rpartition(".")[2] in _ATTENTION]
    if attention:
        return tuple(attention)
    kinds = _LINEAR | _CONVOLUTIONS
    found = (layer.name for layer in layers if layer.kind in kinds)
    return tuple(name for name in found if getattr(modules[name], "groups", 1) == 1)


def _layers_below(network: Network) -> list[Layer]:
    """Return the layers below the heads that may be trained, in execution order."""
    return [layer for layer in network.layers if layer.name not in network.head_layers and not network.holds(layer.name)]


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> PreparedNetwork:
    """Add low-rank updates to the weights, W + (alpha / r) B A with B = 0 at first, and train them and the heads.

    PyTorch networks use `peft`; Keras networks use the implementation of Keras.

    Source: LoRA (Hu et al., ICLR 2022, section 4.1, equation 3).

    Raises:
        NetworkError: if a named layer does not exist, is a head or may not be trained, or no layer can be changed.
    """
    known = [layer.name for layer in _layers_below(network)]
    layers = tuple(options["layers"] or low_rank_layers(network))
    wrong = next((name for name in layers if name not in known), None)
    if wrong is not None:
        raise NetworkError(f"layers: {wrong!r} is no layer before the head that may be trained{near_names(wrong, known)}")
    if not layers:
        raise NetworkError(
            f"strategy='lora' changes linear layers and convolutions; received a network without any to train before "
            f"{sorted(set(network.head_layers))}. Choose 'bias'."
        )
    rank = options["rank"]
    twin = network.low_rank(rank, alpha=float(options["alpha"] or 2 * rank), layers=layers, seed=seed)
    before = set(network.state())
    # both libraries use "lora" in the names of new parameters; peft renames the original weights to NAME.base_layer
    added = {name for names in twin.layer_parameters().values() for name in names if "lora" in name and name not in before}
    return PreparedNetwork(twin, frozen_but(twin, {*added, *head_parameters(twin)}))


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
