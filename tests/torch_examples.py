"""Small PyTorch networks and data for the tests of several rooms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Cnn(nn.Module):
    """Functional relu, pool and flatten; BatchNorm and dropout in the lower part."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(4)
        self.drop1 = nn.Dropout(0.3)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 4, 8)
        self.fc2 = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop1(functional.max_pool2d(functional.relu(self.norm1(self.conv1(x))), 2))
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 2)
        return self.fc2(functional.relu(self.fc1(torch.flatten(x, 1))))


class SharedRelu(nn.Module):
    """One ReLU module before and behind the trained layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.relu(self.b(self.relu(self.a(x)))))


class Twice(nn.Module):
    """One frozen layer called twice, both times before the trained part."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.mid, self.head = nn.Linear(6, 6), nn.Linear(12, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.shared(x).tanh()
        return self.head(self.mid(torch.cat([first, self.shared(first).tanh()], 1)).relu())


class AroundTrained(nn.Module):
    """One weighty layer called before and behind the trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.mid, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.shared(self.mid(self.shared(x).relu()).relu()))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Sequential(nn.Linear(6, 4), nn.Tanh()), nn.Sequential(nn.Linear(6, 7), nn.ReLU())
        self.join, self.head = nn.Linear(11, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join(torch.cat([self.left(x), self.right(x)], 1)).relu())


class Both(nn.Module):
    """A part whose output is a dict of a tuple and a tensor that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"pair": (self.one(x).tanh(), self.two(x).tanh()), "unused": self.one(x) * 2}


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part, self.mid, self.head = Both(), nn.Linear(9, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(torch.cat(self.part(x)["pair"], 1)).relu())


class TimeFirst(nn.Module):
    """An LSTM with the batch on its second axis."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embed, self.lstm, self.mid, self.head = nn.Embedding(20, 6), nn.LSTM(6, 5), nn.Linear(5, 5), nn.Linear(5, classes)

    def forward(self, ids: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embed(ids).transpose(0, 1))
        return self.head(self.mid(outputs[-1]).relu())


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.lstm = nn.Embedding(20, 6), nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        outputs, _ = self.lstm(self.embed(ids))
        return self.head(outputs[:, -1])


class Recurrent(nn.Module):
    """An LSTM whose last output goes to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class TimeMajorRows(nn.Module):
    """A frozen layer sees (T * B, d) with the items innermost: its rows cannot be cut into items by position."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.mid, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:  # (B, T, 4)
        rows = self.low(x.transpose(0, 1).reshape(-1, x.shape[2]))
        return self.head(self.mid(rows.reshape(x.shape[1], x.shape[0], -1).mean(0)).relu())


class BatchMean(nn.Module):
    """A frozen layer whose output depends on the other items of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.mid, self.head = nn.Linear(4, 5), Centred(), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(self.low(x)).tanh())


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) * self.scale


class PerItem(nn.Module):
    """A frozen part that returns one tensor for each item."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.mid, self.head = Listed(), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(torch.stack(self.low(x))).relu())


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.fc(x))


def pictures(count: int = 60, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, 1, 8, 8) whose bright row tells their class."""
    generator = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    items = generator.normal(0, 0.5, (count, 1, 8, 8)).astype(np.float32)
    items[np.arange(count), 0, targets * 2] += 2.0
    return items, np.array([f"class {target}" for target in targets])


def bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
