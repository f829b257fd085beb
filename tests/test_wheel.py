"""The package as it is installed: a wheel with every file of the source, in an empty environment, far from the source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import regraft

HOME = Path(__file__).parents[1]
REPORT = """
import sys, regraft
from regraft.report.page import write_report
sys.stderr.write(regraft.__file__)
write_report(sys.argv[1], {"verdict": "it works"})
"""


def test_the_wheel_works_in_an_empty_environment(tmp_path: Path) -> None:
    source, wheels, empty = tmp_path / "source", tmp_path / "wheels", tmp_path / "empty"
    shutil.copytree(HOME / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(HOME / name, source / name)
    how = ("--no-deps", "--no-index", "--disable-pip-version-check", "--quiet")
    _run(sys.executable, "-m", "pip", "wheel", source, *how, "--no-build-isolation", "--wheel-dir", wheels)
    [wheel] = wheels.glob("regraft-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {path.relative_to(source / "src").as_posix() for path in (source / "src" / "regraft").rglob("*") if path.is_file()}

    # The libraries that regraft needs come from the environment of the tests, regraft itself from the wheel.
    _run(sys.executable, "-m", "venv", "--without-pip", empty)
    scheme = {"base": str(empty), "platbase": str(empty)}
    paths = {name: Path(sysconfig.get_path(name, "venv", vars=scheme)) for name in ("purelib", "scripts")}
    _run(sys.executable, "-m", "pip", "--python", paths["scripts"] / "python", "install", *how, wheel)
    (paths["purelib"] / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert _run(paths["scripts"] / "regraft", "--version").stdout == f"regraft {regraft.__version__}\n"
    assert "adapt-condition" in _run(paths["scripts"] / "python", "-m", "regraft", "--help").stdout
    page = tmp_path / "page.html"
    assert str(empty) in _run(paths["scripts"] / "python", "-c", REPORT, page).stderr
    assert "it works" in page.read_text(encoding="utf-8")


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, env=plain, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done
