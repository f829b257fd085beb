"""What computes a frozen part: PyTorch as it is or compiled, ONNX Runtime or OpenVINO.

A frozen part is exported once, as a module whose forward is the part itself and whose outputs are the live ones, with a free batch axis.
What an engine makes of it is used only after it has given PyTorch's values on examples of the run.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from ..errors import NetworkError, RegraftError, optional_import
from ..networks.contract import Inputs, Network
from ..networks.onnx.openvino import openvino_program
from ..networks.onnx.session import run_session, session_of
from ..networks.parts.onnx_export import WholeNetwork, check_size, input_names, onnx_model, sample_tensors, why_not_exported
from ..scale import check_cluster
from .cut import Cut, Refusal

__all__ = [
    "EAGER",
    "ENGINES",
    "FEWEST",
    "HALF",
    "MOST_OFF",
    "Batch",
    "Engine",
    "EngineLog",
    "Values",
    "Work",
    "check_engine",
    "chosen_engine",
    "engine_names",
    "frozen_work",
]

EAGER, HALF = "eager", "bfloat16"
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_LIBRARIES = {"openvino": (*_ONNX, "openvino"), "onnxruntime": _ONNX}
"""Engine -> the libraries that it needs. All take the network in ONNX form."""
ENGINES = ("auto", EAGER, "compile", *_LIBRARIES)
MOST_OFF = 1e-4
"""Largest difference from PyTorch's values, in proportion to the largest value of an output."""
FEWEST = 1024
"""Examples below which "auto" does not look for another engine than PyTorch as it is."""
_MOST_LOST, _MOST_ADVANCED = 0.03, 0.13
"""Shares of the time of a pass that "auto" spends on an engine at most: where it may turn out to be no faster, and where the network has
two-dimensional convolutions, which were 1.3 to 5.7 times as fast on every engine that was measured, so that the pass is shorter still."""
_SECONDS, _SECONDS_A_LAYER = 4.0, 0.15
"""Above what it took to export, and to build both engines, on every network that was measured: a part for the libraries, one a layer."""
_AFTER_EXPORT = 4.0
"""Times as long as PyTorch's own export takes what comes after it, at most, on the networks that were measured."""

Values = Callable[[Inputs], list[Tensor]]


@dataclass(frozen=True)
class Batch:
    """Examples that PyTorch has computed: what was given, the results, and the seconds of that."""

    inputs: Inputs
    values: list[Tensor]
    seconds: float

    def __len__(self) -> int:
        return len(self.values[0])


