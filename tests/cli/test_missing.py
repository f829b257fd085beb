"""What a command is given and is not there: all of it told, before anything heavy is imported."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

import regraft
from regraft.cli import app
from regraft.cli.shared import SETTINGS, VALUES
from regraft.data.preprocessings.augmenting import AUGMENTS
from regraft.errors import DataError
from regraft.files.given import missing_network, unreachable_network
from regraft.freezing.engines import ENGINES
from regraft.methods import METHODS
from regraft.planning.plan import AUTO_BLOCK, BASES, PROBES, STARTS_OF_ROWS, STRATEGIES, THIRDS, Plan
from regraft.planning.search.board import PRUNERS, SAMPLERS
from regraft.training.settings import BATCH_NORMS, OPTIMIZERS, SCHEDULES, Settings

COMMANDS = {
    "adapt": (["adapt", "NETWORK", "DATA", "--out", "OUT"], 2),
    "combine": (["combine", "a=nets/mine", "b=nets/mine", "--data", "DATA", "--out", "OUT"], 2),
    "extend": (["extend", "NETWORK", "DATA", "--out", "OUT"], 2),
    "profile": (["profile", "NETWORK", "DATA"], 2),
    "search": (["search", "NETWORK", "DATA", "--out", "OUT"], 2),
    "evaluate": (["evaluate", "NETWORK", "DATA"], 2),
    "adapt-condition": (["adapt-condition", "NETWORK", "DATA", "--name", "anna"], 2),
    "predict": (["predict", "NETWORK", "x.png"], 1),
    "inspect": (["inspect", "NETWORK"], 1),
}
ALL = """
import sys
from typer.testing import CliRunner
from regraft.cli import app
for line in sys.stdin.read().splitlines():
    done = CliRunner().invoke(app, line.split())
    print(done.exit_code, "torch" in sys.modules, " ".join(done.output.split()))
