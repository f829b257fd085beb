"""What computes a frozen part: PyTorch as it is or compiled, ONNX Runtime or OpenVINO.

A frozen part is exported once, as a module whose forward is the part itself and whose outputs are the live ones, with a free batch axis.
What an engine makes of it is used only after it has given PyTorch's values on examples of the run.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import NetworkError, RegraftError, optional_import
from ..networks.contract import Inputs, Network
from ..networks.onnx.openvino import openvino_program
from ..networks.onnx.session import run_session, session_of
from ..networks.parts.onnx_export import WholeNetwork, check_size, input_names, onnx_model, sample_tensors, why_not_exported
from .cut import Cut, Refusal

__all__ = ["EAGER", "ENGINES", "MOST_OFF", "Batch", "Engine", "EngineLog", "built_engine", "check_engine", "engine_names", "worth_building"]

EAGER = "eager"
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_LIBRARIES = {"openvino": (*_ONNX, "openvino"), "onnxruntime": _ONNX}
"""Engine -> the libraries that it needs. All take the network in ONNX form."""
ENGINES = ("auto", EAGER, "compile", *_LIBRARIES)
MOST_OFF = 1e-4
"""Largest difference from PyTorch's values, in proportion to the largest value of an output."""
_MOST_LOST = 0.03
"""Share of the time of a pass that "auto" risks on an engine that may turn out to be no faster."""
_SECONDS, _SECONDS_A_LAYER = 5.0, 0.15
"""Above what it took to export, and to build both engines, on every network that was measured: a part for the libraries, one a layer."""

Values = Callable[[Inputs], list[Tensor]]


@dataclass(frozen=True)
class Batch:
    """Examples that PyTorch has computed: what a frozen part took, what it gave, and the seconds of that."""

    inputs: Inputs
    values: list[Tensor]
    seconds: float

    def __len__(self) -> int:
        return len(self.values[0])


@dataclass(frozen=True)
class Engine:
    """What computes a frozen part.

    Attributes:
        name: with its version, as it stands in the identity of a cache; `EAGER` for PyTorch as it is.
        values: inputs -> live outputs.
        seconds: of one example, measured on a batch that is not the first.
        difference: the largest one from PyTorch's values, in proportion to the largest value.
        exact: whether values were bit-identical in a second run and for an example alone.
        faster: seconds by which an example took less than with PyTorch as it is.
    """

    name: str
    values: Values
    seconds: float = 0.0
    difference: float = 0.0
    exact: bool = True
    faster: float = 0.0


@dataclass
class EngineLog:
    """The engines that a run has built, and what they cost and saved.

    Attributes:
        built: by what they compute; a frozen part that no engine takes has PyTorch.
        building: seconds spent on exporting, building and proving.
        saved: seconds by which the passes were shorter than PyTorch's would have been, building not taken off.
    """

    built: dict[str, Engine] = field(default_factory=dict)
    building: float = 0.0
    saved: float = 0.0


def check_engine(name: str) -> None:
    """Check, before any work, that what an engine needs is installed.

    Args:
        name: one of `ENGINES`.

    Raises:
        MissingExtraError: with what to install.
    """
    for library in _LIBRARIES.get(name, ()):
        optional_import(library, "engines" if name == "openvino" else "onnx", purpose=f"engine={name!r}")


def engine_names(wanted: str) -> dict[str, str]:
    """Return the engines that a setting stands for, by their names in the identity of a cache; PyTorch as it is comes last.

    Args:
        wanted: one of `ENGINES`; "auto" stands for all that are installed and need no compiler.
    """
    chosen = [name for name, needed in _LIBRARIES.items() if all(map(find_spec, needed))] if wanted == "auto" else [wanted]
    libraries = {name: "torch" if name == "compile" else name for name in chosen if name != EAGER}
    named = {name: f"{name} {importlib.metadata.version(library)} float32" for name, library in libraries.items()}
    return {**named, EAGER: EAGER}


def worth_building(network: Network, layers: frozenset[str], *, seconds: float) -> bool:
    """Tell whether another engine may be expected to make a pass shorter, its export and building included.

    Where the gain is known for the kind of network (on a CPU, measured: 2.4 to 5.7 for depthwise convolutions, 1.4 to 1.7 for others), it
    must pay for the largest known time of building. Elsewhere, building may take 3 % of the pass at most, so that little is lost where the
    engine is no faster.

    Args:
        network: whose frozen part it is.
        layers: those of the part.
        seconds: that the pass takes with PyTorch as it is.
    """
    modules = [module for name, module in network.modules().items() if name in layers]
    building = _SECONDS + _SECONDS_A_LAYER * len(modules)
    gain = max(map(_usual_gain, modules), default=1.0)
    return building <= _MOST_LOST * seconds or 1.1 * (building + seconds / gain) <= seconds


def _usual_gain(module: Module) -> float:
    """Return the least factor by which networks with such a layer were faster; 1 where little or nothing was gained."""
    kind = type(module).__name__
    if "Depthwise" in kind or "SeparableConv" in kind or ("Conv" in kind and int(getattr(module, "groups", 1)) > 1):
        return 2.0
    return 1.3 if "Conv2d" in kind or "Conv2D" in kind else 1.0


