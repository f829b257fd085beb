"""What the code of a network depends on beside its weights, as text: attributes, functions and constants that its forward reaches.

Code of installed libraries is described by name and version; code of the user by its bytes, its constants, and all that it reaches in
turn. What cannot be described is named, so that nothing is taken for equal that may differ.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from .structure import below, prefixes

__all__ = ["CodeText", "code_text", "is_library", "reached"]

_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice, torch.dtype, torch.device, re.Pattern, PurePath)


@dataclass(frozen=True)
class CodeText:
    """Text that changes whenever the code of a network would compute something else.

    Attributes:
        text: of everything that could be described.
        unknown: what could not, each with its place and type; equal texts then say nothing.
    """

    text: str
    unknown: tuple[str, ...] = ()


def is_library(module: str) -> bool:
    """Tell whether a module, by its dotted name, belongs to Python, to an installed package, or to regraft."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names or root in ("builtins", "regraft"):
        return root != "__main__"
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(PurePath(file).parts))


def reached(modules: Mapping[str, Module], layers: Collection[str]) -> dict[str, Module]:
    """Return the modules of some layers, what is inside them, and what contains them.

    Args:
        modules: name -> module, containers too; "" is the whole network.
        layers: names.
    """
    around = {outer for layer in layers for outer in prefixes(layer)}
    return {name: module for name, module in modules.items() if name in around or any(below(name, layer) for layer in layers)}


def code_text(modules: Mapping[str, Module], *, common: Collection[str]) -> CodeText:
    """Describe the code of some modules.

    Args:
        modules: name -> module.
        common: attributes that every module of the family has, which say nothing.

    Returns:
        The text.
    """
    reader = _Reader()
    lines = []
    for name, module in modules.items():
        lines.append(f"{name}: {reader.of_module(module, common=common, place=name or 'the network')}")
    return CodeText("\n".join(lines), tuple(dict.fromkeys(reader.unknown)))


