"""The examples in the documentation run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
FOLDERS = [HOME / "docs", HOME / "docs" / "tasks", HOME / "docs" / "examples"]
PAGES = [HOME / "README.md", *(page for folder in FOLDERS for page in sorted(folder.glob("*.md")))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_python_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in re.findall(r"```python\n(.+?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(example, str(path), "exec"), {})
