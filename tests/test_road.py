"""The five files of docs/road.md, from `regraft.adapt` to the loss, are where it says."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_every_file_and_function_of_the_road_is_there() -> None:
    steps = re.findall(r"^\d\. `(src/[^`]+)` — (.+?)(?:$|:)", (DOCS / "road.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(steps) == 5
    for path, words in steps:
        source = (DOCS.parent / path).read_text(encoding="utf-8")
        names = re.findall(r"`(\w+)`", words)
        assert names and all(re.search(rf"^\s*def {name}\(", source, flags=re.MULTILINE) for name in names), (path, names)
