"""Hostile Keras files: nothing in them runs, no other file is read, each is one clear error."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("keras")
pytest.importorskip("h5py")

from tests.security import keras_payloads as payloads

import regraft
from regraft.errors import NetworkError, UnsafeFileError
from regraft.networks.keras.library import keras
from regraft.networks.sources.keras_files import open_keras_file
from regraft.networks.sources.keras_guard import check_config

L = keras.layers
_opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event in ("open", "os.mkdir", "os.system", "subprocess.Popen", "socket.getaddrinfo"):
        _opened.append(f"{event} {arguments[0]}")


sys.addaudithook(_watch)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """A marker that must not appear and a secret that must not be read."""
    global _opened
    place = tmp_path / "elsewhere"
    place.mkdir()
    marker, secret = place / "marker", place / "secret.txt"
    secret.write_bytes(payloads.SECRET)
    monkeypatch.chdir(place)
    safe = keras.src.saving.serialization_lib.in_safe_mode()
    _opened = []
    yield marker, secret
    seen, _opened = _opened, None
    assert not marker.exists(), "the file ran code"
    assert not [line for line in seen if str(place) in line or line.startswith(("os.system", "subprocess.Popen", "socket.getaddrinfo"))]
    assert keras.src.saving.serialization_lib.in_safe_mode() == safe
    assert keras.config.dtype_policy().name == "float32"


WAYS = sorted(payloads.unsafe_objects(Path("m"), Path("/s")))


@pytest.mark.parametrize("layout", ["keras", "h5"])
@pytest.mark.parametrize("way", WAYS)
def test_no_object_of_a_file_is_code(way: str, layout: str, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    evil = payloads.unsafe_objects(*trap)[way]
    path = payloads.with_config(tmp_path, lambda config: payloads.PLACES["layer"](config, evil), layout=layout)
    error = NetworkError if way == "array of pointers" else UnsafeFileError
    with pytest.raises(error, match=re.escape(path.name)) as caught:
        regraft.load(path)
    assert type(caught.value) is error


@pytest.mark.parametrize("layout", ["keras", "h5"])
@pytest.mark.parametrize("place", sorted(payloads.PLACES))
@pytest.mark.parametrize("way", ["lambda, dotted", "torch, dotted", "download", "builtin function", "Keras 2: Lambda", "saved model"])
def test_no_place_of_a_config_is_overlooked(way: str, place: str, layout: str, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    evil = payloads.unsafe_objects(*trap)[way]
    path = payloads.with_config(tmp_path, lambda config: payloads.PLACES[place](config, evil), layout=layout)
    with pytest.raises(UnsafeFileError):
        regraft.load(path)


def _graph() -> Any:
    inputs = keras.Input((4,), name="in")
    return keras.Model(inputs, L.Dense(3, name="last")(keras.ops.exp(inputs)), name="graph")


def _dead(config: dict[str, Any], operation: dict[str, Any], *args: Any) -> None:
    config["config"]["layers"].append({**operation, "name": "dead", "inbound_nodes": [{"args": list(args), "kwargs": {}}]})


@pytest.mark.parametrize(
    ("operation", "args", "error"),
    [
        (payloads.named("keras.src.ops.core", "Switch"), (0, [payloads.function("keras.utils", "get_file")], [[1]]), UnsafeFileError),
        (payloads.named("keras.src.ops.core", "Map"), (payloads.function("keras.config", "set_floatx"), ["float16"]), UnsafeFileError),
        (payloads.named("keras.src.ops.numpy", "Tile", repeats=[2**33]), ([[1.0]],), NetworkError),
        (payloads.named("keras.layers", "UpSampling2D", size=[2**16, 2**16]), ([[[[1.0]]]],), NetworkError),
    ],
)
def test_nothing_is_computed_while_a_file_is_opened(
    operation: dict[str, Any], args: tuple[Any, ...], error: type[Exception], tmp_path: Path, trap: tuple[Path, Path]
) -> None:
    path = payloads.with_config(tmp_path, lambda config: _dead(config, operation, *args), layout="keras", model=_graph())
    with pytest.raises(error):
        regraft.load(path)


@pytest.mark.parametrize("layout", ["keras", "h5"])
@pytest.mark.parametrize("value", [None, 3, ["Dense"], {"class_name": "Dense"}, True, "", "Dense\0", "\udc80"])
def test_names_of_classes_that_are_none(value: Any, layout: str, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][1]["class_name"] = value

    with pytest.raises(NetworkError):
        regraft.load(payloads.with_config(tmp_path, change, layout=layout))


@pytest.mark.parametrize("layout", ["keras", "h5"])
@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["config"]["layers"][1]["config"].update(units=2**31),
        lambda config: config["config"]["layers"][1]["config"].update(units=-1),
        lambda config: config["config"]["layers"][1]["config"].update(units="many"),
        lambda config: config["config"].update(layers=3),
        lambda config: config["config"].update(layers=[]),
        lambda config: config["config"]["layers"][0]["config"].update(batch_shape=[None, 2**33]),
        lambda config: [config],
        lambda config: {"class_name": "Sequential"},
        lambda config: {"config": config},
        lambda config: {"class_name": "Sequential", "config": [[[]]], "module": "keras"},
    ],
)
def test_configs_of_the_wrong_form(change: Callable[[Any], Any], layout: str, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    with pytest.raises(NetworkError):
        regraft.load(payloads.with_config(tmp_path, change, layout=layout))


def test_activations_larger_than_the_memory(tmp_path: Path, trap: tuple[Path, Path]) -> None:
    model = keras.Sequential([keras.Input((4, 4, 1)), L.UpSampling2D(2), L.GlobalAveragePooling2D(), L.Dense(2)])

    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][1]["config"]["size"] = [2**17, 2**17]

    with pytest.raises(NetworkError, match="bytes of memory"):
        regraft.load(payloads.with_config(tmp_path, change, layout="keras", model=model))


def test_patterns_in_data_types(tmp_path: Path, trap: tuple[Path, Path]) -> None:
    policy = {"default_policy": "float32", "policy_map": {"(a+)+$": "float32"}, "name": "map"}
    evil = {"module": "keras.dtype_policies", "class_name": "DTypePolicyMap", "config": policy, "registered_name": None}
    with pytest.raises(NetworkError, match="patterns"):
        regraft.load(payloads.with_config(tmp_path, lambda config: payloads.PLACES["data type"](config, evil), layout="keras"))


def test_hostile_models_in_saved_folders(tmp_path: Path, trap: tuple[Path, Path]) -> None:
    regraft.load(payloads.network()).save(tmp_path / "saved")
    [file] = (tmp_path / "saved").glob("*.keras")
    evil = payloads.unsafe_objects(*trap)["torch, dotted"]
    made = payloads.with_config(tmp_path, lambda config: payloads.PLACES["layer"](config, evil), layout="keras")
    facts = json.loads((tmp_path / "saved" / "regraft.json").read_text(encoding="utf-8"))
    facts.pop("files", None)  # whoever changes the file changes its checksum too
    (tmp_path / "saved" / "regraft.json").write_text(json.dumps(facts), encoding="utf-8")
    file.write_bytes(made.read_bytes())
    with pytest.raises(UnsafeFileError, match="carries code"):
        regraft.load(tmp_path / "saved")


# ── archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _plain(folder: Path) -> dict[str, bytes]:
    payloads.network().save(folder / "plain.keras")
    return payloads.parts_of(folder / "plain.keras")


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "assets/../../evil", "assets\\..\\evil", "C:evil", "assets/..", ".."])
def test_names_that_lead_out_of_an_archive(name: str, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    path = payloads.write_archive(tmp_path / "m.keras", {**_plain(tmp_path), name: b"evil"})
    with pytest.raises(UnsafeFileError, match="outside the archive"):
        regraft.load(path)


def test_links_in_an_archive(tmp_path: Path, trap: tuple[Path, Path]) -> None:
    path = payloads.write_archive(tmp_path / "m.keras", _plain(tmp_path))
    link = zipfile.ZipInfo("assets")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, str(trap[1]))
    with pytest.raises(UnsafeFileError, match="outside the archive"):
        regraft.load(path)


@pytest.mark.parametrize("part", ["config.json", "model.weights.h5", "assets/vocabulary.txt"])
def test_parts_that_unpack_to_far_more(part: str, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    parts = {**_plain(tmp_path), part: bytes(80 * 2**20)}
    path = payloads.write_archive(tmp_path / "m.keras", parts, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(NetworkError, match="declares 80 MiB"):
        regraft.load(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression(method: int, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    with pytest.raises(NetworkError, match="compressed in an unusual way"):
        regraft.load(payloads.write_archive(tmp_path / "m.keras", _plain(tmp_path), compression=method))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_parts_of_one_name(tmp_path: Path, trap: tuple[Path, Path]) -> None:
    path = payloads.write_archive(tmp_path / "m.keras", _plain(tmp_path))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("config.json", b"{}")
    with pytest.raises(NetworkError, match="two parts called"):
        regraft.load(path)


def test_parts_that_share_their_bytes(tmp_path: Path, trap: tuple[Path, Path]) -> None:
    path = payloads.write_archive(tmp_path / "m.keras", _plain(tmp_path))
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.infolist()[-1]
        for number in range(9):
            again = zipfile.ZipInfo(f"assets/{number}")
            again.header_offset, again.file_size, again.compress_size, again.CRC = (
                first.header_offset, first.file_size, first.compress_size, first.CRC
            )  # fmt: skip
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(NetworkError, match="overlap"):
        regraft.load(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"3", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"{}"]
)
def test_configs_that_are_no_mapping(content: bytes, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    with pytest.raises(NetworkError):
        regraft.load(payloads.write_archive(tmp_path / "m.keras", {**_plain(tmp_path), "config.json": content}))


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
def test_parts_that_are_missing(missing: str, tmp_path: Path, trap: tuple[Path, Path]) -> None:
    parts = _plain(tmp_path)
    del parts[missing]
    with pytest.raises(NetworkError):
        regraft.load(payloads.write_archive(tmp_path / "m.keras", parts))


# ── what must still open ─────────────────────────────────────────────────────────────────────────────────────────────────


def _is_admitted(config: dict[str, Any]) -> bool:
    try:
        check_config(config, Path("x.keras"))
    except NetworkError:
        return False
    return True


def test_every_layer_of_keras_is_admitted_but_those_that_carry_code() -> None:
    names = [name for name in dir(L) if isinstance(getattr(L, name), type)]
    refused = {name for name in names if not _is_admitted(payloads.named("keras.layers", name))}
    assert len(names) > 100
    assert refused <= {"FlaxLayer", "InputSpec", "JaxLayer", "Lambda", "Layer", "TFSMLayer", "TorchModuleWrapper"}


@pytest.mark.parametrize(
    "family", ["activations", "constraints", "initializers", "losses", "metrics", "optimizers", "regularizers", "dtype_policies"]
)
def test_every_other_part_of_keras_is_admitted(family: str) -> None:
    room = getattr(keras, family)
    known = getattr(keras.src, family).ALL_OBJECTS_DICT
    classes = [name for name in dir(room) if isinstance(getattr(room, name), type)]
    functions = sorted({item.__name__ for item in known.values() if not isinstance(item, type)})
    assert classes or functions
    assert [name for name in classes if not _is_admitted(payloads.named(f"keras.{family}", name))] in ([], ["MultiOptimizer"])
    assert [name for name in functions if not _is_admitted(payloads.function(f"keras.{family}", name))] == []
    assert [name for name in functions if not _is_admitted(payloads.function("builtins", name))] == []


def test_operations_of_a_graph_are_admitted() -> None:
    for module in ("numpy", "nn", "math", "image"):
        room = getattr(keras.src.ops, module)
        names = [name for name, item in vars(room).items() if isinstance(item, type) and item.__module__ == room.__name__]
        assert [name for name in names if not _is_admitted(payloads.named(room.__name__, name))] == []


def test_a_graph_of_operations_opens(tmp_path: Path) -> None:
    model = _graph()
    model.save(tmp_path / "graph.keras")
    assert open_keras_file(tmp_path / "graph.keras").count_params() == model.count_params()


@pytest.mark.parametrize("layout", ["keras", "h5"])
def test_what_a_model_was_compiled_with_does_not_matter(layout: str, tmp_path: Path) -> None:
    def loss_of_the_user(_true: Any, predicted: Any) -> Any:
        return keras.ops.mean(predicted)

    model = payloads.network()
    model.compile(keras.optimizers.Adam(1e-3), loss_of_the_user, metrics=["accuracy"])
    model.save(tmp_path / f"compiled.{layout}")
    assert regraft.load(tmp_path / f"compiled.{layout}").family == "keras"


@keras.saving.register_keras_serializable("security")
class Registered(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("layout", ["keras", "h5"])
def test_registered_classes_open(layout: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((4,)), Registered(), L.Dense(3)])
    model.save(tmp_path / f"own.{layout}")
    assert regraft.load(tmp_path / f"own.{layout}").family == "keras"


# ── the lowest version of Keras ──────────────────────────────────────────────────────────────────────────────────────────


def lowest_keras() -> str:
    """Return the lowest version that pyproject.toml admits."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = next(line for line in project["project"]["optional-dependencies"]["keras"] if line.startswith("keras"))
    found = re.match(r"keras>=([\d.]+)", wanted)
    assert found is not None, wanted
    return found.group(1)


@pytest.mark.slow
def test_the_lowest_keras_that_is_admitted_passes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "lowest"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), f"keras=={lowest_keras()}"]
    if subprocess.run(install, capture_output=True).returncode:
        pytest.skip("Keras cannot be fetched here")
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{target}:{root / 'src'}")
    files = [str(path) for path in (Path(__file__), Path(__file__).with_name("test_weights_files.py"))]
    version = "import keras; print(keras.__version__)"
    assert subprocess.run([sys.executable, "-c", version], capture_output=True, text=True).stdout.strip() == lowest_keras()
    ran = subprocess.run([sys.executable, "-m", "pytest", "-q", *files], cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:]


def test_files_with_addresses_of_other_sizes(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    settings = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    settings.set_sizes(4, 4)
    h5py.h5f.create(str(tmp_path / "m.h5").encode(), h5py.h5f.ACC_TRUNC, settings).close()
    with pytest.raises(NetworkError, match="addresses or lengths that are not of 8 bytes"):
        open_keras_file(tmp_path / "m.h5")
