"""`regraft predict` on what `regraft adapt` takes: tables that hold or name the items, with labels or without."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from regraft.cli.commands.prediction import _items
from regraft.errors import InputError

from .conftest import run

READER: Any = SimpleNamespace(preprocessing=SimpleNamespace(item_kind="text", row_columns=(), input_columns=None))


def _read(*files: Path, texts: list[str] | None = None) -> Any:
    return _items(READER, list(files), texts=texts or [], columns=None, beside=None, outside=False)


@pytest.mark.parametrize("head", ["text,label", "id,text,label", "text"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet"])
def test_a_table_of_texts_is_read_as_one(head: str, name: str, tmp_path: Path) -> None:
    rows = [("1", "a good, long film\nof two lines", "pos"), ("2", "bad", "neg")]
    names = ["id", "text", "label"]
    columns = {column: [row[names.index(column)] for row in rows] for column in head.split(",")}
    if name.endswith("parquet"):
        pytest.importorskip("pandas").DataFrame(columns).to_parquet(tmp_path / name)
    else:
        with (tmp_path / name).open("w", newline="") as stream:
            writer = csv.writer(stream, delimiter="," if name.endswith("csv") else "\t")
            writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    data = _read(tmp_path / name)
    assert list(data.items) == ["a good, long film\nof two lines", "bad"]
    assert data.names == tuple(f"{tmp_path / name}:{row}" for row in (1, 2))


def test_texts_at_an_address_are_fetched(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "t.txt").write_text("good\nbad\n")
    (tmp_path / "t.csv").write_text("text,label\ngood,pos\nbad,neg\n")
    for name in ("t.txt", "t.csv"):
        address: Any = f"file://{tmp_path}/{name}"
        data = _read(address)
        assert list(data.items) == ["good", "bad"] and (data.names is None or data.names[1] == f"{address}:2")


def test_a_question_mark_belongs_to_the_name_of_a_local_file(tmp_path: Path) -> None:
    (tmp_path / "who?.csv").write_text("text,price\ngood,2\nbad,3\n")
    data = _items(READER, [tmp_path / "who?.csv"], texts=[], columns=["price"], beside=None, outside=False)
    assert list(data.items) == ["good", "bad"]


def test_a_table_at_an_address_gives_the_columns_that_a_network_reads(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "t.csv").write_text("text,price\ngood,2\nbad,3\n")
    (tmp_path / "t.txt").write_text("good\nbad\n")
    address: Any = f"file://{tmp_path}/t.csv"
    data = _items(READER, [address], texts=[], columns=["price"], beside=None, outside=False)
    assert list(data.items) == ["good", "bad"] and np.asarray(data.columns).tolist() == [[2.0], [3.0]]
    assert data.names == (f"{address}:1", f"{address}:2")
    with pytest.raises(InputError, match=r"reads the columns price beside each example; received .*t\.txt.*Give a CSV or Parquet file"):
        _items(READER, [address.replace(".csv", ".txt")], texts=[], columns=["price"], beside=None, outside=False)
    with pytest.raises(InputError, match=r"expected one address alone, without --text and --files"):
        _items(READER, [address, address], texts=[], columns=["price"], beside=None, outside=False)


def test_lines_stay_lines_and_mixtures_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("text,label\ngood,pos\n")
    (tmp_path / "t.csv").write_text("text,label\ngood,pos\n")
    assert list(_read(tmp_path / "t.txt").items) == ["text,label", "good,pos"]
    for files, texts in (((tmp_path / "t.csv", tmp_path / "t.txt"), []), ((tmp_path / "t.csv",), ["more"])):
        with pytest.raises(InputError, match=r"expected one|expected one of them"):
            _read(*files, texts=texts)


def test_a_table_names_the_pictures(adapted: tuple[Path, Path, Any], tmp_path: Path) -> None:
    folder, pictures, _ = adapted
    for label in ("", ",label"):
        table = tmp_path / "test.csv"
        table.write_text(f"file{label}\n" + "".join(f"{name}{label and ',x'}\n" for name in ("dark/1.png", "bright/0.png")))
        shown = run("predict", folder, table, "--files", pictures)
        rows = list(csv.DictReader(io.StringIO(shown.stdout)))
        assert shown.exit_code == 0 and [row["file"] for row in rows] == ["dark/1.png", "bright/0.png"]
        direct = run("predict", folder, pictures / "dark/1.png", pictures / "bright/0.png")
        assert [row["label"] for row in rows] == [row["label"] for row in csv.DictReader(io.StringIO(direct.stdout))]


def test_ids_and_chosen_columns_are_passed_through(adapted: tuple[Path, Path, Any], tmp_path: Path) -> None:
    folder, pictures, _ = adapted
    table = tmp_path / "new.csv"
    table.write_text("id,file,date\n007,dark/1.png,1.10\n008,bright/0.png,1.20\n")
    rows = list(csv.DictReader(io.StringIO(run("predict", folder, table, "--files", pictures).stdout)))
    assert [row["id"] for row in rows] == ["007", "008"] and "date" not in rows[0]
    lines = run("predict", folder, table, "--files", pictures, "--pass", "date,id", "--format", "jsonl").stdout.splitlines()
    assert [json.loads(line)["columns"] for line in lines] == [{"date": "1.10", "id": "007"}, {"date": "1.20", "id": "008"}]
    wrong = run("predict", folder, table, "--files", pictures, "--pass", "dat")
    assert wrong.exit_code == 2 and "did you mean 'date'" in wrong.stderr
    none = run("predict", folder, pictures / "dark", "--pass", "id")
    assert none.exit_code == 2 and "names columns of a table" in none.stderr


def test_patterns_find_files_and_what_fits_none_is_told(adapted: tuple[Path, Path, Any]) -> None:
    folder, pictures, _ = adapted
    shown = run("predict", folder, f"{pictures}/*/[01].png")
    names = [row["file"] for row in csv.DictReader(io.StringIO(shown.stdout))]
    assert names == [str(pictures / name) for name in ("bright/0.png", "bright/1.png", "dark/0.png", "dark/1.png")]
    wrong = run("predict", folder, f"{pictures}/*.gif")
    assert wrong.exit_code == 2 and "No file fits the pattern" in wrong.stderr
