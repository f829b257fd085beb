"""ONNX files of many tools as networks that are adapted: what ONNX Runtime computes of the file is what the network says."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import regraft
from regraft.errors import NetworkError, RegraftError, UnsafeFileError
from regraft.freezing.identity import frozen_identity

pytest.importorskip("onnx2pytorch")
runtime = pytest.importorskip("onnxruntime")
keras = pytest.importorskip("keras")
ABC = ("a", "b", "c")
DRAWS = np.random.default_rng(0)
Made = tuple[np.ndarray, tuple[str, ...] | None, str]
"""Items; the classes that the network should have; the kind of its head."""


FEW = 3
"""Steps of recurrent networks: the exporter of PyTorch writes each of them out."""


class Steps(nn.Module):
    """A recurrent network of PyTorch, which reads the last step, or the last states of both directions."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, *, depth: int = 1, states: bool = False) -> None:
        super().__init__()
        self.steps, self.states = kind(6, 5, depth, batch_first=True, bidirectional=True), states
        self.head = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, last = self.steps(x)
        last = last[0] if isinstance(last, tuple) else last
        return self.head(torch.cat([last[-2], last[-1]], 1) if self.states else outputs[:, -1])


def _export(net: regraft.Network, path: Path) -> None:
    net.export(path)


def torch_pictures(path: Path) -> Made:
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    _export(regraft.load(stack, classes=ABC, inputs=(1, 8, 8)), path)
    return DRAWS.normal(size=(24, 1, 8, 8)).astype(np.float32), ABC, "classification"


def torch_steps(path: Path, **how: Any) -> Made:
    torch.manual_seed(0)
    _export(regraft.load(Steps(**how), classes=ABC, inputs=(FEW, 6)), path)
    return DRAWS.normal(size=(24, FEW, 6)).astype(np.float32), ABC, "classification"


def keras_pictures(path: Path) -> Made:
    layers = keras.layers
    stack = [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization(), layers.MaxPooling2D()]
    _export(regraft.load(keras.Sequential([*stack, layers.Flatten(), layers.Dense(3)]), classes=ABC), path)
    return DRAWS.normal(size=(24, 8, 8, 1)).astype(np.float32), ABC, "classification"


def keras_steps(path: Path, *cells: Any) -> Made:
    layers = keras.layers
    steps = cells or (layers.LSTM(5, return_sequences=True), layers.LSTM(4))
    stack = [keras.Input((FEW, 6)), *steps, layers.Dense(3, activation="softmax")]
    _export(regraft.load(keras.Sequential(stack), classes=ABC), path)
    return DRAWS.normal(size=(24, FEW, 6)).astype(np.float32), ABC, "classification"


def _sklearn(path: Path, targets: Any, *, options: dict[str, Any]) -> Made:
    skl2onnx = pytest.importorskip("skl2onnx")
    networks = pytest.importorskip("sklearn.neural_network")
    rows = DRAWS.normal(size=(60, 4)).astype(np.float32)
    kind = networks.MLPRegressor if np.asarray(targets).dtype.kind == "f" else networks.MLPClassifier
    fitted = kind(hidden_layer_sizes=(8,), max_iter=20).fit(rows, targets)
    path.write_bytes(skl2onnx.to_onnx(fitted, rows[:1], options={id(fitted): options} if options else None).SerializeToString())
    classes = None if kind is networks.MLPRegressor else tuple(map(str, fitted.classes_))
    return rows[:24], classes, "regression" if classes is None else "classification"


@pytest.mark.filterwarnings("ignore")  # the training is not to converge
def sklearn_names(path: Path) -> Made:
    return _sklearn(path, np.array(["x", "y", "z"] * 20), options={"zipmap": False})


def sklearn_mapping(path: Path) -> Made:
    """Probabilities come out as a mapping from names."""
    return _sklearn(path, np.array(["x", "y", "z"] * 20), options={})


def sklearn_two(path: Path) -> Made:
    return _sklearn(path, np.array([3, 5] * 30), options={"zipmap": False})


