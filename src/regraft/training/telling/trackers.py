"""Trackers of experiments: TensorBoard, MLflow and the others that accelerate knows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from ...errors import MissingExtraError, SettingError, near_names

__all__ = ["Tracker"]

PROJECT = "regraft"


class Tracker:
    """Tells a tracker of every epoch, one after another over all trainings of a run, and of the final figures."""

    def __init__(self, wanted: Any, folder: Path, *, settings: Mapping[str, Any]) -> None:
        """Begin a run.

        Args:
            wanted: the name of a tracker, a tracker of accelerate that is there already, or None for none.

        Raises:
            SettingError: if there is no such tracker.
            MissingExtraError: if its library is not installed.
        """
        self._tracker = None if wanted is None else _opened(wanted, folder)
        self._step = 0
        if self._tracker is not None:
            self._tracker.start()
            kinds = bool | int | float | str
            self._tracker.store_init_configuration({name: value for name, value in settings.items() if isinstance(value, kinds)})

    def see(self, entry: Mapping[str, Any]) -> None:
        """Tell of an epoch, an `entry` of the history; its figures are called "STAGE/NAME"."""
        if self._tracker is None:
            return
        self._step += 1
        figures = {name: value for name, value in entry.items() if isinstance(value, float) and math.isfinite(value)}
        self._tracker.log({f"{entry['stage']}/{name}": value for name, value in figures.items()}, step=self._step)

    def end(self, scores: Mapping[str, Any]) -> None:
        """Tell of the final `scores`, by part, and end the run."""
        if self._tracker is None:
            return
        flat = {f"{part}/{name}": value for part, figures in scores.items() for name, value in figures.items()}
        self._tracker.log({name: value for name, value in flat.items() if isinstance(value, float)}, step=self._step)
        self._tracker.finish()


def _opened(wanted: Any, folder: Path) -> GeneralTracker:
    if isinstance(wanted, GeneralTracker):
        return wanted
    known = {str(name): kind for name, kind in LOGGER_TYPE_TO_CLASS.items()}
    if wanted not in known:
        raise SettingError(f"log_with={wanted!r} is no tracker that accelerate knows{near_names(str(wanted), known)}")
    if wanted not in map(str, get_available_trackers()):
        raise MissingExtraError(f"log_with={wanted!r} needs its library, which is not installed. Install it with: pip install {wanted}")
    kind = known[wanted]
    return kind(PROJECT, folder) if kind.requires_logging_directory else kind(PROJECT)
