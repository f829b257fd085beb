"""Forms of a forward pass that PyTorch's exporter does not translate as they are: the ONNX file takes any number of examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import regraft

runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Attending(nn.Module):
    """Attention over three and over five axes, with and without a mask (timm's SAM, Nest, Twins and Hiera), and `squeeze()` (MBart)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.own, self.head = nn.Linear(4, 4), nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)
        self.register_buffer("mask", torch.randn(1, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        x = self.own(x, x, x, need_weights=False)[0]  # which gives the settings of its attention by position
        x = functional.scaled_dot_product_attention(x, x, x, attn_mask=self.mask)
        windows = x.reshape(-1, 2, 1, 3, 4)
        x = functional.scaled_dot_product_attention(windows, windows, windows, dropout_p=0.0).reshape(-1, 6, 4)
        first = x.gather(1, torch.zeros(x.shape[0], 1, 1, dtype=torch.long, device=x.device)).squeeze()
        first = torch.squeeze(input=first.reshape(-1, 1), dim=1)
        return self.head(x.mean(1)) + first.reshape(-1, 1)


class Rotating(nn.Module):
    """Positions as rotations by complex numbers (DeepSeek V2), and a mask of whole numbers subtracted from a fraction (XLNet)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(12.0, device=x.device).reshape(6, 2)
        turn = torch.polar(torch.ones_like(steps), steps) * 0.5
        pairs = torch.view_as_complex(self.body(x).reshape(*x.shape[:-1], -1, 2))
        turned = torch.view_as_real(pairs.unsqueeze(1) * turn.unsqueeze(0)).flatten(3).squeeze(1)
        mask = (x[..., 0] > 0).long()
        return self.head((turned * (1.0 - mask)[..., None]).mean(1)) - torch.unsqueeze(1.0 - mask.float().mean(1), -1)


@pytest.mark.parametrize("made", [Attending, Rotating])
def test_forms_that_the_exporter_does_not_know(tmp_path: Path, made: type[nn.Module]) -> None:
    names = ("squeeze", "unsqueeze", "__mul__", "__rsub__")
    before = functional.scaled_dot_product_attention, torch.squeeze, [vars(Tensor).get(name) for name in names]
    net = regraft.load(made(), inputs=(6, 4))
    session = runtime.InferenceSession(net.export(tmp_path / "net.onnx"))
    for count in (1, 5):
        rows = np.random.default_rng(count).normal(size=(count, 6, 4)).astype(np.float32)
        assert np.allclose(session.run(None, {session.get_inputs()[0].name: rows})[0], net.logits(rows), atol=1e-5)
    assert before == (functional.scaled_dot_product_attention, torch.squeeze, [vars(Tensor).get(name) for name in names])
