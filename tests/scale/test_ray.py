"""A cluster of two nodes on this machine: what its workers compute is bit-identical, resumed, and survives a worker that is killed."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests import torch_examples as examples
from tests.test_docs import run_commands
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.data.decoding.depth import LOOKED_AT
from regraft.errors import DataError, MissingExtraError, RegraftError, SettingError
from regraft.files.remote import stream_of
from regraft.freezing import Cut, FrozenPass, cacheable_layers, find_cut, whole_pass
from regraft.freezing.spread import batches_of
from regraft.networks.network import Network
from regraft.scale import all_see, check_cluster, on_cluster, packed, unpacked

no_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
cluster_of_two = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray
    from ray.cluster_utils import Cluster

    own = str(Path(regraft.__file__).parents[1])
    root = str(Path(__file__).parents[2])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([own, root])  # workers have what this process has
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8})
    made.add_node(num_cpus=1, object_store_memory=10**8)
    os.environ["RAY_ADDRESS"] = made.address
    yield
    ray.shutdown()
    made.shutdown()
    del os.environ["RAY_ADDRESS"]
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def door(cluster: None) -> Iterator[str]:
    """The address of the cluster for processes that do not belong to it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = ["--host", "127.0.0.1", "--port", str(port), "--mode", "legacy", "--address", os.environ["RAY_ADDRESS"]]
    served = subprocess.Popen([sys.executable, "-m", "ray.util.client.server", *given])
    yield f"127.0.0.1:{port}"
    served.terminate()
    served.wait(30)


def _network(family: str) -> tuple[Network, np.ndarray, np.ndarray]:
    X, y = examples.pictures(600)
    torch.manual_seed(0)
    if family == "torch":
        return regraft.load(examples.Cnn(), inputs=(1, 8, 8)), X, y
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    begun = keras.Input((8, 8, 1), name="input")
    one = keras.layers.Conv2D(4, 3, activation="relu", name="one")(begun)
    joined = keras.layers.Add(name="add")([one, keras.layers.Conv2D(4, 1, name="two")(one)])
    ended = keras.layers.Dense(3, name="head")(keras.layers.GlobalAveragePooling2D(name="pool")(joined))
    return regraft.load(keras.Model(begun, ended)), np.ascontiguousarray(X.transpose(0, 2, 3, 1)), y


def _pass(family: str, where: str | Path, **further: Any) -> tuple[FrozenPass, PreparedData]:
    network, X, y = _network(family)
    items = PreparedData(read((X, y)), preprocessing_from_dict({"kind": "array", "shape": list(X.shape[1:])}))
    frozen = frozenset(layer.name for layer in network.layers) - set(network.head_layers)
    network.freeze_(frozen)
    cut = find_cut(network, cacheable_layers(network, frozen), sample=items.batch(np.arange(3)))
    assert isinstance(cut, Cut), cut
    return FrozenPass(network, cut, where, **further), items