def sklearn_scaled(path: Path) -> Made:
    """A pipeline: columns are scaled, by ONNX's operators for machine learning."""
    skl2onnx, *parts = map(pytest.importorskip, ("skl2onnx", "sklearn.preprocessing", "sklearn.neural_network", "sklearn.pipeline"))
    rows, names = (5 + 3 * DRAWS.normal(size=(60, 4))).astype(np.float32), np.array(["x", "y"] * 30)
    scaler, network = parts[0].StandardScaler(), parts[1].MLPClassifier((8,), max_iter=20)
    fitted = parts[2].make_pipeline(scaler, network).fit(rows, names)
    path.write_bytes(skl2onnx.to_onnx(fitted, rows[:1], options={id(network): {"zipmap": False}}).SerializeToString())
    return rows[:24], ("x", "y"), "classification"


def sklearn_numbers(path: Path) -> Made:
    return _sklearn(path, DRAWS.normal(size=60), options={})


def matlab_steps(path: Path, *, opset: int = 11) -> Made:
    """As MATLAB's exportONNXNetwork writes a sequence classifier: time first, an LSTM with its own states, Gemm, Softmax over axis 1."""
    size, hidden = 6, 5
    held = {
        "lstm_W": DRAWS.normal(size=(1, 4 * hidden, size)) / 3,
        "lstm_R": DRAWS.normal(size=(1, 4 * hidden, hidden)) / 3,
        "lstm_B": DRAWS.normal(size=(1, 8 * hidden)) / 3,
        "fc_W": DRAWS.normal(size=(3, hidden)),
        "fc_B": DRAWS.normal(size=3),
    }
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in held.items()]
    nodes = [
        helper.make_node("Transpose", ["sequenceinput"], ["time_first"], perm=[1, 0, 2], name="sequenceinput_Transpose"),
        helper.make_node("LSTM", ["time_first", "lstm_W", "lstm_R", "lstm_B"], ["", "lstm_Y_h"], hidden_size=hidden, name="lstm"),
        helper.make_node("Squeeze", ["lstm_Y_h"], ["lstm_out"], axes=[0], name="lstm_Squeeze"),
        helper.make_node("Gemm", ["lstm_out", "fc_W", "fc_B"], ["fc"], transB=1, name="fc/Gemm"),
        helper.make_node("Softmax", ["fc"], ["softmax"], axis=1, name="softmax"),
    ]
    value = helper.make_tensor_value_info
    entry, end = value("sequenceinput", TensorProto.FLOAT, ["N", "S", size]), value("softmax", TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "net", [entry], [end], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name="MathWorks Deep Learning Toolbox")
    path.write_bytes(model.SerializeToString())
    return DRAWS.normal(size=(24, 7, size)).astype(np.float32), None, "classification"


