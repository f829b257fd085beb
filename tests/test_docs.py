"""The examples in the documentation run."""

from __future__ import annotations

import glob
import itertools
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import condition_examples
from typer.main import get_command
from typer.testing import CliRunner

import regraft
from regraft.cli import app

HOME = Path(__file__).parents[1]
FOLDERS = [HOME / "docs", HOME / "docs" / "tasks", HOME / "docs" / "examples"]
PAGES = [HOME / "README.md", *(page for folder in FOLDERS for page in sorted(folder.glob("*.md")))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_python_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in re.findall(r"```python\n(.+?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(example, str(path), "exec"), {})


def _readme(folder: Path) -> dict[str, Any]:
    """Return what the fragments of the README expect to be there: networks, arrays, and folders of pictures."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers, draw = keras.layers, np.random.default_rng(0)

    def speakers(count: int) -> Any:
        return keras.Sequential(
            [keras.Input((8, 6, 1)), layers.Conv2D(4, 3, name="conv"), layers.Flatten(), layers.Dense(count, name=f"of_{count}")]
        )

    speakers(40).save_weights(folder / "forty_speakers.weights.h5")
    names = ["bus", "tram", "bicycle", "scooter"]
    for name in ["more_photos/" + each for each in names] + ["unlabelled"]:
        (folder / name).mkdir(parents=True)
        for at in range(3):
            Image.fromarray(draw.integers(0, 256, (6, 6), dtype=np.uint8)).save(folder / name / f"{at}.png")
    seen = keras.Input((6, 6, 1))
    vehicles = keras.Model(seen, layers.Dense(2, name="head")(layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(seen))))
    main, aux = keras.Input((5,), name="main_input"), keras.Input((1,), name="aux_input")
    both = layers.Dense(6, activation="relu")(layers.Concatenate()([main, aux]))
    outputs = [layers.Dense(3, activation="softmax", name="main_output")(both), layers.Dense(1, name="aux_output")(both)]
    anna = condition_examples.items(("anna",), each=10)
    return {
        "my_keras_model_with_15_classes": speakers(15),
        "mfcc_pictures": draw.normal(size=(60, 8, 6, 1)).astype("float32"),
        "speaker_names": np.array([f"speaker {at % 15}" for at in range(60)]),
        "vehicles": regraft.load(
            vehicles, classes=["autocar", "tram"], preprocessing={"kind": "image", "height": 6, "width": 6, "channels": 1}
        ),
        "classes": names,
        "pictures": draw.normal(size=(6, 6, 6, 1)).astype("float32"),
        "labels": ["scooter"] * 6,
        "model": keras.Model([main, aux], outputs),
        "headlines": draw.normal(size=(12, 5)).astype("float32"),
        "hours": draw.normal(size=(12, 1)).astype("float32"),
        "section": ["sport", "art", "science"] * 4,
        "clicks": draw.normal(size=12),
        "spoken": condition_examples.coded("torch"),
        "ten_recordings_of_anna": (np.asarray(anna.items), np.array(anna.classes)[anna.targets]),
        "module": torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)),
        "X": draw.normal(size=(20, 4)).astype("float32"),
        "y": np.arange(20) % 2,
    }


def _search(folder: Path) -> dict[str, Any]:
    """Return what the fragment of docs/search.md expects."""

    def build(activation: str, units: int) -> Any:
        kind = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[activation]
        return regraft.load(torch.nn.Sequential(torch.nn.Linear(4, units), kind(), torch.nn.Linear(units, 2)), inputs=(4,))

    rows = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    return {"build": build, "data": (rows, np.where(rows.sum(1) > 0, "a", "b"))}


FRAGMENTS = {"README": _readme, "search": _search}
"""Pages with blocks of `py`, and what these are given; those with addresses and clusters run in tests/data and tests/scale."""


def test_every_fragment_has_a_test_that_runs_it() -> None:
    found = {page.stem for page in PAGES if "```py\n" in page.read_text(encoding="utf-8")}
    assert found == {*FRAGMENTS, "data", "scale"}


@pytest.mark.slow
@pytest.mark.parametrize("page", FRAGMENTS)
def test_fragments_run_with_a_users_own_files(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = [path for path in PAGES if path.stem == page]
    given = {"os": os, "regraft": regraft, **FRAGMENTS[page](tmp_path)}
    for example in re.findall(r"```py\n(.+?)```", path.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(example, str(path), "exec"), given)
    if page == "README":
        assert given["wider"].classes == ("bus", "tram", "bicycle", "scooter")
    else:
        assert given["study"].scores["holdout"]["examples"] == 8


def _picture(path: Path, at: int, draw: np.random.Generator) -> None:
    """Write a noisy picture whose colour tells the class `at`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = draw.normal(90, 25, (12, 12, 3))
    pixels[..., at % 3] += 70
    Image.fromarray(pixels.clip(0, 255).astype("uint8")).save(path)


def _users_folder(folder: Path) -> None:
    """Write what the commands of the README name: a network, folders and a table of pictures, detectors, and recordings of a speaker."""
    keras, draw = pytest.importorskip("keras"), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    layers, plain = keras.layers, {"kind": "image", "height": 12, "width": 12}

    def opened(outputs: int, activation: str) -> regraft.Network:
        body = [layers.Conv2D(6, 3, activation="relu"), layers.Conv2D(6, 3, activation="relu"), layers.GlobalAveragePooling2D()]
        stack = [keras.Input((12, 12, 3)), *body, layers.Dense(outputs, activation)]
        return regraft.load(keras.Sequential(stack), preprocessing=plain)

    opened(4, "softmax").save(folder / "NETWORK")
    for name in ("cat", "dog"):
        opened(1, "sigmoid").save(folder / name)
    for at, name in enumerate(("cat", "dog", "horse")):
        for each in range(8):
            _picture(folder / "photos" / name / f"{each}.jpg", at, draw)
            _picture(folder / "more_photos" / name / f"{each}.jpg", at, draw)
            _picture(folder / "photos_of_new_classes" / f"new {name}" / f"{each}.jpg", at + 1, draw)
            if name != "horse":
                _picture(folder / "cats_and_dogs" / name / f"{each}.jpg", at, draw)
            _picture(folder / "images" / f"{name}{each}.png", at, draw)
    lines = [f"{name}{each}.png,{name},{name}{each // 2}" for name in ("cat", "dog", "horse") for each in range(8)]
    (folder / "train.csv").write_text("\n".join(["file,label,patient", *lines]) + "\n", encoding="utf-8")
    condition_examples.coded("keras").save(folder / "spoken")
    anna = condition_examples.items(("anna",), each=9)
    rows = [",".join(map(str, [*row, anna.classes[target]])) for row, target in zip(np.asarray(anna.items), anna.targets, strict=True)]
    (folder / "anna.csv").write_text("\n".join(["a,b,c,d,e,f,label", *rows]) + "\n", encoding="utf-8")
    dense = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    regraft.load(dense, inputs=(4,)).export(folder / "other.onnx")


def _of_conditions(folder: Path) -> None:
    """Write recordings of words by several speakers, and an untrained network of spectrograms."""
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    body = [layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(24, "tanh"), layers.Dense(2, "softmax")]
    keras.Sequential([keras.Input((32, 24, 1)), *body]).save(folder / "words.keras")
    speakers = {"ada": 1.0, "ben": 1.3, "cleo": 1.7, "anna": 1.5, "eva": 1.1, "finn": 1.9}
    tables = {"recordings": ("ada", "ben", "cleo"), "test": ("ada", "ben"), "anna": ("anna",), "annas": ("anna",), "new": ("eva", "finn")}
    for table, names in tables.items():
        lines = ["file,word,speaker"]
        for name, each in itertools.product(names, range(8)):
            word, file = ("yes", "no")[each % 2], f"{table}_{name}{each}.wav"
            _sound(folder / file, speakers[name] * (300 + 500 * (each % 2)), each)
            lines.append(f"{file},{word},{name}")
        (folder / f"{table}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _sound(folder / "new.wav", 500, 0)


def _sound(path: Path, pitch: float, at: int) -> None:
    """Write half a second of a noisy tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(8000) / 16000
    wave = 0.5 * np.sin(2 * np.pi * pitch * time) + 0.02 * np.random.default_rng(at).normal(size=len(time))
    pytest.importorskip("soundfile").write(path, wave, 16000)


def _of_weights_file(folder: Path) -> None:
    from safetensors.torch import save_file

    body = "nn.Conv1d(13, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten()"
    (folder / "mine.py").write_text(f"from torch import nn\n\ndef voices():\n    return nn.Sequential({body}, nn.Linear(16, 2))\n")
    layers = {"0": torch.nn.Conv1d(13, 16, 3), "4": torch.nn.Linear(16, 40)}
    save_file(
        {f"{at}.{name}": value for at, layer in layers.items() for name, value in layer.state_dict().items()},
        folder / "forty_speakers.safetensors",
    )
    for (at, name), each in itertools.product(enumerate(("anna", "ben")), range(8)):
        _sound(folder / "voices" / name / f"{each}.wav", 300 + 400 * at, each)


def _of_text(folder: Path) -> None:
    """Let the page's own example make its network, elsewhere: the command saves to the same name."""
    (example,) = re.findall(r"```python\n(.+?)```", (HOME / "docs" / "tasks" / "text.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    (folder / "example").mkdir()
    os.chdir(folder / "example")
    exec(compile(example, "text.md", "exec"), {})
    os.chdir(folder)
    (folder / "example" / "my-bert").rename(folder / "my-bert")
    texts = {"traffic": ("the bus is late", "the tram is late"), "sport": ("the team wins", "the team wins the match")}
    lines = [f"{text},{section}" for section, both in texts.items() for text in both] * 6
    (folder / "titles.csv").write_text("\n".join(["title,section", *lines]) + "\n", encoding="utf-8")
    (folder / "new_titles.csv").write_text("title\nthe bus is late\nthe team wins\n", encoding="utf-8")


def _of_feature_extraction(folder: Path) -> None:
    keras, draw = pytest.importorskip("keras"), np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    body = [keras.layers.Conv2D(6, 3, activation="relu"), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5, "softmax")]
    keras.Sequential([keras.Input((12, 12, 3)), *body]).save(folder / "network.keras")
    lines = ["file,digit"]
    for at, each in itertools.product(range(3), range(8)):
        _picture(folder / "pictures" / f"{at}{each}.png", at, draw)
        _picture(folder / "new_pictures" / f"{at}{each}.png", at, draw)
        lines.append(f"{at}{each}.png,digit {at + 5}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


PREPARED = {
    "README": _users_folder,
    "conditions": _of_conditions,
    "text": _of_text,
    "weights_file": _of_weights_file,
    "feature_extraction": _of_feature_extraction,
}
"""Page -> function that writes the files that its commands name; those of docs/scale.md run in tests/scale, on a cluster."""


def run_commands(page: str) -> None:
    """Run the commands of a page one after the other, in the working folder, but for those with weights that are fetched."""
    for line in (line for name, line in _command_lines() if name == page and "timm:" not in line):
        words = shlex.split(re.sub(r"--trials \d+", "--trials 2", line.partition(" #")[0]))
        found = [name for word in words[1:] for name in (sorted(glob.glob(word)) if "*" in word else [word])]
        done = CliRunner().invoke(app, found)
        assert done.exit_code == 0, f"{line}\n{done.output}"


@pytest.mark.slow
@pytest.mark.parametrize("page", PREPARED)
def test_commands_of_a_page_run_one_after_the_other(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    PREPARED[page](tmp_path)
    run_commands(page)
    made = {
        "README": ("look/profile.html", "wider/report.html", "both/regraft.json", "deep/plan.json", "study/study.json", "network.pmml"),
        "conditions": ("words/codes/anna.safetensors", "words/codes/finn.safetensors", "anna.keras"),
    }
    for name in made.get(page, ("adapted/report.html",)):
        assert (tmp_path / name).is_file(), name


def _command_lines() -> list[tuple[str, str]]:
    """Return (page, line) of every command in a block of the documentation, examples of what a command prints left out."""
    pages = [*PAGES, *sorted((HOME / "docs" / "methods").glob("*.md")), HOME / "SECURITY.md"]
    found = []
    for page in pages:
        inside = ""
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
            if line.lstrip().startswith("```"):
                inside = "" if inside else line.strip()
            elif inside in ("```", "```sh", "```bash", "```console") and line.strip().removeprefix("$ ").startswith("regraft "):
                found.append((page.stem, line.strip().removeprefix("$ ")))
    return found


def test_every_page_with_commands_has_a_test_that_runs_them() -> None:
    assert {page for page, _ in _command_lines()} == {*PREPARED, "scale"}


@pytest.mark.parametrize(("page", "line"), _command_lines())
def test_commands_are_ones_that_the_program_has(page: str, line: str) -> None:
    """Their arguments are parsed, and nothing is run."""
    name, *words = shlex.split(line.partition(" #")[0])[1:]
    program = get_command(app)
    if name.startswith("--"):
        assert name in {option for one in program.params for option in one.opts} | {"--install-completion", "--show-completion"}
        return
    command = program.commands[name]  # type: ignore[attr-defined]  # of a group
    context = command.make_context(name, words)
    if hasattr(command, "commands"):
        assert words[0] in command.commands and command.commands[words[0]].make_context(words[0], words[1:])
    assert context.info_name == name
