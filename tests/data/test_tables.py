from __future__ import annotations

import gzip
import importlib.util
import json
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from regraft.data import read
from regraft.data.readers import csv_files
from regraft.data.readers.csv_files import columns_of_csv
from regraft.data.readers.table_files import columns_of_file, names_of_file
from regraft.errors import DataError


@pytest.fixture(params=["pandas", "plain"])
def csv(request, tmp_path, monkeypatch):
    """Write a CSV, to be read with pandas or with the standard library alone."""
    if request.param == "pandas":
        pytest.importorskip("pandas")
    else:
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pandas" else find(name))

    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_numbers(csv):
    data = read(csv("a,b,label,who\n1,2.5,x,p\n3,4.5,NA,q\n"), group="who")
    assert data.kind == "array" and data.classes == ("NA", "x") and list(data.groups) == ["p", "q"]
    np.testing.assert_array_equal(data.items, np.array([[1, 2.5], [3, 4.5]], np.float32))
    assert "2 numeric columns: a, b" in data.notes[0]
    assert read(csv("a;b\n1;2\n3;4\n")).classes == ("2", "4")
    assert read(csv("a\tb\n1\t2\n3\t4\n", "t.tsv"), target=["u", "v"]).items.shape == (2, 2)
    assert read(csv("a,y\n1,0.5\n3,4\n")).task == "regression"


def test_texts(csv):
    path = csv('id,review,sentiment\n1,"a good, long film",pos\n2,bad,neg\n')
    data = read(path, target="sentiment")
    assert data.kind == "text" and data[0] == "a good, long film" and "column 'review'" in data.notes[0]
    assert read(path, target="sentiment", kind="array").items.shape == (2, 1)
    assert data.notes[0].endswith("left out: id; for the numeric columns give kind='array'")
    codes = read(csv("x,code,label\n1,ab,p\n2,cd,q\n"))
    assert codes.kind == "array" and codes.notes[0].endswith("left out: code; for texts give kind='text'")
    with pytest.raises(DataError, match=r"example 1 \(missing text\)"):
        read(csv("review,label\nfine,1\n,0\n"))


def test_names_of_things_beside_numbers_are_not_the_items(csv):
    path = csv("a,b,speaker,word\n0.5,1,anna,yes\n1.5,2,anna,no\n2.5,3,ben,yes\n3.5,4,ben,no\n")
    data = read(path, target="word")
    assert data.kind == "array" and data.items.shape == (4, 2) and "left out: speaker" in " ".join(data.notes)
    assert read(path, target="word", kind="text").items[2] == "ben"


def test_files(csv, pictures):
    rows = "file,label,cam\ncat/1.png,c,p\n./cat/10.png,c,q\ndog/2,d,p\n"
    data = read(csv(rows), files=pictures, condition="cam")
    assert data.names == ("cat/1.png", "cat/10.png", "dog/2.png") and data.kind == "image" and data.classes == ("c", "d")
    assert list(data.conditions) == ["p", "q", "p"] and "2 files of the folder without a row: cat/2.png, dog/1.png" in data.notes
    assert read(csv(rows, "pictures/table.csv"), target="label").names == data.names
    missing = csv("file,label\ncat/1.png,c\nghost.png,d\n10,d\n")
    with pytest.raises(DataError, match=r"table.csv: 1 of 3 rows names files that are not in .*: ghost.png"):
        read(missing, files=pictures)
    kept = read(missing, files=pictures, skip_bad=True)
    assert kept.names == ("cat/1.png", "cat/10.png") and "left out 1 row whose files do not exist: ghost.png" in kept.notes


def test_padded_names_and_ambiguous_ones(csv, pictures):
    (pictures / "cat/2.png").rename(pictures / "cat/007.png")
    data = read(csv("id,label\n007,c\n010,d\n").parent / "table.csv", files=pictures, skip_bad=True)
    assert data.names == ("cat/007.png",)
    with pytest.raises(DataError, match=r"table.csv: 1 name fits several files in .*: \x271\x27 \(cat/1.png, dog/1.png\)"):
        read(csv("id,label\n007,c\n1,d\n"), files=pictures)
    kept = read(csv("id,label\n007,c\n1,d\n"), files=pictures, skip_bad=True)
    assert kept.names == ("cat/007.png",) and "left out rows whose names fit several files: 1" in kept.notes


