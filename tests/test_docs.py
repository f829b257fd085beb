"""The examples in the documentation run."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import regraft
from regraft.cli import app
from regraft.cli.shared import SETTINGS

HOME = Path(__file__).parents[1]
FOLDERS = [HOME / "docs", HOME / "docs" / "tasks", HOME / "docs" / "examples"]
PAGES = [HOME / "README.md", *(page for folder in FOLDERS for page in sorted(folder.glob("*.md")))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_python_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in re.findall(r"```python\n(.+?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(example, str(path), "exec"), {})


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_fragments_that_need_a_users_own_files_call_what_is_there(path: Path) -> None:
    """Blocks of `py` are not run: each call of regraft in them is bound to the function of that name."""
    for fragment in re.findall(r"```py\n(.+?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
        for call in ast.walk(ast.parse(fragment)):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "regraft":
                named = dict.fromkeys(str(keyword.arg) for keyword in call.keywords)
                bound = inspect.signature(getattr(regraft, call.func.attr)).bind(*call.args, **named)
                assert set(bound.arguments.get("settings", {})) <= {*SETTINGS.split(), "strategy"}, fragment


def _command_lines() -> list[tuple[str, str]]:
    """Return (page, line) of every command in a block of the documentation, examples of what a command prints left out."""
    pages = [*PAGES, *sorted((HOME / "docs" / "methods").glob("*.md")), HOME / "SECURITY.md"]
    found = []
    for page in pages:
        inside = ""
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if line.lstrip().startswith("```"):
                inside = "" if inside else line.strip()
            elif inside in ("```", "```sh", "```bash", "```console") and line.strip().removeprefix("$ ").startswith("regraft "):
                found.append((page.stem, line.strip().removeprefix("$ ")))
    return found


@pytest.mark.parametrize(("page", "line"), _command_lines())
def test_commands_are_ones_that_the_program_has(page: str, line: str) -> None:
    """Their arguments are parsed, and nothing is run."""
    name, *words = shlex.split(line.partition(" #")[0])[1:]
    program = get_command(app)
    if name.startswith("--"):
        assert name in {option for one in program.params for option in one.opts} | {"--install-completion", "--show-completion"}
        return
    command = program.commands[name]  # type: ignore[attr-defined]  # of a group
    context = command.make_context(name, words)
    if hasattr(command, "commands"):
        assert words[0] in command.commands and command.commands[words[0]].make_context(words[0], words[1:])
    assert context.info_name == name
