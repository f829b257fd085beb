"""A few changed files of each kind; `make fuzz` makes 10,000."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fuzz.kinds import KINDS, cases

FEW = 10


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_result_or_one_error(kind: str, tmp_path: Path) -> None:
    case = cases(kind, tmp_path)
    came = {number: case(1, number) for number in range(FEW)}
    assert all(outcome == "right" or outcome.startswith("-") for outcome in came.values()), came