def test_rows_with_files_of_another_kind_are_told(csv, pictures):
    (pictures / "cat/a.wav").write_bytes(b"RIFF")
    data = read(csv("id,label\ncat/1.png,c\ndog/1.png,d\ncat/a.wav,c\n"), files=pictures, kind="image")
    assert data.names == ("cat/1.png", "dog/1.png") and "1 row with a file of another kind, not read" in data.notes


def test_a_parquet_file_gives_its_names_and_fractions_that_are_classes(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pytest.importorskip("pandas").DataFrame({"x": [1.5, 2, 3, 4], "note": ["one two", "a", "b c", "d"], "y": [1.5, 2.5, 1.5, 2.5]})
    frame.to_parquet(tmp_path / "t.parquet")
    assert names_of_file(tmp_path / "t.parquet") == ["x", "note", "y"]
    data = read(tmp_path / "t.parquet", task="classification", inputs={"words": "note", "numbers": ["x"]})
    assert data.classes == ("1.5", "2.5") and data.part("words").items == ["one two", "a", "b c", "d"]


def test_several_targets(csv):
    data = read(csv("a,red,blue\n1,1,0\n2,1,1\n"), target=["red", "blue"])
    assert data.task == "multi-label" and data.classes == ("red", "blue")


def test_errors(csv, pictures, tmp_path):
    path = csv("a,b,label\n1,2,x\n3,4,y\n")
    with pytest.raises(DataError, match="has no column 'labl' for target; did you mean 'label'"):
        read(path, target="labl")
    with pytest.raises(DataError, match="has no column 'speaker' for group; valid: 'a', 'b', 'label'"):
        read(path, group="speaker")
    with pytest.raises(DataError, match=r"No column of table.csv names files in .*: it holds 1.png.*; the first row is .*'a': '1'"):
        read(csv("b,a,label\nzz,1,x\nyy,3,y\n"), files=pictures)
    with pytest.raises(DataError, match="The folder of the files does not exist"):
        read(path, files=tmp_path / "nowhere")
    with pytest.raises(DataError, match="The folder of the files is a file"):
        read(path, files=path)
    with pytest.raises(DataError, match=r"target has 1 label and table.csv has 2 rows"):
        read(path, target=["u"])
    with pytest.raises(DataError, match=r"table.csv is empty: 2 columns and no rows"):
        read(csv("a,b\n"))
    with pytest.raises(DataError, match=r"table.csv is empty; expected a first line"):
        read(csv(""))
    with pytest.raises(DataError, match="has no column of texts or numbers besides"):
        read(csv("label\nx\ny\n"))
    with pytest.raises(DataError, match="no column left for target"):
        read(csv("who\nx\ny\n"), group="who")
    with pytest.raises(DataError, match="read as kind='image' and no column of it names files"):
        read(csv("a,label\n1,x\n2,y\n"), kind="image")


def test_ragged_lines(csv):
    long = "1,x\n" * 3000
    late = {"3": "a,b\n1,2\n3\n", "3002": f"a,b\n{long}1,x,2\n{long}", "3003": f"sep=;\na;b\n{long}1\n".replace(",", ";")}
    for lines, content in late.items():
        with pytest.raises(DataError, match=f"another number of fields than its 2 columns: lines {lines}"):
            read(csv(content))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('a,b,label\n1,2,"x\n1,2,y\n', "a quote that opens in line 2, .*is not closed"),
        ('a,b,label\n1,2,x\n1,"2" inch,y\n', "in line 3, .*text follows a closing quote"),
    ],
)
def test_quotes_that_do_not_fit_are_one_error(csv, content, words):
    with pytest.raises(DataError, match=words) as caught:
        read(csv(content))
    assert "Traceback" not in str(caught.value) and "C error" not in str(caught.value)


ROWS = 3_000


@pytest.mark.parametrize("late", ["007", "+49", "-01", "123456789012345678901", "x1", "1.10"])
def test_names_keep_their_characters_wherever_they_stand(csv, late, monkeypatch):
    """The first rows say nothing of the last one: a column is numbers if all of it is."""
    monkeypatch.setattr(csv_files, "ROWS", 1_000)
    path = csv("a,g,label\n" + "".join(f"{row},{100 + row % 3},u\n" for row in range(ROWS)) + f"1,{late},v\n1,1.1,v\n")
    assert list(read(path, group="g").groups[-3:]) == [str(100 + (ROWS - 1) % 3), late, "1.1"]
    if late != "1.10":  # a column of floating-point numbers is no column of classes
        assert late in read(path, target="g", kind="array").classes


