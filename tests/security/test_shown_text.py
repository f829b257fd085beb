"""Names of others are shown as text wherever they are shown: no control sequence, no link, no markup, no formula."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner, Result

import regraft
from regraft import console
from regraft.cli import app
from regraft.errors import DataError
from regraft.files.text import csv_cell, printable, printable_json, printable_lines
from regraft.networks.account import Account

HOSTILE = {
    "escape": "cat\x1b[31mred",
    "link": "cat\x1b]8;;http://example.org\x07here\x1b]8;;\x07",
    "c1": "cat\x9b31m",
    "bidi": "cat\u202egnp.exe",
    "lines": "cat\nError: all is lost",
    "carriage": "cat\rdog",
    "separator": "cat\u2028dog",
    "markup": "[bold red]cat[/bold red] :smile:",
    "formula": '=HYPERLINK("http://example.org")',
    "surrogate": "caf\udce9",
    "tag": "cat\U000e0041",
}
CLASSES = tuple(HOSTILE.values())


def clean(text: str) -> bool:
    """Return whether text holds nothing but text and line breaks."""
    return all(character == "\n" or unicodedata.category(character) not in ("Cc", "Cs", "Cf", "Zl", "Zp") for character in text)


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert clean(result.stdout) and clean(result.stderr)
    return result


class Tiny(nn.Module):
    """Columns of numbers to as many classes as there are hostile names."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 16), nn.Linear(16, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x)))


def make() -> nn.Module:
    """Return the network that the commands below are given as --architecture."""
    torch.manual_seed(0)
    return Tiny()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved folder of a network with hostile class names."""
    folder = tmp_path_factory.mktemp("hostile") / "net"
    regraft.load(make(), inputs=(4,), classes=CLASSES).save(folder)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The option by which a command finds the network's class."""
    monkeypatch.chdir(Path(__file__).parent)
    return ["--architecture", f"{Path(__file__).stem}:make"]


@pytest.mark.parametrize("name", HOSTILE)
def test_one_line_of_text(name: str) -> None:
    text = HOSTILE[name]
    assert clean(printable(text)) and "\n" not in printable(text) and printable(printable(text)) == printable(text)
    assert clean(printable_lines(text)) and printable_lines(text).count("\n") == text.count("\n")
    plain = json.dumps([text], ensure_ascii=False)
    assert clean(printable_json(plain)) and json.loads(printable_json(plain)) == [text]
    assert not str(csv_cell(printable(text))).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_everything_is_printed_through_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    for text in CLASSES:
        console.show(text)
        console.tell(text)
        console.show_json({text: [text]})
        console.show_csv([[text, 1]])
        console.show_table((text, "value"), [(text, 1)], title=text, caption=text)
        with console.speaking(True):
            console.say(text)
    out, err = capsys.readouterr()
    assert clean(out) and clean(err) and "\nError:" not in out + err
    assert "[bold red]cat[/bold red] :smile:" in out


def test_tables_keep_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table(("class", "n"), [("[/]", 1), ("[red]x", 2), (":x:", 3)])
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("[/]", "[red]x", ":x:"))


def test_progress_shows_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for text in CLASSES:
        stream = Terminal()
        monkeypatch.setattr("sys.stderr", stream)
        with console.speaking(True), console.progress(text, 2) as more:
            more(1)
        assert all(part not in stream.getvalue() for part in ("\x1b[31mred", "\x1b]8;", "\x9b", "\u202e", "\nError:", "\udce9"))
        monkeypatch.undo()


def test_the_innermost_work_is_shown_and_a_result_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    lines, results = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stderr", lines)
    monkeypatch.setattr("sys.stdout", results)
    with console.speaking(True, words=False), console.progress("outer"):
        console.say("no sentence")
        with console.progress("inner", 3) as more:
            more(1.5)
            [shown] = console._SHOWN
            assert [task.visible for task in shown.tasks] == [False, True] and shown.tasks[1].fields["steps"] == "1/3"
        assert [task.visible for task in shown.tasks] == [True] and shown.live.is_started
        console.show("the result")
        assert not shown.live.is_started and results.getvalue() == "the result\n"
        with console.progress("next"):
            assert shown.live.is_started
    assert not console._SHOWN and "inner" in lines.getvalue() and "no sentence" not in lines.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_encoding_of_the_terminal_serves(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    console.show("caf\u00e9 \u732b \udce9")
    console.show_json(["caf\u00e9 \u732b \udce9"], indent=None)
    stream.flush()
    lines = stream.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]  # BytesIO
    assert json.loads(lines[1]) == ["caf\u00e9 \u732b \udce9"]


