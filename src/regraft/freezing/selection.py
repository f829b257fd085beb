"""Selection of frozen layers: everything up to a block, layer or module, or by name."""

import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from ..errors import SettingError, near_names
from ..networks.network import Layer, Network
from ..networks.parts.structure import below, prefixes
from ..words import counted
from .units import independent, on_network

_COUNTED = re.compile(r"layers:(\d{1,9})")


def is_dropout(layer: Layer) -> bool:
    """Return whether a layer is a dropout layer, by its kind."""
    return "drop" in layer.kind.lower()


def _prefix(layers: Sequence[Layer], end: int) -> frozenset[str]:
    """Return the first `end` layers, up to a dropout directly before the trained part.
    This dropout regularises the trained part and belongs to it. Dropout inside a module that is frozen as a whole is frozen."""
    last = max((index for index in range(end) if layers[index].parameters), default=-1)
    beyond = {prefix for layer in layers[end:] for prefix in prefixes(layer.name)}
    late = (index for index in range(last + 1, end) if is_dropout(layers[index]) and prefixes(layers[index].name)[1] in beyond)
    return frozenset(layer.name for layer in layers[: next(late, end)])


def frozen_up_to_head(network: Network) -> frozenset[str]:
    """Return all layers that are called before the first head."""
    return frozen_before(network, network.head_layers)


def frozen_up_to(network: Network, end: int | str) -> frozenset[str]:
    """Return the frozen layers: the first `end` blocks, or everything up to and including the block, layer or module of that name.
    "layers:8" means the first 8 layers. Raises `SettingError` for an unknown name, or if a head would be frozen."""
    layers, count = network.layers, counted_layers(end)
    if count is not None:
        return _first_counted(network, count)
    if isinstance(end, str):
        inside = _layers_in(network, end)
    elif 0 <= end < len(network.blocks):
        inside = {name for block in network.blocks[:end] for name in block.layers}
    else:
        raise SettingError(
            f"frozen={end}: this network has {counted(len(network.blocks), 'block')}; expected 0 to {len(network.blocks) - 1}, or a name."
        )
    position = max((index + 1 for index, layer in enumerate(layers) if layer.name in inside), default=0)
    while 0 < position < len(layers) and not layers[position].parameters:  # features after a pooling are smaller
        position += 1
    chosen = _prefix(layers, position)
    included = [layer for layer in network.head_layers if layer in chosen]
    if included:
        raise SettingError(f"frozen={end!r} includes the head '{included[0]}'; nothing would be left to train. Choose an earlier block.")
    return chosen


def counted_layers(end: int | str | None) -> int | None:
    """Return the number of layers in a value such as "layers:8"; None for other values."""
    found = _COUNTED.fullmatch(end) if isinstance(end, str) else None
    return int(found[1]) if found else None


def _first_counted(network: Network, count: int) -> frozenset[str]:
    """Return the first `count` layers as the library counts them. A layer around others is included once all of these are."""
    every = network.body.counted()
    if not 0 <= count < len(every):
        raise SettingError(
            f"frozen='layers:{count}': this network has {counted(len(every), 'layer')}, counted as in its library; expected 0 to "
            f"{len(every) - 1}."
        )
    first, rest = every[:count], every[count:]
    inside = {layer.name for layer in network.layers if any(below(layer.name, name) for name in first)}
    around = {layer.name for layer in network.layers if any(below(name, layer.name) for name in first)}
    around -= {layer.name for layer in network.layers if any(below(name, layer.name) for name in rest)}
    chosen = inside | around
    included = next((name for name in network.head_layers if name in chosen), None)
    if included is not None:
        raise SettingError(f"frozen='layers:{count}' includes the head {included!r}; nothing would be left to train. Choose fewer.")
    return _with_those_between(network.layers, {layer.name for layer in network.layers if layer.name in chosen and not is_dropout(layer)})


def _layers_in(network: Network, name: str) -> set[str]:
    """Return the layers of the layer or module of that name, or else of the block."""
    inside = {layer.name for layer in network.layers if name and below(layer.name, name)}
    inside = inside or {layer for block in network.blocks if block.name == name for layer in block.layers}
    if not inside:
        known = list(dict.fromkeys([*(block.name for block in network.blocks), *(layer.name for layer in network.layers)]))
        raise SettingError(f"frozen={name!r}: the network has no block, layer or module of that name{near_names(name, known)}")
    return inside


