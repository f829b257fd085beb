"""Fit of a data set to a network: preprocessing, windows over long recordings, and output names."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from inspect import signature
from typing import Any

import numpy as np
import torch

from ..data import (
    ArrayPreprocessing,
    AudioPreprocessing,
    ColumnsPreprocessing,
    ConditionsPreprocessing,
    Dataset,
    ImagePreprocessing,
    PartsPreprocessing,
    PreparedData,
    Preprocessing,
    TextPreprocessing,
    default_preprocessing,
    preprocessing_from_dict,
)
from ..data.decoding.depth import transparency_of
from ..data.items import Parts
from ..data.preprocessings.augmenting import CALLABLE
from ..errors import DataError, NetworkError, SettingError, near_names
from ..networks.account import Account
from ..networks.hub.tokens import text_limits
from ..networks.network import Inputs, Network
from ..networks.predictions import of_batch
from ..words import counted
from .measured_input import measured_preprocessing
from .plan import Plan

USUAL_SHARE, USUAL_TIMES = 99, 2
"""The user is told if the longest text has more than `USUAL_TIMES` times the tokens of the `USUAL_SHARE`-th percentile."""
LONGER = 7  # Factor by which waveforms are lengthened to test whether a network takes any length
SMALLEST_SIDE = 8  # Smallest height and width of an 8-bit array that is taken for a picture, in pixels
_TRIED = 64  # Largest size of an example with which a network is tried, as a multiple of the sample's size


def output_names(data: Dataset) -> tuple[str, ...]:
    """Return the names of the outputs of a network for these data: its classes, or "output 0", "output 1", …"""
    return data.classes or tuple(f"output {index}" for index in range(int(np.prod(data.targets.shape[1:], dtype=int))))


def without_name(net: Network, data: Dataset) -> Dataset:
    """Return the data as plain examples if each has one named part and the network's only input has no name here, as in `predict`."""
    own = preprocessing_from_dict(net.preprocessing.to_dict())
    while isinstance(own, ConditionsPreprocessing | ColumnsPreprocessing):
        own = own.inner
    named = set(net.sample) if isinstance(net.sample, dict) else set()
    alone = len(data.part_names) == 1 and named <= {"inputs", "columns", "condition"} and not isinstance(own, PartsPreprocessing)
    return data.part(*data.part_names) if alone else data


def preprocessing_for(net: Network, data: Dataset, *, rows: np.ndarray | None = None) -> Preprocessing:
    """Return the network's preprocessing, suited to the data; infer it if it is unknown, for pictures by measuring.
    Only the examples `rows` (n,), such as the training set, are used to infer the preprocessing; None means all."""
    data = without_name(net, data)
    found = _suited(net, preprocessing_from_dict(net.preprocessing.to_dict()), data=data, shape=net.input_shape)
    if isinstance(found, ImagePreprocessing) and found.inferred:
        return measured_preprocessing(net, data, own=found, rows=rows)
    return found


def prepared_for(net: Network, data: Dataset, *, plan: Plan, rows: np.ndarray | None = None) -> PreparedData:
    """Return a data set with its preprocessing for a network, and with the plan's views; "auto" gives photographs the views "photo".
    Only the examples `rows` (n,), such as the training set, are used to infer the preprocessing; None means all."""
    augment = plan.augment
    if isinstance(augment, str) and augment.startswith(CALLABLE):
        raise SettingError(
            f"The plan was made with augment= {augment!r}, which a plan as plain data cannot hold. Give the function again: "
            "dataclasses.replace(plan, augment=function)."
        )
    own = _without_range(preprocessing_for(net, data, rows=rows))
    items = PreparedData(data, own, view_seed=plan.seed, augment="light" if augment in ("auto", "none") else augment)
    try_out(net, items)
    if augment != "auto" or plan.views < 2 or find_spec("torchvision") is None or not items.preprocessing.of_photographs(data):
        return items
    return PreparedData(data, items.preprocessing, view_seed=plan.seed, augment="photo")


def windowed(net: Network, data: Dataset, *, as_of: Dataset | None = None) -> Dataset:
    """Return the data with every recording that is longer than the network's input replaced by windows over it.
    A part of the examples that is the only one loses its name if the network's input has none. If the network takes any length, the data
    `as_of` decide the length; None means these data."""
    data = without_name(net, data)
    if data.kind != "audio":
        return data
    own = preprocessing_for(net, data)
    return (own if own.fitted else own.fit((as_of or data).recordings())).windows(data)


