"""Modules whose outputs can be replayed: by what runs in their calls, by hooks, and by dependence on trained weights."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import tree_flatten

from ..networks.network import Inputs, Network
from ..networks.parts.protocols import on_device
from ..networks.parts.structure import prefixes
from ..networks.tracing import called_one_by_one, hooked, other_values, replaced

Digests = dict[str, list[list[bytes]]]  # Module -> for each call, a digest of each returned tensor


def other_weights(network: Network, layers: Collection[str], *, made: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """Replace all trained weights by `made` of them while the context lasts. `layers`: frozen layers."""
    owned = [(name, parameter) for name, group in network.layer_parameters().items() for parameter in group.values()]
    trained = [one for name, one in owned if name not in layers and one.requires_grad and one.is_floating_point()]
    return other_values(trained, made)


def on_network(network: Network, inputs: Inputs) -> Inputs:
    """Return the inputs on the device of the network."""
    device = next((tensor.device for tensor in network.state().values()), torch.device("cpu"))
    return on_device(inputs, device)


def frozen_units(network: Network, layers: Collection[str], *, sample: Inputs) -> list[str]:
    """Return the largest modules whose outputs can be replayed, in the order of their first calls.
    All layers of such a module are frozen, and so is every module that runs during its calls (a hook may call modules from elsewhere). No
    module inside it has hooks, because they would not run in a replay. Its output does not depend on trained weights; if it does, the
    modules inside are tried instead. A module that runs both inside such a module and outside is not replayed itself."""
    outside = {prefix for layer in network.layers if layer.name not in layers for prefix in prefixes(layer.name)}
    inside = {prefix for name in layers for prefix in prefixes(name)} - outside
    nesting, heard = _nesting(network.modules(), lambda: network.scores(sample))
    below = {name: within - {name} for name, within in nesting.items()}
    whole = [name for name, within in below.items() if name in inside and within.isdisjoint(outside | heard)]
    fixed = set[str]()
    while True:
        covered = set[str]().union(*(below[name] for name in whole))
        units = [name for name in whole if name not in covered]
        unknown = [name for name in units if name not in fixed]
        fixed |= set(independent(network, unknown, layers=layers, sample=sample)) if unknown else set()
        if fixed.issuperset(units):
            return units
        whole = [name for name in whole if name in fixed or name not in unknown]


def _nesting(modules: Mapping[str, Module], run: Callable[[], Any]) -> tuple[dict[str, set[str]], set[str]]:
    """Return, for each module that a forward pass calls, the modules called while it ran, in the order of the first calls; and those with
    hooks. Forwards are wrapped, not hooked: a module's own hooks run outside its forward, and still run in a replay."""
    within, heard, running = dict[str, set[str]](), set[str](), list[str]()
    before = {name: set(module._forward_pre_hooks) for name, module in modules.items()}  # e.g. weight norm; these may be skipped

    def watched(name: str, module: Module) -> Callable[..., Any]:
        own = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            for outer in running:
                within[outer].add(name)
            within.setdefault(name, set())
            if module._forward_hooks or module._forward_pre_hooks.keys() - before[name]:
                heard.add(name)
            running.append(name)
            try:
                return own(*args, **kwargs)
            finally:
                running.pop()

        return forward

    forwards = ((module, "forward", watched(name, module)) for name, module in modules.items())
    with replaced(forwards), torch.no_grad(), called_one_by_one():
        run()
    return within, heard


def independent(network: Network, names: Sequence[str], *, layers: Collection[str], sample: Inputs) -> list[str]:
    """Return the called modules whose outputs do not depend on trained weights in any call (a shared activation may be called twice).
    The trained weights are replaced by NaN for one run; outputs that change depend on them."""
    plain = _digests(network, names, inputs=sample)
    with other_weights(network, layers, made=lambda values: torch.full_like(values, torch.nan)):
        poisoned = _digests(network, names, inputs=sample)
    return [name for name in names if plain[name] and plain[name] == poisoned[name]]


def _digests(network: Network, names: Sequence[str], *, inputs: Inputs) -> Digests:
    """Return digests of the outputs of each call of these modules; the outputs themselves would need much memory."""
    record: Digests = {name: [] for name in names}
    modules = network.modules()

    def keep(name: str, output: Any) -> None:
        record[name].append([_digest(leaf) for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)])

    with torch.no_grad(), called_one_by_one(), hooked({name: modules[name] for name in names}, after=keep, first=True):
        network.scores(inputs)
    return record


def _digest(values: Tensor) -> bytes:
    plain = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.blake2b(plain.numpy().tobytes() + str(tuple(values.shape)).encode(), digest_size=16).digest()
