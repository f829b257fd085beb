"""Heads whose logits are the sum of several layers' outputs, some of them perhaps after a maximum over positions."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..parts.head import Head, HeadLocation
from ..tracing import Trace, as_tensor, capture, head_reading

Share = tuple[str, float]  # The name of a linear layer and the factor of its output in the sum
_MOST = 8  # Largest number of layers in one sum
_TOLERANCE = 1e-4


def summed_layers(seen: Trace, names: Sequence[str]) -> tuple[tuple[Share, ...], str] | None:
    """Find the layers, of those called `names`, whose outputs, each times a factor, sum to the logits behind the result (N, C).
    A layer that reads the output of another one is not part of a head: such a sum is a residual connection.
    Return the layers with their factors and the activation of the sum; None unless there are at least two."""
    result = cast(Tensor, seen.main)
    outputs = {name: seen.outputs[name] for name in names}
    outputs = {name: output for name, output in outputs.items() if isinstance(output, Tensor) and output.shape == result.shape}
    if len(outputs) < 2:
        return None
    for activation, before, free in (("linear", lambda x: x, False), ("softmax", torch.log, True), ("sigmoid", torch.logit, False)):
        shares = _shares(outputs, before(result.double()), free=free)
        if shares is not None and not _reads_another(seen, [name for name, _ in shares]):
            return shares, activation
    return None


def _shares(outputs: Mapping[str, Tensor], logits: Tensor, *, free: bool) -> tuple[Share, ...] | None:
    """Return the factors with which the outputs sum to `logits`. If `free`, ignore an offset per example."""
    if not logits.isfinite().all() or logits.abs().max() == 0:
        return None
    if len(outputs) + 2 > logits.numel() - free * len(logits):  # too few equations: they would fit any logits
        return None
    columns = [output.double() for output in outputs.values()]
    if free:
        columns, logits = [column - column.mean(1, keepdim=True) for column in columns], logits - logits.mean(1, keepdim=True)
    matrix, wanted = torch.stack([column.flatten() for column in columns], 1), logits.flatten()[:, None]
    found = torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution
    if not torch.allclose(matrix @ found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE * float(wanted.abs().max())):
        return None
    values = dict(zip(outputs, found[:, 0].tolist(), strict=True))
    shares = [(name, Fraction(value).limit_denominator(100), value) for name, value in values.items() if abs(value) > 10 * _TOLERANCE]
    exact = all(share > 0 and abs(float(share) - value) < 10 * _TOLERANCE for _, share, value in shares)
    return tuple((name, float(share)) for name, share, _ in shares) if exact and 2 <= len(shares) <= _MOST else None


def _reads_another(seen: Trace, names: Sequence[str]) -> bool:
    """Tell whether one of the layers reads what another one's output contributes to."""
    layers = [seen.modules[name] for name in names]
    for spoilt in layers:
        others = [layer for layer in layers if layer is not spoilt]
        with ExitStack() as stack, torch.no_grad():
            stack.callback(spoilt.register_forward_hook(lambda _module, _args, output: torch.full_like(output, torch.nan)).remove)
            read = [stack.enter_context(capture(layer)) for layer in others]
            try:
                seen.run()
                if any(bool(one["input"].isnan().any()) for one in read):
                    return True
            except Exception:  # a forward may raise anything on NaN
                return True
    return False


def head_with_more(seen: Trace, names: Sequence[str]) -> HeadLocation | None:
    """Return the head, of the layers `names`, whose output is the result (N, C) once those beside it give zeros; None if there is none."""
    own = _of_one_logit_each(seen, names)
    if len(own) < 2 or _reads_another(seen, own):
        return None
    for main in (name for name in reversed(own) if seen.outputs[name].shape == cast(Tensor, seen.main).shape):
        beside = tuple(name for name in own if name != main)
        alone = _changed_run(seen, {name: torch.zeros_like for name in beside})
        if head_reading(seen.outputs[main], alone, channels_last=True) == "linear":
            return HeadLocation(main, "linear", whole=True, beside=beside)
    return None


def layers_beside(seen: Trace, names: Sequence[str], *, main: str) -> tuple[str, ...]:
    """Return those of the layers `names` that add to the result (N, C) beside `main`, perhaps after a maximum over positions.
    These are the layers of which each output moves one logit: its own. None of them reads what another one gives."""
    beside = _of_one_logit_each(seen, [name for name in names if name != main])
    return () if not beside or _reads_another(seen, (main, *beside)) else tuple(beside)


def _of_one_logit_each(seen: Trace, names: Sequence[str]) -> list[str]:
    """Return the layers of which each output moves one logit of the result (N, C): its own."""
    result = cast(Tensor, seen.main)
    count = result.shape[1] if result.is_floating_point() else 0

    def moved(name: str, column: int) -> list[int]:
        def more(output: Tensor) -> Tensor:
            changed = output.clone()
            changed[..., column] += 1 + output.abs().max()
            return changed

        gap = (_changed_run(seen, {name: more}) - result).abs()
        return torch.nonzero((gap > _TOLERANCE * (1 + result.abs())).any(0)).flatten().tolist()

    wide = [name for name in names if isinstance(seen.outputs[name], Tensor) and seen.outputs[name].shape[-1] == count]
    return [name for name in wide if count > 1 and all(moved(name, column) == [column] for column in (0, count - 1))]


def _changed_run(seen: Trace, changes: Mapping[str, Callable[[Tensor], Tensor]]) -> Tensor:
    """Return the result of a run in which the outputs of some modules are changed; NaN if it fails."""
    with ExitStack() as stack, torch.no_grad():
        for name, change in changes.items():
            stack.callback(seen.modules[name].register_forward_hook(lambda _module, _args, output, change=change: change(output)).remove)
        try:
            found = as_tensor(seen.run())
        except Exception:  # a forward may raise anything on other values
            found = None
    return torch.tensor([[torch.nan]]) if found is None else found


def carried_rows(rows: tuple[np.ndarray, np.ndarray], *, old: Head, new: Head) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight (C, d) and bias (C,) of a layer beside a head for its new classes, from the `rows` for its old ones.
    A class whose weights in the head stay keeps its row; the row of any other class is zero."""
    places = {row.tobytes(): at for at, row in enumerate(np.column_stack([old.weight, old.bias])) if row.any()}
    found = [places.get(row.tobytes(), -1) for row in np.column_stack([new.weight, new.bias])]
    weight, bias = (np.concatenate([values, np.zeros_like(values[:1])]) for values in rows)
    return weight[found], bias[found]


def joined_rows(rows: Sequence[tuple[np.ndarray, np.ndarray]], shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the class weights of one head over the concatenated features of several layers.
    `rows` holds the weight (C, d) and bias (C,) of each layer. The result is (C, sum of all d) and (C,)."""
    pairs = list(zip(rows, shares, strict=True))
    weight = np.concatenate([np.float32(share) * weight for (weight, _), share in pairs], 1)
    return weight, np.stack([np.float32(share) * bias for (_, bias), share in pairs]).sum(0)