@dataclass
class _Reader:
    """Describes values; each object that can contain itself is described once.

    Attributes:
        seen: id -> number of what has been described.
        unknown: what could not be.
    """

    seen: dict[int, int] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def of_module(self, module: Module, *, common: Collection[str], place: str) -> str:
        """Return the attributes, the hooks and the class of a module."""
        kind, own = type(module), not is_library(type(module).__module__)
        found = []
        for name, value in sorted(vars(module).items()):
            if name in common or isinstance(value, Module):
                continue
            if own or _is_simple(value):
                found.append(f"{name}={self.of(value, f'{place}.{name}')}")
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        found += [self.of(hook, f"a hook of {place}") for hook in hooks if not is_library(getattr(hook, "__module__", "") or "")]
        forward = vars(module).get("forward")
        return f"{self.of(kind, place)}({', '.join(found)}){'' if forward is None else self.of(forward, place)}"

    def of(self, value: Any, place: str) -> str:
        """Return the text of any value."""
        if isinstance(value, enum.Enum):
            return f"{type(value).__qualname__}.{value.name}"
        if isinstance(value, _PLAIN):
            return repr(value)
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return _of_array(value)
        if id(value) in self.seen:
            return f"#{self.seen[id(value)]}"
        self.seen[id(value)] = len(self.seen)
        self.kept.append(value)  # so that no other object gets its id
        describe = next((describe for kind, describe in self._kinds() if isinstance(value, kind)), self._of_object)
        return describe(value, place)

    def _kinds(self) -> list[tuple[Any, Callable[[Any, str], str]]]:
        return [
            (type, self._of_class),
            (FunctionType, self._of_function),
            (MethodType, lambda value, place: f"{self.of(value.__func__, place)} of {self._of_owner(value.__self__, place)}"),
            (BuiltinFunctionType, lambda value, _place: f"built-in {value.__module__}.{value.__qualname__}"),
            (functools.partial, lambda value, place: f"partial {self.of((value.func, value.args, value.keywords), place)}"),
            (ModuleType, lambda value, _place: _versioned(value.__name__)),
            (CodeType, self._of_code),
            (Mapping, lambda value, place: "{" + ", ".join(f"{self.of(k, place)}: {self.of(v, place)}" for k, v in value.items()) + "}"),
            ((set, frozenset), lambda value, place: "{" + ", ".join(sorted(self.of(one, place) for one in value)) + "}"),
            ((list, tuple), lambda value, place: "[" + ", ".join(self.of(one, place) for one in value) + "]"),
            (torch.Generator, lambda value, _place: f"generator {_of_array(value.get_state())}"),
            (property, lambda value, place: self.of((value.fget, value.fset), place)),
            ((staticmethod, classmethod), lambda value, place: self.of(value.__func__, place)),
        ]

    def _of_owner(self, value: Any, place: str) -> str:
        return type(value).__qualname__ if isinstance(value, Module) else self.of(value, place)

    def _of_class(self, kind: type, place: str) -> str:
        if is_library(kind.__module__):
            return _versioned(f"{kind.__module__}.{kind.__qualname__}")
        parts = []
        for part in kind.__mro__:
            if is_library(part.__module__):
                parts.append(_versioned(f"{part.__module__}.{part.__qualname__}"))
                continue
            held = {name: value for name, value in vars(part).items() if not name.startswith("__") or callable(value)}
            said = (f"{name}={self.of(value, f'{place}.{name}')}" for name, value in sorted(held.items()) if not _is_machinery(name, value))
            parts.append(f"{part.__qualname__}({', '.join(said)})")
        return " < ".join(parts)

    def _of_function(self, function: FunctionType, place: str) -> str:
        if is_library(function.__module__ or ""):
            return _versioned(f"{function.__module__}.{function.__qualname__}")
        names = set(_names(function.__code__))
        reached = {name: function.__globals__[name] for name in sorted(names) if name in function.__globals__}
        said = [f"{name}={self._of_global(value, names, place=place)}" for name, value in reached.items()]
        cells = [self.of(_content(cell), place) for cell in function.__closure__ or ()]
        defaults = self.of((function.__defaults__, function.__kwdefaults__), place)
        return f"function({self._of_code(function.__code__, place)}, {defaults}, {cells}, {said})"

    def _of_global(self, value: Any, names: Collection[str], *, place: str) -> str:
        """Return the text of what a function reaches by a global name; of a module of the user, of what it takes from it."""
        if isinstance(value, ModuleType) and not is_library(value.__name__):
            return "".join(f"{name}={self.of(vars(value)[name], place)};" for name in sorted(names) if name in vars(value))
        return self.of(value, place)

    def _of_code(self, code: CodeType, place: str) -> str:
        consts = [self._of_code(one, place) if isinstance(one, CodeType) else self.of(one, place) for one in code.co_consts]
        return f"{code.co_code.hex()} {consts} {code.co_names} {code.co_varnames}"

    def _of_object(self, value: Any, place: str) -> str:
        kind = type(value)
        if isinstance(value, Module):
            state = {name: tensor for name, tensor in value.state_dict().items()}
            return f"module {kind.__qualname__} {value!r} {self.of(state, place)}"
        if is_library(kind.__module__) or not hasattr(value, "__dict__"):
            self.unknown.append(f"{place} ({kind.__module__}.{kind.__qualname__})")
            return f"unknown {kind.__qualname__}"
        return f"{self._of_class(kind, place)}{self.of(dict(sorted(vars(value).items())), place)}"


def _is_simple(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_simple(one) for one in value)
    return isinstance(value, (*_PLAIN, enum.Enum))


def _is_machinery(name: str, value: Any) -> bool:
    """Tell whether a member of a class says nothing of what it computes: `__doc__`, slots, what `dataclass` or Keras put there."""
    return name in ("__doc__", "__module__", "__dict__", "__weakref__", "__annotations__") or type(value).__name__ in (
        "getset_descriptor", "member_descriptor", "_abc_data", "wrapper_descriptor",
    )  # fmt: skip


def _versioned(name: str) -> str:
    root = name.partition(".")[0]
    version = sys.version.split()[0] if root in sys.stdlib_module_names else getattr(sys.modules.get(root), "__version__", "")
    return f"{name} {version}"


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names(one)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _of_array(value: Any) -> str:
    array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.hasobject:
        return repr(array.tolist())
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=12).hexdigest()
    return f"array {tuple(value.shape)} {value.dtype} {digest}"
