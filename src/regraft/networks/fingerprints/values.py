"""Digests of Python values and code that are the same in every process if the values compute the same.

Another process reuses a feature cache only if nothing that determines its values has changed. Weights are compared by their bytes. This
module inspects options, plain attributes, functions, and the globals that functions read. Installed libraries count by their version.
A value without content to inspect (an open file, a lock, a handle of another library) is *opaque*: its digest is that of its type alone,
and it is listed.
"""

import enum
import functools
import hashlib
import logging
import sys
import types
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from .bytecode import constants_of, read_globals
from .libraries import library_of, source_of

MOST_VALUES = 100_000  # Largest number of values to inspect for one network; further ones are opaque
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented), range, torch.dtype)
_BUILTIN = (types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType)
_SLOTS = (types.GetSetDescriptorType, types.MemberDescriptorType, types.MethodWrapperType)
_OF_EVERY_MODULE = frozenset({*vars(Module()), "_compiled_call_impl", "_forward_hooks", "_forward_pre_hooks"})
_OF_EVERY_GRAPH = frozenset({"_graph", "_tracer_cls", "_tracer_extras", "_lineno_map", "_prologue_start", "meta", "shape_env"})
_NOT_OF_A_CLASS = frozenset({
    "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__dict__",
    "__weakref__", "__slots__", "__firstlineno__", "__static_attributes__", "__type_params__", "__parameters__", "__abstractmethods__",
    "_abc_impl", "__orig_bases__", "__dataclass_fields__", "__dataclass_params__", "__match_args__", "__protocol_attrs__", "_is_protocol",
    "_is_runtime_protocol", "__non_callable_proto_members__",
})  # fmt: skip
_NAMING = {
    "transformers": frozenset({
        "name_or_path", "_name_or_path", "_commit_hash", "transformers_version", "architectures", "warnings_issued", "id2label", "label2id",
        "_is_hf_initialized", "_checkpoint_conversion_mapping",
    }),
    "timm": frozenset({"pretrained_cfg", "default_cfg"}),
}  # fmt: skip
"""Library -> attributes that name a network and its classes. They change when it is opened again and do not affect the computation."""


@dataclass(frozen=True)
class Structure:
    """Fingerprint of the computation of some layers, without their weights."""

    text: str  # differs if the computation differs; the same in every process
    opaque: tuple[str, ...] = ()  # values without content to compare, by path; they may differ in another process
    leaves: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # path -> digest of each leaf value
    own: bool = field(default=False, compare=False)  # whether code outside installed libraries takes part