def frozen_before(network: Network, layers: Collection[str]) -> frozenset[str]:
    """Return all layers that are called before the first of some `layers`, without dropout directly before it."""
    return _prefix(network.layers, next(at for at, layer in enumerate(network.layers) if layer.name in layers))


def held_layers(network: Network) -> frozenset[str]:
    """Return the layers that the network holds frozen (`network.body.held`), with the layers without weights that are frozen with them.
    These run before every trained layer, or are inside a module whose weights are all held. Dropout directly before the trained part is not
    included."""
    return _with_those_between(network.layers, network.body.held)


def _with_those_between(layers: Sequence[Layer], held: Collection[str]) -> frozenset[str]:
    """Return the `held` layers, with the layers without weights that are frozen with them."""
    if not any(layer.name in held for layer in layers):
        return frozenset()
    open_ = {outer for layer in layers if layer.parameters and layer.name not in held for outer in prefixes(layer.name)}
    within = {outer for layer in layers if layer.name in held for outer in prefixes(layer.name)} - open_ - {""}
    end = next((at for at, layer in enumerate(layers) if layer.parameters and layer.name not in held), len(layers))
    inside = {layer.name for layer in layers if not layer.parameters and not within.isdisjoint(prefixes(layer.name))}
    return _prefix(layers, end) | inside | {layer.name for layer in layers if layer.name in held}


def matching_layers(network: Network, patterns: Sequence[str], *, setting: str) -> frozenset[str]:
    """Return the layers with weights whose name, or the name of a module around them, matches a pattern such as "layer4.*".
    `setting`: name for the `SettingError` that a pattern without a match raises."""
    names = {layer.name: [name for name in prefixes(layer.name) if name] for layer in network.layers if layer.parameters}
    found = set[str]()
    for pattern in patterns:
        fitting = {name for name, known in names.items() if any(fnmatchcase(one, pattern) for one in known)}
        if not fitting:
            every = dict.fromkeys(one for known in names.values() for one in known)
            raise SettingError(
                f"{setting}={pattern!r}: the network has no layer or module with weights of that name{near_names(pattern, every)}"
            )
        found |= fitting
    return frozenset(found)


def cacheable_layers(network: Network, frozen: Collection[str]) -> frozenset[str]:
    """Return the frozen layers whose outputs do not change in training.
    These are all frozen layers before the first trainable one, and later ones that do not depend on trained weights in a run of the
    network's sample. The latter exist because an edit may call its own modules first."""
    names = [layer.name for layer in network.layers]
    end = next((at for at, layer in enumerate(network.layers) if layer.parameters and layer.name not in frozen), len(names))
    first = frozenset(name for name in names[:end] if name in frozen)
    rest = [layer.name for layer in network.layers[end:] if layer.name in frozen]
    if not any(layer.parameters for layer in network.layers[end:] if layer.name in frozen):
        return first
    network.mode_(False)
    around = list(dict.fromkeys(outer for name in rest for outer in prefixes(name) if outer in network.modules()))
    still = set(independent(network, around, layers=frozen, sample=on_network(network, network.sample)))
    return first | {name for name in rest if still & set(prefixes(name))}


def head_parameters(network: Network) -> frozenset[str]:
    """Return the names in `state()` of the parameters of all heads."""
    owned = network.layer_parameters()
    return frozenset(name for layer in network.head_layers for name in owned.get(layer, {}))


def added_parameters(before: Network, after: Network) -> frozenset[str]:
    """Return the names in `state()` of the parameters that `after` has and `before` has not."""
    return frozenset(name for names in after.layer_parameters().values() for name in names) - before.state().keys()


def frozen_but(network: Network, trained: Collection[str]) -> frozenset[str]:
    """Return the frozen layers and individually frozen tensors if only the parameters `trained` are trained."""
    layers = {layer.name for layer in network.layers}
    held: dict[str, set[str]] = {}
    for name in network.state():
        owner = next((outer for outer in prefixes(name)[1:] if outer in layers), None)
        if owner is not None:
            held.setdefault(owner, set()).add(name)
    whole = {owner for owner, names in held.items() if names.isdisjoint(trained)}
    return frozenset(whole.union(*(names - set(trained) for owner, names in held.items() if owner not in whole)))
