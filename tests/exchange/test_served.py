"""ONNX files that regraft wrote, run by ONNX Runtime: what the network says, said without PyTorch."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.data import Dataset, TextPreprocessing, preprocessing_from_dict
from regraft.errors import NetworkError, RegraftError
from regraft.exchange.served import ServedNetwork, serve

pytest.importorskip("onnxruntime")
keras = pytest.importorskip("keras")

ROWS = np.random.default_rng(0).normal(3, 2, size=(7, 4)).astype(np.float32)
ABC = ["a", "b", "c"]
MEASURED = {"kind": "array", "shape": [4], "mean": [3.0, 2.0, 3.0, 4.0], "std": [2.0, 1.0, 2.0, 3.0]}
PIXELS = {"kind": "image", "height": 12, "width": 10, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "value_range": [0.0, 255.0]}


def dense(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, outputs))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def rows_net() -> tuple[regraft.Network, Any]:
    return regraft.load(dense(), classes=ABC, inputs=(4,), preprocessing=MEASURED), ROWS


def keras_net() -> tuple[regraft.Network, Any]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, activation="relu"), keras.layers.Dense(3, activation="softmax")])
    return regraft.load(model, classes=ABC, preprocessing=MEASURED), ROWS


def labels_net() -> tuple[regraft.Network, Any]:
    """Several labels an item, with thresholds that decide otherwise than a half."""
    data = Dataset(ROWS, np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2, 0]], tuple(ABC), "array", "multi-label")
    net = regraft.retarget(regraft.load(dense(), inputs=(4,)), ABC, data=data, start="random")
    head = net.head.__class__(**{**vars(net.head), "kind": "multi-label", "activation": "sigmoid", "thresholds": (0.45, 0.55, 0.5)})
    net.heads = {net.head.task: head}
    return net, ROWS


def tasks_net() -> tuple[regraft.Network, Any]:
    net = regraft.branch(rows_net()[0], "colour", ["red", "green"], start="random", seed=1)
    return regraft.branch(net, "vowel", ["yes", "no"], groups={"yes": ["a"], "no": ["b", "c"]}), ROWS


def value_net() -> tuple[regraft.Network, Any]:
    return regraft.load(dense(1), inputs=(4,), preprocessing=MEASURED), ROWS


def picture_net() -> tuple[regraft.Network, Any]:
    return regraft.load(convolutions(), classes=ABC, inputs=(3, 12, 10), preprocessing={**PIXELS, "resize": "crop"}), None


def blue_net() -> tuple[regraft.Network, Any]:
    """Blue first, channels last, other scaling: what Keras' networks take."""
    keras.utils.set_random_seed(0)
    stack = [keras.Input((12, 10, 3)), keras.layers.Conv2D(4, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(3)]
    plain = {**PIXELS, "mean": [103.9, 116.8, 123.7], "std": 58.0, "scale": 1.0, "bgr": True, "layout": "channels_last"}
    return regraft.load(keras.Sequential(stack), classes=ABC, preprocessing=plain), None


NETWORKS: dict[str, Callable[[], tuple[regraft.Network, Any]]] = {
    "rows": rows_net,
    "keras": keras_net,
    "labels": labels_net,
    "tasks": tasks_net,
    "value": value_net,
    "pictures": picture_net,
    "blue": blue_net,
}


def picture_files(folder: Path) -> list[Path]:
    """Pictures of several sizes and forms, as they lie on a disk."""
    generator, made = np.random.default_rng(3), []
    for number, (mode, size) in enumerate([("RGB", (20, 15)), ("L", (31, 12)), ("RGBA", (10, 12)), ("RGB", (9, 40))]):
        depth = {"L": ()}.get(mode, (len(mode),))
        smooth = np.asarray(Image.fromarray(generator.integers(0, 255, (4, 4, *depth), dtype=np.uint8), mode).resize(size, 3))
        made.append(folder / f"{number}.png")
        Image.fromarray(smooth, mode).save(made[-1])
    return made


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        pytest.param(name, inside, id=f"{name}-{how}", marks=pytest.mark.slow if inside and name in ("labels", "tasks", "value") else ())
        for name in NETWORKS  # the rows of all but pictures are prepared in the same way
        for inside, how in ((False, "beside"), (True, "inside"))
    ],
)
def test_a_file_says_what_the_network_says(name: str, inside: bool, tmp_path: Path) -> None:
    net, items = NETWORKS[name]()
    items = picture_files(tmp_path) if items is None else items
    net.export(tmp_path / "x.onnx", preprocessing=inside)
    served, expected = serve(tmp_path / "x.onnx"), net.predict(items)
    found = served.predict(items)
    assert list(found.tasks) == list(expected.tasks)
    near = 0.02 if inside and name in ("pictures", "blue") else 2e-5  # pictures are rounded once more
    for task, one in found.tasks.items():
        wanted = expected.tasks[task]
        assert (one.classes, one.values) == (wanted.classes, wanted.values)
        np.testing.assert_allclose(one.probabilities, wanted.probabilities, atol=near * max(1.0, float(np.abs(wanted.probabilities).max())))
        if not one.values and near < 1e-3:
            assert one.labels == wanted.labels
    assert served.head.thresholds == net.head.thresholds and served.head.kind == net.head.kind
    np.testing.assert_allclose(served.logits(items), net.logits(items), rtol=1e-3, atol=5 * near)


