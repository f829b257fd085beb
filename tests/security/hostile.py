"""Pieces that tests of hostile files share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import NetworkError, RegraftError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "bus", "tram"]
TEXTS = ["a good bus", "bad tram", "good", "bad bus a"]


class Harm:
    """Unpickled, it makes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def origin_changed(folder: Path, **values: Any) -> None:
    """Change what a saved folder says of its origin."""
    changed(folder / "regraft.json", lambda facts: facts["network"]["origin"].update(values))


def refused(open_: Callable[[], Any], *, kind: type[RegraftError] = NetworkError, match: str = "") -> None:
    """Expect one error of regraft, without anything that a terminal would take for more than text."""
    with pytest.raises(kind, match=match or None) as caught:
        open_()
    assert "\x1b" not in str(caught.value)
