"""Layers and blocks in the order of execution."""

from __future__ import annotations

import torch
from tests import torch_examples as examples
from torch import Tensor, nn

from regraft.networks.parts.structure import below, prefixes
from regraft.networks.torch.family import open_torch


class Reversed(nn.Module):
    """Defined in another order than it runs; one layer is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused, self.middle, self.first = nn.Linear(5, 3), nn.Linear(2, 2), nn.Linear(5, 5), nn.Linear(6, 5)
        self.token = nn.Parameter(torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x) + self.token))


def test_names() -> None:
    assert prefixes("a.b") == ["a.b", "a", ""]
    assert prefixes("") == [""]
    assert below("a.b", "a")
    assert below("a", "")
    assert not below("ab", "a")


def test_the_order_is_that_of_execution() -> None:
    net = open_torch(Reversed(), inputs=(6,))
    assert [layer.name for layer in net.layers] == ["", "first", "middle", "last", "unused"]
    assert sum(layer.parameters for layer in net.layers) == sum(parameter.numel() for parameter in net.module.parameters())
    assert [(block.name, block.layers) for block in net.blocks] == [
        ("first", ("", "first")),
        ("middle", ("middle",)),
        ("last", ("last",)),
        ("unused", ("unused",)),
    ]


def test_weights_that_are_read_and_never_called_come_before_their_reader_or_last_where_the_forward_refuses_nan() -> None:
    class Adds(nn.Module):
        def __init__(self, *, refuses: bool) -> None:
            super().__init__()
            self.last, self.first, self.token = nn.Linear(5, 3), nn.Linear(6, 5), nn.LayerNorm(5)
            self.refuses = refuses

        def forward(self, x: Tensor) -> Tensor:
            shifted = self.first(x) + self.token.weight
            if self.refuses and bool(shifted.isnan().any()):
                raise ValueError("NaN")
            return self.last(shifted)

    names = [[layer.name for layer in open_torch(Adds(refuses=refuses), inputs=(6,)).layers] for refuses in (False, True)]
    assert names == [["first", "token", "last"], ["first", "last", "token"]]


def test_blocks_hold_every_layer_once() -> None:
    for module, shape in ((examples.Cnn(), (1, 8, 8)), (examples.Branches(), (6,)), (examples.Lstm(), (7,)), (Reversed(), (6,))):
        net = open_torch(module, inputs=shape)
        held = [name for block in net.blocks for name in block.layers]
        assert sorted(held) == sorted(layer.name for layer in net.layers)
        assert all(block.parameters for block in net.blocks)


def test_a_container_that_holds_most_is_opened() -> None:
    body = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(4)))
    net = open_torch(nn.Sequential(body, nn.Linear(6, 3)), inputs=(6,))
    assert [block.name for block in net.blocks] == ["0.0.0", "0.1.0", "0.2.0", "0.3.0", "1"]


def test_attention_and_weight_norm() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.normed(self.attention(x, x, x)[0]).mean(1))

    net = open_torch(Attends(), inputs=(4, 6))
    assert [layer.name for layer in net.layers] == ["attention", "attention.out_proj", "normed", "head"]
    assert net.layers[2].parameters == 6 * 5 + 5 + 5
    net.freeze_({"attention", "attention.out_proj", "normed"})
    trained = {name for name, parameter in net.module.named_parameters() if parameter.requires_grad}
    assert trained == {"head.weight", "head.bias"}


def test_freezing_is_shown_by_block() -> None:
    net = open_torch(examples.Cnn(), inputs=(1, 8, 8))
    net.freeze_({"conv1", "norm1", "drop1"})
    assert [block.name for block in net.blocks if block.frozen] == ["conv1", "norm1"]
    net.mode_(True)
    assert not net.module.norm1.training
    assert not net.module.drop1.training
    assert net.module.norm2.training
