"""`regraft extend`: new classes from a folder or a table, the old scores as they were, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

import regraft
from regraft.planning.extending import figures_line
from regraft.probes import statistics_of

from .conftest import make_pictures, run
from .test_bad_input import refused

pytestmark = pytest.mark.filterwarnings("always:The trained weights of:UserWarning")
Adapted = tuple[Path, Path, Result]
NAMES = ("low", "middle", "high", "top")


def write_table(path: Path, classes: tuple[str, ...], *, each: int = 10, sessions: int = 0, seed: int = 0) -> Path:
    """Write rows of three numbers whose class is where they lie."""
    generator = np.random.default_rng(seed)
    lines = ["a,b,c,label" + (",session" if sessions else "")]
    for name in classes:
        centre = np.eye(4)[NAMES.index(name.strip().lower()), :3] * 6
        for index in range(each):
            cells = [f"{value:.3f}" for value in generator.normal(centre, 0.4)]
            lines.append(",".join([*cells, name, *([f"s{index % sessions}"] if sessions else [])]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def keras_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `.keras` file of a network that tells low from middle."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("keras")
    layers = [keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax", name="scores")]
    keras.Sequential(layers).save(folder / "net.keras")
    (folder / "old.txt").write_text("low\nmiddle\n", encoding="utf-8")
    return folder / "net.keras"


def extended(network: Path, *arguments: object) -> Result:
    return run("extend", network, *arguments, "--source-classes", network.with_name("old.txt"))


def test_a_saved_torch_network_gets_the_class_that_it_lacks(adapted: Adapted, tmp_path: Path) -> None:
    folder, _, _ = adapted
    data = make_pictures(tmp_path / "new", classes=("Bright", "grey"))
    result = run("extend", folder, data, "--out", tmp_path / "out", "--start", "imprint")
    assert result.exit_code == 0, result.output
    assert "8 of 16 examples have labels that the network has already: used as examples of old classes; they only judge." in result.stderr
    assert result.stdout.splitlines()[0].startswith("Among all 3 classes the extended network classifies ")
    assert "Logits of old classes: changed by 0 at most, on 16 examples" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"regraft.json", "scores.json", "report.json", "report.html"}
    net, before = regraft.load(tmp_path / "out"), regraft.load(folder)
    assert net.classes == ("bright", "dark", "grey")
    assert np.array_equal(net.logits(data)[:, :2], before.logits(data))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))["scores"]["holdout"]
    assert (scores["old_examples"], scores["new_examples"], scores["examples"]) == (8, 1, 9)
    assert run("report", tmp_path / "out").exit_code == 0
    again = refused("extend", folder, data, "--out", tmp_path / "out")
    assert "already holds a finished network. Give another folder with --out." in again


def test_a_keras_file_is_extended_from_a_table(keras_file: Path, tmp_path: Path) -> None:
    data = write_table(tmp_path / "new.csv", ("high", "top"), sessions=5)
    old = write_table(tmp_path / "old.csv", ("low", "middle"), sessions=5, seed=1)
    result = extended(keras_file, data, "--old-data", old, "--group", "session", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    figures, account = plain["scores"]["holdout"], plain["account"]
    assert account["new"] == ["high", "top"] and account["kept"] == ["low", "middle"]
    assert account["figures"]["max_score_change"] == 0
    assert figures["examples"] == figures["old_examples"] + figures["new_examples"] == 8
    assert figures["old_accuracy_before"] >= figures["old_accuracy"] and "harmonic_mean" in figures
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["data"]["split"] == {"training": 32, "holdout": 8}
    assert regraft.load(tmp_path / "out").classes == NAMES


def test_what_judges_is_told(keras_file: Path, tmp_path: Path) -> None:
    single = write_table(tmp_path / "single.csv", ("high",), each=1)
    result = extended(keras_file, single, "--out", tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert "There is no holdout set" in result.stderr and "has not been evaluated" in result.stdout
    test = write_table(tmp_path / "test.csv", ("low", "high"), each=3)
    plain = json.loads(extended(keras_file, single, "--out", tmp_path / "two", "--holdout", 0, "--test", test, "--json").stdout)
    assert set(plain["scores"]) == {"test"} and plain["scores"]["test"]["new_examples"] == 3
    few = tmp_path / "few.csv"
    few.write_text(single.read_text(encoding="utf-8") + "0,0,0,top\n0,0,0.1,top\n", encoding="utf-8")
    assert "No example of 'high' is in the holdout set" in extended(keras_file, few, "--out", tmp_path / "three").stderr


def test_statistics_solve_all_rows(keras_file: Path, tmp_path: Path) -> None:
    net = regraft.load(keras_file, classes=["low", "middle"])
    old = regraft.read(write_table(tmp_path / "old.csv", ("low", "middle"))).with_classes(net.classes or ())
    net.statistics = statistics_of(net.features(old), old.targets, classes=old.classes).to_arrays()
    net.save(tmp_path / "saved")
    data = write_table(tmp_path / "new.csv", ("high", "low"))
    for given, name in ((tmp_path / "saved", "one"), ("own", "two")):
        result = run("extend", tmp_path / "saved", data, "--statistics", given, "--out", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
        plain = json.loads(result.stdout)
        assert "No example was given of 1 of 2 old classes ('middle')" in result.stderr
        assert plain["account"]["kept"] == [] and plain["scores"]["holdout"]["old_examples"] == 10
    both = refused("extend", tmp_path / "saved", data, "--statistics", "own", "--start", "zeros", "--out", tmp_path / "out")
    assert "--start and --statistics at once" in both
    other = regraft.load(keras_file, classes=["low", "middle"])
    other.statistics = statistics_of(np.eye(5, dtype=np.float32)[:4], np.array([0, 0, 1, 1]), classes=("low", "middle")).to_arrays()
    other.save(tmp_path / "other")
    wrong = refused("extend", tmp_path / "saved", data, "--statistics", tmp_path / "other", "--out", tmp_path / "out")
    assert "The statistics are of 5 features; the network has 8: they belong to another one." in wrong
    lacking = refused(
        "extend", keras_file, data, "--statistics", "own", "--out", tmp_path / "out", "--classes", keras_file.with_name("old.txt")
    )
    assert lacking.startswith("Error: --statistics own: this network carries none; give a folder saved by regraft")
    assert not (tmp_path / "out" / "regraft.json").exists()


def test_what_cannot_be_extended_is_refused(keras_file: Path, adapted: Adapted, tmp_path: Path) -> None:
    folder, pictures, _ = adapted
    out = ["--out", tmp_path / "out"]
    assert "has all classes of the data already: 'bright', 'dark'" in refused("extend", folder, pictures, *out)
    data = write_table(tmp_path / "new.csv", ("high", "low"))
    assert "no class names; give them with --source-classes." in refused("extend", keras_file, data, *out)
    assert "no column 'lable' for target; did you mean 'label'?" in refused("extend", folder, data, *out, "--target", "lable")
    (tmp_path / "gap.csv").write_text("a,b,c,label\n1,2,3,high\n1,2,3,\n", encoding="utf-8")
    named = ["--classes", keras_file.with_name("old.txt")]
    assert "Targets are missing or not finite in rows 1" in refused("extend", keras_file, tmp_path / "gap.csv", *out, *named)
    (tmp_path / "numbers.csv").write_text("a,b,c,label\n1,2,3,0.5\n1,2,3,1.5\n", encoding="utf-8")
    wrong = refused("extend", keras_file, tmp_path / "numbers.csv", *out, *named)
    assert "of the kind 'regression'; expected one class name an example. Choose one column of class names with --target." in wrong
    test = write_table(tmp_path / "test.csv", ("low", "top"))
    assert "'top'" in refused("extend", keras_file, data, "--test", test, *out, *named)
    (tmp_path / "texts.csv").write_text("text,label\nhow do you do,hello\nfare you well,bye\n", encoding="utf-8")
    assert "kind 'image'" in refused("extend", folder, tmp_path / "texts.csv", *out)
    assert not (tmp_path / "out" / "regraft.json").exists()


def test_groups_of_items_that_are_learned_from_do_not_judge(keras_file: Path, tmp_path: Path) -> None:
    rows = [
        f"{value}.0,0.0,1.0,{label},{group}"
        for value in range(3)
        for label, group in (("high", f"s{value}"), ("low", f"s{value}"), ("low", "t"))
    ]
    (tmp_path / "data.csv").write_text("a,b,c,label,session\n" + "\n".join(rows) + "\n", encoding="utf-8")
    given = [tmp_path / "data.csv", "--group", "session", "--start", "imprint", "--holdout", 0.3, "--out", tmp_path / "out", "--json"]
    result = extended(keras_file, *given)
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)["scores"]["holdout"]
    assert (figures["new_examples"], figures["old_examples"]) == (1, 4)  # one session of three, and those of "low" alone


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--start", "imprnt"], "did you mean 'imprint'?"),
        (["--start", "mean", "--old-data", "x"], "--start and --old-data at once"),
        (["--holdout", "1"], "--holdout is a share from 0 to below 1, such as 0.2; received 1.0"),
        (["--target", "a=b", "--target", "c"], "--target 'c': others name a task, such as 'a=b'; give TASK=COL."),
        (["--columns", "a,,b"], "--columns 'a,,b'"),
    ],
)
def test_options_are_checked_before_anything_is_opened(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "net.keras").write_bytes(b"opened, this is an error of its own")
    assert said in refused("extend", "net.keras", "x", "--out", tmp_path / "out", *options)


def test_the_figures_in_a_sentence() -> None:
    figures = {"old_accuracy": 0.9, "old_accuracy_before": 1.0, "old_examples": 10, "new_accuracy": 0.5, "new_examples": 4}
    both = figures_line({**figures, "harmonic_mean": 0.643}, 5)
    assert "90.0 % of 10 examples of old classes (95 % interval 59.6 to 98.2 %; 100.0 % before) and 50.0 % of 4" in both
    assert "examples of new classes (95 % interval 15.0 to 85.0 %) correctly" in both
    assert both.endswith("harmonic mean 64.3 %.")
    assert figures_line({"new_accuracy": 0.5, "new_examples": 4}, 5).endswith("; the other classes were not evaluated.")
