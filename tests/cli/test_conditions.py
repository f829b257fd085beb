"""`regraft adapt-condition`, `export`, and the conditions of `predict`, `evaluate` and `inspect`."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import regraft

from ..condition_examples import KNOWN, coded, items, plain
from .conftest import run
from .test_bad_input import refused


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved Keras network that knows six conditions."""
    return coded("keras").save(tmp_path / "net")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows of two new speakers, as a table."""
    data = items(("gil", "hal"), each=6)
    with (tmp_path / "new.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"x{index}" for index in range(data.items.shape[1])), "label", "speaker"])
        writer.writerows(
            [*row, data.classes[target], name] for row, target, name in zip(data.items, data.targets, data.conditions, strict=True)
        )
    return tmp_path / "new.csv"


def numbers(folder: Path) -> Path:
    path = folder.parent / "items.npy"
    np.save(path, np.asarray(items().items))
    return path


def test_a_new_condition_is_learned_told_and_used(folder: Path, table: Path) -> None:
    result = run("adapt-condition", folder, table, "--target", "label", "--condition", "speaker", "--prior", "0.1")
    assert result.exit_code == 0, result.output
    assert "The code of 'gil' was fitted to 6 examples" in result.stdout and "codes/hal.safetensors (" in result.stdout
    assert "Bit-equal before and after" in result.stdout
    assert {path.name for path in (folder / "codes").iterdir()} == {"gil.safetensors", "hal.safetensors"}
    shown = run("predict", folder, numbers(folder), "--condition", "gil", "--probabilities")
    assert shown.exit_code == 0, shown.output
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    wanted = regraft.load(folder).predict(np.asarray(items().items), "gil").probabilities
    assert np.allclose([[float(row[f"p({name})"]) for name in "abc"] for row in rows], wanted, atol=2e-6)
    mean, none = (run("predict", folder, numbers(folder), *extra).stdout for extra in (("--condition", "mean"), ()))
    assert mean == none != run("predict", folder, numbers(folder), "--condition", "gil").stdout
    judged = run("evaluate", folder, table, "--target", "label", "--condition", "speaker", "--json")
    assert judged.exit_code == 0 and "accuracy" in json.loads(judged.stdout)
    told = run("inspect", folder)
    assert "codes of 3 numbers into layers; knows 8 conditions, 6 of them from its training" in told.stdout
    assert "adapted to: gil, hal" in told.stdout
    assert json.loads(run("inspect", folder, "--json").stdout)["coding"]["conditions"] == [*KNOWN, "gil", "hal"]


def test_the_rows_of_a_table_are_numbers_for_a_network_that_takes_numbers(folder: Path, table: Path) -> None:
    shown = run("predict", folder, table)
    assert shown.exit_code == 0, shown.output
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    numbers = np.genfromtxt(table, delimiter=",", skip_header=1)[:, :-2].astype(np.float32)
    assert [row["label"] for row in rows] == list(regraft.load(folder).predict(numbers).labels) and rows[1]["file"] == f"{table}:2"
    judged = run("evaluate", folder, table, "--target", "label", "--json")  # the names of the speakers are not asked for
    assert judged.exit_code == 0 and json.loads(judged.stdout)["accuracy"] >= 0
    fitted = run("adapt-condition", folder, table, "--name", "both", "--unsupervised", "entropy")
    assert fitted.exit_code == 0 and "both" in regraft.load(folder).codes


def test_items_of_one_condition_are_judged_by_its_name(folder: Path, table: Path, tmp_path: Path) -> None:
    net, data = regraft.load(folder), items(("gil", "hal"), each=6)
    truth = np.array(data.classes)[data.targets]
    for name in ("ben", "mean"):
        judged = run("evaluate", folder, table, "--target", "label", "--condition", name, "--json")
        assert judged.exit_code == 0, judged.output
        wanted = np.mean(np.array(net.predict(data.items, name).labels) == truth)
        assert json.loads(judged.stdout)["accuracy"] == pytest.approx(wanted)
    assert "no column 'benn'" in refused("evaluate", folder, table, "--target", "label", "--condition", "benn")
    assert "'benn' is not known; did you mean 'ben'" in refused("evaluate", folder, tmp_path, "--condition", "benn")


def test_a_class_of_ones_own_is_named_where_the_network_is_changed(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, place = coded("torch").save(tmp_path / "net"), tmp_path / "place"
    place.mkdir()
    made = "def make():\n    from tests.condition_examples import plain\n    return plain('torch').module\n"
    (place / "own_small_nets.py").write_text(made, encoding="utf-8")
    (place / "own_broken_nets.py").write_text("raise OSError('no disk')", encoding="utf-8")
    monkeypatch.chdir(place)
    asked = ("adapt-condition", folder, table, "--target", "label", "--condition", "speaker")
    assert "Open its folder with --architecture MODULE:NAME, a class or a function" in refused(*asked)
    for given, words in {
        "own_small_nets": "expected MODULE:NAME",
        "own_small_nets:mak": "has no class or function 'mak'; did you mean 'make'",
        "timm:resnet18": "A network by name is NETWORK itself, and takes the file as --weights FILE: regraft inspect timm:resnet18",
        "own_broken_nets:make": "cannot be imported: OSError: no disk",
        "nowhere:make": f"It is looked for in {str(place)!r}",
    }.items():
        assert words in refused(*asked, "--architecture", given)
    result = run(*asked, "--architecture", "own_small_nets:make")
    assert result.exit_code == 0 and "codes/gil.safetensors" in result.stdout, result.output
    exported = run("export", folder, tmp_path / "gil.pt2", "--condition", "gil", "--architecture", "own_small_nets:make")
    assert exported.exit_code == 0 and (tmp_path / "gil.pt2").stat().st_size > 1000


def test_names_of_blocks_are_words_on_the_command_line(table: Path, tmp_path: Path) -> None:
    plain("keras").module.save(tmp_path / "net.keras")
    block = regraft.load(tmp_path / "net.keras").blocks[0].name
    asked = ("adapt", tmp_path / "net.keras", table, "--target", "label", "--condition", "speaker", "--strategy", "codes", "--epochs", 1)
    quick = ("--out", tmp_path / "out", "--cache", "memory", "--quiet")
    assert "blocks=0: no block of that name" in refused(*asked, *quick, "--set", "blocks=0")
    result = run(*asked, *quick, "--set", f"blocks={block}")
    assert result.exit_code == 0, result.output
    assert len(regraft.load(tmp_path / "out").coding.points) == 1


def test_an_unknown_condition_is_wrong_usage_that_names_the_known_ones(folder: Path) -> None:
    said = refused("predict", folder, numbers(folder), "--condition", "adda")
    assert "The condition 'adda' is not known; did you mean 'ada'" in said and "Known: 'ada', 'ben'" in said


def test_one_condition_by_name_into_a_new_folder(folder: Path, table: Path, tmp_path: Path) -> None:
    data = table.read_text(encoding="utf-8").replace(",speaker", "").replace(",gil", "").replace(",hal", "")
    table.write_text(data, encoding="utf-8")
    result = run("adapt-condition", folder, table, "--name", "ivy", "--out", tmp_path / "copy", "--prior", "1", "--fit", "adam", "--json")
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert list(plain["codes"]) == ["ivy"] and plain["account"]["figures"]["conditions"] == 1
    assert not (folder / "codes").exists()
    assert np.allclose(regraft.load(tmp_path / "copy").codes["ivy"], plain["codes"]["ivy"])
    blind = run("adapt-condition", folder, numbers(folder), "--name", "jo", "--unsupervised", "entropy")
    assert blind.exit_code == 2 or "unsupervised: the entropy" in blind.stdout


def test_what_adapt_condition_refuses(folder: Path, table: Path) -> None:
    assert "no column 'speakr'" in refused("adapt-condition", folder, table, "--target", "label", "--condition", "speakr")
    assert "expected --name NAME for all of them, or --condition COL" in refused("adapt-condition", folder, table, "--target", "label")
    known = refused("adapt-condition", folder, table, "--target", "label", "--condition", "speaker", "--name", "jil")
    assert "no examples of the condition 'jil'; did you mean 'gil'" in known
    assert "--prior 'much'" in refused("adapt-condition", folder, table, "--target", "label", "--condition", "speaker", "--prior", "much")
    run("adapt-condition", folder, table, "--target", "label", "--condition", "speaker")
    again = refused("adapt-condition", folder, table, "--target", "label", "--condition", "speaker")
    assert "'gil', 'hal' is known already. Choose another name, or fit it anew with --replace." in again
    assert run("adapt-condition", folder, table, "--target", "label", "--condition", "speaker", "--replace").exit_code == 0


def test_export(folder: Path, tmp_path: Path) -> None:
    for extra in ((), ("--condition", "ben")):
        result = run("export", folder, tmp_path / "one.keras", *extra)
        assert result.exit_code == 0 and "Written: " in result.stdout
        assert ", in order: " in result.stdout and "\nTakes " in result.stdout
    rows = np.asarray(items().items)
    alone = regraft.load(tmp_path / "one.keras")
    assert np.allclose(alone.logits(rows), regraft.fold(regraft.load(folder), "ben").logits(rows), atol=1e-6)
    assert run("convert", folder, tmp_path / "ben.pmml", "--condition", "ben").exit_code == 0
    assert np.allclose(regraft.load(tmp_path / "ben.pmml").predict(rows).probabilities, alone.predict(rows).probabilities, atol=1e-5)
    assert run("export", folder, tmp_path / "all.pt2").exit_code == 0
    network, program = regraft.load(folder), regraft.load(tmp_path / "all.pt2", trust=True)
    for number, name in enumerate(network.codes, start=1):
        given = {"inputs": rows, "condition": np.full(len(rows), number)}
        assert np.allclose(program.logits(given), regraft.fold(network, name).logits(rows), atol=1e-5)
    assert "The condition 'nobody' is not known" in refused("export", folder, tmp_path / "one.keras", "--condition", "nobody")
