"""Changes of whole files: of their bytes, and of the values and parts that checksums would hide behind an error at the door."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

__all__ = ["ODD", "cells", "exchanged", "json_text", "mutated", "parts", "picture_chunks"]

ODD = [None, True, -1, 0, 2**31, 2**63, 1e308, "", "x" * 1000, "\0", "/", [], [[]], {}, {"class_name": "Dense"}, "Lambda", float("nan")]
"""What a value is exchanged for."""

_CELLS = [
    "", "NaN", "inf", "-1e999", '"', '""', ",", "\n", "\0", "\ufeff", "é", "a,b", "1;2", "9" * 400, "=1+1", "../../etc/passwd",
    "\ud800",
]  # fmt: skip


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return content with one to four changes: bytes exchanged, left out, repeated, moved or cut off."""
    for _ in range(rng.randint(1, 4)):
        if not content:
            return content
        start = rng.randrange(len(content))
        length = rng.choice((1, 1, 4, 8, 64))
        piece = content[start : start + length]
        way = rng.choice(("flip", "random", "ones", "zeros", "remove", "repeat", "move", "cut"))
        if way == "flip":
            changed = bytes([piece[0] ^ (1 << rng.randrange(8))]) + piece[1:]
        elif way in ("random", "ones", "zeros"):
            changed = {"random": rng.randbytes(len(piece)), "ones": b"\xff" * len(piece), "zeros": bytes(len(piece))}[way]
        elif way == "move":
            other = rng.randrange(len(content))
            changed = content[other : other + len(piece)]
        else:
            changed = {"remove": b"", "repeat": piece * 2, "cut": b""}[way]
        content = content[:start] + changed + (b"" if way == "cut" else content[start + len(piece) :])
    return content


def places(config: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of every value."""
    keys: list[Any] = list(config) if isinstance(config, dict) else list(range(len(config))) if isinstance(config, list) else []
    return [(config, key) for key in keys] + [place for key in keys for place in places(config[key])]


def exchanged(rng: random.Random) -> Callable[[Any], None]:
    """Return a function that deletes one value of JSON content, or puts something else in its place."""

    def change(config: Any) -> None:
        container, key = rng.choice(places(config))
        if rng.random() < 0.2:
            del container[key]
        else:
            container[key] = rng.choice([*ODD, container, json.loads(json.dumps(config))])

    return change


def json_text(content: bytes, rng: random.Random) -> bytes:
    """Return JSON with one to three values exchanged; one time in four, with changed bytes."""
    if rng.random() < 0.25:
        return mutated(content, rng)
    plain = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        twin = json.loads(json.dumps(plain))
        if places(twin):
            exchanged(rng)(twin)
        try:
            plain = json.loads(json.dumps(twin))
        except ValueError:  # a value that contains itself has no JSON
            continue
    return json.dumps(plain).encode()


def parts(content: bytes, rng: random.Random) -> bytes:
    """Return an archive with one part changed and the checksums right; one time in three, with changed bytes."""
    if rng.random() < 1 / 3:
        return mutated(content, rng)
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            part = old.read(name)
            if name == chosen:
                part = json_text(part, rng) if name.endswith(".json") else mutated(part, rng)
            new.writestr(name, part)
    return made.getvalue()


def picture_chunks(content: bytes, rng: random.Random) -> bytes:
    """Return a PNG file with one chunk changed, left out or repeated, and its checksum right; one time in three, with changed bytes."""
    if rng.random() < 1 / 3:
        return mutated(content, rng)
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += 12 + length
    number = rng.randrange(len(chunks))
    kind, data = chunks[number]
    chunks[number : number + 1] = rng.choice(([], [(kind, data)] * 2, *[[(kind, mutated(data, rng))]] * 6))
    framed = [struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks]
    return content[:8] + b"".join(framed)


def cells(content: bytes, rng: random.Random) -> bytes:
    """Return a CSV file with cells, lines or columns changed; one time in three, with changed bytes."""
    if rng.random() < 1 / 3:
        return mutated(content, rng)
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(rng.randint(1, 4)):
        row = rng.choice(rows)
        way = rng.randrange(6)
        if way < 3 and row:
            row[rng.randrange(len(row))] = rng.choice(_CELLS)
        elif way == 3:
            row.insert(rng.randint(0, len(row)), rng.choice(_CELLS))
        elif way == 4 and row:
            row.pop()
        else:
            rows.insert(rng.randint(0, len(rows)), list(rng.choice(rows)))
    return rng.choice(("\n", "\n", "\r\n", "\r")).join(map(",".join, rows)).encode("utf-8", "surrogatepass")
