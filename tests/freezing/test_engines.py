"""Engines: what they compute is what PyTorch computes, in any batch; caches know who filled them; small data stay with PyTorch."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import torch_examples as examples
from torch import Tensor, nn

import regraft
from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.errors import MissingExtraError, SettingError
from regraft.freezing import Counter, Cut, FrozenPass, cacheable_layers, check_engine, engines, find_cut, run
from regraft.freezing.cache import ActivationCache
from regraft.networks.network import Network
from regraft.networks.torch.family import open_torch

INSTALLED = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name)]


class Forked(nn.Module):
    """Two frozen branches, of which what is trained reads both: two live outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 2, 5)
        self.mix, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(torch.cat([self.one(x).relu().mean((2, 3)), self.two(x).amax((2, 3))], 1)))


class InPlace(nn.Sequential):
    """Activations that overwrite their input."""

    def __init__(self) -> None:
        middle = [nn.ReLU6(inplace=True), nn.Conv2d(3, 4, 3), nn.SiLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
        super().__init__(nn.Conv2d(1, 3, 3), *middle, nn.Flatten(), nn.Linear(4, 3))


class Encoder(nn.Module):
    """A network that takes one input more than it needs, as encoders of texts do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds, self.head = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor | None = None) -> Tensor:
        return self.head(self.words(ids * mask) + (0 if kinds is None else self.kinds(kinds)))


class Recurrent(nn.Module):
    """A recurrent layer below the head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x[:, 0])[0][:, -1])


def _torch(module: Callable[[], nn.Module]) -> Network:
    torch.manual_seed(0)
    return open_torch(module(), inputs=(1, 8, 8))


def _keras() -> Network:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(4, 3, activation="relu", name="conv"), keras.layers.GlobalAveragePooling2D(name="pool")]
    return regraft.load(keras.Sequential([keras.Input((8, 8, 1)), *layers, keras.layers.Dense(3, name="head")], name="net"))


NETWORKS: dict[str, tuple[Callable[[], Network], tuple[str, ...]]] = {
    "torch": (lambda: _torch(examples.Cnn), ()),
    "two live outputs": (lambda: _torch(Forked), ("mix", "head")),
    "in place": (lambda: _torch(InPlace), ()),
    "recurrent": (lambda: _torch(Recurrent), ()),
    "keras": (_keras, ()),
}

CASES = [("in place", "onnxruntime"), ("two live outputs", "openvino"), ("recurrent", "onnxruntime"), ("keras", "openvino")]


def _items(network: Network, count: int) -> PreparedData:
    X, y = examples.pictures(count)
    X = X if network.layout != "channels_last" else np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    return PreparedData(read((X, y)), preprocessing_from_dict({"kind": "array", "shape": list(X.shape[1:])}))


def _cut(network: Network, items: PreparedData, *, trained: Sequence[str] = ()) -> Cut:
    frozen = frozenset(layer.name for layer in network.layers) - set(trained or network.head_layers)
    network.freeze_(frozen)
    cut = find_cut(network, cacheable_layers(network, frozen), sample=items.batch(np.arange(3)))
    assert isinstance(cut, Cut), cut
    return cut


def _filled(case: str, where: str | Path, engine: str, **further: Any) -> tuple[list[np.ndarray], FrozenPass]:
    make, trained = NETWORKS[case]
    network = make()
    items = _items(network, 300)
    made = FrozenPass(network, _cut(network, items, trained=trained), where, engine=engine, **further)
    return made.cached(items).stored(np.arange(300)), made


@pytest.mark.skipif(not INSTALLED, reason="no engine is installed")
def test_inputs_that_only_the_tokenizer_gives_reach_the_engine() -> None:
    torch.manual_seed(0)
    network = regraft.load(Encoder(), inputs={"ids": (6,), "mask": (6,)})
    batch, frozen = {name: torch.randn(5, 6) for name in ("ids", "mask", "kinds")}, frozenset({"words", "kinds"})
    network.freeze_(frozen)
    cut = find_cut(network, cacheable_layers(network, frozen), sample=batch)
    assert isinstance(cut, Cut), cut
    work, notes = engines.frozen_work(network, cut, values=lambda inputs: [part.detach() for part in cut.frozen_part(inputs)]), list[str]()
    how: dict[str, Any] = {"wanted": INSTALLED[0], "rows": 5, "log": engines.EngineLog(), "say": notes.append}
    assert INSTALLED[0] in engines.chosen_engine(work, [work.timed(batch)], **how)[0].name, notes


