"""Preprocessing of pictures for a network that stores none, found by measuring."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, ImagePreprocessing
from ..data.items import take
from ..networks.network import Inputs, Network
from ..networks.norms import misfit, norms_of
from ..probes import fit_ridge
from ..words import counted

ASKED = 128  # Number of examples, spread evenly over the data, with which candidates are compared
MADE = 48  # Number of generated pictures for the comparison: they keep a white or a dark data set from suggesting another scale
BATCH = 16
LEAST = 20  # Smallest number of labelled examples for comparing held-out losses
OWN, OWN_ONLY = "mean and deviation of the data", 3.0
"""Standardised data fit every standardised network, so they win only if their misfit is this many times smaller than all others."""
NEAR, SURE, POOR = 1.5, 2.0, 0.3
"""A near tie is a misfit below `NEAR` times the best, or a loss within `SURE_OF_ALL` standard errors; above `POOR`, no candidate fits."""
SURE_OF_ALL = 2.5  # `SURE`, corrected for the comparison with four other candidates (Bonferroni)
HOPELESS = 4.0  # A candidate is dropped if its misfit on the first examples is this many times the best one

_COLOUR = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
_ALONG = (0.2175, 0.0188, 0.0045)
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FALL, _WITHIN, _CONTRAST = 1.3, 0.6, 0.5
_TIE = "this is a near tie"
_OPEN = "without statistics of BatchNorm it shows what suits these data, not what the network was trained with"


@dataclass(frozen=True)
class _Ranking:
    """Comparison of the candidates: order with the best first, the measure, the distance of the first two in words, and its doubts."""

    order: tuple[str, ...]
    by: str
    apart: str
    doubts: tuple[str, ...]

    def words(self) -> str:
        """Return the measurement as a part of a sentence."""
        said = f"measured by {self.by}: {self.order[0]} fits best, then {self.order[1]} ({self.apart})"
        return said + (f"; {', and '.join(self.doubts)}: give preprocessing= if you know it" if self.doubts else "")


def measured_preprocessing(net: Network, data: Dataset, *, own: ImagePreprocessing, rows: np.ndarray | None = None) -> ImagePreprocessing:
    """Return the common preprocessing whose pictures are closest to those that the network was trained with.
    The inputs of its first BatchNorm layers are compared with their running statistics, on the data and on generated pictures that are as
    varied as photographs. Without such layers, ridge regression on its features decides, by the loss on held-out examples.
    `own` is inferred from the network's shape; only the examples `rows` (n,) are used, None for all."""
    if own.channels not in (1, 3) or net.origin.get("weights") == "random":
        return own
    fitted = own.fit(data)
    allowed = np.arange(len(data)) if rows is None else rows
    shown = allowed[np.unique(np.linspace(0, len(allowed) - 1, min(len(allowed), ASKED)).astype(np.int64))]
    if fitted.as_is or not len(shown):
        return own
    pixels = fitted.pixels(take(data.items, shown))
    tried = {name: replace(fitted, **fields) for name, fields in _candidates(pixels, own.channels).items()}
    twin = net.copy()
    twin.mode_(False)
    run = twin.scores if twin.heads else twin.feature_batch
    found = _by_statistics(twin, pixels, tried=tried, run=run) or _by_losses(twin, data.subset(shown), pixels=pixels, tried=tried)
    if found is None:
        return own
    kept = {name: getattr(own, name) for name in ("value_range", "integer_range", "float_range")}  # decided when it is fitted
    return replace(tried[found.order[0]], **kept, inferred=False, measured=found.words())


def _candidates(pixels: Tensor, channels: int) -> dict[str, dict[str, Any]]:
    """Return the fields of each candidate by name; the first is the default without measuring."""
    shares = (pixels / 255).movedim(1, -1).flatten(0, -2).double()
    own = {"mean": tuple(shares.mean(0).tolist()), "std": tuple(shares.std(0).clamp_min(1e-3).tolist())}
    made: dict[str, dict[str, Any]] = {"0..1": {}, "-1..1": {"mean": 0.5, "std": 0.5}}
    if channels == 3:
        made["ImageNet mean and deviation"] = {"mean": _MEAN, "std": _DEVIATION}
        made["ImageNet mean, blue first (Caffe)"] = {"scale": 1.0, "mean": (103.939, 116.779, 123.68), "bgr": True}
    return made | {"0..255": {"scale": 1.0}, OWN: own}


def _by_statistics(
    net: Network, pixels: Tensor, *, tried: Mapping[str, ImagePreprocessing], run: Callable[[Inputs], Any]
) -> _Ranking | None:
    """Compare by the running statistics of the first normalisation layers; None if there are none."""
    modules = net.modules()
    if not norms_of(modules):
        return None
    made = made_pictures(MADE, tuple(pixels.shape[2:]), channels=pixels.shape[1])

    def off_by(name: str, parts: Sequence[Tensor]) -> tuple[float, int]:
        found = [misfit(modules, _batches(tried[name], part), run=run) for part in parts]
        known = [one for one in found if one is not None]
        if len(known) < len(parts):  # the pass reaches none of these layers
            return math.inf, 0
        return (OWN_ONLY * known[0][0], known[0][1]) if name == OWN else min(known)

    first = {name: off_by(name, (pixels[:BATCH], made[:BATCH]))[0] for name in tried}
    if math.inf in first.values():
        return None
    within = sorted(first, key=lambda name: first[name])[:2]
    off = {name: off_by(name, (pixels, made)) for name in tried if name in within or first[name] < HOPELESS * first[within[0]]}
    order = sorted(off, key=lambda name: off[name])
    (best, layers), (second, _) = off[order[0]], off[order[1]]
    by = f"the statistics of the first {layers} normalisation layers" if layers > 1 else "the statistics of a normalisation layer"
    apart = f"misfits {best:.3g} and {second:.3g}"
    doubts = {_TIE: second < NEAR * best, "none fits well": best > POOR}
    return _Ranking(tuple(order), by, apart, tuple(doubt for doubt, holds in doubts.items() if holds))


