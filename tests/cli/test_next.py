"""The commands that a finished command names are commands that run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import Result

from regraft.cli.commands.adaptation import print_next

from .conftest import run
from .test_extend import write_table

NAMES = ("low", "middle", "high", "top")


def next_commands(result: Result) -> list[list[str]]:
    lines = result.stdout.splitlines()
    return [line.split()[1:] for line in lines[lines.index("Next:") + 1 :]]


@pytest.mark.parametrize(("classes", "tells"), [(2, False), (3, True)])
def test_the_next_commands_of_adapt_and_extend_run(classes: int, tells: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path("known.csv"), NAMES[:classes], each=20)
    write_table(Path("new.csv"), NAMES[classes : classes + 1], each=20)
    keras = pytest.importorskip("keras")
    layers = [keras.Input((3,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    keras.Sequential(layers).save("net.keras")
    adapted = run("adapt", "net.keras", "known.csv", "--strategy", "probe", "--out", "adapted", "--quiet")
    assert adapted.exit_code == 0, adapted.output
    extended = run("extend", "adapted", "new.csv", "--out", "wider", "--quiet")
    assert extended.exit_code == 0, extended.output
    assert ("--unknown" in adapted.stdout) == tells
    for command in [*next_commands(adapted), *next_commands(extended)]:
        words = [re.sub("^(DATA|FILES)$", "known.csv", word) for word in command]
        result = run(*words)
        assert result.exit_code == 0, (words, result.output)


def test_the_export_of_a_users_own_network_names_what_builds_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_next("my run", unknown=False, architecture="mine:make")
    assert "  regraft export 'my run' network.onnx --architecture mine:make" in capsys.readouterr().out.splitlines()
