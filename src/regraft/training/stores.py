"""Where a training keeps its state between two parts of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

__all__ = ["InMemory", "Store"]


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

        Args:
            room: bytes.
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
