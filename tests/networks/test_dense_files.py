"""Networks as PMML: what another reader computes from the file is what the network predicts, and networks of other tools come in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from tests import torch_examples
from torch import nn

import regraft
from regraft.errors import NetworkError, SettingError, UnsafeFileError

keras = pytest.importorskip("keras")
layers = keras.layers

ROWS = (np.random.default_rng(0).normal(size=(40, 4)) * [2, 0.5, 3, 1] + [5, 3, 4, 1]).astype(np.float32)
SCALED = {"kind": "array", "shape": [4], "mean": [5.0, 3.0, 4.0, 1.0], "std": [2.0, 0.5, 3.0, 1.0]}
COLUMNS = ["sepal length", "b<&>", "c", "d"]
ABC = ["a", "b & c", "c"]


def torch_relu() -> regraft.Network:
    torch.manual_seed(0)
    parts = [nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)]
    parts[1].running_mean.normal_()
    parts[1].running_var.uniform_(0.5, 2)
    return regraft.load(nn.Sequential(*parts), classes=ABC, inputs=(4,), preprocessing=SCALED)


def keras_tanh() -> regraft.Network:
    keras.utils.set_random_seed(0)
    parts = [keras.Input((4,)), layers.Dense(8, activation="tanh"), layers.BatchNormalization(), layers.Dense(6, activation="sigmoid")]
    return regraft.load(keras.Sequential([*parts, layers.Dense(3, activation="softmax")]), classes=ABC, preprocessing=SCALED)


def keras_binary() -> regraft.Network:
    parts = [keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(1, activation="sigmoid")]
    return regraft.load(keras.Sequential(parts), classes=["no", "yes"], preprocessing={"kind": "array", "shape": [4]})


CASES = (torch_relu, keras_tanh, keras_binary)

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{"identity": lambda z: z, "rectifier": lambda z: np.maximum(z, 0), "logistic": lambda z: 1 / (1 + np.exp(-z)), "tanh": np.tanh},
    **{"arctan": lambda z: 2 * np.arctan(z) / np.pi, "square": lambda z: z * z},
}


def by_the_standard(path: Path, rows: np.ndarray, columns: list[str]) -> np.ndarray:
    """Compute a PMML file as the standard describes it, neuron by neuron."""
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text.replace(" xmlns=", " unused="))
    model, values = root.find("NeuralNetwork"), {}
    assert model is not None
    for each in model.iterfind("NeuralInputs/NeuralInput"):
        line = each.find("DerivedField")[0]
        column = rows[:, columns.index(line.get("field"))].astype(float)
        if line.tag == "NormContinuous":
            (low, first), (high, last) = ((float(one.get("orig")), float(one.get("norm"))) for one in line)
            column = first + (column - low) / (high - low) * (last - first)
        values[each.get("id")] = column
    method = None
    for layer in model.iterfind("NeuralLayer"):
        made, method = {}, layer.get("normalizationMethod")
        for neuron in layer:
            total = float(neuron.get("bias")) + sum(float(con.get("weight")) * values[con.get("from")] for con in neuron)
            made[neuron.get("id")] = ACTIVATIONS[layer.get("activationFunction")](total)
        values = made
    outputs = model.findall("NeuralOutputs/NeuralOutput")
    found = np.stack([values[one.get("outputNeuron")] for one in outputs], 1)
    return np.exp(found) / np.exp(found).sum(1, keepdims=True) if method == "softmax" else found


VERSIONS = ("3.2", "4.1", "4.4")


@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_file_computes_what_the_network_predicts(make: Callable[[], Any], version: str, tmp_path: Path) -> None:
    net = make()
    path = net.export(tmp_path / "net.pmml", pmml_version=version, columns=COLUMNS, target="kind")
    assert np.allclose(by_the_standard(path, ROWS, COLUMNS), net.predict(ROWS).probabilities, atol=1e-6)
    text = path.read_text(encoding="utf-8")
    assert f'version="{version}"' in text and ("rectifier" in text) <= (version == "4.4")
    assert [each in text for each in ('name="sepal length"', 'value="b &amp; c"', 'name="kind"')] == [True, make is not keras_binary, True]


@pytest.mark.parametrize(
    ("make", "version"),
    [
        pytest.param(make, version, marks=() if VERSIONS[at % 3] == version else pytest.mark.slow)
        for at, make in enumerate(CASES)
        for version in VERSIONS
    ],
)
def test_a_file_comes_in_as_a_network_that_is_trained_and_saved(make: Callable[[], Any], version: str, tmp_path: Path) -> None:
    net = make()
    again = regraft.load(net.export(tmp_path / "net.pmml", columns=COLUMNS, pmml_version=version))
    assert again.classes == net.classes and "takes the columns sepal length, b<&>, c, d" in " ".join(again.account.notes)
    assert np.allclose(again.predict(ROWS).probabilities, net.predict(ROWS).probabilities, atol=1e-6)
    labels = np.where(ROWS[:, 0] > 5, net.classes[0], "new")
    result = regraft.adapt(again, (ROWS, labels), strategy="full", epochs=2, cache="memory")
    result.network.save(tmp_path / "saved")
    opened = regraft.load(tmp_path / "saved")
    assert np.array_equal(opened.logits(ROWS), result.network.logits(ROWS)) and opened.origin["source"].startswith("dense:4,")


def test_a_value_its_head_and_arrays_of_several_axes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = regraft.load(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 1)), inputs=(4,))
    net = regraft.retarget(net, classes=["price"], kind="regression")
    path = net.export(tmp_path / "value.pmml", columns=COLUMNS, pmml_version="4.1")
    assert np.allclose(by_the_standard(path, ROWS, COLUMNS), net.logits(ROWS), atol=1e-5)
    assert np.allclose(regraft.load(path).logits(ROWS), net.logits(ROWS), atol=1e-5)
    path = net.export(tmp_path / "head.pmml", what="head")
    features = net.features(ROWS)
    assert np.allclose(by_the_standard(path, features, ["feature1", "feature2", "feature3"]), net.logits(ROWS), atol=1e-5)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    plain = {"kind": "array", "shape": [2, 2], "mean": 1.0, "std": 3.0}
    square = regraft.load(module, classes=ABC, inputs=(2, 2), preprocessing=plain)
    path = square.export(tmp_path / "square.pmml")
    expected = square.predict(ROWS.reshape(-1, 2, 2)).probabilities
    assert np.allclose(by_the_standard(path, ROWS, ["x1", "x2", "x3", "x4"]), expected, atol=1e-6)


class Skip(nn.Module):
    """Reads its input twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.first(inputs)) + inputs)


