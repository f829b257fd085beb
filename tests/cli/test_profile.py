"""`regraft profile`: what it prints, what it writes, and what it says to those who ask for what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import TINY, make_pictures, run

pytestmark = pytest.mark.filterwarnings("always:The trained weights of:UserWarning")

MEMORY = ["--cache", "memory", "--quiet"]


def test_prints_table_and_scenario_and_writes_the_page(pictures: Path, tmp_path: Path) -> None:
    result = run("profile", TINY, pictures, "--out", tmp_path / "out", *MEMORY)
    assert result.exit_code == 0, result.stderr
    assert "input" in result.stdout and "Scenario:" in result.stdout and "majority class" in result.stdout
    assert str(tmp_path / "out" / "profile.html") in result.stdout
    assert "Probe accuracy by depth" in (tmp_path / "out" / "profile.html").read_text(encoding="utf-8")
    facts = json.loads((tmp_path / "out" / "profile.json").read_text(encoding="utf-8"))
    assert facts["judged"] == 16 and facts["depths"][0]["block"] == "input"


def test_json_is_the_profile(pictures: Path) -> None:
    result = run("profile", TINY, pictures, "--json", *MEMORY)
    facts = json.loads(result.stdout)
    assert facts["metric"] == "accuracy" and facts["page"] is None
    assert facts["depths"][0]["value"] == 1.0, "bright and dark pictures differ in the input already"
    assert any("Simple input statistics" in sentence for sentence in facts["warnings"])


def test_one_message_where_it_cannot_be(tmp_path: Path) -> None:
    few = make_pictures(tmp_path / "few", each=1)
    result = run("profile", TINY, few, *MEMORY)
    assert result.exit_code == 2 and "4 or more examples" in result.stderr and "Traceback" not in result.stderr
    assert run("profile", TINY, tmp_path / "nowhere", *MEMORY).exit_code == 2
    result = run("profile", TINY, make_pictures(tmp_path / "some"), "--of-task", "other", *MEMORY)
    assert result.exit_code == 2 and "'other'" in result.stderr