class Reader(nn.Module):
    """The mean of the words that are not padding, as a user's own class of one required input."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        kept = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return self.head((self.words(input_ids) * kept[..., None]).sum(1) / kept.sum(1, keepdim=True))


@pytest.mark.parametrize("kind", ["hub", "own"])
def test_texts_of_any_length_are_read_as_their_tokenizer_gives_them(kind: str, tmp_path: Path) -> None:
    """The tokenizer also gives a mask and token types, and the table of positions ends at 32 tokens."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    words, sizes = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"], {"hidden_size": 8, "intermediate_size": 8}
    sizes |= {"vocab_size": len(words), "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32, "num_labels": 2}
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes)).save_pretrained(tmp_path / "hub")
    transformers.BertTokenizerFast(vocab={word: at for at, word in enumerate(words)}).save_pretrained(tmp_path / "hub")
    how: dict[str, Any] = {"inputs": (8,), "preprocessing": TextPreprocessing(tmp_path / "hub")} if kind == "own" else {}
    net = regraft.load(Reader() if kind == "own" else f"hf:{tmp_path / 'hub'}", classes=["no", "yes"], **how)
    texts, names = ["good bad", "bad " * 20, "good"], ["input_ids", "attention_mask", *(["token_type_ids"] if kind == "hub" else [])]
    expected = net.predict(texts).probabilities
    served = serve(net.export(tmp_path / "x.onnx"))
    assert list(served.sample) == names
    np.testing.assert_allclose(served.predict(texts).probabilities, expected, atol=1e-5)
    found = regraft.load(tmp_path / "x.onnx")
    for made in (found, serve(found.export(tmp_path / "y.onnx")), regraft.load(found.save(tmp_path / "found"))):
        np.testing.assert_allclose(made.predict(texts).probabilities, expected, atol=1e-5)
    program, given = torch.export.load(net.export(tmp_path / "x.pt2")).module(), net.preprocessing.batch(texts)
    found = program(**given)
    assert list(given) == names
    np.testing.assert_allclose((found if kind == "own" else found["logits"]).softmax(1).detach(), expected, atol=1e-5)
    opened = regraft.load(net.save(tmp_path / "kept"))  # without the class, if it is an own one
    assert list(opened.sample) == names and opened.origin["source"] == ("program" if kind == "own" else net.origin["source"])
    np.testing.assert_allclose(opened.predict(texts).probabilities, expected, atol=1e-5)


def test_conditions_are_known_by_name(tmp_path: Path) -> None:
    net = regraft.load(dense(), classes=ABC, inputs=(4,))
    coding = regraft.networks.parts.coding.Coding(2, ("anna", "bert"), points=tuple(point.name for point in net.points()))
    coded = net.coded(coding, seed=0)
    with torch.no_grad():
        for parameter in coded.module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))) / 3)
    coded.coding = coding
    coded.preprocessing = regraft.data.with_conditions(net.preprocessing, coding.conditions)
    coded.export(tmp_path / "x.onnx")
    served = serve(tmp_path / "x.onnx")
    for condition in ("anna", "bert", "mean", None):
        expected = coded.predict(ROWS, condition).probabilities
        np.testing.assert_allclose(served.predict(ROWS, condition).probabilities, expected, atol=1e-5)
    assert np.abs(served.predict(ROWS, "anna").probabilities - served.predict(ROWS, "bert").probabilities).max() > 1e-3
    with pytest.raises(NetworkError, match=r"'carl' is not known.*anna"):
        served.predict(ROWS, "carl")
    regraft.fold(coded, "anna").export(tmp_path / "anna.onnx")
    folded = serve(tmp_path / "anna.onnx")
    assert [one.name for one in folded.session.get_inputs()] == ["input"]
    np.testing.assert_allclose(folded.predict(ROWS).probabilities, coded.predict(ROWS, "anna").probabilities, atol=1e-5)