class _Last(nn.Module):
    def forward(self, read: tuple[torch.Tensor, Any]) -> torch.Tensor:
        return read[0][:, -1]


def refused_networks() -> dict[str, Any]:
    multi = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid())
    gelu = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 3))
    norm = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3))
    picture = {"kind": "image", "height": 2, "width": 2, "channels": 1}
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    steps = nn.Sequential(nn.LSTM(4, 3), _Last(), nn.Linear(3, 3))
    return {
        "this network has others: 'conv1' .Conv2d., 'conv2' .Conv2d.": regraft.load(torch_examples.Cnn(3), classes=ABC, inputs=(1, 8, 8)),
        "this network has others: '0' .LSTM.": regraft.load(steps, inputs=(5, 4), classes=ABC),
        "no weighted sum .gelu": regraft.load(gelu, classes=ABC, inputs=(4,)),
        "no weighted sum .*norm": regraft.load(norm, classes=ABC, inputs=(4,)),
        "layers that follow one another": regraft.load(Skip(), classes=ABC, inputs=(4,)),
        "one class an example": regraft.load(multi, classes=ABC, inputs=(4,)),
        "takes columns of numbers; this network takes images": regraft.load(flat, classes=ABC, inputs=(1, 2, 2), preprocessing=picture),
    }


def test_what_the_standard_cannot_express_is_refused_with_what_would_do(tmp_path: Path) -> None:
    for said, net in refused_networks().items():
        with pytest.raises(NetworkError, match=said) as error:
            net.export(tmp_path / "net.pmml")
        assert "Export it as .onnx" in str(error.value)
    net = torch_relu()
    for options, said in (
        ({"pmml_version": "5"}, "3.2, 4.1, 4.4"),
        ({"what": "body"}, "'network', 'head'"),
        ({"preprocessing": True}, "'.onnx'"),
    ):
        with pytest.raises(SettingError, match=said):
            net.export(tmp_path / "net.pmml", **options)
    with pytest.raises(SettingError, match=r"ends in '\.pmml'"):
        net.export(tmp_path / "net.pt2", columns=COLUMNS)
    with pytest.raises(NetworkError, match="names of 2 columns; this network takes 4"):
        net.export(tmp_path / "net.pmml", columns=["a", "b"])
    with pytest.raises(NetworkError, match="'c' stands twice"):
        net.export(tmp_path / "net.pmml", columns=["a", "b", "c", "c"])
    assert not list(tmp_path.iterdir())


