"""Checkpoints are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from regraft.errors import SettingError
from regraft.training import Checkpoint, clear_


def test_round_trip(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "a.pt", "run")
    assert checkpoint.read() is None
    checkpoint.write({"epoch": 1, "tensors": {"w": torch.arange(3.0)}, "best_loss": float("inf")})
    checkpoint.write({"epoch": 2, "tensors": {"w": torch.arange(4.0)}})
    found = checkpoint.read()
    assert found is not None
    assert found["epoch"] == 2
    assert torch.equal(found["tensors"]["w"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_write_that_is_cut_off_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path / "a.pt", "run")
    checkpoint.write({"epoch": 1})

    def half(_content: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write({"epoch": 2})
    found = checkpoint.read()
    assert found is not None
    assert found["epoch"] == 1


def test_other_runs_and_damaged_files_are_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "a.pt", "run")
    checkpoint.write({"epoch": 1})
    with pytest.raises(SettingError, match=r"another plan.*resume=False"):
        Checkpoint(tmp_path / "a.pt", "else").read()
    content = checkpoint.path.read_bytes()
    flipped = [content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :] for at in range(0, len(content), 97)]
    for damaged in (content[: len(content) // 2], b"", b"hello", *flipped):
        checkpoint.path.write_bytes(damaged)
        with pytest.raises(SettingError, match=r"damaged.*resume=False"):
            checkpoint.read()


def test_only_checkpoints_of_finished_runs_are_cleared(tmp_path: Path) -> None:
    for name, run in (("a", "own"), ("b", "other"), ("c", "second")):
        Checkpoint(tmp_path / "run" / f"{name}.pt", run).write({"epoch": 1})
    (tmp_path / "run" / "d.pt").write_bytes(b"damaged")
    clear_(tmp_path / "run", {"own", "second"})
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["b.pt", "d.pt"]
    (tmp_path / "run" / "d.pt").unlink()
    clear_(tmp_path / "run", {"other"})
    assert not (tmp_path / "run").exists()
    clear_(tmp_path / "run", {"other"})
