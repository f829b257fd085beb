from __future__ import annotations

import pytest

from regraft.data import read
from regraft.errors import DataError


def test_class_folders(pictures):
    (pictures / ".hidden").mkdir()
    (pictures / "cat/.DS_Store").write_text("")
    (pictures / "cat/notes.md").write_text("")
    data = read(str(pictures))
    assert data.names == ("cat/1.png", "cat/2.png", "cat/10.png", "dog/1.png", "dog/2.png")
    assert data.classes == ("cat", "dog") and list(data.targets) == [0, 0, 0, 1, 1] and data.kind == "image"
    assert data.notes == ("1 file of another kind than image, not read: cat/notes.md",)
    assert list(read(pictures, classes=["dog", "cat"]).targets) == [1, 1, 1, 0, 0]
    assert list(read(pictures, group=[1, 1, 2, 2, 2]).groups) == ["1", "1", "2", "2", "2"]


def test_recordings(recordings):
    data = read(recordings)
    assert data.kind == "audio" and data.classes == ("high", "low")


def test_labels_for_the_files(pictures):
    data = read(pictures, target=[0.5, 1, 2, 3, 4])
    assert data.task == "regression" and len(data) == 5
    with pytest.raises(DataError, match=r"target has the shape \(2,\) for 5 examples"):
        read(pictures, target=[1, 2])


def test_empty_class(pictures):
    (pictures / "cow").mkdir()
    with pytest.raises(DataError, match="are empty: 'cow'; expected files in each"):
        read(pictures)
    data = read(pictures, skip_bad=True)
    assert data.classes == ("cat", "dog") and data.notes == ("left out empty class folders: 'cow'",)


def test_errors(pictures, tmp_path):
    with pytest.raises(DataError, match=r"The data do not exist: .*nowhere"):
        read(tmp_path / "nowhere")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing is empty; expected one folder for each class"):
        read(tmp_path / "nothing")
    with pytest.raises(DataError, match="A data set of such files is a folder with a folder of them for each class"):
        read(next((pictures / "cat").iterdir()))
    with pytest.raises(DataError, match="cat has no class folders, but 3 files;"):
        read(pictures / "cat")
    (tmp_path / "texts/a").mkdir(parents=True)
    (tmp_path / "texts/a/x.doc").write_text("")
    with pytest.raises(DataError, match=r"no file of a known kind: 1 file with \.doc; expected \.png"):
        read(tmp_path / "texts")
    with pytest.raises(DataError, match=r"no file of a known kind: 5 files with \.png; expected \.wav"):
        read(pictures, kind="audio")
    with pytest.raises(DataError, match=r"x.doc cannot be read as data; expected a folder"):
        read(tmp_path / "texts/a/x.doc")


def test_two_kinds_need_a_word(pictures):
    (pictures / "cat/a.wav").write_bytes(b"")
    with pytest.raises(DataError, match="holds 5 image files and 1 audio file; expected one kind"):
        read(pictures)
    assert len(read(pictures, kind="image")) == 5


def test_split_folders_are_not_classes(pictures):
    for name in ("train", "val"):
        (pictures.parent / "sets" / name).mkdir(parents=True)
    (pictures / "cat").rename(pictures.parent / "sets/train/cat")
    (pictures / "dog").rename(pictures.parent / "sets/val/dog")
    with pytest.raises(DataError, match=r"look like splits, not classes: train, val\..*such as .*train, and another as test='.*val'"):
        read(pictures.parent / "sets")
    (pictures.parent / "sets/test/cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"such as .*train, and another as test='.*test'"):
        read(pictures.parent / "sets")


@pytest.mark.parametrize("name", ["@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found"])
def test_folders_of_operating_systems_and_network_drives_are_not_read(name, pictures):
    wanted = read(pictures)
    (pictures / name).mkdir()
    (pictures / name / "deleted.png").write_bytes((pictures / "cat/1.png").read_bytes())
    (pictures / "cat" / name / "1.png").mkdir(parents=True)
    (pictures / "cat" / name / "1.png/SYNOPHOTO_THUMB_M.png").write_bytes((pictures / "cat/1.png").read_bytes())
    data = read(pictures)
    assert data.names == wanted.names and data.classes == wanted.classes


def test_folders_of_texts_and_of_nothing(tmp_path):
    (tmp_path / "texts/a").mkdir(parents=True)
    with pytest.raises(DataError, match=r"texts holds folders, and no file in them; expected \.png"):
        read(tmp_path / "texts")
    (tmp_path / "texts/a/1.txt").write_text("a text")
    with pytest.raises(DataError, match=r"1 file with \.txt; .* Texts are read from a table, such as a CSV"):
        read(tmp_path / "texts")
