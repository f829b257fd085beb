"""Tokenizers from untrusted folders: reading, checking, and encoding that can neither hang nor crash the program.

A tokenizer is data that a native library interprets. Its patterns may search forever, its rules may make a text longer at each step,
and its sizes are unchecked. Everything visible in its JSON is checked before use, and encoding runs under a time limit.
"""

import base64
import json
import math
import queue
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, optional_import
from ...files.formats import member, opening, reason_of
from ...files.schema import read_json
from ...files.text import printable

TOKEN_NAMES = ("pad_token", "unk_token", "mask_token", "cls_token", "sep_token", "bos_token", "eos_token")
TOKENIZER_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LONGEST = 2**20  # Maximum number of tokens of an example; tokenizers use larger values for "any length"

PATIENCE = 20.0  # Seconds that encoding may take in addition to the time for its length
PACE = 20_000  # Characters per second below which a tokenizer is too slow; a million is usual
LARGEST_GROWTH = 1000  # Maximum factor by which the rules of a tokenizer may lengthen a text

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_PICKLES = (".pkl", ".pickle", ".bin", ".pt", ".pth")
_FLAGS = frozenset({
    "add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "do_basic_tokenize", "do_lower_case",
    "keep_accents", "legacy", "remove_space", "split_special_tokens", "strip_accents", "tokenize_chinese_chars", "trim_offsets",
    "use_default_system_prompt", "spaces_between_special_tokens",
})  # fmt: skip
_SIDES = frozenset({"padding_side", "truncation_side"})
_TOKEN = frozenset({"content", "lstrip", "rstrip", "single_word", "normalized", "special", "__type"})


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Return the tokenizer of a folder in Hugging Face format as fields of `TextPreprocessing`.
    Transformers sees a copy of the vocabulary files and of the allowed settings only: no code, no class from outside Transformers, no
    path."""
    files, shown = _vocabularies(folder), printable(folder)
    transformers = optional_import("transformers", "text", purpose="opening a tokenizer")
    with tempfile.TemporaryDirectory() as place, opening(folder / files[0], "tokenizer"):
        _copy_allowed(folder, Path(place), files=files, transformers=transformers)
        opened = transformers.AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        if not opened.is_fast:
            kind = type(opened).__name__
            raise DataError(f"The tokenizer in {shown!r} ({kind}) has no fast version; expected a folder with tokenizer.json.")
        limit = opened.model_max_length
        tokens = {name: str(getattr(opened, name)) for name in TOKEN_NAMES if getattr(opened, name, None) is not None}
        if "pad_token" not in tokens and "eos_token" in tokens:  # the usual choice for networks without a padding token
            tokens["pad_token"] = tokens["eos_token"]
        found = {
            "tokenizer": opened.backend_tokenizer.to_str(),
            "inputs": tuple(name for name in TOKENIZER_INPUTS if name in opened.model_input_names),
            "special": tuple(tokens.items()),
            "pad_left": opened.padding_side == "left",
        }
        return found | ({"maximum": int(limit)} if limit and 0 < limit < LONGEST else {})


def _vocabularies(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise DataError(f"There is no folder {printable(folder)!r}; expected one with a tokenizer.json, or a tokenizer's JSON content.")
    files = [name for name in _VOCABULARIES if member(folder, name).exists()]
    if not files:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        held = f"; pickles such as {printable(pickles[0])!r} are not opened" if pickles else ""
        raise DataError(f"{printable(folder)!r} holds no tokenizer that can be opened: it has no tokenizer.json and no vocabulary{held}.")
    return files


def _copy_allowed(folder: Path, place: Path, *, files: Sequence[str], transformers: Any) -> None:
    for name in files:
        with opening(member(folder, name), "tokenizer") as path:
            shutil.copyfile(path, place / name)
    for name, allowed in (("special_tokens_map.json", _allowed_settings), ("added_tokens.json", _allowed_tokens)):
        content = _mapping(folder, name)
        if content is not None:
            (place / name).write_text(json.dumps(allowed(content)), encoding="utf-8")
    config, settings = _mapping(folder, "config.json") or {}, _mapping(folder, "tokenizer_config.json")
    kind = config.get("model_type")
    kept: dict[str, Any] = {"model_type": kind} if isinstance(kind, str) and kind in transformers.CONFIG_MAPPING else {}
    kept |= _allowed_class(config, transformers)
    if isinstance(config.get("transformers_version"), str) and kind:
        kept["transformers_version"] = config["transformers_version"]
    if kept:
        (place / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    if settings is not None:
        allowed_settings = _allowed_settings(settings) | _allowed_class(settings, transformers)
        (place / "tokenizer_config.json").write_text(json.dumps(allowed_settings), encoding="utf-8")


def _mapping(folder: Path, name: str) -> dict[str, Any] | None:
    path = member(folder, name)
    if not path.exists():
        return None
    content = read_json(path, "hub config" if name.endswith("config.json") else "tokenizer")
    if not isinstance(content, dict):
        raise DataError(f"{printable(path)!r} holds a {type(content).__name__}; expected a mapping, as transformers saves it.")
    return content


def _allowed_class(content: Mapping[str, Any], transformers: Any) -> dict[str, str]:
    """Return the class that a file names, if it is one of the library's tokenizers."""
    named = content.get("tokenizer_class")
    if not isinstance(named, str) or not named.isidentifier():
        return {}
    base = named.removesuffix("Fast")
    made_of = next((found for name in (named, base, base + "Fast") if (found := getattr(transformers, name, None)) is not None), None)
    known = isinstance(made_of, type) and issubclass(made_of, transformers.PreTrainedTokenizerBase)
    return {"tokenizer_class": named} if known else {}


