"""What the code computes is what tests/golden.json holds, to the bit with the libraries it was made with, else within a tolerance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", exc_type=ImportError)
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "golden.py"
QUICK = "(functional|torch), (retarget|stack|join|taps|film|low rank|codes), seed 1|run: (head|codes)"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("pattern", [QUICK, pytest.param("", marks=pytest.mark.slow)], ids=["some", "all"])
def test_nothing_differs_from_the_golden_file(pattern: str) -> None:
    done = run(pattern)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_golden_file_says_what_it_was_made_with() -> None:
    golden = json.loads((ROOT / "tests" / "golden.json").read_text(encoding="utf-8"))
    assert {"machine", "instructions", "torch", "keras", "numpy", "scipy", "sklearn"} == golden["environment"].keys()
    assert sum(name.startswith("run: ") for name in golden["entries"]) >= 12
