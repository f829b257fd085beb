"""Where a training keeps its state between two parts of it."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["InMemory", "Store"]


class Store(Protocol):
    """Keeps one state: `checkpoints.Checkpoint` in a file, `InMemory` for as long as the process lives."""

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None."""

    def write(self, content: dict[str, Any]) -> None:
        """Keep content in place of what was there."""


class InMemory:
    """A state in memory."""

    def __init__(self) -> None:
        self._content: dict[str, Any] | None = None

    def read(self) -> dict[str, Any] | None:
        """Return what was written last, or None."""
        return self._content

    def write(self, content: dict[str, Any]) -> None:
        """Keep content in place of what was there."""
        self._content = content
