"""ONNX files as trainable PyTorch modules: constants folded, converted by onnx2pytorch, and verified against ONNX Runtime."""

from __future__ import annotations

import functools
import importlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, UnsafeFileError, optional_import
from ...files.formats import reading
from ...files.onnx_form import is_standard, read_onnx
from ...files.text import printable
from ..layers.graph import Recurrent
from ..parts.protocols import Inputs, by_name
from ..samples import lengthened
from ..sources.building import Limits, building
from ..sources.zoo import SourceModule
from ..torch.exporting import GRAPH
from ..torch.wrappers import call_module
from ..tracing import as_tensor, relative_difference
from .frozen import FROZEN, frozen_graph, frozen_module, parts_of
from .operators import take_operators_
from .reading import ForeignOnnx, check_operators, nodes_of, read_foreign
from .session import run_session, session_of

__all__ = ["SOURCE", "onnx_module", "open_onnx", "read_onnx_module"]

SOURCE = "onnx"
"""Origin of a network that came as an ONNX file."""
_LARGEST = 2**26
"""Largest number of elements of a constant that is computed on opening."""
_PURPOSE = "Training a network that came as an ONNX file"
_SECONDS = 60.0
_TOLERANCE = 1e-4
_OPEN = (16, 128, 512)
"""Lengths for open axes of the sample, tried in this order."""
_KINDS = {"tensor(float)": torch.float32, "tensor(int64)": torch.int64, "tensor(int32)": torch.int32}
_GROWING = ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize", "Upsample", "OneHot", "MatMul", "Gemm", "Gather", "GatherND")


def open_onnx(path: Path) -> SourceModule:
    """Open an ONNX file as a trainable PyTorch module, or with a trainable head only if it cannot be converted.
    The result carries weights, notes, and the file's class names and preprocessing if it has them."""
    found, shown = read_foreign(path), repr(printable(path))
    if found.facts is not None and found.facts.preprocessing_inside:
        raise NetworkError(
            f"{shown} has the preprocessing in its graph, which cannot be trained through. regraft predict runs it; to adapt the network, "
            "export it without preprocessing=True, or give the saved folder."
        )
    try:
        module, sample, difference = _converted(found, shown=shown)
        inputs: Any = next(iter(sample.values())) if len(sample) == 1 else sample
        notes = [f"converted from ONNX: it differs from ONNX Runtime by {difference:.1g} of the largest score", *found.notes]
    except UnsafeFileError:
        raise
    except NetworkError as problem:
        module, inputs = _frozen(found, problem, shown=shown)
        notes = [f"run by ONNX Runtime as it is, and not trained below its head: {problem}", *found.notes]
    plain = None if found.facts is None else found.facts.preprocessing
    tasks = {} if found.facts is None else {task: one.model_dump() for task, one in found.facts.tasks.items()}
    made = SourceModule(module, {"source": SOURCE}, inputs, found.classes, plain, notes=notes, tasks=tasks)
    made.open = _open_shapes(found.model, module, sample=inputs)
    return made


def _open_shapes(model: Any, module: Module, *, sample: Inputs) -> dict[str, tuple[int | None, ...]]:
    """Return the shapes of sequences and signals of any length, by input name, if the module takes others than those of the sample.
    A converted module must then compute what ONNX Runtime does."""
    named, shapes = by_name(sample), dict[str, tuple[int | None, ...]]()
    for one in model.graph.input:
        name, sides = one.name if one.name in named else "", [side.HasField("dim_value") for side in one.type.tensor_type.shape.dim][1:]
        if name in named and sides.count(False) == 1 and named[name].ndim == 1 + len(sides) < 4:
            shapes[name] = tuple(size if fixed else None for size, fixed in zip(named[name].shape[1:], sides, strict=True))
    if not shapes:
        return {}
    try:
        longer = lengthened(sample, shapes)
        with torch.no_grad():
            found = as_tensor(call_module(module, longer))
        if not parts_of(dict(module.named_modules())):
            given = longer if isinstance(longer, dict) else {model.graph.input[0].name: longer}
            wanted = torch.tensor(_run(session_of(model.SerializeToString()), given))
            return shapes if found is not None and relative_difference(found, wanted) <= _TOLERANCE else {}
    except Exception:  # a converted graph may raise anything
        return {}
    return shapes


