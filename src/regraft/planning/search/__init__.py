"""Search for the best plan on folds of the data, evaluated once on the holdout set; and the scikit-learn estimators.

The folder is inside `planning` because a module `regraft.search` would hide the function of that name.
"""

from .estimators import TransferClassifier, TransferRegressor
from .searching import Asked, arguments_of, first_of, run_search
from .space import Range, Space, default_space
from .study import Study, TrialRecord

__all__ = [
    "Asked",
    "Range",
    "Space",
    "Study",
    "TransferClassifier",
    "TransferRegressor",
    "TrialRecord",
    "arguments_of",
    "default_space",
    "first_of",
    "run_search",
]