def notes_on_length(items: PreparedData) -> list[str]:
    """Return notes on windows, short recordings, an assumed sample rate, cut or padded texts, and transparent pictures."""
    own, data = items.preprocessing, items.data
    notes = [] if data.recordings() is data else [f"{data.notes[-1][:1].upper()}{data.notes[-1][1:]}."]
    if isinstance(own, AudioPreprocessing) and data.kind == "audio" and (short := own.short(data)):
        notes.append(
            f"Warning: {counted(short, 'recording', verb='are', of=len(data))} shorter than a quarter of the {own.seconds or 0:.3g} s that "
            "the network takes at once: most of what it reads of them is silence. Record longer or, for a network that takes any length, "
            "give a preprocessing= of fewer seconds."
        )
    if isinstance(own, AudioPreprocessing) and own.inferred:
        notes.append(
            f"The network does not say how it reads sound; taken is {own.describe()}. If it learned from another, give preprocessing=."
        )
    if isinstance(own, ArrayPreprocessing) and own.inferred and data.kind == "array" and _pixels(np.asarray(data[0])):
        notes.append(
            "The pictures are arrays of 8-bit numbers, which are passed to the network unscaled (0 to 255). If it was trained on scaled "
            "pixels, read the data with kind='image': the preprocessing is then measured."
        )
    if isinstance(own, ImagePreprocessing):
        transparent = own.transparent(data)
        seen = transparency_of(data.items, own.background) if own.channels in (1, 3) else ""
        return [f"Warning: {transparent}"] if transparent else [seen] if seen else []
    if not isinstance(own, TextPreprocessing):
        return notes
    cut, most = own.cut(data.items), own.max_length or own.padded or own.maximum
    notes += (
        [(f"Warning: {counted(cut, 'text', verb='are', of=len(data))} longer than {counted(own.limit, 'token')}: {own.reason}.")]
        if cut
        else []
    )
    usual = int(np.percentile(own.counts(data.items), USUAL_SHARE, method="lower"))
    if own.max_length is None and most > USUAL_TIMES * usual:
        notes.append(
            f"All texts are padded to the longest one, {counted(most, 'token')}; {USUAL_SHARE} of 100 have {usual} at most: "
            f"preprocessing={{'max_length': {usual}}} makes a pass about {most / usual:.0f} times as fast and cuts the others."
        )
    return notes


def _pixels(item: np.ndarray) -> bool:
    """Return whether an array is a picture of 8 bits with 1 or 3 channels, and not a table of a few columns."""
    channels = [side for side in (*item.shape[:1], *item.shape[-1:]) if side in (1, 3)]
    return item.dtype == np.uint8 and item.ndim == 3 and bool(channels) and min(sorted(item.shape)[1:]) >= SMALLEST_SIDE


def _without_range(own: Preprocessing) -> Preprocessing:
    """Return a preprocessing without the value ranges that an earlier training found; each training decides on them anew."""
    if isinstance(own, ConditionsPreprocessing | ColumnsPreprocessing):
        return replace(own, inner=_without_range(own.inner))
    if isinstance(own, PartsPreprocessing):
        return replace(own, parts=tuple(map(_without_range, own.parts)))
    if isinstance(own, ImagePreprocessing):
        return own if own.as_is else replace(own, value_range=None, integer_range=None, float_range=None)
    return replace(own, spread=None, value_range=None) if isinstance(own, ArrayPreprocessing) else own


def _ran(net: Network, batch: Inputs) -> Any:
    """Return the logits of a batch from a copy of the network in inference mode, or its features if it has no head."""
    twin = net.copy()
    twin.mode_(False)
    with torch.no_grad():
        return (twin.scores if twin.heads else twin.feature_batch)(batch)


def try_out(net: Network, items: PreparedData) -> None:
    """Run a batch through the network if its input was guessed, or if it takes integers or sound; `of_batch` raises if that fails."""
    own = items.preprocessing
    if isinstance(own, AudioPreprocessing) and isinstance(net.sample, torch.Tensor):
        batch = items.batch(np.zeros(2, np.int64))
        of_batch(partial(_ran, net), net, batch=batch)
        stated = next(iter(_stated_shapes(net).values()), ())  # a whole Keras model may take other lengths, its parts do not
        made = tuple(batch.shape[1:]) if isinstance(batch, torch.Tensor) else ()
        sides = ([side for side in shape if side != 1] for shape in (stated, made))  # Keras adds and removes an axis of 1
        if any(side not in (None, size) for side, size in zip(*sides, strict=False)):
            raise NetworkError(f"The network takes examples of the shape {stated}, and its preprocessing= makes {made}. Change the latter.")
    guessed = isinstance(own, ArrayPreprocessing) and isinstance(net.sample, torch.Tensor) and net.input_guessed
    rows = [row for whole in _whole_numbers(own, items.data.items) for row in _extremes(whole)] or [0, 0] * guessed
    if rows:
        of_batch(partial(_ran, net), net, batch=items.batch(rows))