def matlab_pictures(path: Path) -> Made:
    """As MATLAB writes a picture classifier: weights that are inputs, too, a mean that is subtracted, Gemm after Flatten."""
    held = {
        "imageinput_Mean": np.full((1, 1, 8, 8), 0.5),
        "conv_W": DRAWS.normal(size=(4, 1, 3, 3)) / 3,
        "conv_B": DRAWS.normal(size=4),
        "fc_W": DRAWS.normal(size=(3, 64)),
        "fc_B": DRAWS.normal(size=3),
    }
    tensors = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in held.items()]
    nodes = [
        helper.make_node("Sub", ["imageinput", "imageinput_Mean"], ["imageinput_Sub"]),
        helper.make_node("Conv", ["imageinput_Sub", "conv_W", "conv_B"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["maxpool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["maxpool"], ["flatten"]),
        helper.make_node("Gemm", ["flatten", "fc_W", "fc_B"], ["fc"], transB=1),
        helper.make_node("Softmax", ["fc"], ["softmax"]),
    ]
    value = helper.make_tensor_value_info
    entries = [
        value("imageinput", TensorProto.FLOAT, ["N", 1, 8, 8]),
        *(value(one.name, TensorProto.FLOAT, list(one.dims)) for one in tensors),
    ]
    graph = helper.make_graph(nodes, "net", entries, [value("softmax", TensorProto.FLOAT, ["N", 3])], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)
    helper.set_model_props(model, {"classes": json.dumps(ABC)})
    path.write_bytes(model.SerializeToString())
    return DRAWS.normal(size=(24, 1, 8, 8)).astype(np.float32), ABC, "classification"


FILES: dict[str, Callable[[Path], Made]] = {
    "torch pictures": torch_pictures,
    "torch steps": torch_steps,
    "keras pictures": keras_pictures,
    "keras steps": keras_steps,
    "sklearn names": sklearn_names,
    "sklearn mapping": sklearn_mapping,
    "sklearn two": sklearn_two,
    "sklearn scaled": sklearn_scaled,
    "sklearn numbers": sklearn_numbers,
    "matlab steps": matlab_steps,
    "matlab pictures": matlab_pictures,
}
_PROBABILITIES = ("probabilities", "output_probability", "softmax")


def _expected(path: Path, items: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(path)
    found = dict(zip([one.name for one in session.get_outputs()], session.run(None, {session.get_inputs()[0].name: items}), strict=True))
    values = next((found[name] for name in _PROBABILITIES if name in found), None)
    if isinstance(values, list):  # one mapping an item
        return np.array([list(row.values()) for row in values])
    return np.asarray(found["variable"] if values is None else values)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_opened_adapted_and_opened_again(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    items, classes, kind = FILES[name](path)
    net = regraft.load(path)
    assert (net.classes, net.head.kind, net.origin["source"]) == (classes, kind, "onnx")
    expected = _expected(path, items)
    np.testing.assert_allclose(net.predict(items).probabilities, expected, atol=2e-5)
    assert net.features(items).shape == (len(items), net.head.features)
    net.save(tmp_path / "plain")
    again = regraft.load(tmp_path / "plain")
    assert (again.classes, again.origin["source"]) == (classes, "onnx")
    np.testing.assert_array_equal(again.logits(items), net.logits(items))
    before = {key: values.clone() for key, values in net.state().items()}
    labels = ["u", "v"] * (len(items) // 2)
    for strategy in ("head", "full"):
        result = regraft.adapt(net, (items, labels), strategy=strategy, epochs=1, device="cpu", cache="memory")
        result.network.save(tmp_path / strategy)
        opened = regraft.load(tmp_path / strategy)
        assert opened.classes == ("u", "v")
        np.testing.assert_array_equal(opened.logits(items), result.network.logits(items))
        moved = [key for key, values in result.network.state().items() if key in before and not torch.equal(values, before[key])]
        assert strategy == "full" or all(key.startswith(net.head.layer) for key in moved), moved
    for key, values in net.state().items():
        assert torch.equal(values, before[key])
    net.freeze_(())
    net.scores(torch.from_numpy(items))[net.head.task].square().sum().backward()
    still = [key for key, values in net.module.named_parameters() if values.grad is None or not values.grad.any()]
    assert all(key.endswith("weight_hh_l0_reverse") for key in still), still  # of the last step alone, backwards is one step


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_probe_of_all_depths_comes_back_trainable(family: str, tmp_path: Path) -> None:
    """Its pooling multiplies maps by a constant that stands left."""
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    labels, layers = np.arange(36) % 3, keras.layers
    shape = (2, 12, 10) if family == "torch" else (12, 10, 2)
    items = DRAWS.normal(labels.reshape(-1, 1, 1, 1), size=(36, *shape)).astype(np.float32)
    if family == "torch":
        module: Any = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
        )
    else:
        stack = [keras.Input(shape), layers.Conv2D(4, 3, activation="relu"), layers.Conv2D(5, 3), layers.GlobalAveragePooling2D()]
        module = keras.Sequential([*stack, layers.Dense(3)])
    net = regraft.load(module, **({"inputs": shape} if family == "torch" else {}))
    probed = regraft.adapt(net, (items, np.array(ABC)[labels]), strategy="probe", cache="memory").network
    assert len(probed.edits) > 1
    found = regraft.load(probed.export(tmp_path / "x.onnx"))
    assert "converted from ONNX" in found.account.notes[0] and found.classes == ABC
    expected = probed.logits(items)
    np.testing.assert_allclose(found.logits(items), expected, atol=1e-5 * np.abs(expected).max())
    opened = regraft.load(found.save(tmp_path / "kept"))
    np.testing.assert_array_equal(opened.logits(items), found.logits(items))
    opened.freeze_(())
    opened.scores(torch.from_numpy(items))[opened.head.task].square().sum().backward()
    convolutions = [part for part in opened.module.modules() if isinstance(part, nn.Conv2d)]
    assert len(convolutions) == 2 and all(part.weight.grad is not None and part.weight.grad.any() for part in convolutions)


class Signal(nn.Module):
    """Convolutions over time; the mean is written with axes that come and go."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(7, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.AdaptiveAvgPool1d(1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.net(x).squeeze(-1))


def torch_signals(path: Path) -> Made:
    torch.manual_seed(0)
    _export(regraft.load(Signal(), classes=ABC, inputs=(7, 6)), path)
    return DRAWS.normal(size=(24, 7, 6)).astype(np.float32), ABC, "classification"


FORMS = (".onnx", ".pt2", "keras")


class Beside(nn.Module):
    """Steps and facts, each by its own layers. The last of them before the head is no layer of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.facts, self.head = nn.LSTM(6, 5, batch_first=True), nn.Linear(4, 5), nn.Linear(10, 3)

    def forward(self, steps: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.steps(steps)[0][:, -1], self.facts(facts).tanh()], 1))


def test_a_probe_on_a_network_of_a_file_is_exported_again(tmp_path: Path) -> None:
    """The layers behind its taps are gone; what joins them still runs."""
    torch.manual_seed(0)
    labels = np.arange(36) % 3
    items = {name: DRAWS.normal(size=(36, *shape)).astype(np.float32) for name, shape in (("steps", (7, 6)), ("facts", (4,)))}
    items["steps"] += labels[:, None, None]
    regraft.load(Beside(), classes=ABC, inputs={"steps": (7, 6), "facts": (4,)}).export(tmp_path / "x.onnx")
    net = regraft.load(tmp_path / "x.onnx")
    probed = regraft.adapt(net, (items, np.array(ABC)[labels]), strategy="probe", cache="memory").network
    assert len(probed.edits) > 1
    expected = probed.logits(items)
    for made in (regraft.load(probed.export(tmp_path / "y.onnx")), probed.to("keras")):
        np.testing.assert_allclose(made.logits(items), expected, atol=1e-5 * np.abs(expected).max())
    probed.export(tmp_path / "y.pt2")


FURTHER: dict[str, tuple[Callable[[Path], Made], tuple[str, ...]]] = {
    "convolutions": (torch_pictures, FORMS),
    "convolutions of Keras": (keras_pictures, FORMS),
    "signals": (torch_signals, FORMS),
    "LSTM": (torch_steps, FORMS),
    "states of a deep GRU": (lambda path: torch_steps(path, kind=nn.GRU, depth=2, states=True), FORMS),
    "states of an RNN": (lambda path: torch_steps(path, kind=nn.RNN, states=True), ("keras",)),
    "LSTM of Keras": (keras_steps, FORMS),
    "LSTM of Keras from the last step": (lambda path: keras_steps(path, keras.layers.LSTM(4, go_backwards=True)), FORMS),
    "GRU of Keras that resets first": (
        lambda path: keras_steps(path, keras.layers.Bidirectional(keras.layers.GRU(4, reset_after=False))),
        FORMS,
    ),
    "both ways, added": (lambda path: keras_steps(path, keras.layers.Bidirectional(keras.layers.SimpleRNN(4), "sum")), ("keras",)),
    "LSTM of MATLAB": (matlab_steps, (".onnx", "keras")),  # the logits of its .pt2 file are logarithms of probabilities
}


@pytest.mark.parametrize("name", FURTHER)
def test_a_network_of_a_file_goes_on_to_other_forms(name: str, tmp_path: Path) -> None:
    make, forms = FURTHER[name]
    items, _, _ = make(tmp_path / "x.onnx")
    net = regraft.load(tmp_path / "x.onnx")
    assert "converted from ONNX" in net.account.notes[0]
    expected = net.logits(items)
    for form in forms:
        if form == "keras":
            made, own = net.to("keras"), np.moveaxis(items, 1, -1) if items.ndim == 4 else items
        else:
            made, own = regraft.load(net.export(tmp_path / f"y{form}"), trust=True), items
        np.testing.assert_allclose(made.logits(own), expected, atol=1e-5 * np.abs(expected).max())


def _bert() -> regraft.Network:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 48}
    torch.manual_seed(0)
    module = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, num_labels=3, **sizes))
    return regraft.load(module, classes=ABC, inputs={"input_ids": (9,), "attention_mask": (9,)})


