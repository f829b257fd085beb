"""Data: reading, splitting, and preprocessing for a network."""

from .check import checked
from .dataset import Dataset, check_trainable
from .prepared import PreparedData
from .preprocessings.array_preprocessing import ArrayPreprocessing
from .preprocessings.audio_preprocessing import AudioPreprocessing
from .preprocessings.columns_preprocessing import ColumnsPreprocessing
from .preprocessings.conditions_preprocessing import ConditionsPreprocessing, with_conditions
from .preprocessings.function_preprocessing import preprocessing_of_function
from .preprocessings.image_preprocessing import ImagePreprocessing, with_channels
from .preprocessings.parts_preprocessing import PartsPreprocessing
from .preprocessings.preprocessing import Preprocessing, default_preprocessing
from .preprocessings.preprocessing import from_dict as preprocessing_from_dict
from .preprocessings.text_preprocessing import TextPreprocessing
from .read import read
from .summary import Summary
from .targets import Targets

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
