"""An edit leaves the names of a PyTorch network as they are, and folders saved when it did not are opened."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.former_networks import CASES, Pair, Small, made, scores_of, small
from torch import Tensor, nn

import regraft
from regraft.networks.folders import read_facts
from regraft.networks.parts.code_files import code_digest
from regraft.networks.torch.graft import Graft, grafts, set_submodule_, within
from regraft.planning.conditions.adapting import saved_to

SAVED = Path(__file__).parents[1] / "fixtures" / "former_names.zip"
"""One folder for each network of the table, as the version before grafts saved it, and the scores that they gave."""


def architecture(name: str) -> type[nn.Module]:
    return Pair if "input" in name else Small


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    with zipfile.ZipFile(SAVED) as file:
        file.extractall(folder)
    return folder


def check(net: Any, name: str, *, saved: Path, allowed: float = 1e-6) -> None:
    with np.load(saved / "scores.npz") as expected:
        known = {key: expected[key] for key in expected.files if key.startswith(f"{name}: ")}
    found = scores_of(net)
    assert [f"{name}: {task}" for task in found] == list(known)
    for task, values in found.items():
        np.testing.assert_allclose(values, known[f"{name}: {task}"], rtol=1e-5, atol=allowed)


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("name", CASES)
def test_folders_saved_under_former_names_open_and_are_saved_under_the_present_ones(name: str, saved: Path, tmp_path: Path) -> None:
    opened = regraft.load(saved / name, architecture=architecture(name))
    check(opened, name, saved=saved)
    today = made(name)
    check(today, name, saved=saved)
    assert sorted(opened.state()) == sorted(today.state()) and opened.body.held == today.body.held
    assert [head.layer for head in opened.heads.values()] == [head.layer for head in today.heads.values()]
    assert [block.name for block in opened.blocks] == [block.name for block in today.blocks]
    assert opened.edits == today.edits
    if name not in ("cut of a branch", "folded", "stack of a join of codes"):  # to save takes half a second
        return
    again = regraft.load(opened.save(tmp_path / "again"), architecture=architecture(name))
    check(again, name, saved=saved)
    assert again.coding == opened.coding and again.body.held == opened.body.held


@pytest.mark.parametrize("name", ["codes", "branch of codes"])
def test_a_code_learned_today_goes_into_a_folder_of_before(name: str, saved: Path) -> None:
    """The digest that ties codes to a network is made with the former names, so that each folder opens with and without its class."""
    pytest.importorskip("onnxruntime")
    net = regraft.load(saved / name, architecture=Small)
    assert code_digest(net) == read_facts(saved / name)["digest"]
    table = np.concatenate([net.body.code_table().detach().numpy(), np.ones((1, 2), np.float32)])
    saved_to(net.recoded(("ann", "bob", "eve"), table), saved / name, conditions=["eve"])
    for architecture in (Small, None):
        again = regraft.load(saved / name, architecture=architecture)
        assert again.codes["eve"].tolist() == [1, 1] if architecture else "eve" in again.coding.conditions
        check(again, name, saved=saved, allowed=1e-5)


class Part(Graft):
    """An edit that adds a layer to what the network gives."""

    inside = frozenset({"head"})

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.head, self.added = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.added(self.head(self.network(x)))


def test_every_reader_of_names_sees_the_network_with_the_parts_beside_its_children() -> None:
    plain = Small()
    whole = Part(Part(plain))
    known, names = dict(plain.named_modules()), dict(whole.named_modules())
    assert all(names[name] is module for name, module in known.items())
    assert list(names.keys() - known.keys()) and {"head_2", "head_3", "added.0", "added_2.1"} <= names.keys()
    assert all(whole.get_submodule(name) is module for name, module in names.items())
    assert {name: id(value) for name, value in plain.named_parameters()}.items() <= {
        name: id(value) for name, value in whole.named_parameters()
    }.items()
    assert within(whole) == ["head_3", "head_2"] and grafts(whole) == [whole, whole.network] and grafts(plain) == []
    assert list(whole.state_dict()) == [*whole.state_dict(keep_vars=True)]
    assert set(whole.state_dict()) == {*dict(whole.named_parameters()), *dict(whole.named_buffers())}


def test_a_state_goes_in_by_the_names_by_which_it_comes_out() -> None:
    torch.manual_seed(0)
    first, second = Part(Part(Small())), Part(Part(Small()))
    second.load_state_dict(first.state_dict(), strict=True)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    with pytest.raises(RuntimeError, match=r"Missing key.*head\.weight"):
        second.load_state_dict({name: value for name, value in first.state_dict().items() if name != "head.weight"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other\.weight"):
        second.load_state_dict({**first.state_dict(), "other.weight": torch.zeros(1)})


def test_a_module_is_put_where_its_name_says() -> None:
    whole, new = Part(Part(Small())), nn.Identity()
    for name in ("head", "head_2", "head_3", "added_2.1", "network.0", "network"):
        assert set_submodule_(whole, name, module=new) is whole and whole.get_submodule(name) is new
    assert set_submodule_(whole, "", module=new) is whole and whole.network.network is new
    assert set_submodule_(nn.Linear(1, 1), "", module=new) is new


def test_a_copy_of_an_edit_has_the_same_names() -> None:
    net = small().adjusted(small().points(), form="film")
    assert list(net.copy().state()) == list(net.state())
    assert small().state().keys() <= net.state().keys() and net.state().keys() - small().state().keys() == {
        f"adjusting.{point}.{part}" for point in range(len(small().points())) for part in "gb"
    }
