"""Bad input: exit code 2, one message on stderr that names the file or value, nothing on stdout, no saved network."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import regraft
from regraft.cli import shared
from regraft.cli.commands import adaptation
from regraft.cli.commands.adaptation import value_of
from regraft.cli.guard import as_options

from .conftest import SETTINGS, TINY, run

pytestmark = pytest.mark.filterwarnings("always:The trained weights of:UserWarning")
HEAD = ["--strategy", "head", "--epochs", 1, *SETTINGS]


def refused(*arguments: object, code: int = 2) -> str:
    """Run a command that must fail, and return its one message."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    messages = [line for line in result.stderr.splitlines() if not line.startswith("Warning: ")]
    assert len(messages) == 1 and messages[0].startswith("Error: "), result.stderr
    return messages[0]


def refused_by_adapt(data: Path, out: Path, *options: object) -> str:
    """Run `adapt` on data that it must refuse; no network may be left behind."""
    message = refused("adapt", TINY, data, "--out", out, *HEAD, *options)
    assert not (out / "regraft.json").exists()
    return message


def test_a_corrupt_picture_is_named(pictures: Path, tmp_path: Path) -> None:
    (pictures / "dark" / "3.png").write_bytes(b"no picture")
    assert "dark/3.png" in refused_by_adapt(pictures, tmp_path / "out")


def test_skip_bad_goes_on_and_lists_what_was_left_out(pictures: Path, tmp_path: Path) -> None:
    (pictures / "dark" / "3.png").write_bytes(b"no picture")
    result = run("adapt", TINY, pictures, "--out", tmp_path / "out", "--skip-bad", *HEAD)
    assert result.exit_code == 0, result.output
    assert "1 of 16 examples cannot be used: dark/3.png" in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda folder: (folder / "empty").mkdir(), "'empty'"),
        (lambda folder: [path.unlink() for path in (folder / "dark").iterdir()] and (folder / "dark").rmdir(), "only one class: 'bright'"),
        (lambda folder: [path.unlink() for path in list((folder / "dark").iterdir())[1:]], "one example cannot be split: 'dark'"),
    ],
    ids=["an empty class", "one class", "a class with one example"],
)
def test_classes_that_cannot_be_learned(change: object, said: str, pictures: Path, tmp_path: Path) -> None:
    assert callable(change)
    change(pictures)
    assert said in refused_by_adapt(pictures, tmp_path / "out")


def test_labels_without_files_are_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("filename,label\nbright/0.png,a\nbright/77.png,b\n", encoding="utf-8")
    assert "bright/77.png" in refused_by_adapt(tmp_path / "train.csv", tmp_path / "out", "--files", pictures)


def test_labels_that_are_not_among_the_classes_are_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("bright\ngrey\n", encoding="utf-8")
    assert "'dark'" in refused_by_adapt(pictures, tmp_path / "out", "--classes", tmp_path / "classes.txt")


def test_missing_files_and_folders_are_named(pictures: Path, tmp_path: Path) -> None:
    assert "nowhere" in refused_by_adapt(tmp_path / "nowhere", tmp_path / "out")
    assert "nothing.keras" in refused("adapt", tmp_path / "nothing.keras", pictures, "--out", tmp_path / "out", *HEAD)
    assert "no_weights.pt" in refused("inspect", TINY, "--weights", tmp_path / "no_weights.pt")
    assert "names.txt" in refused("inspect", TINY, "--classes", tmp_path / "names.txt")
    assert "elsewhere" in refused("report", tmp_path / "elsewhere")
    assert "elsewhere" in refused("predict", tmp_path / "elsewhere", pictures)
    assert "'test_resnet'" in refused("inspect", "timm:test_resnett")


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (trap,))

    (tmp_path / "model.pt").write_bytes(pickle.dumps({"net": Trap()}))
    assert "model.pt" in refused("inspect", tmp_path / "model.pt")
    assert "model.pt" in refused("inspect", TINY, "--weights", tmp_path / "model.pt")
    assert not trap.exists()