class Reduced(nn.Module):
    """Reads one number of each column of a table: their mean, largest value or length."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.first, self.out = kind, nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, steps: torch.Tensor) -> torch.Tensor:
        values = torch.tanh(self.first(steps))
        return self.out({"mean": values.mean, "amax": values.amax, "norm": lambda axis: values.norm(dim=axis)}[self.kind](1))


@pytest.mark.parametrize(("kind", "named"), [("amax", r"no weighted sum \(amax\)"), ("norm", r"others: '\w*ReduceL2\w*' \(ReduceL2\)")])
def test_a_layer_of_an_onnx_file_that_pmml_has_not_is_refused_by_name(
    kind: str, named: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx2pytorch")
    net = regraft.load(regraft.load(Reduced(kind), classes=ABC, inputs=(5, 4)).export(tmp_path / "x.onnx"))
    with pytest.raises(NetworkError, match=rf"this network .*{named}.*Export it as \.onnx") as told:
        net.export(tmp_path / "x.pmml")
    assert "\n" not in str(told.value) and not "".join(capfd.readouterr())


def test_a_mean_of_an_onnx_file_is_a_weighted_sum_in_pmml(tmp_path: Path) -> None:
    pytest.importorskip("onnx2pytorch")
    own = regraft.load(Reduced("mean"), classes=ABC, inputs=(5, 4))
    examples = np.random.default_rng(0).normal(size=(7, 5, 4)).astype(np.float32)
    read = regraft.load(regraft.load(own.export(tmp_path / "x.onnx")).export(tmp_path / "x.pmml"))
    assert np.allclose(read.predict(examples.reshape(7, -1)).probabilities, own.predict(examples).probabilities, atol=1e-6)


OTHER = """<?xml version="1.0"?>
<PMML version="4.2" xmlns="http://www.dmg.org/PMML-4_2">
 <Header/><DataDictionary/>
 <TransformationDictionary/>
 <NeuralNetwork functionName="classification" activationFunction="logistic">
  <MiningSchema/>
  <LocalTransformations><DerivedField name="x*" optype="continuous" dataType="double">
   <NormContinuous field="x"><LinearNorm orig="2" norm="0"/><LinearNorm orig="6" norm="1"/>
   </NormContinuous></DerivedField></LocalTransformations>
  <NeuralInputs><NeuralInput id="i1"><DerivedField><FieldRef field="x*"/></DerivedField></NeuralInput>
   <NeuralInput id="i2"><DerivedField><FieldRef field="y"/></DerivedField></NeuralInput></NeuralInputs>
  <NeuralLayer><Neuron id="h1" bias="0.5"><Con from="i2" weight="2"/></Neuron>
   <Neuron id="h2"><Con from="i1" weight="-1"/></Neuron></NeuralLayer>
  <NeuralLayer><Neuron id="o1" bias="1"><Con from="h1" weight="1"/></Neuron>
   <Neuron id="o2"><Con from="h2" weight="3"/></Neuron></NeuralLayer>
  <NeuralOutputs><NeuralOutput outputNeuron="o2"><DerivedField><NormDiscrete field="kind" value="second"/></DerivedField></NeuralOutput>
   <NeuralOutput outputNeuron="o1"><DerivedField><NormDiscrete field="kind" value="first"/></DerivedField></NeuralOutput></NeuralOutputs>
 </NeuralNetwork>
