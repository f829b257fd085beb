"""What the code computes is what tests/golden.json holds: to the bit where it was made, within a tolerance elsewhere."""

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


def test_with_other_libraries_outputs_alone_are_compared_within_a_tolerance() -> None:
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPT.parent)!r})
from golden import FILE, differ, differences, json
found = json.loads(FILE.read_text(encoding="utf-8"))
other = json.loads(json.dumps(found)) | {{"environment": {{}}}}
entry = other["entries"]["torch, copy, seed 0"]
entry["start"] = ["other bits", entry["start"][1] + 1e-5]
other["entries"]["run: head"] |= {{"weights": "other bits", "losses": []}}
assert differences(other, found, pattern="") == []
assert differ(["bits", 1.0], ["bits", 1.1], exact=False) and differ(["bits", 1.0], "ValueError", exact=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_golden_file_says_what_it_was_made_with() -> None:
    golden = json.loads((ROOT / "tests" / "golden.json").read_text(encoding="utf-8"))
    assert {"machine", "maker", "instructions", "torch", "keras", "numpy", "scipy", "sklearn"} == golden["environment"].keys()
    assert sum(name.startswith("run: ") for name in golden["entries"]) >= 12
