"""Values scaled, and shifted, by channel: the formulas of the strategy `scale_shift`, on the tensors that both families compute with."""

from __future__ import annotations

from torch import Tensor

__all__ = ["film", "lhuc"]


def lhuc(amplitudes: Tensor) -> Tensor:
    """Return the scale r(a) = 2 sigmoid(a) of each channel, between 0 and 2; a = 0 changes nothing.

    `amplitudes`: a, (C,); result: (C,).

    Source: learning hidden unit contributions (Swietojanski & Renals, SLT 2014, equation 2; arXiv:1601.02828, equations 3 and 4).
    Deviation: the scale stands before the activation (behind BatchNorm), where it can be folded into the weights; behind a ReLU that
    is the same.
    """
    return 2 * amplitudes.sigmoid()


def film(values: Tensor, scale: Tensor, *, shift: Tensor | None = None) -> Tensor:
    """Return values scaled and shifted by channel: g h + b; g = 1 and b = 0 change nothing.

    `scale`: g, of a shape that goes together with it; `shift`: b, likewise; None for none.

    Source: FiLM (Perez et al., AAAI 2018, equation 2) and SSF (Lian et al., NeurIPS 2022, equation 3). Deviation: g and b are learned
    as such, for all items alike; they stand behind linear layers, convolutions and BatchNorm, not behind attention or LayerNorm.
    """
    return values * scale if shift is None else values * scale + shift
