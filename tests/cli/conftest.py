"""Small pictures, a tiny network, and one finished adaptation that several tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from regraft.cli import app

TINY = "timm:test_resnet"
SETTINGS = ["--cache", "memory", "--set", "device=cpu"]


def run(*arguments: object) -> Result:
    """Run one command in this process; the tiny network, whose weights cannot be fetched, with random ones."""
    random = ["--random-weights"] if TINY in arguments and "--weights" not in arguments else []
    return CliRunner().invoke(app, [*map(str, arguments), *random])


def make_pictures(folder: Path, *, classes: tuple[str, ...] = ("bright", "dark"), each: int = 8) -> Path:
    """Write noisy grey pictures, each class with a brightness of its own."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = generator.normal(40 + 170 * (number % 2), 12, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are looked for in the local cache only, so that a test takes no time to find that there are none."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two class folders."""
    return make_pictures(tmp_path / "pictures")


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Result]:
    """The folder of an adapted network, the pictures it learned from, and what the command printed."""
    place = tmp_path_factory.mktemp("adapted")
    pictures = make_pictures(place / "pictures")
    result = run("adapt", TINY, pictures, "--out", place / "out", "--strategy", "head", "--epochs", 3, *SETTINGS)
    return place / "out", pictures, result
