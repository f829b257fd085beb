"""What a command is given and is not there: all of it told, before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "adapt": (["adapt", "NETWORK", "DATA", "--out", "OUT"], 2),
    "combine": (["combine", "a=nets/mine", "b=nets/mine", "--data", "DATA", "--out", "OUT"], 2),
    "extend": (["extend", "NETWORK", "DATA", "--out", "OUT"], 2),
    "profile": (["profile", "NETWORK", "DATA"], 2),
    "search": (["search", "NETWORK", "DATA", "--out", "OUT"], 2),
    "evaluate": (["evaluate", "NETWORK", "DATA"], 2),
    "adapt-condition": (["adapt-condition", "NETWORK", "DATA", "--name", "anna"], 2),
    "predict": (["predict", "NETWORK", "x.png"], 1),
    "inspect": (["inspect", "NETWORK"], 1),
}
RUN = """
import sys
from regraft.cli import main
sys.argv = ["regraft", *sys.argv[1:]]
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_all_that_is_missing_is_told_before_torch_is_imported(name: str, tmp_path: Path) -> None:
    words, count = COMMANDS[name]
    given = {"NETWORK": "nets/mine", "DATA": "photos", "OUT": "out"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, *(given.get(word, word) for word in words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    told = " ".join(done.stderr.split())
    assert done.returncode == 2 and told.endswith("False"), done.stderr
    assert "There is no file or folder 'nets/mine'." in told and ("The data do not exist: photos." in told) == (count == 2), done.stderr
    assert told.count("There is no file or folder") == sum("nets/mine" in word or word == "NETWORK" for word in words)
    assert not list(tmp_path.iterdir())