"""
"""Runs the commands that it is given, in one process, and tells whether PyTorch has been imported."""


def test_all_that_is_missing_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    given = {"NETWORK": "nets/mine", "DATA": "photos", "OUT": "out"}
    lines = "\n".join(" ".join(given.get(word, word) for word in words) for words, _ in COMMANDS.values())
    done = subprocess.run([sys.executable, "-c", ALL], input=lines, capture_output=True, text=True, check=True, cwd=tmp_path)
    for (words, count), told in zip(COMMANDS.values(), done.stdout.splitlines(), strict=True):
        assert told.startswith("2 False "), told
        assert "There is no file or folder 'nets/mine'." in told and ("The data do not exist: photos." in told) == (count == 2), told
        assert told.count("There is no file or folder") == sum("nets/mine" in word or word == "NETWORK" for word in words)
    assert not list(tmp_path.iterdir())


PLACES = {
    "adapt": "net t.csv --out out",
    "check": "t.csv net",
    "evaluate": "net t.csv",
    "predict": "net t.csv",
    "profile": "net t.csv",
    "search": "net t.csv --out out",
    "extend": "net t.csv --out out",
}
"""Command -> its arguments, all of which are there."""
COLUMN = "t.csv has no column {!r} for {}; did you mean {!r}?"
OPTIONS = {
    "--target labl": COLUMN.format("labl", "target", "label"),
    "--target a=labl --target b=who": COLUMN.format("labl", "target of task 'a'", "label"),
    "--group whoo": COLUMN.format("whoo", "group", "who"),
    "--columns ages": COLUMN.format("ages", "columns", "age"),
    "--condition whoo": COLUMN.format("whoo", "condition", "who"),
    "--sample-weight ages": COLUMN.format("ages", "sample_weight", "age"),
    "--pass whoo": COLUMN.format("whoo", "pass", "who"),
    "--files nowhere": "--files nowhere does not exist.",
    "--weights nowhere": "--weights nowhere does not exist.",
    "--source-classes nowhere": "--source-classes nowhere does not exist.",
    "--kind imag": "No kind of data is called 'imag'; did you mean 'image'?",
    "--task regresion": "--task regresion is no kind of task; did you mean 'regression'?",
    "--budget 10": "'--budget': '10': expected a time such as 30s, 10m or 1h.",
    "--epochs -1": "'--epochs': '-1': input should be greater than",
    "--epochs three": "'--epochs': 'three': input should be a valid",
    "--holdout 2": "'--holdout'",
    "--trials 0": "'--trials'",
    "--channels 0": "'--channels'",
    "--strategy ful": "--strategy ful is not known; did you mean 'full'?",
    "--probe rigde": "--probe rigde is not known; did you mean 'ridge'?",
    "--start zeroes": "--start zeroes is not known; did you mean 'zeros', 'probe'?",
    "--augment ligt": "--augment ligt is not known; did you mean 'light'?",
    "--engine compil": "--engine compil is not known; did you mean 'compile'?",
    "--sampler tpee": "--sampler tpee is not known; did you mean 'tpe'?",
    "--block frist": "--block frist is not known; did you mean 'first'?",
    "--set lr=1": "--set lr: unknown setting 'lr'; here it is called 'learning_rate'",
    "--set momentun=1": "--set momentun: unknown setting 'momentun'; did you mean 'momentum'",
    "--set nesterov=1": "--set nesterov: there is no setting 'nesterov': --set optimizer=sgd has Nesterov momentum",
    "--set optimizer=adamm": "--set optimizer=adamm is not known; did you mean 'adam', ",
    "--set schedule=cosin": "--set schedule=cosin is not known; did you mean 'cosine'",
    "--set epochs": "--set 'epochs': expected NAME=VALUE",
    "--set data=x": "'data' is not a setting",
    "--pruner media": "--pruner media is not known; did you mean 'median'?",
}
"""Wrong options -> what is said of them."""
_MADE = {"strategy", "settings", "options", "reasons", "candidates", "chosen"}
"""Of a plan, what no option sets."""
OTHERWISE = {"evaluate": ["--condition"], "predict": ["--condition"]}
"""Where an option may name something else than a column, which the network alone knows."""


def test_wrong_columns_values_and_places_are_told_before_torch_is_imported(tmp_path: Path) -> None:
    """Every option of the table with every command that has it, with places that are all there."""
    (tmp_path / "net").mkdir()
    (tmp_path / "t.csv").write_text("age,who,text,label\n1,ann,some words,x\n")
    has = {name: {option for one in get_command(app).commands[name].params for option in one.opts} for name in PLACES}
    asked = [
        (f"{name} {places} {wrong}", said)
        for name, places in PLACES.items()
        for wrong, said in OPTIONS.items()
        if wrong.split()[0] in has[name] and wrong.split()[0] not in OTHERWISE.get(name, [])
    ]
    assert {wrong for wrong in OPTIONS if any(line.endswith(wrong) for line, _ in asked)} == set(OPTIONS)
    lines = "\n".join(line for line, _ in asked)
    done = subprocess.run([sys.executable, "-c", ALL], input=lines, capture_output=True, text=True, check=True, cwd=tmp_path)
    told = done.stdout.splitlines()
    assert len(told) == len(asked)
    assert [(line, out) for (line, said), out in zip(asked, told, strict=True) if not (out.startswith("2 False ") and said in out)] == []
    assert {path.name for path in tmp_path.iterdir()} == {"net", "t.csv"}


def test_a_network_in_the_place_of_data_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    """Network and data in each other's place, and a network as the data, with every command that takes both."""
    for name in ("net/regraft.json", "photos/cat/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("{}")
    exchanged = "'photos' was given as the network and 'net', which is a network, as the data. Exchange them."
    twice = "net is a network saved by regraft, not data. Give a folder of class folders, a table or arrays."
    asked = [
        (f"{name} {' '.join(places)} {places_of.partition('t.csv')[2].removeprefix(' net')}", said)
        for name, places_of in PLACES.items()
        for places, said in ((("net", "photos") if name == "check" else ("photos", "net"), exchanged), (("net", "net"), twice))
    ]
    lines = "\n".join(line for line, _ in asked)
    done = subprocess.run([sys.executable, "-c", ALL], input=lines, capture_output=True, text=True, check=True, cwd=tmp_path)
    told = done.stdout.splitlines()
    assert [(line, out) for (line, said), out in zip(asked, told, strict=True) if not (out.startswith("2 False ") and said in out)] == []
    with pytest.raises(DataError, match="net is a network saved by regraft, not data"):
        regraft.read(tmp_path / "net")


def test_a_rule_that_a_network_does_not_have_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "regraft.json").write_text('{"unknown": null}')
    (tmp_path / "x.png").write_bytes(b"")
    line = "predict net x.png --unknown"
    done = subprocess.run([sys.executable, "-c", ALL], input=line, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("2 False "), done.stdout
    assert "--unknown: this network has no rule for examples of no known class. regraft adapt learns one" in done.stdout


def test_the_commands_know_the_values_that_the_library_knows() -> None:
    known = {"strategy": STRATEGIES, "probe": PROBES, "start": STARTS_OF_ROWS, "augment": AUGMENTS, "engine": ENGINES}
    known |= {"sampler": SAMPLERS, "pruner": (*PRUNERS, "none"), "optimizer": OPTIMIZERS, "schedule": SCHEDULES}
    known |= {"batch_norm": BATCH_NORMS, "block": (*THIRDS, AUTO_BLOCK), "base": BASES}
    own = {name for method in METHODS.values() for name in method.options} | set(inspect.signature(Plan).parameters)
    assert set(SETTINGS.split()) == ({field.name for field in fields(Settings)} | own) - _MADE
    assert {name: sorted(words.split()) for name, words in VALUES.items()} == {name: sorted(words) for name, words in known.items()}


def test_a_network_by_name_is_refused_before_torch_is_imported(tmp_path: Path) -> None:
    """A name that its library does not have, and trained weights that are neither here nor to be had."""
    for package in ("timm", "torchvision", "keras"):
        pytest.importorskip(package)
    told = {
        "timm:resnet1x": "timm knows no network called 'resnet1x'; did you mean 'resnet18'",
        "torchvision:resnet19": "torchvision knows no network called 'resnet19'; did you mean 'resnet18'",
        "keras:MobilNetV2": "keras knows no network called 'MobilNetV2'; did you mean 'MobileNetV2'",
        "timm:resnet18.a1_in1k": "The trained weights of 'timm:resnet18.a1_in1k' could not be fetched (127.0.0.1:9 cannot be reached)",
        "hf:some/network": "'hf:some/network' cannot be opened",
    }
    (tmp_path / "photos").mkdir()
    lines = "\n".join(line for name in told for line in (f"inspect {name}", f"adapt {name} photos --out out", f"profile {name} photos"))
    places = {"HF_ENDPOINT": "http://127.0.0.1:9", "HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", ALL], input=lines, capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ | places
    )
    for line, said in zip(done.stdout.splitlines(), [one for one in told.values() for _ in range(3)], strict=True):
        assert line.startswith("2 False Error: ") and said in line, line


