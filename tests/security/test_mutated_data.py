"""Files with random bytes changed, cut or repeated: each is read rightly or refused by one error of regraft, in good time."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save

from regraft.data import read
from regraft.data.check import bad_items
from regraft.data.preprocessings.audio_preprocessing import AudioPreprocessing
from regraft.data.preprocessings.image_preprocessing import ImagePreprocessing
from regraft.data.readers.array_files import read_array
from regraft.errors import RegraftError
from regraft.networks.parts import code_files

MUTATIONS, LONGEST = 60, 20.0
PIXELS = np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def held(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def table(path: Path) -> None:
    assert len(read(path, target="label")) > 0


def picture(path: Path) -> None:
    assert ImagePreprocessing(16, 16).batch([path]).shape == (1, 3, 16, 16)


def sound(path: Path) -> None:
    assert AudioPreprocessing("waveform").batch([path]).shape[0] == 1
    assert bad_items(read(([path], ["a"]))) is not None


def code(path: Path) -> None:
    name, values = code_files._read(path, 5, digest="0" * 32)
    assert isinstance(name, str) and values.shape == (5,) and np.isfinite(values).all()


def parquet() -> bytes:
    arrow, module = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {"a": np.arange(40.0), "text": [f"some words of row {row}" for row in range(40)], "label": ["x", "y"] * 20}
    return held(lambda stream: module.write_table(arrow.table(columns), stream))


CSV = ("a,name,label\n" + "".join(f'{row / 7:.3f},"name, {row} \u00e9",{"xy"[row % 2]}\n' for row in range(40))).encode()
CODE = {"kind": "regraft code 1", "condition": "new", "network": "0" * 32}
KINDS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], None]]] = {
    "csv": ("t.csv", lambda: CSV, table),
    "parquet": ("t.parquet", parquet, table),
    "npy": ("a.npy", lambda: held(lambda stream: np.save(stream, np.arange(24.0).reshape(4, 6))), read_array),  # type: ignore[dict-item]  # its array is of no use here
    "png": ("a.png", lambda: held(lambda stream: Image.fromarray(PIXELS).save(stream, format="PNG")), picture),
    "jpeg": ("a.jpg", lambda: held(lambda stream: Image.fromarray(PIXELS).save(stream, format="JPEG")), picture),
    "wav": ("a.wav", lambda: held(lambda stream: soundfile.write(stream, np.sin(np.arange(4000) / 9), 8000, format="WAV")), sound),
    "code": ("a.safetensors", lambda: save({"code": np.arange(5, dtype=np.float32)}, CODE), code),
}


def mutated(content: bytes, generator: np.random.Generator) -> bytes:
    """Return content with one to eight changes: a byte set or flipped, a part cut out, repeated, or made of other bytes."""
    changed = bytearray(content)
    for _ in range(generator.integers(1, 9)):
        at, length = int(generator.integers(0, max(1, len(changed)))), int(generator.integers(1, 17))
        way = generator.integers(0, 6)
        if way == 0:
            changed[at : at + 1] = bytes([generator.integers(0, 256)])
        elif way == 1:
            changed[at : at + 1] = bytes([changed[at] ^ (1 << int(generator.integers(0, 8)))]) if changed else b""
        elif way == 2:
            del changed[at : at + length]
        elif way == 3:
            changed[at:at] = changed[at : at + length]
        elif way == 4:
            changed[at : at + length] = generator.choice([b"\x00", b"\xff", b'"', b",", b"\n", b"\x80"]) * length
        else:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(kind: str, tmp_path: Path) -> None:
    name, make, use = KINDS[kind]
    content, generator, refused = make(), np.random.default_rng(7), 0
    path = tmp_path / name
    path.write_bytes(content)
    use(path)
    for number in range(MUTATIONS):
        path.write_bytes(mutated(content, generator))
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use(path)
        except RegraftError as error:
            refused += 1
            assert "\n" not in str(error), number
        assert time.perf_counter() - began < LONGEST, number
    assert refused > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_code_file_is_what_it_seems(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(KINDS["code"][1]())
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["condition"] == "new"