PARTED = {
    "whole, then fractions": ["1", "2", "3.5", "4", "5"],
    "whole with holes": ["1", "", "3", "4", ""],
    "empty first": ["", "", "", "a", "b"],
    "numbers, then texts": ["1", "2", "3", "x", "5"],
    "truth, then numbers": ["True", "False", "1", "0", "1"],
    "truth with holes": ["True", "False", "", "True", ""],
    "numbers of 17 digits beside a hole": ["12345678901234567", "2", "", "4", "5"],
    "codes": ["7", "8", "9", "007", "5"],
    "missing as a word": ["1.5", "2", "NA", "4", "5"],
    "decimal commas": ["1", "2", "3,5", "4", "5"],
    "texts": ["a", "b", "a", "", "a"],
}


@pytest.mark.parametrize("name", PARTED)
def test_a_file_is_read_in_parts_as_in_one(name, tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    lines = [f"{at}.25;{field};{'ab'[at % 2]}" for at, field in enumerate(PARTED[name])]
    (tmp_path / "t.csv").write_text("\n".join(["x;y;label", *lines]))
    whole, notes = columns_of_csv(tmp_path / "t.csv")
    monkeypatch.setattr(csv_files, "ROWS", 2)
    parted, same = columns_of_csv(tmp_path / "t.csv")
    assert same == notes
    for column, values in whole.items():
        assert (parted[column].dtype.kind == "O") == (values.dtype.kind == "O"), column
        assert list(map(str, parted[column])) == list(map(str, values)) or np.array_equal(parted[column], values, equal_nan=True), column


def test_fractions_that_are_classes_keep_their_characters(tmp_path):
    (tmp_path / "t.csv").write_text("x,version,size\n" + "".join(f"{at},{('1.1', '1.10')[at % 2]},{at % 3}\n" for at in range(6)))
    said = read(tmp_path / "t.csv", target="version", task="classification")
    assert said.classes == ("1.1", "1.10") and said.targets.tolist() == [0, 1] * 3
    both = read(tmp_path / "t.csv", target={"a": "version", "b": "size"}, task={"a": "classification", "b": "classification"})
    assert both.classes == ("1.1", "1.10") and both.further["b"].classes == ("0", "1", "2")
    assert read(tmp_path / "t.csv", target="version").task == "regression"


def test_texts_between_numbers_keep_their_characters(csv, monkeypatch):
    """The pandas reader decides on types part by part, so that numbers at the head would be rewritten."""
    monkeypatch.setattr(csv_files, "ROWS", 1_000)
    head = "".join(f"{row}.10,u\n" for row in range(ROWS))
    data = read(csv(f"code,label\n{head}" + "x,v\n" * ROWS), kind="text")
    assert data.items[0] == "0.10" and data.items[ROWS - 1] == f"{ROWS - 1}.10" and data.items[-1] == "x"


def test_a_column_of_mixed_types_in_a_wide_table_gives_no_warning(tmp_path):
    """pandas parses wide tables in parts of fewer rows, and warns if the types of the parts differ."""
    pytest.importorskip("pandas")
    lines = [",".join(["x" if row > 512 else "1"] + ["2"] * 1023) for row in range(520)]
    (tmp_path / "t.csv").write_text("\n".join([",".join(f"c{at}" for at in range(1024)), *lines]))
    assert columns_of_csv(tmp_path / "t.csv")[0]["c0"].tolist() == ["1"] * 513 + ["x"] * 7


@pytest.mark.parametrize("words", [("TRUE", "FALSE"), ("true", "false"), ("True", "False")])
def test_truth_values_are_numbers_to_read_and_names_to_learn(csv, words):
    data = read(csv(f"a,b,label\n1,{words[0]},{words[0]}\n2,{words[1]},{words[1]}\n"))
    assert data.classes == tuple(sorted(words)) and data.items.tolist() == [[1, 1], [2, 0]]


def test_long_whole_numbers_with_holes_keep_their_digits(csv):
    path = csv("a,b,who,label\n1,2,9007199254740993,x\n3,4,9007199254740992,y\n5,6,,x\n")
    assert columns_of_file(path)[0]["who"].tolist()[:2] == ["9007199254740993", "9007199254740992"]
    assert columns_of_file(csv("a,b\n1e20,2\n,3\n"))[0]["a"].dtype.kind == "f"


ENCODINGS = {
    "utf-8": ("utf-8", None),
    "utf-8-sig": ("utf-8-sig", None),
    "utf-16": ("utf-16", None),
    "utf-16-le": ("utf-16-le", "read as UTF-16: Müller, Straße"),
    "utf-16-be": ("utf-16-be", "read as UTF-16: Müller, Straße"),
    "cp1252": ("cp1252", r"read as cp1252 \(Windows\): Müller, Straße"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("hint", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_separators(csv, encoding, separator, hint, end):
    rows = (("a", "b", "label"), ("1", "0.5", "Müller"), ("2", "7", "Straße"))
    lines = [f"sep={separator}"] * hint + [separator.join(row) for row in rows]
    path = csv("", "t.csv")
    path.write_bytes((end.join(lines) + end).encode(ENCODINGS[encoding][0]))
    data = read(path)
    assert data.classes == ("Müller", "Straße") and data.items.tolist() == [[1, 0.5], [2, 7]]
    said = ENCODINGS[encoding][1]
    assert len(data.notes) == 1 + (said is not None) and (said is None or re.search(said, data.notes[0]))


def test_decimal_commas(csv):
    data = read(csv("a;b;c;label\n1,5;2;-1.234,5;x\n3;4,25;10;y\n;5;1;x\n"), skip_bad=True)
    assert np.asarray(data.items).tolist() == [[1.5, 2, -1234.5], [3, 4.25, 10]]
    assert [note for note in data.notes if "decimal commas, such as '1,5'" in note] and len(data.notes) == 5
    unclear = read(csv('a,n,label\n1,"1,234",x\n3,"2,345",y\n'), kind="array")
    assert unclear.items.shape == (2, 1) and "whether the comma in '1,234' separates thousands or decimals" in unclear.notes[0]
    assert read(csv("a;label\nyes, 1,5;x\nno;y\n")).items[0] == "yes, 1,5"


@pytest.mark.parametrize("word", ["NA", "N/A", "nan", "NULL", "None", "?", "-"])
def test_words_for_missing_numbers(csv, word):
    path = csv(f"a,b,who,label\n1,2.5,{word},x\n{word},3,me,{word}\n4,5,1,y\n")
    columns, notes = columns_of_file(path)
    np.testing.assert_array_equal(columns["a"], [1, np.nan, 4])
    assert columns["who"].tolist() == [word, "me", "1"] and columns["label"].tolist() == ["x", word, "y"]  # among texts it is one
    assert word == "nan" or notes == (f"the column 'a' holds numbers; missing are the fields with '{word}'",)
    with pytest.raises(DataError, match=r"1 of 3 examples cannot be used: example 1 \(NaN"):
        read(path, kind="array")
    commas = read(csv(f"a;b;label\n1,5;1;x\n{word};2;y\n2;3;x\n"), skip_bad=True)
    assert np.asarray(commas.items).tolist() == [[1.5, 1], [2, 3]]
    assert columns_of_file(csv(f"a,b\n007,1\n{word},2\n"))[0]["a"].tolist() == ["007", word]


def test_spaces_before_fields_are_no_part_of_them(csv):
    data = read(csv('a, word , label\n1, "x, y", yes\n2,  z, no\n'), kind="text")
    assert data.classes == ("no", "yes") and data.items == ["x, y", "z"]


@pytest.mark.parametrize(
    ("first", "said"),
    [("0.5,1,x", "numbers: 0.5, 1"), ("3,3,x", "numbers: 3, 3"), ("0,1,label", ""), ("a,2019,2020", "")],
)
def test_a_first_line_that_may_be_an_example_is_pointed_out(csv, first, said):
    path = csv(f"{first}\n1,2,x\n3,4,y\n")
    try:
        told = " ".join(read(path, target=["x", "y"], kind="array").notes)
    except DataError as error:
        told = str(error)
    assert (said in told) if said else ("first line" not in told)


def test_the_column_of_the_labels_is_said_where_its_name_is_none_of_a_label(csv):
    assert "the labels are the last column, 'c'; for another give target=" in read(csv("a,b,c\n1,2,x\n3,4,y\n")).notes
    assert not any("the labels are" in note for note in read(csv("a,b,Class\n1,2,x\n3,4,y\n")).notes)


def test_the_index_of_a_data_frame_is_no_feature(csv):
    for head in ("", "Unnamed: 0"):
        data = read(csv(f"{head},a,b,label\n5,1,2,x\n9,1,3,x\n11,2,4,y\n"))
        assert data.items.tolist() == [[1, 2], [1, 3], [2, 4]] and "numbers or names the rows and has no name: Unnamed: 0" in data.notes[0]
    assert read(csv(",a,label\n0.5,1,x\n1.5,1,y\n")).items.shape == (2, 2)  # measured, not counted
    assert read(csv("a,b,label,\n1,2,x,\n3,4,y,\n")).classes == ("x", "y")  # separators at the end of each line
    frame = pytest.importorskip("pandas").DataFrame({"Unnamed: 0": [3, 4], "a": [1, 2], "label": ["x", "y"]})
    assert read(frame).items.tolist() == [[1], [2]]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library, tmp_path):
    frame = pytest.importorskip(library).DataFrame({"a": [1, 2], "b": [0.5, 0.25], "label": ["x", "y"], "g": [1, 2]})
    data = read(frame, group="g")
    assert data.items.shape == (2, 2) and data.classes == ("x", "y") and list(data.groups) == ["1", "2"]
    texts = pytest.importorskip(library).DataFrame({"text": ["some words", None], "label": [0, 1]})
    with pytest.raises(DataError, match="missing text"):
        read(texts)
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    frame.to_parquet(path) if library == "pandas" else frame.write_parquet(path)
    assert read(path, group="g").classes == ("x", "y")


def test_missing_values_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "label": pandas.array([1, None], dtype="Int64")})
    with pytest.raises(DataError, match="missing or not finite in rows 1"):
        read(frame)


COLUMNS = {
    "truth values": (lambda p: [True, False, True, True], [1, 0, 1, 1]),
    "whole numbers with holes": (lambda p: p.array([1, 2, None, 4], dtype="Int64"), [1, 2, np.nan, 4]),
    "truth values with holes": (lambda p: p.array([True, None, False, True], dtype="boolean"), [1, np.nan, 0, 1]),
    "numbers as objects": (lambda p: p.Series([1, 2.5, None, True], dtype=object), [1, 2.5, np.nan, 1]),
    "Decimal": (lambda p: [Decimal("1.5")] * 4, [1.5] * 4),
    "sparse": (lambda p: p.arrays.SparseArray([0.0, 1, 0, 0]), [0, 1, 0, 0]),
    "categories": (lambda p: p.Categorical(["u", "v", "u", "v"]), None),
    "texts": (lambda p: p.array(["u", None, "u", "v"], dtype="string"), None),
    "dates": (lambda p: p.date_range("2020", periods=4), None),
    "dates with a zone": (lambda p: p.date_range("2020", periods=4, tz="UTC"), None),
    "durations": (lambda p: p.to_timedelta([1, 2, 3, 4], unit="s"), None),
    "periods": (lambda p: p.period_range("2020", periods=4, freq="D"), None),
    "complex numbers": (lambda p: np.arange(4) * 1j, None),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_data_frames_are_numbers_or_said_to_be_left_out(name):
    pandas = pytest.importorskip("pandas")
    make, expected = COLUMNS[name]
    frame = pandas.DataFrame({"c": make(pandas), "n": [1.0, 5, 2, 3], "label": list("abab")})
    for source in (frame, (frame[["c", "n"]], frame["label"])):
        data = read(source, skip_bad=True)
        if expected is None:
            assert data.items.tolist() == [[1], [5], [2], [3]] and any("left out: c" in note for note in data.notes)
        else:
            rows = np.column_stack([expected, frame["n"]])
            np.testing.assert_array_equal(np.asarray(data.items), rows[np.isfinite(expected)])


def test_data_frames_with_labels_beside_them():
    pandas, frame = pytest.importorskip("pandas"), pytest.importorskip("pandas").DataFrame({"t": ["some words", "others"], "u": ["a", "b"]})
    assert read((frame, ["x", "y"])).items == ["some words", "others"]
    assert read((pandas.DataFrame(np.eye(2)), pandas.DataFrame({"label": ["x", "y"]}))).classes == ("x", "y")
    assert read(pandas.DataFrame({0: [1.0, 2], 1: ["x", "y"]}), target=1).classes == ("x", "y")
    moved = read((pandas.DataFrame(np.eye(2)), pandas.Series(["x", "y"], index=[1, 0])))
    assert "rows belong together by position" in moved.notes[0] and moved.targets.tolist() == [0, 1]
    arrow = pytest.importorskip("pyarrow").table({"a": [1, 2], "b": [2, 4], "label": ["x", "y"]})
    assert read(arrow).items.shape == (2, 2)


RECORDS = [
    {"code": "007", "a": 1.5, "n": 3, "label": "x"},
    {"code": "010", "a": -2.0, "n": 4, "label": "y"},
    {"code": "1", "n": 5, "label": "x"},
]
LINES = "\n".join([json.dumps({**row, "list": [1]}) for row in RECORDS]) + "\n\n"
CSV = "code,a,n,label\n007,1.5,3,x\n010,-2,4,y\n1,,5,x\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("Größe 1.CSV", CSV.encode()),
        ("t.tsv", CSV.replace(",", "\t").encode()),
        ("t.TAB", CSV.replace(",", "\t").encode()),
        ("t.csv.gz", gzip.compress(CSV.encode())),
        ("T.TSV.GZ", gzip.compress(CSV.replace(",", "\t").encode("utf-16"))),
        ("t.jsonl", LINES.encode()),
        ("t.ndjson", b"\xef\xbb\xbf" + LINES.encode()),
    ],
)
def test_a_table_is_the_same_in_every_form(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    data = read(tmp_path / name, columns=["n"], group="code", kind="array", skip_bad=True)
    assert data.classes == ("x", "y") and np.array_equal(data.items, np.float32([[1.5], [-2.0]]))
    assert data.groups is not None and data.groups.tolist() == ["007", "010"]
    assert data.columns is not None and data.columns.tolist() == [[3.0], [4.0]]
    assert names_of_file(tmp_path / name)[:4] == list(RECORDS[0])
    assert any("list (" in note or "structures were not read: list" in note for note in data.notes) == ("json" in name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.xlsx", b"PK", "pandas.read_excel"),
        ("t.FEATHER", b"ARROW1", "pandas.read_feather"),
        ("t.json", b"[]", "one object a line"),
        ("t.csv.bz2", b"BZh", "Unpack it first"),
        ("t.pkl", b"x", "a pickle runs code"),
        ("t.tar.gz", gzip.compress(b"x"), "expected .csv.gz or .tsv.gz"),
        ("t.csv.gz", gzip.compress(CSV.encode())[:-9], "cannot be read as a CSV file"),
        ("t.csv.gz", CSV.encode(), "cannot be read as a CSV file"),
        ("t.jsonl", b'{"a": 1}\n{"a": }\n', "Line 2 of t.jsonl is no JSON"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', r"Line 2 of t.jsonl is '\[1\]'; expected an object"),
        ("t.jsonl", b"[" * 100_000, "t.jsonl' cannot be read as a JSON Lines file"),
        ("t.jsonl", b"\n", "is empty"),
    ],
)
def test_other_tables_are_refused_with_what_to_do(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        read(tmp_path / name)


@pytest.mark.parametrize("form", ["{folder}/{name}", "{folder}\\{name}", ".\\{folder}\\{name}"])
def test_names_of_files_may_be_written_as_windows_does(tmp_path: Path, form: str) -> None:
    from PIL import Image

    (tmp_path / "Bilder ä").mkdir()
    for name in ("eins.PNG", "zwei.Jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / "Bilder ä" / name)
    named = [form.format(folder="Bilder ä", name=name) for name in ("eins.PNG", "zwei.Jpg")]
    (tmp_path / "t.csv").write_text(f"file,label\n{named[0]},a\n{named[1]},b\n", encoding="utf-8")
    assert read(tmp_path / "t.csv").kind == "image"


def test_names_of_files_that_are_not_there_are_no_texts_to_learn_from(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\nC:\\fotos\\eins.JPG,a\nC:\\fotos\\zwei.JPG,b\n")
    with pytest.raises(DataError, match=r"'file' of t.csv names files, and the first is not there: 'C:.*as files=, or kind='text'"):
        read(tmp_path / "t.csv")
    assert read(tmp_path / "t.csv", kind="text").kind == "text"
