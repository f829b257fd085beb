"""docs/architecture.md: the five files from `regraft.adapt` to the loss, and the tree, are what the source is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from tree import first_sentence, tree, with_tree  # noqa: E402

SOURCE = ROOT / "src" / "regraft"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_and_function_on_the_way_to_the_loss_is_there() -> None:
    steps = re.findall(r"^\d\. `(src/[^`]+)` — (.+?)(?:$|:)", PAGE, flags=re.MULTILINE)
    assert len(steps) == 5
    for path, words in steps:
        source = (ROOT / path).read_text(encoding="utf-8")
        names = re.findall(r"`(\w+)`", words)
        assert names and all(re.search(rf"^\s*def {name}\(", source, flags=re.MULTILINE) for name in names), (path, names)


def test_the_tree_is_that_of_the_source() -> None:
    drawn = tree(SOURCE)
    assert len(drawn.splitlines()) == len(list(SOURCE.rglob("*.py"))), "a folder without __init__.py is missing in the tree"
    assert with_tree(PAGE, drawn) == PAGE, "The tree is stale: run `python scripts/tree.py` and commit docs/architecture.md."


def test_every_file_says_what_it_holds_in_one_line() -> None:
    said = {path: first_sentence(path) for path in SOURCE.rglob("*.py")}
    assert not [path for path, words in said.items() if not 10 <= len(words) <= 160]


def test_the_table_of_layers_has_every_package_and_nothing_else() -> None:
    table = PAGE[PAGE.index("## Layers") : PAGE.index("## Where the frozen part ends")]
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", table.split("| --- | --- |")[1]))
    there = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} | {path.stem for path in SOURCE.glob("[!_]*.py")}
    assert named == there
