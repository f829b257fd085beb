"""A network as an ONNX file: what ONNX Runtime computes from it is what the network predicts, for both families."""

from __future__ import annotations

import dataclasses
import json
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import condition_examples, torch_examples
from torch import nn

import regraft
from regraft.errors import NetworkError, SettingError
from regraft.files import onnx_form
from regraft.networks import onnx_files
from regraft.networks.parts.onnx_steps import as_picture, sample_items

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
keras = pytest.importorskip("keras")
layers = keras.layers

PICTURES = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32)
STEPS = np.random.default_rng(1).normal(size=(5, 7, 6)).astype(np.float32)
ABC = ["a", "b", "c"]


def torch_cnn() -> tuple[regraft.Network, np.ndarray]:
    torch.manual_seed(0)
    return regraft.load(torch_examples.Cnn(3), classes=ABC, inputs=(1, 8, 8)), PICTURES


def keras_pictures() -> tuple[regraft.Network, np.ndarray]:
    entry = keras.Input((8, 8, 1))
    middle = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(layers.Conv2D(4, 3, padding="same")(entry)))
    scores = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(middle))
    return regraft.load(keras.Model(entry, scores), classes=ABC), np.moveaxis(PICTURES, 1, 3)


def keras_steps(*middle: Any) -> tuple[regraft.Network, np.ndarray]:
    model = keras.Sequential([keras.Input((None, 6)), *middle, layers.Dense(3)])
    return regraft.load(model, classes=ABC), STEPS


def keras_lstm() -> tuple[regraft.Network, np.ndarray]:
    return keras_steps(layers.Bidirectional(layers.LSTM(4, return_sequences=True)), layers.LSTM(3, use_bias=False))


def keras_cells() -> tuple[regraft.Network, np.ndarray]:
    """Cells that PyTorch does not have."""
    first = layers.GRU(4, go_backwards=True, bias_initializer="uniform", reset_after=False, return_sequences=True)
    return keras_steps(first, layers.SimpleRNN(4, activation="relu", return_sequences=True), layers.LSTM(3, activation="softsign"))


def keras_masks() -> tuple[regraft.Network, np.ndarray]:
    """Layers that read a mask, which their own cells could not be written with."""
    middle = [layers.Bidirectional(layers.LSTM(3))]
    model = keras.Sequential([keras.Input((None,), dtype="int32"), layers.Embedding(20, 6, mask_zero=True), *middle, layers.Dense(3)])
    return regraft.load(model, classes=ABC), np.arange(45).reshape(5, 9) % 20 * (np.arange(9) % 4 != 2)


def torch_steps() -> tuple[regraft.Network, np.ndarray]:
    torch.manual_seed(0)
    cells = [nn.LSTM(6, 4, 2, bidirectional=True, batch_first=True), nn.GRU(8, 4, bias=False), nn.RNN(4, 4, nonlinearity="relu")]
    module = nn.Sequential(nn.Embedding(20, 6), *(part for one in cells for part in (one, First())), Mean(), nn.Linear(4, 3))
    return regraft.load(module, classes=ABC, inputs=(9,)), np.arange(45).reshape(5, 9) % 20


def keras_states() -> tuple[regraft.Network, np.ndarray]:
    """The last states of one layer are the first ones of another."""
    entry = keras.Input((None, 6))
    outputs, *states = layers.LSTM(4, return_state=True, return_sequences=True)(entry)
    middle = layers.GRU(4)(outputs, initial_state=states[1])
    middle = layers.LSTM(4)(layers.Reshape((1, 4))(middle), initial_state=states)
    return regraft.load(keras.Model(entry, layers.Dense(3)(middle)), classes=ABC), STEPS


def binary() -> tuple[regraft.Network, np.ndarray]:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4, activation="relu"), layers.Dense(1, activation="sigmoid")])
    return regraft.load(model, classes=["no", "yes"]), STEPS[:, 0]


def multi_label() -> tuple[regraft.Network, np.ndarray]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3), nn.Sigmoid())
    return regraft.load(module, classes=ABC, inputs=(6,)), STEPS[:, 0]


class First(nn.Module):
    def forward(self, read: tuple[torch.Tensor, Any]) -> torch.Tensor:
        return read[0]


