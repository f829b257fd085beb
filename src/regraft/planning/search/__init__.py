"""Search: many plans tried on folds of the data, the best judged once on items that chose nothing; and the scikit-learn classifier.

This folder is no room of its own: a module `regraft.search` would hide the function of that name.
"""

from .estimators import TransferClassifier, TransferRegressor
from .searching import Asked, run_search
from .space import Range, Space, default_space
from .study import Study, TrialRecord

__all__ = ["Asked", "Range", "Space", "Study", "TransferClassifier", "TransferRegressor", "TrialRecord", "default_space", "run_search"]