def _converted(found: ForeignOnnx, *, shown: str) -> tuple[Module, dict[str, Tensor], float]:
    """Return the converted module, a sample by input name, and the difference from ONNX Runtime."""
    session = session_of(found.model.SerializeToString(), threads=torch.get_num_threads())
    sample = _sample(session, shown=shown)
    with reading(shown, "onnx", remedy="Export the network again."):  # the libraries raise anything on a damaged graph
        content = _folded(found.model).SerializeToString()
    module = onnx_module(content, what=shown)
    return module, sample, _proven(module, session, sample=sample, what=shown)


def _frozen(found: ForeignOnnx, problem: NetworkError, *, shown: str) -> tuple[Module, Tensor | dict[str, Tensor]]:
    """Return a network that ONNX Runtime runs in parts, and a sample."""
    try:
        model, sample = frozen_graph(found.model)
        module = frozen_module(model, model.metadata_props[-1].value)
        with torch.no_grad():
            call_module(module, sample)
    except NetworkError as error:
        if shown in str(problem):
            raise problem from error
        raise NetworkError(f"{shown} cannot be opened: {problem} Copy it again, or export the network again.") from error
    setattr(module, GRAPH, model.SerializeToString())
    return module, sample


def read_onnx_module(path: Path, *, what: str) -> Module:
    """Return the module of a graph in a saved folder, with the weights of the original file."""
    if not path.is_file():
        raise NetworkError(f"{what} holds no {path.name}, the graph that its weights belong to. Put it back from a copy.")
    model, facts = read_onnx(path)
    check_operators(model.graph, shown=what)
    if FROZEN not in facts:
        return onnx_module(model.SerializeToString(), what=what)
    module, noted = frozen_module(model, facts[FROZEN]), model.metadata_props.add()
    noted.key, noted.value = FROZEN, facts[FROZEN]
    setattr(module, GRAPH, model.SerializeToString())
    return module


def onnx_module(content: bytes, *, what: str) -> Module:
    """Return a module of PyTorch layers that computes the graph."""
    library = optional_import("onnx2pytorch", "onnx", purpose=_PURPOSE)
    onnx = importlib.import_module("onnx")
    model = onnx.ModelProto.FromString(content)
    own = sorted({node.op_type for node in nodes_of(model.graph) if not is_standard(node)})
    if own:  # the library would look for functions of these names in PyTorch
        raise NetworkError(f"its operators {', '.join(own)} are ONNX Runtime's own")
    kinds = ", ".join(sorted({node.op_type for node in model.graph.node})[:40])
    remedy = f"Its operators are {kinds}. regraft predict runs files that regraft wrote without converting them."
    with building(what, Limits.of_memory(), remedy=remedy), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="No explicit conversion")  # otherwise it would call any torch function of that name
        module: Module = library.ConvertModel(model, experimental=True)
    kind: Any = type(module)
    module.__class__ = _warned_once(kind)
    setattr(module, GRAPH, content)  # the library changes its own copy
    _drop_doubles_(module, model)
    take_operators_(module, model)
    _step_by_step_(module)
    for layer in module.modules():  # a bias that the graph adds as a row, as scikit-learn writes it
        if isinstance(layer, torch.nn.Linear) and layer.bias is not None and layer.bias.shape == (1, layer.out_features):
            layer.bias = torch.nn.Parameter(layer.bias.detach()[0])
    return module.eval()


@functools.cache
def _by_step(kind: type[Module]) -> type[Module]:
    """Return a class of recurrent operator that never merges steps and examples into one axis: PyTorch's exporter and Keras need this."""

    class Steps(kind):  # type: ignore[misc,valid-type]  # the library is not there for mypy
        def forward(self, value: Tensor, *first: Tensor) -> tuple[Tensor, ...]:
            cells: Any = next(self.children())
            if first or self.sequence_lens is not None:
                return super().forward(value, *first)  # type: ignore[no-any-return]
            value = value.flip(0) if self.reverse else value
            if isinstance(cells, Recurrent):
                made = cells(value.transpose(0, 1)).transpose(0, 1).unflatten(-1, (-1, cells.cells.hidden_size))
                last: Any = torch.cat([made[:1, :, 1] if at else made[-1:, :, 0] for at in range(made.shape[2])])
            else:
                outputs, last = cells(value)
                made = outputs.unflatten(-1, (-1, cells.hidden_size))
            made = made.flip(0) if self.reverse else made
            return made.transpose(1, 2), *(last if isinstance(last, tuple) else (last,))

    return Steps


