"""The training loop and its parts."""

from .checkpoints import Checkpoint, InMemory, Store, clear_
from .feeds import CachedFeed, Feed, HeadFeed, WholeFeed
from .loop import Trained, Training, all_logits, train, trained
from .objective import Objective, TaskObjective
from .settings import Settings

__all__ = [
    "CachedFeed",
    "Checkpoint",
    "Feed",
    "HeadFeed",
    "InMemory",
    "Objective",
    "Settings",
    "Store",
    "TaskObjective",
    "Trained",
    "Training",
    "WholeFeed",
    "all_logits",
    "clear_",
    "train",
    "trained",
]
