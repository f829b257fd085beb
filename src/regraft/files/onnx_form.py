"""ONNX files: parsed as data, checked node by node, and serialized again before an engine sees them.

An engine does what a model says: it reads external data from other files, calls operators of other domains, and accepts model formats of
its own. It therefore never gets a file or its original bytes, but only content that was checked here. Weights in a file beside the graph
are read here, too.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import NetworkError, UnsafeFileError, optional_import
from .formats import FORMATS, member, opening
from .sizes import check_size
from .text import printable

LARGEST = 2**31 - 2**20
"""Largest size of the weights that one ONNX file holds, in bytes, with room for the graph."""
_LEAST = 1024  # Weights of fewer bytes stay in the graph

_DOMAINS = ("", "ai.onnx")
_RUNTIME = "com.microsoft"
_OF_RUNTIME = frozenset(
    {"Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu", "QuickGelu", "QGemm"}
    | {"MultiHeadAttention", "RotaryEmbedding", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "DynamicQuantizeLSTM"}
    | {"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "QAttention", "QuantizeLinear", "DequantizeLinear"}
    | {f"QLinear{kind}" for kind in ("Add", "Mul", "Concat", "LeakyRelu", "Sigmoid", "Softmax", "AveragePool", "GlobalAveragePool")}
)
"""Operators of ONNX Runtime's domain that its optimizer and quantizer write, and that only compute. Others read files (EPContext)."""
_LOOPS = ("Loop", "Scan", "SequenceMap")  # Operators that may run forever. PyTorch's exporter writes none for a network
_FOREIGN = {"FunctionProto": "a function of its own", "TrainingInfoProto": "a training", "SparseTensorProto": "a sparse tensor"}
"""Protobuf messages that regraft never writes, by type name."""
_SIZES = {
    **{"FLOAT": 4, "DOUBLE": 8, "FLOAT16": 2, "BFLOAT16": 2, "BOOL": 1},
    **{"INT8": 1, "INT16": 2, "INT32": 4, "INT64": 8, "UINT8": 1, "UINT16": 2, "UINT32": 4, "UINT64": 8},
}
"""Bytes of one number, by type name. Tensors of other types (text, pairs of 4 bits) are refused."""
_STORES = ("float_data", "double_data", "int32_data", "int64_data", "uint64_data")


def read_onnx(path: Path, *, remedy: str = "") -> tuple[Any, dict[str, str]]:
    """Read and check an ONNX file, with weights that lie in a file beside it.
    Return the `onnx.ModelProto` as `check_onnx_` leaves it, and its metadata, which are texts of the file's author and are not checked."""
    onnx = optional_import("onnx", "onnx", purpose="A network in ONNX form, or of your own class without architecture=,")
    with opening(path, "onnx", remedy=remedy):
        model = parsed_onnx(onnx, path)
        facts = {entry.key: entry.value for entry in model.metadata_props}
        check_onnx_(model, what=repr(printable(path)), remedy=remedy)
    return model, facts


def parsed_onnx(onnx: Any, path: Path) -> Any:
    """Return the unchecked `onnx.ModelProto` of a file, by the library `onnx`."""
    try:
        model = onnx.ModelProto.FromString(path.read_bytes())
    except Exception as problem:  # protobuf raises an error of its own
        raise ValueError("it is not an ONNX graph, or it is damaged or truncated") from problem
    if not model.graph.node:
        raise ValueError("it holds no graph of operators")
    beside: dict[str, list[Any]] = {}
    for tensor in model.graph.initializer:
        place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "") if tensor.data_location else ""
        if place.endswith(FORMATS["onnx weights"].suffixes):  # `check_onnx_` refuses all others
            beside.setdefault(place, []).append(tensor)
    for place, tensors in beside.items():
        with opening(member(path.parent, place), "onnx weights") as file:
            check_size(file.stat().st_size, file, kind="onnx weights")
            _take_weights_(tensors, file)
    return model


def _take_weights_(tensors: list[Any], file: Path) -> None:
    """Read the weights of some tensors from a file. Together they are at most as large as the file, so that they cannot fill the memory."""
    room = file.stat().st_size
    with file.open("rb") as stream:
        for tensor in tensors:
            facts = {entry.key: entry.value for entry in tensor.external_data}
            size, start = math.prod(tensor.dims) * _SIZES.get(_form(tensor), 0), int(facts.get("offset", 0))
            room -= size
            if min(tensor.dims, default=0) < 0 or start < 0 or room < 0 or int(facts.get("length", size)) != size:
                raise ValueError(f"it is too short, or of another network: {printable(repr(tensor.name), width=60)} needs {size:,} bytes")
            stream.seek(start)
            tensor.raw_data = stream.read(size)  # `check_onnx_` compares its length with the shape
            tensor.ClearField("data_location")
            del tensor.external_data[:]


def _form(tensor: Any) -> str:
    """Return the name of the type of a tensor's numbers."""
    return next((word for word, number in tensor.DataType.items() if number == tensor.data_type), str(tensor.data_type))