@dataclass(frozen=True)
class Work:
    """What an engine is to compute.

    Attributes:
        name: "The frozen part" or "The network", for notes.
        values: inputs -> results, by PyTorch as it is.
        module: makes a private copy as a module whose forward returns the results in order.
    """

    name: str
    network: Network
    layers: frozenset[str]
    values: Values
    module: Callable[[], WholeNetwork]

    def timed(self, inputs: Inputs) -> Batch:
        """Return the results of PyTorch as it is for `inputs`, and how long they took."""
        start = perf_counter()
        values = self.values(inputs)
        return Batch(inputs, values, perf_counter() - start)


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
        half: builds the same in bfloat16; None: PyTorch's autocast does it.
    """

    name: str
    values: Values
    seconds: float = 0.0
    difference: float = 0.0
    exact: bool = True
    faster: float = 0.0
    half: Callable[[], Values] | None = None


_Proved = tuple[Engine, list[list[Tensor]]]


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


def check_engine(name: str, cluster: str | None = None) -> None:
    """Check, before any work, that what an engine needs is installed, and that a cluster answers.

    `cluster`: "ray://HOST:PORT" or "auto"; None where there is none.
    """
    if cluster is not None:
        check_cluster(cluster)
    for library in _LIBRARIES.get(name, ()):
        optional_import(library, "engines" if name == "openvino" else "onnx", purpose=f"engine={name!r}")


def engine_names(wanted: str, *, half: bool = False) -> dict[str, str]:
    """Return the engines that a setting stands for, by their names in the identity of a cache; PyTorch as it is comes last."""
    chosen = [name for name, needed in _LIBRARIES.items() if all(map(find_spec, needed))] if wanted == "auto" else [wanted]
    libraries = {name: "torch" if name == "compile" else name for name in chosen if name != EAGER}
    named = {name: f"{name} {importlib.metadata.version(library)} float32" for name, library in libraries.items()}
    halves = {library: f"{library} {importlib.metadata.version(library)} {HALF}" for library in ("torch", "openvino") if find_spec(library)}
    return {**({f"{library} {HALF}": name for library, name in halves.items()} if half else {}), **named, EAGER: EAGER}


def chosen_engine(  # over the limit: what a choice depends on
    work: Work, first: Sequence[Batch], *, wanted: str, rows: int, log: EngineLog, say: Callable[[str], None]
) -> tuple[Engine, list[list[Tensor]]]:
    """Choose what computes a pass: the fastest of the engines asked for that gives PyTorch's values.

    With "auto", an engine is built where that, proving it included, is expected to take 3 % of the pass at most, or 13 % for networks
    with two-dimensional convolutions. Building is given up once it takes longer, and an engine that is not faster is left.

    `log`: gets the seconds, and the engine; result: The engine, with the name `EAGER` for PyTorch as it is, and its values of the first
    batches.
    """
    seconds, eager = min(batch.seconds / len(batch) for batch in first), (Engine(EAGER, work.values), [batch.values for batch in first])
    building = _limit(work, seconds=seconds * rows) if wanted == "auto" else math.inf
    proving = seconds * (1 + sum(map(len, first)) + len(first[0]))
    if wanted == "auto" and _expected_building(work) + proving > building:
        return eager
    start = perf_counter()
    found, why = _built(work, wanted=wanted, proof=first, ends=(start + building - proving, start + building))
    log.building += perf_counter() - start
    engine, values = min(found, key=lambda one: one[0].seconds, default=eager)
    if engine.name != EAGER and wanted == "auto" and engine.seconds >= seconds:
        why, engine = [f"{engine.name} took {engine.seconds / seconds:.2f} times as long"], eager[0]
    if engine.name == EAGER:
        say(f"{work.name} ran on PyTorch as it is: {'; '.join(why)}.")
        return eager
    say(
        f"{work.name} ran on {engine.name}: {seconds / engine.seconds:.1f} times as fast as PyTorch as it is on a batch, with "
        f"values within {engine.difference:.1g} of PyTorch's largest one."
        + ("" if engine.exact else " Its values are not bit-identical from run to run, or for other batch sizes.")
    )
    return replace(engine, faster=seconds - engine.seconds), values


def _limit(work: Work, *, seconds: float) -> float:
    """Return how long building may take for a pass of so many seconds."""
    kinds = {type(module).__name__ for name, module in work.network.modules().items() if name in work.layers}
    convolutions = any("Conv2" in kind for kind in kinds)  # also those of Keras: DepthwiseConv2D, SeparableConv2D
    return (_MOST_ADVANCED if convolutions else _MOST_LOST) * seconds


def _expected_building(work: Work) -> float:
    """Return the seconds that building takes at most, by the number of layers that have weights."""
    return _SECONDS + _SECONDS_A_LAYER * len({name.rpartition(".")[0] for name in work.network.state()} & work.layers)


class _FrozenModule(WholeNetwork):
    """A frozen part as a module: its tensors in order, its live outputs in order."""

    def __init__(self, network: Network, cut: Cut) -> None:
        super().__init__(network)
        self.__dict__["cut"] = cut

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the live outputs."""
        return tuple(self.__dict__["cut"].frozen_part(self.inputs(tensors)))


def frozen_work(network: Network, cut: Cut, *, values: Values) -> Work:
    """Return the frozen part of a network as what an engine is to compute.

    `values`: inputs -> live outputs, by PyTorch as it is.
    """

    def module() -> _FrozenModule:
        twin = network.for_export()
        own = cut.again(twin)
        if isinstance(own, Refusal) or own.live != cut.live:
            raise NetworkError(f"a copy of the network is not cut in the same way, with {len(cut.live)} live outputs")
        return _FrozenModule(twin, own).eval()

    return Work("The frozen part", network, cut.layers, values, module)


