"""Messages that reach a user through a command name options and commands, never arguments and functions of Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextvars import copy_context
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import regraft
from regraft.cli import app
from regraft.cli.commands.adaptation import as_words
from regraft.cli.guard import as_options
from regraft.planning import make_plan

GROUP: Any = get_command(app)
OPTIONS = {
    name: {word for option in command.params for word in option.opts if word.startswith("--")} for name, command in GROUP.commands.items()
}
OF_PYTHON = ("dataclasses.replace(", "regraft.read(")
"""Parts of messages on what no command can do."""
KEYWORD = re.compile(r"(?<!--set )(?<![-\\w])([a-z_]+)=")


def told(command: str, *messages: str) -> list[str]:
    """Return messages as a command prints them, which has parsed its options."""

    def reworded() -> list[str]:
        context = GROUP.make_context("regraft", [command, "--help"], resilient_parsing=True)
        GROUP.commands[command].make_context(command, ["--help"], parent=context, resilient_parsing=True)
        return list(map(as_options, messages))

    return copy_context().run(reworded)


@pytest.mark.parametrize(
    ("command", "message", "said"),
    [
        ("adapt", "kind='text' or kind=.", "--kind text or --kind."),
        ("adapt", "holdout=1.5 is out of range; epochs=-1", "--holdout 1.5 is out of range; --epochs -1"),
        ("adapt", "epochs=2, refit=False", "--epochs 2, --set refit=false"),
        ("adapt", "Read them: regraft.read({'a': …}, target=…).", "Read them: regraft.read({'a': …}, target=…)."),
        ("adapt", "trainable=['a', 'b'], inputs=(3, 8, 8)", "--trainable a,b, --inputs 3,8,8"),
        ("adapt", "label_smoothing=2. Choose schedule='plateau'", "--set label_smoothing=2. Choose --set schedule=plateau"),
        ("adapt", "regraft.load(…, preprocessing={'kind': 'audio'}) shows", '--preprocessing \'{"kind": "audio"}\' shows'),
        ("adapt", "give the module: regraft.load(module).", "give the module: --architecture MODULE:NAME."),
        ("adapt", "--set optimizer=sgd --set l1=0.3", "--set optimizer=sgd --set l1=0.3"),
        ("evaluate", "Choose strategy='head'.", "Choose --strategy head of regraft adapt."),
        ("evaluate", "Choose optimizer='sgd'.", "Choose --set optimizer=sgd of regraft adapt."),
        ("predict", "unknown=True: regraft.adapt learns one", "--unknown: regraft adapt learns one"),
        ("combine", "Give classes= when the network is loaded", "Give --source-classes of regraft convert"),
        ("combine", "the same inputs= and preprocessing=.", "the same --inputs and --preprocessing."),
        ("adapt-condition", "Train some, regraft.adapt(net, data, strategy='codes'), or", "Train some, regraft adapt --strategy codes, or"),
        ("search", "regraft.json is damaged; space=", "regraft.json is damaged; --space"),
    ],
)
def test_keywords_and_functions_become_options_and_commands(command: str, message: str, said: str) -> None:
    assert told(command, message) == [said]


def _messages() -> Iterator[str]:
    """Yield every text of the library that holds a keyword, but for docstrings; values in it are made up."""
    for path in sorted(Path(regraft.__file__).parent.glob("[!c]*/**/*.py")):  # what is not below cli/ and the public functions
        tree = ast.parse(path.read_text(encoding="utf-8"))
        loose = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        parts = {id(part) for one in ast.walk(tree) if isinstance(one, ast.JoinedStr) for part in ast.walk(one) if part is not one}
        for one in ast.walk(tree):
            if isinstance(one, ast.JoinedStr | ast.Constant) and id(one) not in loose | parts:
                text = _text(one)
                if " " in text and KEYWORD.search(text) and not any(part in text for part in OF_PYTHON):
                    yield text


@cache
def _all_messages() -> tuple[str, ...]:
    return tuple(dict.fromkeys(_messages()))


def _text(one: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(one, ast.Constant):
        return one.value if isinstance(one.value, str) else ""
    values = ("'v'" if getattr(part, "conversion", -1) == ord("r") else "3" for part in one.values)
    return "".join(part.value if isinstance(part, ast.Constant) else value for part, value in zip(one.values, values, strict=True))


@pytest.mark.parametrize("command", OPTIONS)
def test_no_message_of_the_library_keeps_a_keyword_that_is_an_option(command: str) -> None:
    messages = _all_messages()
    assert len(messages) > 100
    own = {option.removeprefix("--").replace("-", "_") for option in OPTIONS[command]}
    assert [text for text in told(command, *messages) if own & set(KEYWORD.findall(text))] == []


def test_a_plan_is_printed_with_the_values_that_its_command_has() -> None:
    given = {"refit": False, "baselines": True, "clip_norm": None, "learning_rate": 0.00123456789012345, "rank": 2}
    plan = make_plan("lora", given)
    words = as_words(plan)
    assert [word for word in words if "=" in word] == ["rank=2", "refit=false"] and "0.00123456789012345" in words
    shown = told("adapt", str(plan))[0]
    assert "--set refit=false" in shown and "--learning-rate 0.001235" in shown, shown
    assert f"learning_rate={0.00123456789012345!r}" in plan.to_call()
