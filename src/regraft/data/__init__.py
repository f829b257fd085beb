"""Data: reading them, splitting them, and bringing them to the form that a network takes."""

from .array_preprocessing import ArrayPreprocessing
from .audio_preprocessing import AudioPreprocessing
from .check import checked
from .dataset import Dataset, check_trainable
from .image_preprocessing import ImagePreprocessing
from .prepared import Prepared
from .preprocessing import Preprocessing, collate, default_preprocessing
from .preprocessing import from_dict as preprocessing_from_dict
from .read import read
from .text_preprocessing import TextPreprocessing

__all__ = [
    "ArrayPreprocessing",
    "AudioPreprocessing",
    "Dataset",
    "ImagePreprocessing",
    "Prepared",
    "Preprocessing",
    "TextPreprocessing",
    "check_trainable",
    "checked",
    "collate",
    "default_preprocessing",
    "preprocessing_from_dict",
    "read",
]
