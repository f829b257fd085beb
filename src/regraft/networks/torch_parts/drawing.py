"""Freshly drawn weights for a PyTorch module."""

from __future__ import annotations

from torch.nn import Module

__all__ = ["draw_"]


def draw_(module: Module) -> None:
    """Draw the parameters of one module anew, as its own `reset_parameters` does.

    Parameters of a module without that (class tokens, position embeddings) come from a normal distribution with the mean and standard
    deviation that they have. Gradients must be off.
    """
    reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    if callable(reset):
        reset()
        return
    for parameter in module.parameters(recurse=False):
        spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
        parameter.normal_(float(parameter.mean()), spread)
