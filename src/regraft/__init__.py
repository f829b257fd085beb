"""Bring the network you trained and the data you now have; regraft gives back the adapted network.

Names are loaded when they are first used: `import regraft` imports neither torch nor keras.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Dataset
    from .errors import RegraftError
    from .heads import branch, cut, extend, join, retarget, stack
    from .networks.contract import Network
    from .planning import Plan, Result
    from .verbs import adapt, load, read

__all__ = [
    "Dataset",
    "Network",
    "Plan",
    "RegraftError",
    "Result",
    "adapt",
    "branch",
    "cut",
    "extend",
    "join",
    "load",
    "read",
    "retarget",
    "stack",
]

_HOMES = {
    "Dataset": "data",
    "Network": "networks.contract",
    "Plan": "planning",
    "RegraftError": "errors",
    "Result": "planning",
    "adapt": "verbs",
    "branch": "heads",
    "cut": "heads",
    "extend": "heads",
    "join": "heads",
    "load": "verbs",
    "read": "verbs",
    "retarget": "heads",
    "stack": "heads",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'regraft' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
