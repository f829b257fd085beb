"""`regraft --help` answers at once: neither torch nor keras is imported before a command needs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from regraft.cli import app

from .conftest import run

HEAVY = "{'torch', 'keras', 'tensorflow', 'numpy', 'sklearn', 'timm', 'transformers'}"
COMMANDS = (
    *("inspect", "check", "profile", "adapt", "adapt-condition", "search", "extend"),
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
