"""Scale and shift per channel: the formulas of the strategy `scale_shift`, on the tensors of both families."""

from torch import Tensor


def lhuc(amplitudes: Tensor) -> Tensor:
    """Return the scale r(a) = 2 sigmoid(a) per channel, (C,), between 0 and 2; `amplitudes` a is (C,), and a = 0 is the identity.
    Source: learning hidden unit contributions (Swietojanski & Renals, SLT 2014, equation 2; arXiv:1601.02828, equations 3 and 4).
    Deviation: the scale is applied before the activation (after BatchNorm), where it can be folded into the weights. For a ReLU both
    positions are equivalent."""
    return 2 * amplitudes.sigmoid()


def film(values: Tensor, scale: Tensor, *, shift: Tensor | None = None) -> Tensor:
    """Return `values` h scaled and shifted per channel, g h + b; g = 1 and b = 0 are the identity.
    `scale` g and `shift` b broadcast with the values; `shift` may be None.
    Source: FiLM (Perez et al., AAAI 2018, equation 2) and SSF (Lian et al., NeurIPS 2022, equation 3). Deviation: g and b are free
    parameters, the same for all examples; they follow linear layers, convolutions and BatchNorm, not attention or LayerNorm."""
    return values * scale if shift is None else values * scale + shift
