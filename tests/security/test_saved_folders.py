"""Hostile saved folders of networks of a user's own class: nothing that lies in one is run, and no other file is read."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from tests.security.hostile_onnx import DAMAGED, HARMLESS, UNSAFE, Small, blown_up, doubled, parsed, raw_files, written
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.errors import NetworkError, UnsafeFileError
from regraft.networks.network import Coding
from regraft.networks.onnx import program
from regraft.networks.parts.code_files import write_code
from regraft.planning.profiling import Profile

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as regraft saves it, and beside the ONNX form a PyTorch program as earlier versions did."""
    torch.manual_seed(0)
    net = regraft.load(Small(), inputs=(6,), classes=["a", "b", "c"])
    folder = net.save(tmp_path_factory.mktemp("sound") / "net")
    net.export(folder / "network.pt2")
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    """A copy, with the working folder beside it."""
    return Path(shutil.copytree(sound, tmp_path / "net"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the user's that the folder has no business with."""
    path = tmp_path / "secret.bin"
    path.write_bytes(np.arange(30, dtype=np.float32).tobytes())
    return path


_OPENED: list[str] = []
_WATCHING = threading.local()


def _audit(event: str, given: tuple[Any, ...]) -> None:
    if event == "open" and getattr(_WATCHING, "on", False):
        _OPENED.append(os.fspath(given[0]) if isinstance(given[0], (str, os.PathLike)) else str(given[0]))


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Note the paths of all files that Python opens."""
    _OPENED.clear()
    _WATCHING.on = True
    try:
        yield _OPENED
    finally:
        _WATCHING.on = False


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the engine has been given."""
    given, session = list[bytes](), onnxruntime.InferenceSession

    def noting(content: bytes, *more: Any, **named: Any) -> Any:
        given.append(content)
        return session(content, *more, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noting)
    return given


def refused_everywhere(folder: Path, expected: type[Exception], *, words: str = "") -> None:
    """See that loading raises one error, and that the commands end with one message and no traceback."""
    np.save(folder.parent / "items.npy", X)
    with pytest.raises(expected, match=words) as caught:
        regraft.load(folder)
    assert str(folder) in str(caught.value) or "ONNX" in str(caught.value)
    for command in (["inspect", folder], ["predict", folder, folder.parent / "items.npy"]):
        result = CliRunner().invoke(app, [str(word) for word in command])
        assert result.exit_code == 2 and "Traceback" not in result.output and not result.stdout, result.output
        assert result.stderr.startswith("Error: ") and len(result.stderr.strip().splitlines()) == 1


# ── PyTorch programs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class Touching:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def rewritten(path: Path, changes: dict[str, Callable[[bytes], bytes]], more: dict[str, bytes] | None = None) -> None:
    """Change entries of an archive, by the end of their names, and add others."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).partition("/")[0]
    for ending, change in changes.items():
        (name,) = (name for name in entries if name.endswith(ending))
        entries[name] = change(entries[name])
    entries |= {f"{root}/{name}": content for name, content in (more or {}).items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def pickled_constant(path: Path, marker: Path) -> None:
    """A constant whose entry says `"use_pickle": 1`, which is not the text `"use_pickle": true`."""
    entry = {"path_name": "tensor_0", "is_param": False, "use_pickle": 1, "tensor_meta": None}
    config = json.dumps({"config": {"evil": entry}}).encode()
    changes = {"model_constants_config.json": lambda _old: config}
    rewritten(path, changes, {"data/constants/tensor_0": pickled(marker)})


def pickled(marker: Path) -> bytes:
    """What `torch.load` unpickles, in the form from before it wrote archives."""
    return b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}, Touching(marker), []))


def pickled_weight(path: Path, marker: Path) -> None:
    def change(old: bytes) -> bytes:
        plain = json.loads(old)
        plain["config"]["low.bias"]["use_pickle"] = 2
        plain["config"]["low.bias"]["path_name"] = "weight_9"
        return json.dumps(plain).encode()

    rewritten(path, {"model_weights_config.json": change}, {"data/weights/weight_9": pickled(marker)})


def input_expression(path: Path, marker: Path) -> None:
    """A name of an input that is an expression: it is written into source that is run."""
    name = f"x=__import__('os').mkdir('{marker}')"

    def change(old: bytes) -> bytes:
        return old.replace(b'{"name": "x"}', json.dumps({"name": name}).encode()).replace(b'"x"', json.dumps(name).encode())

    rewritten(path, {"models/model.json": change})


def imported_enum(path: Path, marker: Path) -> None:
    """A constant of an enum of any module, which is imported: here one that lies in the folder."""
    (path.parent / "helpers_of_mine.py").write_text(f"open({str(marker)!r}, 'w').close()\nimport enum\nclass A(enum.Enum):\n    b = 1\n")

    def change(old: bytes) -> bytes:
        plain = json.loads(old)
        for entry in plain["graph_module"]["module_call_graph"]:
            if entry.get("signature"):
                context = json.dumps([{"__enum__": True, "fqn": "helpers_of_mine:A", "name": "b"}])
                spec = json.loads(entry["signature"]["in_spec"])
                spec[1]["children_spec"][1]["context"] = context
                entry["signature"]["in_spec"] = json.dumps(spec)
        return json.dumps(plain).encode()

    rewritten(path, {"models/model.json": change})


def size_expression(path: Path, marker: Path) -> None:
    """A size that is no arithmetic, evaluated by sympy."""

    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            evil = f"__import__('pathlib').Path({str(marker)!r}).touch()"
            return {key: evil if key == "expr_str" else poison(part) for key, part in value.items()}
        return [poison(part) for part in value] if isinstance(value, list) else value

    rewritten(path, {"models/model.json": lambda old: json.dumps(poison(json.loads(old))).encode()})


ATTACKS = {attack.__name__: attack for attack in (pickled_constant, pickled_weight, input_expression, imported_enum, size_expression)}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_program_in_a_folder_is_not_opened(attack: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    ATTACKS[attack](folder / "network.pt2", marker)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    with watched() as opened:
        assert regraft.load(folder).predict(X).labels  # the ONNX form beside it is enough
        (folder / "network.onnx").unlink()
        refused_everywhere(folder, UnsafeFileError, words=r"runs code .* never opened .*architecture=Small")
        with pytest.raises(UnsafeFileError, match=r"runs code .* trust=True"):
            regraft.load(folder / "network.pt2")
        (folder / "network.safetensors").unlink()
        refused_everywhere(folder, UnsafeFileError, words=r"weights are in network.pt2 alone.*trust=True")
    assert not any(path.endswith(".pt2") for path in opened)
    assert not marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_are_real(attack: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `trust=True` means; where a version of PyTorch has closed one of the ways, there is nothing to see."""
    marker = tmp_path / "ran"
    ATTACKS[attack](folder / "network.pt2", marker)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "helpers_of_mine", raising=False)
    with contextlib.suppress(NetworkError):
        regraft.load(folder / "network.pt2", trust=True)
    if not marker.exists():
        pytest.skip(f"PyTorch {torch.__version__} does not run it")


@pytest.mark.parametrize("command", ["inspect", "predict"])
def test_the_commands_open_a_program_on_trust_alone(command: str, folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "items.npy", X)
    words = [command, str(folder / "network.pt2"), *([str(tmp_path / "items.npy")] if command == "predict" else [])]
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2 and "--trust" in refused.stderr
    assert CliRunner().invoke(app, [*words, "--trust"]).exit_code == 0


# ── ONNX forms ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def unchecked(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _facts: None) -> None:
    """Change `regraft.json`, and take the checksums out of it: whoever makes a hostile folder leaves none that would tell."""
    facts = json.loads((folder / "regraft.json").read_text(encoding="utf-8"))
    facts.pop("files")
    change(facts)
    (folder / "regraft.json").write_text(json.dumps(facts), encoding="utf-8")


def changed(folder: Path, change: Callable[[Any, Path], None], path: Path) -> None:
    unchecked(folder)
    model = parsed((folder / "network.onnx").read_bytes())
    change(model, path)
    (folder / "network.onnx").write_bytes(written(model))


@pytest.mark.parametrize("name", UNSAFE)
def test_what_reaches_out_of_the_file_is_unsafe(name: str, folder: Path, secret: Path, engine: list[bytes]) -> None:
    changed(folder, UNSAFE[name], secret)
    shutil.copy(secret, folder / secret.name)
    with watched() as opened:
        refused_everywhere(folder, UnsafeFileError, words=r"not opened.*architecture=")
    assert not engine, "no engine has seen it"
    assert not any(path.endswith(secret.name) for path in opened)


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_run_is_one_error(name: str, folder: Path, secret: Path) -> None:
    changed(folder, DAMAGED[name], secret)
    refused_everywhere(folder, NetworkError)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_an_engine_might_obey_is_left_out(
    name: str, folder: Path, secret: Path, engine: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    monkeypatch.chdir(folder)
    expected = regraft.load(folder).logits(X)
    before = sorted(path.name for path in folder.iterdir())
    changed(folder, HARMLESS[name], secret)
    assert np.array_equal(regraft.load(folder).logits(X), expected)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert b"ort_config" not in engine[-1]


def test_bytes_that_are_no_model(folder: Path, engine: list[bytes]) -> None:
    unchecked(folder)
    for content in raw_files((folder / "network.onnx").read_bytes()).values():
        (folder / "network.onnx").write_bytes(content)
        with pytest.raises(NetworkError, match="architecture=Small"):
            regraft.load(folder)
    assert not engine


LINKED = ["regraft.json", "network.onnx", "network.safetensors", "history.jsonl", "statistics.safetensors", "codes"]


@pytest.mark.parametrize("name", LINKED)
def test_a_link_out_of_the_folder_is_not_followed(name: str, folder: Path, tmp_path: Path) -> None:
    unchecked(folder)
    elsewhere = tmp_path / "elsewhere"
    (folder / name).rename(elsewhere) if (folder / name).exists() else elsewhere.mkdir()
    (folder / name).symlink_to(elsewhere)
    refused_everywhere(folder, UnsafeFileError, words="is a link out of the folder")


def test_a_code_file_that_is_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """Not even where it would be one of this network; a link within the folder is."""
    net = regraft.load(Small(), inputs=(6,), classes=["a", "b", "c"]).coded(Coding(4, ("ann", "bob")))
    folder = net.save(tmp_path / "net")
    path = write_code(net, folder, condition="bob")
    regraft.load(folder)
    for place, refused in ((folder / "elsewhere", False), (tmp_path / "elsewhere", True)):
        path.rename(place)
        path.symlink_to(place)
        if refused:
            refused_everywhere(folder, UnsafeFileError, words="is a link out of the folder")
        else:
            regraft.load(folder)
        path.unlink()
        place.rename(path)


def test_a_profile_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "profile.json").write_text("{}")
    (tmp_path / "measured").mkdir()
    (tmp_path / "measured" / "profile.json").symlink_to(tmp_path / "profile.json")
    with pytest.raises(UnsafeFileError, match="is a link out of the folder"):
        Profile.load(tmp_path / "measured")


def test_a_report_that_is_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    (folder / "report.json").symlink_to(tmp_path / "report.json")
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 2 and "is a link out of the folder" in result.stderr


def test_what_the_engine_refuses_is_not_tried_in_another_way(folder: Path, secret: Path) -> None:
    changed(folder, lambda model, _path: model.graph.node[-1].attribute.add(name="Q" * 9, type=2, i=1), secret)
    content = (folder / "network.onnx").read_bytes()
    assert content.count(b"Q" * 9) == 1
    (folder / "network.onnx").write_bytes(content.replace(b"Q" * 9, b"\xff" * 9))  # an error on which the engine falls back
    refused_everywhere(folder, NetworkError)


def test_fields_that_only_the_engine_knows_are_dropped(folder: Path, engine: list[bytes]) -> None:
    unchecked(folder)
    (folder / "network.onnx").write_bytes((folder / "network.onnx").read_bytes() + b"\xfa\x3f\x07unknown")
    regraft.load(folder)
    assert b"unknown" not in engine[-1]


def test_what_is_no_regular_file_and_what_is_too_large(folder: Path) -> None:
    unchecked(folder)
    path = folder / "network.onnx"
    with path.open("r+b") as file:
        file.truncate(3 * 2**30)  # a hole: takes no room
    refused_everywhere(folder, NetworkError, words="3,072 MiB")
    path.unlink()
    os.mkfifo(path)
    refused_everywhere(folder, NetworkError)
    path.unlink()
    path.symlink_to("/dev/zero")
    refused_everywhere(folder, NetworkError)


def test_a_network_that_takes_too_long_is_stopped(folder: Path, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(model: Any, _path: Path) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array([1500, 1500], np.int64), "side"))
        nodes = [helper.make_node("ConstantOfShape", ["side"], ["m0"])]
        nodes += [helper.make_node("MatMul", [f"m{n}", "m0"], [f"m{n + 1}"]) for n in range(2000)]
        nodes += [helper.make_node("ReduceSum", ["m2000"], ["one"], keepdims=0), helper.make_node("Add", ["logits.0", "one"], ["late"])]
        model.graph.node.extend(nodes)
        model.graph.output[0].name = "late"

    monkeypatch.setattr(program, "_LONGEST_TRIAL", 0.5)
    changed(folder, slow, secret)
    with pytest.raises(NetworkError, match="was stopped"):
        regraft.load(folder)


