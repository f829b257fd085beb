"""Distinction of installed libraries, which are identified by their version, from the user's own code and from this package's."""

import hashlib
import importlib.metadata
import site
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType

# What reading a distribution without metadata raises: OSError comes from the library importlib_metadata, which replaces Python's own once
# another library imports it; KeyError from later versions of Python.
_NO_METADATA = (importlib.metadata.PackageNotFoundError, ValueError, OSError, KeyError)


def library_of(module: str) -> str | None:
    """Return the library of a module with its version, for example "torch 2.9.1"; None for the user's own code.
    Code that is not installed, or was installed from a folder or repository, counts as own: it changes while its version stays the same."""
    return _library(module.partition(".")[0])


def source_of(module: str) -> str | None:
    """Return the name of this package and the digest of all its source if the module belongs to it; None otherwise."""
    return _own_source() if module.partition(".")[0] == "regraft" else None


@cache
def _own_source() -> str | None:
    package, digest = Path(__file__).parents[2], hashlib.blake2b(digest_size=16)
    files = sorted(package.rglob("*.py"))
    for file in files:
        digest.update(f"{file.relative_to(package).as_posix()} {file.stat().st_size} ".encode() + file.read_bytes())
    return f"regraft {digest.hexdigest()}" if files else None  # None where it comes without its source


@cache
def _library(top: str) -> str | None:
    if top in sys.stdlib_module_names or top == "builtins":
        return None if top == "__main__" else f"python {sys.version_info.major}.{sys.version_info.minor}"
    if top == "regraft" or not _is_installed(sys.modules.get(top)):
        return None
    found = _installed(top)
    if found is None:  # its name differs from its modules'; searching all distributions takes seconds
        found = next(filter(None, map(_installed, _distributions().get(top, ()))), None)
    return None if found is None or found.read_text("direct_url.json") else f"{found.name} {found.version}"


def version_of(library: str) -> str | None:
    """Return the version of an installed library, None if it is not installed, or was left without its metadata."""
    found = _installed(library)
    return None if found is None else found.version


def _installed(name: str) -> importlib.metadata.Distribution | None:
    with suppress(*_NO_METADATA):
        found = importlib.metadata.distribution(name)
        return found if found.name and found.version else None
    return None


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Return the distributions that hold each package. Unlike Python's own function it leaves out what was left without its metadata."""
    found = defaultdict[str, list[str]](list)
    for one in importlib.metadata.distributions():
        with suppress(*_NO_METADATA):
            name = one.metadata["Name"]
            declared = (one.read_text("top_level.txt") or "").split()
            for top in declared or {file.parts[0].partition(".")[0] for file in one.files or ()}:
                found[top] += [name] if name else []
    return found


@cache
def _folders() -> tuple[Path, ...]:
    """Return the folders in which libraries are installed."""
    known = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), site.getusersitepackages()]
    return tuple({Path(folder).resolve() for folder in known if folder})


def _is_installed(module: ModuleType | None) -> bool:
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if file is None:
        return False
    path = Path(file).resolve()
    return any(folder in path.parents for folder in _folders()) or any(map(_holds_libraries, path.parents[:2]))


@cache
def _holds_libraries(folder: Path) -> bool:
    """Return whether wheels were unpacked into a folder, as by `pip install --target`; it may be on the search path by PYTHONPATH."""
    return next(folder.glob("*.dist-info/RECORD"), None) is not None
