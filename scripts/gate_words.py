"""Checks of names and docstrings."""

from __future__ import annotations

import ast
import itertools
import re
from collections import Counter

from gate import Function, Gate, Source, decorator_names, is_overload, own_arguments

FACE = frozenset({"copy", "export", "features", "head_of", "logits", "predict", "save", "summary", "to"})
"""Of a network, what its users call."""
SECTIONS = frozenset({"Args", "Example", "Raises", "Returns", "Yields"})
"""What a docstring of the contract has, and no other: there one paragraph of free text holds the facts."""

EMPTY = frozenset({"a", "an", "argument", "given", "its", "of", "parameter", "the", "this", "to", "use", "used", "value"})
"""Words that say nothing of an argument."""


def exported(source: Source) -> tuple[int, list[object]] | None:
    """Return the line and the elements of `__all__`, or None where there is none."""
    for node in source.tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == "__all__" and isinstance(node, ast.Assign | ast.AnnAssign):
            parts = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            return node.lineno, [part.value if isinstance(part, ast.Constant) else part for part in parts if part is not None]
    return None


def screaming_first(name: str) -> tuple[int, str]:
    """The order of ruff's RUF022: CONSTANTS, Classes, then the rest."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name)


def names_in(source: Source) -> set[str]:
    """Return the names that a file reads or imports."""
    found = {alias.name for node in source.nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    found |= {node.attr for node in source.nodes if isinstance(node, ast.Attribute)}
    return found | {node.id for node in source.nodes if isinstance(node, ast.Name)}


def check_exports(gate: Gate) -> None:
    """Check `__all__` where there is one. In a file without it, another file must use every name that begins without an underscore."""
    start = len(gate.found)
    files = Counter(name for source in gate.sources for name in names_in(source))
    for source in gate.sources:
        defined = {node.name for node in source.tree.body if isinstance(node, Function | ast.ClassDef)}
        public = {name for name in defined if not name.startswith("_")}
        listing = exported(source)
        if listing is None:
            unused = sorted(name for name in public if files[name] == (name in names_in(source)))
            if unused and source.is_public and not source.is_init:
                gate.report(
                    source, 1, f"no other file uses {', '.join(unused)}; begin with an underscore, or list the public names in __all__"
                )
            continue
        line, elements = listing
        names = [name for name in elements if isinstance(name, str)]
        if len(names) != len(elements):
            gate.report(source, line, "__all__ holds something that is not a string")
        if names not in (sorted(names), sorted(names, key=screaming_first)):
            gate.report(source, line, "__all__ is not sorted")
        missing = sorted(public - set(names))
        if missing and source.is_public:
            gate.report(source, line, f"public but not in __all__: {', '.join(missing)}; add or begin with an underscore")
    gate.count("faults of __all__", gate.since(start))


def sections(text: str) -> dict[str, str]:
    """Return the sections of a docstring by their heading; the text before the first stands under ""."""
    parts = re.split(r"^\s*([A-Z][a-z]+):[ \t]*$", text, flags=re.MULTILINE)
    return {"": parts[0]} | dict(zip(parts[1::2], parts[2::2], strict=True))


def raised(node: Function) -> set[str]:
    """Return the exception classes that the body itself raises; functions within it have their own."""
    names: set[str] = set()
    todo: list[ast.AST] = list(node.body)
    while todo:
        part = todo.pop()
        if isinstance(part, Function | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(part, ast.Raise) and part.exc is not None:
            called = part.exc.func if isinstance(part.exc, ast.Call) else part.exc
            name = ast.unparse(called).split(".")[-1]
            names |= {name} if name[:1].isupper() else set()
        todo.extend(ast.iter_child_nodes(part))
    return names


def filler(arguments: str) -> list[str]:
    """Return the arguments that a section Args describes by their own names alone, as in "network: the network."."""
    found = []
    for name, words in re.findall(r"^\s*(\w+)(?: \([^)]*\))?: (.+(?:\n(?!\s*\w+:).+)*)", arguments, flags=re.MULTILINE):
        if set(re.findall(r"[a-z]+", words.lower())) <= {*re.findall(r"[a-z]+", name.lower()), *EMPTY}:
            found.append(name)
    return found


def missing_words(node: Function, *, method: bool, class_words: str = "", contract: bool = True) -> list[str]:
    """Return what the docstring of a function leaves out.

    An argument is described where its name stands, in a section Args or in the sentence; the result in a section Returns, or in a sentence
    with return, yield or whether. Outside the public `contract` any docstring will do.
    """
    text = (ast.get_docstring(node) or "") + "\n" + class_words
    if not text.strip():
        return ["has no docstring"]
    if not contract:
        return []
    parts, faults = sections(text), []
    told_of = re.sub(r"^\s*(>>>|\.\.\.).*$", "", text, flags=re.MULTILINE)  # an example uses the arguments; it does not describe them
    for name in itertools.chain(*own_arguments(node, method=method)):
        if not re.search(rf"\b{name}\b", told_of):
            faults.append(f"does not describe the argument {name}")
    faults += [f"says of {name} nothing but its name" for name in filler(parts.get("Args", ""))]
    silent = node.returns is None or ast.unparse(node.returns) in ("None", "NoReturn", "Never")
    told = re.search(r"\b(returns?|yields?|whether)\b", text, re.IGNORECASE)
    if not silent and not told and "property" not in "".join(decorator_names(node)):
        faults.append("does not describe what it returns")
    return faults + [f"raises {name} and does not list it" for name in sorted(raised(node)) if name not in parts.get("Raises", "")]


def inherited(gate: Gate, owner: ast.ClassDef, name: str) -> bool:
    """Return whether a base class within the package documents the method."""
    bases = {ast.unparse(base).split("[")[0].split(".")[-1] for base in owner.bases}
    for node in (node for base in sorted(bases) for node in gate.classes.get(base, ()) if node is not owner):
        own = any(isinstance(part, Function) and part.name == name and ast.get_docstring(part) for part in node.body)
        if own or inherited(gate, node, name):
            return True
    return False


def outside_contract(node: ast.Module | ast.ClassDef | Function, public: set[object]) -> list[Function | ast.ClassDef]:
    """Return the functions and classes below a node that the package does not export, nor a class that it does, nor its `FACE`."""
    parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, Function | ast.ClassDef) and part.name not in public | FACE]
    return parts + [below for part in parts for below in outside_contract(part, set())]


def without_example(node: Function | ast.ClassDef) -> list[str]:
    """Return which of a public name and its methods have no example; of an abstract class, those that the families write need none."""
    parts = [part for part in node.body if isinstance(part, Function) and part.name[0] != "_"] if isinstance(node, ast.ClassDef) else []
    shown = [part for part in parts if part.name in FACE] if isinstance(node, ast.ClassDef) and node.name == "Network" else parts
    asked = [part for part in shown if not {"property", "cached_property", "overload"} & decorator_names(part)]
    return [part.name for part in (node, *asked) if ">>> " not in (ast.get_docstring(part) or "")]


def contract_of(gate: Gate) -> set[object] | None:
    """Return the names that the package itself exports; None where it lists none: then all are held to be public."""
    listing = next((exported(source) for source in gate.sources if source.is_top), None)
    return None if listing is None else set(listing[1])


def check_docstrings(gate: Gate) -> None:
    start, public = len(gate.found), contract_of(gate)
    imports = [node for source in gate.sources if source.is_top for node, *_ in source.imports if isinstance(node, ast.ImportFrom)]
    homes = {alias.name: node.module for node in imports if node.level for alias in node.names}
    for source in gate.sources:
        listing = exported(source)
        if public is not None and source.room not in ("methods", "errors"):
            for node in outside_contract(source.tree, public):
                for heading in sorted(SECTIONS & sections(ast.get_docstring(node) or "").keys()):
                    gate.report(source, node.lineno, f"{node.name} is not of the contract: its docstring needs no section {heading}")
        if not source.is_public:
            continue
        for node in source.tree.body:
            if not isinstance(node, Function | ast.ClassDef) or is_overload(node):
                continue
            at_home = f"{source.module}.".startswith(f"{source.package}.{homes.get(node.name, '?')}.") and node.name in (public or ())
            if not (at_home if listing is None else node.name in listing[1]):
                continue
            if at_home:
                for name in without_example(node):
                    gate.known_or_report(source, node.lineno, "public name without an example", f"{node.name}.{name}")
            contract = public is None or node.name in public or source.room == "methods"
            if isinstance(node, Function):
                report_words(gate, source, node, missing_words(node, method=False, contract=contract))
            else:
                check_class_words(gate, source, node, contract=contract)
    gate.count(
        "public names without an example beyond the red list", sum("public name without an example" in one.what for one in gate.found)
    )
    gate.count("public docstrings that leave something out", gate.since(start))


def check_class_words(gate: Gate, source: Source, owner: ast.ClassDef, *, contract: bool) -> None:
    words = ast.get_docstring(owner) or ""
    if not words:
        gate.report(source, owner.lineno, f"class {owner.name} has no docstring")
    for node in owner.body:
        if not isinstance(node, Function) or (node.name.startswith("_") and node.name != "__init__"):
            continue
        if "setter" in decorator_names(node) or inherited(gate, owner, node.name):
            continue  # the base class says it
        faults = missing_words(node, method=True, class_words=words if node.name == "__init__" else "", contract=contract)
        report_words(gate, source, node, [f"(class {owner.name}) {fault}" for fault in faults])


def report_words(gate: Gate, source: Source, node: Function, faults: list[str]) -> None:
    for fault in faults:
        gate.report(source, node.lineno, f"function {node.name} {fault}", reason=source.function_reason(node))


def check_sources(gate: Gate) -> None:
    start = len(gate.found)
    for source in gate.sources:
        named = re.search(r"Source:|arXiv|\b(19|20)\d\d\b", source.text)
        if source.room == "methods" and source.is_public and not source.is_init and source.relative.name != "contract.py" and not named:
            gate.report(source, 1, "a method without its source (paper and equation)")
    gate.count("methods without a source", gate.since(start))
