"""Engines that compute a frozen part on a CPU: plain PyTorch, PyTorch layers in place of Keras', torch.compile, ONNX Runtime or OpenVINO.

The frozen part is made a module that returns the live outputs, once. PyTorch layers run as they are; for the other engines the module is
exported, with a dynamic batch axis: by tracing, or, where that does not give PyTorch's values, by PyTorch's newer exporter, which takes far
longer. An engine is used only if it reproduces PyTorch's values on examples of the run.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn import ModuleList

from ..errors import NetworkError, RegraftError, optional_import
from ..networks.fingerprints.libraries import version_of
from ..networks.network import Inputs, Network
from ..networks.onnx.openvino import openvino_program
from ..networks.onnx.session import run_session, session_of
from ..networks.parts.onnx_export import WholeNetwork, check_size, input_names, onnx_model, sample_tensors, why_not_exported
from ..networks.parts.onnx_tracing import traced_model
from ..networks.parts.protocols import changed
from ..scale import check_cluster
from .cut import Cut, Refusal

EAGER, LAYERS, HALF = "eager", "layers", "bfloat16"
_version_of = cache(version_of)  # reads files
_ONNX = ("onnx", "onnxscript", "onnxruntime")
_LIBRARIES = {"onnxruntime": _ONNX, "openvino": (*_ONNX, "openvino")}
"""Engine -> required libraries, those that are built first before others. All these engines read the network as ONNX."""
ENGINES = ("auto", EAGER, LAYERS, "compile", *_LIBRARIES)
MOST_OFF = 1e-4  # Maximum difference from PyTorch's values, relative to the largest value of an output
FEWEST = 1024  # Minimum number of examples for which "auto" times two batches
_MOST_LOST = 0.03  # Maximum share of a pass's time that "auto" spends on building engines
_AGAIN = 8  # Examples of the first batch that an engine computes twice, before it computes the batch
_PROVING = 4  # Number of examples that PyTorch computes in the time that is kept for an engine's single examples and these
_TRACED, _EXPORTED = "traced", "exported"


@dataclass(frozen=True)
class _Way:
    """Way to build engines, with its expected times in seconds: upper estimates from measured networks."""

    fixed: float
    a_layer: float  # for each layer with weights
    a_mebibyte: float  # of the network's state
    examples: int  # number of examples that PyTorch computes meanwhile
    after: float  # maximum time of a step that nothing can stop, relative to all before it


_WAYS = {
    LAYERS: _Way(0.05, 0.002, 0.003, 6, 1.0),
    _TRACED: _Way(0.15, 0.004, 0.006, 13, 2.0),
    _EXPORTED: _Way(4.0, 0.15, 0.006, 16, 4.0),
}

Values = Callable[[Inputs], list[Tensor]]


@dataclass(frozen=True)
class _Ends:
    """Times at which an engine is given up."""

    building: float
    proving: float  # on the examples that are computed twice
    whole: float  # if the engine could not compute the whole pass until then
    rows: int  # number of examples of the pass


@dataclass(frozen=True)
class _Batch:
    """Batch computed by PyTorch: inputs, results and time in seconds."""

    inputs: Inputs
    values: list[Tensor]
    seconds: float

    def __len__(self) -> int:
        return len(self.values[0])


@dataclass(frozen=True)
class Work:
    """Computation for an engine."""

    name: str  # "The frozen part" or "The network", for notes
    network: Network
    layers: frozenset[str]
    values: Values  # function from inputs to results, by plain PyTorch
    module: Callable[[], WholeNetwork]  # function that returns a private copy as a module whose forward returns the results in order
    watched: frozenset[str] = frozenset()  # modules whose own calls that forward reads

    def timed(self, inputs: Inputs) -> _Batch:
        """Compute a batch with plain PyTorch and measure the time."""
        start = perf_counter()
        values = self.values(inputs)
        return _Batch(inputs, values, perf_counter() - start)


@dataclass(frozen=True)
class Engine:
    """Engine for a frozen part."""

    name: str  # name with version, part of the identity of a cache; `EAGER` for plain PyTorch
    values: Values  # function from inputs to live outputs
    seconds: float = 0.0  # minimum time per example over the batches of the proof
    difference: float = 0.0  # maximum difference from PyTorch's values, relative to the largest value
    exact: bool = True  # whether values were bit-identical in a second run and for a single example
    faster: float = 0.0  # seconds saved per example against plain PyTorch
    half: Callable[[], Values] | None = None  # function that builds the engine in bfloat16 by OpenVINO; None: use PyTorch's autocast


_Proved = tuple[Engine, list[list[Tensor]]]


@dataclass
class EngineLog:
    """Engines that a run has built, with their costs and savings."""

    built: dict[str, Engine] = field(default_factory=dict)  # key of a computation -> its engine; plain PyTorch if no other engine fits
    building: float = 0.0  # seconds spent on exporting, building and proving
    saved: float = 0.0  # seconds saved against plain PyTorch, not counting the building


def check_engine(name: str, cluster: str | None = None) -> None:
    """Check that the libraries of an engine are installed and that the cluster answers.
    `cluster`: "ray://HOST:PORT", "auto" or None. Raises an error otherwise."""
    if cluster is not None:
        check_cluster(cluster)
    for library in _LIBRARIES.get(name, ()):
        optional_import(library, "engines" if name == "openvino" else "onnx", purpose=f"engine={name!r}")


def engine_names(wanted: str, *, half: bool = False) -> dict[str, list[str]]:
    """Return engine -> its names in the identity of a cache, for the setting `wanted`; plain PyTorch comes last.
    `half`: include the name of the engine in bfloat16, before that in float32."""
    installed = [LAYERS, *(name for name, needed in _LIBRARIES.items() if all(map(find_spec, needed)))]
    chosen = dict.fromkeys([*(installed if wanted == "auto" else [wanted]), EAGER])
    names = {name: EAGER if name == EAGER else f"{name} {_version_of(name if name in _LIBRARIES else 'torch')} float32" for name in chosen}
    return {name: [*filter(None, [half_name(name) if half else None]), known] for name, known in names.items()}


def half_name(engine: str) -> str | None:
    """Return the name of an engine in bfloat16; None if it does not compute in bfloat16. ONNX Runtime does so by OpenVINO."""
    library = "openvino" if engine in _LIBRARIES else "torch"
    named = library if engine in (EAGER, *_LIBRARIES) else engine
    return f"{named} {_version_of(library)} {HALF}" if find_spec(library) else None


def chosen_engine(  # over the limit: what a choice depends on
    work: Work, first: Sequence[_Batch], *, wanted: str, rows: int, log: EngineLog, say: Callable[[str], None]
) -> tuple[Engine, list[list[Tensor]]]:
    """Return the fastest of the requested engines that reproduces PyTorch's values, and its values of the `first` batches.
    With "auto", PyTorch layers are tried first, then the other engines, compared with the fastest so far. Building and proving on a few
    examples stop before they take more than 3 % of the pass, all engines together. An engine that gives their values computes the first
    batches again if it can then finish the pass in PyTorch's time and these 3 %; one that is not faster is dropped.
    `rows`: number of examples of the pass. `log`: its building time is updated."""
    auto, plain = wanted == "auto", min(batch.seconds / len(batch) for batch in first)
    best: _Proved = (Engine(EAGER, work.values, plain), [batch.values for batch in first])
    why, led, modules, done = list[str](), False, dict[bool, WholeNetwork](), sum(map(len, first))
    whole = perf_counter() + ((1 + _MOST_LOST) * rows - done) * plain if auto else math.inf
    for names in _stages(work, wanted):
        layers, each = LAYERS in names, best[0].seconds
        end = min(perf_counter() + _MOST_LOST * each * rows, whole - each * (rows - done)) if auto else math.inf
        ends = _Ends(end - _PROVING * each, end, whole, rows)
        sources = [layers or led] if auto or layers else [True, False] if _has_layers(work.network) else [False]
        ways = [name for name in (LAYERS, "compile") if name in names] or [_TRACED, _EXPORTED]
        for as_layers, way in product(sources, ways):
            begun = perf_counter()
            if _expected_building(work, way, seconds=each) > ends.building - begun:
                continue
            made = partial(_module, work, first[0].inputs, as_layers=as_layers, kept=modules)
            found, why = _built(made, names, way=way, proof=first, ends=ends)
            log.building += perf_counter() - begun
            if found:
                led = layers
                break
        else:
            found = []
        engine, values = min(found, key=lambda one: one[0].seconds, default=best)
        if auto and found and engine.seconds >= each:
            why = [f"{engine.name} took {engine.seconds / each:.2f} times as long"]
        else:
            best = engine, values
    engine, values = best
    if engine.name == EAGER:
        if why:
            say(f"{work.name} ran on PyTorch as it is: {'; '.join(why)}.")
        return best
    called = "layers of PyTorch in place of Keras' own" if engine.name.startswith(LAYERS) else engine.name
    say(
        f"{work.name} ran on {called}: {plain / engine.seconds:.1f} times as fast as PyTorch as it is on a batch, with "
        f"values within {engine.difference:.1g} of PyTorch's largest one."
        + ("" if engine.exact else " Its values are not bit-identical from run to run, or for other batch sizes.")
    )
    return replace(engine, faster=plain - engine.seconds), values


def _has_layers(network: Network) -> bool:
    """Return whether PyTorch layers may compute parts of a network in place of its own."""
    return network.family in network.kind.leading


def _stages(work: Work, wanted: str) -> Iterator[dict[str, str]]:
    """Yield the engines to build together, with their names in the identity of a cache."""
    names = {name: known for name, (known,) in engine_names(wanted).items() if name != EAGER}
    layers = {LAYERS: names.pop(LAYERS)} if LAYERS in names else {}
    if layers and (wanted != "auto" or _has_layers(work.network)):
        yield layers
    if names:
        yield names


def _expected_building(work: Work, way: str, *, seconds: float) -> float:
    """Return the expected building time in seconds. `seconds`: those of an example. A way that "auto" never takes needs none."""
    if way not in _WAYS:
        return 0.0
    known, state = _WAYS[way], {name: values for name, values in work.network.state().items() if name.rpartition(".")[0] in work.layers}
    size, layers = sum(values.nbytes for values in state.values()), {name.rpartition(".")[0] for name in state}
    return known.fixed + known.a_layer * len(layers) + known.a_mebibyte * size / 2**20 + known.examples * seconds


class _FrozenModule(WholeNetwork):
    """Frozen part as a module, from input tensors to live outputs, both in order."""

    def __init__(self, network: Network, cut: Cut) -> None:
        super().__init__(network)
        self.__dict__["cut"] = cut

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the live outputs."""
        return tuple(self.__dict__["cut"].frozen_part(self.inputs(tensors)))


