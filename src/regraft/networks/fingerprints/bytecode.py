"""Contents of compiled Python code, and the global names that it reads."""

import builtins
import dis
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from types import CodeType, FunctionType, ModuleType
from typing import Any

from .libraries import library_of

_MISSING = "not defined"
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")


@lru_cache(maxsize=4096)
def _steps(code: CodeType) -> tuple[dis.Instruction, ...]:
    return tuple(step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG")  # the first bits of a long argument


def constants_of(code: CodeType) -> list[Any]:
    """Return everything that determines what code does: bytecode, constants (including inner functions) and names, without docstrings."""
    constants = code.co_consts
    reads_first = any(step.opcode in dis.hasconst and step.arg == 0 for step in _steps(code))  # a docstring is never used
    documented = bool(constants) and isinstance(constants[0], str) and bool(code.co_flags & 0x01) and not reads_first
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


def read_globals(code: CodeType, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return the global values that code reads: dotted name -> value, including those of inner functions.
    A module is replaced by the attribute that is read from it. Imports inside the code are included."""
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
    """Yield the global names that are read, each with the chain of attributes that is read from it directly."""
    path: list[str] = []
    for step in _steps(code):
        if step.opname in _ATTRIBUTES and path:
            path.append(str(step.argval))
        elif step.opname not in ("CACHE", "PUSH_NULL", "PRECALL"):
            if path:
                yield path
            path = [str(step.argval)] if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") else []


def _found(path: list[str], names: Mapping[str, Any]) -> Any:
    """Return the value at a path, followed only through modules; the unused rest is removed from `path` in place."""
    value, owner = names.get(path[0], getattr(builtins, path[0], _MISSING)), None
    rest = path[1:]
    while rest and isinstance(value, ModuleType):
        owner, value = value.__name__, getattr(value, rest.pop(0), _MISSING)
    del path[len(path) - len(rest) :]
    library = library_of(owner) if owner else None
    return value if library is None or _is_own(value) else f"of {library}"  # library state, for example the environment, does not count


def _is_own(value: Any) -> bool:
    """Return whether a function or class found in a library is the user's own."""
    if isinstance(value, FunctionType):
        return library_of(str(value.__globals__.get("__name__"))) is None
    return isinstance(value, type) and library_of(value.__module__) is None


def _imports(code: CodeType, names: Mapping[str, Any]) -> Iterator[str]:
    """Yield the full names of imports inside code; `from a import b` gives "a.b"."""
    module = ""
    steps = _steps(code)
    for at, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, parts = steps[at - 2].argval, steps[at - 1].argval
            module = str(step.argval)
            with suppress(ImportError):  # a relative import outside of any package
                module = importlib.util.resolve_name("." * level + module, str(names.get("__package__") or ""))
            if not parts:
                yield module
        elif step.opname == "IMPORT_FROM":
            yield f"{module}.{step.argval}"


def _imported(name: str) -> Any:
    """Return a loaded module, or an attribute of one; a module that is not loaded has not run either."""
    if name in sys.modules:
        return sys.modules[name]
    outer, _, attribute = name.rpartition(".")
    return getattr(sys.modules.get(outer), attribute, _MISSING)
