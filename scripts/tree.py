"""The tree of the source in `docs/architecture.md`: one line a file, the first sentence of its docstring.

    python scripts/tree.py          # writes it anew, after a file was added, moved or described otherwise

A test fails where the page says anything else.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
MARKS = ("<!-- tree -->\n```text\n", "```\n<!-- end of the tree -->")


def first_sentence(path: Path) -> str:
    """Return the first sentence of a module's docstring, in one line; a colon counts as an end where that is long."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.])[.](?: |$)", text)[0]


def tree(source: Path) -> str:
    """Return the files below `source`, folder by folder, files of a folder before the folders in it; a folder has its package's line."""
    lines = []

    def add(folder: Path, depth: int) -> None:
        lines.append(f"{'  ' * depth}{folder.name}/".ljust(36) + f" {first_sentence(folder / '__init__.py')}")
        for path in sorted(folder.glob("*.py")):
            if path.name != "__init__.py":
                lines.append(f"{'  ' * (depth + 1)}{path.name}".ljust(36) + f" {first_sentence(path)}")
        for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
            add(inner, depth + 1)

    add(source, 0)
    return "\n".join(lines) + "\n"


def with_tree(page: str, drawn: str) -> str:
    """Return the `page` with another tree between its marks."""
    before, rest = page.split(MARKS[0])
    return before + MARKS[0] + drawn + MARKS[1] + rest.split(MARKS[1])[1]


if __name__ == "__main__":
    PAGE.write_text(with_tree(PAGE.read_text(encoding="utf-8"), tree(ROOT / "src" / "regraft")), encoding="utf-8")
