"""Small PyTorch networks that are ordinary elsewhere and that something once could not take: one of each kind."""

from __future__ import annotations

import threading
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional


class Plain(nn.Module):
    """Convolutions, BatchNorm and two linear layers; the others below change one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, stride=2)
        self.fc1, self.fc = nn.Linear(8 * 9, 12), nn.Linear(12, 3)

    def maps(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm(self.conv1(x)).relu()).relu()

    def features(self, x: Tensor) -> Tensor:
        return self.fc1(self.maps(x).flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class Viewed(Plain):
    """`view` behind convolution and pooling, as in PyTorch's own classification tutorial: it needs the usual order in memory."""

    def features(self, x: Tensor) -> Tensor:
        return self.fc1(functional.max_pool2d(self.maps(x), 1).view(-1, 8 * 9)).relu()


class Strided(Plain):
    """Gives another result in another order in memory, and no error."""

    def features(self, x: Tensor) -> Tensor:
        maps = self.maps(x)
        return self.fc1(maps.as_strided((len(maps), 8 * 9), (8 * 9, 1))).relu()


class Auxiliary(Plain):
    """A head that is called in training alone, defined before all others and larger than they are."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Linear(8 * 9, 300), nn.BatchNorm1d(300), nn.Linear(300, 3))

    def features(self, x: Tensor) -> Tensor:
        if self.training:
            self.aux(self.maps(x).flatten(1))
        return super().features(x)


class Unused(Auxiliary):
    """A part that is never called."""

    features = Plain.features


class Listed(Plain):
    """Parameters in a `ParameterList`, in use."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))])

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) * self.scales[0] + self.scales[1]


class Functional(Plain):
    """A layer whose weight is read by `F.linear`, so that the layer is never called."""

    def features(self, x: Tensor) -> Tensor:
        return functional.linear(self.maps(x).flatten(1), self.fc1.weight, self.fc1.bias).relu()


class FunctionalHead(Plain):
    """The last layer is read by `F.linear` and never called."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(self.features(x), self.fc.weight, self.fc.bias)


class Distances(Plain):
    """Its scores are distances to a point of each class, which no linear layer gives."""

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.features(x), self.fc.weight)


class LossFirst(Plain):
    """Returns a loss, a number without axes, before the scores."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.features(x)
        return {"loss": features.square().mean(), "scores": self.fc(features)}


class Spectral(Plain):
    """Complex weights: of its own, and of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.filter, self.mix = nn.Parameter(torch.randn(12, dtype=torch.cfloat)), nn.Linear(12, 12, dtype=torch.cfloat)

    def features(self, x: Tensor) -> Tensor:
        return self.mix(torch.fft.fft(super().features(x)) * self.filter).abs()


class Bare(nn.Module):
    """Nothing but parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(12, 3 * 256) * 0.05), nn.Parameter(torch.randn(3, 12) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(functional.linear(x.flatten(1), self.a).relu(), self.b)


class Tied(Plain):
    """Two layers of one weight, in two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(12, 12), nn.Linear(12, 12)
        self.two.weight = self.one.weight

    def features(self, x: Tensor) -> Tensor:
        return self.two(self.one(super().features(x)).relu()).relu()


class OldWeightNorm(Plain):
    """Weight norm as a hook, which computes a tensor that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.fc1, self.fc = nn.utils.weight_norm(self.fc1), nn.utils.weight_norm(self.fc)


class OldSpectralNorm(Plain):
    """Spectral norm as a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.utils.spectral_norm(self.fc1)


class NormalisedScores(Plain):
    """BatchNorm over the scores: what is behind the last linear layer knows the number of classes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


class TwoHeads(Plain):
    """Two heads that read different features; its result is their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_dist = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return (self.fc(self.features(x)) + self.fc_dist(self.maps(x).mean((2, 3)))) / 2


class Stage(nn.Module):
    """Holds most of the weights, and a parameter of its own before its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.conv2, self.fc1 = nn.Parameter(torch.ones(6, 1, 1)), nn.Conv2d(6, 8, 3, stride=2), nn.Linear(8 * 9, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(self.conv2(x + self.shift).relu().flatten(1)).relu()


class Staged(nn.Module):
    """A part that is opened into blocks has a parameter of its own (positions, in timm's NesT), which joins the block before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.stage, self.fc = nn.Conv2d(3, 6, 3, stride=2), Stage(), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stage(self.conv1(x)))


class Demanding(Plain):
    """Takes its input by name alone, computes a gradient in its forward pass, and holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, *, pictures: Tensor) -> Tensor:
        with self.lock, torch.enable_grad():
            changed = pictures.detach().requires_grad_()
            (steps,) = torch.autograd.grad(self.conv1(changed).square().sum(), changed, create_graph=True)
        return self.fc(self.features(pictures + 0.01 * steps))


NETWORKS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Plain,
        Viewed,
        Strided,
        Auxiliary,
        Unused,
        Listed,
        Functional,
        FunctionalHead,
        Distances,
        LossFirst,
        Spectral,
        Bare,
        Tied,
        OldWeightNorm,
        OldSpectralNorm,
        NormalisedScores,
        TwoHeads,
        Staged,
        Demanding,
    )
}
"""Networks of pictures (3, 16, 16) with three classes, by name."""