def _whole_numbers(own: Preprocessing, items: Any) -> list[Any]:
    """Return the examples (N, …) of each input of whole numbers: tokens or categories, each of which needs a row in an embedding."""
    if isinstance(own, PartsPreprocessing) and isinstance(items, Parts):
        return [whole for name, part in own.by_name.items() if name in items.parts for whole in _whole_numbers(part, items.parts[name])]
    return [items] if isinstance(own, ArrayPreprocessing) and own.integers else []


def _extremes(items: Any) -> list[int]:
    """Return the indices of the examples with the smallest and with the largest number."""
    flat = [np.asarray(item) for item in items]
    return [int(np.argmin([item.min() for item in flat])), int(np.argmax([item.max() for item in flat]))]


def _stated_shapes(net: Network) -> dict[str, tuple[int | None, ...]]:
    """Return the shape of an example of each input that a Keras graph states, by name, None for an open side; else {}."""
    inputs = getattr(net.module, "inputs", None)
    return {str(one.name): tuple(one.shape[1:]) for one in inputs if hasattr(one, "shape")} if isinstance(inputs, list) else {}


def inferred_preprocessing(net: Network, known: Mapping[str, Preprocessing] | None = None) -> Preprocessing:
    """Return a preprocessing that suits the network's input shapes; `known` holds the known ones by input name."""
    known = known or {}
    named = net.sample if isinstance(net.sample, dict) and len(net.sample) > 1 else {}
    if not named:
        return _inferred_array(net, net.input_shape or None, integers=net.takes_integers)
    made = {name: known.get(name) or _inferred_array(net, None, integers=not tensor.is_floating_point()) for name, tensor in named.items()}
    return PartsPreprocessing(tuple(made), tuple(made.values()), inferred=not known)


def _inferred_array(net: Network, shape: tuple[int | None, ...] | None, *, integers: bool) -> Preprocessing:
    made = default_preprocessing("array", shape, net.layout)
    return replace(made, integers=integers) if isinstance(made, ArrayPreprocessing) else made


def check_inputs(net: Network, own: Preprocessing) -> None:
    """Run the network with only the inputs that its examples give; `of_batch` raises if it needs further inputs."""
    named = net.sample if isinstance(net.sample, dict) else {}
    if len(named) < 2 or own.kind not in ("array", "image", "audio", "parts"):
        return
    given = _tensors(own)
    if own.kind == "parts" and set(named) <= set(given):
        return
    batch = {name: named[name] for name in given if name in named}
    of_batch(partial(_ran, net), net, batch=batch if own.kind == "parts" else next(iter(named.values())))


def check_items(net: Network, own: Preprocessing) -> None:
    """Run the network with tensors of the shapes that a preprocessing makes; `of_batch` raises if it cannot take them.
    Nothing runs if shapes and names equal those of the sample."""
    named = net.sample if isinstance(net.sample, dict) else {"": net.sample}
    made = _tensors(own)
    if ("" in named) != ("" in made) or set(made) < set(named):  # the examples may give only some of several tensors
        return
    shapes = {name: named[name].shape[1:] if shape is None and name in named else shape for name, shape in made.items()}
    if shapes == {name: tensor.shape[1:] for name, tensor in named.items()} or None in shapes.values():
        return
    dtypes = {name: tensor.dtype for name, tensor in named.items()}
    largest = _TRIED * max(1, *(math.prod(tensor.shape[1:]) for tensor in named.values()))
    if any(math.prod(shape or ()) > largest for shape in shapes.values()):
        return
    batch = {name: torch.zeros(2, *(shape or ()), dtype=dtypes.get(name)) for name, shape in shapes.items()}
    of_batch(partial(_ran, net), net, batch=batch.get("", batch))


def within_tokens(net: Network, own: Preprocessing) -> Preprocessing:
    """Return a text preprocessing limited to the tokens and positions that the network knows; limits are noted in the network's account.
    The network's sample gets what the tokenizer gives."""
    if isinstance(own, TextPreprocessing):
        own = own if own.vocabulary is not None else _limited(net, own)
        _complete_sample_(net, own)
    return own


