"""The freeze boundary between frozen and trainable part, and the cache of the frozen part's outputs."""

from .cache import ActivationCache
from .cut import Cut, LiveOutput, Refusal, find_cut
from .engines import ENGINES, check_engine
from .run import Counter, FrozenPass, RunCaches, default_cache_folder
from .selection import (
    added_parameters,
    cacheable_layers,
    counted_layers,
    frozen_before,
    frozen_but,
    frozen_up_to,
    frozen_up_to_head,
    head_parameters,
    held_layers,
    matching_layers,
)
from .storage import CacheEntry, clear_caches, list_caches
from .whole import WholePass, whole_pass

__all__ = [
    "ENGINES",
    "ActivationCache",
    "CacheEntry",
    "Counter",
    "Cut",
    "FrozenPass",
    "LiveOutput",
    "Refusal",
    "RunCaches",
    "WholePass",
    "added_parameters",
    "cacheable_layers",
    "check_engine",
    "clear_caches",
    "counted_layers",
    "default_cache_folder",
    "find_cut",
    "frozen_before",
    "frozen_but",
    "frozen_up_to",
    "frozen_up_to_head",
    "head_parameters",
    "held_layers",
    "list_caches",
    "matching_layers",
    "whole_pass",
]
