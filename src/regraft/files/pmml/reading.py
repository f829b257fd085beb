"""Reader for dense networks in PMML files of any tool: XML parsed without entities, neurons ordered into plain arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from ...errors import NetworkError, UnsafeFileError
from ..formats import opening
from ..text import printable
from .form import DenseLayer, DenseNetwork, with_rectifier

READABLE = {"identity": "linear", "rectifier": "relu", "logistic": "sigmoid", "tanh": "tanh", "Elliott": "softsign"}
"""PMML activations that become trainable layers -> their names in the frameworks."""
_INSTEAD = "For any other network, export an .onnx file if your tool can."
_DEEPEST = 100
_FREE, _SPARSE = 10**6, 16  # Zero weights that a file may omit: an absolute number, or a multiple of the weights that it holds
_NOT_DATA = ("Header", "MiningBuildTask", "DataDictionary", "TransformationDictionary", "Extension")


@dataclass(frozen=True)
class _Line:
    """Linear function factor · x + offset of a column x."""

    field: str
    factor: float = 1.0
    offset: float = 0.0


def read_pmml(path: Path) -> tuple[DenseNetwork, tuple[str, ...]]:
    """Read the neural network of a PMML file. Return it with notes on deviations from the file."""
    with opening(path, "pmml", remedy="Export it again."):
        root = _tree(path.read_bytes(), shown=f"'{printable(path.name)}'")
        return _network(root, shown=f"'{printable(path.name)}'")


def _tree(content: bytes, *, shown: str) -> Element:
    """Parse an XML document into elements without namespaces. Document types and entities are refused."""
    builder, parser = TreeBuilder(), expat.ParserCreate(namespace_separator="}")
    depth = 0

    def refuse(*_: object) -> int:
        raise UnsafeFileError(f"{shown} declares a document type or entities, which PMML does not have. It is not opened.")

    def start(name: str, facts: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise NetworkError(f"{shown} is nested {depth} elements deep; expected {_DEEPEST} at most. It is no PMML file.")
        builder.start(name.rpartition("}")[2], facts)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name.rpartition("}")[2])

    parser.StartDoctypeDeclHandler, parser.EntityDeclHandler, parser.ExternalEntityRefHandler = refuse, refuse, refuse
    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        fault = f"line {error.lineno} has this fault: {expat.ErrorString(error.code)}"
        raise ValueError(f"it is no XML document, or it is damaged, because {fault}") from error
    found: Element = builder.close()
    return found


def _network(root: Element, *, shown: str) -> tuple[DenseNetwork, tuple[str, ...]]:
    models = [element.tag for element in root if element.tag not in _NOT_DATA]
    if root.tag != "PMML" or models != ["NeuralNetwork"]:
        held = ", ".join(printable(tag, width=60) for tag in models[:5]) or f"the element {printable(root.tag, width=60)}"
        raise NetworkError(f"{shown} holds {held}; expected PMML with one NeuralNetwork. {_INSTEAD}")
    model = root[[element.tag for element in root].index("NeuralNetwork")]
    derived = {element.get("name", ""): element for element in root.iter("DerivedField") if element.get("name")}
    ids, lines = [], []
    for element in model.iterfind("NeuralInputs/NeuralInput"):
        ids.append(element.get("id", ""))
        lines.append(_line(element.find("DerivedField"), derived, shown=shown))
    layers, ids, method = _layers(model, ids, shown=shown)
    mean, std = (np.array(values) for values in zip(*((-line.offset / line.factor, 1 / line.factor) for line in lines), strict=True))
    columns, plain = tuple(line.field for line in lines), not mean.any() and (std == 1).all()
    found = DenseNetwork(columns, tuple(layers), "", None, None if plain else mean, None if plain else std)
    return _with_outputs(found, model, ids=ids, method=method, shown=shown)


def _line(element: Element | None, derived: Mapping[str, Element], *, shown: str, depth: int = 0) -> _Line:
    """Return a derived field as a linear function of a column. References to other derived fields are followed."""
    inner = next(iter(element), None) if element is not None else None
    if inner is None or inner.tag not in ("FieldRef", "NormContinuous") or depth > _DEEPEST:
        said = "nothing" if inner is None else printable(inner.tag, width=60)
        raise NetworkError(f"{shown} makes an input by {said}; expected FieldRef or NormContinuous, of a column of numbers.")
    name = inner.get("field", "")
    line = _line(derived[name], derived, shown=shown, depth=depth + 1) if name in derived and derived[name] is not element else _Line(name)
    if inner.tag == "FieldRef":
        return line
    factor, offset = _norm(inner, shown=shown)
    return _Line(line.field, line.factor * factor, line.offset * factor + offset)


def _norm(element: Element, *, shown: str) -> tuple[float, float]:
    """Return factor and offset of a straight line through two points."""
    points = [(_number(each, "orig", shown=shown), _number(each, "norm", shown=shown)) for each in element.iterfind("LinearNorm")]
    if len(points) != 2 or points[0][0] == points[1][0] or points[0][1] == points[1][1]:
        raise NetworkError(f"{shown} gives a normalisation by {len(points)} points; expected two that differ, of a straight line.")
    (low, first), (high, second) = points
    factor = (second - first) / (high - low)
    return factor, first - low * factor


def _number(element: Element, name: str, *, shown: str, default: str | None = None) -> float:
    text = element.get(name, default)
    try:
        value = float(text) if text is not None else np.nan
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise NetworkError(f"{shown}: {element.tag} has {name}={printable(repr(text), width=60)}; expected a finite number.")
    return value


def _layers(model: Element, ids: list[str], *, shown: str) -> tuple[list[DenseLayer], list[str], str]:
    """Return the layers, the neuron ids of the last one, and its normalization method."""
    layers: list[DenseLayer] = []
    method = model.get("normalizationMethod", "none")
    for element in model.iterfind("NeuralLayer"):
        known = element.get("activationFunction", model.get("activationFunction", ""))
        neurons, places = list(element.iterfind("Neuron")), {name: at for at, name in enumerate(ids)}
        cons = [list(neuron.iterfind("Con")) for neuron in neurons]
        size, held = len(neurons) * len(ids), sum(map(len, cons))
        if not size or size > max(_FREE, _SPARSE * held):
            raise NetworkError(
                f"{shown}: a layer of {len(neurons):,} neurons on {len(ids):,} inputs holds {held:,} weights. It is damaged."
            )
        weight = np.zeros((len(neurons), len(ids)))
        for row, each in enumerate(cons):
            for con in each:
                source = con.get("from", "")
                if source not in places:
                    raise NetworkError(
                        f"{shown}: a neuron of layer {len(layers) + 1} reads {printable(repr(source), width=60)}, none of the layer "
                        f"before it; expected layers that follow one another, without recurrence. {_INSTEAD}"
                    )
                weight[row, places[source]] += _number(con, "weight", shown=shown)
        bias = np.array([_number(neuron, "bias", shown=shown, default="0") for neuron in neurons])
        layers.append(DenseLayer(weight, bias, known))
        method = element.get("normalizationMethod", model.get("normalizationMethod", "none"))
        ids = [neuron.get("id", "") for neuron in neurons]
    if not layers:
        raise NetworkError(f"{shown} has no NeuralLayer; expected one or more.")
    layers = with_rectifier(layers)
    if _is_pair(layers, threshold=model.find("NeuralLayer[last()]")):
        *layers, one, _ = layers
        zero = np.zeros_like(one.weight)
        layers, method = [*layers, DenseLayer(np.concatenate([zero, one.weight]), np.array([0.0, one.bias[0]]), "identity")], "softmax"
    wrong = next((layer.activation for layer in layers if layer.activation not in READABLE), None)
    if wrong is not None:
        raise NetworkError(
            f"{shown} has the activation {printable(repr(wrong), width=60)}; expected one of {', '.join(READABLE)}. {_INSTEAD}"
        )
    return [replace(layer, activation=READABLE[layer.activation]) for layer in layers], ids, method


def _is_pair(layers: Sequence[DenseLayer], *, threshold: Element | None) -> bool:
    """Return whether the last layers are one logistic neuron p, and 1 - p and p against 0.5: two classes as R's nnet is written."""
    if len(layers) < 2 or threshold is None or threshold.get("threshold") != "0.5":
        return False
    one, two = layers[-2:]
    same = two.weight.tolist() == [[-1.0], [1.0]] and two.bias.tolist() == [1.0, 0.0]
    return same and (one.activation, two.activation) == ("logistic", "threshold")


