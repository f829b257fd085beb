"""What the code computes is what tests/golden.json holds, to the bit."""

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


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_nothing_differs_from_the_golden_file() -> None:
    done = run()
    if "made with" in done.stderr:
        pytest.skip(f"the bits are of another machine or other libraries: {done.stderr}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_golden_file_says_what_it_was_made_with() -> None:
    golden = json.loads((ROOT / "tests" / "golden.json").read_text(encoding="utf-8"))
    assert {"cpu", "torch", "keras", "numpy", "python"} <= golden["environment"].keys()
    assert sum(name.startswith("run: ") for name in golden["entries"]) >= 12
