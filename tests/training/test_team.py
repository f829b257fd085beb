"""Two processes train as one: the cases of `team_cases.py`, in a process of their own.

The second process there is a fork of the first one, and PyTorch computes no gradients in the fork of a process that has started threads
for another device, as other tests make it do.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_two_processes_train_as_one() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name("team_cases.py"))]
    done = subprocess.run(asked, capture_output=True, text=True, check=False, env=plain)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-5000:] + done.stderr[-2000:]
