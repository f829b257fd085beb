"""Batches of tokens without their padding, for networks whose results do not depend on it."""

from __future__ import annotations

from collections.abc import Callable

from ..tensors import Tensor, torch
from .parts.protocols import Inputs, by_name, chosen_rows

CHUNK = 256  # Number of examples that are sorted by length together
MULTIPLE = 8  # Lengths are rounded up to it
_PROVED = 4  # Number of examples that are computed with and without padding
_ROUNDING = 1e-5  # Maximum rounding difference, relative to the largest value
_SAVED = 0.2  # Minimum share of the positions that must be padding
_LARGEST = 2**18  # Maximum size in bytes of an example's other inputs, of which `CHUNK` are held at once
_OF_TOKENS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")  # Inputs that the attention mask describes

Values = Callable[[Inputs], list[Tensor]]


def lengths(inputs: Inputs) -> Tensor | None:
    """Return how many leading positions each example needs, (n,) int64, by the last one that the attention mask keeps, rounded up.
    An example of which the mask keeps nothing needs all of them. None if `inputs` hold no mask (n, L)."""
    kept = _kept(inputs)
    return None if kept is None else (-(-kept // MULTIPLE) * MULTIPLE).clamp(max=_positions(inputs))


def shortened(inputs: Inputs) -> Inputs:
    """Return a batch without the last positions that none of its examples needs. Inputs that the attention mask may not describe, such as
    the tokens of a second text, stay whole."""
    needed = lengths(inputs)
    return inputs if needed is None else _cut(inputs, int(needed.max()))


def takes_mask(sample: Inputs) -> bool:
    """Return whether a network with this `sample` takes an attention mask, which tells padding from tokens."""
    return isinstance(sample, dict) and "attention_mask" in sample


def sorts_by_length(sample: Inputs) -> bool:
    """Return whether `CHUNK` examples of a network with this `sample` may be held and sorted: it takes an attention mask, and nothing as
    large as pictures beside the tokens."""
    if not takes_mask(sample):
        return False
    others = (tensor for name, tensor in by_name(sample).items() if name not in _OF_TOKENS)
    return sum(tensor[:1].numel() * tensor.element_size() for tensor in others) <= _LARGEST


def by_length(run: Values, inputs: Inputs, *, batch_size: int, skips: bool = True) -> list[Tensor]:
    """Run a batch in parts of `batch_size` examples of similar length, without the padding that a part does not need.
    The results (n, …) are in the order of the examples. If `skips` is False, or without a mask (n, L), the parts keep order and padding."""
    needed, count = lengths(inputs), len(next(iter(by_name(inputs).values())))
    order = needed.argsort(stable=True) if skips and needed is not None else torch.arange(count)
    chosen = [chosen_rows(inputs, rows.tolist()) for rows in torch.split(order, batch_size)]
    parts = [run(shortened(part) if skips else part) for part in chosen]
    back = order.argsort()
    return [torch.cat(values)[back.to(values[0].device)] for values in zip(*parts, strict=True)]


def skips_padding(run: Values, inputs: Inputs) -> bool:
    """Return whether a function gives the same results without padding, proved on the shortest examples of a batch.
    False if the batch has none, or too little padding for `by_length` to save time."""
    needed = lengths(inputs)
    if needed is None or float(needed.float().mean()) > (1 - _SAVED) * _positions(inputs):
        return False
    return _agrees(run, inputs) is True


def reads_padding(run: Values, inputs: Inputs) -> bool:
    """Return whether the results of a function depend on padding, shown by the shortest examples of a batch. False if they have none."""
    return _agrees(run, inputs) is False


def _agrees(run: Values, inputs: Inputs) -> bool | None:
    """Return whether the shortest examples give the same results without their padding. It is cut off right behind the last token, so that
    a layer that reads the neighbours of a token shows. None if there is no padding, or the function runs on one length alone."""
    kept = _kept(inputs)
    if kept is None:
        return None
    chosen = kept.argsort(stable=True)[:_PROVED]
    length = int(kept[chosen].max())
    if length == _positions(inputs):
        return None
    few = chosen_rows(inputs, chosen.tolist())
    try:
        with torch.no_grad():
            return all(map(_near, run(few), run(_cut(few, length))))
    except Exception:  # layers of a user's own may raise anything on another length
        return None


def _kept(inputs: Inputs) -> Tensor | None:
    """Return one more than the last position that the attention mask keeps of each example, (n,) int64; all positions if it keeps none."""
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    if mask is None or mask.ndim != 2 or not mask.shape[1]:
        return None
    last = (torch.arange(1, mask.shape[1] + 1) * (mask != 0).cpu()).amax(1)
    return last.masked_fill(last == 0, mask.shape[1])


def _positions(inputs: Inputs) -> int:
    return by_name(inputs)["attention_mask"].shape[1]


def _cut(inputs: Inputs, length: int) -> Inputs:
    named = by_name(inputs)
    whole = named["attention_mask"].shape
    return {name: tensor[:, :length] if name in _OF_TOKENS and tensor.shape == whole else tensor for name, tensor in named.items()}


def _near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or not bool(one.isfinite().all()):
        return False
    return float((one - other).abs().max()) <= _ROUNDING * float(one.abs().max())
