"""`regraft check`: what was read, alone and with a network; nothing is trained or written."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import TINY, run


def test_data_alone_with_what_cannot_be_used(pictures: Path) -> None:
    (pictures / "dark" / "broken.png").write_bytes(b"no picture")
    before = sorted(pictures.rglob("*"))
    shown = run("check", pictures)
    assert shown.exit_code == 0 and "2 classes" in shown.stdout and "broken.png" in shown.stdout
    assert "--skip-bad" in shown.stderr and sorted(pictures.rglob("*")) == before
    facts = json.loads(run("check", pictures, "--json").stdout)
    assert facts["tasks"][0]["classes"] == {"bright": 8, "dark": 8} and len(facts["left_out"]) == 1


def test_with_a_network(pictures: Path) -> None:
    facts = json.loads(run("check", pictures, TINY, "--json").stdout)
    assert sorted(facts["network"]["split"]) == ["holdout", "training", "validation"] and not facts["problems"]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    shown = run("check", tmp_path / "none", "timmm:x")
    assert shown.exit_code == 2 and "timmm" in shown.stderr and "do not exist" in shown.stderr