class Fingerprint:
    """Computes digests of values. Each network needs its own instance, because digests are memoised.
    `known`: id -> name of tensors and modules that have their own digest elsewhere.
    `config_of`: returns plain data that identify a value instead of its attributes, or None.
    `ignored`: paths whose values do not count."""

    def __init__(
        self,
        known: Mapping[int, str],
        *,
        config_of: Callable[[Any], Any] = lambda _value: None,
        left_out: Iterable[str] = (),
        ignored: Collection[str] = (),
    ) -> None:
        self.known = known
        self.config_of = config_of
        self.left_out = frozenset(left_out)
        self.ignored = frozenset(ignored)
        self._opaque: dict[str, None] = {}
        self._leaves: dict[str, str] = {}
        self._own = False
        self._met: dict[int, tuple[Any, bytes]] = {}  # keeps the value alive, so that its id is not reused
        self._open: list[int] = []
        self._place: list[str] = []
        self._kinds = self._by_kind()

    def structure(self, lines: Sequence[str]) -> Structure:
        """Return a structure with these lines of digests as text, and the opaque values and leaves found so far."""
        return Structure("\n".join(lines), tuple(self._opaque), self._leaves, self._own)

    def of(self, value: Any, place: str = "") -> str:
        """Return the digest of a value."""
        self._place = []
        return self._at(place, value).hex()

    def module(self, module: Module, place: str) -> str:
        """Return the digest of a module's class, attributes and hooks, without its submodules, parameters and persistent buffers."""
        self._place = [place or type(module).__name__]
        return _joined("module", [self._digest(type(module)), *self._module_parts(module)]).hex()

    # ── recursion: one digest per value ───────────────────────────────────────────────────────────────────────────────

    def _digest(self, value: Any) -> bytes:
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum):
            return self._leaf(_joined("plain", [type(value).__name__, repr(value)]))
        key = id(value)
        if key in self.known:
            return _joined("known", [self.known[key]])
        if key in self._met:
            return self._met[key][1]
        if key in self._open:  # a cycle: identified by its length
            return _joined("circle", [str(len(self._open) - self._open.index(key))])
        if len(self._met) >= MOST_VALUES or len(self._open) > 200:
            return self._unknown(value, "beyond what is looked through")
        self._open.append(key)
        try:
            found = self._content(value)
        except RecursionError:
            found = self._unknown(value, "nested too deeply")
        finally:
            self._open.pop()
        self._met[key] = (value, found)
        return found

    def _leaf(self, digest: bytes) -> bytes:
        place = _place_of(self._place)
        self._leaves[place] = self._leaves.get(place, "") + digest.hex()
        return digest

    def _unknown(self, value: Any, why: str = "no content to compare") -> bytes:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        self._opaque[f"{_place_of(self._place)} ({kind}: {why})"] = None
        return _joined("opaque", [kind])

    def _at(self, place: object, value: Any) -> bytes:
        self._place.append(str(place))
        try:
            return _joined("ignored", []) if self.ignored and _place_of(self._place) in self.ignored else self._digest(value)
        finally:
            self._place.pop()

    def _named(self, values: Mapping[str, Any], left_out: Iterable[str] = ()) -> list[bytes]:
        """Return the digests of named values, sorted by name."""
        gone = {*self.left_out, *left_out}
        return [_joined(name, [self._at(name, values[name])]) for name in sorted(values) if name not in gone]

    def _content(self, value: Any) -> bytes:
        for kinds, made in self._kinds:
            if isinstance(value, kinds):
                return made(value)
        config = self.config_of(value)
        if config is not None:
            return _joined("config", [self._digest(type(value)), self._digest(config)])
        return self._object(value)

    def _by_kind(self) -> list[tuple[Any, Callable[[Any], bytes]]]:
        """Return the digest function for each kind of value; the first match applies."""
        return [
            (enum.Enum, lambda value: _joined("enum", [self._digest(type(value)), value.name])),
            (type, self._class),
            (types.ModuleType, self._python_module),
            (types.FunctionType, self._function),
            (types.MethodType, lambda value: _joined("method", [self._digest(value.__func__), self._at("self", value.__self__)])),
            (_BUILTIN, self._builtin),
            (_SLOTS, lambda value: _joined("slot", [value.__qualname__])),
            (types.CodeType, lambda value: _joined("code", [self._digest(part) for part in constants_of(value)])),
            ((staticmethod, classmethod), lambda value: _joined(type(value).__name__, [self._digest(value.__func__)])),
            (property, lambda value: _joined("property", [self._digest(part) for part in (value.fget, value.fset, value.fdel)])),
            (functools.cached_property, lambda value: _joined("property", [self._digest(value.func)])),
            (functools.partial, lambda value: _joined("partial", [self._at(*part) for part in _partial_parts(value)])),
            (weakref.ReferenceType, lambda value: _joined("weak", [self._digest(value())])),
            (Module, self._whole_module),
            (Tensor, self._tensor),
            ((np.ndarray, np.generic), self._array),
            (torch.device, lambda _value: _joined("device", [])),  # the device does not affect the computation
            (logging.Logger, lambda value: _joined("logger", [value.name])),
            ((list, tuple, dict, set, frozenset, types.MappingProxyType), self._container),
        ]

    def _container(self, value: Any) -> bytes:
        if isinstance(value, (set, frozenset)):
            parts = sorted(self._at("…", item) for item in value)
        elif isinstance(value, (list, tuple)):
            parts = [self._at(at, item) for at, item in enumerate(value)]
        else:
            parts = [_joined("item", [self._digest(key), self._at(key, item)]) for key, item in value.items()]
        missing = self._at("default_factory", getattr(value, "default_factory", None))
        return _joined("container", [self._digest(type(value)), missing, *parts, *self._named(getattr(value, "__dict__", {}))])

    def _tensor(self, value: Tensor) -> bytes:
        try:
            plain = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, without storage
            return self._unknown(value)
        return self._leaf(_joined("tensor", [str(value.dtype), str(tuple(value.shape)), plain.tobytes()]))

    def _array(self, value: Any) -> bytes:
        array = np.asarray(value)
        if array.dtype.hasobject:
            return _joined("objects", [str(array.shape), self._container(array.ravel().tolist())])
        return self._leaf(_joined("array", [str(array.dtype), str(array.shape), np.ascontiguousarray(array).tobytes()]))

    # ── modules and objects ───────────────────────────────────────────────────────────────────────────────────────────

    def _whole_module(self, module: Module) -> bytes:
        """Return the digest of a module outside the network, including its submodules and weights."""
        state = sorted(module.state_dict(keep_vars=True).items())
        weights = [_joined(name, [self._tensor(value) if isinstance(value, Tensor) else self._digest(value)]) for name, value in state]
        inside = [_joined(name, self._module_parts(part)) for name, part in module.named_modules()]
        kinds = [self._digest(type(part)) for part in module.modules()]
        return _joined("module", [*kinds, *weights, *inside])

    def _module_parts(self, module: Module) -> list[bytes]:
        if isinstance(module, torch.jit.ScriptModule):
            return [self._unknown(module)]
        left_out = _OF_EVERY_GRAPH if isinstance(module, torch.fx.GraphModule) else ()
        hooks = [(kind, list(vars(module)[kind].values())) for kind in ("_forward_pre_hooks", "_forward_hooks")]
        unsaved = {name: module._buffers.get(name) for name in module._non_persistent_buffers_set}
        return [
            self._at("forward", type(module).forward),
            *(_joined(kind, [self._at("hook", hook) for hook in found]) for kind, found in hooks if found),
            *self._named(unsaved),
            *self._named(vars(module), {*_OF_EVERY_MODULE, *_naming(type(module)), *left_out}),
        ]

    def _object(self, value: Any) -> bytes:
        """Return the digest of any other object: the arguments and state of its pickle reduction, and its attributes."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # not copyable: files, locks, generators, handles of other libraries
            return self._unknown(value)
        attributes = vars(value) if type(value).__dictoffset__ else {}  # a message of protobuf shows its class's in place of its own
        own = self._named(attributes, _naming(type(value)))
        if isinstance(reduced, str):
            return _joined("global", [self._digest(type(value)), reduced, *own])
        _make, arguments, state, items, pairs = (*reduced, None, None, None, None)[:5]
        if state is not None and isinstance(state, dict) and own:
            state = {name: part for name, part in state.items() if name not in attributes}
        parts = [self._digest(part) for part in (arguments, state, list(items or ()), list(pairs or ()))]
        return _joined("object", [self._digest(type(value)), *parts, *own])

    # ── code ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _class(self, kind: type) -> bytes:
        source = source_of(kind.__module__)
        if source and getattr(sys.modules[kind.__module__], kind.__qualname__, None) is not kind:
            source = None  # made by a call, which may have put more into it
        library = library_of(kind.__module__) or source
        if library:
            return _joined("class", [library, kind.__module__, kind.__qualname__])
        bases = [self._digest(base) for base in kind.__bases__ if base is not object]
        return _joined("class", [*bases, *self._named(vars(kind), _NOT_OF_A_CLASS)])

    def _python_module(self, module: types.ModuleType) -> bytes:
        library = library_of(module.__name__) or source_of(module.__name__)
        if library:
            return _joined("library", [library, module.__name__])
        return _joined("python module", self._named({name: one for name, one in vars(module).items() if not name.startswith("__")}))

    def _builtin(self, value: Any) -> bytes:
        """Return the digest of a function not written in Python, including the object that it is bound to."""
        owner = getattr(value, "__self__", None)
        of_module = owner is None or isinstance(owner, types.ModuleType)
        module = value.__module__ if hasattr(value, "__module__") else type(owner).__module__
        said = [library_of(str(module)) or "", str(module), value.__qualname__]
        return _joined("builtin", [*said, *([] if of_module else [self._at("self", owner)])])

    def _function(self, function: types.FunctionType) -> bytes:
        name = str(function.__globals__.get("__name__", function.__module__))
        library, closed = library_of(name), [self._at("closure", _in_cell(cell)) for cell in function.__closure__ or ()]
        if library:
            return _joined("function", [library, name, function.__qualname__, *closed])
        code, self._own = function.__code__, True
        own = self._named({key: part for key, part in vars(function).items() if key != "__wrapped__"})
        source = source_of(name)  # covers what the function reads
        read = [source] if source else self._named(read_globals(code, function.__globals__))
        defaults = [self._digest(function.__defaults__), self._digest(function.__kwdefaults__)]
        return _joined("function", [self._digest(code), *defaults, *closed, *own, *read])


def _naming(kind: type) -> frozenset[str]:
    """Return the attributes of a class that its library uses to name networks."""
    return frozenset().union(*(_NAMING.get(base.__module__.partition(".")[0], ()) for base in kind.__mro__))


def _place_of(places: Sequence[str]) -> str:
    return ".".join(place for place in places if place)


def _joined(kind: str, parts: Iterable[str | bytes]) -> bytes:
    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in parts:
        plain = part.encode("utf-8", errors="surrogatepass") if isinstance(part, str) else part
        digest.update(len(plain).to_bytes(8, "little") + plain)
    return digest.digest()


def _partial_parts(value: functools.partial[Any]) -> list[tuple[str, Any]]:
    return [("function", value.func), ("arguments", value.args), ("arguments", value.keywords)]


def _in_cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return NotImplemented
