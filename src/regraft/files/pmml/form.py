"""Writer for dense networks as PMML, the exchange format of data mining tools, from plain arrays."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree

import numpy as np

from ...errors import NetworkError, SettingError
from ..text import printable

PMML_VERSIONS = ("3.2", "4.1", "4.4")
ACTIVATIONS = {
    **{"identity": "none", "rectifier": "relu", "logistic": "sigmoid", "tanh": "tanh", "arctan": "2/π · atan"},
    **{"exponential": "exp", "sine": "sin", "cosine": "cos"},
}
"""Activations of the PMML standard that networks are written with -> the function."""
_SLOPE, _STEEP = 1e-8, 1e12
"""Scales of the two arctangents that replace a ReLU. The flat one is linear and carries the value, the steep one is a step for the sign."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class DenseLayer:
    """Dense layer: activation(W x + b)."""

    weight: np.ndarray  # (units, inputs) float64
    bias: np.ndarray  # (units,) float64
    activation: str = "identity"  # a key of `ACTIVATIONS`


@dataclass(frozen=True)
class DenseNetwork:
    """Network of dense layers over numeric columns."""

    columns: tuple[str, ...]  # names of the d inputs, in order
    layers: tuple[DenseLayer, ...]  # the last one gives the logits of a softmax, or the predicted value
    target: str  # name of the predicted column
    classes: tuple[str, ...] | None = None  # class names in the order of the last layer's units; None for regression
    mean: np.ndarray | None = None  # (d,) subtracted from the inputs; None if inputs are not standardized
    std: np.ndarray | None = None  # (d,) divisor after that


def pmml_of(network: DenseNetwork, version: str, *, application: str) -> bytes:
    """Return a network as a PMML document.
    Versions before 4.2 have no rectifier. A ReLU is then written with the activations that they have: an arctangent so flat that it carries
    the value, an arctangent so steep that it carries the sign, and the squares of their sum and difference."""
    if version not in PMML_VERSIONS:
        raise SettingError(f"pmml_version={version!r} is unknown; expected one of {', '.join(PMML_VERSIONS)}.")
    _check_names([*network.columns, network.target], "columns")
    _check_names(network.classes or (), "classes")
    space = f"http://www.dmg.org/PMML-{version.replace('.', '_')}"
    root = ElementTree.Element("PMML", {"version": version, "xmlns": space})
    header = _below(root, "Header", copyright="", description="A network of dense layers")
    _below(header, "Application", name="regraft", version=application)
    _dictionary(root, network)
    layers = network.layers if version == "4.4" else tuple(_without_rectifier(network.layers))
    last = {} if network.classes is None else {"normalizationMethod": "softmax"}
    model = _below(
        root,
        "NeuralNetwork",
        modelName="regraft",
        functionName="regression" if network.classes is None else "classification",
        activationFunction="identity",
        numberOfLayers=str(len(layers)),
    )
    schema = _below(model, "MiningSchema")
    for name in network.columns:
        _below(schema, "MiningField", name=name)
    _below(schema, "MiningField", name=network.target, usageType="predicted")  # "target" exists only since 4.2
    _inputs(model, network)
    for at, layer in enumerate(layers, start=1):
        facts = {"numberOfNeurons": str(len(layer.bias)), "activationFunction": layer.activation}
        element = _below(model, "NeuralLayer", **facts, **(last if at == len(layers) else {}))
        for unit, (row, bias) in enumerate(zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)):
            neuron = _below(element, "Neuron", id=f"{at},{unit}", bias=repr(bias))
            for source, weight in enumerate(row):
                _below(neuron, "Con", **{"from": f"{at - 1},{source}", "weight": repr(weight)})
    _outputs(model, network, at=len(layers))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text


def _check_names(names: Sequence[str], what: str) -> None:
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise NetworkError(f"PMML tells {what} apart by their names; {printable(repr(twice))} stands twice. Give different names.")
    wrong = next((name for name in names if _NOT_XML.search(name)), None)
    if wrong is not None:
        raise NetworkError(f"The name {printable(repr(wrong))} of the {what} holds a character that XML does not have. Rename it.")


def _below(parent: ElementTree.Element, tag: str, /, **facts: str) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, facts)


