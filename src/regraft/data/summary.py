"""Summary of a data set before training: what was read and how, as plain data and in words."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, InputError, MissingExtraError
from ..files.media import picture_of, recording_of
from ..words import counted
from .decoding.threads import in_threads
from .items import ArrayView, Parts, chunks_of, listed
from .targets import Targets

MOST_HEADS = 10_000  # Maximum number of files whose headers are read for sizes and durations; larger data sets are sampled at even steps
SHOWN_CLASSES, SHOWN_COLUMNS, SHOWN_EQUAL = 12, 20, 20


@dataclass(frozen=True)
class Summary:
    """What a data set contains and how it was read; `print(summary)` shows it in words.
    `facts`: plain data: "examples", "kind", "tasks", "values", "equal", "left_out", "notes", "problems", and, where present, "groups",
    "conditions", "columns", "weights", "table" and "network"."""

    facts: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Summary of {counted(self.facts['examples'], 'example')}; print(summary) shows it>"

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name.ljust(width)}  {words}" for name, words in rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain data, for JSON."""
        return dict(self.facts)

    def rows(self) -> list[tuple[str, str]]:
        """Return the facts as pairs (name, words), in display order."""
        facts = self.facts
        found = [("examples", f"{facts['examples']:,}, of the kind {facts['kind']!r}"), ("values", _words(facts["values"]))]
        found += [row for task in facts["tasks"] for row in _task_rows(task, several=len(facts["tasks"]) > 1)]
        found += [(name, _words(facts[name])) for name in ("groups", "conditions", "columns", "weights", "network") if facts.get(name)]
        found += [("column " + repr(one["column"]), _column_words(one)) for one in facts.get("table", ())[:SHOWN_COLUMNS]]
        hidden = len(facts.get("table", ())) - SHOWN_COLUMNS
        found += [("columns", f"and {hidden} more")] if hidden > 0 else []
        found += [("byte-equal", _equal_words(facts["equal"]))]
        found += [("left out", line.removeprefix("left out ").removeprefix("left out: ")) for line in facts["left_out"]]
        return found + [("note", line) for line in facts["notes"]] + [("problem", line) for line in facts["problems"]]


# ── facts ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def task_facts(name: str, targets: Targets) -> dict[str, Any]:
    """Return facts about the targets of one task, and the problem that prevents training on them, if any.
    Keys: "name", "kind", "classes" (name -> count) or "numbers", "missing", "could_be" and "problem"."""
    known = targets.known
    facts: dict[str, Any] = {"name": name, "kind": targets.task, "missing": int((~known).sum()), "could_be": list(targets.also)}
    if targets.task == "regression":
        facts["numbers"] = _spread(targets.values[known])
    else:
        facts["classes"] = {one: int(count) for one, count in zip(targets.classes, targets.counts(), strict=True)}
    if targets.task == "multi-label":
        facts["labels_each"] = _spread((targets.values[known] > 0.5).sum(axis=1))
    try:
        targets.check_trainable()
    except DataError as problem:
        facts["problem"] = str(problem)
    return facts


