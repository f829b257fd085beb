"""Names of files and classes that are not UTF-8 go through training, saving, opening and predicting unchanged."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import regraft
from regraft.cli import app

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names are any bytes on Linux alone")

LATIN, THE_FILE = os.fsdecode(b"caf\xe9"), os.fsdecode(b"fa\xe7ade.png")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(x)).mean(dim=(2, 3)))


def make() -> nn.Module:
    """Return the network that the commands are given as --architecture."""
    torch.manual_seed(0)
    return Small()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number, name in enumerate((LATIN, "plain")):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for index in range(8):
            pixels = generator.normal(40 + 170 * number, 12, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / (THE_FILE if index == 0 else f"{index}.png"))
    return tmp_path / "pictures"


@pytest.mark.usefixtures("without_onnx_form")
def test_a_folder_of_latin_names_from_reading_to_predicting(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    data = regraft.read(pictures)
    assert data.classes == (LATIN, "plain") and f"{LATIN}/{THE_FILE}" in data.names
    net = regraft.load(make(), inputs=(3, 8, 8))
    result = regraft.adapt(net, data, strategy="head", epochs=2, cache="memory", device="cpu", out=tmp_path / "out")
    assert result.network.classes == (LATIN, "plain")
    opened = regraft.load(tmp_path / "out", architecture=make())
    assert opened.classes == (LATIN, "plain")
    assert LATIN in opened.predict(data).classes
    words = ["--architecture", f"{Path(__file__).stem}:make", "--probabilities"]
    shown = CliRunner().invoke(app, ["predict", str(tmp_path / "out"), str(pictures), *words])
    assert shown.exit_code == 0 and "caf\\udce9/fa\\udce7ade.png" in shown.stdout and "p(caf\\udce9)" in shown.stdout
    lines = CliRunner().invoke(app, ["predict", str(tmp_path / "out"), str(pictures), *words, "--format", "jsonl"])
    found = [json.loads(line) for line in lines.stdout.splitlines()]
    assert str(pictures / LATIN / THE_FILE) in {line["file"] for line in found} and LATIN in found[0]["probabilities"]
    raw = CliRunner().invoke(app, ["predict", str(tmp_path / "out"), str(pictures), *words, "--raw-cells"])
    assert b"caf\xe9/fa\xe7ade.png" in raw.stdout_bytes
    assert CliRunner().invoke(app, ["report", str(tmp_path / "out")]).exit_code == 0


@pytest.mark.parametrize("where", ["label", "group", "condition", "column"])
def test_lone_surrogates_in_what_stands_beside_the_items(where: str) -> None:
    words, count = [LATIN, "\ud800x", "plain"], 12
    given = {"group": words * 4} if where == "group" else {"condition": words * 4} if where == "condition" else {}
    given |= {"columns": {LATIN: np.arange(count, dtype=float)}} if where == "column" else {}
    labels = words * 4 if where == "label" else ["a", "b"] * 6
    data = regraft.read((np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32), labels), **given)
    held = {"label": data.classes, "group": data.groups, "condition": data.conditions, "column": data.column_names}[where]
    assert LATIN in list(held) and len({data.digest(index) for index in range(count)}) == count
