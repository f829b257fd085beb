"""Checkpoints: after every epoch, atomic, and only taken up by the run that wrote them."""

from __future__ import annotations

import os
from collections.abc import Container
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import SettingError

__all__ = ["Checkpoint", "clear_"]


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
        """Write content so that the file is either the old or the new one, never half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("wb") as file:
            torch.save({**content, "run": self.run}, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.path)

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None.

        Raises:
            SettingError: if the file is of another run, or damaged.
        """
        if not self.path.is_file():
            return None
        try:
            content = cast(dict[str, Any], torch.load(self.path, map_location="cpu", weights_only=True))
        except Exception as error:  # a damaged pickle fails in any way
            raise SettingError(f"The checkpoint {str(self.path)!r} is damaged. Start anew with resume=False.") from error
        if content["run"] != self.run:
            raise SettingError(
                f"{str(self.path.parent)!r} holds an unfinished run with another plan, data or network. "
                "Give another folder with out=, or resume=False to start anew there."
            )
        return content


def clear_(folder: Path, runs: Container[str]) -> None:
    """Remove the checkpoints of finished runs, and the folder if nothing is left in it; those of other runs, or damaged ones, stay.

    Args:
        folder: where checkpoints lie; it need not be there.
        runs: digests of the finished runs.
    """
    for path in sorted(folder.glob("*.pt")):
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            own = content["run"] in runs
        except Exception:  # a damaged pickle fails in any way, and nobody knows whose it is
            continue
        if own:
            path.unlink()
            path.with_name(path.name + ".partial").unlink(missing_ok=True)
    with suppress(OSError):  # not there, or not empty
        folder.rmdir()
