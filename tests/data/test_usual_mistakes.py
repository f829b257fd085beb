"""What people give by mistake, or out of habit: other orders of columns and rows, numbers as texts, labels that count from 1."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.data.readers import examples as examples_module
from regraft.errors import DataError, NetworkError, SettingError

from ..cli.conftest import run
from ..condition_examples import FAMILIES, WIDTH, plain

pandas = pytest.importorskip("pandas")
BOTH = pytest.mark.parametrize("family", FAMILIES)
QUICK: dict[str, Any] = {"strategy": "probe", "cache": "memory", "device": "cpu"}
NAMES = [f"feature {letter}" for letter in "abcdef"]


def table(count: int = 48) -> Any:
    """Return a data frame of six columns of unlike sizes and a label that depends on the first two."""
    numbers = np.random.default_rng(0).normal(size=(count, WIDTH)) * [1, 3, 2, 1, 1, 1] + [0, 0, 5, -5, 2, 1]
    return pandas.DataFrame(numbers, columns=NAMES).assign(label=np.where(numbers[:, 0] > numbers[:, 1], "up", "down"))


# ── columns are read by name ─────────────────────────────────────────────────────────────────────────────────────────────


@BOTH
def test_a_network_adapted_to_a_table_reads_later_ones_by_name(family: str, tmp_path: Path) -> None:
    known = table()
    forms = {"frame": known, "pair": (known[NAMES], known["label"]), "file": tmp_path / "known.csv"}
    known.to_csv(tmp_path / "known.csv", index=False)
    turned = known[["label", *NAMES[::-1]]].assign(comment=np.nan)
    turned.to_csv(tmp_path / "turned.csv", index=False)
    for form, data in forms.items():
        net = regraft.adapt(plain(family), data, **QUICK).network
        told = net.predict(known[NAMES].to_numpy(np.float32)).probabilities
        for other in (known, turned, turned[NAMES[::-1]], tmp_path / "turned.csv", read(turned.drop(columns="comment"))):
            np.testing.assert_allclose(net.predict(other).probabilities, told, atol=1e-6, err_msg=form)
        judged = regraft.evaluate(net, turned.drop(columns="comment"))
        assert judged.scores["accuracy"] == pytest.approx(np.mean(np.array(net.predict(known).labels) == known["label"]))
        for wrong in (known[NAMES[1:]], known.rename(columns={NAMES[2]: "feature z"})):
            with pytest.raises(DataError, match=f"no column '{NAMES[0] if len(wrong.columns) == 5 else NAMES[2]}' for the network"):
                net.predict(wrong)
        with pytest.raises(DataError, match="no numbers called 'feature c'"):
            regraft.evaluate(net, known.rename(columns={NAMES[2]: "feature z"}))


@BOTH
def test_columns_keep_their_places_when_adapted_again_and_in_a_test_set(family: str) -> None:
    known = table()
    turned = known[[*NAMES[::-1], "label"]]
    first = regraft.adapt(plain(family), known, test=turned, **QUICK)
    assert first.scores["test"]["accuracy"] == np.mean(np.array(first.network.predict(known).labels) == known["label"])
    again, same = (regraft.adapt(first.network, data, **QUICK).network for data in (turned, known))
    np.testing.assert_allclose(again.predict(known).probabilities, same.predict(known).probabilities, atol=1e-5)
    renamed = known.rename(columns=dict(zip(NAMES, "uvwxyz", strict=True)))
    assert regraft.adapt(first.network, renamed, **QUICK).network.preprocessing.row_columns == tuple("uvwxyz")


@BOTH
def test_an_extension_reads_new_and_old_examples_by_name(family: str) -> None:
    known = table()
    net = regraft.adapt(plain(family), known, **QUICK).network
    new = (known[NAMES] + 3.0).assign(label="new")
    turned = new[[*NAMES[::-1], "label"]]
    told = [
        regraft.extend(net, ["new"], read(one), old_data=read(known)).predict(known[NAMES].to_numpy(np.float32)).probabilities
        for one in (new, turned)
    ]
    np.testing.assert_allclose(told[1], told[0], atol=1e-5)


@pytest.mark.parametrize("names", [["a", "a", "b", "c", "d", "e"], ["", "a", "b", "c", "d", "e"], ["Unnamed: 0", "a", "b", "c", "d", "e"]])
def test_columns_that_share_a_name_or_number_the_rows(names: list[str], tmp_path: Path) -> None:
    known = table()
    frame = known[NAMES].set_axis(names, axis=1)
    regraft.adapt(plain("torch"), (frame, known["label"]), **QUICK).network.save(tmp_path / "saved")
    net = regraft.load(tmp_path / "saved")
    np.testing.assert_allclose(net.predict(frame).probabilities, net.predict(frame.to_numpy(np.float32)).probabilities, atol=1e-6)


@BOTH
def test_later_tables_may_have_more_numbers_but_no_texts_in_place_of_numbers(family: str) -> None:
    known = table()
    net = regraft.adapt(plain(family), known, **QUICK).network
    more = known.assign(height=1.5)[["height", *NAMES, "label"]]
    again = regraft.adapt(net, more, **QUICK).network
    assert again.preprocessing.row_columns == tuple(NAMES) and again.predict(more).labels == again.predict(known).labels
    with pytest.raises(DataError, match=f"hold others: {NAMES[1]}"):
        net.predict(known.assign(**{NAMES[1]: ["much", *["none"] * (len(known) - 1)]}))


def test_columns_without_names_are_read_by_place() -> None:
    known = table()
    numbered = pandas.DataFrame(known[NAMES].to_numpy())
    net = regraft.adapt(plain("torch"), (numbered, known["label"]), **QUICK).network
    assert net.preprocessing.row_columns == () and len(net.predict(numbered[[5, 4, 3, 2, 1, 0]]).labels) == len(known)
    named = regraft.adapt(plain("torch"), known, **QUICK).network
    assert named.predict(numbered).labels == named.predict(known).labels


def test_names_of_columns_are_saved_and_belong_to_the_identity_of_a_cache(tmp_path: Path) -> None:
    known = table()
    regraft.adapt(plain("torch"), known, out=tmp_path / "net", **QUICK)
    again = regraft.load(tmp_path / "net")
    assert again.preprocessing.row_columns == tuple(NAMES)
    known.drop(columns="label")[NAMES[::-1]].assign(label=np.nan).to_csv(tmp_path / "new.csv", index=False)
    shown = run("predict", tmp_path / "net", tmp_path / "new.csv")
    assert shown.exit_code == 0, shown.output
    assert [line.split(",")[1] for line in shown.stdout.splitlines()[1:]] == again.predict(known).labels
    ways = [
        PreparedData(read(known), again.preprocessing),
        PreparedData(read(known.set_axis([*NAMES[::-1], "label"], axis=1)), again.preprocessing),
    ]
    assert ways[0].identity(1) != ways[1].identity(1) and not np.array_equal(ways[0].batch([0]), ways[1].batch([0]))
    with pytest.raises(DataError, match="stand twice"):
        preprocessing_from_dict({"kind": "array", "columns": ["a", "a"]})


# ── rows of two tables ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_index_in_another_order_is_a_warning_in_the_verdict() -> None:
    known = table()
    mixed = known.sample(frac=1, random_state=1)
    net, pair = plain("torch"), (mixed[NAMES], known["label"])
    with pytest.warns(UserWarning, match="X and y have the same index in different orders"):
        result = regraft.adapt(net, pair, **QUICK)
    assert "Warning: X and y have the same index in different orders" in result.verdict
    for verb in (regraft.evaluate, regraft.profile):
        with pytest.warns(UserWarning, match="X and y have the same index in different orders"):
            verb(result.network, pair)
    fine = regraft.adapt(plain("torch"), (mixed[NAMES], known["label"].loc[mixed.index]), **QUICK)
    assert "index" not in fine.verdict


@pytest.mark.parametrize("name", ["target", "group", "condition", "sample_weight"])
def test_every_column_beside_a_data_frame_is_compared_by_its_index(name: str) -> None:
    known = table()
    values = pandas.Series(np.arange(len(known)) % 4)
    notes = {}
    for order, index in {"same": known.index, "turned": known.index[::-1], "other": known.index + 7}.items():
        with pytest.warns(UserWarning) if order == "turned" else nullcontext():
            data = read(known, **{name: values.set_axis(index)})
        notes[order] = [note for note in data.notes if f"X and {name} have" in note]
    assert notes["same"] == [] and notes["turned"][0].startswith("Warning: ") and notes["other"][0].startswith("X and ")


# ── numbers and labels ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_numbers_that_are_texts_in_a_data_frame_are_read_as_in_a_file(library: str) -> None:
    texts = {"a": ["1", "2.5", "-3e2"], "b": ["4", "5", "6"], "code": ["007", "010", "1"], "comma": ["1,5", "2,25", "3,0"]}
    data = read(pytest.importorskip(library).DataFrame({**texts, "label": ["1", "2", "1"]}))
    np.testing.assert_allclose(np.asarray(data.items), [[1, 4, 1.5], [2.5, 5, 2.25], [-300, 6, 3]])
    assert (
        data.classes == ("1", "2") and any("'a', 'b'" in note for note in data.notes) and any("left out: code" in one for one in data.notes)
    )
    assert read(pytest.importorskip(library).DataFrame({**texts, "label": ["1", "2", "1"]}), kind="text").kind == "text"


def test_missing_values_name_their_columns() -> None:
    known = table()
    known.loc[3, NAMES[1]] = known.loc[[4, 5], NAMES[4]] = np.nan
    with pytest.raises(DataError, match=r"3 of 48 examples .*missing in 2 columns: 1 in 'feature b', 2 in 'feature e'\. Repair"):
        read(known)


@BOTH
@pytest.mark.parametrize(("labels", "doubted"), [([1, 2, 3], True), ([0, 1, 2], False), ([1, 2], False), (["b", "c", "a"], False)])
def test_labels_that_count_from_one_are_doubted(family: str, labels: list[Any], doubted: bool) -> None:
    net = plain(family)
    net.name_classes_(("0", "1", "2"))
    rows = table()[NAMES].to_numpy(np.float32)
    result = regraft.adapt(net, (rows, np.resize(labels, len(rows))), **QUICK)
    assert ("the labels count from 1 and the classes of the network from 0" in result.verdict) == doubted
    again = regraft.adapt(result.network, (rows, np.resize(labels, len(rows))), **QUICK)
    assert "the labels count" not in again.verdict


@BOTH
def test_class_names_in_the_forms_of_other_libraries(family: str) -> None:
    module = plain(family).module
    for classes in ({0: "a", 1: "b", 2: "c"}, {"c": 2, "a": 0, "b": 1}, ["a", "b", "c"], np.array(["a", "b", "c"])):
        assert regraft.load(module, classes=classes, inputs=(WIDTH,) if family == "torch" else None).classes == ("a", "b", "c")
    for wrong in (3, "abc"):
        with pytest.raises(NetworkError, match=r"expected the name of each class in a list"):
            regraft.load(module, classes=wrong, inputs=(WIDTH,) if family == "torch" else None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "here"), [("target", "target"), ("label_column", "target"), ("y", "target"), ("group", "group"), ("files", "files")]
)
def test_keywords_of_read_are_told_where_a_setting_is_expected(name: str, here: str) -> None:
    with pytest.raises(SettingError, match=rf"unknown setting '{name}'; .*regraft\.read\(data, {here}=…\)"):
        regraft.adapt(plain("torch"), table(), **{name: "label"})


@pytest.mark.parametrize("name", ["validation", "holdout", "views", "epochs", "class_weight", "optimizer", "classes", "trainable", "seed"])
def test_data_given_as_a_setting_are_told_by_their_shape(name: str) -> None:
    known = table()
    for given in ((known[NAMES].to_numpy(), known["label"].to_numpy()), known[NAMES], known[NAMES].to_numpy()):
        with pytest.raises(SettingError, match="of the shape") as told:
            regraft.adapt(plain("torch"), known, **{name: given})
        assert len(str(told.value)) < 400
    with pytest.raises(SettingError, match="further data that only evaluate are given as test="):
        regraft.adapt(plain("torch"), known, validation=(known[NAMES], known["label"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", ["read", "adapt", "evaluate", "predict", "search", "profile"])
def test_examples_and_labels_as_two_arguments_are_told_to_be_a_pair(verb: str) -> None:
    known, net = table(), [] if verb == "read" else [plain("torch")]
    with pytest.raises(SettingError, match=rf"regraft\.{verb}\({'net, ' if net else ''}\(X, y\)\)"):
        getattr(regraft, verb)(*net, known[NAMES], known["label"])


def test_a_series_is_no_table() -> None:
    with pytest.raises(DataError, match="Data of the type Series cannot be read"):
        read(table()["label"])
    assert read(table()[NAMES[0]], target=table()["label"]).classes == ("down", "up")


@pytest.mark.parametrize(
    ("family", "as_frame"),
    [("torch", True), ("keras", False), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("torch", False), ("keras", True)))],
)
def test_data_sets_of_scikit_learn_are_read_with_their_names(family: str, as_frame: bool) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    flowers = datasets.load_iris(as_frame=as_frame)
    data = read(flowers)
    assert data.classes == ("setosa", "versicolor", "virginica") and data.class_counts().tolist() == [50, 50, 50]
    assert data.row_columns == tuple(flowers.feature_names)
    rows = np.asarray(flowers.data, np.float32)[:, [0, 1, 2, 3, 0, 1]]
    wide = type(flowers)(data=rows, target=flowers.target, target_names=flowers.target_names, feature_names=NAMES)
    result = regraft.adapt(plain(family), wide, test=wide, **QUICK)
    assert result.network.predict(wide).labels == result.network.predict(rows).labels
    assert regraft.evaluate(result.network, wide).scores["accuracy"] == result.scores["test"]["accuracy"] > 0.9
    turned = type(flowers)(**{**wide, "data": rows[:, ::-1], "feature_names": NAMES[::-1]})
    assert result.network.predict(turned).labels == result.network.predict(wide).labels  # by name
    numbered = regraft.adapt(plain(family), (rows, flowers.target), **QUICK).network
    assert regraft.evaluate(numbered, wide).scores["accuracy"] > 0.9 and numbered.classes == ("0", "1", "2")
    assert read(flowers, target=np.arange(150) % 2).classes == ("0", "1")
    loud = read(flowers, classes=["Virginica", "SETOSA", "versicolor"])
    assert loud.targets[[0, 50, 100]].tolist() == [1, 2, 0]
    foreign = read(type(wide)(**{**wide, "feature_names": None}), classes=["x", "y", "z"])
    assert "none of which the network has" in foreign.notes[0] and foreign.row_columns == ()
    with pytest.raises(DataError, match=r"The data are empty: X has the shape \(0, 6\)"):
        read(type(wide)(data=rows[:0], target=np.zeros(0, np.int64), target_names=flowers.target_names))
    progress = datasets.load_diabetes(as_frame=as_frame)
    assert read(progress).task == "regression" and read(progress, target=np.arange(442) % 2).classes == ("0", "1")
    assert read(datasets.load_linnerud(as_frame=as_frame), task="regression").targets.shape == (20, 3)


@BOTH
def test_records_and_columns_by_name_are_tables(family: str) -> None:
    frame = table()
    columns = {name: frame[name].tolist() for name in frame}
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    net = regraft.adapt(plain(family), frame, **QUICK).network
    wanted, rows = read(frame, target="label"), net.predict(frame)
    turned = {name: columns[name] for name in reversed(columns)}
    for source in (records, columns, [dict(reversed(row.items())) for row in records], turned):
        data = read(source, target="label")
        assert data.classes == wanted.classes and data.targets.tolist() == wanted.targets.tolist()
        assert set(data.row_columns) == set(NAMES) and net.predict(source).labels == rows.labels
        assert regraft.evaluate(net, source, target="label").scores == regraft.evaluate(net, frame, target="label").scores
        assert set(read(source, target={"one": "label", "two": NAMES[0]}).tasks) == {"one", "two"}
        with pytest.raises(DataError, match=r"The table has no column 'lable' for target; did you mean 'label'\?"):
            read(source, target="lable")
    assert regraft.adapt(plain(family), records, test=records, **QUICK).scores["test"]["accuracy"] >= 0.5
    assert read(records).classes == read((records, columns["label"])).classes == wanted.classes
    with pytest.raises(DataError, match=r"The table has no column .feature b. for the network"):
        net.predict([{name: value for name, value in row.items() if name != NAMES[1]} for row in records])


def test_a_mapping_is_a_table_where_target_names_a_column_and_else_inputs() -> None:
    values = {"a": [1.0, 2.0, 3.0, 4.0], "b": [0, 1, 0, 2]}
    assert read({**values, "label": list("xyxy")}, target="label").kind == "array"
    assert read({**values, "p": [0, 1, 0, 1], "q": [1, 1, 0, 0]}, target=["p", "q"]).task == "multi-label"
    assert read(values, target=list("xyxy")).kind == read(values, target={"one": list("xyxy")}).kind == "parts"
    with pytest.raises(DataError, match="the name of one of them if they are columns of a table"):
        read(values)
    with pytest.raises(DataError, match=r"differ in length: \{'a': 3, 'label': 2\}"):
        read({"a": [1, 2, 3], "label": ["x", "y"]}, target="label")


def test_records_may_lack_fields_and_hold_lists_or_pictures() -> None:
    some = read([{"a": "1", "b": "2.5", "label": "x"}, {"a": "", "label": "y"}] * 2, skip_bad=True)
    assert np.asarray(some.items[:]).tolist() == [[1, 2.5]] * 2
    tagged = read([{"text": "good day to you", "tags": ["a", "b"]}, {"text": "a bad one for me", "tags": ["b", "c"]}] * 3, target="tags")
    assert (tagged.kind, tagged.task, tagged.classes) == ("text", "multi-label", ("a", "b", "c"))
    assert read([{"x": np.full(3, at), "label": "xy"[at % 2]} for at in range(4)]).items[2].tolist() == [2, 2, 2]


def test_an_iterable_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples_module, "PATIENCE", 0)
    with pytest.warns(UserWarning, match="if it never ends") as told:
        data = read((torch.zeros(2), str(at % 2)) for at in range(20))
    assert len(told) == 1 and len(data) == 20


def test_a_table_is_part_of_a_subset() -> None:
    data = read(table())
    assert data.subset([1, 2]).row_columns == data.row_columns == tuple(NAMES)
    assert dataclasses.replace(data, table=()).row_columns == () and read((np.zeros((2, 6)), ["a", "b"])).row_columns == ()