class Killed(torch.nn.Sequential):
    """A network that kills its process when it is trained for the first time in another one than it was made in."""

    def __init__(self, mark: Path) -> None:
        layers = [torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Conv2d(6, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
        super().__init__(*layers, torch.nn.Flatten(), torch.nn.Linear(6, 3))
        self.mark, self.made_in = mark, os.getpid()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        if self.training and os.getpid() != self.made_in and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(batch)


class Failing(torch.nn.Sequential):
    """A network that cannot be trained in another process than it was made in."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(1, 6, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(6, 3))
        self.made_in = os.getpid()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the scores."""
        if self.training and os.getpid() != self.made_in:
            raise ValueError("It is broken there.")
        return super().forward(batch)


def _doubled(shared: dict[str, Any], piece: int) -> int:
    """Kill the worker at one piece, the first time."""
    mark = Path(shared["mark"])
    if piece == shared["kills"] and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == shared["fails"]:
        raise DataError("Piece 3 is broken.")
    return shared["factor"] * piece


@no_ray
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_pass_is_the_same_after_it_was_sent(family: str) -> None:
    made, items = _pass(family, "memory")
    inputs = items.batch(np.arange(5))
    values, other = unpacked(packed((made._values, items), made.network.body.reduced))
    with torch.no_grad():
        assert all(torch.equal(one, two) for one, two in zip(made._values(inputs), values(other.batch(np.arange(5))), strict=True))


def _pictures(folder: Path, count: int = 5) -> tuple[Network, list[Path]]:
    folder.mkdir()
    for at in range(count):
        Image.fromarray(np.random.default_rng(at).integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{at}.png")
    torch.manual_seed(0)
    own = {"kind": "image", "height": 8, "width": 8, "channels": 1, "value_range": [0, 255]}
    return regraft.load(examples.Cnn(), inputs=(1, 8, 8), preprocessing=own), sorted(folder.iterdir())


def _recordings(folder: Path) -> tuple[Network, list[Path]]:
    soundfile = pytest.importorskip("soundfile")
    folder.mkdir()
    for at in range(3):
        soundfile.write(folder / f"{at}.wav", np.random.default_rng(at).normal(0, 0.1, 400 * (1 + at)), 8000)
    torch.manual_seed(0)
    layers = [torch.nn.Conv1d(1, 4, 9, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3)]
    own = {"kind": "audio", "features": "waveform", "sample_rate": 8000, "seconds": 0.05}
    return regraft.load(torch.nn.Sequential(*layers), preprocessing=own), sorted(folder.iterdir())


@no_ray
@pytest.mark.parametrize("made", [_pictures, _recordings])
def test_files_that_a_worker_cannot_see_come_with_the_task(made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, paths = made(tmp_path / "here")
    plain = regraft.predict(net, paths, engine="eager").probabilities

    def elsewhere(work: Any, content: bytes, *, pieces: Any, **_how: Any) -> Iterator[Any]:
        sent = list(pieces)
        (tmp_path / "here").rename(tmp_path / "away")
        yield from [work(unpacked(content), piece) for piece in sent]

    monkeypatch.setattr("regraft.freezing.whole.check_engine", lambda *_given: None)
    monkeypatch.setattr("regraft.freezing.spread.on_cluster", elsewhere)
    monkeypatch.setattr("regraft.freezing.spread.all_see", lambda *_given: False)
    assert regraft.predict(net, paths, cluster="auto").probabilities.tobytes() == plain.tobytes()


def test_a_pass_that_was_stopped_on_a_cluster_goes_on_at_its_next_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(shared: Any, chunks: Any, **_how: Any) -> Iterator[Any]:
        yield list(batches_of(shared, chunks[0]))
        raise KeyboardInterrupt

    monkeypatch.setattr("regraft.freezing.run.spread", stopped)
    made, items = _pass("torch", tmp_path, cluster="auto")
    with pytest.raises(KeyboardInterrupt):
        made.cached(items)
    again, items = _pass("torch", tmp_path)
    again.cached(items)
    assert (made.counter.items, again.counter.items) == (256, 600 - 256)


def test_a_pass_whose_cluster_is_lost_goes_on_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(shared: Any, chunks: Any, **_how: Any) -> Iterator[Any]:
        yield list(batches_of(shared, chunks[0]))
        raise SettingError("It is gone.")

    plain, items = _pass("torch", "memory")
    expected = plain.cached(items, (0, 1)).stored(np.arange(1200))
    monkeypatch.setattr("regraft.freezing.run.spread", lost)
    made, items = _pass("torch", "memory", cluster="auto")
    found = made.cached(items, (0, 1)).stored(np.arange(1200))
    assert made.notes == ["The frozen part ran on this machine from then on. It is gone."]
    assert all(one.tobytes() == two.tobytes() for one, two in zip(expected, found, strict=True))


@no_ray
def test_a_run_whose_cluster_is_lost_after_its_start_goes_on_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_cluster: str) -> None:
        raise SettingError("It is gone.")

    said = list[str]()
    monkeypatch.setattr("regraft.training.team.say", said.append)
    monkeypatch.setattr("regraft.freezing.engines.check_cluster", lambda _cluster: None)
    monkeypatch.setattr("regraft.scale.ray.check_cluster", gone)
    net, X, y = _network("torch")
    given: dict[str, Any] = {"strategy": "partial", "frozen": 1, "epochs": 1, "learning_rate": 1e-3, "cache": "memory", "engine": "eager"}
    alone, both = (regraft.adapt(net, (X[:60], y[:60]), cluster=own, **given) for own in (None, "auto"))
    assert alone.scores == both.scores and alone.history[-1]["train_loss"] == both.history[-1]["train_loss"]
    assert "The frozen part ran on this machine. It is gone." in both.plan.reasons
    assert said == ["The training continued on this machine alone. It is gone."]
    assert said[0] in both.plan.reasons


@no_ray
def test_trials_and_trainings_whose_files_a_machine_does_not_have_run_here_or_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_given: Any, **_named: Any) -> None:
        raise SettingError("It is gone.")

    monkeypatch.setattr("regraft.freezing.engines.check_cluster", lambda _cluster: None)
    monkeypatch.setattr("regraft.freezing.spread.all_see", lambda *_given: False)
    monkeypatch.setattr("regraft.freezing.run.spread", gone)
    monkeypatch.setattr("regraft.planning.choosing.auto.workers_of", lambda *_given, **_named: 2)
    net, paths = _pictures(tmp_path / "here", 60)
    data = regraft.read((paths, ["a", "b", "c"] * 20))
    said = (
        f"cluster='auto': not every machine has the files of the data under their paths, such as '{paths[0]}'. Put them where all machines"
    )
    given: dict[str, Any] = {"epochs": 1, "learning_rate": 1e-3, "cache": None, "engine": "eager", "validation": 0.3}
    for strategy, what in (("full", "training ran on this machine alone"), ("auto", "trials ran on this machine")):
        alone, both = (regraft.adapt(net, data, strategy=strategy, cluster=own, **given) for own in (None, "auto"))
        assert alone.scores == both.scores
        assert [reason for reason in both.plan.reasons if f"The {what}. {said}" in reason], both.plan.reasons
    with pytest.raises(SettingError, match=re.escape(said)):
        regraft.search(net, data, trials=2, cluster="auto")


@no_ray
@cluster_of_two
@pytest.mark.slow
def test_commands_of_the_page_run_on_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for at, each in itertools.product(range(2), range(12)):
        path = tmp_path / "photos" / "ab"[at] / f"{each}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((draw.integers(0, 128, (8, 8, 3)) + 100 * at).astype("uint8")).save(path)
    keras = pytest.importorskip("keras")
    body = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")]
    network = keras.Sequential([keras.Input((8, 8, 3)), *body])
    regraft.load(network, preprocessing={"kind": "image", "height": 8, "width": 8}).save("NETWORK")
    run_commands("scale")
    assert (tmp_path / "adapted" / "report.html").is_file() and (tmp_path / "study" / "study.json").is_file()


def test_every_command_that_computes_takes_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(cluster: str) -> None:
        raise SettingError(f"{cluster} was asked for.")

    monkeypatch.setattr("regraft.freezing.engines.check_cluster", asked)
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    dense = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    made = regraft.load(dense, inputs=(4,), classes=["a", "b"], preprocessing={"kind": "array", "shape": [4]})
    net = str(made.export(tmp_path / "n.pmml"))
    np.savez(tmp_path / "data.npz", X=rows, y=np.array(["a", "b"] * 10))
    np.save(tmp_path / "rows.npy", rows)
    for command, further in {"adapt": ["--out", "o"], "search": ["--out", "s"], "profile": [], "evaluate": [], "predict": []}.items():
        data = tmp_path / ("rows.npy" if command == "predict" else "data.npz")
        out = [further[0], str(tmp_path / further[1])] if further else []
        done = CliRunner().invoke(app, [command, net, str(data), "--cluster", "ray://there:10001", *out])
        assert done.exit_code and "ray://there:10001 was asked for." in " ".join(done.output.split()), (command, done.output)


@no_ray
def test_what_cannot_be_sent_is_said() -> None:
    with pytest.raises(SettingError, match=r"cannot be sent to other processes .* Leave cluster= out"):
        packed((item for item in ()), lambda _part: NotImplemented)


def test_an_engine_beside_a_cluster_is_said_to_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.freezing.whole.check_engine", lambda *_given: None)
    assert whole_pass("onnxruntime", "auto").notes == ["The cluster ran PyTorch: engine='onnxruntime' is for one machine."]
    assert not [
        note for engine, own in (("auto", "auto"), ("eager", "auto"), ("onnxruntime", None)) for note in whole_pass(engine, own).notes
    ]


def test_a_cluster_that_is_not_there_is_an_error_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    net, X, y = _network("torch")
    with pytest.raises(SettingError, match="cluster='here': expected 'auto', 'ray://HOST:PORT' or None"):
        regraft.adapt(net, (X, y), cluster="here")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"cluster= needs .*regraft\[ray\]"):
        regraft.predict(net, X, cluster="auto")


def test_an_error_without_words_is_named_by_its_class(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**_how: Any) -> None:
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=fails, nodes=fails))
    with pytest.raises(SettingError, match=r"cluster='auto' cannot be reached: ConnectionError\. Start one"):
        check_cluster("auto")
    monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: True)
    with pytest.raises(SettingError, match=r"cluster='auto' was lost: ConnectionError\. Start it again"):
        all_see([], "auto")