def _by_losses(net: Network, data: Dataset, *, pixels: Tensor, tried: Mapping[str, ImagePreprocessing]) -> _Ranking | None:
    """Compare by the loss of ridge regression on held-out examples; the default stays unless another is better beyond `SURE_OF_ALL`.
    This finds the scaling that suits the data. On data unlike its training data, a network often does better with another scaling than its
    own, by many standard errors. The words therefore leave open which scaling it was trained with."""
    known = np.flatnonzero(data.known)
    targets = data.targets[known]
    if len(known) < LEAST or not np.ptp(targets, axis=0).any():
        return None
    groups = None if data.groups is None else data.groups[known]
    if groups is not None and len(np.unique(groups)) < LEAST // 4:
        groups = None
    losses = {}
    for name, one in tried.items():
        if name != OWN:
            with torch.no_grad():
                features = torch.cat([net.feature_batch(batch).float().cpu() for batch in _batches(one, pixels[known])]).numpy()
            if not np.isfinite(features).all():
                continue
            probe = fit_ridge(features, targets, kind=data.task, classes=len(data.classes), groups=groups, standardise=True)
            losses[name] = losses_of(probe.loo_scores, targets, kind=data.task)
    usual, *_ = tried
    if len(losses) < 2 or usual not in losses:
        return None
    order = sorted(losses, key=lambda name: float(losses[name].mean()))
    if order[0] != usual and surely(losses[usual] - losses[order[0]]) < SURE_OF_ALL:
        order = [usual, *(name for name in order if name != usual)]
    first, second = losses[order[0]], losses[order[1]]
    by = f"losses of a probe on {counted(len(known), 'example')}, each left out in turn"
    near = any(surely(losses[name] - first) < SURE_OF_ALL for name in order[1:])
    doubts = (f"{_TIE}, so that the default stays" if order[0] == usual else _TIE,) if near else ()
    return _Ranking(tuple(order), by, f"{first.mean():.3g} and {second.mean():.3g}", (*doubts, _OPEN))


def losses_of(scores: np.ndarray, targets: np.ndarray, *, kind: str) -> np.ndarray:
    """Return the loss of each example, (n,), from `scores`, (n, C) logits or (n, …) predictions, and `targets`, (n,) classes or (n, …)."""
    given = torch.as_tensor(scores.reshape(len(scores), -1), dtype=torch.float64)
    if kind == "classification":
        return torch.nn.functional.cross_entropy(given, torch.as_tensor(targets), reduction="none").numpy()
    wanted = torch.as_tensor(targets.reshape(len(targets), -1), dtype=torch.float64)
    if kind == "multi-label":
        return torch.nn.functional.binary_cross_entropy_with_logits(given, wanted, reduction="none").mean(1).numpy()
    return (given - wanted).square().mean(1).numpy()


def surely(differences: np.ndarray) -> float:
    """Return the mean of `differences` (n,) in units of its standard error."""
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences))
    return float(differences.mean()) / error if error else 0.0


def _batches(own: ImagePreprocessing, pixels: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(pixels), BATCH):
        yield own.normalised(pixels[start : start + BATCH])


def made_pictures(count: int, size: tuple[int, ...], *, channels: int) -> Tensor:
    """Return noise (n, channels, height, width) in 0..255 with the variation of photographs in brightness, contrast, colour and detail.
    Source: amplitudes fall with the frequency as in natural scenes (Field, JOSA A 4, 1987; the exponent is that of downscaled pictures).
    Colours vary along the principal components of ImageNet's pixels (Krizhevsky, Sutskever & Hinton, NeurIPS 2012, section 4.1)."""
    drawn = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in size), indexing="ij"))
    frequency[0, 0] = np.inf
    noise = np.fft.ifft2(np.fft.fft2(drawn.normal(size=(count, 3, *size))) * frequency**-_FALL).real
    noise /= noise.std(axis=(2, 3), keepdims=True).clip(1e-9)
    contrast = np.exp(_CONTRAST * drawn.normal(size=(count, 1, 1, 1)))
    contrast /= np.sqrt(np.square(contrast).mean())
    light = drawn.normal(size=(count, 3, 1, 1))
    light = (light - light.mean(0)) / light.std(0).clip(1e-9)
    along = (np.sqrt(_WITHIN) * contrast * noise + np.sqrt(1 - _WITHIN) * light) * np.sqrt(_ALONG).reshape(1, 3, 1, 1)
    colours = np.einsum("ck,nkhw->nchw", np.array(_COLOUR), along) + np.array(_MEAN).reshape(1, 3, 1, 1)
    pictures = torch.from_numpy((colours.clip(0, 1) * 255).astype(np.float32))
    return pictures if channels == 3 else pictures.mean(1, keepdim=True)
