"""Checks of who imports whom: cycles, imports within functions, the order of the rooms, the door of keras.

Imports under TYPE_CHECKING count: a file that names another's types depends on it.
"""

from __future__ import annotations

import ast
from pathlib import Path

from gate import Function, Gate, Source

ROOMS: list[set[str]] = [  # lowest floor first; a room imports only from floors below its own
    {"errors", "tensors"},
    {"randomness"},
    {"files", "scale"},
    {"console"},
    {"words"},
    {"networks"},
    {"data"},
    {"tasks"},
    {"probes"},
    {"heads"},
    {"freezing"},
    {"methods"},
    {"training"},
    {"report"},
    {"planning"},
    {"search", "exchange"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]

OF_ONE_SYSTEM = frozenset({
    "_winapi", "curses", "fcntl", "grp", "msvcrt", "nt", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty",
    "winreg",
})  # fmt: skip
"""Modules of Python that only Unix or only Windows has."""


LATE = ("cli", "networks.sources.opening")
"""Where functions may import our own modules: commands, which begin before torch is there, and the opening of networks, as only users of
Keras pay for it. These imports count for circles and for the order of the rooms like any other."""
LATE_NAMES = ("data",)
"""Packages whose `__init__` gives some of its names when they are first asked for: data are read and looked at without torch."""


def is_late(source: Source) -> bool:
    if source.is_init and any(source.module == f"{source.package}.{room}" for room in LATE_NAMES):
        return True
    return any(f"{source.module}.".startswith(f"{source.package}.{place}.") for place in LATE)


def resolved(source: Source, name: str) -> str:
    """Return the full name of a module that begins with dots, as seen from a file."""
    level = len(name) - len(name.lstrip("."))
    parts = source.module.split(".")
    parts = parts[: len(parts) - level + source.is_init]
    return ".".join([*parts, *filter(None, [name[level:]])])


def bases(source: Source, node: ast.ImportFrom) -> list[str]:
    """Return the full name of the own module that `from … import` names, in a list; an empty one where it is another's."""
    base = resolved(source, "." * node.level + (node.module or "")) if node.level else node.module or ""
    return [base] if base.split(".")[0] == source.package else []


def imported(gate: Gate, source: Source, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return the full names of the own modules that an import statement runs."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] == source.package]
    whole = [(base, f"{base}.{alias.name}") for base in bases(source, node) for alias in node.names]
    return [module if module in gate.modules else base for base, module in whole]


def with_parents(module: str, importer: str) -> list[str]:
    """Return a module and the packages whose `__init__` its import runs, less those that are already running."""
    parts = module.split(".")
    chain = [".".join(parts[:length]) for length in range(1, len(parts))]
    return [*(parent for parent in chain if importer != parent and not importer.startswith(parent + ".")), module]


def check_imports(gate: Gate) -> None:
    graph: dict[str, set[str]] = {module: set() for module in gate.modules}
    typed: list[tuple[Source, int, str]] = []
    start = len(gate.found)
    for source in gate.sources:
        for node, inside, typing in source.imports:
            targets = imported(gate, source, node)
            if inside and targets and not source.is_top and not is_late(source):
                gate.report(source, node.lineno, f"import of {targets[0]} inside a function; move it to the top of the file")
            if typing:
                typed += [(source, node.lineno, target) for target in targets if target in gate.modules]
            elif not inside or is_late(source):
                graph[source.module] |= {part for target in targets for part in with_parents(target, source.module) if part in gate.modules}
    gate.count("own imports inside functions", gate.since(start))
    start = len(gate.found)
    for circle in circles(graph):
        gate.report(gate.modules[circle[0]], 1, f"import cycle: {' -> '.join([*circle, circle[0]])}", reason="")
    check_typed(gate, graph, typed)
    gate.count("import cycles", gate.since(start))


def check_typed(gate: Gate, graph: dict[str, set[str]], typed: list[tuple[Source, int, str]]) -> None:
    """Report the imports under TYPE_CHECKING that close a circle."""
    whole = {module: set(others) for module, others in graph.items()}
    for source, _, target in typed:
        whole[source.module].add(target)
    for source, line, target in typed:
        if source.module in reachable(whole, target) and not source.is_top:
            gate.known_or_report(source, line, "typing import on a circle", target)


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
        for node, *_ in source.imports:
            for target in dict.fromkeys(imported(gate, source, node)):
                room = target.split(".")[1] if "." in target else ""
                if room != source.room and floors.get(room, len(ROOMS)) >= floors[source.room]:
                    gate.report(source, node.lineno, f"room {source.room} may not import {room or 'the top of the package'} ({target})")
    gate.count("imports against the order of the rooms", gate.since(start))


def check_keras(gate: Gate) -> None:
    start = len(gate.found)
    for source in gate.sources:
        door = source.relative.parent == Path("networks/keras")
        for node in source.nodes:
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            if not door and any(name.split(".")[0] == "keras" for name in names):
                gate.report(source, node.lineno, "keras is imported outside networks/keras/")
    gate.count("imports of keras outside its door", gate.since(start))


def check_systems(gate: Gate) -> None:
    """Report imports of modules that some systems lack where they are no part of a function or of a `try`: the package imports anywhere."""
    start = len(gate.found)
    for source in gate.sources:
        for top, nodes in source.tops:
            if isinstance(top, Function | ast.Try):
                continue
            for node in nodes:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in sorted({name.split(".")[0] for name in names} & OF_ONE_SYSTEM):
                    gate.report(source, node.lineno, f"{name} is not there on every system; import it within a `try`, or where it is used")
    gate.count("imports of what only one system has", gate.since(start))