def _with_outputs(
    network: DenseNetwork, model: Element, *, ids: Sequence[str], method: str, shown: str
) -> tuple[DenseNetwork, tuple[str, ...]]:
    """Return a network with its target, and with the last layer's units in the order of the classes."""
    outputs = list(model.iterfind("NeuralOutputs/NeuralOutput"))
    inner = [next(iter(each.find("DerivedField") or ()), None) for each in outputs]
    rows = [ids.index(each.get("outputNeuron", "")) if each.get("outputNeuron", "") in ids else -1 for each in outputs]
    if sorted(rows) != list(range(len(ids))) or not all(each is not None for each in inner):
        raise NetworkError(f"{shown} names {len(outputs)} outputs; expected each of the {len(ids)} neurons of the last layer once.")
    *before, last = network.layers
    expressions = [each for each in inner if each is not None]
    target = expressions[0].get("field", "")
    if model.get("functionName") == "classification" and all(each.tag == "NormDiscrete" for each in expressions):
        names = tuple(each.get("value", "") for each in expressions)
        last = DenseLayer(last.weight[rows], last.bias[rows], last.activation)
        if method == "softmax":
            extra = () if last.activation == "linear" else (DenseLayer(np.eye(len(rows)), np.zeros(len(rows)), "linear"),)
            return replace(network, layers=(*before, last, *extra), target=target, classes=names), ()
        if last.activation in ("sigmoid", "linear"):
            note = f"the file compares {last.activation} outputs ({method}); the same label has the largest probability of the softmax here"
            last = replace(last, activation="linear")
            return replace(network, layers=(*before, last), target=target, classes=names), (note,)
    elif model.get("functionName") == "regression" and last.activation == "linear" and len(rows) == 1:
        if expressions[0].tag == "NormContinuous":
            factor, offset = _norm(expressions[0], shown=shown)
            last = DenseLayer(last.weight / factor, (last.bias - offset) / factor, "linear")
        return replace(network, layers=(*before, last), target=target), ()
    raise NetworkError(
        f"{shown} is a {printable(model.get('functionName', 'model of no function'), width=40)} that ends in {last.activation} with "
        f"{len(rows)} outputs and the normalisation {printable(method, width=40)}; expected a classification by softmax, or "
        f"one value. {_INSTEAD}"
    )
