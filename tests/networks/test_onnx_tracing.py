"""ONNX by tracing: what does not depend on values is exported for any number of examples; what does is refused, or caught by its proof."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regraft
from regraft.freezing import engines
from regraft.freezing.engines import EngineLog, Work, chosen_engine
from regraft.freezing.whole import _Results
from regraft.networks.parts.onnx_export import NotTracedError
from regraft.networks.parts.onnx_tracing import traced_model

pytestmark = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no ONNX Runtime")
WIDTH = 6


class _Net(nn.Module):
    """A layer, what is tested, and a head."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.__dict__["middle"] = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.__dict__["middle"](self.first(x)))


class _Attention(nn.Module):
    """Attention under a mask of tokens, with positions that are added by the length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(20, 8)
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))
        x = self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        return self.head((x * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True))


class _Trimmed(nn.Module):
    """A mean over as many tokens as the longest text of a batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)[:, : attention_mask.sum(1).max()]
        return self.head(x.sum(1) / x.shape[1])


class _Asking(nn.Module):
    """A network that looks at values where it is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids)
        if not torch.jit.is_tracing() and attention_mask.all():
            return self.head(x.sum(1))
        return self.head((x * attention_mask[..., None]).sum(1))


class _Recurrent(nn.Module):
    """Recurrent layers of both kinds, one of them with a state that is made for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(8, 3)
        self.lstm = nn.LSTM(5, 4, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.gru(x, x.new_zeros(1, x.size(0), 5))[0])[0][:, -1])


class _Padded(nn.Module):
    """Padding that is computed from the size of the picture, and a check of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, stride=2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height != 8:
            raise ValueError(height)
        x = nn.functional.pad(x, (0, max((width - 1) // 2 * 2 + 3 - width, 0), 0, max((height - 1) // 2 * 2 + 3 - height, 0)))
        return self.head(self.conv(x).relu().flatten(2).mean(2).view(x.shape[0], -1))


@dataclass
class _Case:
    make: Callable[[], nn.Module]
    inputs: Any
    traced: bool  # whether the tracing exporter takes it, and its file is right
    refused: bool = True  # whether the tracing exporter refuses it if not; else the proof of the engine does
    whole: bool = True  # whether an engine of it, made in any way, gives what PyTorch gives


def _of(middle: Callable[[Tensor], Tensor], **how: Any) -> _Case:
    return _Case(lambda: _Net(middle), (WIDTH,), **how)


def _rows(x: Tensor) -> Tensor:
    return torch.stack([x[at] * 2 for at in range(x.shape[0])])


CASES: dict[str, _Case] = {
    "attention": _Case(_Attention, {"input_ids": (7,), "attention_mask": (7,)}, True),
    "the longest text of a batch": _Case(_Trimmed, {"input_ids": (7,), "attention_mask": (7,)}, False, whole=False),
    "a question whether it is traced": _Case(_Asking, {"input_ids": (7,), "attention_mask": (7,)}, True),
    "recurrent": _Case(_Recurrent, (6, 3), True),
    "sizes": _Case(_Padded, (1, 8, 8), True),
    "a constant": _of(lambda x: x * torch.tensor(2.0) + torch.as_tensor(np.float32(1)), traced=True),
    "the number of examples in a view": _of(lambda x: x.reshape(2 * x.shape[0], -1).relu().reshape(x.shape[0], WIDTH), traced=True),
    "a mask": _of(lambda x: x.masked_fill(x < 0, -1.0), traced=True),
    "classes as columns": _of(lambda x: x + nn.functional.one_hot(x.argmax(1), WIDTH), traced=True),
    "a branch on values": _of(lambda x: x if x.sum() > 0 else -x, traced=False, whole=False),
    "a comparison": _of(lambda x: 2 * x if torch.equal(x.clamp(min=-100), x) else x, traced=False, whole=False),
    "a comparison within rounding": _of(lambda x: 2 * x if torch.allclose(x.clamp(min=-100), x) else x, traced=False, whole=False),
    "a value as a number": _of(lambda x: x * float(x.max()), traced=False, whole=False),
    "NumPy": _of(lambda x: torch.from_numpy(np.tanh(x.detach().numpy())), traced=False, whole=False),
    "a count of values": _of(lambda x: x / (1 + (x > 0).nonzero().shape[0]), traced=False, whole=False),
    "rows by a mask": _of(lambda x: x + x[x > 0].sum() / x[x > 0].shape[0], traced=False, whole=False),
    "a loop over examples": _of(_rows, traced=False, refused=False, whole=False),
    "the number of examples as a factor": _of(lambda x: x * (1.0 if x.shape[0] > 20 else 2.0), traced=False, whole=False),
}


def _work(case: _Case) -> tuple[Work, list[Any]]:
    torch.manual_seed(0)
    network = regraft.load(case.make(), inputs=case.inputs)

    def values(inputs: Any) -> list[Tensor]:
        with torch.no_grad():
            return [next(iter(network.scores(inputs).values()))]

    def first(net: Any, inputs: Any) -> Tensor:
        return next(iter(net.scores(inputs).values()))

    def batch(count: int) -> Any:
        if isinstance(case.inputs, dict):
            mask = (torch.arange(7) < torch.randint(1, 8, (count, 1))).long()
            return {"input_ids": torch.randint(0, 50, (count, 7)), "attention_mask": mask}
        return torch.randn(count, *case.inputs)

    layers = frozenset(layer.name for layer in network.layers)
    work = Work("The network", network, layers, values, lambda: _Results(first, network.for_export()).eval())
    return work, [batch(count) for count in (33, 5)]


@pytest.mark.parametrize("name", CASES)
def test_a_run_that_depends_on_values_is_not_traced(name: str) -> None:
    case = CASES[name]
    work, batches = _work(case)
    sample = tuple(batches[0].values()) if isinstance(batches[0], dict) else (batches[0],)
    names = list(batches[0]) if isinstance(batches[0], dict) else ["input"]
    called = list[int]()

    def export() -> bytes:
        return traced_model(work.module(), sample, inputs=names, outputs=["live0"], tick=lambda: called.append(1))

    if case.traced or not case.refused:
        assert export()
    else:
        with pytest.raises(NotTracedError):
            export()
    assert called
    assert torch.Tensor.size is torch._C.TensorBase.size and "shape" not in vars(torch.Tensor) and torch.backends.mha.get_fastpath_enabled()
    assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize("name", CASES)
def test_an_engine_gives_what_pytorch_gives_in_any_batch_or_is_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, ways, notes = CASES[name], list[bool](), list[str]()
    own = engines._in_onnx_form

    def watched(*args: Any, traced: bool, **named: Any) -> Any:
        ways.append(traced)
        return own(*args, traced=traced, **named)

    monkeypatch.setattr(engines, "_in_onnx_form", watched)
    work, batches = _work(case)
    first = [work.timed(batch) for batch in batches]
    engine, _ = chosen_engine(work, first, wanted="onnxruntime", rows=38, log=EngineLog(), say=notes.append)
    assert ways == ([True] if case.traced else [True, False])
    assert (engine.name != "eager") == case.whole, notes
    for inputs in batches:
        torch.testing.assert_close(engine.values(inputs)[0], work.values(inputs)[0], rtol=1e-4, atol=1e-5)