</PMML>"""


def test_a_network_of_another_tool_comes_in(tmp_path: Path) -> None:
    path = tmp_path / "other.pmml"
    path.write_text(OTHER)
    net = regraft.load(path)
    rows = np.array([[2.0, 0.0], [6.0, 1.0]], np.float32)
    one, two = (1 / (1 + np.exp(-z)) for z in (2 * rows[:, 1] + 0.5, -(rows[:, 0] - 2) / 4))
    assert net.classes == ("second", "first") and "logistic" not in str(net.origin)
    assert np.allclose(net.logits(rows), np.stack([3 * two, one + 1], 1), atol=1e-6)
    assert "compares sigmoid outputs" in " ".join(net.account.notes)


NNET = """<PMML version="4.4" xmlns="http://www.dmg.org/PMML-4_4"><Header/><DataDictionary/>
 <NeuralNetwork functionName="classification" numberOfLayers="3" activationFunction="logistic"><MiningSchema/>
  <NeuralInputs numberOfInputs="2">
   <NeuralInput id="1"><DerivedField name="derivedNI_x" dataType="double"><FieldRef field="x"/></DerivedField></NeuralInput>
   <NeuralInput id="2"><DerivedField name="derivedNI_y" dataType="double"><FieldRef field="y"/></DerivedField></NeuralInput>
  </NeuralInputs>
  <NeuralLayer numberOfNeurons="1"><Neuron id="3" bias="0.5"><Con from="1" weight="2"/><Con from="2" weight="-1"/></Neuron></NeuralLayer>
  <NeuralLayer numberOfNeurons="1"><Neuron id="4" bias="-1"><Con from="3" weight="3"/></Neuron></NeuralLayer>
  <NeuralLayer numberOfNeurons="2" activationFunction="threshold" threshold="0.5">
   <Neuron id="5" bias="1.0"><Con from="4" weight="-1.0"/></Neuron><Neuron id="6" bias="0.0"><Con from="4" weight="1.0"/></Neuron>
  </NeuralLayer>
  <NeuralOutputs numberOfOutputs="2">
   <NeuralOutput outputNeuron="5"><DerivedField name="derivedNO_k"><NormDiscrete field="k" value="no"/></DerivedField></NeuralOutput>
   <NeuralOutput outputNeuron="6"><DerivedField name="derivedNO_k"><NormDiscrete field="k" value="yes"/></DerivedField></NeuralOutput>
  </NeuralOutputs>
 </NeuralNetwork></PMML>"""


def test_two_classes_of_nnet_come_in_with_their_probabilities(tmp_path: Path) -> None:
    """R's pmml package writes one logistic output p as two neurons, 1 - p and p, against a threshold of 0.5."""
    path = tmp_path / "nnet.pmml"
    path.write_text(NNET)
    rows = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    hidden = 1 / (1 + np.exp(-(2 * rows[:, 0] - rows[:, 1] + 0.5)))
    share = 1 / (1 + np.exp(-(3 * hidden - 1)))
    found = regraft.load(path)
    assert found.classes == ("no", "yes")
    np.testing.assert_allclose(found.predict(rows).probabilities, np.stack([1 - share, share], 1), atol=1e-6)
    path.write_text(NNET.replace('threshold="0.5"', 'threshold="0.7"'))
    with pytest.raises(NetworkError, match="has the activation 'threshold'"):
        regraft.load(path)


def test_a_pair_of_layers_that_is_no_rectifier_is_none(tmp_path: Path) -> None:
    net = regraft.load(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), classes=ABC, inputs=(4,))
    path = net.export(tmp_path / "net.pmml", pmml_version="4.1")
    path.write_text(path.read_text().replace('bias="0.5"', 'bias="0.25"', 1))
    with pytest.raises(NetworkError, match="the activation 'arctan'"):
        regraft.load(path)


LAUGH = '<!DOCTYPE PMML [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
HOSTILE = {
    "no XML document": OTHER[:300],
    "holds TreeModel": OTHER.replace("NeuralNetwork", "TreeModel"),
    "activation 'radialBasis'": OTHER.replace("logistic", "radialBasis"),
    "none of the layer before it": OTHER.replace('from="h1"', 'from="i1"'),
    "expected a finite number": OTHER.replace('weight="3"', 'weight="nan"'),
    "weight='many'": OTHER.replace('weight="3"', 'weight="many"'),
    "each of the 2 neurons of the last layer once": OTHER.replace('outputNeuron="o2"', 'outputNeuron="h2"'),
    "two that differ": OTHER.replace('orig="6"', 'orig="2"'),
    "makes an input by NormDiscrete": OTHER.replace('FieldRef field="y"', 'NormDiscrete field="y" value="v"'),
    "nested 101 elements deep": "<PMML>" * 200 + "</PMML>" * 200,
    "1,200 inputs holds 0 weights": OTHER.replace(
        "<NeuralLayer>", ("<NeuralLayer>" + '<Neuron id="n"/>' * 1200 + "</NeuralLayer>") * 2 + "<NeuralLayer>", 1
    ),
}


