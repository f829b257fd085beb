"""Checkpoints: after every epoch, atomic, and only taken up by the run that wrote them."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import SettingError
from ..files.formats import opening, writable
from ..files.pickles import archived_names
from ..files.text import printable
from ..files.writing import write_bytes

__all__ = ["Checkpoint", "clear_"]

_DIGEST = 16
"""Bytes of the checksum at the end of the file."""
_REMEDY = "Start anew with resume=False."


@dataclass(frozen=True)
class Checkpoint:
    """One file that holds where a training stands.

    Attributes:
        path: of the file.
        run: digest of plan, data and starting weights; a checkpoint of another run is refused.
    """

    path: Path
    run: str

    def write(self, content: dict[str, Any]) -> None:
        """Write content so that the file is either the old or the new one, never half of it.

        Raises:
            SettingError: if it cannot be written.
        """
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

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None.

        Raises:
            SettingError: if the file is of another run, or damaged.
        """
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
    """Return what a checkpoint holds.

    Raises:
        SettingError: if it is damaged.
    """
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
    """Remove the checkpoints of finished runs, and the folder if nothing is left in it; those of other runs, or damaged ones, stay.

    Args:
        folder: where checkpoints lie; it need not be there.
    """
    for path in sorted(folder.glob("*.pt")):
        with suppress(SettingError):  # nobody knows whose a damaged one is
            if _content(path)["run"] in runs:
                path.unlink()
                path.with_name(path.name + ".partial").unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        folder.rmdir()
