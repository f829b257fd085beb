"""The one training loop, and what it needs."""

from .checkpoints import Checkpoint
from .feeds import CachedFeed, Feed, HeadFeed, WholeFeed
from .loop import Objective, Training, raw_scores, train
from .settings import Settings

__all__ = ["CachedFeed", "Checkpoint", "Feed", "HeadFeed", "Objective", "Settings", "Training", "WholeFeed", "raw_scores", "train"]
