"""Where values of a PyTorch network can be scaled and shifted by channel: found by running it, changed by hooks, folded into weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from .graft import module_at
from .plain import copied

__all__ = ["Site", "changed_at", "find_sites", "fold_", "give_bias_", "is_plain", "shared_weights"]

_LINEAR = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


@dataclass(frozen=True)
class Site:
    """One place where values can be changed.

    Attributes:
        name: of the layer into whose weights a change can be folded.
        place: name of the module whose output the values are, or, if `before`, whose input.
        before: whether they are its input (a normalisation that calls its own activation).
        last: whether the channels are the last axis, not the one after the items.
        factor: rows for each item, one after the other (windows of a picture); 1 where each item is a row.
    """

    name: str
    place: str
    before: bool
    last: bool
    channels: int
    factor: int = 1

    def spread(self, numbers: Tensor, values: Tensor) -> Tensor:
        """Return numbers by item and channel, (N, C), or by channel, (C,), in the shape in which they go together with the values."""
        if numbers.ndim == 1:
            return numbers if self.last else numbers.reshape(-1, *(1,) * (values.ndim - 2))
        rows = numbers if self.factor == 1 else numbers.repeat_interleave(values.shape[0] // numbers.shape[0], 0)
        ones = (1,) * (values.ndim - 2)
        return rows.reshape(rows.shape[0], *ones, -1) if self.last else rows.reshape(rows.shape[0], -1, *ones)


Change = Callable[[Site, Tensor], Tensor]


@contextmanager
def changed_at(network: Module, sites: Sequence[Site], *, change: Change) -> Iterator[None]:
    """Let the values at some sites be changed while the context lasts."""

    def output_of(site: Site) -> Callable[..., Tensor]:
        return lambda _module, _args, output: change(site, output)

    def input_of(site: Site) -> Callable[..., tuple[Any, ...]]:
        return lambda _module, args: (change(site, args[0]), *args[1:])

    with ExitStack() as stack:
        for site in sites:
            module = module_at(network, site.place)
            handle = module.register_forward_pre_hook(input_of(site)) if site.before else module.register_forward_hook(output_of(site))
            stack.callback(handle.remove)
        yield


def is_plain(module: Module) -> bool:
    """Tell whether a module is a linear layer or convolution as PyTorch (or, for GPT-2, Transformers) has them, its weight a parameter."""
    own = type(module).forward in [kind.forward for kind in _LINEAR] or _is_turned(module)
    return own and isinstance(module._parameters.get("weight"), Parameter) and not dict(module.named_children())


def _is_turned(module: Module) -> bool:
    """Tell whether this is Transformers' Conv1D: a linear layer with its weight (d, C)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


def _is_linear(module: Module) -> bool:
    return isinstance(module, _LINEAR) or _is_turned(module)


@dataclass
class _Call:
    """One call of a module: its input and output, with the versions that tell whether they have been changed in place since."""

    name: str
    given: Tensor
    version: int
    before: Tensor | None = None  # a copy of the input, where it is needed
    made: Tensor | None = None
    made_version: int = 0
    after: Tensor | None = None


@dataclass
class _Run:
    calls: list[_Call] = field(default_factory=list)

    def of(self, name: str) -> list[_Call]:
        return [call for call in self.calls if call.name == name]


def _recorded(modules: Mapping[str, Module], names: Collection[str], *, copied: Collection[str], run: Callable[[], Any]) -> _Run:
    """Return the calls of some modules, in the order of their beginning; of those in `copied` with copies of what they took and gave."""
    seen, open_calls = _Run(), list[_Call]()

    def begin(name: str) -> Callable[..., None]:
        def hook(_module: Module, args: tuple[Any, ...]) -> None:
            given = args[0] if args and isinstance(args[0], Tensor) else torch.empty(0)
            call = _Call(name, given, given._version, given.clone() if name in copied else None)
            seen.calls.append(call)
            open_calls.append(call)

        return hook

    def end(name: str) -> Callable[..., None]:
        def hook(_module: Module, _args: Any, output: Any) -> None:
            call = open_calls.pop()
            if isinstance(output, Tensor):
                call.made, call.made_version = output, output._version
                call.after = output.clone() if name in copied else None

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name in names:
            stack.callback(modules[name].register_forward_pre_hook(begin(name)).remove)
            stack.callback(modules[name].register_forward_hook(end(name), prepend=True).remove)
        run()
    return seen