def frozen_work(network: Network, cut: Cut, *, values: Values) -> Work:
    """Return the frozen part as work for an engine. `values`: function from inputs to live outputs, by plain PyTorch."""

    def module() -> _FrozenModule:
        twin = network.for_export()
        own = cut.again(twin)
        if isinstance(own, Refusal) or own.live != cut.live:
            raise NetworkError(f"a copy of the network is not cut in the same way, with {len(cut.live)} live outputs")
        return _FrozenModule(twin, own).eval()

    return Work("The frozen part", network, cut.layers, values, module, cut.watched)


def _module(work: Work, inputs: Inputs, *, as_layers: bool, kept: dict[bool, WholeNetwork], tick: Callable[[], None]) -> WholeNetwork:
    """Return the module that computes the results. `as_layers`: by PyTorch layers in place of the network's own, where they exist.
    `kept`: those that were made before. `tick` is called between two steps."""
    if as_layers in kept:
        return kept[as_layers]
    module = work.module()
    module.names = input_names(inputs)  # a tokenizer may give inputs that the sample does not have
    tick()
    if as_layers:
        network: Network = module.__dict__["network"]
        lead = network.kind.leading.get(network.family)
        module.leading = ModuleList(lead(network.body, work.layers, watched=work.watched) if lead else [])
        if not module.leading:
            raise NetworkError(
                f"{LAYERS}: PyTorch has no layer to take the place of one of the {len(work.layers)} layers; expected a Keras network with "
                "layers of the table in docs/export.md at its start, or behind the first layer that is not in it"
            )
    kept[as_layers] = module
    return module


