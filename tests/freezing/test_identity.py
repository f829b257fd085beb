"""A cache's identity changes whenever its values would."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import nn

from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.freezing.identity import cache_identity, frozen_digest
from regraft.networks.fingerprints import libraries
from regraft.networks.fingerprints.libraries import library_of, source_of
from regraft.networks.fingerprints.values import Fingerprint
from regraft.networks.network import Network
from regraft.networks.torch.family import open_torch

FROZEN = ["conv1", "norm1", "drop1"]


def _network() -> Network:
    torch.manual_seed(0)
    return open_torch(examples.Cnn(), inputs=(1, 8, 8))


def _key(network: Network, items: PreparedData, dtype: str = "float32", views: int = 1, live: tuple[str, ...] = ("norm1#0.0",)) -> str:
    return cache_identity(frozen_digest(network, FROZEN), live, items=items.identity(views), dtype=dtype)[0]


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
    before = frozen_digest(network, ["0.fc"])
    with torch.no_grad():
        network.module[0].scale += 1
    assert frozen_digest(network, ["0.fc"]) != before


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
