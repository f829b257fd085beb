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
from regraft.data import PreparedData
from regraft.data.preprocessings.text_preprocessing import TextPreprocessing
from regraft.freezing import Cut, FrozenPass, find_cut
from regraft.freezing.spread import batches_of
from regraft.freezing.whole import WholePass
from regraft.networks.network import Network
from regraft.networks.padding import by_length, lengths, reads_padding, shortened, skips_padding, sorts_by_length
from regraft.planning.choosing.attaching import _places
from regraft.training import WholeFeed

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
    columns = torch.randn(rows, length)
    return {"input_ids": ids, "attention_mask": mask, "columns": columns, "query_ids": ids + 1, "query_mask": mask.flip(0)}


@given(batches(), strategies.integers(1, 5))
@settings(max_examples=80, deadline=None)
def test_results_in_parts_by_length_are_those_of_the_whole_batch(batch: dict[str, Tensor], size: int) -> None:
    def run(inputs: Any) -> list[Tensor]:
        assert len(inputs["input_ids"]) <= size
        return [
            (inputs["input_ids"] * inputs["attention_mask"]).sum(1),
            inputs["columns"],
            (inputs["query_ids"] * inputs["query_mask"]).sum(1),
        ]

    expected = [(batch[f"{one}_ids"] * batch[f"{other}_mask"]).sum(1) for one, other in (("input", "attention"), ("query", "query"))]
    expected.insert(1, batch["columns"])
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
    items = PreparedData(DATA, net.preprocessing)
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


def test_a_head_that_starts_at_zero_does_not_hide_that_a_network_reads_padding() -> None:
    """All logits of a new head are zero, with and without padding. The training must still see what predictions see."""
    net = opened(Reader(masked=False))
    data = regraft.read((TEXTS, np.char.add("new ", LABELS)), kind="text")
    adapted = regraft.adapt(net, data, strategy="full", epochs=1, batch_size=8, learning_rate=1e-3, cache=None).network
    module = next(one for one in adapted.body.module.modules() if isinstance(one, Reader))
    assert {length for rows, length in module.seen if rows > 4} == {LENGTH}  # four texts or fewer are those of the proof


def test_a_training_with_batch_statistics_keeps_its_padding() -> None:
    """BatchNorm takes its statistics from the padding, too, in training alone."""
    net = regraft.load(Normed(), inputs={"input_ids": (LENGTH,), "attention_mask": (LENGTH,)}, preprocessing=preprocessing())
    assert not WholeFeed(net, PreparedData(DATA, net.preprocessing), 1, torch.device("cpu")).skips
    plain = opened(Reader())
    assert WholeFeed(plain, PreparedData(DATA, plain.preprocessing), 1, torch.device("cpu")).skips