def weights_apart(model: Any, *, most: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Return a checked model without the larger weights, and these by name, if all weights take more than `most` bytes, or more than one
    file holds.
    The model then gives their places in a file that holds them in this order. The given model is used up."""
    numpy_helper = importlib.import_module("onnx.numpy_helper")
    if _size(model) <= (LARGEST if most is None else min(most, LARGEST)):
        return model, {}
    found, start = dict[str, Any](), 0
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= _LEAST:
            found[tensor.name] = values = numpy_helper.to_array(tensor)
            tensor.ClearField("raw_data")
            tensor.data_location = tensor.EXTERNAL
            for key, fact in (("location", "weights.data"), ("offset", start), ("length", values.nbytes)):
                tensor.external_data.add(key=key, value=str(fact))
            start += values.nbytes
    return type(model).FromString(model.SerializeToString()), found  # a message keeps the memory of what is cleared in it


def _size(model: Any) -> int:
    """Return the bytes of the weights in a model."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def put_weights_(model: Any, weights: dict[str, Any]) -> None:
    """Put weights that are apart from a model back into it, if one file holds them. The weights are then used up."""
    if _size(model) + sum(values.nbytes for values in weights.values()) > LARGEST:
        return
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.raw_data = weights.pop(tensor.name).tobytes()


def is_standard(message: Any) -> bool:
    """Return whether a node or an operator set is of ONNX's own domain."""
    return message.domain in _DOMAINS


def of_runtime(message: Any) -> bool:
    """Return whether a node, or an operator set, is one of ONNX Runtime's that are run."""
    return message.domain == _RUNTIME and (message.DESCRIPTOR.name != "NodeProto" or message.op_type in _OF_RUNTIME)


def check_onnx_(model: Any, *, what: str, remedy: str = "") -> None:
    """Check a model, and drop what an engine does not need: unknown fields, metadata, documentation, and declared shapes of inner values.
    The metadata of PyTorch's exporter name, for each node, the files and lines of code on the machine that wrote the model."""
    end = f" {remedy}" if remedy else ""
    if not model.HasField("graph") or not model.graph.output:
        raise NetworkError(f"{what} holds no network; expected a graph with outputs.{end}")
    model.DiscardUnknownFields()
    for message in _messages(model, importlib.import_module("google.protobuf.message").Message):
        kind = message.DESCRIPTOR.name
        for told in {"metadata_props", "doc_string"}.intersection(message.DESCRIPTOR.fields_by_name):
            message.ClearField(told)
        if kind in _FOREIGN:
            raise UnsafeFileError(f"{what} holds {_FOREIGN[kind]}, which regraft never writes. It is not opened.{end}")
        if kind == "GraphProto":
            del message.value_info[:]
        elif kind == "TensorProto":
            _check_tensor(message, what, end=end)
        elif kind in ("NodeProto", "OperatorSetIdProto") and not is_standard(message) and not of_runtime(message):
            named = f"{message.op_type if kind == 'NodeProto' else 'operators'} of the domain {message.domain!r}"
            raise UnsafeFileError(
                f"{what} calls for {printable(named, width=120)}; expected operators of ONNX, or those of ONNX Runtime that only compute. "
                f"It is not opened.{end}"
            )
        elif kind == "NodeProto" and message.op_type in _LOOPS:
            raise UnsafeFileError(f"{what} holds a loop ({message.op_type}), which might never end. It is not opened.{end}")


def _messages(message: Any, kind: type) -> Iterator[Any]:
    """Yield a protobuf message and all nested messages, but nothing inside a tensor."""
    yield message
    if message.DESCRIPTOR.name == "TensorProto":
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if isinstance(value, kind) else value:
                yield from _messages(part, kind)


# over the limit: what it is called and what to do stand in every message
def _check_tensor(tensor: Any, what: str, *, end: str) -> None:
    """Raise unless a tensor lies in the file itself and has the declared size."""
    name = printable(repr(tensor.name), width=60)
    if tensor.data_location or len(tensor.external_data):
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        shown = printable(repr(places[0]), width=80) if places else "another file"
        raise UnsafeFileError(
            f"{what} takes its tensor {name} from {shown}; expected it in the file itself, or in a file of its folder whose name ends "
            f"with {', '.join(FORMATS['onnx weights'].suffixes)}. It is not opened.{end}"
        )
    form = _form(tensor)
    if form not in _SIZES:
        raise NetworkError(f"{what}: its tensor {name} is of the type {form}; expected one of {', '.join(_SIZES)}.{end}")
    whole, rest = divmod(len(tensor.raw_data), _SIZES[form])
    held = whole + sum(len(getattr(tensor, store)) for store in _STORES)
    declared = list(tensor.dims)
    if rest or any(size < 0 for size in declared) or math.prod(declared) != held:
        raise NetworkError(f"{what}: its tensor {name} declares the shape {declared} and holds {held} numbers. The file is damaged.{end}")
