"""What is frozen when a number or a name is given."""

from __future__ import annotations

import pytest
import torch
from tests import torch_examples as examples
from torch import nn

from regraft.errors import SettingError
from regraft.freezing import Cut, cacheable_layers, find_cut, frozen_up_to, frozen_up_to_head
from regraft.heads import branch
from regraft.networks.network import Network
from regraft.networks.torch.family import open_torch


@pytest.fixture
def network() -> Network:
    return open_torch(examples.Cnn(), inputs=(1, 8, 8))


def test_by_number_by_block_by_layer(network: Network) -> None:
    assert [block.name for block in network.blocks] == ["conv1", "norm1", "conv2", "norm2", "fc1", "fc2"]
    assert frozen_up_to(network, 0) == frozenset()
    assert frozen_up_to(network, 1) == {"conv1"}
    assert frozen_up_to(network, "norm1") == frozen_up_to(network, 2) == {"conv1", "norm1"}  # the dropout behind it is the trained part's
    assert frozen_up_to(network, "conv2") == {"conv1", "norm1", "drop1", "conv2"}
    assert frozen_up_to_head(network) == {"conv1", "norm1", "drop1", "conv2", "norm2", "fc1"}


def test_a_container_is_frozen_with_all_its_layers() -> None:
    network = open_torch(examples.Branches(), inputs=(6,))
    assert frozen_up_to(network, "left") == {"left.0", "left.1"}
    assert frozen_up_to(network, "right") == {"left.0", "left.1", "right.0", "right.1"}


@pytest.mark.parametrize(
    ("end", "message"),
    [(6, "0 to 5"), (-1, "0 to 5"), ("fc2", "nothing would be left"), ("conf2", "'conv2'"), ("", "no block")],
)
def test_what_cannot_be_frozen_is_refused(network: Network, end: int | str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        frozen_up_to(network, end)


def test_only_layers_before_the_first_trained_one_are_cacheable(network: Network) -> None:
    assert cacheable_layers(network, {"conv1", "norm1", "conv2", "fc1"}) == {"conv1", "norm1", "conv2"}
    assert cacheable_layers(network, {"norm1", "conv2"}) == frozenset()


def test_dropout_that_regularises_the_head_stays_with_it() -> None:
    network = open_torch(nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.ReLU(), nn.Linear(5, 3)), inputs=(6,))
    assert frozen_up_to_head(network) == {"0"}
    network.freeze_(frozen_up_to_head(network))
    network.mode_(True)
    assert network.module[1].training
    assert not network.module[0].training


def test_a_parameter_shared_with_a_frozen_layer_is_frozen() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
    module[2].weight = module[0].weight
    network = open_torch(module, inputs=(6,))
    network.freeze_({"0"})
    assert not network.module[2].weight.requires_grad
    assert network.module[2].bias.requires_grad
    assert torch.equal(network.module[2].weight, network.module[0].weight)


def test_several_heads_are_all_left_to_train() -> None:
    plain = open_torch(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), inputs=(6,))
    network = branch(plain, "mood", ("bad", "good"))
    assert frozen_up_to_head(network) == frozen_up_to(network, "0") == {"0", "1"}
    for end in (2, "2", "branches"):
        with pytest.raises(SettingError, match="nothing would be left"):
            frozen_up_to(network, end)


def test_heads_alone_are_cut_at_their_input() -> None:
    plain = open_torch(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), inputs=(6,))
    network, batch = branch(plain, "mood", ("bad", "good"), start="random"), torch.randn(4, 6)
    frozen = frozen_up_to_head(network)
    network.freeze_(frozen)
    cut = find_cut(network, cacheable_layers(network, frozen), sample=batch)
    assert isinstance(cut, Cut), cut
    assert [part.shape for part in cut.live] == [(5,)]
    scores = cut.trainable_part(cut.frozen_part(batch))
    assert all(torch.equal(scores[task], expected) for task, expected in network.scores(batch).items())
    assert list(scores) == ["main", "mood"]