def find_sites(
    modules: Mapping[str, Module], runs: Sequence[Callable[[], Any]], *, without: Collection[str], until: str | None
) -> list[Site]:
    """Return where a network can be changed by channel, in the order of execution.

    That is behind each linear layer or convolution that is called as a module, or behind the BatchNorm that directly follows it.
    Left out are layers that share their weights with others or compute them (weight norm, weight standardisation), and values whose
    rows do not belong to one item each.

    `modules`: name -> module, in inference mode; `until`: name of the layer at whose first call the search ends; None for the whole run.
    """
    norms = [name for name, module in modules.items() if isinstance(module, _BatchNorm) and isinstance(module.weight, Parameter)]
    own = [name for name in norms if type(modules[name]).forward is not _BatchNorm.forward]
    parts = [f"{name}.{child}" for name in own for child, _ in modules[name].named_children()]
    shared = shared_weights(modules)
    linear = [name for name, module in modules.items() if name not in without and name not in shared and _folds(module)]
    names = list(dict.fromkeys([*linear, *norms, *(part for part in parts if part in modules), *([until] if until else [])]))
    two, three, same = (_recorded(modules, names, copied={*own, *parts}, run=run) for run in runs)
    end = next((index for index, call in enumerate(two.calls) if call.name == until), len(two.calls))
    found = []
    for name in dict.fromkeys(call.name for call in two.calls[:end] if call.name in set(linear)):
        site = _site_behind(name, modules, seen=two, norms=[norm for norm in norms if norm not in shared])
        factor = _factor(site, two, three=three, same=same) if _works(name, modules, calls=two.of(name)) else 0
        found += [Site(site.name, site.place, site.before, site.last, site.channels, factor)] if factor else []
    return found


def shared_weights(modules: Mapping[str, Module]) -> set[str]:
    """Return the names of those `modules` that share one of their own parameters with another one."""
    owners = Counter(id(parameter) for module in modules.values() for parameter in module._parameters.values() if parameter is not None)
    return {name for name, module in modules.items() if any(owners[id(own)] > 1 for own in module._parameters.values() if own is not None)}


def _folds(module: Module) -> bool:
    """Tell whether this is a linear layer or convolution whose weight is a parameter of real numbers."""
    weight = module._parameters.get("weight")
    return _is_linear(module) and weight is not None and weight.is_floating_point() and not dict(module.named_children())


def _works(name: str, modules: Mapping[str, Module], *, calls: Sequence[_Call]) -> bool:
    """Tell whether a layer gives a tensor, and one with a forward of its own follows weight and bias as others do.

    That is, doubled weights double what it gives, and one more in the bias is one more in what it gives.
    """
    module, call = modules[name], calls[0]
    if is_plain(module) or call.made is None:
        return call.made is not None
    other: Any = copied(module)
    inputs = torch.randn(call.given.shape, generator=torch.Generator().manual_seed(0)).to(call.given)
    with torch.no_grad():
        other.weight.copy_(torch.randn(other.weight.shape, generator=torch.Generator().manual_seed(1)))
        other.bias = Parameter(other.weight.new_zeros(_channels(other)))
        plain = other(inputs)
        other.weight.mul_(2)
        other.bias.add_(1)
        return bool(plain.any()) and bool(torch.allclose(other(inputs), 2 * plain + 1, rtol=1e-4, atol=1e-4))


def _channels(module: Module) -> int:
    weight = cast(Tensor, module.weight)
    return weight.shape[1] if _is_turned(module) else weight.shape[0]


