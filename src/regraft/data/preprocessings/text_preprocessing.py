"""From texts to token ids, with a tokenizer that travels with the network."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, optional_import
from ..dataset import Dataset
from .preprocessing import Preprocessing

__all__ = ["TextPreprocessing", "replaced_tokens"]

DEFAULT_MAXIMUM = 512
"""The longest text in tokens where the tokenizer names no maximum."""
MULTIPLE = 8
COVERED = 99
CHUNK = 1000
REPLACED = 0.1
SPECIAL_NAMES = ("pad_token", "unk_token", "mask_token", "cls_token", "sep_token", "bos_token", "eos_token")


@dataclass(frozen=True)
class TextPreprocessing(Preprocessing):
    """Texts to token ids of one length, int64.

    Attributes:
        tokenizer: the tokenizer's JSON content; a folder with a Hugging Face tokenizer may be given, and is read at once. Code that
            lies in the folder is never run.
        max_length: tokens of every item; None before `fit`.
        maximum: the longest input that the tokenizer's model allows.
        inputs: names of the tensors that the network takes.
        special: pairs of name and token, such as ("pad_token", "[PAD]").
        pad_left: padding stands before the text.
        inferred: never true; a tokenizer cannot be inferred.

    Views replace 10 % of the tokens, special ones excepted, by the mask token, or the unknown token where there is no mask.
    """

    kind: ClassVar[str] = "text"
    tokenizer: str
    max_length: int | None = None
    maximum: int = DEFAULT_MAXIMUM
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    special: tuple[tuple[str, str], ...] = ()
    pad_left: bool = False
    inferred: bool = False

    def __post_init__(self) -> None:
        if not self.tokenizer.lstrip().startswith("{"):
            for name, value in _read_folder(Path(self.tokenizer)).items():
                object.__setattr__(self, name, value)

    @classmethod
    def for_shape(cls, input_shape: tuple[int | None, ...], layout: str = "channels_first") -> Self:
        """Refuse: token ids mean nothing without the tokenizer that the network was trained with.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"The network (input shape {input_shape}) carries no tokenizer, and texts need the one it was trained with; give "
            "preprocessing=TextPreprocessing(folder) with the folder of its tokenizer."
        )

    @property
    def fitted(self) -> bool:
        """Whether the length of the items is fixed."""
        return self.max_length is not None

    def fit(self, data: Dataset) -> TextPreprocessing:
        """Fix the length: the 99th percentile of the token counts, rounded up to a multiple of 8, at most the maximum.

        Args:
            data: texts.

        Returns:
            The fitted preprocessing.

        Raises:
            DataError: if the items are not texts.
        """
        if not isinstance(data[0], str) or data.kind != "text":
            raise DataError(f"The network takes texts and the data are {data.kind} items, such as {data.name_of(0)}; expected texts.")
        counts = np.concatenate(list(self._counts(data.items)))
        wanted = int(np.ceil(np.percentile(counts, COVERED)))
        return dataclasses.replace(self, max_length=min(self.maximum, -(-wanted // MULTIPLE) * MULTIPLE))

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return n texts as token ids.

        Args:
            items: n texts.
            view: 0 for the plain texts, k > 0 for their k-th augmented version.
            seeds: n numbers, one for each item.

        Returns:
            Names in `inputs` -> (n, max_length) int64; before `fit`, as long as the longest text of the batch.

        Raises:
            DataError: if an item is not a text.
        """
        encoded = self._encoded(items)
        ids = np.array([each.ids for each in encoded], dtype=np.int64)
        if view:
            special = np.array([each.special_tokens_mask for each in encoded], dtype=bool)
            generators = [np.random.default_rng([seed, view]) for seed in seeds or [0] * len(items)]
            rows = [
                replaced_tokens(row, kept, generator=generator, replacement=self._replacement)
                for row, kept, generator in zip(ids, special, generators, strict=True)
            ]
            ids = np.stack(rows)
        made = {
            "input_ids": ids,
            "attention_mask": np.array([each.attention_mask for each in encoded], dtype=np.int64),
            "token_type_ids": np.array([each.type_ids for each in encoded], dtype=np.int64),
        }
        return {name: torch.from_numpy(made[name]) for name in self.inputs}

    def describe(self) -> str:
        """Return one line for people."""
        length = f"{self.max_length} tokens" if self.max_length else f"at most {self.maximum} tokens"
        return f"texts: {length}, {self._fast.get_vocab_size()} known tokens, as {', '.join(self.inputs)}"

    @functools.cached_property
    def _fast(self) -> Any:
        tokenizers = optional_import("tokenizers", "text", purpose="texts")
        fast = tokenizers.Tokenizer.from_str(self.tokenizer)
        pad = dict(self.special).get("pad_token", "")
        fast.enable_truncation(self.max_length or self.maximum)
        fast.enable_padding(
            direction="left" if self.pad_left else "right",
            pad_id=fast.token_to_id(pad) or 0,
            pad_token=pad,
            length=self.max_length,
        )
        return fast

    @property
    def _replacement(self) -> int:
        special = dict(self.special)
        token = self._fast.token_to_id(special.get("mask_token", special.get("unk_token", "")))
        return 0 if token is None else int(token)

    def _encoded(self, items: Sequence[Any] | np.ndarray) -> list[Any]:
        texts = list(items)
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise DataError(f"An item is a {type(wrong).__name__}: {str(wrong)[:80]!r}; expected a text, as the network takes it.")
        return list(self._fast.encode_batch([str(text) for text in texts]))

    def _counts(self, items: Sequence[Any] | np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(items), CHUNK):
            encoded = self._encoded(items[start : start + CHUNK])
            yield np.array([sum(each.attention_mask) for each in encoded])


def _read_folder(folder: Path) -> dict[str, Any]:
    """Return the fields that a folder's tokenizer decides."""
    transformers = optional_import("transformers", "text", purpose="opening a tokenizer")
    try:
        opened = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} holds no tokenizer that can be opened: {error}") from error
    if not opened.is_fast:
        raise DataError(f"The tokenizer in {folder} ({type(opened).__name__}) has no fast version; expected a folder with tokenizer.json.")
    limit = opened.model_max_length
    special = tuple((name, str(getattr(opened, name))) for name in SPECIAL_NAMES if getattr(opened, name, None) is not None)
    known = ("input_ids", "attention_mask", "token_type_ids")
    return {
        "tokenizer": opened.backend_tokenizer.to_str(),
        "maximum": int(limit) if limit and limit < 2**20 else DEFAULT_MAXIMUM,
        "inputs": tuple(name for name in known if name in opened.model_input_names),
        "special": special,
        "pad_left": opened.padding_side == "left",
    }


def replaced_tokens(ids: np.ndarray, special: np.ndarray, *, generator: np.random.Generator, replacement: int) -> np.ndarray:
    """Return token ids of which about 10 % are replaced.

    Args:
        ids: (length,) int64.
        special: (length,) bool, true for tokens that stay, such as padding and separators.
        generator: decides which ones.
        replacement: the id that is put in their place.

    Returns:
        (length,) int64.
    """
    chosen = (generator.random(len(ids)) < REPLACED) & ~special
    return np.where(chosen, replacement, ids)
