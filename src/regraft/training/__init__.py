"""The training loop and its parts."""

from .checkpoints import Checkpoint, clear_
from .feeds import CachedFeed, Feed, HeadFeed, WholeFeed
from .loop import Training, all_logits, train
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
    "all_logits",
    "clear_",
    "train",
]
