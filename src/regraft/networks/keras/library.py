"""The only import of Keras; every other file of this package imports `keras` from here."""

import os
import sys
from typing import Any

from ...errors import NetworkError, optional_import


def _opened() -> Any:
    """Import Keras on its torch backend."""
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    library: Any = optional_import("keras", "keras", purpose="A Keras network")
    backend = library.config.backend()
    if backend != "torch":
        raise NetworkError(
            f"Keras runs on the backend {backend!r}; this needs 'torch'. Save the model with model.save('network.keras') and give the path "
            "to regraft in a process of its own, or set the environment variable KERAS_BACKEND=torch before Keras is imported."
        )
    return library


keras: Any = _opened()
