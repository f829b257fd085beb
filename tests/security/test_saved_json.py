"""JSON that regraft reads back, with any value replaced or deleted: what it stands for, or one error that names the file or its folder."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples

import regraft
from regraft.errors import DataError, InputError, NetworkError, RegraftError, SettingError
from regraft.planning import Plan
from regraft.planning.profiling import Profile
from regraft.report import read_facts, write_report

QUICK = {"epochs": 1, "learning_rate": 0.01, "cache": "memory", "batch_size": 16}
DELETED = object()
VALUES = [
    *(DELETED, None, True, False, 0, -1, 1, 2, 7, 2**31, 2**70, 10**400, 0.0, -0.5, 0.5, 1e-320, 1e308, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "/etc/hostname", "a\0b", "\udce9", "__import__('os')", "timm:nothing", "hf:nobody/nothing"),
    *([], [None], [0], [[0]], ["x"], [1, 2, 3], {}, {"x": 1}, {"": None}),
]
"""What a value is replaced by."""
FEW = 50
"""Changes of a file in the quick tests, drawn out of all its places and values."""
STEP = 7
"""Of all places and values, one after the other, the slow tests take every seventh: with 37 values, each place gets five or six."""


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value at any depth; of long lists the first two, the middle and the last."""
    if at:
        yield at
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys if isinstance(value, dict) or len(keys) < 5 else [0, 1, len(keys) // 2, len(keys) - 1]:
        yield from _places(value[key], (*at, key))


def _changed(content: Any, at: tuple[Any, ...], value: Any) -> Any:
    twin = json.loads(json.dumps(content))
    holder = twin
    for key in at[:-1]:
        holder = holder[key]
    if value is DELETED:
        del holder[at[-1]]
    else:
        holder[at[-1]] = value
    return twin


def _mutations(content: Any, most: int | None) -> Iterator[tuple[str, Any]]:
    every = [(at, value) for at in _places(content) for value in VALUES]
    for at, value in every[::STEP] if most is None else random.Random(0).sample(every, min(most, len(every))):
        yield f"{'.'.join(map(str, at))} = {'deleted' if value is DELETED else repr(value)[:40]}", _changed(content, at, value)


def _check(path: Path, use: Callable[[], None], *, error: type[RegraftError], names: str, most: int | None = FEW) -> None:
    """Change the JSON in a file in `most` ways (None: in every place) and use it: nothing may be raised but one error with a name in it.

    A file of JSON lines is changed in its first line.
    """
    text, faults, worked, refused = path.read_text(encoding="utf-8"), [], 0, 0
    lines = path.suffix == ".jsonl"
    first, rest = text.split("\n", 1) if lines else (text, "")
    for told, changed in _mutations([json.loads(first)] if lines else json.loads(first), most):
        path.write_text("\n".join(map(json.dumps, changed)) + "\n" + rest if lines else json.dumps(changed), encoding="utf-8")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use()
            worked += 1
        except error as problem:
            refused += 1
            said = str(problem)
            if names not in said or "\0" in said or len(said) > 2000:
                faults.append(f"{told}: {said[:300]}")
        except Exception as problem:
            faults.append(f"{told}: {type(problem).__name__}: {str(problem)[:200]}")
    path.write_text(text, encoding="utf-8")
    assert not faults, f"{len(faults)} of {worked + refused + len(faults)}, such as:\n" + "\n".join(faults[:40])
    assert worked and refused


# ── regraft.json ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _torch(folder: Path) -> tuple[Any, np.ndarray]:
    """A user's own class: pictures, several heads, one of them derived, edits, a rule for unknown items, a history."""
    torch.manual_seed(0)
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8), preprocessing={"kind": "image", "height": 8, "width": 8, "channels": 1})
    pictures, labels = examples.pictures(60)
    result = regraft.adapt(net, (pictures, labels), strategy="probe", **QUICK)
    network = regraft.branch(result.network, "two", ["p", "q"])
    network = regraft.branch(network, "grouped", groups={"first": ["class 0"], "rest": ["class 1", "class 2"]})
    network.unknown, network.statistics, network.history = result.network.unknown, result.network.statistics, ({"epoch": 1, "stage": "x"},)
    network.save(folder)
    return examples.Cnn, pictures[:5]


def _keras(folder: Path) -> tuple[Any, np.ndarray]:
    """A Keras model: arrays with mean and deviation, two heads."""
    from regraft.networks.keras.library import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu", name="low"), layers.Dense(3, name="out")])
    items = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    items[np.arange(60), np.arange(60) % 3] += 3
    data = items, np.array(list("abc"))[np.arange(60) % 3]
    net = regraft.load(model, preprocessing={"kind": "array", "shape": [6], "mean": [0.1] * 6, "std": [1.5] * 6})
    regraft.branch(regraft.adapt(net, data, strategy="probe", **QUICK).network, "two", ["p", "q"]).save(folder)
    return None, items[:5]


