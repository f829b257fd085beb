"""Several tasks, columns beside the items, and other ways to ask: pairs of --target, --columns, --join, --rename, --head, --channels."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

import regraft
from regraft.cli.shared import listed_names, named_pairs, wanted_target
from regraft.errors import DataError, InputError, SettingError
from regraft.tasks.evaluating import task_data

from .conftest import SETTINGS, run
from .test_bad_input import refused

Saved = tuple[Path, regraft.Network]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A saved network of four numbers with a class each, a derived branch, and a branch of several labels."""
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, "softmax", kernel_initializer="identity", name="scores")])
    net = regraft.load(model, classes=["zero", "one", "two", "three"])
    net = regraft.branch(net, "parity", groups={"even": ["zero", "two"], "odd": None})
    net = regraft.branch(net, "tags", ["small", "large"], kind="multi-label", start="random")
    folder = tmp_path_factory.mktemp("tasks")
    net.save(folder / "net")
    np.save(folder / "items.npy", 5 * np.eye(4, dtype=np.float32))
    return folder, regraft.load(folder / "net")


def table(path: Path, rows: list[str]) -> Path:
    """Write the four unit vectors with `rows` of labels beside them."""
    lines = [f"{5 * (k == 0)},{5 * (k == 1)},{5 * (k == 2)},{5 * (k == 3)},{row}" for k, row in enumerate(rows[1:])]
    path.write_text("\n".join([f"a,b,c,d,{rows[0]}", *lines]) + "\n", encoding="utf-8")
    return path


def test_predict_prints_every_task(saved: Saved) -> None:
    folder, net = saved
    found = net.predict(np.load(folder / "items.npy"))
    rows = list(csv.DictReader(io.StringIO(run("predict", folder / "net", folder / "items.npy", "--probabilities").stdout)))
    assert list(rows[0])[:3] == ["file", "label", "probability"] and list(rows[0])[7:11] == [
        "parity.label",
        "parity.probability",
        "parity.p(even)",
        "parity.p(odd)",
    ]
    assert [row["label"] for row in rows] == ["zero", "one", "two", "three"]
    assert [row["parity.label"] for row in rows] == ["even", "odd", "even", "odd"]
    assert [row["tags.label"] for row in rows] == found.tasks["tags"].labels
    assert [float(row["parity.p(odd)"]) for row in rows] == pytest.approx(found.tasks["parity"].probabilities[:, 1], abs=1e-6)
    shown = run("predict", folder / "net", folder / "items.npy")
    assert "parity.p(odd)" not in shown.stdout
    assert shown.stderr.count("carries no preprocessing of its own and takes arrays: float32") == 1
    lines = [json.loads(line) for line in run("predict", folder / "net", folder / "items.npy", "--format", "jsonl").stdout.splitlines()]
    assert lines[1]["label"] == lines[1]["tasks"]["main"]["label"] == "one" and lines[1]["tasks"]["parity"]["label"] == "odd"
    assert set(lines[1]["tasks"]) == {"main", "parity", "tags"} and "scores" not in lines[1]


def test_evaluate_judges_each_task_on_the_items_that_have_its_target(saved: Saved, tmp_path: Path) -> None:
    folder, _ = saved
    data = table(tmp_path / "labelled.csv", ["digit,parity", "zero,even", "one,", ",even", "two,odd"])
    pairs = ["--target", "main=digit", "--target", "parity=parity"]
    plain = json.loads(run("evaluate", folder / "net", data, *pairs, "--json").stdout)["tasks"]
    assert {task: (figures["examples"], figures["accuracy"]) for task, figures in plain.items()} == {
        "main": (3, pytest.approx(2 / 3)),
        "parity": (3, 1.0),
    }
    shown = run("evaluate", folder / "net", data, *pairs).stdout
    assert "main: 3 examples" in shown and "parity: 3 examples" in shown
    named = json.loads(run("evaluate", folder / "net", data, "--target", "digit=digit", "--target", "parity=parity", "--json").stdout)
    assert named["tasks"] == {"digit": plain["main"], "parity": plain["parity"]}
    parity = [folder / "net", data, "--target", "parity=parity", "--kind", "array"]
    assert "1 of 4 examples have no target of any task ('parity')" in refused("evaluate", *parity)
    alone = json.loads(run("evaluate", *parity, "--skip-bad", "--json").stdout)
    assert alone["examples"] == 3 and set(alone["per_class"]) == {"even", "odd"}
    assert "no task 'partiy'; did you mean 'parity'?" in refused("evaluate", folder / "net", data, "--target", "partiy=parity")
    assert "missing" in refused("evaluate", folder / "net", data, "--target", "digit")


