"""What all checks of the gate share: a python file read once, the limits, and the place where violations are put down."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

LIMITS = {
    "function code lines, median": 8,
    "function code lines, p90": 25,
    "function code lines, max": 60,
    "file lines, p90": 350,
    "file lines, max": 800,
    "python files in a folder, max": 16,
    "folder depth, max": 3,
    "arguments, max": 7,
    "positional arguments, max": 2,
}
OVER = re.compile(r"#\s*over the limit:\s*(\S.*)")
MEANT = re.compile(r"#\s*(over the limit|type):")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Found:
    """One violation, or, with a reason, one item that is exempt."""

    path: Path
    line: int
    what: str
    reason: str = ""


@dataclass
class Source:
    """One python file, read once."""

    path: Path
    relative: Path
    package: str
    text: str = field(repr=False)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @cached_property
    def comments(self) -> dict[int, str]:
        """Comments by line; empty for a file without one that the gate reads, since to split it into tokens takes long."""
        if not MEANT.search(self.text):
            return {}
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}

    @cached_property
    def code(self) -> set[int]:
        """Lines that hold code; all lines of a string over several lines count."""
        texts = [node for node in self.nodes if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno]
        lines = {line for line, text in enumerate(self.text.splitlines(), start=1) if text.strip() and not text.lstrip().startswith("#")}
        return lines.union(*(range(node.lineno, (node.end_lineno or node.lineno) + 1) for node in texts))

    @property
    def is_init(self) -> bool:
        return self.relative.name == "__init__.py"

    @property
    def is_top(self) -> bool:
        return self.relative == Path("__init__.py")

    @cached_property
    def module(self) -> str:
        parts = [self.package, *self.relative.with_suffix("").parts]
        return ".".join(parts[:-1] if self.is_init else parts)

    @cached_property
    def room(self) -> str:
        return self.relative.with_suffix("").parts[0]

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.relative.with_suffix("").parts if part != "__init__")

    @cached_property
    def tops(self) -> list[tuple[ast.stmt, list[ast.AST]]]:
        """The statements at the top of the file, each with all nodes in it."""
        return [(statement, list(ast.walk(statement))) for statement in self.tree.body]

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return [self.tree, *(node for _, nodes in self.tops for node in nodes)]

    @cached_property
    def imports(self) -> list[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
        """Imports, with whether they stand inside a function, and whether under TYPE_CHECKING."""
        return list(import_nodes(self.tree))

    def functions(self) -> list[Function]:
        """Return all functions but the signatures of overloads, which say nothing that the function below them does not."""
        return [node for node in self.nodes if isinstance(node, Function) and not is_overload(node)]

    def reason(self, *lines: int) -> str:
        """Return the reason of the first of these lines that carries one."""
        for line in lines:
            match = OVER.search(self.comments.get(line, ""))
            if match:
                return match.group(1)
        return ""

    def function_reason(self, node: Function) -> str:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return self.reason(first - 1, *range(first, node.body[0].lineno))


def import_nodes(tree: ast.AST, *, inside: bool = False, typing: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Yield the imports of `Source.imports`: only statements are looked into, expressions hold none."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, inside, typing
        elif isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            yield from import_nodes(ast.Module(node.body, []), inside=inside, typing=True)
            yield from import_nodes(ast.Module(node.orelse, []), inside=inside, typing=typing)
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from import_nodes(node, inside=inside or isinstance(node, Function), typing=typing)


class Gate:
    """Collects what breaks a limit, and the figures."""

    def __init__(self, root: Path, red_list: Path | None = None) -> None:
        self.root = root
        self.red_list, self.red, self.needed = red_list, read_red_list(red_list), set[tuple[str, ...]]()
        self.found: list[Found] = []
        self.exempt: list[Found] = []
        self.table: list[tuple[str, str, str, bool]] = []
        self.sources = [
            Source(path, path.relative_to(root), root.name, path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.py"))
        ]
        self.modules = {source.module: source for source in self.sources}

    @cached_property
    def classes(self) -> dict[str, list[ast.ClassDef]]:
        """All classes by name."""
        found: dict[str, list[ast.ClassDef]] = {}
        for node in (node for source in self.sources for node in source.nodes if isinstance(node, ast.ClassDef)):
            found.setdefault(node.name, []).append(node)
        return found

    def report(self, source: Source, line: int, what: str, *, reason: str | None = None) -> None:
        why = source.reason(line) if reason is None else reason
        (self.exempt if why else self.found).append(Found(source.path, line, what, why))

    def known_or_report(self, source: Source, line: int, kind: str, name: str) -> None:
        """Report what is not on the red list; what is, is needed there."""
        entry = (kind, source.relative.as_posix(), name)
        if entry in self.red:
            self.needed.add(entry)
        else:
            self.report(source, line, f"{kind}: {name}")

    def report_needless(self) -> None:
        """Report the lines of the red list that say nothing any more."""
        for entry, line in self.red.items():
            if self.red_list is not None and entry not in self.needed:
                self.found.append(Found(self.red_list, line, f"no longer needed; remove the line: {' | '.join(entry)}"))
        self.figure("entries of the red list", len(self.red), "shrinks", fine=len(self.red) == len(self.needed))

    def figure(self, name: str, value: float, limit: str, *, fine: bool) -> None:
        shown = f"{value:.0%}" if limit.endswith("%") else f"{value:g}"
        self.table.append((name, shown, limit, fine))

    def at_most(self, name: str, value: int, *, fine: bool | None = None) -> None:
        """Add a figure that LIMITS bounds; `fine` where exempt items may go over."""
        self.figure(name, value, f"<= {LIMITS[name]}", fine=value <= LIMITS[name] if fine is None else fine)

    def count(self, name: str, violations: int, limit: str = "0") -> None:
        self.figure(name, violations, limit, fine=violations == 0)

    def since(self, start: int) -> int:
        """Return how many violations were added after `start` of them."""
        return len(self.found) - start


def read_red_list(path: Path | None) -> dict[tuple[str, ...], int]:
    """Return what is known to break a rule, as (kind, file, name) with its line; nothing where there is no list."""
    lines = path.read_text(encoding="utf-8").splitlines() if path is not None else []
    return {
        tuple(part.strip() for part in text.split("|")): line
        for line, text in enumerate(lines, start=1)
        if text.strip() and not text.startswith("#")
    }


def rank(values: Sequence[int], share: float) -> int:
    """Return the nearest-rank percentile; 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0


def is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def methods_of(nodes: Sequence[ast.AST]) -> set[Function]:
    return {part for node in nodes if isinstance(node, ast.ClassDef) for part in node.body if isinstance(part, Function)}


def is_overload(node: ast.AST) -> bool:
    return isinstance(node, Function) and "overload" in decorator_names(node)


def decorator_names(node: Function) -> set[str]:
    return {ast.unparse(decorator).split("(")[0].split(".")[-1] for decorator in node.decorator_list}


def own_arguments(node: Function, *, method: bool) -> tuple[list[str], list[str], list[str]]:
    """Return positional-only, plain and keyword-only argument names, without self or cls."""
    first, plain, named = ([argument.arg for argument in part] for part in (node.args.posonlyargs, node.args.args, node.args.kwonlyargs))
    if method and "staticmethod" not in decorator_names(node):
        first, plain = (first[1:], plain) if first else (first, plain[1:])
    return first, plain, named
