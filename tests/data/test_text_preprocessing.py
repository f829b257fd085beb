from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data import PreparedData, TextPreprocessing, preprocessing_from_dict, read
from regraft.data.preprocessings.text_preprocessing import replaced_tokens
from regraft.errors import DataError, NetworkError, SettingError
from regraft.freezing.spread import batches_of

TEXTS = ["a short text", "another one, somewhat longer than the first of them", "third"]


@pytest.fixture(scope="module")
def made(tokenizer_folder):
    return TextPreprocessing(str(tokenizer_folder))


def test_same_as_transformers(made, tokenizer_folder):
    transformers = pytest.importorskip("transformers")
    expected = transformers.AutoTokenizer.from_pretrained(tokenizer_folder)(
        TEXTS, padding="max_length", truncation=True, max_length=8, return_tensors="pt"
    )
    fitted = made.fit(read((TEXTS, [0, 1, 0])))
    assert fitted.padded == 16 and made.padded is None
    short = TextPreprocessing(made.tokenizer, 8, inputs=made.inputs, special=made.special)
    batch = short.batch(TEXTS)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    for name, values in batch.items():
        assert values.dtype == torch.int64
        torch.testing.assert_close(values, expected[name])


def test_travels_without_its_folder(made):
    fitted = made.fit(read((TEXTS, [0, 1, 0])))
    again = preprocessing_from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted and again.maximum == 512 and "16 tokens" in again.describe()
    torch.testing.assert_close(again.batch(TEXTS)["input_ids"], fitted.batch(TEXTS)["input_ids"])
    assert again.item("one")["input_ids"].shape == (16,)
    assert [len(part["input_ids"]) for part in made.batches(TEXTS, 2)] == [2, 1]


def test_length_stays_below_the_maximum(made):
    long = read((["word " * 1000, "b"], [0, 1]))
    assert made.fit(long).padded == 512


def test_views_replace_tokens_but_not_special_ones(made):
    data = read((["word " * 60] * 4, [0, 1, 0, 1]))
    prepared = PreparedData(data, made)
    plain, view = prepared.batch([0, 1])["input_ids"], prepared.batch([0, 1], 1)["input_ids"]
    mask = made._fast.token_to_id("[MASK]")
    changed = plain != view
    assert 0 < changed.float().mean() < 0.3 and (view[changed] == mask).all()
    assert (view[:, 0] == plain[:, 0]).all() and not torch.equal(view[0], view[1])
    torch.testing.assert_close(prepared.batch([1], 1)["input_ids"][0], view[1])
    ids = replaced_tokens(np.arange(1000), np.arange(1000) < 500, generator=np.random.default_rng(0), replacement=-1)
    assert (ids[:500] >= 0).all() and 25 < (ids == -1).sum() < 80


def test_errors(made, tmp_path, pictures):
    with pytest.raises(DataError, match="holds no tokenizer that can be opened"):
        TextPreprocessing(str(tmp_path))
    with pytest.raises(DataError, match="An example is a int: '3'; expected a text"):
        made.batch(["a", 3])
    with pytest.raises(DataError, match=r"takes texts and the data are image examples, such as cat/1.png"):
        made.fit(read(pictures))


LONG = "a short text " * 20


def _own(made, **how):
    return preprocessing_from_dict({**made.to_dict(), **how})


@pytest.mark.parametrize("masked", [True, False])
def test_longer_texts_than_those_of_the_training(made, masked):
    inputs = made.inputs if masked else ("input_ids",)
    fitted = _own(made, inputs=inputs).fit(read((TEXTS, [0, 1, 0])))
    whole, other = f"{LONG} first", f"{LONG} second"
    if masked:
        (batch,) = fitted.batches([whole, other], 2)
        assert batch["input_ids"].shape[1] > 16 and not torch.equal(batch["input_ids"][0], batch["input_ids"][1])
        assert fitted.cut([whole, "word " * 1000]) == 1 and fitted.limit == 512
        with pytest.warns(UserWarning, match=r"1 of 2 texts is longer than 512 tokens: .* takes no more"):
            list(fitted.batches([whole, "word " * 1000], 2))
    else:
        with pytest.warns(UserWarning, match=r"2 of 2 texts are longer than 16 tokens: .*takes no attention mask"):
            (batch,) = fitted.batches([whole, other], 2)
        assert batch["input_ids"].shape[1] == 16
    assert fitted.padded == 16  # a call changes nothing for the next one
    assert next(fitted.batches(["one"], 1))["input_ids"].shape == (1, 16)