def _coded(folder: Path) -> tuple[Any, np.ndarray]:
    """A PyTorch network that knows conditions, with the numbers of a column beside its items."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    items = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    data = regraft.data.Dataset(
        items, np.arange(24) % 2, ("a", "b"), "array", conditions=np.array([f"c{row % 3}" for row in range(24)], dtype=object)
    )
    regraft.adapt(regraft.load(module, inputs=(6,)), data, strategy="codes", size=2, **QUICK).network.save(folder)
    return lambda: torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2)), items[:5]


MADE = {"torch": _torch, "keras": _keras, "coded": _coded}


def _user(folder: Path, architecture: Any, items: np.ndarray) -> Callable[[], None]:
    def use() -> None:
        net = regraft.load(folder, architecture=architecture)
        found = net.predict(items, unknown=net.unknown is not None)
        for part in (found, *found.tasks.values()):
            assert part.probabilities.shape == (len(items), len(part.classes)) and len(part.labels) == len(items)
            assert np.isfinite(part.probabilities).all()
        str(net.account), net.summary()

    return use


@pytest.mark.parametrize("made", MADE)
def test_any_value_of_a_saved_network(made: str, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    use = _user(folder, *MADE[made](folder))
    before = {path.name for path in folder.iterdir()}
    _check(folder / "regraft.json", use, error=NetworkError, names=str(folder))
    assert {path.name for path in tmp_path.iterdir()} == {"net"} and {path.name for path in folder.iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("made", MADE)
def test_every_place_of_a_saved_network(made: str, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    use = _user(folder, *MADE[made](folder))
    _check(folder / "regraft.json", use, error=NetworkError, names=str(folder), most=None)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", '"x"', '{"format": 3}', "\xff\xfe", "[" * 100_000, "{}" * 3])
def test_what_is_no_description_of_a_network(content: str, tmp_path: Path) -> None:
    (tmp_path / "regraft.json").write_text(content, encoding="latin-1")
    with pytest.raises(NetworkError, match=r"regraft\.json"):
        regraft.load(tmp_path)


def test_a_folder_of_a_later_version_says_so(tmp_path: Path) -> None:
    (tmp_path / "regraft.json").write_text('{"format": 3}')
    with pytest.raises(NetworkError, match=r"has the format 3; .*Update regraft"):
        regraft.load(tmp_path)


def test_a_tokenizer_is_never_taken_for_a_path(tmp_path: Path) -> None:
    """Text that is no JSON would be read as the folder of a tokenizer."""
    folder = tmp_path / "net"
    _keras(folder)
    facts = json.loads((folder / "regraft.json").read_text())
    facts["preprocessing"] = {"kind": "columns", "inner": {"kind": "text", "tokenizer": "/etc"}, "names": ["a"]}
    (folder / "regraft.json").write_text(json.dumps(facts))
    with pytest.raises(NetworkError, match="expected the JSON content of a tokenizer"):
        regraft.load(folder)


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("family", ["torch", "keras"])
@pytest.mark.parametrize("kind", ["columns", "conditions"])
def test_items_by_other_names_than_the_network_takes(kind: str, family: str, tmp_path: Path) -> None:
    """Said when the folder is opened, not where the first items are used."""
    folder, items = tmp_path / "net", np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    if family == "torch":
        made: Any = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    else:
        from regraft.networks.keras.library import keras

        layers = keras.layers
        made = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu", name="low"), layers.Dense(2, name="out")])
    net, labels = regraft.load(made, inputs=(6,)), np.arange(24) % 2
    if kind == "columns":
        net = regraft.join(net, ["age"])
        data = regraft.data.Dataset(items, labels, ("a", "b"), "array", columns=items[:, :1].copy(), column_names=("age",))
    else:
        names = np.array([f"c{row % 3}" for row in range(24)], dtype=object)
        data = regraft.data.Dataset(items, labels, ("a", "b"), "array", conditions=names)
    settings = {"strategy": "codes", "size": 2} if kind == "conditions" else {"strategy": "head"}
    regraft.adapt(net, data, **settings, **QUICK).network.save(folder)  # type: ignore[arg-type]
    architecture = made if family == "torch" else None
    regraft.load(folder, architecture=architecture)
    facts = json.loads((folder / "regraft.json").read_text())
    own = facts["preprocessing"]
    own |= {"inputs": "other"} if kind == "conditions" else {"names": ["age", "b"], "mean": [0, 0], "std": [1, 1]}
    (folder / "regraft.json").write_text(json.dumps(facts))
    with pytest.raises(NetworkError, match=r"The preprocessing of '.*net' cannot be used: The network "):
        regraft.load(folder, architecture=architecture)


# ── files that belong to the network ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("made", ["torch", "keras"])
def test_a_flipped_bit_in_any_file_of_a_network_is_told(made: str, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    architecture, items = MADE[made](folder)
    expected, draw = regraft.load(folder, architecture=architecture).logits(items), np.random.default_rng(0)
    files = json.loads((folder / "regraft.json").read_text())["files"]
    assert {"torch": "network.safetensors", "keras": "network.keras"}[made] in files and "statistics.safetensors" in files
    for name in files:
        path = folder / name
        content = path.read_bytes()
        for at in draw.integers(0, len(content), 6):
            path.write_bytes(bytes([*content[:at], content[at] ^ 1 << int(draw.integers(8)), *content[at + 1 :]]))
            with pytest.raises(NetworkError, match=name):
                regraft.load(folder, architecture=architecture)
        path.write_bytes(content)
    assert np.array_equal(regraft.load(folder, architecture=architecture).logits(items), expected)


@pytest.mark.usefixtures("without_onnx_form")
def test_what_was_removed_on_purpose_is_said_and_no_error(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    architecture, items = _torch(folder)
    expected = regraft.load(folder, architecture=architecture).logits(items)
    (folder / "history.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"'history\.jsonl', which was saved with the network .* opened without it"):
        net = regraft.load(folder, architecture=architecture)
    assert not net.history and np.array_equal(net.logits(items), expected)


@pytest.mark.usefixtures("without_onnx_form")
def test_files_of_another_network_that_lie_there_are_not_taken(tmp_path: Path) -> None:
    """Only what was saved with a network is: a history or class statistics beside it may be of anything."""
    folder = tmp_path / "net"
    torch.manual_seed(0)
    regraft.load(examples.Cnn(), inputs=(1, 8, 8)).save(folder)
    (folder / "history.jsonl").write_text('{"epoch": 1}\n')
    (folder / "statistics.safetensors").write_bytes(b"of another network")
    net = regraft.load(folder, architecture=examples.Cnn)
    assert not net.history and net.statistics is None


@pytest.mark.usefixtures("without_onnx_form")
def test_folders_of_earlier_versions_have_no_checksums(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    architecture, items = _torch(folder)
    net = regraft.load(folder, architecture=architecture)
    facts = json.loads((folder / "regraft.json").read_text())
    del facts["files"]
    (folder / "regraft.json").write_text(json.dumps(facts))
    old = regraft.load(folder, architecture=architecture)
    assert np.array_equal(old.logits(items), net.logits(items))
    assert old.history == net.history and old.statistics is not None and old.unknown is not None


# ── what stands beside it ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("without_onnx_form")
def test_any_value_of_a_history(tmp_path: Path) -> None:
    """What opens can be adapted further: the entries of a history are gone through when the new one is added."""
    folder = tmp_path / "net"
    torch.manual_seed(0)
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    result = regraft.adapt(net, examples.pictures(40), strategy="head", **QUICK)
    result.network.save(folder)
    facts = json.loads((folder / "regraft.json").read_text())
    del facts["files"]  # as in earlier versions: nothing but the schema stands between
    (folder / "regraft.json").write_text(json.dumps(facts))

    def use() -> None:
        opened = regraft.load(folder, architecture=examples.Cnn)
        again = regraft.adapt(opened, examples.pictures(20), strategy="probe", **QUICK)
        again.report(tmp_path / "page.html")

    _check(folder / "history.jsonl", use, error=NetworkError, names="history.jsonl", most=20)


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("line", ["[1]", "7", '"x"', "null", "{", "\x80"])
def test_a_line_of_a_history_that_is_no_entry(line: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    regraft.load(examples.Cnn(), inputs=(1, 8, 8)).save(tmp_path)
    facts = json.loads((tmp_path / "regraft.json").read_text())
    del facts["files"]
    (tmp_path / "regraft.json").write_text(json.dumps(facts))
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n' + line + "\n", encoding="latin-1")
    with pytest.raises(NetworkError, match=r"history\.jsonl"):
        regraft.load(tmp_path, architecture=examples.Cnn)


@pytest.fixture(scope="module")
def result_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("result") / "out"
    torch.manual_seed(0)
    regraft.adapt(regraft.load(examples.Cnn(), inputs=(1, 8, 8)), examples.pictures(60), strategy="auto", out=folder, **QUICK)
    return folder


@pytest.mark.parametrize("name", ["scores.json", "report.json"])
def test_any_value_of_a_report(name: str, result_folder: Path, tmp_path: Path) -> None:
    def use() -> None:
        page = write_report(tmp_path / "page.html", read_facts(result_folder)).read_text(encoding="utf-8")
        assert "</html>" in page and ("__import__(&#39;os&#39;)" in page or "__import__" not in page)

    _check(result_folder / name, use, error=DataError, names=str(result_folder))


def test_any_value_of_a_plan(result_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes((result_folder / "plan.json").read_bytes())

    def use() -> None:
        plan = Plan.from_json(path.read_text(encoding="utf-8"))
        str(plan)
        assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()

    _check(path, use, error=SettingError, names="", most=1500)


def test_any_value_of_a_profile(tmp_path: Path) -> None:
    torch.manual_seed(0)
    measured = regraft.profile(regraft.load(examples.Cnn(), inputs=(1, 8, 8)), examples.pictures(60), cache="memory", out=tmp_path)
    assert Profile.load(tmp_path) == measured

    def use() -> None:
        found = Profile.load(tmp_path)
        str(found), found.plan()
        found.report(tmp_path / "page.html")

    _check(tmp_path / "profile.json", use, error=InputError, names=str(tmp_path), most=100)