@no_ray
@pytest.mark.slow
def test_no_cluster_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SettingError, match=r"cluster='auto' cannot be reached: .* Start one with `ray start --head`"):
        check_cluster("auto")


@no_ray
@pytest.mark.slow
@cluster_of_two
def test_pieces_come_in_order_and_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    shared = {"factor": 2, "mark": str(tmp_path / "killed"), "kills": 5, "fails": 30}
    content = packed(shared, lambda _part: NotImplemented)
    assert list(on_cluster(_doubled, content, pieces=range(12), cluster="auto", threads=1)) == [2 * piece for piece in range(12)]
    assert (tmp_path / "killed").exists()
    with pytest.raises(RegraftError, match="Piece 3 is broken"):
        list(on_cluster(_doubled, packed({**shared, "fails": 3}, lambda _part: NotImplemented), pieces=range(6), cluster="auto", threads=1))


@no_ray
@pytest.mark.slow
@cluster_of_two
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_features_of_a_cluster_are_bit_identical_and_shared_with_local_runs(family: str, tmp_path: Path) -> None:
    plain, items = _pass(family, tmp_path / "local")
    expected = plain.cached(items, (0, 1)).stored(np.arange(1200))
    made, items = _pass(family, tmp_path / "cluster", cluster="auto")
    found = made.cached(items, (0, 1)).stored(np.arange(1200))
    assert made.notes == []
    assert made.counter.items == 1200
    assert all(one.tobytes() == two.tobytes() for one, two in zip(expected, found, strict=True))
    assert [path.name for path in (tmp_path / "local").iterdir()] == [path.name for path in (tmp_path / "cluster").iterdir()]
    again, items = _pass(family, tmp_path / "cluster")
    again.cached(items, (0, 1))
    assert again.counter.items == 0  # a local run takes up what the cluster has computed


