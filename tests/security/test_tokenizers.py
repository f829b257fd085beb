"""Tokenizers made by somebody else: no code runs, no other file is read, and neither panics nor endless searches get through."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.security.hostile import TEXTS, WORDS, Harm, changed, refused

import regraft
from regraft.data.decoding import tokenizer_files
from regraft.data.preprocessings.text_preprocessing import TextPreprocessing
from regraft.errors import DataError, RegraftError

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    "settings",
    [
        {"auto_map": {"AutoTokenizer": ["harm.Tokenizer", "harm.Tokenizer"]}},
        {"auto_map": ["somebody/else--harm.Tokenizer", None]},
        {"tokenizer_class": "AutoModel"},
        {"tokenizer_class": "harm.Tokenizer"},
        {"tokenizer_class": ["BertTokenizer"]},
        {"tokenizer_class": "pipeline"},
        {"init_inputs": ["{secret}"]},
        {"vocab_file": "{secret}", "tokenizer_file": "{secret}", "merges_file": "{secret}", "name_or_path": "somebody/else"},
        {"model_max_length": 1e30, "model_input_names": ["input_ids", "attention_mask", "__class__"]},
        {"padding_side": "up", "do_lower_case": "yes", "chat_template": "{{ harm }}", "extra_special_tokens": {"a": {"b": 1}}},
        {"added_tokens_decoder": {"-1": "x", "a": {"content": "x", "harm": 1}}},
    ],
)
@pytest.mark.parametrize("beside", [True, False], ids=["hf:", "TextPreprocessing"])
def test_settings_of_a_tokenizer(
    settings: dict[str, Any], *, beside: bool, copy: Any, asked: list[Any], marker: Path, secret: Path
) -> None:
    folder = copy("bert")
    (folder / "harm.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nclass Tokenizer: ...\n")
    expected = TextPreprocessing(str(folder)).batch(TEXTS)["input_ids"]
    text = json.dumps(json.loads((folder / "tokenizer_config.json").read_text()) | settings).replace("{secret}", str(secret))
    (folder / "tokenizer_config.json").write_text(text)
    found = regraft.load(f"hf:{folder}").preprocessing if beside else TextPreprocessing(str(folder))
    assert torch.equal(found.batch(TEXTS)["input_ids"], expected)
    assert set(found.inputs) <= {"input_ids", "attention_mask", "token_type_ids"}
    assert not asked
    assert "harm" not in sys.modules


@pytest.mark.parametrize("held", ["vocab.pkl", "vocab.bin", "tokenizer.py", "nothing", "emoji.json"])
def test_a_folder_without_a_fast_tokenizer(held: str, copy: Any, asked: list[Any], marker: Path, secret: Path) -> None:
    folder = copy("bert")
    for path in folder.glob("*token*"):
        path.unlink()
    (folder / "config.json").unlink()
    (folder / held).write_bytes(pickle.dumps(Harm(marker)))
    refused(lambda: TextPreprocessing(str(folder)), kind=DataError, match="holds no tokenizer")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    refused(lambda: TextPreprocessing(str(folder)), kind=DataError)
    assert not asked


def _tokenizer(**changes: Any) -> str:
    plain = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return json.dumps({"version": "1.0", "added_tokens": [], **empty, "model": plain} | changes)


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _replaced(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def _twice(count: int) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [_replaced({"String": "a"}, "aa")] * count}


def _nested(depth: int) -> str:
    return _tokenizer().replace('"normalizer": null', '"normalizer": ' + '{"type": "Sequence", "normalizers": [' * depth + "]}" * depth)


TOKENIZERS: dict[str, tuple[str, str]] = {
    "a pattern that backtracks": (_tokenizer(pre_tokenizer=_split("(a+)+$")), "failed on one of 1 texts"),
    "a choice that backtracks": (_tokenizer(pre_tokenizer=_split("(a|aa)+$")), "failed on one of 1 texts"),
    "a rule that backtracks": (_tokenizer(normalizer=_replaced({"Regex": "(a|aa)+$"}, "")), "failed on one of 1 texts"),
    "pieces of no length": (_tokenizer(pre_tokenizer={"type": "FixedLength", "length": 0}), "failed on one of 1 texts"),
    "a text that grows": (_tokenizer(normalizer=_twice(60)), "times longer"),
    "a long beginning": (_tokenizer(normalizer={"type": "Prepend", "prepend": "x" * 10**6}), "times longer"),
    "long insertions": (_tokenizer(normalizer=_replaced({"Regex": "(?=a)"}, "x" * 10**4)), "times longer"),
    "no pattern": (_tokenizer(pre_tokenizer=_split("(((")), "cannot be read"),
    "recursion": (_tokenizer(pre_tokenizer=_split(r"(?<x>\g<x>|a)")), "cannot be read"),
    "unknown parts": (_tokenizer(model={"type": "Harm"}), "cannot be read"),
    "rows that are none": (_tokenizer(model={"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}), "cannot be read"),
    "no tokenizer": ("{}", "cannot be read"),
    "a broken text": ("{", "cannot be read"),
    "nested": (_nested(50_000), "nested too deeply|cannot be read"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(case: str, copy: Any) -> None:
    content, message = TOKENIZERS[case]
    text = "a" * 300 + "b"
    refused(lambda: TextPreprocessing(content, max_length=8).batch([text]), kind=DataError, match=message)
    folder = copy("bert-saved")
    changed(folder / "regraft.json", lambda facts: facts["preprocessing"].update(tokenizer=content))
    refused(lambda: regraft.load(folder).predict([text]), kind=DataError, match=message)


def test_a_tokenizer_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_files, "PATIENCE", 0.1)
    monkeypatch.setattr(tokenizer_files, "PACE", 10**9)
    slow = TextPreprocessing(_tokenizer(pre_tokenizer=_split(r"(?:a|b)*\d")))  # from each letter to the end
    refused(lambda: slow.batch(["ab" * 10_000]), kind=DataError, match="did not encode 1 texts in 0 seconds")
    assert slow.batch(["ab1"])["input_ids"].shape == (1, 1)


@pytest.mark.parametrize(
    "fields",
    [{"max_length": 10**12}, {"max_length": 0}, {"max_length": True}, {"maximum": "8"}, {"maximum": None}, {"inputs": ["harm"]},
     {"inputs": []}, {"special": [["pad_token"]]}, {"special": [["pad_token", 5]]}],
)  # fmt: skip
def test_the_fields_of_a_text_preprocessing_are_checked(fields: dict[str, Any], copy: Any) -> None:
    folder = copy("bert-saved")
    changed(folder / "regraft.json", lambda facts: facts["preprocessing"].update(fields))
    refused(lambda: regraft.load(folder), kind=RegraftError)