def _built(work: Work, *, wanted: str, proof: Sequence[Batch], ends: Sequence[float]) -> tuple[list[_Proved], list[str]]:
    """Build and prove engines; `ends` are the times at which building and proving are given up.

    Result: Those that give PyTorch's values, with those of the `proof`, and why the others are not used.
    """
    found, why = list[_Proved](), list[str]()
    names = {name: known for name, known in engine_names(wanted).items() if name != EAGER}
    start = perf_counter()

    def exported() -> None:
        took = perf_counter() - start
        _in_time(start + max(took, min((1 + _AFTER_EXPORT) * took, _expected_building(work))), ends[0])

    try:
        module, sample = work.module(), [tensor[:2] for tensor in sample_tensors(proof[0].inputs)]
        if wanted == "compile":
            make = _compiled(module, sample)
        else:
            make = _in_onnx_form(module, sample, outputs=len(proof[0].values), exported=exported)
        for name, known in names.items():
            try:
                engine, values = _proved(known, make(name), proof=proof, end=ends[1])
                half = wanted != "compile" and find_spec("openvino") is not None
                found.append((replace(engine, half=partial(make, f"openvino {HALF}") if half else None), values))
            except RegraftError as problem:
                why.append(f"{name}: {str(problem).rstrip('.')}")
    except Exception as problem:  # not every forward can be exported
        why.append(why_not_exported(problem).rstrip("."))
    return found, why


def _in_time(expected: float, end: float) -> None:
    """Raise if something is expected to be ready later than at the `end`."""
    if expected > end:
        raise NetworkError(f"building takes {expected - end:.1f} s longer than a pass of this length pays for")


def _in_onnx_form(module: WholeNetwork, sample: Sequence[Tensor], *, outputs: int, exported: Callable[[], None]) -> Callable[[str], Values]:
    """Export a module to ONNX; return what makes a function of live outputs by the name of the engine."""
    network = module.__dict__["network"]
    names, threads = input_names(network.sample) or ["input"], torch.get_num_threads()
    check_size(network.state(), purpose="engine=")
    called = [f"live{at}" for at in range(outputs)]
    axes = [{0: torch.export.Dim("batch", min=1)} for _ in sample]
    content = onnx_model(module, sample, inputs=names, outputs=called, axes=axes, exported=exported).SerializeToString()

    def make(engine: str) -> Values:
        if engine.startswith("openvino"):
            run = openvino_program(content, threads=threads, precision=engine.partition(" ")[2] or "float32")
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


def _compiled(module: WholeNetwork, sample: Sequence[Tensor]) -> Callable[[str], Values]:
    """Export a module and compile it; return what makes a function of live outputs by the name of the engine."""
    axes = {"tensors": tuple({0: torch.export.Dim("batch", min=1)} for _ in sample)}
    with torch.no_grad():
        program = torch.export.export(module, tuple(sample), dynamic_shapes=axes, strict=False).module()
    compiled = torch.compile(program, dynamic=True)

    def values(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            return list(compiled(*sample_tensors(inputs)))

    return lambda _engine: values


def _proved(name: str, values: Values, *, proof: Sequence[Batch], end: float) -> _Proved:
    """Return an engine and its values of the `proof`, once it has given PyTorch's values on one example alone and on some batches."""

    def typed(inputs: Inputs) -> list[Tensor]:
        return [found.to(like.dtype) for found, like in zip(values(inputs), proof[0].values, strict=True)]

    begun = perf_counter()
    alone = typed(_first(proof[0].inputs))
    each = perf_counter() - begun
    values_of, largest, seconds = list[list[Tensor]](), 0.0, math.inf
    for batch in [*proof, proof[0]]:
        begun = perf_counter()
        _in_time(begun + each * len(batch), end)
        values_of.append(typed(batch.inputs))
        each = (perf_counter() - begun) / len(batch)
        seconds = min(seconds, each)
        largest = max(largest, _difference(batch.values, values_of[-1]))
    first, again = values_of[0], values_of.pop()
    _difference([value[:1] for value in first], alone)
    exact = all(torch.equal(one, two) and torch.equal(one[:1], own) for one, two, own in zip(first, again, alone, strict=True))
    return Engine(name, typed, seconds, largest, exact), values_of


def _first(inputs: Inputs) -> Inputs:
    return {name: tensor[:1] for name, tensor in inputs.items()} if isinstance(inputs, dict) else inputs[:1]


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return by how much values differ, in proportion to the largest one of their output."""
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