def _dictionary(root: ElementTree.Element, network: DenseNetwork) -> None:
    fields = _below(root, "DataDictionary", numberOfFields=str(len(network.columns) + 1))
    for name in network.columns:
        _below(fields, "DataField", name=name, optype="continuous", dataType="double")
    if network.classes is None:
        _below(fields, "DataField", name=network.target, optype="continuous", dataType="double")
        return
    target = _below(fields, "DataField", name=network.target, optype="categorical", dataType="string")
    for name in network.classes:
        _below(target, "Value", value=name)


def _inputs(model: ElementTree.Element, network: DenseNetwork) -> None:
    """Add the inputs. Standardization is a straight line through two points."""
    element = _below(model, "NeuralInputs", numberOfInputs=str(len(network.columns)))
    for at, name in enumerate(network.columns):
        derived = _below(_below(element, "NeuralInput", id=f"0,{at}"), "DerivedField", optype="continuous", dataType="double")
        if network.mean is None or network.std is None:
            _below(derived, "FieldRef", field=name)
            continue
        line, mean, std = _below(derived, "NormContinuous", field=name), float(network.mean[at]), float(network.std[at])
        _below(line, "LinearNorm", orig=repr(mean), norm="0")
        _below(line, "LinearNorm", orig=repr(mean + std), norm="1")


def _outputs(model: ElementTree.Element, network: DenseNetwork, *, at: int) -> None:
    names = network.classes or (network.target,)
    element = _below(model, "NeuralOutputs", numberOfOutputs=str(len(names)))
    for unit, name in enumerate(names):
        output = _below(element, "NeuralOutput", outputNeuron=f"{at},{unit}")
        if network.classes is None:
            _below(_below(output, "DerivedField", optype="continuous", dataType="double"), "FieldRef", field=name)
        else:
            derived = _below(output, "DerivedField", optype="categorical", dataType="string")
            _below(derived, "NormDiscrete", field=network.target, value=name)


def _without_rectifier(layers: Sequence[DenseLayer]) -> Iterator[DenseLayer]:
    """Yield equivalent layers without a rectifier, which the last layer never has.
    With t = 2/π · atan(εz) ≈ 2εz/π and s = 2/π · atan(Kz) ≈ sign z, H = (1 + s) / 2 is the step function, and (z + H)² - (z - H)² = 4zH is
    four times the ReLU of z. z = t · π / 2ε has a relative error of ε²z² / 3."""
    squared = False
    for layer in layers:
        weight, bias = layer.weight, layer.bias
        weight = np.concatenate([weight * 0.25, weight * -0.25], 1) if squared else weight
        squared = layer.activation == "rectifier"
        if squared:
            yield DenseLayer(np.concatenate([weight * _SLOPE, weight * _STEEP]), np.concatenate([bias * _SLOPE, bias * _STEEP]), "arctan")
            yield _squares(len(bias))
        else:
            yield DenseLayer(weight, bias, layer.activation)


def _squares(size: int) -> DenseLayer:
    """Return the layer that computes (z + H)² and (z - H)² from the two arctangents of `size` units."""
    value, step, half = np.eye(size) * np.pi / (2 * _SLOPE), np.eye(size) * 0.5, np.full(size, 0.5)
    return DenseLayer(np.block([[value, step], [value, -step]]), np.concatenate([half, -half]), "square")


def with_rectifier(layers: Sequence[DenseLayer]) -> list[DenseLayer]:
    """Return layers in which each replacement of a rectifier by `pmml_of` is a rectifier again."""
    found, left = [], list(layers)
    while left:
        first, size = left[0], len(left[0].bias) // 2
        if len(left) > 2 and first.activation == "arctan" and _stand_for_rectifier(left[:3], size=size):
            found.append(DenseLayer(first.weight[:size] / _SLOPE, first.bias[:size] / _SLOPE, "rectifier"))
            left[2] = replace(left[2], weight=left[2].weight[:, :size] * 4)
            left = left[2:]
        else:
            found.append(left.pop(0))
    return found


def _stand_for_rectifier(layers: Sequence[DenseLayer], *, size: int) -> bool:
    (first, second, third), wanted = layers, _squares(size)
    if second.activation != "square" or second.weight.shape != wanted.weight.shape or len(first.bias) != 2 * size:
        return False
    pairs = [(first.weight[:size] / _SLOPE, first.weight[size:] / _STEEP), (first.bias[:size] / _SLOPE, first.bias[size:] / _STEEP)]
    pairs += [(second.weight, wanted.weight), (second.bias, wanted.bias), (third.weight[:, :size], -third.weight[:, size:])]
    return all(np.allclose(one, other, rtol=1e-9, atol=0) for one, other in pairs)