class _FrozenModule(WholeNetwork):
    """A frozen part as a module: its tensors in order, its live outputs in order."""

    def __init__(self, network: Network, cut: Cut) -> None:
        super().__init__(network)
        self.__dict__["cut"] = cut

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the live outputs."""
        return tuple(self.__dict__["cut"].frozen_part(self.inputs(tensors)))


def built_engine(network: Network, cut: Cut, *, wanted: str, proof: Sequence[Batch], log: EngineLog) -> tuple[Engine, list[str]]:
    """Export a frozen part and build an engine for it; of several, the one that is fastest on the examples given.

    Args:
        network: whose frozen part it is; it is not changed.
        cut: where it ends.
        wanted: one of `ENGINES`.
        proof: batches, of which the first has two examples at least.
        log: gets the seconds.

    Returns:
        The engine, PyTorch as it is where no other gives its values, and why those that were built or tried are not used.
    """
    start = time.perf_counter()
    found, why = list[Engine](), list[str]()
    names = {name: known for name, known in engine_names(wanted).items() if name != EAGER}
    try:
        module, sample = _module_of(network, cut), [tensor[:2] for tensor in sample_tensors(proof[0].inputs)]
        make = _compiled(module, sample) if wanted == "compile" else _in_onnx_form(module, sample, outputs=len(cut.live))
        for name, known in names.items():
            try:
                found.append(_proved(known, make(name), cut=cut, proof=proof))
            except RegraftError as problem:
                why.append(f"{name}: {str(problem).rstrip('.')}")
    except Exception as problem:  # not every forward can be exported
        why.append(why_not_exported(problem).rstrip("."))
    log.building += time.perf_counter() - start
    return min(found, key=lambda one: one.seconds, default=Engine(EAGER, cut.frozen_part)), why


def _module_of(network: Network, cut: Cut) -> _FrozenModule:
    """Return the frozen part of a private copy of a network as a module in inference mode."""
    twin = network.for_export()
    own = cut.again(twin)
    if isinstance(own, Refusal) or own.live != cut.live:
        raise NetworkError(f"a copy of the network is not cut in the same way, with {len(cut.live)} live outputs")
    return _FrozenModule(twin, own).eval()


def _in_onnx_form(module: _FrozenModule, sample: Sequence[Tensor], *, outputs: int) -> Callable[[str], Values]:
    """Export a module to ONNX; return what makes a function of live outputs by the name of the engine."""
    network = module.__dict__["network"]
    names, threads = input_names(network.sample) or ["input"], torch.get_num_threads()
    check_size(network.state(), purpose="engine=")
    called = [f"live{at}" for at in range(outputs)]
    axes = [{0: torch.export.Dim("batch", min=1)} for _ in sample]
    content = onnx_model(module, sample, inputs=names, outputs=called, axes=axes).SerializeToString()

    def make(engine: str) -> Values:
        if engine == "openvino":
            run = openvino_program(content, threads=threads)
        else:
            session = session_of(content, threads=threads)
            taken = {one.name for one in session.get_inputs()}

            def run(feeds: Mapping[str, Any]) -> list[Any]:
                return run_session(session, {name: values for name, values in feeds.items() if name in taken})

        def values(inputs: Inputs) -> list[Tensor]:
            arrays = [tensor.detach().contiguous().numpy() for tensor in sample_tensors(inputs)]
            return [torch.from_numpy(found) for found in run(dict(zip(names, arrays, strict=True)))]

        return values

    return make


def _compiled(module: _FrozenModule, sample: Sequence[Tensor]) -> Callable[[str], Values]:
    """Export a module and compile it; return what makes a function of live outputs by the name of the engine."""
    axes = {"tensors": tuple({0: torch.export.Dim("batch", min=1)} for _ in sample)}
    with torch.no_grad():
        program = torch.export.export(module, tuple(sample), dynamic_shapes=axes, strict=False).module()
    compiled = torch.compile(program, dynamic=True)

    def values(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            return list(compiled(*sample_tensors(inputs)))

    return lambda _engine: values


def _proved(name: str, values: Values, *, cut: Cut, proof: Sequence[Batch]) -> Engine:
    """Return an engine, once it has given PyTorch's values on some batches and on one example alone.

    Raises:
        NetworkError: with how they differ.
    """

    def typed(inputs: Inputs) -> list[Tensor]:
        return [found.to(part.dtype) for found, part in zip(values(inputs), cut.live, strict=True)]

    largest, first = 0.0, typed(proof[0].inputs)
    for batch in proof:
        largest = max(largest, _difference(batch.values, typed(batch.inputs)))
    start = time.perf_counter()
    again = typed(proof[0].inputs)
    seconds = (time.perf_counter() - start) / len(proof[0])
    alone = typed(_first(proof[0].inputs))
    _difference([value[:1] for value in first], alone)
    exact = all(torch.equal(one, two) and torch.equal(one[:1], own) for one, two, own in zip(first, again, alone, strict=True))
    return Engine(name, typed, seconds, largest, exact)


def _first(inputs: Inputs) -> Inputs:
    return {name: tensor[:1] for name, tensor in inputs.items()} if isinstance(inputs, dict) else inputs[:1]


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return by how much values differ, in proportion to the largest one of their output.

    Raises:
        NetworkError: if that is more than `MOST_OFF`, or whole numbers differ.
    """
    largest = 0.0
    for at, (one, two) in enumerate(zip(expected, found, strict=True)):
        one, two = one.cpu(), two.cpu()
        scale = float(one.abs().nan_to_num().max()) if one.is_floating_point() and one.numel() else 0.0
        limit = MOST_OFF * scale if one.is_floating_point() else 0.0
        if one.shape != two.shape or not torch.allclose(two.double(), one.double(), rtol=0, atol=limit, equal_nan=True):
            raise NetworkError(f"for a batch of {len(one)}, output {at + 1} is not what PyTorch gives (within {limit:.1g})")
        if scale:
            largest = max(largest, float((one - two).abs().nan_to_num().max()) / scale)
    return largest
