"""Bring the network you trained and the data you now have; regraft gives back the adapted network.

Names are loaded when they are first used: `import regraft` imports neither torch nor keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .data import Dataset, read
    from .errors import RegraftError
    from .heads.branch import branch
    from .heads.combine import combine
    from .heads.ends import cut, join
    from .heads.retarget import retarget
    from .heads.stack import stack
    from .networks.network import Network
    from .planning import Plan, Result
    from .planning.extending import Extension
    from .planning.profiling import Profile
    from .planning.search import Study, TransferClassifier, TransferRegressor
    from .tasks.evaluating import Evaluation
    from .verbs import adapt, adapt_condition, check, evaluate, extend, fold, load, predict, profile, search, tune_input

__all__ = [
    "Dataset",
    "Evaluation",
    "Extension",
    "Network",
    "Plan",
    "Profile",
    "RegraftError",
    "Result",
    "Study",
    "TransferClassifier",
    "TransferRegressor",
    "adapt",
    "adapt_condition",
    "branch",
    "check",
    "combine",
    "cut",
    "evaluate",
    "extend",
    "fold",
    "join",
    "load",
    "predict",
    "profile",
    "read",
    "retarget",
    "search",
    "stack",
    "tune_input",
]

_HOMES = {
    "data": ("Dataset", "read"),
    "errors": ("RegraftError",),
    "heads": ("branch", "combine", "cut", "join", "retarget", "stack"),
    "networks.network": ("Network",),
    "planning": ("Plan", "Result"),
    "planning.extending": ("Extension",),
    "planning.profiling": ("Profile",),
    "planning.search": ("Study", "TransferClassifier", "TransferRegressor"),
    "tasks.evaluating": ("Evaluation",),
    "verbs": ("adapt", "adapt_condition", "check", "evaluate", "extend", "fold", "load", "predict", "profile", "search", "tune_input"),
}
"""Module -> public names in it."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("regraft")
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        near = "" if name.startswith("_") else importlib.import_module(".errors", __name__).near_names(name, __all__)
        raise AttributeError(f"module 'regraft' has no attribute {name!r}{near}")
    return getattr(importlib.import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
