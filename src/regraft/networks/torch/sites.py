"""Hook points of a PyTorch network for channel-wise scales and shifts: found by running it, changed by hooks, folded into weights."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.modules.batchnorm import _BatchNorm

from ..tracing import hooked
from .graft import module_at
from .plain import copied

_LINEAR = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


@dataclass(frozen=True)
class Site:
    """One hook point, where values can be changed."""

    name: str  # name of the layer whose weights a change folds into
    place: str  # name of the module whose output, or input if `before`, holds the values
    before: bool  # whether the values are the module's input (a normalisation that calls its own activation)
    last: bool  # whether the channels are the last axis rather than the one after the examples
    channels: int
    factor: int = 1  # consecutive rows per example (windows of an image); 1 if each example is one row

    def spread(self, numbers: Tensor, values: Tensor) -> Tensor:
        """Reshape numbers by example and channel, (N, C), or by channel, (C,), to broadcast with the values."""
        if numbers.ndim == 1:
            return numbers if self.last else numbers.reshape(-1, *(1,) * (values.ndim - 2))
        rows = numbers if self.factor == 1 else numbers.repeat_interleave(values.shape[0] // numbers.shape[0], 0)
        return spread(rows, values, last=self.last)


def spread(rows: Tensor, values: Tensor, *, last: bool) -> Tensor:
    """Reshape rows (N, C) to broadcast with values of N examples; `last`: whether the channels are their last axis."""
    ones = (1,) * (values.ndim - 2)
    return rows.reshape(rows.shape[0], *ones, -1) if last else rows.reshape(rows.shape[0], -1, *ones)


@contextmanager
def changed_at(network: Module, sites: Sequence[Site], *, change: Callable[[Site, Tensor], Tensor]) -> Iterator[None]:
    """Apply a change to the values at hook points while the context lasts."""
    with ExitStack() as stack:
        for site in sites:
            module = module_at(network, site.place)
            if site.before:
                stack.enter_context(module.register_forward_pre_hook(lambda _, args, at=site: (change(at, args[0]), *args[1:])))
            else:
                stack.enter_context(module.register_forward_hook(lambda _, _args, output, at=site: change(at, output)))
        yield


def is_plain(module: Module) -> bool:
    """Tell whether a module is a standard linear layer or convolution of PyTorch, or Transformers' Conv1D, with a parameter as weight."""
    own = type(module).forward in [kind.forward for kind in _LINEAR] or _is_turned(module)
    return own and isinstance(module._parameters.get("weight"), Parameter) and not dict(module.named_children())


def _is_turned(module: Module) -> bool:
    """Tell whether this is Transformers' Conv1D, a linear layer with the weight (d, C)."""
    return type(module).__name__ == "Conv1D" and type(module).__module__.startswith("transformers.")


@dataclass
class _Call:
    """One call of a module: its input and output, with version counters that reveal later in-place changes."""

    name: str
    given: Tensor
    version: int
    before: Tensor | None = None  # a copy of the input, if requested
    made: Tensor | None = None
    made_version: int = 0
    after: Tensor | None = None


def _of(name: str, calls: Sequence[_Call]) -> list[_Call]:
    return [call for call in calls if call.name == name]


def _recorded(modules: Mapping[str, Module], names: Collection[str], *, copied: Collection[str], run: Callable[[], Any]) -> list[_Call]:
    """Return the calls of the modules `names`, in the order in which they start; those of modules in `copied` keep copies of tensors."""
    seen, open_calls = list[_Call](), list[_Call]()

    def begin(name: str, args: tuple[Any, ...], _named: Any) -> None:
        given = args[0] if args and isinstance(args[0], Tensor) else torch.empty(0)
        call = _Call(name, given, given._version, given.clone() if name in copied else None)
        seen.append(call)
        open_calls.append(call)

    def end(name: str, output: Any) -> None:
        call = open_calls.pop()
        if isinstance(output, Tensor):
            call.made, call.made_version = output, output._version
            call.after = output.clone() if name in copied else None

    with torch.no_grad(), hooked({name: modules[name] for name in names}, before=begin, after=end, first=True):
        run()
    return seen


def find_sites(
    modules: Mapping[str, Module], runs: Sequence[Callable[[], Any]], *, without: Collection[str], until: str | None
) -> list[Site]:
    """Return the hook points of a network in the order of execution.
    There is one behind each linear layer or convolution that is called as a module, or behind the BatchNorm that directly follows it.
    Layers that share or compute their weights (weight norm, weight standardisation) have none, nor do values whose rows do not each belong
    to one example.
    `modules` maps names to modules in inference mode. The search ends at the first call of the layer `until`; None searches the whole
    run."""
    norms = [name for name, module in modules.items() if isinstance(module, _BatchNorm) and isinstance(module.weight, Parameter)]
    own = [name for name in norms if type(modules[name]).forward is not _BatchNorm.forward]
    parts = [f"{name}.{child}" for name in own for child, _ in modules[name].named_children()]
    shared = shared_weights(modules)
    linear = [name for name, module in modules.items() if name not in without and name not in shared and _folds(module)]
    names = list(dict.fromkeys([*linear, *norms, *(part for part in parts if part in modules), *([until] if until else [])]))
    two, three, same = (_recorded(modules, names, copied={*own, *parts}, run=run) for run in runs)
    end = next((index for index, call in enumerate(two) if call.name == until), len(two))
    found = []
    for name in dict.fromkeys(call.name for call in two[:end] if call.name in set(linear)):
        site = _site_behind(name, modules, seen=two, norms=[norm for norm in norms if norm not in shared])
        factor = _factor(site, two, three, same) if _works(name, modules, calls=_of(name, two)) else 0
        found += [replace(site, factor=factor)] if factor else []
    return found


