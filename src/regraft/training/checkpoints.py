"""Where a training keeps its state: in memory, or in checkpoints that are atomic and only taken up by the run that wrote them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import SettingError
from ..files.formats import opening, writable
from ..files.pickles import archived_names
from ..files.remote import send_now
from ..files.text import printable
from ..files.writing import write_bytes

__all__ = ["Checkpoint", "InMemory", "Store", "clear_"]

_DIGEST = 16
"""Bytes of the checksum at the end of the file."""
_REMEDY = "Start anew with resume=False."


@dataclass(frozen=True)
class Checkpoint:
    """One file that holds where a training stands.

    Attributes:
        run: digest of plan, data and starting weights; a checkpoint of another run is refused.
    """

    path: Path
    run: str

    def write(self, content: dict[str, Any]) -> None:
        """Write content so that the file is either the old or the new one, never half of it."""
        buffer = io.BytesIO()
        torch.save({**content, "run": self.run}, buffer)
        plain = buffer.getvalue()
        with writable(self.path.parent, error=SettingError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_bytes(self.path, plain + hashlib.blake2b(plain, digest_size=_DIGEST).digest())
            except OSError:
                with suppress(OSError):  # it holds an earlier one
                    self.path.parent.rmdir()
                raise
        send_now(self.path)

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None."""
        if not self.path.is_file():
            return None
        content = _content(self.path)
        if content["run"] != self.run:
            raise SettingError(
                f"{printable(self.path.parent)!r} holds an unfinished run with another plan, data or network. "
                "Give another folder with out=, or resume=False to start anew there."
            )
        return content


def _content(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds."""
    with opening(path, "checkpoint", remedy=_REMEDY):
        stored = path.read_bytes()
        plain, digest = stored[:-_DIGEST], stored[-_DIGEST:]
        if hashlib.blake2b(plain, digest_size=_DIGEST).digest() != digest:
            raise SettingError(f"The checkpoint {printable(path)!r} is damaged. {_REMEDY}")
        with zipfile.ZipFile(io.BytesIO(plain)) as archive:
            archived_names(archive)  # what they are is for PyTorch to judge; here they are measured
        content = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not isinstance(content.get("run"), str):
            raise SettingError(f"The checkpoint {printable(path)!r} was not written by regraft. {_REMEDY}")
        return content


def clear_(folder: Path, runs: Container[str]) -> None:
    """Remove the checkpoints of finished runs, and the folder if nothing is left in it; those of other runs, or damaged ones, stay."""
    for path in sorted(folder.glob("*.pt")):
        with suppress(SettingError):  # nobody knows whose a damaged one is
            if _content(path)["run"] in runs:
                path.unlink()
                path.with_name(path.name + ".partial").unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        folder.rmdir()


class Store(Protocol):
    """Keeps one state: `checkpoints.Checkpoint` in a file, `InMemory` for as long as the process lives."""

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None."""

    def write(self, content: dict[str, Any]) -> None:
        """Keep content in place of what was there."""


class InMemory:
    """A state in memory. One that is larger than its room is not kept: the training starts again where it would have gone on."""

    def __init__(self, room: float = float("inf")) -> None:
        """Make an empty store.

        `room`: bytes.
        """
        self._room = room
        self._content: dict[str, Any] | None = None

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None."""
        return self._content

    def write(self, content: dict[str, Any]) -> None:
        """Keep content in place of what was there."""
        self._content = content if sum(tensor.nbytes for tensor in _tensors(content)) <= self._room else None


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested mappings and lists."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part)
