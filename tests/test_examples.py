"""The examples run: small, in both families."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    """Return an example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("family", ["torch", pytest.param("keras", marks=pytest.mark.slow)])
def test_new_voices_are_adapted_to_in_every_way(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = example("conditions").main(family, quick=True)
    assert {name: len(shares) for name, shares in found.items()} == dict.fromkeys(
        ("no adaptation", "mean code", "codes", "bias", "full"), 3
    )
    assert np.mean(found["codes"]) < np.mean(found["no adaptation"])
    printed = capsys.readouterr().out
    assert "a code of 50 numbers for each of 12 voices" in printed and "codes of 3 new voices, 20 frames each" in printed


def test_a_voice_is_the_same_whenever_it_is_asked() -> None:
    conditions = example("conditions")
    words = list(conditions.FORMANTS)
    once, again, other = conditions.frames(3, words), conditions.frames(3, words), conditions.frames(4, words)
    assert once.shape == (10, 32) and once.dtype == np.float32
    np.testing.assert_array_equal(once, again)
    assert np.abs(once - other).max() > 0.1
    assert np.abs(once - conditions.frames(3, words, seed=1)).max() > 0.05


@pytest.mark.parametrize("network", ["keras:VGG16", pytest.param("keras:DenseNet121", marks=pytest.mark.slow)])
def test_a_network_of_keras_is_frozen_below_a_deep_head(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = example("deep_head").main(tmp_path, network=network, size=32, quick=True)
    biases = [part for parts in result.network.layer_parameters().values() for part in parts.values() if part.ndim == 1]
    assert [len(bias) for bias in biases][-4:] == [1000, 500, 150, 10]
    assert result.cost["frozen_forward_examples"] == 60 and (tmp_path / "adapted" / "report.html").is_file()
    assert f"{network}: keras network {network}" in capsys.readouterr().out


def test_forty_speakers_become_fifteen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("librosa")
    found = example("speakers").main(tmp_path, quick=True)
    assert {"adapted", "majority"} <= set(found) and (tmp_path / "adapted" / "report.html").is_file()
    printed = capsys.readouterr().out
    assert "1. the source network learns 40 voices" in printed and "of 15 held-out pieces" in printed
