"""What compiled Python code is made of, and which names of its module it reads."""

from __future__ import annotations

import builtins
import dis
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .libraries import library_of

__all__ = ["constants_of", "read_globals"]

_MISSING = "not defined"
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")


def constants_of(code: CodeType) -> list[Any]:
    """Return all that decides what code does: its bytes, constants, the code of inner functions among them, and names."""
    constants = code.co_consts
    documented = bool(constants) and isinstance(constants[0], str) and bool(code.co_flags & 0x01) and not _reads_first(code)
    return [
        code.co_code,
        constants[1:] if documented else constants,
        code.co_names,
        code.co_varnames,
        code.co_freevars,
        code.co_cellvars,
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags),
        getattr(code, "co_exceptiontable", b""),
    ]


def _reads_first(code: CodeType) -> bool:
    """Tell whether the first constant is used; the documentation of a function is not."""
    return any(step.opcode in dis.hasconst and step.arg == 0 for step in dis.get_instructions(code))


def read_globals(code: CodeType, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return what code reads of its module and of others: dotted name -> value.

    A module whose attribute is read stands by that attribute. What an import inside the code brings is among it.
    """
    found: dict[str, Any] = {}
    for path in _paths(code):
        value = _found(path, names)
        found[".".join(path)] = value
    for name in _imports(code, names):
        found[f"import {name}"] = _imported(name)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found.update(read_globals(constant, names))
    return found


def _paths(code: CodeType) -> Iterator[list[str]]:
    """Yield the names that are read, each with the attributes that are read of it at once."""
    path: list[str] = []
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            if path:
                yield path
            path = [str(step.argval)]
        elif step.opname in _ATTRIBUTES and path:
            path.append(str(step.argval))
        elif step.opname not in ("EXTENDED_ARG", "CACHE", "PUSH_NULL", "PRECALL"):
            if path:
                yield path
            path = []
    if path:
        yield path


def _found(path: list[str], names: Mapping[str, Any]) -> Any:
    """Return a value by its path, as far as that leads through modules; the rest of the path is taken off."""
    value, owner = names.get(path[0], getattr(builtins, path[0], _MISSING)), None
    rest = path[1:]
    while rest and isinstance(value, ModuleType):
        owner, value = value.__name__, getattr(value, rest.pop(0), _MISSING)
    del path[len(path) - len(rest) :]
    library = library_of(owner) if owner else None
    return value if library is None or _is_own(value) else f"of {library}"  # state of a library, such as the environment, does not count


def _is_own(value: Any) -> bool:
    """Tell whether a function or class that stands in a library was put there by the user."""
    if isinstance(value, FunctionType):
        return library_of(str(value.__globals__.get("__name__"))) is None
    return isinstance(value, type) and library_of(value.__module__) is None


def _imports(code: CodeType, names: Mapping[str, Any]) -> Iterator[str]:
    """Yield the full names of what is imported inside code; of `from a import b`, "a.b"."""
    module = ""
    steps = list(dis.get_instructions(code))
    for at, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, parts = steps[at - 2].argval, steps[at - 1].argval
            module = _absolute(str(step.argval), level if isinstance(level, int) else 0, names=names)
            if not parts:
                yield module
        elif step.opname == "IMPORT_FROM":
            yield f"{module}.{step.argval}"


def _absolute(name: str, level: int, *, names: Mapping[str, Any]) -> str:
    try:
        return importlib.util.resolve_name("." * level + name, str(names.get("__package__") or "")) if level else name
    except ImportError:
        return name


def _imported(name: str) -> Any:
    """Return a module that is loaded, or an attribute of one; what has not been imported yet has not run either."""
    if name in sys.modules:
        return sys.modules[name]
    outer, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(outer), attribute, _MISSING)
