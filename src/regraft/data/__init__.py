"""Data: reading them, splitting them, and bringing them to the form that a network takes."""

from .check import checked
from .dataset import Dataset, check_trainable
from .prepared import Prepared
from .preprocessings.array_preprocessing import ArrayPreprocessing
from .preprocessings.audio_preprocessing import AudioPreprocessing
from .preprocessings.columns_preprocessing import ColumnsPreprocessing
from .preprocessings.conditions_preprocessing import ConditionsPreprocessing, known_conditions, with_conditions, without_conditions
from .preprocessings.function_preprocessing import preprocessing_of_function
from .preprocessings.image_preprocessing import ImagePreprocessing, with_channels
from .preprocessings.preprocessing import Preprocessing, collate, default_preprocessing
from .preprocessings.preprocessing import from_dict as preprocessing_from_dict
from .preprocessings.text_preprocessing import TextPreprocessing
from .read import read
from .targets import Targets

__all__ = [
    "ArrayPreprocessing",
    "AudioPreprocessing",
    "ColumnsPreprocessing",
    "ConditionsPreprocessing",
    "Dataset",
    "ImagePreprocessing",
    "Prepared",
    "Preprocessing",
    "Targets",
    "TextPreprocessing",
    "check_trainable",
    "checked",
    "collate",
    "default_preprocessing",
    "known_conditions",
    "preprocessing_from_dict",
    "preprocessing_of_function",
    "read",
    "with_channels",
    "with_conditions",
    "without_conditions",
]
