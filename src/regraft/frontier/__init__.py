"""Where the frozen part ends and the trainable part begins: the cut, and the cache of what crosses it."""

from .cache import ActivationCache, CacheEntry, clear_caches, list_caches
from .cut import Cut, Live, Refusal, find_cut
from .run import Counter, FrozenPass, default_cache_folder
from .selection import cacheable_layers, frozen_up_to, frozen_up_to_head

__all__ = [
    "ActivationCache",
    "CacheEntry",
    "Counter",
    "Cut",
    "FrozenPass",
    "Live",
    "Refusal",
    "cacheable_layers",
    "clear_caches",
    "default_cache_folder",
    "find_cut",
    "frozen_up_to",
    "frozen_up_to_head",
    "list_caches",
]