def item_facts(items: Sequence[Any] | np.ndarray, kind: str) -> dict[str, Any]:
    """Return shape, type and range of arrays; size, format and mode of pictures; duration and rate of sounds; length of texts."""
    if isinstance(items, Parts):
        return {"inputs": {f"{name} ({items.kinds[name]})": item_facts(part, items.kinds[name]) for name, part in items.parts.items()}}
    if isinstance(items, np.ndarray | ArrayView):
        return _array_facts(items)
    if kind == "text":
        texts = [item for item in items if isinstance(item, str)]
        return {"characters": _spread([len(text) for text in texts]), "words": _spread([text.count(" ") + 1 for text in texts])}
    looked = items[:: max(1, -(-len(items) // MOST_HEADS))]
    if not isinstance(items[0], str | Path) and not hasattr(items[0], "mode"):
        return {"shapes": _counted(str(np.shape(item)) for item in looked)}
    try:
        heads = in_threads(lambda item: _head(item, kind), list(looked))
    except MissingExtraError:
        return {"files": len(items)}
    read = [head for head in heads if head is not None]
    held = read[0] if read else {}
    facts: dict[str, Any] = {name: _spread([head[name] for head in read]) for name in ("width", "height", "seconds") if name in held}
    facts |= {f"{name}s": _counted(head[name] for head in read) for name in ("format", "mode", "rate", "channel") if name in held}
    unread = len(heads) - len(read)
    return facts | ({"unreadable": unread} if unread else {}) | ({} if len(looked) == len(items) else {"looked_at": len(looked)})


def _head(item: Any, kind: str) -> dict[str, Any] | None:
    """Return the facts in the header of a picture or a recording; None if it cannot be read."""
    try:
        if kind != "image":
            with recording_of(item) as file:
                return {"seconds": file.frames / file.samplerate, "rate": f"{file.samplerate} Hz", "channel": str(file.channels)}
        with picture_of(item) as picture:
            frames = " (several frames, of which the first is read)" if getattr(picture, "is_animated", False) else ""
            named = f"{picture.format or 'in memory'}{frames}"
            return {"width": picture.width, "height": picture.height, "format": named, "mode": picture.mode}
    except InputError:
        return None


def _array_facts(items: np.ndarray | ArrayView) -> dict[str, Any]:
    facts: dict[str, Any] = {"shape": list(items.shape[1:]), "dtype": str(items.dtype)}
    if items.dtype.kind not in "biuf" or not len(items) or not int(np.prod(items.shape[1:], dtype=int)):
        return facts
    axes = 0 if len(items.shape) == 2 else None
    chunks = (np.asarray(part) for _, part in chunks_of(items))
    limits = [(chunk.min(axis=axes), chunk.max(axis=axes)) for chunk in chunks]
    low, high = np.min([least for least, _ in limits], axis=0), np.max([most for _, most in limits], axis=0)
    facts |= {"least": float(np.min(low)), "most": float(np.max(high))}
    constant = [] if axes is None else np.flatnonzero(low == high).tolist()
    return facts | ({"constant": constant} if constant and len(items) > 1 else {})


def beside_facts(beside: Mapping[str, np.ndarray | None], column_names: Sequence[str]) -> dict[str, Any]:
    """Return facts about groups, conditions, columns and weights.
    `beside`: "groups" and "conditions" (N,), "columns" (N, k) and "weights" (N,), or None."""
    groups, conditions, columns, weights = (beside[name] for name in ("groups", "conditions", "columns", "weights"))
    facts: dict[str, Any] = {}
    if groups is not None:
        facts["groups"] = {"count": len(np.unique(groups)), "examples": _spread(np.unique(groups, return_counts=True)[1])}
    if conditions is not None:
        facts["conditions"] = _counted(conditions.tolist())
    if columns is not None:
        facts["columns"] = {name: _spread(columns[:, at]) for at, name in enumerate(column_names)}
    return facts if weights is None else facts | {"weights": _spread(weights)}


def equal_facts(first: np.ndarray, targets: Targets, *, name_of: Callable[[int], str]) -> dict[str, Any]:
    """Return facts about examples that are equal byte by byte.
    `first`: (N,) indices from `first_equal`. Keys: "copies" (examples equal to an earlier one), "sets", "other_label" (copies whose label
    differs from the first) and "named" (pairs of first and copy, some of them, those with another label first)."""
    copies = np.flatnonzero(first != np.arange(len(first)))
    values = targets.values.reshape(len(first), -1)
    differs = (values[copies] != values[first[copies]]).any(axis=1)
    shown = copies[np.argsort(~differs, kind="stable")][:SHOWN_EQUAL]
    named = [[name_of(int(first[copy])), name_of(int(copy))] for copy in shown]
    return {"copies": len(copies), "sets": len(np.unique(first[copies])), "other_label": int(differs.sum()), "named": named}


def _spread(values: Any) -> dict[str, float]:
    numbers = np.asarray(values)
    if not numbers.size:
        return {}
    least, most = numbers.min().item(), numbers.max().item()
    return {"all": least} if least == most else {"least": least, "median": float(np.median(numbers)), "most": most}


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(map(str, values)).most_common())


# ── words ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _task_rows(task: Mapping[str, Any], *, several: bool) -> Iterator[tuple[str, str]]:
    name = f"task {task['name']!r}" if several else "labels"
    missing = f"; missing for {task['missing']:,}" if task["missing"] else ""
    could = f"; could also be {' or '.join(task['could_be'])}: say task= where that is meant" if task["could_be"] else ""
    if "numbers" in task:
        yield name, f"{task['kind']}, {_phrase(task['numbers'])}{missing}{could}"
        return
    each = f", {_phrase(task['labels_each'])} for an example" if task.get("labels_each") else ""
    yield name, f"{task['kind']}, {counted(len(task['classes']), 'class')}{each}{missing}{could}"
    yield "classes", _phrase(task["classes"])


def _column_words(one: Mapping[str, Any]) -> str:
    numbers = f", {_phrase(one['values'])}" if one.get("values") else ""
    missing = f", {one['missing']:,} missing" if one.get("missing") else ""
    return f"{one['type']}{numbers}{missing}: {one['use']}"


def _equal_words(equal: Mapping[str, Any]) -> str:
    if not equal["copies"]:
        return "none"
    other = f", {equal['other_label']:,} of them with another label" if equal["other_label"] else ""
    named = listed((f"{first} = {copy}" for first, copy in equal["named"]), 3)
    return f"{counted(equal['copies'], 'copy')} of {counted(equal['sets'], 'example')}{other}: {named}"


def _words(facts: Mapping[str, Any]) -> str:
    return "; ".join(f"{name.replace('_', ' ')} {_phrase(value)}" for name, value in facts.items())


def _phrase(value: Any) -> str:
    if isinstance(value, Mapping):
        if set(value) == {"least", "median", "most"}:
            return f"{_phrase(value['least'])} to {_phrase(value['most'])} (median {_phrase(value['median'])})"
        if set(value) == {"least", "most"}:
            return f"{_phrase(value['least'])} to {_phrase(value['most'])}"
        if set(value) == {"all"}:
            return _phrase(value["all"])
        return listed((f"{name}: {_phrase(part)}" for name, part in value.items()), SHOWN_CLASSES)
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, int):
        return f"{value:,}"
    return (listed(value, SHOWN_CLASSES) or "none") if isinstance(value, list | tuple) else str(value)