_IN_LITTLE_MEMORY = """
import sys
import regraft
from regraft.networks.parts.code_files import write_code
from regraft.networks.onnx import session
from regraft.planning.profiling import Profile
session.memory = lambda: 2**29
for folder in sys.argv[1:]:
    try:
        regraft.load(folder)
    except regraft.RegraftError as error:
        print(type(error).__name__, error)
"""


def test_memory_is_limited_before_it_is_taken(folder: Path, secret: Path) -> None:
    """In a process of its own: the limit holds for all of a process."""
    other = Path(shutil.copytree(folder, folder.with_name("other")))
    changed(folder, blown_up(2**30), secret)
    changed(other, doubled, secret)
    command = [sys.executable, "-c", _IN_LITTLE_MEMORY, str(folder), str(other)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["NetworkError"] * 2, done.stderr
    assert done.stdout.count("cannot be run on inputs of the shape [2, 6]") == 2


# ── the two files do not belong together ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "told"), [("rows", 10**12), ("rows", 2), ("features", 10**12), ("features", 4)], ids=lambda value: str(value)
)
def test_sizes_that_the_network_does_not_have(key: str, told: int, folder: Path) -> None:
    unchecked(folder, lambda facts: facts["heads"][0].update({key: told}))
    refused_everywhere(folder, NetworkError)