class Mean(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.mean(1)


CASES = (torch_cnn, keras_pictures, binary, multi_label)


def tokens() -> tuple[regraft.Network, np.ndarray]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(20, 6), Mean(), nn.Linear(6, 3))
    return regraft.load(module, classes=ABC, inputs=(9,)), np.arange(45).reshape(5, 9) % 20


def run(path: Path, **inputs: Any) -> dict[str, np.ndarray]:
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, inputs), strict=True))


def facts(path: Path) -> dict[str, Any]:
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


@pytest.mark.parametrize("make", CASES)
def test_onnx_runtime_computes_what_the_network_predicts(make: Callable[[], Any], tmp_path: Path) -> None:
    net, items = make()
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    path = net.export(tmp_path / "net.onnx")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state().items())
    for some in (items, items[:1], np.concatenate([items, items])):
        found = run(path, input=some)
        assert np.allclose(found["logits"], net.logits(some), atol=1e-5)
        assert np.allclose(found["probabilities"], net.predict(some).probabilities, atol=1e-5)
    pytest.importorskip("onnx").checker.check_model(path, full_check=True)
    told = facts(path)
    assert told["versions"].keys() >= {"regraft", "torch"}
    assert told["classes"] == list(net.classes) and told["tasks"]["main"]["kind"] == net.head.kind
    assert told["preprocessing"] == json.loads(json.dumps(net.preprocessing.to_dict())) and told["largest_difference"] < 1e-4