def test_a_folder_that_cannot_be_written_is_named(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for command in (("adapt", TINY, pictures, *HEAD), ("demo",)):
        assert "file' cannot be written: it is a file. Choose another folder." in refused(*command, "--out", tmp_path / "file")
    assert str(tmp_path / "file") in refused_by_adapt(pictures, tmp_path / "file" / "out")


def test_a_finished_folder_is_not_overwritten(adapted: tuple[Path, Path, object]) -> None:
    folder, pictures, _ = adapted
    before = (folder / "regraft.json").read_bytes()
    message = refused("adapt", TINY, pictures, "--out", folder, *HEAD)
    assert str(folder) in message and "another folder with --out, or --no-resume to replace it" in message
    assert (folder / "regraft.json").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--set", "learning_rat=1"], "'learning_rate'"),
        (["--set", "epochs"], "NAME=VALUE"),
        (["--set", "out=x"], "'out' is not a setting"),
        (["--strategy", "hed"], "'head'"),
        (["--frozen", "3"], "--strategy partial"),
    ],
)
def test_settings_are_checked_before_anything_is_opened(options: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes(b"opened, this is an error of its own")
    (tmp_path / "photos").mkdir()
    assert said in refused("adapt", tmp_path / "net.keras", tmp_path / "photos", "--out", tmp_path / "out", *options)


def test_a_network_and_data_of_different_kinds(adapted: tuple[Path, Path, object], tmp_path: Path) -> None:
    folder, pictures, _ = adapted
    (tmp_path / "texts.csv").write_text("text,label\nhello,bright\nbye,dark\n", encoding="utf-8")
    assert "kind 'image'" in refused("evaluate", folder, tmp_path / "texts.csv", "--kind", "text")
    assert "kind 'image'" in refused("predict", folder, "--text", "hello")
    assert "FILES" in refused("predict", folder)
    (tmp_path / "broken.png").write_bytes(b"")
    assert "broken.png" in refused("predict", folder, tmp_path / "broken.png", pictures)
    assert "gone.png" in refused("predict", folder, tmp_path / "gone.png")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    assert "pip install 'regraft[vision,report]'" in refused("demo", "--quiet", "--out", tmp_path / "demo")


def test_an_unexpected_error_exits_with_1_and_points_to_debug(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("out of\nluck")

    monkeypatch.setattr(adaptation, "opened", broken)
    message = refused("adapt", TINY, tmp_path, "--out", tmp_path / "out", code=1)
    assert message == "Error: RuntimeError: out of luck. Run the same command with --debug to see where it happened."
    for arguments in (["--debug", "adapt", TINY, tmp_path, "--out", "o"], ["adapt", TINY, tmp_path, "--debug", "--out", "o"]):
        result = run(*arguments)
        assert result.exit_code == 1 and "Traceback" in result.stderr and "--debug" not in result.stderr.splitlines()[0]


def test_an_interruption_exits_with_130_and_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "opened", interrupted)
    for command in ("adapt", "search"):
        result = run(command, TINY, tmp_path, "--out", tmp_path / "out")
        assert result.exit_code == 130
        assert "the same command starts again" in result.stderr
    (tmp_path / "out" / "run").mkdir(parents=True)
    for name in ("run/head.pt", "run/full.pt", "study.sqlite3"):
        (tmp_path / "out" / name).touch()
    result = run("adapt", TINY, tmp_path, "--out", tmp_path / "out")
    assert "kept in" in result.stderr and "(full, head); the same command resumes from there" in result.stderr
    assert "Finished trials are kept" in run("search", TINY, tmp_path, "--out", tmp_path / "out").stderr
    for name in ("run/head.pt", "run/full.pt"):
        (tmp_path / "out" / name).unlink()
    (tmp_path / "out" / "regraft.json").touch()
    assert "contains a finished network" in run("adapt", TINY, tmp_path, "--out", tmp_path / "out").stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-3", 1e-3), ("none", None), ("True", True), ("[1, 2]", [1, 2]), ("sgd", "sgd"), ("layer3.0", "layer3.0"), ("", "")],
)
def test_words_of_the_command_line_become_values(text: str, value: object) -> None:
    assert value_of(text) == value