def test_arrays_are_those_that_pytorch_gets(tmp_path: Path) -> None:
    data = picture_net()[0].preprocessing.dataset(picture_files(tmp_path))
    for plain in (PIXELS, {**PIXELS, "resize": "crop", "crop_fraction": 0.8, "bgr": True, "layout": "channels_last"}):
        made = preprocessing_from_dict(plain)
        tensors, arrays = made.batch_of(data, range(4)), made.arrays_of(data, range(4))
        np.testing.assert_allclose(arrays, tensors.numpy(), atol=2e-6)


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "keras"):
            raise ImportError(f"{name} was imported")
sys.meta_path.insert(0, Blocked())
from typer.testing import CliRunner
from regraft.cli import app
for line in sys.stdin.read().splitlines():
    result = CliRunner().invoke(app, line.split("\\t"))
    told = result.stdout or result.stderr
    print(result.exit_code, told.replace("\\n", "~"), "" if result.exit_code in (0, 2) else repr(result.exception))
assert "torch" not in sys.modules
"""


def test_the_commands_run_files_without_pytorch(tmp_path: Path) -> None:
    pictures = picture_files(tmp_path)
    net, _ = picture_net()
    net.export(tmp_path / "beside.onnx")
    net.export(tmp_path / "inside.onnx", preprocessing=True)
    rows_net()[0].export(tmp_path / "rows.onnx")
    table = tmp_path / "rows.csv"
    labels = rows_net()[0].predict(ROWS).labels
    lines = [",".join([*map(str, row), label]) for row, label in zip(ROWS, labels, strict=True)]
    table.write_text("\n".join(["p,q,r,s,label", *lines]) + "\n")
    np.save(tmp_path / "rows.npy", ROWS)
    commands = [
        ["predict", tmp_path / "beside.onnx", *pictures, "--probabilities", "--format", "jsonl"],
        ["predict", tmp_path / "inside.onnx", *pictures],
        ["predict", tmp_path / "rows.onnx", tmp_path / "rows.npy"],
        ["evaluate", tmp_path / "rows.onnx", table, "--target", "label", "--json"],
        ["predict", tmp_path / "rows.onnx", tmp_path / "rows.npy", "--unknown"],
        ["predict", tmp_path / "rows.onnx", tmp_path / "rows.npy", "--head", "2"],
    ]
    given = "\n".join("\t".join(map(str, command)) for command in commands)
    done = subprocess.run([sys.executable, "-c", BLOCKED], input=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    beside, inside, rows, judged, unknown, head = done.stdout.splitlines()
    told = [json.loads(line) for line in beside[2:].strip().strip("~").split("~")]
    assert [one["label"] for one in told] == net.predict(pictures).labels
    assert [cell.split(",")[1] for cell in inside.strip(" ~").split("~")[1:]] == net.predict(pictures).labels
    assert [cell.split(",")[1] for cell in rows.strip(" ~").split("~")[1:]] == labels
    assert json.loads(judged[2:].strip().replace("~", "\n"))["accuracy"] == 1.0
    assert unknown.startswith("2 ") and "holds no rule for unknown examples" in unknown
    assert head.startswith("2 ") and "is run as it is" in head


def _of_several(family: str) -> dict[str, tuple[regraft.Network, str]]:
    """Networks by name, and the targets of their tasks: two tasks of one network, as branches of any kind; labels; numbers."""
    layers = keras.layers
    keras.utils.set_random_seed(0)
    entry = keras.Input((4,))
    hidden = layers.Dense(8, activation="tanh")(entry)
    ends = [layers.Dense(3, activation="softmax", name="label")(hidden), layers.Dense(2, name="colour")(hidden)]
    names = {"label": ABC, "colour": ["red", "green"]}
    module: Any = keras.Model(entry, ends) if family == "keras" else Two()
    base = regraft.load(keras.Model(entry, ends[0]) if family == "keras" else dense(), classes=ABC, inputs=(4,))
    tags = regraft.branch(base, "tags", ["t1", "t2"], kind="multi-label", start="random", seed=1)
    tags.heads["tags"] = dataclasses.replace(tags.heads["tags"], thresholds=(0.4, 0.6))
    labels = regraft.retarget(base, ["t1", "t2"], start="random")
    labels.heads["main"] = dataclasses.replace(labels.head, kind="multi-label", activation="sigmoid", thresholds=(0.55, 0.45))
    return {
        "two outputs": (regraft.load(module, inputs=(4,), head={name: name for name in names}, classes=names), "label=label colour=colour"),
        "numbers beside": (regraft.branch(base, "size", ["size"], kind="regression", start="random", seed=1), "main=label size=size"),
        "tags beside": (tags, "main=label tags=t1 tags=t2"),
        "labels": (labels, "t1 t2"),
    }


class Two(nn.Module):
    """Two heads on one layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.label, self.colour = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.first(x).tanh()
        return self.label(hidden), self.colour(hidden)