def _complete_sample_(net: Network, own: TextPreprocessing) -> None:
    """Add what the tokenizer gives, such as token types, to the sample: exported files take the inputs of the sample."""
    named = net.sample if isinstance(net.sample, dict) else {"input_ids": net.sample}
    if "input_ids" not in named or set(own.inputs) <= set(named):
        return
    ids = named["input_ids"]
    sample = {"attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids), **named}
    sample = {name: sample[name] for name in dict.fromkeys((*named, *own.inputs))}
    try:
        _ran(net, sample)
    except Exception:  # it takes fewer tensors than its tokenizer gives, and may fail in any way
        return
    net.body.take_sample_(sample)


def _limited(net: Network, own: TextPreprocessing) -> TextPreprocessing:
    own = _accepted(net, own)
    fixed = next(iter(_stated_shapes(net).get("input_ids", ())), None)
    vocabulary, positions = text_limits(net, own.maximum if fixed is None else None)
    notes = [f"it has {positions} positions: longer texts are cut, though its tokenizer allows {own.maximum}"] if positions else []
    if vocabulary is not None and own.tokens > vocabulary:
        more = f"its tokenizer knows {own.tokens} tokens and its embedding {vocabulary}"
        notes.append(f"{more}: a text that holds one of the others is refused")
    notes += [] if fixed is None else [f"it takes texts of {fixed} tokens: shorter ones are padded, longer ones cut"]
    net.account = net.account.joined(Account(notes=tuple(notes)))
    suited = replace(own, vocabulary=vocabulary, maximum=fixed or positions or own.maximum, max_length=fixed or own.max_length)
    _check_end(net, suited)
    return suited


def _accepted(net: Network, own: TextPreprocessing) -> TextPreprocessing:
    """Return the text preprocessing without the tensors that the network does not take by name, such as token types."""
    names, forward = list(_stated_shapes(net)), getattr(net.module, "forward", None)
    if not names and forward is not None and not isinstance(net.sample, dict):
        taken = signature(forward).parameters.values()
        names = [] if any(one.kind is one.VAR_KEYWORD for one in taken) else [one.name for one in taken]
    if not names or set(own.inputs) <= set(names):
        return own
    if "input_ids" not in names:
        raise NetworkError(
            f"The network takes {', '.join(map(repr, names))}; texts become {', '.join(map(repr, own.inputs))}. "
            "Name its input 'input_ids', or give it token ids as arrays instead of texts."
        )
    return replace(own, inputs=tuple(name for name in own.inputs if name in names))


def _check_end(net: Network, own: TextPreprocessing) -> None:
    """Raise if a Transformers network looks for an end token in each text and its tokenizer does not add one."""
    config = getattr(net.module, "config", None)
    end = getattr(config, "eos_token_id", None)
    if not getattr(config, "is_encoder_decoder", False) or not isinstance(end, int):
        return
    batch = own.batch(["a"])
    ids = batch.get("input_ids") if isinstance(batch, dict) else batch
    if ids is None or bool((ids == end).any()):
        return
    try:
        _ran(net, batch)
    except Exception as error:  # the library's own check, of any class
        raise NetworkError(
            f"{type(net.module).__name__} looks for the token {end} at the end of each text, which its tokenizer does not add. Give the "
            "tokenizer a post-processor that adds it (tokenizers.processors.TemplateProcessing) and save it into the folder again."
        ) from error


def _tensors(own: Preprocessing) -> dict[str, tuple[int, ...] | None]:
    """Return the shape of an example for each tensor that a preprocessing makes; the name "" is an unnamed tensor, None an open shape."""
    if isinstance(own, ConditionsPreprocessing):
        return {name or own.inputs: shape for name, shape in _tensors(own.inner).items()} | {"condition": ()}
    if isinstance(own, ColumnsPreprocessing):
        return {name or "inputs": shape for name, shape in _tensors(own.inner).items()} | {"columns": (len(own.names),)}
    if isinstance(own, TextPreprocessing):
        return dict.fromkeys(own.inputs)
    if isinstance(own, PartsPreprocessing):
        made = {name: _tensors(part) for name, part in own.by_name.items()}
        return {inner if len(one) > 1 else name: shape for name, one in made.items() for inner, shape in one.items()}
    return {"": own.item_shape if isinstance(own, ArrayPreprocessing | ImagePreprocessing) else None}


def _suited(net: Network, own: Preprocessing, *, data: Dataset, shape: tuple[int | None, ...], columns: bool = False) -> Preprocessing:
    """Return the preprocessing with its innermost part suited to the data; `columns` tells whether an outer part reads the columns."""
    if isinstance(own, ConditionsPreprocessing | ColumnsPreprocessing):
        if isinstance(own, ColumnsPreprocessing):
            own.dataset(data)
        named = net.sample if isinstance(net.sample, dict) else {}
        item = named.get("inputs" if isinstance(own, ColumnsPreprocessing) else own.inputs)
        shape = () if item is None else tuple(item.shape[1:])
        columns = columns or isinstance(own, ColumnsPreprocessing)
        return replace(own, inner=_suited(net, own.inner, data=data, shape=shape, columns=columns))
    if data.columns is not None and not columns:
        raise DataError(
            f"The data have the columns {', '.join(map(repr, data.column_names))} beside the examples, which this network does not take. "
            f"Use regraft.join(net, {list(data.column_names)}) first, or read the data without columns=."
        )
    if data.part_names:
        return _of_parts(net, own, data=data)
    if isinstance(own, PartsPreprocessing) and own.inferred:  # the examples fill the first input only
        return _for_items(net, _inferred_array(net, None, integers=False), data=data, shape=())
    if isinstance(own, PartsPreprocessing):
        raise DataError(
            f"The network takes the inputs {', '.join(map(repr, own.names))}; received data of the kind {data.kind!r}. Read them by input: "
            f"regraft.read({{{', '.join(f'{name!r}: …' for name in own.names)}}}, target=…)."
        )
    found = _for_items(net, own, data=data, shape=shape)
    if isinstance(found, ArrayPreprocessing) and data.has_rows and data.notes:
        _check_rows(found, found.dataset(data) if set(found.columns) <= set(data.row_columns) else data)
    return found


def _of_parts(net: Network, own: Preprocessing, *, data: Dataset) -> PartsPreprocessing:
    """Return the preprocessing of examples with several parts: known by name or kind, else inferred from the input's shape."""
    named = net.sample if isinstance(net.sample, dict) else {}
    if len(named) < 2 and set(named) != set(data.part_names):
        one = next(iter(named), "inputs")
        raise DataError(f"The examples have the parts {', '.join(map(repr, data.part_names))}; this network takes one input, {one!r}.")
    known = own.by_name if isinstance(own, PartsPreprocessing) else {}
    made = {}
    for name in sorted(data.part_names, key=lambda part: list(named).index(part) if part in named else -1):
        kind = data.part(name).kind
        part = known.get(name, own)
        if part.inferred or part.item_kind != kind:
            if name not in named:
                inputs = ", ".join(map(repr, named))
                raise DataError(f"The examples have the part {name!r}; the network takes the inputs {inputs}{near_names(name, named)}")
            shape = net.body.open_shapes.get(name, tuple(named[name].shape[1:]))
            integers = not named[name].is_floating_point()
            columns, layout = part.row_columns, _sound_layout(net, shape) if kind == "audio" else net.layout
            part = _inferred_array(net, shape, integers=integers) if kind == "array" else default_preprocessing(kind, shape, layout)
            part = replace(part, columns=columns) if isinstance(part, ArrayPreprocessing) else part
        if isinstance(part, TextPreprocessing) and name in named:
            part = _shortened(replace(part, inputs=("input_ids",)), data)
        made[name] = part
    return PartsPreprocessing(tuple(made), tuple(made.values()))


def _check_rows(own: ArrayPreprocessing, data: Dataset) -> None:
    """Raise if the network cannot take table rows as they were read; the error says how, since the column choice is often not intended."""
    try:
        replace(own, mean=None, std=None).batch(np.asarray(data[0])[None])
    except DataError as error:
        raise DataError(
            f"An example has {counted(len(data[0]), 'number')}; the network takes examples of the shape {own.shape}. The data were read "
            f"so: {'; '.join(data.notes)}. Name the columns that are no part of an example: numbers beside it with columns= (regraft.join "
            "makes a network read them), others with target=, group= or condition=; remove what is left over from the table."
        ) from error


def _for_items(net: Network, own: Preprocessing, *, data: Dataset, shape: tuple[int | None, ...]) -> Preprocessing:
    """Return the preprocessing of examples without parts and columns, for a network whose input has the shape `shape`."""
    if isinstance(own, AudioPreprocessing) and own.as_ == "mel" and own.picture is None:
        return own.for_picture(shape, net.layout)
    if data.kind == "audio" and own == AudioPreprocessing(sample_rate=getattr(own, "sample_rate", 0)):  # no more than its rate is given
        shape = _open_length(net, shape)
        return replace(AudioPreprocessing.for_shape(shape, _sound_layout(net, shape), sample_rate=own.sample_rate), inferred=True)
    if not own.inferred:
        if data.kind not in (own.item_kind, "array"):
            shown = "regraft.load(…, preprocessing={'kind': 'audio', 'as_': 'mel'}) shows it a log-mel spectrogram of each recording"
            remedy = shown if (data.kind, own.item_kind) == ("audio", "image") else f"Read them with kind={own.item_kind!r}"
            raise DataError(f"The network takes examples of the kind {own.item_kind!r}; received data of the kind {data.kind!r}. {remedy}.")
        return _shortened(own, data)
    if data.kind == "audio":
        shape = _open_length(net, shape)
    if data.kind == "array" and isinstance(own, ArrayPreprocessing):
        found = tuple(np.shape(data[0]))
        if not net.input_guessed:
            return own
        if own.integers:
            return replace(own, shape=found)
        channels = shape[0] if len(shape) == 3 and net.layout == "channels_first" else None
        if channels in (1, 3) and (len(found) == 2 or (len(found) == 3 and found[0] != channels and found[2] in (1, 3, 4))):
            return default_preprocessing("image", (channels, *found[:2]), net.layout)
        return default_preprocessing("array", found, net.layout) if len(found) == len(shape) else own
    layout = _sound_layout(net, shape) if data.kind == "audio" else net.layout
    return own if data.kind == own.item_kind else default_preprocessing(data.kind, shape, layout)


def with_sound_shape(net: Network, given: dict[str, Any]) -> dict[str, Any]:
    """Return a preprocessing of sound as plain data; what the user left out (layout, bands, length, step) follows from the network's input.
    If no more than the sample rate is given, or the input is not known yet, only the layout is filled in."""
    several = isinstance(net.sample, dict) and len(net.sample) > 1
    if several or net.input_guessed or "as_" in given or "extractor" in given or set(given) <= {"kind", "sample_rate"}:
        return {"layout": net.layout, **given}
    layout = given.get("layout") or _sound_layout(net, net.input_shape)
    known = {name: given[name] for name in ("features", "sample_rate", "seconds", "hop_length") if given.get(name) is not None}
    try:
        made = AudioPreprocessing.for_shape(net.input_shape, layout, **known)
    except (ArithmeticError, DataError, TypeError):  # values of a wrong type, or an input that is no sound: refused later, by name
        return {"layout": layout, **given}
    return {**made.to_dict(), **given}


def _sound_layout(net: Network, shape: tuple[int | None, ...]) -> str:
    """Return "frames_first" if the first weights read the last of two sides, as those of recurrent layers and of Keras' `Conv1D` do."""
    floating = (tensor.shape for tensor in net.body.state().values() if tensor.is_floating_point() and tensor.ndim)
    read = next(floating, ())
    return "frames_first" if len(shape) == 2 and shape[1] in read and shape[0] not in read else net.layout


def _shortened(own: Preprocessing, data: Dataset) -> Preprocessing:
    """Return a text preprocessing with the `max_length` of the data, if they set one; `DataError` above the network's maximum."""
    if data.max_length is None or not isinstance(own, TextPreprocessing):
        return own
    if data.max_length > own.maximum:
        raise DataError(f"max_length={data.max_length}: the network takes {own.maximum} tokens at most. Give no more, or leave it out.")
    return replace(own, max_length=data.max_length)


def _open_length(net: Network, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Return the shape; if it is that of a guessed waveform, with its length open. `DataError` if longer waveforms fail."""
    if not net.input_guessed or len(shape) not in (1, 2):
        return shape
    length = max(side or 1 for side in shape)
    wide = tuple(LONGER * length if side == length else side for side in shape)
    try:
        _ran(net, torch.zeros(2, *(side or 1 for side in wide)))
    except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"How many samples the network takes is not known: it runs on {shape}, not on {wide}. Say it: regraft.load(…, inputs=(1, N)),"
            " or give preprocessing={'kind': 'audio', 'features': 'waveform', 'sample_rate': …, 'seconds': …}."
        ) from error
    return tuple(None if side == length else side for side in shape)
