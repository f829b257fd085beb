"""What MkDocs needs beside docs/: the README as first page, and the pages that the README links outside of docs/.

Nothing is copied into the repository: these pages are made while the site is built, so that they cannot differ from their sources.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

__all__ = ["Readings", "on_files"]

HOME = Path(__file__).resolve().parents[1]


def linked(text: str) -> str:
    """Return Markdown of the repository's root with the links that hold on the site."""
    links = {r"docs/methods/": "methods/index.md", r"docs/": "", r"benchmarks/README\.md": "benchmarks.md"}
    for old, new in links.items():
        text = re.sub(rf"\]\({old}", f"]({new}", text)
    return re.sub(r"\]\(examples/(\w+)\.py\)", r"](examples/\1.md)", text)


def program(path: Path) -> str:
    """Return a page that shows an example program, below what its docstring says of it."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    title, code = path.stem.replace("_", " ").capitalize(), "\n".join(source.splitlines()[tree.body[0].end_lineno :]).strip()
    return f"# {title}: examples/{path.name}\n\n{ast.get_docstring(tree)}\n\n````py\n{code}\n````\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have their source outside of docs/."""
    pages = {"index.md": linked((HOME / "README.md").read_text(encoding="utf-8"))}
    pages["benchmarks.md"] = (HOME / "benchmarks" / "README.md").read_text(encoding="utf-8")
    pages |= {f"examples/{path.stem}.md": program(path) for path in sorted((HOME / "examples").glob("*.py"))}
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


class Readings(griffe.Extension):
    """What griffe does not know of this package: the section "Example:", and functions that are called like their module."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename "Example:" in one object's docstring, before it is parsed: griffe shows the plural alone as code."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Let a public name that leads to `data.read`, the module, lead to the function in it."""
        for name, member in list(pkg.members.items()):
            if isinstance(member, griffe.Alias) and member.target_path.startswith(f"{pkg.path}."):
                found = pkg[member.target_path.removeprefix(f"{pkg.path}.")]
                if isinstance(found, griffe.Module) and name in found.members:
                    pkg.set_member(name, griffe.Alias(name, f"{found.path}.{name}", parent=pkg))
