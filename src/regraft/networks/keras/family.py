"""The Keras family: functional, Sequential and subclassed Keras 3 models behind the contract."""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from zipfile import ZipFile

from torch import Tensor

from ...errors import NetworkError
from ..account import Account
from ..edits import Edit
from ..family import EditTable, Family
from ..network import Network
from ..parts.head import HeadChoice
from ..parts.program_export import export_module
from ..samples import Shapes, sample_facts
from ..sources.arrays import ARRAY_ENDINGS, put_arrays_
from ..sources.keras_guard import check_config
from ..sources.keras_weights import put_keras_weights_, target_weights
from . import adjusting, changes
from .body import KerasBody, inspected
from .clone import cloned
from .library import keras
from .read_heads import with_read_head
from .running import called, sample_for
from .saving import WEIGHTS_ALONE, as_given, layer_names, save, write_keras2
from .sizes import put_rows_

__all__ = ["KERAS", "KERAS_ENDINGS", "KerasFamily", "open_keras"]

KERAS_ENDINGS = (".keras", ".h5", ".hdf5")
_FILE, _LEGACY, _PROGRAM = "network.keras", ".h5", ".pt2"


class KerasFamily(Family[KerasBody]):
    """Keras 3 on its torch backend."""

    name: ClassVar[str] = "keras"
    layout: ClassVar[str] = "channels_last"
    own_endings: ClassVar[tuple[str, ...]] = (".keras", _LEGACY, _PROGRAM)
    edits: ClassVar[EditTable] = changes.EDITS

    def unedit(self, body: KerasBody, edit: Edit, *, code: Tensor | None) -> tuple[KerasBody, tuple[str, ...]]:
        return adjusting.settled(body) if code is None else adjusting.folded(body.copy(), code)

    def write(self, body: KerasBody, folder: Path, *, origin: Mapping[str, Any], edits: Sequence[Edit]) -> Mapping[str, Any]:
        """Write `network.keras`, which plain Keras opens on any backend."""
        target = Path(folder) / _FILE
        save(body, body.module, target=target)
        try:
            with ZipFile(target) as archive:
                check_config(json.loads(archive.read("config.json")), target)
        except NetworkError as error:
            own = "MyModel" if type(body.module).__module__.split(".")[0] == "keras" else type(body.module).__name__
            warnings.warn(
                f"The network is saved, but opens only with the code of its layers: {str(error).partition('. ')[0]}. Open its folder with "
                f"regraft.load(folder, architecture={own}), a model or a function that makes it.",
                stacklevel=2,
            )
        facts: dict[str, Any] = {"family": "keras", "file": _FILE, "inputs": list(body.input_shape) or None}
        before = origin.get("sample") or sample_facts(body.sample)  # before any edit
        facts |= {} if "" in before else {"sample": before}
        return {**facts, "edits": [edit.to_dict() for edit in edits], "layers": layer_names(body.module)}

    def export_own(self, body: KerasBody, path: Path, *, weights_format: str | None = None) -> Path:
        """Write a `.keras` file, an `.h5` file in the layout `weights_format`, or a `.pt2` file, an exported PyTorch program without Keras.
        A network keeps its original activation and `trainable` flags. Derived heads become further outputs if the model has a graph."""
        with as_given(body):
            alone = path.name.lower().endswith(WEIGHTS_ALONE)
            whole = body.module if alone else changes.with_groups(body)
            if path.suffix.lower() == _PROGRAM:
                export_module(body, whole, path=path, by_name=partial(called, whole, training=False))
                return path
            if path.suffix.lower() == _LEGACY and (weights_format or ("keras3" if alone else "keras2")) == "keras2":
                write_keras2(whole, body.sample, kinds=[head.kind for head in body.heads.values()] or ["regression"], target=path)
                return path
        save(body, whole, target=path)
        return path

    def put_file_(self, body: KerasBody, path: Path) -> Account:
        account = self._put_(body, path)
        missing, reshaped, unexpected = (account.entries.get(name) for name in ("missing", "reshaped", "unexpected"))
        if not body.end_read or not (missing or reshaped):
            return account
        if body.unread is None:
            if not reshaped and not unexpected:
                return account
            raise NetworkError(
                f"{path.name!r} holds weights of the layers that became the linear layer {body.head.layer!r} when this network was opened. "
                "Give the file together with the model: regraft.load(model, weights=file)."
            )
        account = self._put_(body.unread, path)  # the file is of the network before its last layers became one
        read = with_read_head(copy.copy(body.unread))
        if not read.heads or read.head.weight.shape != body.head.weight.shape:
            raise NetworkError(f"With the weights in {path.name!r}, the end of the graph is not linear in the features.")
        put_rows_(body.by_name[body.head.layer], read.head.in_layer())
        return account

    def _put_(self, body: KerasBody, path: Path) -> Account:
        if path.suffix.lower() in ARRAY_ENDINGS:
            account = put_arrays_(path, target_weights(body), heads=body.head_layers)
        elif path.suffix.lower() in KERAS_ENDINGS:
            account = put_keras_weights_(body, path)
        else:
            raise NetworkError(f"{path.name!r} does not hold Keras weights; expected one of {', '.join((*KERAS_ENDINGS, *ARRAY_ENDINGS))}.")
        for layer in body.modules().values():
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # it computes with values that it makes of its weights
        return account


KERAS = KerasFamily()


def open_keras(
    model: Any,
    *,
    classes: Sequence[str] | None = None,
    inputs: Shapes = None,
    origin: Mapping[str, Any] | None = None,
    take: bool = False,
    head: HeadChoice = None,
    heads: Sequence[Mapping[str, Any]] | None = None,
) -> Network:
    """Open a live Keras 3 model as a network. The given model is not modified unless `take`.
    `inputs`: shape of one example without the batch axis, or of each input by name, needed if the model does not state it."""
    if not isinstance(model, keras.Model):
        raise NetworkError(
            f"Received {type(model).__module__}.{type(model).__name__}; expected a keras.Model (functional, Sequential or a subclass)."
        )
    own = model if take else cloned(model)
    kept = [layer for layer in own._flatten_layers() if getattr(layer, "stateful", False)]
    for layer in kept:
        layer.stateful = False
    sample = sample_for(own, inputs)
    facts = origin or {"source": "model", "class": f"{type(model).__module__}.{type(model).__qualname__}"}
    body = inspected(own, sample, head=head, heads=heads)
    if isinstance(head, str) and heads is None:
        body = changes.with_one_output(body)
    elif head is None and heads is None:
        body = with_read_head(changes.with_joined_heads(body))
    account = body.account
    if kept:
        names = ", ".join(repr(layer.name) for layer in kept)
        note = f"stateful layers: {names}; here each example starts from zero states, as after reset_state(), in batches of any size"
        account = account.joined(Account(notes=(note,)))
    network = Network(KERAS, body, dict(facts), account)
    if classes is not None:
        network.name_classes_(classes)
    return network