def _vit() -> regraft.Network:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=24, num_classes=3)
    return regraft.load(module, classes=ABC, inputs=(3, 16, 16))


def _encoder() -> regraft.Network:
    class Encoder(nn.Module):
        """Layers of attention over steps of any number."""

        def __init__(self) -> None:
            super().__init__()
            self.steps, self.head = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.steps(x).mean(1))

    torch.manual_seed(0)
    return regraft.load(Encoder(), classes=ABC, inputs=(None, 8))


def _open_steps() -> regraft.Network:
    torch.manual_seed(0)
    return regraft.load(Steps(), classes=ABC, inputs=(None, 6))


def _keras_tokens(*middle: Any, mask: bool = False) -> regraft.Network:
    layers = keras.layers
    stack = [keras.Input((None,), dtype="int32"), layers.Embedding(30, 8, mask_zero=mask), *middle, layers.Dense(3)]
    return regraft.load(keras.Sequential(stack), classes=ABC)


def _keras_steps(mask: bool = False) -> regraft.Network:
    keras.utils.set_random_seed(0)
    return _keras_tokens(keras.layers.Bidirectional(keras.layers.LSTM(4)), mask=mask)


def _keras_attention() -> regraft.Network:
    keras.utils.set_random_seed(0)
    layers, entry = keras.layers, keras.Input((None,), dtype="int32")
    value = layers.Embedding(30, 8)(entry)
    value = layers.LayerNormalization()(layers.Add()([value, layers.MultiHeadAttention(2, 4)(value, value)]))
    value = layers.LayerNormalization()(layers.Add()([value, layers.Dense(8)(layers.Dense(16, activation="gelu")(value))]))
    return regraft.load(keras.Model(entry, layers.Dense(3)(layers.GlobalAveragePooling1D()(value))), classes=ABC)


