"""A cache's identity changes whenever its values would."""

from __future__ import annotations

import importlib
import importlib.metadata
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import nn

from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.freezing.identity import cache_identity, frozen_identity
from regraft.networks.fingerprints import libraries
from regraft.networks.fingerprints.bytecode import read_globals
from regraft.networks.fingerprints.libraries import library_of, source_of
from regraft.networks.fingerprints.values import Fingerprint
from regraft.networks.folders import versions
from regraft.networks.network import Network
from regraft.networks.torch.family import open_torch

FROZEN = ["conv1", "norm1", "drop1"]


def _network() -> Network:
    torch.manual_seed(0)
    return open_torch(examples.Cnn(), inputs=(1, 8, 8))


def _key(network: Network, items: PreparedData, dtype: str = "float32", views: int = 1, live: tuple[str, ...] = ("norm1#0.0",)) -> str:
    return cache_identity(frozen_identity(network, FROZEN).digest, live, items=items.identity(views), dtype=dtype)[0]


def _items(X: np.ndarray | None = None, view_seed: int = 0, **preprocessing: Any) -> PreparedData:
    X, y = (examples.pictures(12)[0] if X is None else X), examples.pictures(12)[1]
    return PreparedData(read((X, y)), preprocessing_from_dict({"kind": "array", "shape": [1, 8, 8]} | preprocessing), view_seed=view_seed)


def test_equal_inputs_give_equal_keys() -> None:
    assert _key(_network(), _items()) == _key(_network(), _items())


def test_every_cause_of_other_values_gives_another_key() -> None:
    plain = _key(_network(), _items())
    weight, statistic, option, later = (_network() for _ in range(4))
    with torch.no_grad():
        weight.module.conv1.weight[0, 0, 0, 0] = torch.nextafter(weight.module.conv1.weight[0, 0, 0, 0], torch.tensor(9.0))
        statistic.module.norm1.running_mean[1] += 1e-6
        later.module.fc1.weight += 1
    option.module.norm1.eps = 1e-3
    one_bit = examples.pictures(12)[0]
    one_bit[3, 0, 0, 0] = np.nextafter(one_bit[3, 0, 0, 0], np.float32(9))
    others = {
        "weight": _key(weight, _items()),
        "statistic": _key(statistic, _items()),
        "option": _key(option, _items()),
        "one example": _key(_network(), _items(one_bit)),
        "preprocessing": _key(_network(), _items(mean=0.5)),
        "dtype": _key(_network(), _items(), dtype="float16"),
        "views": _key(_network(), _items(), views=3),
        "view seed": _key(_network(), _items(view_seed=1), views=3),
        "live outputs": _key(_network(), _items(), live=("conv1#0.0",)),
        "order": _key(_network(), _items(np.ascontiguousarray(examples.pictures(12)[0][::-1]))),
    }
    assert len({plain, *others.values()}) == len(others) + 1
    assert _key(later, _items()) == plain  # layers above the freeze boundary do not count
    assert _key(_network(), _items(view_seed=1)) == plain  # nor does the view seed where there is one view


def test_image_size_is_part_of_the_identity() -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (4, 9, 9, 3), dtype=np.uint8)
    data = read((pictures, [0, 1, 0, 1]), kind="image")
    keys = set()
    for side in (16, 17):
        items = PreparedData(data, preprocessing_from_dict({"kind": "image", "height": side, "width": side}))
        keys.add(items.identity(1))
    assert len(keys) == 2