def test_a_smaller_length_is_an_option_and_what_it_cuts_is_counted(made):
    own = _own(made, max_length=8)
    assert own.fitted and own.fit(read((TEXTS, [0, 1, 0]))) is own and own.limit == 8
    assert own.cut([LONG, "one", LONG]) == 2
    with pytest.warns(UserWarning, match=r"2 of 3 texts are longer than 8 tokens: .* because of max_length=8"):
        (batch,) = own.batches([LONG, "one", LONG], 3)
    assert batch["input_ids"].shape == (3, 8)


def test_counts_go_beyond_what_is_read(made):
    short = _own(made, max_length=8)
    plain = made.counts(["one", LONG, "word " * 1000])
    assert plain.tolist() == short.counts(["one", LONG, "word " * 1000]).tolist() and plain[0] < plain[1] < plain[2] == 513


class _Words(nn.Module):
    def __init__(self, count):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(count, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None].float()
        return self.head((self.words(input_ids) * mask).sum(1) / mask.sum(1))


class _Called(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.words, self.head = nn.Embedding(count, 4), nn.Linear(4, 2)

    def looked_up(self, ids):
        return self.head(self.words(ids).mean(1))


class _Ids(_Called):
    def forward(self, input_ids):
        return self.looked_up(input_ids)


class _Masked(_Called):
    def forward(self, input_ids, attention_mask=None):
        return self.looked_up(input_ids)


class _Named(_Called):
    def forward(self, input_ids, **named):
        return self.looked_up(input_ids)


class _Other(_Called):
    def forward(self, x):
        return self.looked_up(x)


def _keras_of(*names):
    def build(count):
        keras = pytest.importorskip("keras")
        inputs = [keras.Input((None,), dtype="int64", name=name) for name in names]
        pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(count, 4)(inputs[0]))
        return keras.Model(inputs, keras.layers.Dense(2)(pooled))

    return build


BOTH = ("input_ids", "attention_mask")


@pytest.mark.parametrize(
    ("build", "kept"),
    [
        (_Ids, BOTH[:1]),
        pytest.param(_Masked, BOTH, marks=pytest.mark.slow),
        pytest.param(_Named, (*BOTH, "token_type_ids"), marks=pytest.mark.slow),
        (_Other, "The network takes 'x'"),
        (_keras_of("input_ids"), BOTH[:1]),
        pytest.param(_keras_of(*BOTH), BOTH, marks=pytest.mark.slow),
        (_keras_of("words"), "The network takes 'words'"),
    ],
)
def test_only_tensors_that_the_network_takes_are_made_of_texts(made, build, kept):
    how = {"preprocessing": made, **({"inputs": (8,)} if isinstance(build, type) else {})}
    if isinstance(kept, str):
        with pytest.raises(NetworkError, match=f"{kept}; texts become 'input_ids', .*Name its input 'input_ids'"):
            regraft.load(build(made.tokens), **how)
        return
    net = regraft.load(build(made.tokens), **how)
    assert net.preprocessing.inputs == kept and len(net.predict(TEXTS)) == 3


def _net(made, family, **how):
    count = made.tokens
    if family == "torch":
        own = _own(made, inputs=("input_ids", "attention_mask"), **how)
        return regraft.load(_Words(count), inputs={"input_ids": (8,), "attention_mask": (8,)}, preprocessing=own)
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int64", name="input_ids")
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(count, 8)(inputs))
    return regraft.load(keras.Model(inputs, keras.layers.Dense(3)(pooled)), preprocessing=_own(made, inputs=("input_ids",), **how))


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_what_is_cut_is_told_where_it_is_learned_and_predicted(made, family):
    texts, labels = [*TEXTS * 8, LONG], [*[0, 1, 0] * 8, 1]
    result = regraft.adapt(_net(made, family, max_length=8), (texts, labels), strategy="probe", cache="memory")
    told = [reason for reason in result.plan.reasons if "texts are longer than 8 tokens" in reason]
    assert told and "because of max_length=8" in told[0]
    for given in ({"max_length": 8}, {}):
        data = regraft.read((texts, labels), **({} if given else {"max_length": 8}))
        same = regraft.adapt(_net(made, family), data, strategy="probe", cache="memory", **given)
        assert told[0] in same.plan.reasons and same.network.preprocessing.max_length == 8
        np.testing.assert_array_equal(same.network.logits([TEXTS[2]]), result.network.logits([TEXTS[2]]))
    result = regraft.adapt(_net(made, family), (texts, labels), strategy="probe", cache="memory")
    assert any("99 of 100 have" in reason and "max_length" in reason for reason in result.plan.reasons)
    more = [f"{LONG * 2} a", f"{LONG * 2} third another"]
    if family == "torch":
        scores = result.network.logits(more)
        assert not np.allclose(scores[0], scores[1])
        np.testing.assert_allclose(scores[1], result.network.logits(more[1:])[0], atol=1e-5)
    else:
        with pytest.warns(UserWarning, match="takes no attention mask"):
            result.network.logits(more)
    assert regraft.check((texts, labels), _net(made, family), max_length=8).facts["notes"][-1].startswith("Warning: ")


