"""`scale_shift`: train a scale, or a scale and a shift, for every channel; or only those of the normalisation layers.

The formulas and their sources are in `regraft.networks.parts.scaling` (`lhuc` and `film`), which both network families use.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import NetworkError
from ..freezing import added_parameters, frozen_but, head_parameters
from ..networks.network import Network
from ..networks.parts.structure import points_in
from .contract import Method, Option, PreparedNetwork, are_names

FORMS = ("lhuc", "film", "norm")


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> PreparedNetwork:
    """Add scales (and shifts) at the hook points of the blocks, and train them and the heads.

    Raises:
        NetworkError: if there is no hook point, or, for form="norm", no normalisation layer with a scale or a shift.
    """
    if options["form"] == "norm":
        return _norms_open(network, options["blocks"])
    points = [point for point in network.points() if not network.holds(point.name)]  # the scale is folded into the weights
    twin = network.adjusted(points_in(points, options["blocks"]), form=options["form"])
    return PreparedNetwork(twin, frozen_but(twin, {*added_parameters(network, twin), *head_parameters(twin)}))


def _norms_open(network: Network, blocks: Sequence[str] | None) -> PreparedNetwork:
    """Train the scales and shifts of the normalisation layers. Their statistics stay unchanged.

    Source: Frankle, Schwab & Morcos, ICLR 2021 (training BatchNorm and only BatchNorm), section 3.
    """
    inside = {layer for block in network.blocks if blocks is None or block.name in blocks for layer in block.layers}
    kinds = {layer.name: layer.kind for layer in network.layers if layer.name in inside and not network.holds(layer.name)}
    found = [name for layer, names in network.layer_parameters().items() if "norm" in kinds.get(layer, "").lower() for name in names]
    if not found:
        raise NetworkError(
            f"form='norm' trains the scales and shifts of normalisation layers; received a network without any (blocks={blocks!r}). "
            "Choose form='film' or form='lhuc', which add their own."
        )
    twin = network.copy()
    return PreparedNetwork(twin, frozen_but(twin, {*found, *head_parameters(twin)}))


METHOD = Method(
    "scale_shift",
    "a scale (and a shift) for every channel",
    _begin,
    end=lambda network: network.settled(),
    options={
        "form": Option("film", f"one of {', '.join(FORMS)}", lambda value: value in FORMS),
        "blocks": Option(None, "names of blocks, or None for all", are_names),
    },
    settings={"layer_decay": 1.0},
)