def test_a_file_that_is_no_picture_is_named(tmp_path: Path, adapted: tuple[Path, Path, object]) -> None:
    np.save(tmp_path / "five.npy", np.zeros((2, 24, 24, 5)))
    folder, _, _ = adapted
    assert "(24, 24, 5) is no picture with 3 channels" in refused("predict", folder, tmp_path / "five.npy")
    (tmp_path / "no.png").write_bytes(b"no picture")
    assert "no.png" in refused("predict", folder, tmp_path / "no.png")


def test_a_missing_extra_is_named_with_the_line_that_installs_it(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    result = run("adapt", TINY, pictures, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "pip install 'regraft[vision]'" in result.stderr
    assert not (tmp_path / "out" / "regraft.json").exists()


@pytest.mark.parametrize(
    ("words", "here"),
    [
        (("adapt", TINY, "photos", "--lr", "0.1"), "--learning-rate"),
        (("adapt", TINY, "photos", "--clipnorm", "1"), "--set clip_norm=…"),
        (("search", TINY, "photos", "--label-smoothing", "0.1"), "--set label_smoothing=…"),
        (("export", "folder", "network.onnx", "--preprocessing"), "--with-preprocessing"),
    ],
)
def test_an_option_of_another_tool_or_command_is_told_by_its_name_here(words: tuple[str, ...], here: str) -> None:
    result = run(*words)
    said = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == 2 and f"Here it is called '{here}'" in said and "Possible options" not in said


def test_an_option_that_other_commands_have_is_told_with_their_names() -> None:
    for words in (("profile", TINY, "photos", "--strategy", "head"), ("inspect", TINY, "--epochs", "3")):
        result = run(*words)
        assert result.exit_code == 2 and "It is an option of regraft adapt, search" in " ".join(result.stderr.replace("│", " ").split())


def test_a_space_is_json_or_a_file_of_it(pictures: Path, tmp_path: Path) -> None:
    for wrong, said in (
        ('{"views": [1', "is not valid JSON"),
        ("nowhere.json", "'nowhere.json' cannot be opened"),
        ('{"viws": [1]}', "viws"),
    ):
        assert said in refused("search", TINY, pictures, "--out", tmp_path / "out", "--space", wrong)


def test_the_version_as_option_attribute_and_module() -> None:
    told = subprocess.run([sys.executable, "-m", "regraft", "--version"], capture_output=True, text=True, check=True).stdout
    assert told == f"regraft {regraft.__version__}\n" == run("--version").stdout


def test_a_preprocessing_is_given_as_json_or_a_file_of_it(tmp_path: Path) -> None:
    (tmp_path / "how.json").write_text('{"kind": "image", "height": 40, "width": 48}', encoding="utf-8")
    for given in (tmp_path / "how.json", (tmp_path / "how.json").read_text()):
        assert "40x48" in run("inspect", TINY, "--preprocessing", given).stdout
    for wrong, said in (("{'kind': 1}", "is not valid JSON"), ("nowhere.json", "'nowhere.json' cannot be opened"), ('{"scal": 1}', "scal")):
        assert said in refused("inspect", TINY, "--preprocessing", wrong)


@pytest.mark.parametrize("library", ["keras", "torch"])
def test_a_file_of_weights_without_an_architecture_leads_to_the_option(library: str, tmp_path: Path) -> None:
    if library == "keras":
        import keras

        file = tmp_path / "own.weights.h5"
        keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]).save_weights(file)
    else:
        file = tmp_path / "own.safetensors"
        save_file({"0.weight": torch.zeros(2, 3)}, file)
    said = refused("inspect", file)
    assert "--architecture MODULE:NAME" in said and "regraft.load" not in said


def test_a_users_module_that_imports_keras_first_gets_the_torch_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_keras_net.py").write_text('import os\nassert os.environ["KERAS_BACKEND"] == "torch"\nmake = dict\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert shared._imported("own_keras_net:make") is dict
    assert os.environ.pop("KERAS_BACKEND") == "torch"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("No kind: give kind='text'.", "No kind: give --kind text."),
        ("Name them with fresh=; or leave it.", "Name them with --fresh; or leave it."),
        ("Call regraft.read(x, kind='text') and kind=.", "Call regraft.read(x, kind='text') and --kind."),
        ("epochs=2, refit=False", "--epochs 2, --refit false"),
    ],
)
def test_messages_name_options(message: str, said: str) -> None:
    assert as_options(message) == said
