"""Data: reading, splitting, and preprocessing for a network.

Modules that make tensors are imported on first use, so that reading and inspecting data works without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .check import checked
from .dataset import Dataset, check_trainable
from .read import read
from .summary import Summary
from .targets import Targets

if TYPE_CHECKING:
    from .tensors import (
        ArrayPreprocessing,
        AudioPreprocessing,
        ColumnsPreprocessing,
        ConditionsPreprocessing,
        ImagePreprocessing,
        PartsPreprocessing,
        PreparedData,
        Preprocessing,
        TextPreprocessing,
        default_preprocessing,
        preprocessing_from_dict,
        preprocessing_of_function,
        with_channels,
        with_conditions,
    )

__all__ = [
    "ArrayPreprocessing",
    "AudioPreprocessing",
    "ColumnsPreprocessing",
    "ConditionsPreprocessing",
    "Dataset",
    "ImagePreprocessing",
    "PartsPreprocessing",
    "PreparedData",
    "Preprocessing",
    "Summary",
    "Targets",
    "TextPreprocessing",
    "check_trainable",
    "checked",
    "default_preprocessing",
    "preprocessing_from_dict",
    "preprocessing_of_function",
    "read",
    "with_channels",
    "with_conditions",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'regraft.data' has no attribute {name!r}")
    from . import tensors

    return getattr(tensors, name)
