"""All errors that regraft raises on purpose.

    RegraftError
    ├── InputError            the user's input or a setting is wrong (exit code 2 of the commands)
    │   ├── NetworkError      the network cannot be opened, inspected or changed as asked
    │   │   ├── UnsafeFileError     opening the file would run code or read elsewhere
    │   │   └── AmbiguousMatchError weights could go to more than one place
    │   ├── DataError         the data set cannot be used as it stands
    │   ├── SettingError      a setting is unknown or out of its range
    │   └── CacheError        the folder or disk of an activation cache does not serve
    └── MissingExtraError     an optional library is not installed (also an ImportError)

Every message says what was received, what was expected and what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "AmbiguousMatchError",
    "CacheError",
    "DataError",
    "InputError",
    "MissingExtraError",
    "NetworkError",
    "RegraftError",
    "SettingError",
    "UnsafeFileError",
    "near_names",
    "optional_import",
]


class RegraftError(Exception):
    """Root of every error that regraft raises on purpose."""


class InputError(RegraftError, ValueError):
    """The user's input or a setting is wrong; nothing has been started."""


class NetworkError(InputError):
    """A network cannot be opened, inspected or changed as asked."""


class UnsafeFileError(NetworkError):
    """Opening a file would run code that it carries, or read a place that the user did not name."""


class AmbiguousMatchError(NetworkError):
    """Weights of a file could go to more than one place of the network."""


class DataError(InputError):
    """A data set cannot be used as it stands."""


class SettingError(InputError):
    """A setting is unknown or out of its range."""


class MissingExtraError(RegraftError, ImportError):
    """An optional library is needed and not installed."""


class CacheError(InputError):
    """The folder or disk of an activation cache does not serve."""


def near_names(name: str, names: Iterable[str], *, count: int = 3) -> str:
    """Return the names closest to `name`, as the end of an error message.

    Args:
        name: what was received.
        names: what would have been valid.
        count: at most so many are named.

    Returns:
        `"; did you mean 'a', 'b'?"`, or, where nothing is near, `"; valid: 'a', 'b', …"`.
    """
    options = [str(option) for option in names]
    near = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if near:
        return "; did you mean " + ", ".join(repr(option) for option in near) + "?"
    shown = ", ".join(repr(option) for option in options[:12])
    return f"; valid: {shown}{', …' if len(options) > 12 else ''}" if options else ""


def optional_import(module: str, extra: str, *, purpose: str) -> ModuleType:
    """Import an optional library, or say how to install it.

    Args:
        module: dotted name, such as `"timm"`.
        extra: the extra of regraft that brings it, such as `"vision"`.
        purpose: what needs it, for the message, such as `"'timm:resnet18'"`.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs the library '{module}', which is not installed. Install it with: pip install 'regraft[{extra}]'"
        ) from error