SIZED: dict[str, tuple[Callable[[], regraft.Network], str]] = {
    "BERT": (_bert, r"arange \(in '.*Range_arange'\)"),
    "ViT": (_vit, "calls expand"),
    "layers of attention": (_encoder, "'Reshape_view_1' calls reshape with a shape that mixes examples"),
    "LSTM over any length": (_open_steps, ""),
    "LSTM of Keras over tokens": (_keras_steps, ""),
    "LSTM of Keras over masked tokens": (lambda: _keras_steps(mask=True), r"cumsum \(in 'CumSum_cumsum'\)"),
    "attention of Keras": (_keras_attention, ""),
}
"""Networks whose graphs compute shapes from the number of examples and their length; what Keras lacks for them, if anything."""


def _drawn(net: regraft.Network, count: int, *, more: int) -> Any:
    """Examples of another number and length than those of the sample; masks leave out the ends of some."""
    draws, made = torch.Generator().manual_seed(count), {}
    sample = net.sample if isinstance(net.sample, dict) else {"": net.sample}
    for name, one in sample.items():
        shape = (count, one.shape[1] + more, *one.shape[2:]) if one.ndim < 4 else (count, *one.shape[1:])
        drawn = torch.randn(shape, generator=draws) if one.is_floating_point() else torch.randint(1, 30, shape, generator=draws)
        made[name] = drawn.to(one.dtype)
        if name == "attention_mask":
            made[name] = (torch.arange(shape[1]) < torch.randint(1, shape[1], (count, 1), generator=draws)).to(one.dtype)
        elif one.ndim == 2:
            made[name][1:, -2:] = 0
    return made if isinstance(net.sample, dict) else made[""]


