"""The gate: sizes, layers, docstrings and a few promises of the source, read with `ast` alone.

    python scripts/check.py [PACKAGE_FOLDER [RED_LIST]]        (default: src/regraft scripts/red_list.txt)

Prints one line per violation, `path:line: what`, then a table of the figures with their limits. Exit code 1 if a limit is broken.
A comment `# over the limit: reason` on the line of a `def` (or the line above it), on the first line of a file (for its length), or
on the offending line itself exempts that item; what is exempt is listed. RED_LIST names what breaks a rule today and is to go: a line
that is not needed any more is a violation, and so is what is not on it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from gate import LIMITS, Function, Gate, Source, is_dunder, methods_of, own_arguments, rank
from gate_imports import check_imports, check_keras, check_rooms, check_systems
from gate_names import check_class_names, check_formulas, check_private, check_strings, check_unused
from gate_words import check_docstrings, check_exports, check_sources

VALUED_RAISES = 0.9


# ── sizes ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def docstring_lines(node: ast.AST) -> set[int]:
    body = getattr(node, "body", [])
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return set()


def is_stub(node: Function) -> bool:
    """An abstract method or a protocol: a docstring, `...` or `pass`, and nothing else."""
    return all(isinstance(part, ast.Pass) or (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)) for part in node.body)


def code_lines(source: Source, node: Function, *, documented: set[int]) -> int:
    """Return the lines from `def` to the end that hold code: no docstrings (`documented`), comments, blank lines or decorators."""
    return sum(line in source.code and line not in documented for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


def check_sizes(gate: Gate) -> None:
    start, lengths, longest = len(gate.found), [], LIMITS["function code lines, max"]
    for source in gate.sources:
        documented = {line for part in source.nodes if isinstance(part, Function | ast.ClassDef) for line in docstring_lines(part)}
        for node in source.functions():
            if is_stub(node):
                continue
            lengths.append(code_lines(source, node, documented=documented))
            if lengths[-1] > longest:
                what = f"function {node.name} has {lengths[-1]} code lines; at most {longest}"
                gate.report(source, node.lineno, what, reason=source.function_reason(node))
    for word, share in (("median", 0.5), ("p90", 0.9)):
        gate.at_most(f"function code lines, {word}", rank(lengths, share))
    gate.at_most("function code lines, max", max(lengths, default=0), fine=gate.since(start) == 0)
    check_file_sizes(gate)


def check_file_sizes(gate: Gate) -> None:
    start, files = len(gate.found), [len(source.text.splitlines()) for source in gate.sources]
    for source, lines in zip(gate.sources, files, strict=True):
        if lines > LIMITS["file lines, max"]:
            gate.report(source, 1, f"the file has {lines} lines; at most {LIMITS['file lines, max']}")
    gate.at_most("file lines, p90", rank(files, 0.9))
    gate.at_most("file lines, max", max(files), fine=gate.since(start) == 0)


def check_folders(gate: Gate) -> None:
    files: dict[Path, list[Source]] = {}
    for source in gate.sources:
        files.setdefault(source.relative.parent, []).append(source)
    most, deepest = LIMITS["python files in a folder, max"], LIMITS["folder depth, max"]
    for folder, held in files.items():
        if len(held) > most:
            gate.report(held[0], 1, f"folder {folder} holds {len(held)} python files; at most {most}", reason="")
        if len(folder.parts) > deepest:
            gate.report(held[0], 1, f"folder {folder} lies {len(folder.parts)} below the package; at most {deepest}", reason="")
    widest, depth = max(map(len, files.values()), default=0), max((len(folder.parts) for folder in files), default=0)
    gate.at_most("python files in a folder, max", widest)
    gate.at_most("folder depth, max", depth)


def check_arguments(gate: Gate) -> None:
    start, most, positional, widest = len(gate.found), LIMITS["arguments, max"], LIMITS["positional arguments, max"], 0
    for source in gate.sources:
        methods = methods_of(source.nodes)
        outer = methods | set(source.tree.body)  # a function within a function is a callback: its caller sets the signature
        for node in source.functions():
            if is_dunder(node.name) and node.name not in ("__init__", "__call__", "__new__"):
                continue  # their arguments are python's
            first, plain, named = own_arguments(node, method=node in methods)
            total = len(first) + len(plain) + len(named)
            widest = max(widest, total)
            reason = source.function_reason(node)
            if total > most:
                gate.report(source, node.lineno, f"function {node.name} has {total} arguments; at most {most}", reason=reason)
            late = plain[max(0, positional - len(first)) :]
            if late and node in outer:
                gate.report(source, node.lineno, f"function {node.name}: make {', '.join(late)} keyword-only", reason=reason)
    gate.at_most("arguments, max", widest, fine=not any("arguments; at most" in found.what for found in gate.found[start:]))
    gate.count("arguments not keyword-only after the second", sum("keyword-only" in found.what for found in gate.found[start:]))


# ── promises ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_asserts(gate: Gate) -> None:
    start = len(gate.found)
    for source in gate.sources:
        for node in source.nodes:
            if isinstance(node, ast.Assert):
                gate.report(source, node.lineno, "assert; raise an error that says what was received, expected and to be done")
    gate.count("asserts", gate.since(start))


def check_ignores(gate: Gate) -> None:
    start = len(gate.found)
    for source in gate.sources:
        for line, comment in source.comments.items():
            if re.search(r"#\s*type:\s*ignore(?!\[)", comment):
                gate.report(source, line, "'type: ignore' without a code in brackets")
    gate.count("'type: ignore' without a code", gate.since(start))


def check_raises(gate: Gate) -> None:
    valued, bare = 0, []
    for source in gate.sources:
        for node in source.nodes:
            if not isinstance(node, ast.Raise) or node.exc is None or (isinstance(node.exc, ast.Name) and node.exc.id[:1].islower()):
                continue
            given = [*node.exc.args, *(word.value for word in node.exc.keywords)] if isinstance(node.exc, ast.Call) else []
            if any(isinstance(part, ast.FormattedValue | ast.Name | ast.Attribute) for value in given for part in ast.walk(value)):
                valued += 1
            else:
                bare.append((source, node.lineno))
    total = valued + len(bare)
    share = valued / total if total else 1.0
    if share < VALUED_RAISES:
        for source, line in bare:
            gate.report(source, line, "an error whose message carries no value of what was received")
    gate.figure("raises that carry a value", share, f">= {VALUED_RAISES:.0%}", fine=share >= VALUED_RAISES)


def check_sites(gate: Gate) -> None:
    for word, other in (("backward", "$^"), ("step", "schedul|warmup|profil|progress")):
        sites = []
        for source in gate.sources:
            for node in source.nodes:
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == word:
                    if re.search(other, ast.unparse(node.func.value), re.IGNORECASE):
                        continue
                    if source.reason(node.lineno):
                        gate.report(source, node.lineno, f".{word}( site")
                    else:
                        sites.append((source, node.lineno))
        for source, line in sites[1:]:
            first = f"{sites[0][0].path}:{sites[0][1]}"
            gate.report(source, line, f"a second .{word}( site; the one loop has its own at {first}")
        gate.figure(f".{word}( sites", len(sites), "= 1", fine=len(sites) == 1)


CHECKS = (
    check_sizes, check_folders, check_arguments, check_imports, check_rooms, check_keras, check_systems, check_strings, check_private,
    check_unused, check_class_names, check_formulas, check_exports, check_docstrings, check_sources,
    check_asserts, check_ignores, check_raises, check_sites,
)  # fmt: skip


def shown(path: Path) -> Path:
    """Return `path` as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def main(arguments: Sequence[str]) -> int:
    """Run all checks on one package folder and print the outcome; return the exit code."""
    here = Path(__file__).resolve().parent
    root = Path(arguments[0] if arguments else here.parent / "src" / "regraft")
    gate = Gate(root, Path(arguments[1]) if arguments[1:] else None if arguments else here / "red_list.txt")
    if not gate.sources:
        print(f"{root}: no python files; expected the folder of a package", file=sys.stderr)
        return 2
    for check in CHECKS:
        check(gate)
    gate.report_needless()
    for found in sorted(gate.found, key=lambda found: (found.path, found.line)):
        print(f"{shown(found.path)}:{found.line}: {found.what}")
    width = max(len(name) for name, *_ in gate.table)
    for name, value, limit, fine in gate.table:
        print(f"{name:<{width}}  {value:>6}  {limit:<7} {'ok' if fine else 'BROKEN'}")
    for found in gate.exempt:
        print(f"over the limit with a reason: {shown(found.path)}:{found.line}: {found.what} ({found.reason})")
    return 0 if not gate.found and all(fine for *_, fine in gate.table) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
