"""File formats that regraft opens. Every reader of a file goes through `opening`, and nothing else decides what is safe.

Threat model: the user runs regraft on files from others: networks, weights, data sets, saved folders, plans, caches, studies. Their author
may want to run code on the user's machine, read or delete other files, stop the program, or pass a wrong result for a right one. The user's
own code (`architecture=`, a live module) is trusted. So is the code that a library of the user's environment runs on import. A format whose
reader executes the content is never opened, however well the file was checked first. The one exception is `regraft.load(path, trust=True)`,
and it says so.
"""

import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import CacheError, DataError, InputError, NetworkError, RegraftError, SettingError, UnsafeFileError
from .text import printable


@dataclass(frozen=True)
class Format:
    """Kind of file."""

    title: str  # its name in messages and in `docs/security.md`
    suffixes: tuple[str, ...]
    error: type[InputError] = DataError  # raised if such a file cannot be read
    largest: int | None = None  # maximum size in bytes; None sets no limit but the memory


_MIB = 2**20

FORMATS: dict[str, Format] = {
    "facts": Format("file of a saved folder", ("regraft.json",), NetworkError, largest=512 * _MIB),
    "report": Format("report of a saved folder", ("scores.json", "report.json"), largest=512 * _MIB),
    "plan": Format("plan", ("plan.json",), SettingError, largest=64 * _MIB),
    "profile": Format("profile", ("profile.json",), largest=64 * _MIB),
    "history": Format("history of trainings", ("history.jsonl",), NetworkError, largest=512 * _MIB),
    "code": Format("code of a condition", ("codes/*.safetensors",), NetworkError, largest=64 * _MIB),
    "statistics": Format("file of class statistics", ("statistics.safetensors", "unknown.safetensors"), NetworkError),
    "gone": Format(
        "list of the files that a replaced folder no longer has", (".regraft.committed/.gone.json",), NetworkError, largest=16 * _MIB
    ),
    "cache manifest": Format("manifest of a feature cache", ("manifest.json",), CacheError, largest=16 * _MIB),
    "cache array": Format("array of a feature cache", ("live*.npy", "done.npy"), CacheError),
    "checkpoint": Format("checkpoint", ("run/*.pt",), SettingError),
    "hub config": Format(
        "configuration of a Hugging Face folder",
        ("config.json", "preprocessor_config.json", "tokenizer_config.json", "model.safetensors.index.json"),
        NetworkError,
        largest=16 * _MIB,
    ),
    "tokenizer": Format(
        "tokenizer",
        ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model"),
        largest=512 * _MIB,
    ),
    "onnx": Format("network in ONNX form", (".onnx",), NetworkError, largest=2048 * _MIB),
    "onnx weights": Format("file of weights beside an ONNX file", (".data", "_data", ".weights"), NetworkError),
    "program": Format("PyTorch program", (".pt2",), NetworkError),
    "pmml": Format("PMML file", (".pmml",), NetworkError, largest=256 * _MIB),
    "csv": Format("CSV file", (".csv", ".tsv", ".tab", ".csv.gz")),
    "parquet": Format("Parquet file", (".parquet",)),
    "lines": Format("JSON Lines file", (".jsonl", ".ndjson")),
    "tar": Format("WebDataset archive", (".tar",)),
    "array": Format(".npy file of numbers", (".npy",)),
    "arrays": Format(".npz file of arrays", (".npz",)),
    "picture": Format(
        "picture", (".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".avif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    ),
    "recording": Format("recording", (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".opus", ".oga", ".gsm")),
    "text": Format("text file in UTF-8", (".txt", ".csv", ".json")),
    "space": Format("JSON file of a search space or a preprocessing", (".json",), SettingError, largest=512 * _MIB),
    "names": Format("list of class names, one name a line or a JSON list", (".txt", ".json"), InputError, largest=512 * _MIB),
    "study": Format("database of a study", ("study.sqlite3",), SettingError, largest=1024 * _MIB),
    "keras": Format("Keras model", (".keras",), NetworkError),
    "h5_arrays": Format("HDF5 file of arrays", (".h5", ".hdf5")),
    "h5": Format("Keras file in HDF5", (".h5", ".hdf5", ".weights.h5"), NetworkError),
    "safetensors": Format("safetensors file", (".safetensors",), NetworkError),
    "weight arrays": Format("weights file of arrays", (".npz", ".mat"), NetworkError),
    "torch": Format("PyTorch weights file", (".pt", ".pth", ".pth.tar", ".pt.tar", ".ckpt", ".bin"), NetworkError),
}
"""Formats by reader. The table in `docs/security.md` says of each what its reader does with a hostile file, and how that is prevented."""


@contextmanager
def opening(path: str | Path, kind: str, *, remedy: str = "") -> Iterator[Path]:
    """Check a file before its reader sees it, and convert any error of the reader into one error of regraft."""
    file = Path(path)
    _check(file, FORMATS[kind])
    with reading(_shown(file), kind, remedy=remedy, file=file):
        yield file


_STARTS = {
    b"\x89HDF\r\n\x1a\n": ("HDF5 data, as '.h5' has", ("h5", "weight arrays")),
    b"PK\x03\x04": ("a zip archive, as '.keras', '.npz' and '.pt' are", ("keras", "weight arrays", "torch")),
    b"\x89PNG": ("a PNG picture", ()),
    b"\xff\xd8\xff": ("a JPEG picture", ()),
    b"\x1f\x8b": ("gzip-compressed data: decompress it first", ()),
    b"\x80": ("a pickle", ("torch",)),
    b"version https://git-lfs": ("a pointer of Git LFS, not the file itself: fetch it with 'git lfs pull'", ()),
    b"<!doctype html": ("a web page, not the file: the download failed", ()),
    b"<html": ("a web page, not the file: the download failed", ()),
    b"<?xml": ("XML, as '.pmml' has", ("pmml",)),
    b"<pmml": ("XML, as '.pmml' has", ("pmml",)),
}
"""First bytes of a file, compared without case -> its content, and the kinds of files that may begin so."""
_NEEDED = {"h5": "HDF5 file", "keras": "zip archive"} | dict.fromkeys(
    ("onnx", "pmml", "torch", "safetensors", "weight arrays", "program"), ""
)
"""Kinds of network and weights files -> the container format, if the first bytes identify it."""


def content_of(file: Path, kind: str) -> str:
    """Return the content of a network file, from its first bytes, if it does not fit the kind; "" if it may fit."""
    if kind not in _NEEDED or not file.is_file():
        return ""
    if not file.stat().st_size:
        return "it is empty"
    if kind == "program":  # is not opened at all
        return ""
    with file.open("rb") as stream:
        first = stream.read(512)
    if kind == "keras" and first.startswith(b"PK") and not zipfile.is_zipfile(file):
        return "it is a truncated zip archive"
    said, right = next((found for start, found in _STARTS.items() if first.lower().startswith(start.lower())), ("", ()))
    if said:
        return "" if kind in right else f"it holds {said}"
    line = first.decode("ascii", "replace").partition("\n")[0].rstrip("\r")
    if line.isprintable() and line.isascii():
        return f"it holds text that begins with {printable(repr(line), width=50)}"
    return f"it is no {_NEEDED[kind]}" if _NEEDED[kind] else ""


@contextmanager
def reading(shown: str, kind: str, *, remedy: str = "", file: Path | None = None) -> Iterator[None]:
    """Convert any error of a reader inside the context into one error of regraft. `file`: checked for content of another kind."""
    form = FORMATS[kind]
    try:
        yield
    except RegraftError:
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # native panics are no Exception, and huge declared sizes are MemoryError
        end, found = f" {remedy}" if remedy else "", "" if file is None else content_of(file, kind)
        raise form.error(f"{shown} cannot be read as a {form.title}: {found or _why(error, kind)}.{end}") from error


def _why(error: BaseException, kind: str) -> str:
    """Return why a file cannot be read. The words of a library that reads networks or weights stand behind our own."""
    reason = reason_of(error)
    if _NEEDED.get(kind) != "" or getattr(error, "errno", None) or reason.startswith("it "):
        return reason
    return f"it is damaged, or of an unknown form, because of this error: {reason}"


def _shown(file: Path) -> str:
    return f"'{printable(file)}'"


def _check(file: Path, form: Format) -> None:
    try:
        facts = file.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise form.error(f"{_shown(file)} cannot be opened: {reason_of(error)}. Expected a {form.title}.") from error
    if not stat.S_ISREG(facts.st_mode):
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "a pipe, socket or device"
        raise UnsafeFileError(f"{_shown(file)} is {what}; expected a {form.title}. Give the path of a regular file.")
    if form.largest is not None and facts.st_size > form.largest:
        raise form.error(
            f"{_shown(file)} has {facts.st_size / _MIB:,.0f} MiB; a {form.title} is read up to {form.largest / _MIB:,.0f} MiB. "
            "It was not written by regraft, or is damaged."
        )


@contextmanager
def named_in_utf8(path: Path) -> Iterator[Path]:
    """Yield a path for a library that takes only names in UTF-8.
    This is the path itself or, if its name is not UTF-8 (as in old archives), a temporary symlink to it."""
    if os.fsencode(path).decode(errors="replace") == str(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "file"
        link.symlink_to(path.absolute())
        yield link


def member(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder by an untrusted name. The file need not exist."""
    parts = name.replace("\\", "/").split("/")
    if not name.isprintable() or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise UnsafeFileError(f"{printable(folder)!r} names the file {printable(name)!r}; expected a file inside the folder.")
    return within(folder, folder / name)


def within(folder: Path, path: Path) -> Path:
    """Return an untrusted path after checking that it resolves to a place below `folder`. It need not exist."""
    try:
        root, target = folder.resolve(), path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: links in a circle
        raise UnsafeFileError(f"{printable(path)!r} cannot be followed: {reason_of(error)}. Give a folder without such links.") from error
    cache = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    if not (target.is_relative_to(root) or target.is_relative_to(cache)):
        raise UnsafeFileError(f"{printable(path)!r} is a link out of the folder, to {printable(target)!r}. Put the file itself there.")
    return path


def _is_of_h5py(error: BaseException) -> bool:
    """Return whether an error comes from inside h5py, whose words describe the layout of the file."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and not getattr(error, "errno", None) and "h5py" in Path(trace.tb_frame.f_code.co_filename).parts


def reason_of(error: BaseException) -> str:
    """Return the first line of an error message, safe to print; the class name if the message is empty."""
    if isinstance(error, MemoryError):
        return "it declares more data than fits into memory"
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or contains itself"
    if isinstance(error, zipfile.BadZipFile) or _is_of_h5py(error):
        return "it is damaged or truncated"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is no text in {error.encoding.upper()}"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = said.strip().splitlines()
    return printable(lines[0], width=300).rstrip(".") if lines else type(error).__name__


@contextmanager
def writable(folder: str | Path, *, error: type[InputError]) -> Iterator[None]:
    """Convert a system error of writing into a folder into one error that names the folder."""
    try:
        yield
    except OSError as problem:
        file = Path(folder).is_file()
        reason, remedy = ("it is a file", "Choose") if file else (reason_of(problem), "Make room there, or choose")
        raise error(f"The folder {printable(folder)!r} cannot be written: {reason}. {remedy} another folder.") from problem