def _scores(net: regraft.Network, items: Any) -> np.ndarray:
    with torch.no_grad():
        return net.scores(items)[next(iter(net.heads))].numpy()


@pytest.mark.parametrize("name", SIZED)
def test_a_network_whose_graph_computes_shapes_goes_on_to_other_forms(name: str, tmp_path: Path) -> None:
    make, lacking = SIZED[name]
    source = make()
    net = regraft.load(source.export(tmp_path / "x.onnx"))
    assert "converted from ONNX" in net.account.notes[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        made = [regraft.load(net.export(tmp_path / "y.onnx")), regraft.load(net.export(tmp_path / "y.pt2"), trust=True)]
    made += [regraft.load(net.save(tmp_path / "kept"))]
    if lacking:
        with pytest.raises(NetworkError, match=lacking):
            net.to("keras")
    else:
        made.append(regraft.load(net.to("keras").export(tmp_path / "y.keras")))
    for count, more in ((1, 0), (5, -2), (3, 6)):
        items = _drawn(source, count, more=more)
        expected = _scores(source, items)
        for one in (net, *made):
            np.testing.assert_allclose(_scores(one, items), expected, atol=1e-5 * np.abs(expected).max())


def _sized(path: Path, *nodes: tuple[str, list[str]]) -> Path:
    """A file whose graph computes the first size of a Reshape: "count" is the number of examples, the last node's output the size."""
    steps = [helper.make_node("Shape", ["x"], ["shape"]), helper.make_node("Gather", ["shape", "0"], ["count"])]
    steps += [helper.make_node(kind, read, [f"made{at}"]) for at, (kind, read) in enumerate(nodes, 1)]
    steps += [helper.make_node("Concat", [f"made{len(nodes)}", "4"], ["sizes"], axis=0)]
    steps += [helper.make_node("Reshape", ["x", "sizes"], ["same"]), helper.make_node("MatMul", ["same", "weight"], ["y"])]
    held = [numpy_helper.from_array(np.array([one]), str(one)) for one in (0, 1, 2, 4, 9)]
    held.append(numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "weight"))
    entry, end = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in (("x", 4), ("y", 3)))
    onnx.save(helper.make_model(helper.make_graph(steps, "net", [entry], [end], held), opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_sizes_are_those_of_onnx_also_below_zero(tmp_path: Path) -> None:
    """Division drops the fraction: below 9 examples, what is left of n - 9 is not above 0. Max takes any number of sizes."""
    left = [("Sub", ["count", "9"]), ("Div", ["made1", "2"]), ("Mul", ["made2", "2"]), ("Sub", ["made1", "made3"])]
    largest = [("Max", ["0", "made4", "1"]), ("Max", ["0", "made4"]), ("Sub", ["made5", "1"]), ("Add", ["made6", "made7"])]
    net = regraft.load(_sized(tmp_path / "x.onnx", *left, *largest, ("Add", ["made8", "count"])))
    assert "converted from ONNX" in net.account.notes[0]
    assert net.logits(DRAWS.normal(size=(8, 4)).astype(np.float32)).shape == (8, 3)


def test_sizes_without_end_are_refused(tmp_path: Path) -> None:
    """Numbers of 64 bits wrap; Python's numbers would grow until the memory is used up."""
    squares = [("Mul", [f"made{at}" if at else "9"] * 2) for at in range(40)]
    squares[0] = ("Add", ["count", "9"])
    net = regraft.load(_sized(tmp_path / "x.onnx", *squares, ("Mul", ["made40", "0"]), ("Add", ["made41", "count"])))
    assert "computes a size above" in net.account.notes[0]


def test_tables_and_norms_of_a_file_are_trained(tmp_path: Path) -> None:
    net = regraft.load(_bert().export(tmp_path / "x.onnx"))
    net.freeze_(())
    net.scores(net.sample)[net.head.task].square().sum().backward()
    moved = {name for name, values in net.module.named_parameters() if values.grad is not None and values.grad.any()}
    for part in ("word_embeddings_weight", "position_embeddings_weight", "LayerNorm_weight", "LayerNorm_bias"):
        assert any(name.endswith(part) for name in moved), part


@pytest.mark.parametrize("opset", [9, *(pytest.param(one, marks=pytest.mark.slow) for one in (10, 12)), 13])
def test_the_opsets_of_matlab(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    if opset < 13:  # from 13 on the axes of Squeeze are an input
        items, _, _ = matlab_steps(path, opset=opset)
    else:
        items, _, _ = matlab_steps(path, opset=12)
        path.write_bytes(onnx.version_converter.convert_version(onnx.load(path), 13).SerializeToString())
    np.testing.assert_allclose(regraft.load(path).predict(items).probabilities, _expected(path, items), atol=2e-5)


def test_kinds_and_thresholds_of_our_own_files_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = regraft.load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), classes=ABC, inputs=(4,))
    net.rename_task_("main", "tags")
    head = net.head.__class__(**{**vars(net.head), "kind": "multi-label", "activation": "sigmoid", "thresholds": (0.4, 0.5, 0.6)})
    net.heads = {"tags": head}
    net.export(tmp_path / "x.onnx")
    found = regraft.load(tmp_path / "x.onnx")
    assert (found.head.task, found.head.kind, found.head.thresholds) == ("tags", "multi-label", (0.4, 0.5, 0.6))
    items = DRAWS.normal(size=(9, 4)).astype(np.float32)
    assert found.predict(items).labels == net.predict(items).labels


@pytest.mark.parametrize("family", ["torch", "keras"])
@pytest.mark.parametrize("classes", [("no", "yes"), None])
def test_a_head_of_one_row_comes_back_with_its_two_classes(family: str, classes: tuple[str, str] | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    stack = [keras.Input((4,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())
    net = regraft.load(keras.Sequential(stack) if family == "keras" else plain, classes=classes, inputs=(4,))
    found = regraft.load(net.export(tmp_path / "x.onnx"))
    assert found.head.binary and found.classes == classes and "one output for two classes" in found.summary()
    items = DRAWS.normal(size=(9, 4)).astype(np.float32)
    np.testing.assert_allclose(found.predict(items).probabilities, net.predict(items).probabilities, atol=1e-6)
    opened = regraft.load(regraft.retarget(found, ["yes", "new", "no"]).save(tmp_path / "kept"))
    if classes:
        np.testing.assert_allclose(opened.logits(items)[:, [2, 0]], found.logits(items), atol=1e-6)


class _Facts(nn.Module):
    """Takes two tensors by name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 5), nn.Linear(8, 3)

    def forward(self, row: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        return self.head(torch.cat([self.first(row).tanh(), facts], 1))


def test_inputs_keep_their_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = regraft.load(_Facts(), classes=ABC, inputs={"row": (4,), "facts": (3,)})
    items = {"row": DRAWS.normal(size=(9, 4)).astype(np.float32), "facts": DRAWS.normal(size=(9, 3)).astype(np.float32)}
    found = regraft.load(net.export(tmp_path / "x.onnx"))
    assert list(found.sample) == ["row", "facts"] and "converted from ONNX" in found.account.notes[0]
    for one in (found, regraft.load(found.save(tmp_path / "kept"))):
        np.testing.assert_allclose(one.logits(items), net.logits(items), atol=1e-5)


def _graph(*nodes: Any, tensors: Any = (), shape: Any = ("N", 4), **model: Any) -> Any:
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(DRAWS.normal(size=(4, 3)).astype(np.float32), "w")
    own = [*nodes, helper.make_node("MatMul", ["x1" if nodes else "x", "w"], ["y"])]
    graph = helper.make_graph(
        own, "g", [value("x", TensorProto.FLOAT, list(shape))], [value("y", TensorProto.FLOAT, None)], [weight, *tensors]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), *model.pop("domains", [])], ir_version=8)


def _grown(size: int) -> Any:
    """A constant of as many numbers as a short file declares."""
    shape = numpy_helper.from_array(np.array([size, 4], np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["x1"]),
    ]
    return _graph(*nodes, tensors=[shape])


def _external() -> Any:
    model = _graph()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another domain": (
        lambda: _graph(
            helper.make_node("EPContext", ["x"], ["x1"], domain="com.microsoft"), domains=[helper.make_opsetid("com.microsoft", 1)]
        ),
        r"com.microsoft: EPContext.*standard operators",
    ),
    "no operator": (lambda: _graph(helper.make_node("Load", ["x"], ["x1"])), r"ONNX: Load"),
    "another function of torch": (lambda: _graph(helper.make_node("Compile", ["x"], ["x1"])), r"ONNX: Compile"),
    "external data": (_external, r"takes its tensor 'w' from '/etc/passwd'"),
    "a huge constant": (lambda: _grown(2**40), r"cannot be run|does not take"),
    "a fixed batch": (lambda: _graph(shape=(3, 4)), r"\[3, 4\], whose first axis is fixed; expected a free batch axis"),
    "a fixed batch of two, as the example": (lambda: _graph(shape=(2, 4)), r"\[2, 4\], whose first axis is fixed; expected a free"),
    "a number": (lambda: _graph(shape=()), r"expected batches of numbers|does not take"),
    "no input": (lambda: _graph(helper.make_node("Transpose", ["w"], ["x1"])), r"takes no inputs"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    path = tmp_path / "x.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(NetworkError, match=message) as told:
        regraft.load(path)
    assert isinstance(told.value, UnsafeFileError) == (name == "external data")


def test_a_file_with_the_preprocessing_in_it_is_only_run(tmp_path: Path) -> None:
    net = regraft.load(nn.Linear(4, 3), classes=ABC, inputs=(4,), preprocessing={"kind": "array", "mean": 1.0, "std": 2.0})
    net.export(tmp_path / "x.onnx", preprocessing=True)
    with pytest.raises(NetworkError, match="preprocessing in its graph"):
        regraft.load(tmp_path / "x.onnx")


def test_a_folder_whose_graph_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    torch_pictures(path)
    regraft.load(path).save(tmp_path / "saved")
    (tmp_path / "saved" / "network.onnx").write_bytes(_graph().SerializeToString())
    with pytest.raises(RegraftError, match=r"network\.onnx|do not fit"):
        regraft.load(tmp_path / "saved")
    (tmp_path / "saved" / "network.onnx").unlink()
    with pytest.raises(RegraftError, match=r"network\.onnx"):
        regraft.load(tmp_path / "saved")


@pytest.mark.filterwarnings("ignore")  # the training is not to converge
def test_a_head_of_scikit_learn_keeps_its_rows_by_name(tmp_path: Path) -> None:
    """Its graph adds the bias as a row of shape (1, C)."""
    sklearn_names(tmp_path / "net.onnx")
    net = regraft.load(tmp_path / "net.onnx")
    changed = regraft.retarget(net, ["z", "new", "x"])
    assert set(changed.account.entries["kept"]) == {"x", "z"}
    for name in ("x", "z"):
        assert np.array_equal(changed.head.row(name)[0], net.head.row(name)[0]) and changed.head.row(name)[1] == net.head.row(name)[1]


@pytest.mark.parametrize("make", [torch_pictures, torch_steps, keras_pictures, sklearn_names])
def test_the_frozen_part_has_an_identity_so_that_its_cache_is_used_again(make: Callable[[Path], Made], tmp_path: Path) -> None:
    make(tmp_path / "x.onnx")
    first, second = (regraft.load(tmp_path / "x.onnx") for _ in range(2))
    identities = [frozen_identity(net, [layer.name for layer in net.layers]) for net in (first, second)]
    assert identities[0].digest == identities[1].digest and identities[0].opaque == ()