def _step_by_step_(module: Module) -> None:
    """Let the recurrent layers of onnx2pytorch compute by `_by_step`. A GRU that resets before its linear map becomes a `Recurrent`."""
    found: list[Any] = [part for part in module.modules() if hasattr(part, "sequence_lens")]
    for layer in found:
        cells: Any = next(layer.children())
        if not getattr(layer, "linear_before_reset", True) and layer.sequence_lens is None:
            settings = {"inputs": cells.input_size, "units": cells.hidden_size, "both": cells.bidirectional, "steps": True}
            own = Recurrent("GRU", **settings, activations=("Sigmoid", "Tanh"), after=False)
            own.cells.load_state_dict(cells.state_dict())
            layer.gru = own
        kind: Any = type(layer)
        layer.__class__ = _by_step(kind)


@functools.cache
def _warned_once(kind: type[Module]) -> type[Module]:
    """Return a class of converted module that suppresses PyTorch's warning about the slices of onnx2pytorch."""

    class QuietModule(kind):  # type: ignore[misc,valid-type]  # the library is not there for mypy
        def forward(self, *tensors: Any, **named: Any) -> Any:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Using a non-tuple sequence", UserWarning)
                return super().forward(*tensors, **named)

    return QuietModule


def _drop_doubles_(module: Any, model: Any) -> None:
    """Replace weight copies that the layers hold themselves by None. The library reads the names once an edit has removed a layer."""
    layers = importlib.import_module("onnx2pytorch.constants").STANDARD_LAYERS
    read: set[str] = set()
    for node in model.graph.node:
        made = getattr(module, module.mapping[node.output[0]])
        parts = made.modules() if isinstance(made, torch.nn.Sequential) else [made]
        own = any(isinstance(part, layers) for part in parts)
        read.update(() if own else node.input)
        if any(one.HasField("g") or len(one.graphs) for one in node.attribute):
            return  # nested graphs read them too
    for tensor in model.graph.initializer:
        if tensor.name not in read:
            delattr(module, f"_initializer_{tensor.name}")
            setattr(module, f"_initializer_{tensor.name}", None)


def _folded(model: Any) -> Any:
    """Return a model with its constants folded, except large ones."""
    ir = optional_import("onnx_ir", "onnx", purpose=_PURPOSE)
    optimizer = optional_import("onnxscript.optimizer", "onnx", purpose=_PURPOSE)
    made = ir.serde.deserialize_model(model)
    with _quiet():
        for _ in range(3):
            optimizer.fold_constants_ir(
                made, onnx_shape_inference=True, input_size_limit=_LARGEST, output_size_limit=_LARGEST, should_fold=_stays_small
            )
            _split_(made.graph, ir)
            optimizer.remove_unused_nodes(made)
    folded = ir.serde.serialize_model(made)
    _left_as_numbers_(folded.graph)
    return folded


