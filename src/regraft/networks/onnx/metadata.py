"""Schema of the metadata that regraft writes into ONNX files, checked before anything is built from them."""

import json
from collections.abc import Mapping
from typing import Any

from ...errors import NetworkError
from ...files.formats import reason_of
from ...files.schema import Plain, checked
from ..parts.facts import Activation, Kind, Share


class TaskFacts(Plain):
    """Facts of one task."""

    kind: Kind
    classes: list[str] | None = None
    thresholds: list[Share] | None = None
    activation: Activation = "linear"
    binary: bool = False


class OwnFacts(Plain):
    """Facts of the whole network. The preprocessing is checked where it is used."""

    tasks: dict[str, TaskFacts]
    preprocessing: dict[str, Any]
    conditions: list[str] | None = None
    preprocessing_inside: bool = False


def own_facts(texts: Mapping[str, str], *, what: str) -> OwnFacts | None:
    """Return the checked metadata of a file; None if regraft did not write it."""
    if not {"tasks", "preprocessing"} <= texts.keys():
        return None
    try:
        plain = {name: json.loads(texts[name]) for name in OwnFacts.model_fields if name in texts}
    except (ValueError, RecursionError) as error:
        raise NetworkError(f"The metadata of {what} cannot be read: {reason_of(error)}. Export the network again.") from error
    return checked(plain, OwnFacts, what=f"The metadata of {what}", error=NetworkError)