def test_labels_of_several_columns_follow_the_heads_order_and_thresholds(saved: Saved, tmp_path: Path) -> None:
    folder, net = saved
    chances = net.predict(np.load(folder / "items.npy")).tasks["tags"].probabilities
    present = (chances >= 0.5).astype(int)
    rows = ["large,small", *(f"{large},{small}" for small, large in present)]
    data = table(tmp_path / "tags.csv", rows)
    asked = ["--target", "tags=large", "--target", "tags=small", "--json"]
    right = json.loads(run("evaluate", folder / "net", data, *asked).stdout)
    assert right["accuracy"] == 1.0 and list(right["per_class"]) == ["small", "large"]
    limits = (float(chances[:, 0].max()) + 1e-3, 0.5)
    head = net.heads["tags"]
    net.heads["tags"] = type(head)(**{**vars(head), "thresholds": limits})
    net.save(tmp_path / "strict")
    net.heads["tags"] = head
    strict = json.loads(run("evaluate", tmp_path / "strict", data, *asked).stdout)
    assert strict["thresholds"] == list(limits)
    assert strict["accuracy"] == pytest.approx(1 - present[:, 0].sum() / 8)


def test_targets_take_the_kind_of_the_head(saved: Saved) -> None:
    _, net = saved
    items = np.eye(4, dtype=np.float32)
    numbers = task_data(regraft.read((items, [3, 1, 1, 2])), type(net.head)(**{**vars(net.head), "kind": "regression", "classes": None}))
    assert numbers.task == "regression" and numbers.targets.tolist() == [3, 1, 1, 2]
    one_hot = task_data(regraft.read((items, ["large", "small", "small", "large"])), net.heads["tags"])
    assert one_hot.task == "multi-label" and one_hot.targets.tolist() == [[0, 1], [1, 0], [1, 0], [0, 1]]
    with pytest.raises(DataError, match="of the kind 'classification'; the labels of the data \\(numbers\\) are of the kind 'regression'"):
        task_data(regraft.read((items, [0.5, 1.5, 2.5, 3.5])), net.head)


def test_inspect_shows_every_head(saved: Saved, tmp_path: Path) -> None:
    folder, _ = saved
    shown = run("inspect", folder / "net").stdout
    assert "head  parity: sums of probabilities" in shown and "parity: odd = one, three" in shown and "head  tags: " in shown
    heads = json.loads(run("inspect", folder / "net", "--json").stdout)["heads"]
    assert [(head["task"], head["kind"], head["rows"]) for head in heads] == [
        ("main", "classification", 4),
        ("parity", "classification", 2),
        ("tags", "multi-label", 2),
    ]
    assert heads[1]["groups"] == {"even": ["zero", "two"], "odd": ["one", "three"]}
    (tmp_path / "names.txt").write_text("Three \none hundred\n", encoding="utf-8")
    assert "class weights carried over by name" in run("inspect", folder / "net", "--classes", tmp_path / "names.txt").stdout