def test_the_account_and_the_summary_are_safe_as_text() -> None:
    account = Account({"kept": CLASSES, "new": CLASSES}, dict.fromkeys(CLASSES, "exact\x1b"), CLASSES, dict.fromkeys(CLASSES, 1.0))
    assert clean(str(account)) and "\nError:" not in str(account)
    summary = regraft.load(make(), inputs=(4,), classes=CLASSES).summary()
    assert clean(summary) and "\nError:" not in summary


def test_inspect_and_its_preview(saved: Path, tmp_path: Path, here: list[str]) -> None:
    names = tmp_path / "names.json"
    names.write_text(json.dumps([*CLASSES[:3], "new\x1b[31m"]), encoding="utf-8")
    shown = run("inspect", saved, *here, "--classes", names)
    assert shown.exit_code == 0 and "cat\\x1b[31mred" in shown.stdout and "\nError:" not in shown.stdout
    facts = run("inspect", saved, *here, "--json")
    assert tuple(json.loads(facts.stdout)["heads"][0]["classes"]) == CLASSES


def test_predict(saved: Path, tmp_path: Path, here: list[str]) -> None:
    items = tmp_path / "=1+1.npy"
    np.save(items, np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32))
    shown = run("predict", saved, items, *here, "--probabilities")
    rows = list(csv.reader(io.StringIO(shown.stdout)))
    assert shown.exit_code == 0 and len(rows) == 61
    assert all(not cell.startswith(("=", "+", "@")) for row in rows for cell in row)
    assert f"p({printable(HOSTILE['escape'])})" in rows[0]
    lines = run("predict", saved, items, *here, "--format", "jsonl", "--probabilities")
    assert all(tuple(json.loads(line)["probabilities"]) == CLASSES for line in lines.stdout.splitlines())
    raw = CliRunner().invoke(app, ["predict", str(saved), str(items), *here, "--probabilities", "--raw-cells"])
    assert HOSTILE["escape"].encode() in raw.stdout_bytes and b"caf\xe9" in raw.stdout_bytes


def test_evaluate(saved: Path, tmp_path: Path, here: list[str]) -> None:
    pandas = pytest.importorskip("pandas")
    table = tmp_path / "t.parquet"
    kept = [name for name in CLASSES if name != HOSTILE["surrogate"]]  # no table file holds it
    rows = np.random.default_rng(0).standard_normal((4 * len(kept), 4))
    pandas.DataFrame({**{f"c{at}": rows[:, at] for at in range(4)}, "label": kept * 4}).to_parquet(table)
    shown = run("evaluate", saved, table, *here)
    assert shown.exit_code == 0 and "[bold red]cat[/bold red] :smile:" in shown.stdout
    assert run("evaluate", saved, table, *here, "--json").exit_code == 0


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("lines", "surrogate")])
def test_errors_and_warnings(name: str, saved: Path, tmp_path: Path, here: list[str]) -> None:
    text = HOSTILE[name]
    places = (["inspect", tmp_path / text], ["predict", tmp_path / text], ["evaluate", text, text], ["cache", "list", "--cache", text])
    for arguments in places:
        run(*arguments)
    table = tmp_path / "t.csv"
    table.write_text(f'"{text.replace(chr(34), "")}",label\n1,a\n2,b\n', encoding="utf-8")
    assert run("evaluate", saved, table, *here, "--target", text).exit_code == 2


def test_wrong_arguments() -> None:
    text = "".join(CLASSES)
    for command in [(), *((name,) for name in typer.main.get_group(app).commands)]:
        for words in ([text] * 6, [f"--{text}"], [f"-{text}"], [f"--seed={text}"]):
            shown = run(*command, *words)
            assert shown.exit_code == 2 and "\nError: all is lost" not in shown.stderr, (command, words)


@pytest.mark.skipif(os.name == "nt", reason="file names are bytes on POSIX")
def test_names_in_messages_of_the_library(tmp_path: Path) -> None:
    for name, text in HOSTILE.items():
        folder = tmp_path / name / text.replace("/", "")
        (folder / "a").mkdir(parents=True)
        with pytest.raises(DataError) as caught:
            regraft.read(folder)
        assert clean(str(caught.value)) and "\n" not in str(caught.value)