@no_ray
@pytest.mark.slow
@cluster_of_two
def test_files_are_read_by_the_workers_or_come_with_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, paths = _pictures(tmp_path / "here")
    asked = list[int]()
    monkeypatch.setattr("regraft.freezing.spread.all_see", lambda files, own: asked.append(len(files)) or all_see(files, own))
    plain = regraft.predict(net, paths, engine="eager").probabilities.tobytes()
    assert regraft.predict(net, paths, cluster="auto").probabilities.tobytes() == plain and asked == [5]
    monkeypatch.setattr("regraft.freezing.spread.all_see", lambda *_given: False)
    assert regraft.predict(net, paths, cluster="auto").probabilities.tobytes() == plain


@no_ray
@pytest.mark.slow
@cluster_of_two
def test_pictures_at_an_address_are_fetched_by_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks at the depth of some and checks its copy on two; no task carries a file: the rest is fetched elsewhere."""
    net, paths = _pictures(tmp_path / "there", 600)
    data = regraft.read(f"file://{tmp_path}/there", target=["a", "b", "c"] * 200)
    plain = regraft.predict(net, data, engine="eager").probabilities.tobytes()
    here, carried = set[str](), list[Any]()

    def watched(work: Any, content: bytes, *, pieces: Any, **how: Any) -> Iterator[Any]:
        kept = list(pieces)
        carried.extend(kept)
        assert not any(path.read_bytes() in content for path in paths)
        return on_cluster(work, content, pieces=kept, **how)

    monkeypatch.setattr("regraft.data.readers.streams.stream_of", lambda source, kind: here.add(source) or stream_of(source, kind))
    monkeypatch.setattr("regraft.freezing.spread.on_cluster", watched)
    assert regraft.predict(net, data, cluster="auto").probabilities.tobytes() == plain
    assert len(here) <= LOOKED_AT + 2
    assert [sum(len(examples) for examples, _ in chunk) for chunk, _ in carried] == [256, 256, 88]
    assert not any(files for _, files in carried)


@no_ray
@pytest.mark.slow
@cluster_of_two
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_verbs_give_the_same_on_a_cluster(family: str) -> None:
    net, X, y = _network(family)
    net.name_classes_(["a", "b", "c"])
    plain, spread = regraft.predict(net, X, engine="eager"), regraft.predict(net, X, cluster="auto")
    assert spread.probabilities.tobytes() == plain.probabilities.tobytes()
    assert regraft.evaluate(net, (X, plain.labels), cluster="auto").scores["accuracy"] == 1.0
    results = [regraft.adapt(net, (X, y), strategy="probe", cache="memory", engine="eager", cluster=own) for own in (None, "auto")]
    assert results[0].scores == results[1].scores
    profiles = [regraft.profile(net, (X, y), cache="memory", engine="eager", cluster=own) for own in (None, "auto")]
    assert profiles[0].to_dict()["depths"] == profiles[1].to_dict()["depths"]
    assert not [note for note in (*results[1].plan.reasons, *profiles[1].notes) if "on this machine" in note]


@no_ray
@pytest.mark.slow
@cluster_of_two
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_the_example_of_the_docs_runs(family: str, door: str) -> None:
    import ray

    net, X, y = _network(family)
    given = {"regraft": regraft, "net": net, "data": (X, y), "pictures": X[:300]}
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```py\n(.+?)```", page, flags=re.DOTALL)
    for statement in example.replace("FIRST:10001", door).splitlines():
        ray.shutdown()  # the second one is meant for a process that does not belong to the cluster
        exec(statement, given)
    ray.shutdown()
    result, found = given["result"], given["found"]
    assert found.probabilities.tobytes() == regraft.predict(result.network, X[:300], engine="eager").probabilities.tobytes()
    assert not [reason for reason in result.plan.reasons if "on this machine" in reason]


@no_ray
@pytest.mark.slow
@cluster_of_two
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_search_on_a_cluster_has_the_trials_of_a_local_one_also_after_a_worker_was_killed(family: str, tmp_path: Path) -> None:
    net, X, y = _network(family)
    if family == "torch":
        torch.manual_seed(0)
        net = regraft.load(Killed(tmp_path / "killed"), inputs=(1, 8, 8))
    given: dict[str, Any] = {"trials": 6, "sampler": "random", "pruner": None, "epochs": 1, "cache": "memory", "engine": "eager"}
    given["space"] = {"strategy": ["head", "full"], "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    studies = [regraft.search(net, (X[:120], y[:120]), **given, cluster=own) for own in (None, "auto")]
    found = [[(trial.number, trial.values, trial.folds, trial.losses) for trial in study.trials] for study in studies]
    assert found[0] == found[1] and len(found[0]) == 6
    judged = [study.scores["holdout"] for study in studies]  # all machines train the best plan: within rounding
    assert judged[0]["accuracy"] == judged[1]["accuracy"] and judged[0]["log_loss"] == pytest.approx(judged[1]["log_loss"], abs=1e-5)
    assert (tmp_path / "killed").exists() == (family == "torch")


@no_ray
@pytest.mark.slow
@cluster_of_two
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_auto_on_a_cluster_makes_the_choice_of_a_local_run_also_after_a_worker_was_killed(family: str, tmp_path: Path) -> None:
    net, X, y = _network(family)
    if family == "torch":
        torch.manual_seed(0)
        net = regraft.load(Killed(tmp_path / "killed"), inputs=(1, 8, 8))
    X = X[:240] + np.random.default_rng(0).normal(0, 4.0, X[:240].shape).astype(np.float32)
    given: dict[str, Any] = {"strategy": "auto", "epochs": 20, "batch_size": 16, "cache": "memory", "engine": "eager"}
    alone, both = (regraft.adapt(net, (X, y[:240]), cluster=own, **given) for own in (None, "auto"))
    found = [[{**one, "seconds": 0, "predicted": 0} for one in result.plan.candidates] for result in (alone, both)]
    assert found[0] == found[1] and len([one for one in alone.plan.candidates if one["seconds"] is not None]) > 3
    assert alone.plan.chosen == both.plan.chosen and alone.scores["holdout"]["accuracy"] == both.scores["holdout"]["accuracy"]
    assert not [note for note in both.plan.reasons if "on this machine" in note]
    assert (tmp_path / "killed").exists() == (family == "torch")


@no_ray
@pytest.mark.slow
@cluster_of_two
@pytest.mark.parametrize("strategy", ["full", "scratch", "partial"])
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_machines_train_one_network_together_also_after_one_lost_its_worker(family: str, strategy: str, tmp_path: Path) -> None:
    net, X, y = _network(family)
    if family == "torch":
        if strategy != "full":
            (tmp_path / "killed").touch()
        torch.manual_seed(0)
        net = regraft.load(Killed(tmp_path / "killed"), inputs=(1, 8, 8))
    given: dict[str, Any] = {"strategy": strategy, "epochs": 3, "learning_rate": 1e-3, "cache": "memory", "engine": "eager"}
    given |= {"frozen": 1} if strategy == "partial" else {}
    alone, both = (regraft.adapt(net, (X[:120], y[:120]), cluster=own, **given) for own in (None, "auto"))
    assert not [note for note in both.plan.reasons if "machine" in note]
    assert len(alone.history) == len(both.history) > 2
    for one, two in zip(alone.history, both.history, strict=True):
        figures = {name: value for name, value in one.items() if type(value) is float and name != "seconds"}
        assert {name: two[name] for name in figures} == pytest.approx(figures, abs=1e-5)
    assert both.scores["holdout"]["accuracy"] == alone.scores["holdout"]["accuracy"]
    assert (tmp_path / "killed").exists() == (family == "torch")


@no_ray
@pytest.mark.slow
@cluster_of_two
def test_an_error_of_another_machine_ends_a_training_at_once() -> None:
    _, X, y = _network("torch")
    net, begun = regraft.load(Failing(), inputs=(1, 8, 8)), time.monotonic()
    with pytest.raises(RegraftError, match=r"A worker failed: It is broken there\."):
        regraft.adapt(
            net, (X[:120], y[:120]), strategy="full", epochs=2, learning_rate=1e-3, cache="memory", engine="eager", cluster="auto"
        )
    assert time.monotonic() - begun < 300  # processes wait ten minutes for each other
