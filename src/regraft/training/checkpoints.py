"""Stores of a training's state: in memory, or in checkpoints, which are atomic and used only by the run that wrote them."""

import hashlib
import io
import zipfile
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SettingError
from ..files.formats import opening, writable
from ..files.pickles import archived_names
from ..files.remote import send_now
from ..files.text import printable
from ..files.writing import write_bytes

_DIGEST = 16  # Bytes of the checksum at the end of a checkpoint
_REMEDY = "Start anew with resume=False."


@dataclass(frozen=True)
class Checkpoint:
    """File with the state of a training."""

    path: Path
    run: str  # digest of plan, data and initial weights; a checkpoint of another run is refused

    def write(self, content: dict[str, Any]) -> None:
        """Write content atomically: the file is always a complete old or new one."""
        buffer = io.BytesIO()
        torch.save({**content, "run": self.run}, buffer)
        plain = buffer.getvalue()
        with writable(self.path.parent, error=SettingError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                write_bytes(self.path, plain + hashlib.blake2b(plain, digest_size=_DIGEST).digest())
            except OSError:
                with suppress(OSError):  # the folder holds an earlier checkpoint
                    self.path.parent.rmdir()
                raise
        send_now(self.path)

    def read(self) -> dict[str, Any] | None:
        """Return the content that was written last, or None. Raises `SettingError` for a checkpoint of another run."""
        if not self.path.is_file():
            return None
        content = _content(self.path)
        if content["run"] != self.run:
            raise SettingError(
                f"{printable(self.path.parent)!r} holds an unfinished run with another plan, data or network, or of another version of "
                "regraft. Give another folder with out=, or resume=False to start anew there."
            )
        return content


def _content(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint file."""
    with opening(path, "checkpoint", remedy=_REMEDY):
        stored = path.read_bytes()
        plain, digest = stored[:-_DIGEST], stored[-_DIGEST:]
        if hashlib.blake2b(plain, digest_size=_DIGEST).digest() != digest:
            raise SettingError(f"The checkpoint {printable(path)!r} is damaged. {_REMEDY}")
        with zipfile.ZipFile(io.BytesIO(plain)) as archive:
            archived_names(archive)  # limits the size of the pickle; PyTorch checks its content
        content = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not isinstance(content.get("run"), str):
            raise SettingError(f"The checkpoint {printable(path)!r} was not written by regraft. {_REMEDY}")
        return content


def clear_(folder: Path, runs: Container[str]) -> None:
    """Delete the checkpoints of the given finished runs, and the folder if it is then empty. Keep other and damaged checkpoints."""
    for path in sorted(folder.glob("*.pt")):
        with suppress(SettingError):  # the run of a damaged checkpoint is unknown
            if _content(path)["run"] in runs:
                path.unlink()
                path.with_name(path.name + ".partial").unlink(missing_ok=True)
    with suppress(OSError):  # missing or not empty
        folder.rmdir()


class MemoryStore:
    """Store in memory. A state larger than `room` is not kept, so that the training restarts instead of continuing."""

    def __init__(self, room: float = float("inf")) -> None:
        """Make an empty store. `room`: maximum size in bytes."""
        self._room = room
        self._content: dict[str, Any] | None = None

    def read(self) -> dict[str, Any] | None:
        """Return the content that was written last, or None."""
        return self._content

    def write(self, content: dict[str, Any]) -> None:
        """Replace the stored content."""
        self._content = content if sum(tensor.nbytes for tensor in _tensors(content)) <= self._room else None


Store = Checkpoint | MemoryStore


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested mappings and lists."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, (dict, list, tuple)):
        for part in content.values() if isinstance(content, dict) else content:
            yield from _tensors(part)