@pytest.mark.parametrize("family", [pytest.param("torch", marks=pytest.mark.slow), "keras"])
def test_several_tasks_and_labels_are_judged_without_pytorch_as_from_the_folder(family: str, tmp_path: Path) -> None:
    count, draws = 30, np.random.default_rng(1)
    columns: dict[str, Any] = dict(zip("pqrs", draws.normal(3, 2, (4, count)), strict=True)) | {"label": draws.choice(ABC, count)}
    columns |= {"colour": draws.choice(["red", "green"], count), "size": draws.normal(size=count)}
    columns |= {"t1": draws.integers(0, 2, count), "t2": draws.integers(0, 2, count)}
    given, expected = [], []
    for name, (net, targets) in _of_several(family).items():
        places, table = [net.save(tmp_path / name), net.export(tmp_path / f"{name}.onnx")], tmp_path / f"{name}.csv"
        for wanted in (list("pqrs"), [*"pqrs", *(target.rpartition("=")[2] for target in targets.split())]):
            lines = [wanted, *zip(*(columns[column] for column in wanted), strict=True)]
            (tmp_path / "rows.csv" if len(wanted) == 4 else table).write_text("\n".join(",".join(map(str, line)) for line in lines))
        asked = [word for target in targets.split() for word in ("--target", target)]
        for how in (["evaluate", table, "--json", *asked], ["predict", tmp_path / "rows.csv", "--format", "jsonl", "--probabilities"]):
            commands = [[how[0], place, *how[1:]] for place in places]
            found = CliRunner().invoke(app, list(map(str, commands[0])))
            assert found.exit_code == 0, found.output
            expected.append(found.stdout)
            given.append("\t".join(map(str, commands[1])))
    done = subprocess.run([sys.executable, "-c", BLOCKED], input="\n".join(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for wanted, line, command in zip(expected, done.stdout.splitlines(), given, strict=True):
        assert line.startswith("0 "), (command, line)
        before, after = (
            re.split(r"(-?\d[\d.e+-]*)", text) for text in (wanted.rstrip("\n"), line[2:].strip().rstrip("~").replace("~", "\n"))
        )
        assert before[::2] == after[::2], command
        np.testing.assert_allclose(*(np.array(numbers[1::2], float) for numbers in (before, after)), atol=2e-6, rtol=2e-5)


def _facts(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _tampered(key: str, value: str | None) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        kept = {**_facts(model), **({} if value is None else {key: value})}
        if value is None:
            del kept[key]
        onnx.helper.set_model_props(model, kept)

    return change


DAMAGED: dict[str, tuple[Callable[[Any], None], str]] = {
    "no tasks": (_tampered("tasks", None), "was not written by regraft"),
    "no JSON": (_tampered("tasks", "{"), r"metadata of .* cannot be read"),
    "deep JSON": (_tampered("tasks", "[" * 100_000), r"metadata of .* cannot be read"),
    "another form": (_tampered("tasks", "[1]"), "does not have the expected form"),
    "a kind of its own": (_tampered("tasks", '{"main": {"kind": "poem"}}'), "does not have the expected form"),
    "too many classes": (_tampered("tasks", '{"main": {"kind": "classification", "classes": ["a", "b"]}}'), "expects the output 'logits'"),
    "another output": (_tampered("tasks", '{"main": {"kind": "regression"}}'), "no such output"),
    "no task": (_tampered("tasks", "{}"), "has no task"),
    "classes alike": (
        _tampered("tasks", '{"main": {"kind": "classification", "classes": ["a", "a", "b"]}}'),
        r"once|twice|differ",
    ),
    "thresholds": (_tampered("tasks", '{"main": {"kind": "multi-label", "thresholds": [0.5]}}'), "1 thresholds for 3 labels"),
    "a preprocessing": (_tampered("preprocessing", '{"kind": "magic"}'), "No kind of preprocessing is called 'magic'"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    rows_net()[0].export(path)
    change, message = DAMAGED[name]
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(RegraftError, match=message):
        serve(path)


def test_items_that_do_not_fit_are_told(tmp_path: Path) -> None:
    rows_net()[0].export(tmp_path / "x.onnx")
    served: ServedNetwork = serve(tmp_path / "x.onnx")
    with pytest.raises(RegraftError, match=r"shape \(5,\)"):
        served.predict(np.zeros((2, 5), np.float32))
    with pytest.raises(NetworkError, match="no task 'mian'"):
        served.logits(ROWS, task="mian")