def _left_as_numbers_(graph: Any) -> None:
    """Turn constant left operands of products into Constant nodes. onnx2pytorch would take them for weights of a linear layer."""
    held, helper = {tensor.name: tensor for tensor in graph.initializer}, importlib.import_module("onnx.helper")
    pairs = [node.input for node in graph.node if node.op_type == "MatMul"]
    for name in {left for left, right in pairs if left in held and right not in held}:
        graph.node.insert(0, helper.make_node("Constant", [], [name], name=name, value=held[name]))
        graph.initializer.remove(held[name])


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the library's messages about nodes that it does not fold, and no other logger's."""
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _split_(graph: Any, ir: Any) -> None:
    """Fold Split nodes on constants, which the library leaves. Weights of recurrent layers have this form."""
    for node in [node for node in graph if node.op_type == "Split"]:
        held, sizes = ((None if one is None else one.const_value) for one in (*node.inputs, None)[:2])
        known = len(node.inputs) < 2 or node.inputs[1] is None or sizes is not None
        if held is None or held.size > _LARGEST or not known:
            continue
        axis = node.attributes["axis"].value if "axis" in node.attributes else 0
        parts = np.array_split(held.numpy(), len(node.outputs) if sizes is None else np.cumsum(sizes.numpy())[:-1], axis)
        for output, values in zip(node.outputs, parts, strict=True):
            value = ir.Value(name=f"{output.name}_part", const_value=ir.tensor(np.ascontiguousarray(values), name=f"{output.name}_part"))
            graph.register_initializer(value)
            ir.convenience.replace_all_uses_with(output, value)


def _stays_small(node: Any) -> bool | None:
    """Return False for a node whose result may grow large, else None, which leaves it to the rules of the library."""
    sizes = [value.const_value.size for value in node.inputs if value is not None and value.const_value is not None]
    shapes = [one.shape for one in node.outputs]
    known = [math.prod(shape) for shape in shapes if shape is not None and all(isinstance(side, int) for side in shape)]
    if len(known) == len(shapes):
        return None if max(known, default=0) <= _LARGEST else False
    most = math.prod(max(size, 1) for size in sizes) if node.op_type in _GROWING else sum(sizes)
    return False if node.op_type in _GROWING[:8] or most > _LARGEST else None


def _sample(session: Any, *, shown: str) -> dict[str, Tensor]:
    """Return two random examples for each input by name, which the graph runs on."""
    inputs = session.get_inputs()
    if not inputs:
        raise NetworkError(f"{shown} takes no inputs.")
    for one in inputs:
        sides = [side if isinstance(side, int) else _OPEN[-1] for side in one.shape]
        if one.type not in _KINDS or not sides or 2 * math.prod(sides[1:]) > _LARGEST:
            raise NetworkError(f"{shown} takes {one.name!r}, {one.type} of the shape {one.shape}; expected batches of numbers.")
        if isinstance(one.shape[0], int):
            raise NetworkError(
                f"{shown} takes {one.name!r} of the shape {one.shape}, whose first axis is fixed; expected a free batch axis. Export it "
                "with one: dynamic_shapes or dynamic_axes in PyTorch, an input without batch_size in Keras."
            )
    lengths = _OPEN if any(not isinstance(side, int) for one in inputs for side in one.shape[1:]) else _OPEN[:1]
    for length in lengths:
        draws, made = torch.Generator().manual_seed(0), {}
        for one in inputs:
            shape = [2, *(side if isinstance(side, int) else length for side in one.shape[1:])]
            kind = _KINDS[one.type]
            made[one.name] = torch.randn(shape, generator=draws) if kind.is_floating_point else torch.ones(shape, dtype=kind)
        try:
            _run(session, made)
            break
        except NetworkError:
            if length == lengths[-1]:
                raise
    return made


def _run(session: Any, sample: Mapping[str, Tensor]) -> np.ndarray:
    return np.asarray(run_session(session, {name: values.numpy() for name, values in sample.items()}, seconds=_SECONDS)[0])


def _batches(sample: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the sample, three other examples, and one."""
    yield dict(sample)
    draws = torch.Generator().manual_seed(1)
    for count in (3, 1):
        drawn = {name: torch.randn((count, *values.shape[1:]), generator=draws) for name, values in sample.items()}
        yield {
            name: drawn[name] if values.is_floating_point() else values[:1].repeat_interleave(count, 0) for name, values in sample.items()
        }


def _proven(module: Module, session: Any, *, sample: Mapping[str, Tensor], what: str) -> float:
    """Return the largest difference between a module and ONNX Runtime, relative to the largest logit. Raise above the tolerance."""
    largest = 0.0
    for batch in _batches(sample):
        with torch.no_grad(), building(what, Limits.of_memory()):
            found = as_tensor(module(*batch.values()))
        wanted = _run(session, batch)
        if found is None or tuple(found.shape) != wanted.shape:
            shape = None if found is None else tuple(found.shape)
            raise NetworkError(f"{what}: the converted module gives {shape}, ONNX Runtime {wanted.shape}. It is not taken.")
        largest = max(largest, relative_difference(found, torch.tensor(wanted)))
    if not largest <= _TOLERANCE:
        raise NetworkError(
            f"{what}: the module made of it differs from ONNX Runtime by {largest:.2g} of the largest score. It is not taken."
        )
    return largest