def _site_behind(name: str, modules: Mapping[str, Module], *, seen: _Run, norms: Sequence[str]) -> Site:
    """Return the site behind a layer, or behind the BatchNorm that follows it at each of its calls."""
    module = modules[name]
    plain = Site(name, name, False, isinstance(module, torch.nn.Linear) or _is_turned(module), _channels(module))
    calls = seen.of(name)
    behind = {call.name for call in seen.calls for made in calls if call.given is made.made and call.version == made.made_version}
    norm = next((norm for norm in norms if norm in behind), None)
    if norm is None or len(seen.of(norm)) != len(calls) or not all(_reads(call, calls) for call in seen.of(norm)):
        return plain
    place = _place_of(norm, cast(_BatchNorm, modules[norm]), seen=seen)
    channels = cast(_BatchNorm, modules[norm]).num_features
    return plain if place is None else Site(norm, place[0], place[1], False, channels)


def _reads(call: _Call, calls: Sequence[_Call]) -> bool:
    return any(call.given is made.made and call.version == made.made_version for made in calls)


def _place_of(name: str, norm: _BatchNorm, *, seen: _Run) -> tuple[str, bool] | None:
    """Return the module at whose output (or, if True, input) a BatchNorm's values are: some call their activation themselves."""
    if type(norm).forward is _BatchNorm.forward:
        return name, False
    call = seen.of(name)[0]
    if call.before is None or norm.running_mean is None or norm.running_var is None:
        return None
    values = torch.nn.functional.batch_norm(call.before, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    if call.after is not None and call.after.shape == values.shape and torch.allclose(call.after, values, rtol=1e-4, atol=1e-5):
        return name, False
    first = seen.calls[seen.calls.index(call) + 1 :][:1]
    inside = bool(first) and first[0].name.startswith(f"{name}.") and first[0].before is not None
    if inside and torch.allclose(cast(Tensor, first[0].before), values, rtol=1e-4, atol=1e-5):
        return first[0].name, True
    return None


def _values(site: Site, run: _Run) -> list[Tensor]:
    calls = run.of(site.place)
    return [call.given if site.before else call.made for call in calls if call.made is not None]


def _factor(site: Site, two: _Run, *, three: _Run, same: _Run) -> int:
    """Return how many rows of a site's values belong to each item, one item after the other; 0 where they do not."""
    rows = [[len(value) for value in _values(site, run) if value.ndim >= 2] for run in (two, three, same)]
    if not rows[0] or rows[0] != rows[2] or len(set(rows[0])) > 1 or [size * 3 for size in rows[0]] != [size * 2 for size in rows[1]]:
        return 0
    factor, rest = divmod(rows[0][0], 2)
    axis = -1 if site.last else 1
    if rest or any(value.shape[axis] != site.channels for value in _values(site, two)):
        return 0
    if factor == 1:
        return 1
    pairs = zip(_values(site, two), _values(site, same), strict=True)
    alike = all(torch.allclose(one[:factor], other[:factor], rtol=1e-3, atol=1e-4) for one, other in pairs)
    return factor if alike else 0


def fold_(layer: Module, *, scale: Tensor | None = None, shift: Tensor | None = None) -> bool:
    """Multiply what a layer gives by `scale` (C,) and add `shift` (C,), by changing its weight and bias.

    `scale`: one number a channel; None for 1; `shift`: one number a channel; None for 0; result: Whether a bias had to be made for it.
    """
    target: Any = layer
    created = target.bias is None and shift is not None and bool(shift.any())
    if created:
        give_bias_(layer)
    with torch.no_grad():
        if scale is not None:
            factors = scale.to(target.weight)
            target.weight.mul_(factors if _is_turned(layer) else factors.reshape(-1, *(1,) * (target.weight.ndim - 1)))
            if target.bias is not None:
                target.bias.mul_(factors)
        if shift is not None and target.bias is not None:
            target.bias.add_(shift.to(target.bias))
    return created


def give_bias_(layer: Module) -> None:
    """Give a linear layer or convolution without a bias one of zeros."""
    target: Any = layer
    target.bias = Parameter(target.weight.new_zeros(_channels(layer)))
