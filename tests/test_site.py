"""The documentation builds as a site: without a network, with all links whole, and with every public name in its reference."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import regraft
from regraft import errors

HOME = Path(__file__).parents[1]
BUILD = """
import socket, sys

def refuse(*where):
    raise OSError(f"the build asked for the network: {where}")

socket.socket.connect = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--quiet", "--site-dir", sys.argv[1]])
"""
LOADING = {"src", "srcset", "data", "poster", "action", "xlink:href"}
LINKING = {"link", "use", "image", "base"}  # whose href is fetched; that of `a` is followed by the reader only
ELSEWHERE = re.compile(r"\s*(https?:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """What a page loads by itself, its anchors, and its text outside of code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.anchors: list[str] = []
        self.styles: list[str] = []
        self.text: list[str] = []
        self.prose: list[str] = []
        self._inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.loads += [value for name, value in given.items() if name in LOADING or (name == "href" and tag in LINKING)]
        self.anchors += [given["id"]] if "id" in given else []
        self.styles += [given["style"]] if "style" in given else []
        self._inside += [tag] if tag in ("pre", "code", "style", "script") else []

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if not self._inside:
            self.prose.append(data)
        elif self._inside[-1] == "style":
            self.styles.append(data)


def words(text: str) -> str:
    """The letters and figures alone: a page marks code, joins lines and draws other quotes."""
    return re.sub(r"\W+", "", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=HOME, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_public_name_stands_once_in_the_reference(pages: dict[str, Page]) -> None:
    found = [anchor for name, page in pages.items() if name.startswith("reference/") for anchor in page.anchors]
    public = [anchor.removeprefix("regraft.") for anchor in found if re.fullmatch(r"regraft\.\w+", anchor)]
    assert sorted(public) == regraft.__all__
    texts = {name: words(inspect.getdoc(getattr(regraft, name)).split("\n\n")[0]) for name in public}
    shown = words("".join("".join(page.text) for name, page in pages.items() if name.startswith("reference/")))
    assert not [name for name, text in texts.items() if text not in shown]
    functions = {f"regraft.{name}" for name in public if inspect.isfunction(getattr(regraft, name))}
    assert not [anchor for anchor in found if anchor.rpartition(".")[0] in functions], "a module stands where its function should"
    below = {name for name in errors.__all__ if isinstance(error := getattr(errors, name), type) and issubclass(error, errors.RegraftError)}
    assert {f"regraft.errors.{name}" for name in below - {"RegraftError"}} <= set(found)


def test_examples_of_docstrings_are_shown_as_code(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert ">>>" not in "".join(page.prose), name


def test_no_page_loads_anything_from_another_host(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert not [address for address in page.loads if ELSEWHERE.match(address)], name
        assert not [style for style in page.styles if re.search(r"url\(\s*['\"]?(https?:)?//|@import", style)], name
        assert 'class="mermaid"' not in (site / name).read_text(encoding="utf-8"), f"{name}: the theme would fetch a program that draws"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import", sheet.read_text(encoding="utf-8")), sheet.name


def test_the_readme_and_the_programs_are_pages_of_it(pages: dict[str, Page]) -> None:
    assert "regraft" in pages["index.html"].anchors and "guarantees" in pages["index.html"].anchors
    assert {f"examples/{path.stem}.html" for path in (HOME / "examples").glob("*.py")} | {"benchmarks.html"} <= set(pages)