@pytest.mark.parametrize("said", HOSTILE)
def test_hostile_and_foreign_files_are_refused_by_name(said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pmml"
    path.write_text(HOSTILE[said])
    with pytest.raises(NetworkError, match=said):
        regraft.load(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_before_they_grow(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pmml"
    text = OTHER.replace("<PMML", LAUGH + "<PMML", 1).replace('<?xml version="1.0"?>', f'<?xml version="1.0" encoding="{encoding}"?>')
    path.write_bytes(text.encode(encoding))
    with pytest.raises(UnsafeFileError, match="document type or entities"):
        regraft.load(path)


def of_iris_and_vowels() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The irises, and data like those of the vowels: 11 classes that overlap, of ten numbers each."""
    rows, labels = pytest.importorskip("sklearn.datasets").load_iris(return_X_y=True)
    draws = np.random.default_rng(0)
    vowels = draws.integers(0, 11, 400)
    centres = draws.normal(size=(11, 10)) * 1.5
    return {
        "iris": (rows.astype(np.float32), labels),
        "vowels": ((centres[vowels] + draws.normal(size=(400, 10))).astype(np.float32), vowels),
    }


PYPMML = """
import sys, numpy as np, pypmml
model, columns = pypmml.Model.load(sys.argv[1]), sys.argv[4].split(",")
found = [model.predict(dict(zip(columns, map(float, row)))) for row in np.load(sys.argv[2])]
np.save(sys.argv[3], [[one["probability_" + name] for name in sys.argv[5].split(",")] for one in found])
"""
WEKA = """
import sys, numpy as np, jpype
jpype.startJVM("--add-opens=java.base/java.lang=ALL-UNNAMED", classpath=[sys.argv[1]])
factory, instances = jpype.JClass("weka.core.pmml.PMMLFactory"), jpype.JClass("weka.core.Instances")
model = factory.getPMMLModel(jpype.JClass("java.io.File")(sys.argv[2]))
rows = instances(jpype.JClass("java.io.FileReader")(sys.argv[3]))
rows.setClassIndex(rows.numAttributes() - 1)
np.save(sys.argv[4], [list(model.distributionForInstance(rows.instance(at))) for at in range(rows.numInstances())])
"""


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("data", ["iris", "vowels"])
def test_weka_and_pypmml_give_the_same_probabilities(activation: str, data: str, tmp_path: Path) -> None:
    """Needs Java, pypmml (it brings jpype), and the jar of Weka: Debian's package weka, or its path in WEKA_JAR."""
    pytest.importorskip("pypmml")
    rows, labels = of_iris_and_vowels()[data]
    names = [f"kind {at}" for at in range(labels.max() + 1)]
    columns = [f"column {at}" for at in range(rows.shape[1])]
    keras.utils.set_random_seed(0)
    parts = [keras.Input(rows.shape[1:]), layers.Dense(16, activation=activation), layers.Dense(12, activation=activation)]
    plain = {"kind": "array", "shape": [rows.shape[1]], "mean": rows.mean(0).tolist(), "std": rows.std(0).tolist()}
    net = regraft.load(keras.Sequential([*parts, layers.Dense(len(names))]), classes=names, preprocessing=plain)
    net = regraft.adapt(net, (rows, np.array(names)[labels]), strategy="full", epochs=5, cache="memory").network
    expected = net.predict(rows).probabilities
    path = net.export(tmp_path / "net.pmml", columns=columns)
    np.save(tmp_path / "rows.npy", rows)
    files = [str(path), str(tmp_path / "rows.npy"), str(tmp_path / "found.npy")]
    subprocess.run([sys.executable, "-c", PYPMML, *files, ",".join(columns), ",".join(net.classes)], check=True, timeout=300)
    assert np.allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)
    jar = Path(os.environ.get("WEKA_JAR", "/usr/share/java/weka.jar"))
    if not jar.is_file():
        pytest.skip(f"the jar of Weka is not at {jar}; name it in WEKA_JAR")
    path = net.export(tmp_path / "old.pmml", columns=columns, pmml_version="4.1")
    attributes = [
        *(f"@attribute '{name}' numeric" for name in columns),
        "@attribute class {" + ",".join(f"'{one}'" for one in net.classes) + "}",
    ]
    lines = [",".join([*map(repr, map(float, row)), f"'{net.classes[0]}'"]) for row in rows]
    (tmp_path / "rows.arff").write_text("\n".join(["@relation rows", *attributes, "@data", *lines]))
    command = [sys.executable, "-c", WEKA, str(jar), str(path), str(tmp_path / "rows.arff"), str(tmp_path / "found.npy")]
    subprocess.run(command, check=True, timeout=300)
    assert np.allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)