class Normed(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[:, :, None].float()
        return self.head((self.norm(self.embedding(input_ids).mT).mT * weight).sum(1) / weight.sum(1))


class Neighbours(nn.Module):
    """The mean of the tokens without padding, each with its neighbours, of which the last token has padding or nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.hidden, self.head = nn.Embedding(30, 8), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        values, weight = self.hidden(self.embedding(input_ids).mT).mT.tanh(), attention_mask[:, :, None].float()
        return self.head((values * weight).sum(1) / weight.sum(1))


class Pair(nn.Module):
    """Two texts, each with its mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(30, 8), nn.Linear(16, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, query_ids: Tensor, query_mask: Tensor) -> Tensor:
        texts = [(self.embedding(ids), mask[:, :, None].float()) for ids, mask in ((input_ids, attention_mask), (query_ids, query_mask))]
        return self.head(torch.cat([(values * weight).sum(1) / weight.sum(1) for values, weight in texts], 1))


def padded_arrays(lengths_of: np.ndarray, *, length: int = 32) -> tuple[np.ndarray, np.ndarray]:
    mask = (np.arange(length) < lengths_of[:, None]).astype(np.int64)
    return np.random.default_rng(0).integers(1, 30, mask.shape) * mask, mask


@pytest.mark.parametrize("module", [Neighbours, Pair])
def test_predictions_are_those_of_the_padded_batch(module: Any) -> None:
    """The shortest texts have the length 5 to 7, which is rounded up to 8; the texts of the length 8 have their neighbours. The second text
    of a pair is long where the first one is short, except for the pairs of the proof."""
    first = np.array([5, 5, 6, 6, *[5, 8, 16, 8] * 8, 32])
    second = np.array([4, 4, 4, 4, *[32, 31, 20, 5] * 8, 4])
    given = dict(zip(("input_ids", "attention_mask"), padded_arrays(first), strict=True))
    given |= dict(zip(("query_ids", "query_mask"), padded_arrays(second), strict=True)) if module is Pair else {}
    net = regraft.load(module(), classes=["a", "b"], inputs={name: (32,) for name in given})
    net.mode_(False)
    with torch.no_grad():
        expected = net.scores({name: torch.from_numpy(values) for name, values in given.items()})["main"].numpy()
    assert np.allclose(net.logits(given, 4), expected, atol=1e-6)


class Shaped(nn.Module):
    """A network whose mask has another shape than its tokens. `seen` are the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head, self.seen = nn.Embedding(30, 8), nn.Linear(8, 2), list[int]()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.seen.append(len(input_ids))
        return self.head((self.embedding(input_ids) * attention_mask[:, 0, 0, :, None]).sum(1))


def test_batches_with_a_mask_of_another_shape_keep_their_size() -> None:
    ids, mask = padded_arrays(np.array([5, 32] * 20))
    net = regraft.load(Shaped(), classes=["a", "b"], inputs={"input_ids": (32,), "attention_mask": (1, 1, 32)})
    net.module.seen.clear()
    net.logits({"input_ids": ids, "attention_mask": mask[:, None, None]}, 8)
    assert set(net.module.seen) == {8}


def test_an_example_without_tokens_keeps_its_padding() -> None:
    mask = torch.tensor([[1] * 3 + [0] * 29, [0] * 32])
    needed = lengths({"attention_mask": mask})
    assert needed is not None
    assert needed.tolist() == [8, 32]


def test_large_inputs_beside_the_tokens_are_not_held_in_large_batches() -> None:
    tokens = {name: torch.ones(1, 8, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    assert sorts_by_length(tokens | {"columns": torch.zeros(1, 5)})
    assert not sorts_by_length(tokens | {"pixel_values": torch.zeros(1, 3, 224, 224)})
    assert not sorts_by_length({"input_ids": tokens["input_ids"]})


def test_a_named_engine_that_does_not_run_is_told() -> None:
    net = opened(Reader())
    items = PreparedData(DATA, net.preprocessing)
    cut = find_cut(net, frozenset(layer.name for layer in net.layers) - set(net.head_layers), sample=items.batch(np.arange(2)))
    assert isinstance(cut, Cut)
    frozen = FrozenPass(net, cut, "memory", batch_size=8, engine="onnxruntime", cluster="auto")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.freezing.run.spread", lambda shared, chunks, **_named: (list(batches_of(shared, one)) for one in chunks))
        frozen.cached(items)
    assert [note for note in frozen.notes if "engine='onnxruntime'" in note]


def test_a_cluster_computes_what_one_machine_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions on a cluster are bit-identical to those of this process, whatever is sorted."""
    monkeypatch.setattr("regraft.freezing.whole.spread", lambda shared, chunks, **_named: (list(batches_of(shared, one)) for one in chunks))
    net = opened(Reader())
    net.module.seen.clear()
    found = net.logits(TEXTS, 8, run=WholePass(cluster="auto"))
    assert min(length for rows, length in net.module.seen if rows > 4) == 8
    assert np.array_equal(found, net.logits(TEXTS, 8))


def test_an_output_is_said_to_read_padding_where_that_was_seen_alone() -> None:
    """Where no text has padding, or the network takes one length alone, nothing was seen."""

    def fixed(inputs: Any) -> list[Tensor]:
        return [(inputs["input_ids"] * torch.ones(LENGTH)).sum(1, keepdim=True)]

    plain, masked = opened(Reader(masked=False)), opened(Reader())
    batch = plain.preprocessing.fit(DATA).batch(TEXTS)
    assert reads_padding(lambda inputs: [plain.scores(inputs)["main"]], batch)
    assert not reads_padding(lambda inputs: [masked.scores(inputs)["main"]], batch)
    assert not reads_padding(fixed, batch)
    inputs = {"input_ids": (LENGTH,), "attention_mask": (LENGTH,)}
    net = regraft.load(Encoder(), inputs=inputs, preprocessing=preprocessing())
    for words, reads in (([LENGTH] * 20, False), ([4, 5, LENGTH, LENGTH] * 5, True)):
        texts = ["good " * count for count in words]
        items = PreparedData(regraft.read((texts, np.arange(20) % 2), kind="text"), net.preprocessing)
        assert _places(net, items, rows=np.arange(20))[1] == reads


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


@pytest.mark.usefixtures("without_onnx_form")
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