def _built(
    made: Callable[..., WholeNetwork], names: Mapping[str, str], *, way: str, proof: Sequence[_Batch], ends: _Ends
) -> tuple[list[_Proved], list[str]]:
    """Build and prove engines in one `way`. Return the proved ones with their values of the `proof`, and the reasons against the others."""
    found, why, start = list[_Proved](), list[str](), perf_counter()

    def tick() -> None:
        """Stop if the next step, which nothing can stop, may take too long."""
        if way in _WAYS:
            _in_time((1 + _WAYS[way].after) * (perf_counter() - start), ends.building - start)

    try:
        module, sample = made(tick=tick), sample_tensors(proof[0].inputs)
        if way == LAYERS:
            make = _as_it_is(module)
        elif way not in _WAYS:
            make = _compiled(module, [tensor[:2] for tensor in sample])
        else:
            make = _in_onnx_form(module, sample, outputs=len(proof[0].values), traced=way == _TRACED, tick=tick)
        for at, (name, known) in enumerate(names.items()):
            begun = perf_counter()
            try:
                _in_time(begun - start if at else 0.0, ends.building - begun)  # the first engine is part of the step after the export
                engine, values = _proved(known, make(name), proof=proof, ends=ends)
                found.append((replace(engine, half=partial(make, f"openvino {HALF}") if name in _LIBRARIES else None), values))
            except RegraftError as problem:
                why.append(f"{name}: {str(problem).rstrip('.')}")
    except Exception as problem:  # not every forward can be exported
        why.append(why_not_exported(problem).rstrip("."))
    return found, why


