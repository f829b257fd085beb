"""Preprocessing of texts to token ids, with a tokenizer that is saved with the network."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, Self

import numpy as np
from pydantic import SkipValidation

from ...errors import DataError
from ...files.text import printable
from ...tensors import Tensor, torch
from ...words import counted
from ..dataset import Dataset
from ..decoding.tokenizer_files import LONGEST, TOKENIZER_INPUTS, encoded, parsed_tokenizer, read_tokenizer
from ..items import take
from .preprocessing import Preprocessing
from .schemas import Side

__all__ = ["TextPreprocessing", "replaced_tokens"]

DEFAULT_MAXIMUM = 512  # Maximum number of tokens if the tokenizer names none
MULTIPLE = 8
CHUNK = 1000
AROUND = 8  # Upper bound of the special tokens around a text
REPLACED = 0.1


@dataclass(frozen=True)
class TextPreprocessing(Preprocessing):
    """Map texts to token ids of one length, int64.
    `tokenizer`: JSON content of the tokenizer, or a folder with a Hugging Face tokenizer, which is read immediately. Code in the folder is
    never run. `max_length`: number of tokens of every example; shorter texts are padded, longer ones truncated. None: `padded` tokens, or
    up to `maximum` for longer texts if the network takes an attention mask, which marks padding. `inferred`: always false, because a
    tokenizer cannot be inferred. Views replace 10 % of the tokens, except special ones, by the mask token, or by the unknown token if there
    is no mask token."""

    kind: ClassVar[str] = "text"
    tokenizer: Annotated[str | Path, SkipValidation]
    max_length: Side | None = None
    maximum: Side = DEFAULT_MAXIMUM  # longest input that the tokenizer and the network allow
    vocabulary: Side | None = None  # number of token ids that the network knows, 0 to vocabulary - 1; None: not checked
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")  # names of the tensors that the network takes
    special: tuple[tuple[str, str], ...] = ()  # pairs of name and token, such as ("pad_token", "[PAD]")
    pad_left: bool = False
    padded: Side | None = None  # number of tokens of every example if `max_length` is not given; None before `fit`
    inferred: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.tokenizer, Path) or not self.tokenizer.lstrip().startswith("{"):
            for name, value in read_tokenizer(Path(self.tokenizer)).items():
                object.__setattr__(self, name, value)
        received = "A text preprocessing has"
        for name, length in (("max_length", self.max_length), ("maximum", self.maximum), ("padded", self.padded)):
            if not (length is None and name != "maximum") and (type(length) is not int or not 1 <= length <= LONGEST):
                raise DataError(f"{received} {name}={length!r}; expected a whole number of tokens from 1 to {LONGEST:,}.")
        if not self.inputs or not all(name in TOKENIZER_INPUTS for name in self.inputs):
            raise DataError(f"{received} inputs={self.inputs!r}; expected names out of {', '.join(TOKENIZER_INPUTS)}.")
        pairs = (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in self.special)
        if not all(pairs):
            raise DataError(f"{received} special={self.special!r}; expected pairs of a name and a token, such as ('pad_token', '[PAD]').")

    @classmethod
    def from_plain(cls, fields: dict[str, Any]) -> Self:
        """Make it from plain data with the tokenizer's content. A name or path from a file is not followed."""
        tokenizer = fields.get("tokenizer")
        if not isinstance(tokenizer, Path) and not (isinstance(tokenizer, str) and tokenizer.lstrip().startswith("{")):
            raise DataError(
                f"The text preprocessing has tokenizer={printable(repr(tokenizer), width=80)}; expected the JSON content of a tokenizer. "
                "To use the tokenizer of a folder, give preprocessing=TextPreprocessing(folder)."
            )
        return cls(**fields)

    @classmethod
    def for_shape(cls, input_shape: tuple[int | None, ...], layout: str = "channels_first") -> Self:
        raise DataError(
            f"The network (input shape {input_shape}) carries no tokenizer, and texts need the one it was trained with; give "
            "preprocessing=TextPreprocessing(folder) with the folder of its tokenizer."
        )

    @property
    def fitted(self) -> bool:
        return self.max_length is not None or self.padded is not None

    def fit(self, data: Dataset) -> TextPreprocessing:
        """Fix the length: the longest text in tokens, rounded up to a multiple of 8, at most `maximum`."""
        if not isinstance(data[0], str) or data.kind != "text":
            raise DataError(f"The network takes texts and the data are {data.kind} examples, such as {data.name_of(0)}; expected texts.")
        if self.max_length is not None:
            return self
        return dataclasses.replace(self, padded=self._rounded(int(self.counts(data.items).max(initial=1))))

    def widened(self, data: Dataset) -> TextPreprocessing:
        """Return this preprocessing with room for the longest of these texts.
        It is unchanged if the network takes no attention mask, and so a single length only."""
        if self.max_length is not None or self.padded is None or "attention_mask" not in self.inputs:
            return self
        longest = int(self.counts(_over(data.items, self.padded)).max(initial=0))
        return self if longest <= self.padded else dataclasses.replace(self, padded=self._rounded(longest))

    def check_values(self, data: Dataset) -> None:
        """Warn about texts that are truncated."""
        cut = self.cut(data.items)
        if cut:
            warnings.warn(
                f"{counted(cut, 'text', verb='are', of=len(data))} longer than {counted(self.limit, 'token')}: {self.reason}.", stacklevel=2
            )

    @property
    def limit(self) -> int:
        """Maximum number of tokens read of a text; the rest is truncated."""
        if self.max_length is not None:
            return self.max_length
        return self.maximum if self.padded is None or "attention_mask" in self.inputs else self.padded

    @property
    def reason(self) -> str:
        """Reason why no more tokens are read, as the end of a sentence."""
        if self.max_length is not None and self.max_length < self.maximum:
            return f"what comes after is not read, because of max_length={self.max_length}"
        more = "it takes no attention mask, and so the length of the training alone" if self.limit < self.maximum else "it takes no more"
        return f"what comes after does not reach the network; {more}"

    def cut(self, items: Sequence[Any] | np.ndarray) -> int:
        """Return how many texts are longer than `limit`."""
        return int((self.counts(_over(items, self.limit)) > self.limit).sum())

    def counts(self, items: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return the number of tokens of each text, (N,) int64, counted up to one more than the larger of `maximum` and `limit`."""
        counter = parsed_tokenizer(str(self.tokenizer))
        counter.enable_truncation(max(self.maximum, self.limit) + 1)
        counter.no_padding()
        parts = [[len(one.ids) for one in self._encoded(items[start : start + CHUNK], counter)] for start in range(0, len(items), CHUNK)]
        return np.array([count for part in parts for count in part], dtype=np.int64)

    def _rounded(self, longest: int) -> int:
        return min(self.maximum, -(-longest // MULTIPLE) * MULTIPLE)

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return n texts as token ids: names in `inputs` -> (n, max_length or padded) int64.
        Before `fit` the length is that of the longest text in the batch."""
        return {name: torch.from_numpy(values) for name, values in self._arrays(items, view, seeds=seeds).items()}

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> dict[str, np.ndarray]:
        return self._arrays(take(data.items, indices))

    def _arrays(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> dict[str, np.ndarray]:
        encoded = self._encoded(items)
        ids = np.array([each.ids for each in encoded], dtype=np.int64)
        if self.vocabulary is not None and ids.max(initial=0) >= self.vocabulary:
            self._refuse(ids, encoded)
        if view:
            special = np.array([each.special_tokens_mask for each in encoded], dtype=bool)
            tokens = dict(self.special)
            replacement = self._fast.token_to_id(tokens.get("mask_token", tokens.get("unk_token", ""))) or 0
            rows = [
                replaced_tokens(row, kept, generator=np.random.default_rng([seed, view]), replacement=replacement)
                for row, kept, seed in zip(ids, special, seeds or [0] * len(items), strict=True)
            ]
            ids = np.stack(rows)
        made = {
            "input_ids": ids,
            "attention_mask": np.array([each.attention_mask for each in encoded], dtype=np.int64),
            "token_type_ids": np.array([each.type_ids for each in encoded], dtype=np.int64),
        }
        return {name: made[name] for name in self.inputs}

    def _refuse(self, ids: np.ndarray, encoded: Sequence[Any]) -> NoReturn:
        """Raise an error that names the first token unknown to the network."""
        row, place = (int(where[0]) for where in np.nonzero(ids >= (self.vocabulary or 0)))
        raise DataError(
            f"The tokenizer makes {printable(encoded[row].tokens[place], width=60)!r} the token {ids[row, place]}, and the network knows "
            f"the tokens 0 to {(self.vocabulary or 0) - 1}: the tokenizer is another one, or was extended. Give its own one, "
            "or extend its embedding in Transformers before: model.resize_token_embeddings(len(tokenizer))."
        )

    def describe(self) -> str:
        if self.max_length is not None or self.padded is None:
            length = counted(self.max_length, "token") if self.max_length else f"at most {counted(self.maximum, 'token')}"
        else:
            length = f"{self.padded} tokens" + (f", longer texts up to {self.limit}" if self.limit > self.padded else "")
        return f"texts: {length}, {self._fast.get_vocab_size()} known tokens, as {', '.join(self.inputs)}"

    @property
    def tokens(self) -> int:
        """Number of tokens that the tokenizer knows."""
        return int(self._fast.get_vocab_size())

    @functools.cached_property
    def _fast(self) -> Any:
        fast = parsed_tokenizer(str(self.tokenizer))
        pad = dict(self.special).get("pad_token", "")
        fast.enable_truncation(self.max_length or self.padded or self.maximum)
        fast.enable_padding(
            direction="left" if self.pad_left else "right",
            pad_id=fast.token_to_id(pad) or 0,
            pad_token=pad,
            length=self.max_length or self.padded,
        )
        return fast

    def _encoded(self, items: Sequence[Any] | np.ndarray, tokenizer: Any = None) -> list[Any]:
        texts = list(items)
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise DataError(f"An example is a {type(wrong).__name__}: {str(wrong)[:80]!r}; expected a text, as the network takes it.")
        return encoded(self._fast if tokenizer is None else tokenizer, [str(text) for text in texts])


def _over(items: Sequence[Any] | np.ndarray, tokens: int) -> list[Any]:
    """Return the texts that may have more tokens than `tokens`: a token covers at least one byte, except special tokens around the text."""
    return [item for item in items if not isinstance(item, str) or len(item.encode(errors="surrogatepass")) + AROUND > tokens]


def replaced_tokens(ids: np.ndarray, special: np.ndarray, *, generator: np.random.Generator, replacement: int) -> np.ndarray:
    """Return token ids with about 10 % of them replaced.
    `ids`: (length,) int64; `special`: (length,) bool, true for tokens that are kept, such as padding and separators."""
    chosen = (generator.random(len(ids)) < REPLACED) & ~special
    return np.where(chosen, replacement, ids)