def shared_weights(modules: Mapping[str, Module]) -> set[str]:
    """Return the names of the `modules` that share one of their own parameters with another module."""
    owners = Counter(id(parameter) for module in modules.values() for parameter in module._parameters.values() if parameter is not None)
    return {name for name, module in modules.items() if any(owners[id(own)] > 1 for own in module._parameters.values() if own is not None)}


def _folds(module: Module) -> bool:
    """Tell whether this is a linear layer or convolution with a floating-point parameter as weight, and a parameter or none as bias."""
    weight = module._parameters.get("weight")
    linear = (isinstance(module, _LINEAR) or _is_turned(module)) and "bias" in module._parameters
    return linear and weight is not None and weight.is_floating_point() and not dict(module.named_children())


def _works(name: str, modules: Mapping[str, Module], *, calls: Sequence[_Call]) -> bool:
    """Tell whether a layer returns a tensor and, if its forward is its own, depends on weight and bias in the usual way.
    That is, doubling the weights doubles the output, and adding one to the bias adds one to the output."""
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


def _site_behind(name: str, modules: Mapping[str, Module], *, seen: Sequence[_Call], norms: Sequence[str]) -> Site:
    """Return the hook point behind a layer, or behind the BatchNorm that follows it at each of its calls."""
    module = modules[name]
    plain = Site(name, name, False, isinstance(module, torch.nn.Linear) or _is_turned(module), _channels(module))
    calls = _of(name, seen)

    def reads(call: _Call) -> bool:
        return any(call.given is made.made and call.version == made.made_version for made in calls)

    behind = {call.name for call in seen if reads(call)}
    norm = next((norm for norm in norms if norm in behind), None)
    if norm is None or len(_of(norm, seen)) != len(calls) or not all(map(reads, _of(norm, seen))):
        return plain
    place = _place_of(norm, cast(_BatchNorm, modules[norm]), seen=seen)
    channels = cast(_BatchNorm, modules[norm]).num_features
    return plain if place is None else Site(norm, place[0], place[1], False, channels)


def _place_of(name: str, norm: _BatchNorm, *, seen: Sequence[_Call]) -> tuple[str, bool] | None:
    """Return the module whose output (True: input) holds a BatchNorm's values: some BatchNorms call their activation themselves."""
    if type(norm).forward is _BatchNorm.forward:
        return name, False
    call = _of(name, seen)[0]
    if call.before is None or norm.running_mean is None or norm.running_var is None:
        return None
    values = torch.nn.functional.batch_norm(call.before, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    if call.after is not None and call.after.shape == values.shape and torch.allclose(call.after, values, rtol=1e-4, atol=1e-5):
        return name, False
    first = seen[seen.index(call) + 1 :][:1]
    inside = bool(first) and first[0].name.startswith(f"{name}.") and first[0].before is not None
    if inside and torch.allclose(cast(Tensor, first[0].before), values, rtol=1e-4, atol=1e-5):
        return first[0].name, True
    return None


def _factor(site: Site, *runs: Sequence[_Call]) -> int:
    """Return the number of consecutive rows per example at a hook point; 0 if rows do not belong to single examples.
    The `runs` are of two examples, of three, and of one example twice."""
    calls = [[call for call in _of(site.place, run) if call.made is not None] for run in runs]
    two, _, same = values = [[cast(Tensor, call.given if site.before else call.made) for call in run] for run in calls]
    rows = [[len(value) for value in run if value.ndim >= 2] for run in values]
    if not rows[0] or rows[0] != rows[2] or len(set(rows[0])) > 1 or [size * 3 for size in rows[0]] != [size * 2 for size in rows[1]]:
        return 0
    factor, rest = divmod(rows[0][0], 2)
    axis = -1 if site.last else 1
    if rest or any(value.shape[axis] != site.channels for value in two):
        return 0
    if factor == 1:
        return 1
    alike = all(torch.allclose(one[:factor], other[:factor], rtol=1e-3, atol=1e-4) for one, other in zip(two, same, strict=True))
    return factor if alike else 0


def fold_(layer: Module, *, scale: Tensor | None = None, shift: Tensor | None = None) -> bool:
    """Fold a channel-wise scale (C,) and shift (C,) of a layer's output into its weight and bias. None leaves them unchanged.
    Return whether a bias had to be created."""
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
    """Give a linear layer or convolution a bias of zeros."""
    target: Any = layer
    target.bias = Parameter(target.weight.new_zeros(_channels(layer)))