@pytest.mark.parametrize("case, engine", [(case, engine) for case, engine in CASES if engine in INSTALLED])
def test_an_engine_gives_what_pytorch_gives(case: str, engine: str) -> None:
    plain, _ = _filled(case, "memory", "eager")
    values, made = _filled(case, "memory", engine)
    built, building = Counter(engines=made.counter.engines), made.counter.engines.building
    again, _ = _filled(case, "memory", engine, counter=built)
    alone, _ = _filled(case, "memory", engine, counter=built, batch_size=7)
    assert len(values) == len(plain) == (2 if case == "two live outputs" else 1)
    for one, other, repeated, small in zip(plain, values, again, alone, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())
        assert other.tobytes() == repeated.tobytes() == small.tobytes()
    assert [note for note in made.notes if f"ran on {engine}" in note], made.notes
    assert made.counter.items == 300
    assert 0 < building == made.counter.engines.building  # the later passes use the same engine
    modules = made.network.body.modules().values()
    assert [vars(module)["inplace"] for module in modules if "inplace" in vars(module)] == [True, True] * (case == "in place")


def test_a_cache_of_one_engine_is_none_of_another(tmp_path: Path) -> None:
    passes = {engine: _filled("torch", tmp_path, engine)[1] for engine in ("eager", *INSTALLED)}
    assert [made.counter.items for made in passes.values()] == [300] * len(passes)
    assert len(list(tmp_path.iterdir())) == len(passes)
    for engine in ("eager", *INSTALLED, "auto"):
        again = _filled("torch", tmp_path, engine)[1]
        assert (again.counter.items, again.counter.engines.building) == (0, 0), engine  # taken up, and nothing built for that


