"""Operations that change a network's heads. Class weights are matched by class name."""

from .branch import branch
from .combine import combine
from .ends import cut, join
from .extend import extend, extension_figures
from .retarget import retarget
from .stack import stack

__all__ = ["branch", "combine", "cut", "extend", "extension_figures", "join", "retarget", "stack"]
