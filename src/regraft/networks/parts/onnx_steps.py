"""Preprocessing of images and numeric rows as ONNX operators, prepended to a network's graph."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import NetworkError, optional_import

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_CUBIC = -0.5  # Coefficient of bicubic interpolation in PIL and PyTorch; the default of ONNX is -0.75
_CHANNELS = (1, 3, 4)
_WRAPPERS = ("conditions", "columns")
_SIZES = ((40, 60), (97, 64), (300, 280), (17, 9))
"""Height and width of the images on which a graph is compared with the Python preprocessing."""


def items_of(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the preprocessing of the examples themselves, without the wrappers for conditions and columns; both as plain data."""
    while plain["kind"] in _WRAPPERS:
        plain = plain["inner"]
    return plain


def check_steps(plain: Mapping[str, Any]) -> None:
    """Raise if a preprocessing cannot be part of a graph."""
    found = items_of(plain)
    if found["kind"] not in ("image", "array"):
        raise NetworkError(
            f"preprocessing=True: examples of the kind {found['kind']!r} need a tokenizer or a resampling, which no operator of ONNX does. "
            "Leave it out: regraft predict then preprocesses examples for the file, as its metadata say; other programs have to do it."
        )
    if found["kind"] == "image" and found["as_is"]:
        raise NetworkError(
            "preprocessing=True: this network was adapted to arrays of the shape "
            f"{(found['channels'], found['height'], found['width'])} that were normalised already; how pictures become such arrays is not "
            "known. Leave it out."
        )
    if found["kind"] == "image" and found["channels"] not in _CHANNELS:
        raise NetworkError(
            f"preprocessing=True: expected pictures of 1, 3 or 4 channels; this network takes {found['channels']}. Leave it out."
        )


def as_picture(pixels: np.ndarray) -> Any:
    """Return pixels (H, W, C) uint8 as a PIL image."""
    image = optional_import("PIL.Image", "vision", purpose="A graph with the preprocessing of pictures")
    return image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def sample_items(plain: Mapping[str, Any]) -> list[np.ndarray]:
    """Return synthetic images (H, W, C) uint8 of several sizes; none if the preprocessing takes no images."""
    found, draws = items_of(plain), np.random.default_rng(0)
    made = []
    for height, width in _SIZES if found["kind"] == "image" else ():
        rows, columns = np.mgrid[0:height, 0:width]
        waves = [120 + 90 * np.sin(rows / (5 + at) + at) * np.cos(columns / (7 + at)) for at in range(found["channels"])]
        noise = draws.uniform(-30, 30, (height, width, len(waves)))
        made.append((np.stack(waves, 2) + noise).clip(0, 255).astype(np.uint8))
    return made


class _Steps:
    """Operators to prepend to a graph. Their value names start with a dot, which no exporter's names do."""

    def __init__(self) -> None:
        self.onnx: Any = importlib.import_module("onnx")
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, kind: str = "float32") -> str:
        """Add a constant of dtype `kind`; return its name."""
        name = f".constant{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(values, dtype=kind), name))
        return name

    def add(self, operator: str, *inputs: str, **settings: Any) -> str:
        """Add an `operator` with these `settings`; return the name of its output."""
        name = f".step{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, list(inputs), [name], **settings))
        return name

    def cast(self, value: str, kind: str) -> str:
        """Add a cast of a `value` to the ONNX type `kind`; return the name of its output."""
        return self.add("Cast", value, to=getattr(self.onnx.TensorProto, kind))

    def scaled(self, value: str, *, factor: Any, offset: Any) -> str:
        """Add `value` * `factor` + `offset`, with arrays as factor and offset; return the name of its output."""
        return self.add("Add", self.add("Mul", value, self.constant(factor)), self.constant(offset))