class Scaled(nn.Module):
    """A container with a buffer of its own, which is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(1))
        self.fc = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) * self.scale


def test_buffers_of_frozen_containers_count() -> None:
    torch.manual_seed(0)
    network = open_torch(nn.Sequential(Scaled(), nn.ReLU(), nn.Linear(5, 3)), inputs=(6,))
    before = frozen_identity(network, ["0.fc"])
    with torch.no_grad():
        network.module[0].scale += 1
    assert frozen_identity(network, ["0.fc"]) != before


def test_a_library_on_the_search_path_counts_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unpacked_wheel").mkdir()
    (tmp_path / "unpacked_wheel" / "__init__.py").write_text("")
    (tmp_path / "beside_it.py").write_text("")
    facts = tmp_path / "unpacked_wheel-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: unpacked_wheel\nVersion: 1.2\n")
    (facts / "RECORD").write_text("unpacked_wheel/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("unpacked_wheel", "beside_it"):
        importlib.import_module(name)
    assert (library_of("unpacked_wheel.part"), library_of("beside_it")) == ("unpacked_wheel 1.2", None)


@pytest.mark.parametrize("raised", [None, FileNotFoundError, KeyError], ids=["python 3.11", "importlib_metadata", "later python"])
def test_code_of_an_installed_package_without_metadata_counts_as_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: type[Exception] | None
) -> None:
    for folder, package in (("another_name", "left_behind"), ("same_name", "same_name"), ("whole", "of_other_name")):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
        facts = tmp_path / f"{folder}-1.2.dist-info"
        facts.mkdir()
        (facts / "RECORD").write_text(f"{package}/__init__.py,,\n")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: whole\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    kind = type(importlib.metadata.distribution("whole"))
    plain = kind.metadata.fget

    def metadata(one: importlib.metadata.Distribution) -> Any:
        if raised is not None and one.read_text("METADATA") is None:
            raise raised("no metadata")
        return plain(one)

    monkeypatch.setattr(kind, "metadata", property(metadata))
    libraries._library.cache_clear()
    monkeypatch.setattr(libraries, "_distributions", libraries._distributions.__wrapped__)
    for package, library in (
        ("left_behind", None),
        ("same_name", None),
        ("of_other_name", "whole 1.2"),
        ("numpy", f"numpy {np.__version__}"),
    ):
        importlib.import_module(package)
        assert library_of(package) == library
    assert (libraries.version_of("same_name"), libraries.version_of("whole"), libraries.version_of("absent")) == (None, "1.2", None)
    assert {"torch", "numpy"} <= set(versions())


def test_code_of_this_package_counts_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_of("numpy.linalg") is None and source_of("regraft.methods.lora") == source_of("regraft")
    monkeypatch.setattr(libraries, "__file__", str(tmp_path / "networks" / "fingerprints" / "libraries.py"))
    (tmp_path / "methods").mkdir()
    seen = [libraries._own_source.__wrapped__()]
    for text in ("FACTOR = 1", "FACTOR = 2"):
        (tmp_path / "methods" / "one.py").write_text(text)
        seen.append(libraries._own_source.__wrapped__())
    assert seen[0] is None and len(set(seen)) == 3
    made = [type("Network", (nn.Module,), {"__module__": Network.__module__, "factor": factor}) for factor in (1, 2)]
    assert len({Fingerprint({}).of(kind) for kind in (Network, *made)}) == 3  # a class made by a call has more than its name


def _reads(value: Any) -> Any:
    def function() -> Any:
        return value

    return function


def _made_by(code: str, **names: Any) -> Any:
    space = {"__name__": "__main__", **names}
    exec(code, space)  # functions whose code differs by what it imports or reads
    return space["made"]


def _module(name: str, **content: Any) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(content)
    return made


def _linear(fill: float) -> nn.Module:
    made = nn.Linear(2, 2)
    nn.init.constant_(made.weight, fill)
    nn.init.zeros_(made.bias)
    return made


KINDS: dict[str, Any] = {
    "a module outside the network": lambda at: _reads(_linear(at)),
    "a module that was traced": lambda at: _reads(torch.fx.symbolic_trace(nn.Sequential(_linear(at), [nn.ReLU(), nn.Tanh()][at]))),
    "a module of Python": lambda at: _reads(_module("own", scale=at)),
    "a library": lambda at: _reads((np, torch)[at]),
    "an array of objects": lambda at: np.array([at, "text", None], object),
    "a partial function": lambda at: partial(_reads, value=at),
    "an object that names itself": lambda at: TypeVar("T" if at else "S"),  # type: ignore[misc]
    "a global of a module": lambda at: _made_by("def made():\n    return own.inner.scale", own=_module("a", inner=_module("b", scale=at))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_values_hold_counts(kind: str) -> None:
    first, again, other = (Fingerprint({}).of(KINDS[kind](at)) for at in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("constants", [0, 300])  # with so many, the arguments of an import need two instructions
def test_imports_inside_a_function_are_read(constants: int) -> None:
    many = "".join(f"    x = {number}.5\n" for number in range(constants))
    made = _made_by(
        f"def made():\n{many}    import json\n    from os import path, sep\n    from .near import one\n    from ..... import far"
    )
    read = read_globals(made.__code__, {"__package__": "pack.inner"})
    assert read["import json"] is importlib.import_module("json")
    assert list(read) == ["import json", "import os.path", "import os.sep", "import pack.inner.near.one", "import .far"]


@pytest.mark.parametrize("made", [lambda: torch.eye(2).to_sparse(), lambda: (one for one in ())], ids=["sparse", "running"])
def test_what_holds_nothing_to_compare_is_listed(made: Any) -> None:
    prints = Fingerprint({})
    prints.of(made(), "here")
    assert len(prints.structure([]).opaque) == 1
    assert prints.structure([]).opaque[0].startswith("here (")


class _WithoutAttributes:
    """An object that shows the attributes of its class in place of its own, as messages of protobuf do."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return {"made": (one for one in ())}


def test_attributes_of_the_class_are_not_those_of_an_object_without_any() -> None:
    prints = Fingerprint({})
    digests = [prints.of(_WithoutAttributes(size)) for size in (1, 1, 2)]
    assert not prints.structure([]).opaque and digests[0] == digests[1] != digests[2]


def test_values_within_themselves_have_a_digest_and_very_deep_ones_are_listed() -> None:
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    prints = Fingerprint({})
    assert Fingerprint({}).of(circle) == prints.of(circle)
    assert not prints.structure([]).opaque
    prints.of(deep)
    assert "nested too deeply" in prints.structure([]).opaque[0] or "looked through" in prints.structure([]).opaque[0]
