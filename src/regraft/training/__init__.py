"""The one training loop, and what it needs."""

from .checkpoints import Checkpoint, clear_
from .feeds import CachedFeed, Feed, HeadFeed, WholeFeed
from .loop import Training, all_raw_scores, find_rate, raw_scores, train
from .objective import Objective, TaskObjective
from .settings import Settings

__all__ = [
    "CachedFeed",
    "Checkpoint",
    "Feed",
    "HeadFeed",
    "Objective",
    "Settings",
    "TaskObjective",
    "Training",
    "WholeFeed",
    "all_raw_scores",
    "clear_",
    "find_rate",
    "raw_scores",
    "train",
]