def _orders() -> Iterator[Any]:
    """Yield network, engine of the run that stops, engine of the next one and precision: the same, another one, and "auto"."""
    for case in ("torch", "keras"):
        own = ["eager", *(["layers"] if case == "keras" else []), *INSTALLED, "compile"]
        for at, (first, precision) in enumerate(itertools.product(own, ("float32", "bfloat16"))):
            for then in (first, own[(at // 2 + 1) % len(own)], "auto"):
                quick = {first, then} <= {"eager", "layers", "auto"} and case == "keras"
                yield pytest.param(case, first, then, precision, marks=[] if quick else pytest.mark.slow)


@functools.cache
def _whole(case: str, engine: str, precision: str) -> list[np.ndarray]:
    return _filled(case, "memory", engine, precision=precision)[0]


@pytest.mark.parametrize("case, first, then, precision", list(_orders()))
def test_a_cache_filled_in_part_is_continued_by_its_engine_alone(
    case: str, first: str, then: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stops after a chunk; one with this or another engine follows; the first one is repeated. All end as if nothing had stopped."""

    def stopped(cache: ActivationCache, rows: range) -> None:
        finish(cache, rows)
        raise KeyboardInterrupt

    finish = ActivationCache.finish
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ActivationCache, "finish", stopped)
        _filled(case, tmp_path, first, precision=precision)
    both = {first, then} == {"onnxruntime", "openvino"} and precision == "bfloat16"  # OpenVINO computes for both
    continues = then == first or (then == "auto" and first != "compile") or both
    values, made = _filled(case, tmp_path, then, precision=precision)
    again, repeated = _filled(case, tmp_path, first, precision=precision)
    expected = first if continues else "eager" if then == "auto" else then
    for found, engine in ((values, expected), (again, first)):
        assert [one.tobytes() for one in found] == [one.tobytes() for one in _whole(case, engine, precision)], (engine, made.notes)
    assert (made.counter.items, repeated.counter.items) == ((44, 0) if continues else (300, 44)), made.notes


@pytest.mark.skipif("openvino" not in INSTALLED, reason="no OpenVINO")
def test_a_named_engine_in_bfloat16_uses_no_cache_of_another_one(tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        _filled("torch", tmp_path, "eager", precision=precision)
    _, made = _filled("torch", tmp_path, "openvino", precision="bfloat16")
    assert made.counter.items == 300
    assert made.notes[0].startswith("The frozen part ran on openvino"), made.notes


def test_few_examples_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_engine(*_args: Any, **_settings: Any) -> Any:
        raise AssertionError("an engine was built")

    monkeypatch.setattr(engines, "_built", no_engine)
    plain, _ = _filled("torch", "memory", "eager")
    for fewest in (run.FEWEST, 1):  # one batch is timed, or two
        monkeypatch.setattr(run, "FEWEST", fewest)
        values, made = _filled("torch", "memory", "auto")
        assert [value.tobytes() for value in values] == [value.tobytes() for value in plain]
        assert (made.counter.items, made.notes) == (300, [])
        assert (made.counter.engines.building, made.counter.engines.built) == (0.0, {})  # a longer pass of the run decides for itself


def _lasting(proved: tuple[Any, Any], seconds: float) -> tuple[Any, Any]:
    return replace(proved[0], seconds=seconds), proved[1]


@pytest.mark.skipif(not INSTALLED, reason="no engine")
def test_auto_takes_the_fastest_engine_and_pytorch_where_none_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_MOST_LOST", 1e9)
    for seconds, expected in ((0.0, "ran on o"), (1e9, "ran on PyTorch as it is")):
        own = engines._proved
        with monkeypatch.context() as patch:
            patch.setattr(
                engines, "_proved", lambda *args, own=own, seconds=seconds, **named: _lasting(own(*args, **named), seconds + 1e-9)
            )
            _, made = _filled("torch", "memory", "auto")
        assert expected in made.notes[0], made.notes


@pytest.mark.skipif(not INSTALLED, reason="no engine")
def test_an_engine_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = _filled("torch", "memory", "eager")
    own = engines._in_onnx_form

    def wrong(*args: Any, **named: Any) -> Any:
        make = own(*args, **named)
        return lambda engine: lambda inputs: [value * 1.001 for value in make(engine)(inputs)]

    monkeypatch.setattr(engines, "_in_onnx_form", wrong)
    values, made = _filled("torch", "memory", INSTALLED[0])
    assert [value.tobytes() for value in values] == [value.tobytes() for value in plain]
    assert f"ran on PyTorch as it is: {INSTALLED[0]}: for a batch of" in made.notes[0]


def test_a_pass_that_stayed_with_pytorch_is_not_computed_again(tmp_path: Path) -> None:
    network = _torch(examples.Cnn)
    items = _items(network, 300)
    for where in ("memory", tmp_path):
        made = FrozenPass(network, _cut(network, items), where, engine="layers")
        one, two = made.cached(items).stored(np.arange(300)), made.cached(items).stored(np.arange(300))
        assert one[0].tobytes() == two[0].tobytes()
        assert made.counter.items == 300 and "ran on PyTorch as it is" in made.notes[0], where


def test_a_part_that_cannot_be_exported_stays_with_pytorch() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            rows = [torch.from_numpy(np.tanh(self.conv(one[None]).detach().numpy())) for one in x]
            return self.head(torch.cat(rows).mean((2, 3)))

    network = _torch(Sized)
    items = _items(network, 20)
    notes: list[str] = []
    if not INSTALLED:
        pytest.skip("no engine")
    cache = FrozenPass(network, _cut(network, items), "memory", engine=INSTALLED[0], notes=notes).cached(items)
    assert not cache.missing
    assert notes[0].startswith("The frozen part ran on PyTorch as it is:")


class _Clock:
    """Time that passes only where it is said."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["dense", "depthwise", "keras"]),
    rows=st.integers(100, 10**6),
    each=st.floats(1e-5, 1.0),
    gains=st.lists(st.floats(0.25, 10.0), min_size=3, max_size=3),
    copying=st.floats(0.0, 1.0),
    steps=st.lists(st.floats(0.0, 1.0), max_size=6),
    works=st.sampled_from(["all", "no export", "other values", "other values in large batches"]),
)
def test_auto_is_never_slower_than_pytorch_by_more_than_three_per_cent(
    kind: str, rows: int, each: float, gains: list[float], copying: float, steps: list[float], works: str
) -> None:
    """A pass with a clock of its own: any length, any speed of each engine, building of any length that fails at any stage.

    A copy of the network takes no longer than building is expected to; no step that nothing stops takes more than its share of all before.
    Values that are wrong in large batches alone cost the first of these.
    """
    clock, network = _Clock(), OF_KIND[kind]()
    speeds = dict(zip(("layers", "one", "two"), gains, strict=True))

    def eager(inputs: Tensor) -> list[Tensor]:
        clock.now += each * len(inputs)
        return [inputs + 1.0]

    def other(inputs: Tensor, *, gain: float) -> list[Tensor]:
        clock.now += each / gain * len(inputs)
        wrong = works == "other values" or (works == "other values in large batches" and len(inputs) > 16)
        return [inputs + (2.0 if wrong else 1.0)]

    def copied() -> nn.Module:
        started.append(clock.now)
        clock.now += copying * engines._expected_building(work, "layers", seconds=each)
        return nn.Module()

    def made(*_args: Any, traced: bool, tick: Callable[[], None], **_named: Any) -> Callable[[str], Any]:
        after = engines._WAYS["traced" if traced else "exported"].after
        for step in steps:
            clock.now += step * after * (clock.now - started[-1])
            tick()
        if works == "no export":
            raise RuntimeError("no export")
        built = clock.now - started[-1]

        def make(name: str) -> Any:
            clock.now += built * (sum(steps) % 1)
            return functools.partial(other, gain=speeds[name])

        return make

    def module(*_args: Any, tick: Callable[[], None], **_named: Any) -> Any:
        return [copied(), tick()][0]

    started = list[float]()
    work = engines.Work("The network", network, frozenset(layer.name for layer in network.layers), eager, lambda: nn.Module())
    names = {"one": ["one 1"], "two": ["two 1"], "eager": ["eager"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "perf_counter", clock)
        patch.setattr(engines, "_module", module)
        patch.setattr(engines, "_in_onnx_form", made)
        patch.setattr(engines, "_as_it_is", lambda _module: lambda name: functools.partial(other, gain=speeds[name]))
        patch.setattr(engines, "engine_names", lambda _wanted: {"layers": ["layers 1"], **names})
        first = [work.timed(torch.zeros(64, 1)) for _ in range(1 if rows < engines.FEWEST else 2)]
        log = engines.EngineLog()
        engine, values = engines.chosen_engine(work, first, wanted="auto", rows=rows, log=log, say=lambda _note: None)
        speed = speeds.get(engine.name.split()[0], 1.0)
        whole = clock.now - 100.0 + (rows - sum(len(value[0]) for value in values)) * each / speed
    batch = len(first[0]) if works == "other values in large batches" else 0
    assert whole <= 1.03 * each * rows + each * batch + 1e-6
    assert engine.name == "eager" or speed > 1 - 1e-9


def test_layers_of_a_short_pass_are_proven_on_a_few_examples_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch, which they compute then, is a part of the pass and not of the 3 %."""
    clock, network, sizes = _Clock(), OF_KIND["keras"](), list[int]()

    def eager(inputs: Tensor) -> list[Tensor]:
        clock.now += 0.02 * len(inputs)
        return [inputs + 1.0]

    def layered(inputs: Tensor) -> list[Tensor]:
        sizes.append(len(inputs))
        clock.now += 0.006 * len(inputs)
        return [inputs + 1.0]

    def module(*_args: Any, tick: Callable[[], None], **_named: Any) -> Any:
        clock.now += 0.14
        tick()
        clock.now += 0.08
        return nn.Module()

    work = engines.Work("The network", network, frozenset(layer.name for layer in network.layers), eager, lambda: nn.Module())
    monkeypatch.setattr(engines, "perf_counter", clock)
    monkeypatch.setattr(engines, "_module", module)
    monkeypatch.setattr(engines, "_as_it_is", lambda _module: lambda _name: layered)
    monkeypatch.setattr(engines, "engine_names", lambda _wanted: {"layers": ["layers 1"], "eager": ["eager"]})
    for rows, expected in ((300, []), (700, [1, 1, 8, 32])):
        first, log = [work.timed(torch.zeros(32, 1))], engines.EngineLog()
        engine, _ = engines.chosen_engine(work, first, wanted="auto", rows=rows, log=log, say=lambda _note: None)
        assert (engine.name, sizes) == ("layers 1" if expected else "eager", expected)
        assert log.building == pytest.approx(0.22 + 0.006 * 42 if expected else 0.0)


def _of_kind(kind: str) -> Network:
    if kind == "keras":
        return _keras()
    if kind == "dense":
        return open_torch(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), inputs=(8,))
    return open_torch(nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.Flatten(), nn.Linear(72, 3)), inputs=(2, 8, 8))


OF_KIND = {kind: functools.cache(functools.partial(_of_kind, kind)) for kind in ("dense", "depthwise", "keras")}


@pytest.mark.skipif(not INSTALLED, reason="no engine")
@pytest.mark.parametrize("case", ["torch", pytest.param("keras", marks=pytest.mark.slow)])
def test_predict_and_evaluate_run_on_an_engine(case: str) -> None:
    network = _keras() if case == "keras" else regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    network.name_classes_(["a", "b", "c"])
    X = examples.pictures(150)[0]
    X = X if case == "torch" else np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    plain = network.predict(X)
    for few in ("auto", "eager"):
        found = regraft.predict(network, X, engine=few)
        assert (found.probabilities.tobytes(), found.notes) == (plain.probabilities.tobytes(), ())
    found = regraft.predict(network, X, engine=INSTALLED[-1])
    assert found.labels == plain.labels
    np.testing.assert_allclose(found.probabilities, plain.probabilities, atol=1e-4)
    assert [note for note in found.notes if note.startswith(f"The network ran on {INSTALLED[-1]} ")], found.notes
    judged = regraft.evaluate(network, (X, plain.labels), engine=INSTALLED[0])
    assert judged.scores["accuracy"] == 1.0
    assert any(f"ran on {INSTALLED[0]}" in note for note in judged.notes)


def test_unknown_examples_are_told_in_the_same_pass() -> None:
    X, y = examples.pictures(90)
    torch.manual_seed(0)
    network = regraft.adapt(regraft.load(examples.Cnn(), inputs=(1, 8, 8)), (X, y), strategy="probe", cache="memory").network
    assert network.unknown is not None
    plain = network.predict(X, unknown=True)
    expected = network.unknown(network.features(X))
    assert plain.unknown is not None
    assert plain.unknown.tolist() == expected.tolist()
    assert plain.probabilities.tobytes() == network.predict(X).probabilities.tobytes()


@pytest.mark.slow
def test_compile_gives_what_pytorch_gives() -> None:
    plain, _ = _filled("torch", "memory", "eager")
    values, made = _filled("torch", "memory", "compile")
    np.testing.assert_allclose(values[0], plain[0], rtol=0, atol=1e-4 * np.abs(plain[0]).max())
    assert [note for note in made.notes if "ran on compile" in note], made.notes


def test_an_engine_that_is_not_installed_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *_args: Any) -> Any:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr("importlib.import_module", missing)
    for engine, extra in (("openvino", "engines"), ("onnxruntime", "onnx")):
        with pytest.raises(MissingExtraError, match=rf"engine='{engine}' needs .*regraft\[{extra}\]"):
            check_engine(engine)
    check_engine("auto")
    check_engine("eager")


def test_an_unknown_engine_is_an_error() -> None:
    network, data = _torch(examples.Cnn), examples.pictures(12)
    for verb in (regraft.adapt, regraft.evaluate, lambda net, data, engine: regraft.predict(net, data[0], engine=engine)):
        with pytest.raises(SettingError, match="engine='tensorrt': expected one of auto, eager, layers, compile, onnxruntime, openvino"):
            verb(network, data, engine="tensorrt")


@pytest.mark.skipif(not INSTALLED, reason="no engine")
@pytest.mark.parametrize("case", ["torch", pytest.param("keras", marks=pytest.mark.slow)])
def test_adapt_profile_and_the_report_say_what_ran(case: str, tmp_path: Path) -> None:
    network = _keras() if case == "keras" else regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    X, y = examples.pictures(60)
    X = X if case == "torch" else np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    plain = regraft.adapt(network, (X, y), strategy="probe", cache="memory", engine="eager")
    result = regraft.adapt(network, (X, y), strategy="probe", cache="memory", engine=INSTALLED[-1])
    assert any(f"ran on {INSTALLED[-1]}" in reason for reason in result.plan.reasons)
    assert result.cost["engine_building"] > 0
    page = result.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"ran on {INSTALLED[-1]}" in page and "Its engine saved" in page
    assert "engine_building" not in plain.cost
    np.testing.assert_allclose(result.network.predict(X).probabilities, plain.network.predict(X).probabilities, atol=1e-2)
    profile = regraft.profile(network, (X, y), cache="memory", engine=INSTALLED[-1])
    assert any(f"ran on {INSTALLED[-1]}" in note for note in profile.notes), profile.notes
