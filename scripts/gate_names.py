"""Checks of names: imports by string, private names of other files, names of classes, and formulas that nothing runs.

What stands in scripts/red_list.txt is known and on its way out; the list may only shrink.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from gate import Function, Gate, Source
from gate_imports import bases, imported, resolved

FORMULAS = ("methods", "probes", "networks.parts", "networks.editing", "tasks", "training")
"""Packages with formulas. Those that networks run stand in `networks.parts`: networks may not import methods."""
"""Rooms whose public functions are formulas: each is run by the package, or goes."""
_SELF = frozenset({"self", "cls"})
_PARTICIPLE = re.compile(r"[^e]ed$|(^|[a-z_])(Begun|Chosen|Found|Frozen|Given|Held|Kept|Known|Made|Read|Taken)$")
_GETTERS = frozenset({"getattr", "setattr", "hasattr", "delattr"})


# ── imports by string ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Door:
    """A function that imports the module whose name it is given."""

    source: Source
    prefix: str

    def target(self, name: str) -> str:
        """Return the full name of the module."""
        if name.startswith("."):
            return resolved(self.source, name)
        return f"{self.prefix}.{name}".strip(".") if self.prefix else name


def called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""


def is_import(node: ast.AST, source: Source | None = None) -> bool:
    """Return whether a node calls what imports a module by its name, also by another name that the file gives it."""
    if not isinstance(node, ast.Call):
        return False
    if ast.unparse(node.func) == "pkgutil.resolve_name":
        return True
    return called(node) in {"import_module", "__import__"} | (set() if source is None else importers(source))


def importers(source: Source) -> set[str]:
    """Return other names that a file gives to `import_module`."""
    if "import_module as" not in source.text:
        return set()
    named = [alias for node, *_ in source.imports if isinstance(node, ast.ImportFrom) for alias in node.names]
    return {alias.asname for alias in named if alias.name == "import_module" and alias.asname}


def written(source: Source, node: ast.AST) -> str:
    """Return a text, or its beginning as far as the file itself tells it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.FormattedValue):
        return written(source, node.value)
    if isinstance(node, ast.JoinedStr):
        return written(source, node.values[0]) + "".join(map(partial(written, source), node.values[1:])) if node.values else ""
    if isinstance(node, ast.BinOp):
        return written(source, node.left) + written(source, node.right)
    if isinstance(node, ast.Call) and called(node) == "join" and isinstance(node.func, ast.Attribute) and node.args:
        parts = node.args[0].elts if isinstance(node.args[0], ast.List | ast.Tuple) else []
        return written(source, node.func.value).join(map(partial(written, source), parts))
    if isinstance(node, ast.Name):
        if node.id in ("__name__", "__package__"):
            return source.module if node.id == "__name__" or source.is_init else source.module.rpartition(".")[0]
        assigned = [part for part in source.tree.body if isinstance(part, ast.Assign)]
        return next((written(source, value) for part in assigned for name, value in pairs(part) if name == node.id), "")
    return ""


