"""Padding: what no example of a batch needs is not computed where a network's results do not depend on it."""

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given, settings, strategies
from torch import Tensor, nn

import regraft
from regraft.data import Prepared
from regraft.data.preprocessings.text_preprocessing import TextPreprocessing
from regraft.freezing import Cut, FrozenPass, find_cut
from regraft.networks.contract import Network
from regraft.networks.padding import by_length, lengths, shortened, skips_padding

WORDS = ["[PAD]", "[UNK]", "good", "bad", "bus", "tram", "very"]
SHORT = [f"{'very ' * (index % 5)}{'good' if index % 2 else 'bad'} {'bus' if index % 3 else 'tram'}" for index in range(60)]
TEXTS = [*SHORT, "very " * 40 + "good bus", "very " * 40 + "bad bus"]
LABELS = np.array(["good" if "good" in text else "bad" for text in TEXTS])
DATA = regraft.read((TEXTS, LABELS), kind="text")
LENGTH = 48  # tokens of the longest text, rounded up


class Reader(nn.Module):
    """The mean of the tokens; `masked` without padding. `seen` are the shapes that it computed."""

    def __init__(self, *, masked: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.hidden, self.head = nn.Embedding(len(WORDS), 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.masked, self.seen = masked, list[tuple[int, ...]]()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.seen.append(tuple(input_ids.shape))
        values = self.hidden(self.embedding(input_ids)).tanh()
        if not self.masked:
            return self.head(values.mean(1))
        weight = attention_mask[:, :, None].float()
        return self.head((values * weight).sum(1) / weight.sum(1).clamp(min=1))


def preprocessing(*, left: bool = False) -> TextPreprocessing:
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return TextPreprocessing(own.to_str(), special=(("pad_token", "[PAD]"),), pad_left=left)


def opened(module: Any, **kwargs: Any) -> Network:
    inputs = {"input_ids": (LENGTH,), "attention_mask": (LENGTH,)}
    return regraft.load(module, classes=["bad", "good"], inputs=inputs, preprocessing=preprocessing(**kwargs))


def padded_logits(net: Network) -> np.ndarray:
    """The logits of all texts as one batch with all its padding."""
    net.mode_(False)
    with torch.no_grad():
        return net.scores(net.preprocessing.fit(DATA).batch(TEXTS))["main"].numpy()


def keras_reader() -> Any:
    keras.utils.set_random_seed(0)
    ids, mask = keras.Input((None,), dtype="int32", name="input_ids"), keras.Input((None,), dtype="int32", name="attention_mask")
    values = keras.layers.Dense(8, activation="tanh")(keras.layers.Embedding(len(WORDS), 8)(ids))
    pooled = keras.layers.GlobalAveragePooling1D()(values, mask=mask)
    return keras.Model({"input_ids": ids, "attention_mask": mask}, keras.layers.Dense(2)(pooled))


@strategies.composite
def batches(draw: Any) -> dict[str, Tensor]:
    rows, length = draw(strategies.integers(1, 12)), draw(strategies.integers(1, 40))
    bits = draw(strategies.lists(strategies.lists(strategies.booleans(), min_size=length, max_size=length), min_size=rows, max_size=rows))
    mask = torch.tensor(bits, dtype=torch.int64)
    for row in range(rows):
        mask[row, draw(strategies.integers(0, length)) :] = 0
    ids = torch.arange(rows * length).reshape(rows, length)
    return {"input_ids": ids, "attention_mask": mask, "columns": torch.randn(rows, length)}


@given(batches(), strategies.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_results_in_parts_by_length_are_those_of_the_whole_batch(batch: dict[str, Tensor], size: int) -> None:
    def run(inputs: Any) -> list[Tensor]:
        assert len(inputs["input_ids"]) <= size
        return [(inputs["input_ids"] * inputs["attention_mask"]).sum(1), inputs["columns"]]

    expected = [(batch["input_ids"] * batch["attention_mask"]).sum(1), batch["columns"]]
    for skips in (True, False):
        assert all(map(torch.equal, by_length(run, batch, batch_size=size, skips=skips), expected))
    needed, whole = lengths(batch), batch["input_ids"].shape[1]
    assert needed is not None
    assert shortened(batch)["input_ids"].shape[1] == int(needed.max()) <= whole
    for row, mask in zip(needed.tolist(), batch["attention_mask"], strict=True):
        assert not mask[row:].any()


@pytest.mark.parametrize("make", [Reader, keras_reader])
def test_padding_is_left_out_in_every_pass(make: Any) -> None:
    """Predictions, the feature cache and a whole training compute fewer positions and give what the padded batches give."""
    net = opened(make())
    assert skips_padding(lambda inputs: [net.scores(inputs)["main"]], net.preprocessing.fit(DATA).batch(TEXTS))
    expected = padded_logits(net)
    assert np.allclose(net.logits(TEXTS, 8), expected, atol=1e-6)
    items = Prepared(DATA, net.preprocessing)
    cut = find_cut(net, frozenset(layer.name for layer in net.layers) - set(net.head_layers), sample=items.batch(np.arange(2)))
    assert isinstance(cut, Cut)
    cache = FrozenPass(net, cut, "memory", batch_size=8).cached(items)
    assert np.allclose(cut.trainable_part(cache.get(np.arange(len(items))))["main"].detach(), expected, atol=1e-6)


def test_fewer_positions_are_computed() -> None:
    net = opened(Reader())
    run = net.module.seen
    run.clear()
    net.logits(TEXTS, 8)
    positions = sum(rows * length for rows, length in run)
    assert positions < len(TEXTS) * LENGTH / 2
    result = regraft.adapt(net, DATA, strategy="full", epochs=1, batch_size=8, learning_rate=1e-3)
    assert max(length for _, length in result.network.module.seen) == LENGTH
    assert min(length for rows, length in result.network.module.seen if rows == 8) == 8


def test_a_network_that_reads_padding_gets_it() -> None:
    net = opened(Reader(masked=False))
    assert not skips_padding(lambda inputs: [net.scores(inputs)["main"]], net.preprocessing.fit(DATA).batch(TEXTS))
    assert np.allclose(net.logits(TEXTS, 8), padded_logits(net), atol=1e-6)
    adapted = regraft.adapt(net, DATA, strategy="head", epochs=1, cache="memory").network
    assert np.allclose(adapted.logits(TEXTS, 8), padded_logits(adapted), atol=1e-5)


def test_padding_on_the_left_stays() -> None:
    net = opened(Reader(), left=True)
    made = net.preprocessing.fit(DATA).batch(TEXTS)
    assert shortened(made)["input_ids"].shape[1] == LENGTH
    assert not skips_padding(lambda inputs: [net.scores(inputs)["main"]], made)


class Encoder(nn.Module):
    """Hidden states of each token, as Transformers' bare encoders return them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(len(WORDS), 16)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(3))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        values = self.embedding(input_ids)
        for layer in self.layers:
            values = values + layer(values)
        return values


def test_a_head_on_an_encoder_reads_no_padding(tmp_path: Any) -> None:
    """A text has the same prediction alone, where it is padded little, and beside a long text."""
    draws, rates = np.random.default_rng(1), np.array([0.2, 0.7] * 40)
    texts = [" ".join(np.where(draws.random(draws.integers(4, 40)) < rate, "good", "bad")) for rate in rates]
    data = regraft.read((texts, np.where(rates < 0.5, "rare", "often")), kind="text")
    inputs = {"input_ids": (LENGTH,), "attention_mask": (LENGTH,)}
    net = regraft.load(Encoder(), inputs=inputs, preprocessing=preprocessing())
    adapted = regraft.adapt(net, data, strategy="head", cache="memory", out=tmp_path / "out").network
    short = sorted(texts, key=len)[:4]
    longer = dataclasses.replace(adapted.preprocessing, max_length=2 * LENGTH).batch(short)
    with torch.no_grad():
        beside = adapted.scores(longer)["main"]
    again = regraft.load(tmp_path / "out", architecture=Encoder)
    for one in (adapted, again):
        assert np.allclose(one.logits(short), beside, atol=1e-5)
    assert (np.array(adapted.predict(texts).labels) == np.where(rates < 0.5, "rare", "often")).mean() > 0.85