def _in_time(expected: float, most: float, *, told: str = "building takes {:.1f} s longer than a pass of this length pays for") -> None:
    """Raise `NetworkError` with `told` if the `expected` time is longer than `most`."""
    if expected > most:
        raise NetworkError(told.format(expected - most))


def _in_onnx_form(
    module: WholeNetwork, sample: Sequence[Tensor], *, outputs: int, traced: bool, tick: Callable[[], None]
) -> Callable[[str], Values]:
    """Export a module to ONNX. Return a function from an engine name to the function that computes the live outputs.
    `tick` may raise to stop the export."""
    network = module.__dict__["network"]
    names, threads = module.names or ["input"], torch.get_num_threads()
    check_size(network.state(), purpose="engine=")
    called = [f"live{at}" for at in range(outputs)]
    if traced:
        content = traced_model(module, sample, inputs=names, outputs=called, tick=tick)
    else:
        two = [tensor[:2] for tensor in sample]
        content = onnx_model(module, two, inputs=names, outputs=called, lengths=[{} for _ in sample], tick=tick).SerializeToString()

    def make(engine: str) -> Values:
        if engine.startswith("openvino"):
            run = openvino_program(content, threads=threads, precision=engine.partition(" ")[2] or "float32")
        else:
            session = session_of(content, threads=threads, folds=True)
            taken = {one.name for one in session.get_inputs()}

            def run(feeds: Mapping[str, Any]) -> list[Any]:
                return run_session(session, {name: values for name, values in feeds.items() if name in taken})

        def values(inputs: Inputs) -> list[Tensor]:
            arrays = [tensor.detach().contiguous().numpy() for tensor in sample_tensors(inputs)]
            return [torch.from_numpy(found) for found in run(dict(zip(names, arrays, strict=True)))]

        return values

    return make


def _as_it_is(run: Callable[..., tuple[Tensor, ...]]) -> Callable[[str], Values]:
    """Return a function from an engine name to the function that computes the live outputs by `run`, which PyTorch computes."""

    def values(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            return list(run(*sample_tensors(inputs)))

    return lambda _engine: values


def _compiled(module: WholeNetwork, sample: Sequence[Tensor]) -> Callable[[str], Values]:
    """Export a module and compile it. Return a function from an engine name to the function that computes the live outputs."""
    axes = {"tensors": tuple({0: torch.export.Dim("batch", min=1)} for _ in sample)}
    with torch.no_grad():
        program = torch.export.export(module, tuple(sample), dynamic_shapes=axes, strict=False).module()
    return _as_it_is(torch.compile(program, dynamic=True))


def _proved(name: str, values: Values, *, proof: Sequence[_Batch], ends: _Ends) -> _Proved:
    """Return an engine and its values of the `proof`. Raise `NetworkError` if it differs from PyTorch on a batch or a single example.
    The pass uses its values of the batches, so that the time for them is a part of the pass."""

    def typed(inputs: Inputs) -> list[Tensor]:
        return [found.to(like.dtype) for found, like in zip(values(inputs), proof[0].values, strict=True)]

    one, begun = changed(proof[0].inputs, lambda tensor: tensor[:1]), perf_counter()
    typed(one)  # the first run prepares much that the others use
    begun, first = perf_counter(), perf_counter() - begun
    _in_time(first, ends.proving - begun)
    alone = typed(one)
    each = perf_counter() - begun
    some = _Batch(changed(proof[0].inputs, lambda tensor: tensor[:_AGAIN]), [value[:_AGAIN] for value in proof[0].values], 0.0)
    values_of, largest, seconds = list[list[Tensor]](), 0.0, math.inf
    for at, batch in enumerate([some, *proof]):
        begun = perf_counter()
        if at:
            rest = each * (ends.rows - sum(map(len, proof[: at - 1])))
            _in_time(rest, ends.whole - begun, told="the pass would take {:.1f} s longer than with PyTorch")
        else:
            _in_time(each * len(some), ends.proving - begun)
        values_of.append(typed(batch.inputs))
        each = (perf_counter() - begun) / len(batch)
        seconds = min(seconds, each)
        largest = max(largest, _difference(batch.values, values_of[-1]))
    again, *values_of = values_of
    _difference([value[:1] for value in values_of[0]], alone)
    exact = all(torch.equal(one[: len(few)], few) for one, *others in zip(values_of[0], again, alone, strict=True) for few in others)
    return Engine(name, typed, seconds, largest, exact), values_of


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the maximum difference relative to the largest value of an output; raise `NetworkError` above `MOST_OFF`."""
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