def test_inspect_counts_synonyms(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax", name="scores")])
    regraft.load(model, classes=["tabby, tabby cat", "robin, redbreast"]).save(tmp_path / "net")
    (tmp_path / "names.txt").write_text("robin\ntabby_cat\nbus\n", encoding="utf-8")
    result = run("inspect", tmp_path / "net", "--classes", tmp_path / "names.txt")
    assert result.exit_code == 0, result.output
    assert [line.split() for line in result.stdout.splitlines() if line.startswith("rule")] == [
        ["rule", "2", *["a", "synonym", "of", "an", "old", "class"]]
    ]


def test_columns_are_joined_read_and_asked_for(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    outputs = keras.layers.Dense(2, "softmax", name="scores")(keras.layers.Dense(4, "relu")(inputs))
    keras.Model(inputs, outputs).save(tmp_path / "net.keras")
    generator = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{price:.3f},{'dear' if price > 0 else 'cheap'}" for a, b, price in generator.normal(size=(40, 3))]
    (tmp_path / "data.csv").write_text("a,b,price,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "items.csv").write_text("a,b,price\n" + "\n".join(row.rpartition(",")[0] for row in rows[:3]) + "\n", encoding="utf-8")
    given = ["--join", "price", "--strategy", "head", "--epochs", 20, "--quiet", *SETTINGS]
    result = run("adapt", tmp_path / "net.keras", tmp_path / "data.csv", "--out", tmp_path / "out", *given, "--target", "label")
    assert result.exit_code == 0, result.output
    judged = json.loads(run("evaluate", tmp_path / "out", tmp_path / "data.csv", "--json").stdout)
    assert judged["examples"] == 40 and judged["accuracy"] > 0.8
    same = run("evaluate", tmp_path / "out", tmp_path / "data.csv", "--columns", "price", "--json")
    assert json.loads(same.stdout) == judged
    predicted = list(csv.DictReader(io.StringIO(run("predict", tmp_path / "out", tmp_path / "items.csv").stdout)))
    assert [row["file"] for row in predicted] == [f"{tmp_path / 'items.csv'}:{row}" for row in (1, 2, 3)]
    data = regraft.read(tmp_path / "data.csv", columns=["price"])
    assert [row["label"] for row in predicted] == regraft.load(tmp_path / "out").predict(data.subset([0, 1, 2])).labels
    assert "also reads 'price'" in refused("evaluate", tmp_path / "out", tmp_path / "data.csv", "--columns", "a")
    np.save(tmp_path / "items.npy", np.zeros((2, 2)))
    assert "Give a CSV or Parquet file" in refused("predict", tmp_path / "out", tmp_path / "items.npy")


def test_columns_that_the_network_does_not_read_are_refused(saved: Saved, tmp_path: Path) -> None:
    folder, _ = saved
    message = refused("predict", folder / "net", folder / "items.npy", "--columns", "price")
    assert message == "Error: --columns price: the network reads no columns beside its examples; regraft adapt --join gives it some."


def test_what_pairs_and_lists_mean() -> None:
    assert wanted_target(None) is None and wanted_target(["a"]) == "a" and wanted_target(["a", "b"]) == ["a", "b"]
    assert wanted_target(["x=a", "y=b", "y=c"]) == {"x": "a", "y": ["b", "c"]}
    assert wanted_target(["main=a=b"]) == {"main": "a=b"}
    assert named_pairs(["old=new", "a = b"], option="--rename", form="OLD=NEW") == {"old": "new", "a": "b"}
    assert listed_names(" a, b", option="--join") == ["a", "b"]
    for wrong in (["x="], ["=a"], ["x=a", "b"]):
        with pytest.raises(SettingError, match="--target"):
            wanted_target(wrong)
    with pytest.raises(SettingError, match="'old' was given twice, as 'new' and 'other'"):
        named_pairs(["old=new", "old=other"], option="--rename", form="OLD=NEW")
    with pytest.raises(InputError, match="--join 'a,a'"):
        listed_names("a,a", option="--join")


def test_adapt_hands_renaming_and_starts_on(tmp_path: Path, saved: Saved) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax", name="scores")])
    regraft.load(model, classes=["autocar", "cat"]).save(tmp_path / "net")
    rows = ["label", *("bus", "cat") * 8]
    table(tmp_path / "data.csv", rows)
    given = ["--strategy", "head", "--epochs", 0, "--quiet", "--json", *SETTINGS, "--rename", "autocar=bus", "--start", "mean"]
    result = run("adapt", tmp_path / "net", tmp_path / "data.csv", "--out", tmp_path / "out", *given)
    assert result.exit_code == 0, result.output
    account = json.loads(result.stdout)["account"]
    assert account["renamed"] == ["autocar -> bus"] and account["kept"] == ["cat"]
    assert "OLD=NEW" in refused("adapt", tmp_path / "net", tmp_path / "data.csv", "--out", tmp_path / "x", "--rename", "autocar")


def test_the_head_and_the_channels_can_be_named(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    inputs = keras.Input((8, 8, 3))
    middle = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="first")(inputs))
    keras.Model(inputs, keras.layers.Dense(3, name="second")(middle)).save(tmp_path / "net.keras")
    shown = run("inspect", tmp_path / "net.keras", "--channels", 1, "--head", "second")
    assert shown.exit_code == 0, shown.output
    assert "head  second: 4 features, 3 outputs" in shown.stdout
    one = json.loads(run("inspect", tmp_path / "net.keras", "--channels", 1, "--json").stdout)
    three = json.loads(run("inspect", tmp_path / "net.keras", "--json").stdout)
    assert three["parameters"] - one["parameters"] == 2 * 3 * 3 * 4
    assert "'second'" in refused("inspect", tmp_path / "net.keras", "--head", "secnd")


def test_several_heads_and_the_shapes_of_inputs_can_be_named(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    inputs = keras.Input((6,))
    body = keras.layers.Dense(8, activation="relu")(inputs)
    outputs = [keras.layers.Dense(count, name=name)(body) for name, count in (("kind", 3), ("mood", 2))]
    keras.Model(inputs, outputs).save(tmp_path / "net.keras")
    shown = run("inspect", tmp_path / "net.keras", "--head", "what=kind", "--head", "how=mood", "--inputs", "6", "--json")
    assert shown.exit_code == 0, shown.output
    heads = json.loads(shown.stdout)["heads"]
    assert [(head["task"], head["layer"], head["rows"]) for head in heads] == [("what", "kind", 3), ("how", "mood", 2)]
    assert "TASK=LAYER" in refused("inspect", tmp_path / "net.keras", "--head", "what=kind", "--head", "mood")
    assert "such as 3,224,224" in refused("inspect", tmp_path / "net.keras", "--inputs", "six")
    assert "NAME=SIZES" in refused("inspect", tmp_path / "net.keras", "--inputs", "X=6", "--inputs", "7")


@pytest.mark.parametrize("command", ["check", "adapt", "profile", "search", "evaluate"])
def test_every_command_that_reads_labels_takes_the_kind_of_task(saved: Saved, tmp_path: Path, command: str) -> None:
    data = table(tmp_path / "t.csv", ["count", "3", "4", "3", "5"])
    places = [data] if command == "check" else [saved[0] / "net", data]
    asked = [*places, *(["--out", tmp_path / "out"] if command in ("adapt", "search") else []), "--task", "regresion"]
    assert "--task regresion is no kind of task; did you mean 'regression'?" in refused(command, *asked)