@pytest.mark.parametrize(
    ("variable", "place"),
    [("HF_HOME", "hub"), ("HF_HUB_CACHE", "."), ("HUGGINGFACE_HUB_CACHE", "."), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_weights_that_are_kept_here_need_no_connection(variable: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("regraft.files.given.is_reachable", lambda _address: False)
    assert "cannot be reached" in unreachable_network("timm:resnet18.a1_in1k") and "hub id" in unreachable_network("hf:some/network")
    for folder in ("models--timm--resnet18.a1_in1k", "models--some--network"):
        (tmp_path / place / folder).mkdir(parents=True)
    assert unreachable_network("timm:resnet18") == unreachable_network("hf:some/network") == unreachable_network(str(tmp_path)) == ""


@pytest.mark.parametrize("library", ["timm", "torchvision", "keras"])
def test_every_name_of_a_library_stands_in_its_files(library: str) -> None:
    known = pytest.importorskip({"timm": "timm", "torchvision": "torchvision.models", "keras": "keras"}[library])
    every = [each for each in dir(known.applications) if each[:1].isupper()] if library == "keras" else known.list_models()
    if library == "torchvision":
        every = known.list_models(module=known)
    unknown = [name for name in every[:: max(len(every) // 40, 1)] if missing_network(f"{library}:{name}")]
    assert len(every) > 30 and not unknown