def doors_of(gate: Gate) -> dict[str, Door]:
    """Return the functions whose arguments reach `import_module`, by their name."""
    found = {}
    for source in gate.sources:
        if source.is_top or "import_module" not in source.text:
            continue
        for node in source.functions():
            given = {argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
            for call in filter(is_import, ast.walk(node)):
                inner = [part for argument in call.args for part in ast.walk(argument)]
                if given & {part.id for part in inner if isinstance(part, ast.Name)}:
                    texts = [part.value for part in inner if isinstance(part, ast.Constant) and isinstance(part.value, str)]
                    own = any(text.split(".")[0] == source.package for text in texts)
                    found[node.name] = Door(source, source.package if own else "")
    return found


def string_target(source: Source, node: ast.AST, doors: dict[str, Door]) -> str | None:
    """Return the own module that a call imports by its name, None where it imports none."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "sys.modules":
        name = written(source, node.slice)
        return name if name.split(".")[0] == source.package else None
    if not isinstance(node, ast.Call):
        return None
    door = Door(source, "") if is_import(node, source) else doors.get(called(node))
    if door is None:
        return None
    given = [*node.args, *(word.value for word in node.keywords if word.arg == "name")]
    if not given:
        return door.prefix or None
    name = written(source, given[0]).partition(":")[0]
    target = door.target(name) if name else ""
    return target if target.split(".")[0] == source.package else None


def check_strings(gate: Gate) -> None:
    start, doors = len(gate.found), doors_of(gate)
    for source in gate.sources:
        if source.is_top:
            continue
        within = {id(call) for node in source.functions() if node.name in doors for call in filter(is_import, ast.walk(node))}
        for node in source.nodes:
            target = None if id(node) in within else string_target(source, node, doors)
            if target is not None:
                gate.known_or_report(source, node.lineno, "import by string", target)
    gate.count("own imports by string beyond the red list", gate.since(start))


# ── private names of other files ───────────────────────────────────────────────────────────────────────────────────────────────


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def is_self(node: ast.AST) -> bool:
    return (isinstance(node, ast.Name) and node.id in _SELF) or (isinstance(node, ast.Call) and called(node) == "super")


def private_names(source: Source) -> set[str]:
    """Return the private names that a file defines, at its top or in its classes."""
    found = set()
    for node in source.nodes:
        if isinstance(node, Function | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
        if isinstance(node, ast.Module | ast.ClassDef):
            for part in node.body:
                targets = part.targets if isinstance(part, ast.Assign) else [part.target] if isinstance(part, ast.AnnAssign) else []
                found |= {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}
    return {name for name in found if is_private(name)}


def private_reaches(gate: Gate, source: Source) -> Iterator[tuple[int, str]]:
    """Yield lines and private names that a file takes from others; what is reached through `self` is a base class's."""
    for node in source.nodes:
        if isinstance(node, ast.Attribute):
            if is_private(node.attr) and not is_self(node.value):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and any(target.split(".")[0] == source.package for target in imported(gate, source, node)):
            base = imported(gate, source, node)
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name) and not base[0].endswith(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _GETTERS and len(node.args) > 1:
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and is_private(name.value):
                yield node.lineno, name.value
        elif isinstance(node, ast.Subscript) and is_namespace(node.value) and isinstance(node.slice, ast.Constant):
            yield from ((node.lineno, name) for name in [node.slice.value] if isinstance(name, str) and is_private(name))


def is_namespace(node: ast.AST) -> bool:
    """Return whether an expression is the dictionary of an object's attributes."""
    return (isinstance(node, ast.Call) and called(node) == "vars") or (isinstance(node, ast.Attribute) and node.attr == "__dict__")


def check_private(gate: Gate) -> None:
    start = len(gate.found)
    defined = {source.module: private_names(source) for source in gate.sources}
    anywhere = set().union(*defined.values())
    for source in gate.sources:
        for line, name in private_reaches(gate, source):
            if name in anywhere and name not in defined[source.module]:
                gate.known_or_report(source, line, "private name of another file", name)
    gate.count("private names of another file beyond the red list", gate.since(start))


def check_unused(gate: Gate) -> None:
    """Report the private functions and classes that their own file does not use: no other one may. A decorator may hand them on."""
    start = len(gate.found)
    for source in gate.sources:
        users: dict[str, set[ast.stmt]] = {}
        for top, nodes in source.tops:
            for name in (part.id for part in nodes if isinstance(part, ast.Name)):
                users.setdefault(name, set()).add(top)
        for top in source.tree.body:
            private = isinstance(top, Function | ast.ClassDef) and is_private(top.name) and not top.decorator_list
            if private and not users.get(top.name, set()) - {top}:
                gate.report(source, top.lineno, f"nothing uses {top.name}")
    gate.count("private functions and classes that nothing uses", gate.since(start))


# ── names of classes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_class_names(gate: Gate) -> None:
    start = len(gate.found)
    for source in gate.sources:
        for node in source.nodes:
            if isinstance(node, ast.ClassDef) and _PARTICIPLE.search(node.name):
                gate.report(source, node.lineno, f"class {node.name}: a participle; name the thing with a noun")
    gate.count("class names that are participles", gate.since(start))


# ── formulas that nothing runs ─────────────────────────────────────────────────────────────────────────────────────────────────

Symbol = tuple[str, str]
"""A module, and a name at its top; "" for the module itself."""


class Uses:
    """Which names at the top of modules are used by which."""

    def __init__(self, gate: Gate) -> None:
        self.gate, self.doors = gate, doors_of(gate)
        self.bound = {source.module: self._bound(source) for source in gate.sources}

    def _bound(self, source: Source) -> dict[str, Symbol]:
        """Return what each name of a file stands for; names that only functions have count for the whole file."""
        found: dict[str, Symbol] = {}
        for node in source.nodes:
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    for base in bases(source, node):
                        module = f"{base}.{alias.name}" in self.gate.modules
                        found[alias.asname or alias.name] = (f"{base}.{alias.name}", "") if module else (base, alias.name)
            elif isinstance(node, ast.Assign):
                for name, value in pairs(node):
                    target = string_target(source, value, self.doors)
                    if target is not None:
                        found[name] = (target, "")
        for node in source.tree.body:
            if isinstance(node, Function | ast.ClassDef):
                found[node.name] = (source.module, node.name)
        return found

    def final(self, symbol: Symbol) -> Symbol:
        """Follow imports to where a name is defined."""
        seen = set()
        while symbol not in seen:
            seen.add(symbol)
            module, name = symbol
            if name and f"{module}.{name}" in self.gate.modules and name not in self.bound.get(module, {}):
                return f"{module}.{name}", ""
            symbol = self.bound.get(module, {}).get(name, symbol) if name else symbol
        return symbol

    def meant(self, source: Source, node: ast.AST) -> Symbol | None:
        """Return what an expression stands for, None where that is no name at the top of a module."""
        if isinstance(node, ast.Name):
            bound = self.bound[source.module].get(node.id)
            return bound and self.final(bound)
        if isinstance(node, ast.Attribute):
            base = self.meant(source, node.value)
            return self.final((base[0], node.attr)) if base and not base[1] else None
        target = string_target(source, node, self.doors)
        return None if target is None else (target, "")

    def edges(self) -> Iterator[tuple[Symbol, Symbol]]:
        """Yield who uses whom."""
        for source in self.gate.sources:
            for statement, nodes in source.tops:
                user = (source.module, statement.name if isinstance(statement, Function | ast.ClassDef) else "")
                for node in nodes:
                    if isinstance(node, ast.Name | ast.Attribute):
                        used = self.meant(source, node)
                        if used and used != user:
                            yield user, used


def pairs(node: ast.Assign) -> Iterator[tuple[str, ast.AST]]:
    """Yield names and what is assigned to them, also in `a, b = c, d`."""
    for target in node.targets:
        if isinstance(target, ast.Name):
            yield target.id, node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from ((part.id, value) for part, value in zip(target.elts, node.value.elts, strict=False) if isinstance(part, ast.Name))


def check_formulas(gate: Gate) -> None:
    start = len(gate.found)
    held = [source for source in gate.sources if f"{source.module}.".startswith(tuple(f"{source.package}.{home}." for home in FORMULAS))]
    tops = [(source, node) for source in held for node in source.tree.body]
    places = {(source.module, node.name): (source, node) for source, node in tops if isinstance(node, Function | ast.ClassDef)}
    used: dict[Symbol, set[Symbol]] = {}
    for user, symbol in Uses(gate).edges():
        used.setdefault(user, set()).add(symbol)
    todo = [symbol for user, symbols in used.items() if user not in places for symbol in symbols]
    alive: set[Symbol] = set()
    while todo:
        symbol = todo.pop()
        if symbol not in alive:
            alive.add(symbol)
            todo.extend(used.get(symbol, ()))
    for symbol, (source, node) in places.items():
        if not node.name.startswith("_") and symbol not in alive:
            gate.known_or_report(source, node.lineno, "formula that nothing runs", node.name)
    gate.count("formulas that nothing runs beyond the red list", gate.since(start))