def _grouped(groups: list[list[int]]) -> Callable[[dict[str, Any]], Any]:
    """Add a head that sums probabilities of the first one."""
    more = {"task": "more", "rows": len(groups), "classes": ["x", "y", "z"][: len(groups)], "groups": groups}
    return lambda facts: facts["heads"].append({**facts["heads"][0], **more})


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (lambda facts: facts["heads"][0].update(parts=[1, 1]), "parts of 2 rows for 3 rows"),
        (lambda facts: facts["heads"][0].update(binary=True), "a binary head of the kind 'classification' with 3 rows"),
        (lambda facts: facts["heads"][0].update(rows=2**20, features=2**20, classes=None), "1048576 rows of 1048576 features"),
        (lambda facts: facts["heads"].append(facts["heads"][0]), "tasks .* that are not different"),
        (_grouped([[0, 1], [1]]), "2 groups without names, or that have rows in common"),
        (_grouped([[0], [7]]), "groups of rows that the first head, of 3 rows, does not have"),
        (lambda facts: facts["network"].update(open={"": [None, 3]}), "open axes .* whose examples have the shape"),
        (lambda facts: facts["network"].pop("origin"), "a PyTorch network without 'origin' or 'sample'"),
    ],
    ids=["parts", "binary", "size", "tasks", "common rows", "unknown rows", "open axes", "origin"],
)
def test_facts_that_contradict_each_other(told: Callable[[dict[str, Any]], Any], words: str, folder: Path) -> None:
    unchecked(folder, told)
    with pytest.raises(NetworkError, match=words):
        regraft.load(folder)


def test_a_table_of_codes_that_is_another_tensor(tmp_path: Path) -> None:
    net = regraft.load(Small(), inputs=(6,), classes=["a", "b", "c"]).coded(Coding(4, ("ann", "bob")))
    folder = net.save(tmp_path / "net")
    assert regraft.load(folder).coding == net.coding
    facts = (folder / "regraft.json").read_bytes()
    for name in (None, "module.network.fc.weight", "nothing"):
        (folder / "regraft.json").write_bytes(facts)
        unchecked(folder, lambda facts, name=name: facts["network"].update(codes=name))
        with pytest.raises(NetworkError, match=r"holds no table of codes.*architecture=Small"):
            regraft.load(folder)
