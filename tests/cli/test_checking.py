"""`regraft check`: what was read, alone and with a network; nothing is trained or written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from .conftest import SETTINGS, TINY, run


def test_data_alone_with_what_cannot_be_used(pictures: Path) -> None:
    (pictures / "dark" / "broken.png").write_bytes(b"no picture")
    before = sorted(pictures.rglob("*"))
    shown = run("check", pictures)
    assert shown.exit_code == 0 and "2 classes" in shown.stdout and "broken.png" in shown.stdout
    assert "--skip-bad" in shown.stderr and sorted(pictures.rglob("*")) == before
    facts = json.loads(run("check", pictures, "--json").stdout)
    assert facts["tasks"][0]["classes"] == {"bright": 8, "dark": 8} and len(facts["left_out"]) == 1


def test_what_adapt_does_not_read_does_not_stop_it(pictures: Path) -> None:
    (pictures / "dark" / "drawing.svg").write_text("<svg/>")
    (pictures / "dark" / "link.png").symlink_to(next((pictures / "dark").glob("*.png")).name)
    shown = run("check", pictures)
    assert "1 file of another kind than image, not read: dark/drawing.svg" in shown.stdout and "1 link to files that" in shown.stdout
    assert shown.exit_code == 0 and "--skip-bad" not in shown.stderr


def test_copies_with_another_label_are_named_first(pictures: Path) -> None:
    first, *_, last = sorted((pictures / "dark").glob("*.png"))
    for number in range(4):
        (pictures / "dark" / f"copy {number}.png").write_bytes(last.read_bytes())
    (pictures / "bright" / "ünlike.png").write_bytes(first.read_bytes())
    equal = json.loads(run("check", pictures, "--json").stdout)["equal"]
    assert equal["copies"] == 5 and equal["other_label"] == 1 and equal["named"][0] == ["bright/ünlike.png", f"dark/{first.name}"]


def test_with_a_network(pictures: Path) -> None:
    facts = json.loads(run("check", pictures, TINY, "--json").stdout)
    assert sorted(facts["network"]["split"]) == ["holdout", "training", "validation"] and not facts["problems"]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    shown = run("check", tmp_path / "none", "timmm:x")
    assert shown.exit_code == 2 and "timmm" in shown.stderr and "do not exist" in shown.stderr


@pytest.mark.parametrize("form", ["npz", "npy", "folder"])
def test_arrays_go_from_adapt_to_evaluate_and_predict(form: str, tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(2, "softmax")]).save(tmp_path / "m.keras")
    labels = np.array(["a", "b"] * 12)
    rows = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32) + 3 * (labels == "a")[:, None]
    source = tmp_path / {"npz": "d.npz", "npy": "X.npy", "folder": "d"}[form]
    if form == "npz":
        np.savez(source, X=rows, y=labels)
    elif form == "npy":
        np.save(source, rows)
        np.save(tmp_path / "y.npy", labels)
    else:
        for at, row in enumerate(rows):
            (source / labels[at]).mkdir(parents=True, exist_ok=True)
            np.save(source / labels[at] / f"{at}.npy", row)
    out = tmp_path / "out"
    made = run("adapt", tmp_path / "m.keras", source, "--out", out, "--strategy", "probe", *SETTINGS)
    assert made.exit_code == 0, made.output
    judged = json.loads(run("evaluate", out, source, "--json").stdout)
    assert judged["examples"] == 24 and judged["accuracy"] > 0.9
    shown = run("predict", out, source)
    assert shown.exit_code == 0 and len(shown.stdout.splitlines()) == 25, shown.output