def _allowed_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in content.items():
        one = key.endswith("_token") and _is_token(value)
        several = key in ("additional_special_tokens", "extra_special_tokens") and isinstance(value, list) and all(map(_is_token, value))
        if one or several:
            kept[key] = value
        elif key == "added_tokens_decoder" and isinstance(value, dict):
            kept[key] = {row: token for row, token in value.items() if row.isdecimal() and isinstance(token, dict) and _is_token(token)}
        elif key == "model_max_length" and isinstance(value, int | float) and not isinstance(value, bool):
            kept[key] = value
        elif key == "model_input_names" and isinstance(value, list):
            kept[key] = [name for name in value if name in TOKENIZER_INPUTS]
        elif (key in _FLAGS and (value is None or isinstance(value, bool))) or (key in _SIDES and value in ("left", "right")):
            kept[key] = value
    return kept


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and set(value) <= _TOKEN and isinstance(value.get("content"), str))


def _allowed_tokens(content: Mapping[str, Any]) -> dict[str, int]:
    return {token: row for token, row in content.items() if type(row) is int and 0 <= row < 2**31}


def parsed_tokenizer(content: str) -> Any:
    """Parse and check a tokenizer's JSON text, and return the native tokenizer."""
    tokenizers = optional_import("tokenizers", "text", purpose="texts")
    remedy = "Give the network's own tokenizer: preprocessing=TextPreprocessing(folder)."
    try:
        plain = json.loads(content)
        growth = _growth(plain.get("normalizer")) * _growth(plain.get("pre_tokenizer")) * _growth(plain.get("post_processor"))
        if growth > LARGEST_GROWTH:
            received = f"The rules of the tokenizer make a text up to {growth:,.0f} times longer"
            raise DataError(f"{received}; expected at most {LARGEST_GROWTH:,} times. {remedy}")
        return tokenizers.Tokenizer.from_str(content)
    except (DataError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a native panic is not an Exception
        raise DataError(f"The tokenizer cannot be read: {reason_of(error)}. {remedy}") from error


def _growth(rule: Any) -> float:
    """Return the maximum factor by which a rule, or a sequence of rules, may lengthen a text."""
    if not isinstance(rule, dict):
        return 1.0
    parts = [part for key in ("normalizers", "pretokenizers", "processors") for part in rule.get(key) or ()]
    return _own_growth(rule) * math.prod(_growth(part) for part in parts)


def _own_growth(rule: Mapping[str, Any]) -> float:
    content, pattern, prepend = rule.get("content"), rule.get("pattern"), rule.get("prepend")
    if isinstance(content, str) and isinstance(pattern, dict):
        fixed = pattern.get("String")
        return max(1.0, len(content) / len(fixed)) if fixed else 1.0 + len(content)  # a regex may match the empty string anywhere
    if isinstance(prepend, str):
        return 1.0 + len(prepend) / 100
    if isinstance(rule.get("single"), list):
        rows = sum(len(token["ids"]) for token in (rule.get("special_tokens") or {}).values())
        return max(1.0, len(rule["single"]) * max(1, rows) / 64)
    if rule.get("precompiled_charsmap"):
        table = base64.b64decode(rule["precompiled_charsmap"])
        texts = table[4 + int.from_bytes(table[:4], "little") :].split(b"\0")  # the trie's length, the trie, then the texts
        return max(1.0, max(map(len, texts)) / 36)  # one Unicode character may become 18 characters of 2 bytes each
    return 1.0


def encoded(tokenizer: Any, texts: Sequence[str]) -> list[Any]:
    """Encode texts under a time limit."""
    seconds = PATIENCE + sum(map(len, texts)) / PACE
    answers: queue.SimpleQueue[tuple[list[Any], BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((tokenizer.encode_batch(list(texts)), None))
        except BaseException as error:  # a native panic is not an Exception
            answers.put(([], error))

    threading.Thread(target=work, daemon=True).start()
    remedy = "Its pattern backtracks, or it is damaged; give the network's own tokenizer: preprocessing=TextPreprocessing(folder)."
    try:
        found, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise DataError(f"The tokenizer did not encode {len(texts)} texts in {seconds:,.0f} seconds. {remedy}") from None
    if error is not None:
        raise DataError(f"The tokenizer failed on one of {len(texts)} texts: {reason_of(error)}. {remedy}") from error
    return found