@pytest.mark.parametrize("make", [keras_lstm, keras_cells, keras_states, keras_masks, torch_steps, tokens])
def test_sequences_may_have_any_length_and_recurrent_layers_stay_single_operators(make: Callable[[], Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    net, items = make()
    path = net.export(tmp_path / "net.onnx")
    onnx.checker.check_model(path)
    graph = onnx.load(path).graph
    assert len(graph.node) < 100
    assert [size.dim_param for size in graph.input[0].type.tensor_type.shape.dim][:2] in (["batch", "length1"], ["batch", "tokens"])
    for some in (np.concatenate([items, items, items], 1), items[:1, :5]):
        with torch.no_grad():
            expected = net.scores(torch.from_numpy(some))["main"].numpy()
        assert np.allclose(run(path, input=some)["logits"], expected, atol=1e-5)


def test_an_open_axis_of_one_of_several_inputs_stays_open(tmp_path: Path) -> None:
    steps, row = keras.Input((None, 6), name="steps"), keras.Input((4,), name="row")
    net = regraft.load(keras.Model([steps, row], layers.Dense(3)(layers.Concatenate()([layers.LSTM(4)(steps), row]))), classes=ABC)
    path = net.export(tmp_path / "net.onnx")
    for items in (STEPS, STEPS[:, :3]):
        given = {"steps": items, "row": STEPS[:, 0, :4]}
        with torch.no_grad():
            expected = net.scores({name: torch.from_numpy(values) for name, values in given.items()})["main"].numpy()
        assert np.allclose(run(path, **given)["logits"], expected, atol=1e-5)


class Last(nn.Module):
    """Reads the steps that a mask names, if one is given, and the last state."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps, self.out = nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
        return self.out(self.steps(inputs if kept is None else inputs * kept.unsqueeze(2))[0][:, -1])


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_an_open_axis_stays_open_in_a_folder_and_in_the_other_family(family: str, tmp_path: Path) -> None:
    if family == "torch":
        net = regraft.load(Last(), classes=ABC, inputs=(None, 6))
        kept = net.save(tmp_path / "kept")
        opened, alone = regraft.load(kept, architecture=Last), regraft.load(kept)
    else:
        net = keras_steps(layers.LSTM(3))[0]
        alone = opened = regraft.load(net.to("torch").save(tmp_path / "kept"))
    there = opened.to("keras")
    for one in (opened, there, there.to("torch")):
        assert one.input_shape == (None, 6)
        path = one.export(tmp_path / "net.onnx")
        for items in (STEPS, STEPS[:, :3]):
            expected = net.logits(items)
            assert np.allclose(alone.logits(items), expected, atol=1e-5) and np.allclose(one.logits(items), expected, atol=1e-5)
            assert np.allclose(run(path, input=items)["logits"], expected, atol=1e-5)


def test_open_axes_of_several_inputs_of_pytorch_stay_open(tmp_path: Path) -> None:
    net = regraft.load(Last(), classes=ABC, inputs={"inputs": (None, 6), "kept": (None,)})
    opened = regraft.load(net.save(tmp_path / "kept"), architecture=Last)
    path = opened.export(tmp_path / "net.onnx")
    for items in (STEPS, STEPS[:, :3]):
        given = {"inputs": items, "kept": (items[..., 0] > 0).astype(np.float32)}
        assert np.allclose(run(path, **given)["logits"], net.logits(given), atol=1e-5)


class Averaged(nn.Module):
    """Averages convolutions over all steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.steps, self.out = nn.Conv1d(6, 4, 3), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(self.steps(inputs.mT).relu().mean(2))


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_an_open_axis_before_a_convolution_is_free_in_a_program_too(family: str, tmp_path: Path) -> None:
    if family == "torch":
        net = regraft.load(Averaged(), classes=ABC, inputs=(None, 6))
    else:
        layers = [keras.layers.Conv1D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
        net = regraft.load(keras.Sequential([keras.Input((None, 6)), *layers]), classes=ABC)
    program = torch.export.load(net.export(tmp_path / "net.pt2")).module()
    path = net.export(tmp_path / "net.onnx")
    for items in (np.tile(STEPS, (1, 9, 1)), STEPS[:, :4]):
        expected = net.logits(items)
        assert np.allclose(program(torch.from_numpy(items)).detach(), expected, atol=1e-5)
        assert np.allclose(run(path, input=items)["logits"], expected, atol=1e-5)


class Placed(nn.Module):
    """Adds a row of a table of 100 positions to each step, as networks of text do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.places, self.out = nn.Parameter(torch.randn(100, 6)), nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out((inputs + self.places[: inputs.shape[1]]).tanh().mean(1))


def test_lengths_up_to_the_longest_that_a_network_takes_are_free(tmp_path: Path) -> None:
    net = regraft.load(Placed(), classes=ABC, inputs=(None, 6))
    path = net.export(tmp_path / "net.onnx")
    for items in (STEPS[:, :1].repeat(100, 1), STEPS[:, :3]):
        assert np.allclose(run(path, input=items)["logits"], net.logits(items), atol=1e-5)


class Masked(nn.Module):
    """A stack of recurrent layers over embeddings, in both directions, which reads last states."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.steps, self.out = nn.Embedding(9, 6), kind(6, 4, 2, bidirectional=True), nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        last = self.steps(self.table(tokens).transpose(0, 1))[1]
        return self.out(torch.cat([(last[0] if isinstance(last, tuple) else last)[at] for at in (2, 3)], 1))


def _tokens(*middle: Any, mask: bool = False) -> regraft.Network:
    keras.utils.set_random_seed(0)
    return regraft.load(
        keras.Sequential([keras.Input((None,)), layers.Embedding(9, 6, mask_zero=mask), *middle, layers.Dense(3)]), classes=ABC
    )


RECURRENT: dict[str, Callable[[], regraft.Network]] = {
    **{kind.__name__: lambda kind=kind: regraft.load(Masked(kind), classes=ABC, inputs=(None,)) for kind in (nn.LSTM, nn.GRU, nn.RNN)},
    "LSTM of Keras": lambda: _tokens(layers.LSTM(4, return_sequences=True), layers.LSTM(3, go_backwards=True)),
    "GRU of Keras": lambda: _tokens(layers.GRU(4)),
    "SimpleRNN of Keras": lambda: _tokens(layers.SimpleRNN(4)),
    "both ways, masked": lambda: _tokens(layers.Bidirectional(layers.LSTM(4)), mask=True),
    "steps of a masked GRU": lambda: _tokens(layers.GRU(4, return_sequences=True), layers.GlobalAveragePooling1D(), mask=True),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_take_any_length_in_a_program_too(name: str, tmp_path: Path) -> None:
    net = RECURRENT[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        net.export(tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for count, length in ((1, 3), (4, 11), (3, 45)):
        items = np.random.default_rng(length).integers(1, 9, (count, length))
        items[1:, length // 2 :] *= np.random.default_rng(1).integers(0, 2, (count - 1, length - length // 2))
        expected = net.logits(items)
        given = torch.from_numpy(items).to(net.sample.dtype)
        np.testing.assert_allclose(program(given).detach(), expected, atol=1e-5 * np.abs(expected).max())


def test_exports_of_two_threads_leave_pytorch_as_it_was(tmp_path: Path) -> None:
    operator = torch.ops.aten.lstm.input
    before, failed = dict(operator.py_kernels), list[str]()

    def export(at: int) -> None:
        try:
            RECURRENT["LSTM"]().export(tmp_path / f"{at}.pt2")
        except Exception as problem:
            failed.append(str(problem))

    threads = [threading.Thread(target=export, args=(at,)) for at in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failed and operator.py_kernels == before


class Stepwise(nn.Module):
    """A recurrent layer written as a loop."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.out = nn.Linear(10, 4), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        state = inputs.new_zeros(inputs.shape[0], 4)
        for step in inputs.unbind(1):
            state = self.cell(torch.cat([step, state], 1)).tanh()
        return self.out(state)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_program_of_one_length_only_says_so(family: str, tmp_path: Path) -> None:
    """PyTorch's exporter unrolls loops over steps."""
    net = (
        regraft.load(Stepwise(), classes=ABC, inputs=(None, 6)) if family == "torch" else keras_steps(layers.LSTM(3, activation="relu"))[0]
    )
    with pytest.warns(UserWarning, match=r"The exported program takes examples of the shape \(\d+, 6\) only"):
        net.export(tmp_path / "net.pt2")


def test_a_layer_that_no_program_takes_is_named(tmp_path: Path) -> None:
    net = regraft.load(
        keras.Sequential([keras.Input((None, 4, 4, 1)), layers.ConvLSTM2D(2, 2), layers.Flatten(), layers.Dense(3)]), classes=ABC
    )
    with pytest.raises(NetworkError, match=r"cannot be written as an exported program.* As layers of PyTorch: .*ConvLSTM2D"):
        net.export(tmp_path / "net.pt2")


@pytest.mark.parametrize("make", [torch_cnn, keras_pictures])
def test_every_head_is_an_output_by_name(make: Callable[[], Any], tmp_path: Path) -> None:
    net, items = make()
    net = regraft.branch(net, classes=["x", "y"], task="shape")
    path = net.export(tmp_path / "net.onnx")
    found, predicted = run(path, input=items), net.predict(items)
    assert list(found) == ["main.logits", "main.probabilities", "shape.logits", "shape.probabilities"]
    assert np.allclose(found["main.logits"], net.logits(items), atol=1e-5)
    for task in ("main", "shape"):
        assert np.allclose(found[f"{task}.probabilities"], predicted.tasks[task].probabilities, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "into"),
    [
        ("torch", "entrance"),
        ("keras", "layers"),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("torch", "layers"), ("keras", "entrance"))),
    ],
)
def test_codes_are_an_input_or_are_folded(family: str, into: str, tmp_path: Path) -> None:
    net, rows = condition_examples.coded(family, into=into), np.asarray(condition_examples.items().items)
    assert net.coding is not None
    every = run(net.export(tmp_path / "all.onnx"), inputs=rows, condition=np.full(len(rows), net.coding.row("ben")))
    alone = run(net.export(tmp_path / "ben.onnx", condition="ben"), input=rows)
    for found in (every, alone):
        assert np.allclose(found["probabilities"], net.predict(rows, condition="ben").probabilities, atol=1e-5)
    assert "conditions" in facts(tmp_path / "all.onnx") and "conditions" not in facts(tmp_path / "ben.onnx")
    with pytest.raises(NetworkError, match="'bem' is not known; did you mean 'ben'"):
        net.export(tmp_path / "bem.onnx", condition="bem")
    with pytest.raises(NetworkError, match=r"the codes of conditions; PMML has none\. Give one: condition='ada'"):
        net.export(tmp_path / "all.pmml")


def test_values_of_a_regression_are_its_output(tmp_path: Path) -> None:
    net = regraft.load(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), inputs=(6,))
    net = regraft.retarget(net, classes=["x", "y"], kind="regression")
    found = run(net.export(tmp_path / "net.onnx"), input=STEPS[:, 0])
    assert list(found) == ["value"] and np.allclose(found["value"], net.logits(STEPS[:, 0]), atol=1e-5)


class Conv(nn.Module):
    """Takes pictures of any size and of any number of channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.out = nn.Conv2d(channels, 4, 3, 2), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.conv(inputs)).mean((2, 3)))


CROPPED = {"resize": "crop", "crop_fraction": 0.875, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "bgr": True}


@pytest.mark.parametrize("settings", [{"channels": 3, **CROPPED}, {"channels": 1, "interpolation": "bilinear"}, {"channels": 4}])
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_graph_with_its_preprocessing_takes_pictures_as_they_are(settings: dict[str, Any], family: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    plain, count = {"kind": "image", "height": 32, "width": 24, **settings}, settings["channels"]
    if family == "torch":
        net = regraft.load(Conv(count), classes=ABC, inputs=(count, 32, 24), preprocessing=plain)
    else:
        keras.utils.set_random_seed(0)  # logits that happen to be near zero make any difference a large share of them
        sides = [keras.Input((32, 24, count)), layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
        net = regraft.load(keras.Sequential(sides), classes=ABC, preprocessing={**plain, "layout": "channels_last"})
    path = net.export(tmp_path / "net.onnx", preprocessing=True)
    told = facts(path)
    assert told["preprocessing_inside"] and told["preprocessing_difference"] < 0.01
    draws = np.random.default_rng(3)
    for height, width in ((32, 24), (33, 90), (71, 20), (10, 11), (200, 150)):
        rows = np.linspace(0, 250, height)[:, None, None] * np.ones((1, width, count)) * np.linspace(1, 0.5, width)[None, :, None]
        picture = (rows + draws.uniform(0, 5, rows.shape)).astype(np.uint8)
        found = run(path, input=picture[None])["probabilities"]
        pixels = picture[..., 0] if count == 1 else picture
        assert np.allclose(found, net.predict([image.fromarray(pixels)]).probabilities, atol=2e-3), (height, width)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_picture_with_logits_near_zero_is_no_reason_to_refuse_the_preprocessing(family: str, tmp_path: Path) -> None:
    plain = {"kind": "image", "height": 32, "width": 24, "channels": 3}
    keras.utils.set_random_seed(0)
    if family == "torch":
        net = regraft.load(Conv(3), classes=ABC, inputs=(3, 32, 24), preprocessing=plain)
    else:
        sides = [keras.Input((32, 24, 3)), layers.Conv2D(4, 3, activation="relu"), layers.GlobalAveragePooling2D(), layers.Dense(3)]
        net = regraft.load(keras.Sequential(sides), classes=ABC, preprocessing={**plain, "layout": "channels_last"})
    items = sample_items(net.preprocessing.to_dict())
    (found,) = net.logits([as_picture(items[0])])
    shifted = dataclasses.replace(net.head, bias=net.head.bias - found)
    path = net.with_head(shifted).export(tmp_path / "net.onnx", preprocessing=True)
    assert facts(path)["preprocessing_difference"] < 0.01


def test_a_graph_with_its_preprocessing_takes_rows_as_they_were_measured(tmp_path: Path) -> None:
    plain = {"kind": "array", "shape": [6], "mean": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "std": 2.0}
    net = regraft.load(multi_label()[0], preprocessing=plain)
    path = net.export(tmp_path / "net.onnx", preprocessing=True)
    rows = STEPS[:, 0] * 3 + 2
    assert np.allclose(run(path, input=rows)["probabilities"], net.predict(rows).probabilities, atol=1e-5)
    with_columns = regraft.load(torch_examples.Cnn(3), classes=ABC, inputs=(1, 8, 8)).with_columns(2)
    inner = {"kind": "image", "height": 8, "width": 8, "channels": 1}
    with_columns = regraft.load(
        with_columns, preprocessing={"kind": "columns", "inner": inner, "names": ["x", "y"], "mean": [5.0, 7.0], "std": [2.0, 3.0]}
    )
    bias = np.asarray(with_columns.rows(with_columns.head.layer)[1])
    weight = np.random.default_rng(0).normal(size=with_columns.rows(with_columns.head.layer)[0].shape).astype(np.float32)
    with_columns.set_rows_(with_columns.head.layer, weight, bias=bias)
    with_columns.export(tmp_path / "columns.onnx", preprocessing=True)
    told = facts(tmp_path / "columns.onnx")
    assert told["preprocessing_inside"] and told["preprocessing_difference"] < 0.01


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"kind": "audio"}, "'audio' need a tokenizer or a resampling"),
        ({"kind": "image", "height": 8, "width": 8, "channels": 1, "as_is": True}, "normalised already"),
    ],
)
def test_a_preprocessing_that_is_no_graph_is_refused(plain: dict[str, Any], said: str, tmp_path: Path) -> None:
    net = regraft.load(torch_cnn()[0])
    net.preprocessing = type("Plain", (), {"to_dict": lambda self: plain})()
    with pytest.raises(NetworkError, match=said):
        net.export(tmp_path / "net.onnx", preprocessing=True)
    with pytest.raises(SettingError, match=r"goes with a path that ends in '\.onnx'"):
        net.export(tmp_path / "net.pt2", preprocessing=True)
    assert not list(tmp_path.iterdir())


class Counts(nn.Module):
    """Depends on the number of examples in a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(inputs + len(inputs.tolist()))


def test_what_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    net = regraft.load(Counts(), inputs=(6,))
    with pytest.raises(NetworkError, match=r"cannot be written as an ONNX file: .*Nor can PyTorch export it as \.pt2: save it"):
        net.export(tmp_path / "net.onnx")
    with pytest.raises(NetworkError, match=r"cannot be written as an exported program: .*or save it"):
        net.export(tmp_path / "net.pt2")
    with pytest.raises(NetworkError, match=r"ends in '\.pt2', '\.onnx' or '\.pmml'"):
        net.export(tmp_path / "net.h5")
    middle = [layers.ConvLSTM2D(2, 2, name="cells"), layers.Flatten(), layers.Dense(3)]
    net = regraft.load(keras.Sequential([keras.Input((2, 4, 4, 1)), *middle]))
    both = r"'cells' \(ConvLSTM2D\); its forward fixes the number of examples in a batch\. Export it as \.keras"
    with pytest.raises(NetworkError, match=both) as caught:
        net.export(tmp_path / "net.onnx")
    assert str(caught.value).count("Export") == 1
    assert not list(tmp_path.iterdir())


def test_networks_that_compute_in_16_bits_are_compared_as_such(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu"), layers.Dense(3)])
    finally:
        keras.config.set_dtype_policy("float32")
    net = regraft.load(model, classes=ABC)
    expected, path = net.logits(STEPS[:, 0]), net.export(tmp_path / "net.onnx")
    assert np.allclose(run(path, input=STEPS[:, 0])["logits"], expected, atol=1e-2 * np.abs(expected).max())


@pytest.mark.parametrize("make", [torch_cnn, keras_pictures, keras_lstm])
def test_exported_files_say_nothing_of_the_machine_that_wrote_them(
    make: Callable[[], tuple[regraft.Network, np.ndarray]], tmp_path: Path
) -> None:
    net, _ = make()
    files = [net.export(tmp_path / f"x{ending}") for ending in (".onnx", ".pt2")]
    files += [file for file in Path(net.save(tmp_path / "kept")).rglob("*") if file.is_file()]
    for file in files:
        content = file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as parts:
                content = b"".join(map(parts.read, parts.namelist()))
        for place in (Path(torch.__file__).parent, Path(regraft.__file__).parent, Path(__file__).parent):
            assert str(place).encode() not in content, file.name
        assert b"stack_trace" not in content and b"def forward" not in content, file.name


@pytest.mark.parametrize("make", [torch_cnn, keras_pictures, keras_lstm])
def test_weights_that_are_apart_while_a_file_is_proven_are_in_it_again(
    make: Callable[[], tuple[regraft.Network, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, items = make()
    net.export(tmp_path / "whole.onnx")
    monkeypatch.setattr(onnx_files, "_APART", 0)
    monkeypatch.setattr(onnx_form, "_LEAST", 100)
    net.export(tmp_path / "apart.onnx")
    assert (tmp_path / "apart.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["apart.onnx", "whole.onnx"]
    found = runtime.InferenceSession(str(tmp_path / "apart.onnx")).run(["logits"], {"input": items})[0]
    np.testing.assert_allclose(found, net.logits(items), atol=1e-5)