def put_steps_(model: Any, plain: Mapping[str, Any], *, items: str) -> None:
    """Prepend the preprocessing to an `onnx.ModelProto` in place, so that the input `items` takes raw examples.
    Images are uint8 (N, H, W, C) of any size; rows of numbers are not normalised."""
    inputs = {value.name: value for value in model.graph.input}
    found, steps = items_of(plain), _Steps()
    made: dict[str, str] = {}
    if found["kind"] == "image":
        made[items] = _picture(steps, found, value=items)
        _take_pictures_(inputs[items], found["channels"])
    elif found["mean"] is not None or found["std"] is not None:
        made[items] = _normalised(steps, items, found=found)
    while plain["kind"] in _WRAPPERS:
        if plain["kind"] == "columns":
            made["columns"] = _normalised(steps, "columns", found=plain)
        plain = plain["inner"]
    for node in model.graph.node:
        node.input[:] = [made.get(name, name) for name in node.input]
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*steps.nodes, *own])
    model.graph.initializer.extend(steps.constants)


def _take_pictures_(value: Any, channels: int) -> None:
    """Declare an input as uint8 images (batch, height, width, channels)."""
    tensor = value.type.tensor_type
    tensor.elem_type = importlib.import_module("onnx").TensorProto.UINT8
    batch = tensor.shape.dim[0].dim_param or "batch"
    del tensor.shape.dim[:]
    for size in (batch, "height", "width", channels):
        axis = tensor.shape.dim.add()
        if isinstance(size, str):
            axis.dim_param = size
        else:
            axis.dim_value = size


def _normalised(steps: _Steps, value: str, *, found: Mapping[str, Any]) -> str:
    """Add (value - mean) / std; return the name of its output."""
    for operator, name in (("Sub", "mean"), ("Div", "std")):
        if found[name] is not None:
            numbers = np.asarray(found[name], np.float32)
            shape = tuple(found.get("shape") or ())
            whole = numbers.size > 1 and len(shape) > 1 and numbers.size != shape[-1]
            value = steps.add(operator, value, steps.constant(numbers.reshape(shape) if whole else numbers))
    return value


def _picture(steps: _Steps, found: Mapping[str, Any], *, value: str) -> str:
    """Add resizing, cropping and normalisation of uint8 images (N, H, W, C); return the name of its output."""
    bytes_first = steps.add("Transpose", value, perm=[0, 3, 1, 2])
    target, corner = _geometry(steps, found, size=steps.cast(steps.add("Shape", bytes_first, start=2, end=4), "DOUBLE"))
    resized = steps.add(
        "Resize",
        *(steps.cast(bytes_first, "FLOAT"), "", "", target),
        **{"axes": [2, 3], "antialias": 1, "mode": _MODES[found["interpolation"]], "exclude_outside": 1, "cubic_coeff_a": _CUBIC},
    )
    ends = steps.add("Add", corner, steps.constant([found["height"], found["width"]], "int64"))
    cut = steps.add("Slice", resized, corner, ends, steps.constant([2, 3], "int64"))
    pixels = steps.add("Clip", steps.add("Round", cut), steps.constant(0.0), steps.constant(255.0))  # as PIL does
    if found["bgr"] and found["channels"] == 3:
        pixels = steps.add("Gather", pixels, steps.constant([2, 1, 0], "int64"), axis=1)
    mean, std = (np.broadcast_to(np.asarray(found[name], np.float64), found["channels"]).reshape(-1, 1, 1) for name in ("mean", "std"))
    ready = steps.scaled(pixels, factor=found["scale"] / std, offset=-mean / std)
    return steps.add("Transpose", ready, perm=[0, 2, 3, 1]) if found["layout"] == "channels_last" else ready


def _geometry(steps: _Steps, found: Mapping[str, Any], *, size: str) -> tuple[str, str]:
    """Return the resized size and the top left corner of the crop, both int64, as `geometry` of the image preprocessing computes them."""
    wanted = np.asarray([found["height"], found["width"]])
    target = steps.constant(np.floor(wanted / found["crop_fraction"]), "float64")
    if found["resize"] == "crop":
        factor = steps.add("ReduceMax", steps.add("Div", target, size), keepdims=1)
        target = steps.add("Max", target, steps.add("Floor", steps.add("Mul", size, factor)))
    corner = steps.add("Div", steps.add("Sub", target, steps.constant(wanted, "float64")), steps.constant(2.0, "float64"))
    return steps.cast(target, "INT64"), steps.cast(steps.add("Round", corner), "INT64")
