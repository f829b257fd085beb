"""`regraft --help` answers at once: neither torch nor keras is imported before a command needs it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from regraft.cli import app

from .conftest import run

HEAVY = "{'torch', 'keras', 'tensorflow', 'numpy', 'sklearn', 'timm', 'transformers'}"
COMMANDS = (
    *("inspect", "check", "profile", "adapt", "adapt-condition", "search", "extend", "combine"),
    *("export", "convert", "evaluate", "predict", "report", "cache", "demo"),
)


@pytest.mark.parametrize("arguments", [["--help"], ["adapt", "--help"], ["cache", "list", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['regraft', *sys.argv[1:]]\n"
        "import regraft.cli\n"
        "try:\n    regraft.cli.main()\nexcept SystemExit as end:\n    code = end.code\n"
        f"print('HEAVY', sorted({HEAVY} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("HEAVY [] 0")


def test_import_of_the_package_is_light() -> None:
    code = f"import sys, regraft; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_command() -> None:
    shown = run("--help").output
    assert all(command in shown for command in COMMANDS)
    assert {command.name for command in app.registered_commands} | {"cache"} == set(COMMANDS)


@pytest.mark.parametrize(
    "arguments", [["adap"], ["adapt"], ["adapt", "--nope"], ["predict"], ["adapt", "a", "b", "--out", "c", "--epochs", "x"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == "" and "Usage" in result.stderr


def _commands() -> list[tuple[str, Any]]:
    group: Any = typer.main.get_command(app)
    return [(name, command) for name, command in group.commands.items() if name != "cache"]


@pytest.mark.parametrize(("name", "command"), _commands())
def test_every_command_has_examples_that_its_options_allow(name: str, command: Any) -> None:
    examples = command.epilog.split("\n\n")[1:]
    assert examples and command.rich_help_panel in ("Look", "Adapt", "Use", "Other")
    for example in examples:
        program, asked, *words = shlex.split(example)
        assert (program, asked) == ("regraft", name)
        command.make_context(name, words)
    assert examples[0] in " ".join(run(name, "--help").output.split())


@pytest.mark.parametrize("name", ["adapt", "extend", "search"])
def test_options_stand_in_groups(name: str) -> None:
    shown = run(name, "--help").output
    assert all(f"─ {panel} ─" in shown for panel in ("Network", "Data", "Settings", "Output"))


def test_an_option_is_not_taken_for_the_value_of_another() -> None:
    wrong = run("extend", "a", "b", "--statistics", "--out", "c")
    assert wrong.exit_code == 2 and "--statistics" in wrong.stderr and "takes a value, DIR|own" in " ".join(wrong.stderr.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str) -> None:
    words = {"_REGRAFT_COMPLETE": f"complete_{shell}", "COMP_WORDS": "regraft ad", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "regraft ad"}
    done = CliRunner().invoke(app, [], env={**words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}, prog_name="regraft")
    assert "adapt-condition" in done.stdout and "predict" not in done.stdout
