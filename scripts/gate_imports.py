"""Checks of who imports whom: cycles, imports within functions, the order of the rooms, the door of keras."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from gate import Function, Gate, Source

ROOMS: list[set[str]] = [  # lowest floor first; a room imports only from floors below its own
    {"errors", "randomness"},
    {"files"},
    {"console"},
    {"networks"},
    {"data"},
    {"tasks"},
    {"probes"},
    {"heads"},
    {"frontier"},
    {"methods"},
    {"training"},
    {"report"},
    {"planning"},
    {"search", "exchange", "scale"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING"


def import_nodes(tree: ast.AST, *, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield imports with whether they stand inside a function; those under TYPE_CHECKING are left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, inside
        elif is_type_checking(node):
            yield from import_nodes(ast.Module(getattr(node, "orelse", []), []), inside=inside)
        else:
            yield from import_nodes(node, inside=inside or isinstance(node, Function | ast.Lambda))


def imported(gate: Gate, source: Source, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the full names of the own modules that an import statement runs."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
        return [name for name in names if name.split(".")[0] == source.package]
    base = node.module or ""
    if node.level:
        parts = source.module.split(".")
        parts = parts[: len(parts) - node.level + source.is_init]
        base = ".".join([*parts, base] if base else parts)
    if base.split(".")[0] != source.package:
        return []
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in gate.modules else base for alias in node.names]


def with_parents(module: str, importer: str) -> list[str]:
    """Return a module and the packages whose `__init__` its import runs, less those that are already running."""
    parts = module.split(".")
    chain = [".".join(parts[:length]) for length in range(1, len(parts))]
    return [*(parent for parent in chain if importer != parent and not importer.startswith(parent + ".")), module]


def check_imports(gate: Gate) -> None:
    graph: dict[str, set[str]] = {module: set() for module in gate.modules}
    start = len(gate.found)
    for source in gate.sources:
        for node, inside in import_nodes(source.tree):
            targets = imported(gate, source, node)
            if inside and targets and not source.is_top:
                gate.report(source, node.lineno, f"import of {targets[0]} inside a function; move it to the top of the file")
            if not inside:
                graph[source.module] |= {part for target in targets for part in with_parents(target, source.module) if part in gate.modules}
    gate.count("own imports inside functions", gate.since(start))
    start = len(gate.found)
    for circle in circles(graph):
        gate.report(gate.modules[circle[0]], 1, f"import cycle: {' -> '.join([*circle, circle[0]])}", reason="")
    gate.count("import cycles", gate.since(start))


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return one cycle from each knot of the graph: the shortest through its first module."""
    reach = {module: reachable(graph, module) for module in graph}
    found, seen = [], set()
    for module in sorted(graph):
        if module in reach[module] and module not in seen:
            seen |= {other for other in reach[module] if module in reach[other]} | {module}
            found.append(shortest_circle(graph, module))
    return found


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen, todo = set(), list(graph[start])
    while todo:
        module = todo.pop()
        if module not in seen:
            seen.add(module)
            todo.extend(graph[module])
    return seen


def shortest_circle(graph: dict[str, set[str]], start: str) -> list[str]:
    paths = [[start]]
    seen = {start}
    for path in paths:
        for module in sorted(graph[path[-1]]):
            if module == start:
                return path
            if module not in seen:
                seen.add(module)
                paths.append([*path, module])
    return [start]


def check_rooms(gate: Gate) -> None:
    floors = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
    start = len(gate.found)
    for source in gate.sources:
        if source.is_top:
            continue
        if source.room not in floors:
            gate.report(source, 1, f"room {source.room} is not in the list ROOMS of scripts/gate_imports.py")
            continue
        for node, _ in import_nodes(source.tree):
            for target in dict.fromkeys(imported(gate, source, node)):
                room = target.split(".")[1] if "." in target else ""
                if room != source.room and floors.get(room, len(ROOMS)) >= floors[source.room]:
                    gate.report(source, node.lineno, f"room {source.room} may not import {room or 'the top of the package'} ({target})")
    gate.count("imports against the order of the rooms", gate.since(start))


def check_keras(gate: Gate) -> None:
    start = len(gate.found)
    for source in gate.sources:
        door = source.relative.parent == Path("networks") and source.relative.name.startswith("keras_")
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            if not door and any(name.split(".")[0] == "keras" for name in names):
                gate.report(source, node.lineno, "keras is imported outside networks/keras_*.py")
    gate.count("imports of keras outside its door", gate.since(start))
