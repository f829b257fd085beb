"""Search for the best plan on folds of the data, evaluated once on the holdout set; and the scikit-learn estimators.

The folder is inside `planning` because a module `regraft.search` would hide the function of that name.
"""

from .estimators import TransferClassifier, TransferRegressor
from .searching import SearchOptions, arguments_of, first_of, run_search
from .study import Study

__all__ = [
    "SearchOptions",
    "Study",
    "TransferClassifier",
    "TransferRegressor",
    "arguments_of",
    "first_of",
    "run_search",
]
