"""How a data set goes with a network: which preprocessing, and what the outputs are called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..data import ArrayPreprocessing, Dataset, Preprocessing, default_preprocessing, preprocessing_from_dict
from ..errors import DataError
from ..networks.contract import Network

__all__ = ["output_names", "preprocessing_for"]


def output_names(data: Dataset) -> tuple[str, ...]:
    """Return what the outputs of a network for these data are called.

    Args:
        data: the data.

    Returns:
        The class names, or, for regression, "output 0", "output 1", ….
    """
    return data.classes or tuple(f"output {index}" for index in range(int(np.prod(data.targets.shape[1:], dtype=int))))


def preprocessing_for(net: Network, data: Dataset) -> Preprocessing:
    """Return the network's own preprocessing, or one inferred from its input shape and the kind of the data.

    Args:
        net: with its preprocessing, which says whether it was only inferred.
        data: the items.

    Returns:
        The preprocessing, not yet fitted to the data.

    Raises:
        DataError: if the kind of the data does not go with the network.
    """
    own = preprocessing_from_dict(net.preprocessing.to_dict())
    if not own.inferred:
        if data.kind not in (own.kind, "array"):
            raise DataError(
                f"The network takes items of the kind {own.kind!r}; received data of the kind {data.kind!r}. "
                f"Read them with kind={own.kind!r}."
            )
        return own
    if data.kind == "array" and isinstance(own, ArrayPreprocessing):
        return _for_arrays(net, own, shape=tuple(np.shape(data[0])))
    return own if data.kind == own.kind else default_preprocessing(data.kind, net.input_shape, net.layout)


def _for_arrays(net: Network, own: ArrayPreprocessing, *, shape: tuple[int, ...]) -> Preprocessing:
    """Return the preprocessing of arrays of one shape, where the network's own was inferred."""
    if not net.input_guessed:
        return own
    if own.integers:
        return replace(own, shape=shape)
    channels = net.input_shape[0] if len(net.input_shape) == 3 and net.layout == "channels_first" else None
    if channels in (1, 3) and (len(shape) == 2 or (len(shape) == 3 and shape[0] != channels and shape[2] in (1, 3, 4))):
        return default_preprocessing("image", (channels, *shape[:2]), net.layout)
    return default_preprocessing("array", shape, net.layout) if len(shape) == len(net.input_shape) else own
