from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from regraft.data import Prepared, TextPreprocessing, preprocessing_from_dict, read
from regraft.data.preprocessings.text_preprocessing import replaced_tokens
from regraft.errors import DataError

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
    assert fitted.max_length == 16 and made.max_length is None
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
    assert made.fit(long).max_length == 512


def test_views_replace_tokens_but_not_special_ones(made):
    data = read((["word " * 60] * 4, [0, 1, 0, 1]))
    prepared = Prepared(data, made)
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
    with pytest.raises(DataError, match="An item is a int: '3'; expected a text"):
        made.batch(["a", 3])
    with pytest.raises(DataError, match=r"takes texts and the data are image items, such as cat/1.png"):
        made.fit(read(pictures))
