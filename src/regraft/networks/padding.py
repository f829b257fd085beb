"""Batches of tokens without their padding, for networks whose results do not depend on it."""

from __future__ import annotations

from collections.abc import Callable

from ..tensors import Tensor, torch
from .parts.protocols import Inputs, changed

CHUNK = 256  # Number of examples that are sorted by length together
MULTIPLE = 8  # Lengths are rounded up to it
_PROVED = 4  # Number of examples that are computed with and without padding
_ROUNDING = 1e-5  # Maximum rounding difference, relative to the largest value
_SAVED = 0.2  # Minimum share of the positions that must be padding

Values = Callable[[Inputs], list[Tensor]]


def lengths(inputs: Inputs) -> Tensor | None:
    """Return how many leading positions each example needs, (n,) int64, by the last one that the attention mask keeps, rounded up.
    None if `inputs` hold no mask (n, L)."""
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    if mask is None or mask.ndim != 2 or not mask.shape[1]:
        return None
    last = (torch.arange(1, mask.shape[1] + 1) * (mask != 0).cpu()).amax(1).clamp(min=1)
    return (-(-last // MULTIPLE) * MULTIPLE).clamp(max=mask.shape[1])


def shortened(inputs: Inputs) -> Inputs:
    """Return a batch without the last positions that none of its examples needs."""
    needed = lengths(inputs)
    if needed is None or not isinstance(inputs, dict):
        return inputs
    whole, length = inputs["attention_mask"].shape, int(needed.max())
    return {
        name: tensor[:, :length] if name.endswith(("ids", "mask")) and tensor.shape == whole else tensor for name, tensor in inputs.items()
    }


def takes_mask(sample: Inputs) -> bool:
    """Return whether a network with this `sample` takes an attention mask, which tells padding from tokens."""
    return isinstance(sample, dict) and "attention_mask" in sample


def by_length(run: Values, inputs: Inputs, *, batch_size: int, skips: bool = True) -> list[Tensor]:
    """Run a batch in parts of `batch_size` examples of similar length, without the padding that a part does not need.
    The results (n, …) are in the order of the examples. If `skips` is False, the parts keep order and padding."""
    needed = lengths(inputs)
    if needed is None:
        return run(inputs)
    order = needed.argsort(stable=True) if skips else torch.arange(len(needed))
    parts = [run(shortened(part) if skips else part) for chosen in torch.split(order, batch_size) if (part := _rows(inputs, chosen))]
    back = order.argsort()
    return [torch.cat(values)[back.to(values[0].device)] for values in zip(*parts, strict=True)]


def skips_padding(run: Values, inputs: Inputs) -> bool:
    """Return whether a function gives the same results without padding, proved on the shortest examples of a batch.
    False if the batch has none, or too little padding for `by_length` to save time."""
    needed = lengths(inputs)
    if needed is None:
        return False
    length = inputs["attention_mask"].shape[1] if isinstance(inputs, dict) else 0
    chosen = needed.argsort(stable=True)[:_PROVED]
    if float(needed.float().mean()) > (1 - _SAVED) * length or int(needed[chosen].max()) == length:
        return False
    few = _rows(inputs, chosen)
    try:
        with torch.no_grad():
            return all(map(_near, run(few), run(shortened(few))))
    except Exception:  # layers of a user's own may raise anything on another length
        return False


def _rows(inputs: Inputs, chosen: Tensor) -> Inputs:
    return changed(inputs, lambda tensor: tensor[chosen.to(tensor.device)])


def _near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not bool(one.isfinite().all()):
        return False
    return float((one - other).abs().max()) <= _ROUNDING * float(one.abs().max())