def test_batches_of_texts_have_one_length_on_an_engine_and_on_a_cluster(made, monkeypatch):
    """The longest text decides, also where it is in the last batch and longer than those of the training."""
    pytest.importorskip("onnxruntime")
    net, texts = _net(made, "torch"), [*TEXTS[::2] * 65, LONG]
    plain = regraft.predict(net, texts, engine="eager").probabilities
    found = regraft.predict(net, texts, engine="onnxruntime")
    assert "ran on onnxruntime" in found.notes[0]
    np.testing.assert_allclose(found.probabilities, plain, atol=1e-5)
    net.preprocessing = net.preprocessing.fit(read((TEXTS, [0, 1, 0])))
    monkeypatch.setattr("regraft.freezing.whole.check_engine", lambda *_given: None)
    monkeypatch.setattr("regraft.freezing.whole.spread", lambda shared, chunks, **_how: ([*batches_of(shared, one)] for one in chunks))
    np.testing.assert_array_equal(regraft.predict(net, texts, cluster="auto").probabilities, plain)


def test_a_length_that_cannot_be(made):
    with pytest.raises(DataError, match="max_length=0; expected a whole number of tokens, 1 or more"):
        read((TEXTS, [0, 1, 0]), max_length=0)
    with pytest.raises(DataError, match="max_length=8 is for texts; received data of the kind 'array'"):
        read((np.zeros((2, 2)), [0, 1]), max_length=8)
    with pytest.raises(DataError, match="max_length=9999: the network takes 512 tokens at most"):
        regraft.adapt(_net(made, "torch"), (TEXTS * 4, [0, 1, 0] * 4), strategy="probe", max_length=9999)
    with pytest.raises(SettingError, match="max_length= is decided when a network is adapted"):
        regraft.evaluate(_net(made, "torch"), (TEXTS, [0, 1, 0]), max_length=8)


@pytest.mark.usefixtures("without_onnx_form")
def test_one_setting_of_the_networks_own_preprocessing(tmp_path):
    torch.manual_seed(0)
    net = regraft.load(nn.Sequential(nn.Linear(4, 3)), inputs=(4,), preprocessing={"kind": "array", "shape": [4], "mean": 2.0, "std": 1.0})
    net.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net", architecture=nn.Sequential(nn.Linear(4, 3)), preprocessing={"std": 3.0})
    assert (again.preprocessing.mean, again.preprocessing.std) == (2.0, 3.0)


@pytest.mark.parametrize("nested", [False, True])
def test_texts_get_the_length_that_a_keras_graph_states(made, nested, recwarn):
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Embedding(made.tokens, 8), keras.layers.Conv1D(8, 2, activation="relu"), keras.layers.Flatten()]
    inner = keras.Sequential([keras.Input((6,), dtype="int64"), *layers, keras.layers.Dense(3)])
    ids = keras.Input((6,), dtype="int64", name="input_ids")
    values = inner(ids)
    if not nested:
        values = ids
        for layer in inner.layers:
            values = layer(values)
    net = regraft.load(keras.Model(ids, values), preprocessing=_own(made))
    assert net.preprocessing.batch(["a"])["input_ids"].shape == (1, 6) and net.preprocessing.limit == 6
    assert any("it takes texts of 6 tokens: shorter ones are padded, longer ones cut" in note for note in net.account.notes)
    texts = [f"{word} " * count for word in TEXTS[0].split()[:2] for count in (1, 2, 3, 4, 5, 9, 12, 20)]
    result = regraft.adapt(net, (texts, ["few", "many"] * 8), cache="memory")  # by default: reads the network at every depth
    assert any("8 of 16 texts are longer than 6 tokens" in note and note.endswith("it takes no more.") for note in result.plan.reasons)
    assert len(result.network.predict(texts).labels) == 16
    assert not [one for one in recwarn if "structure of `inputs`" in str(one.message)]
