"""File formats that regraft opens. Every reader of a file goes through `opening`, and nothing else decides what is safe.

Threat model: the user runs regraft on files from others: networks, weights, data sets, saved folders, plans, caches, studies. Their author
may want to run code on the user's machine, read or delete other files, stop the program, or pass a wrong result for a right one. The user's
own code (`architecture=`, a live module) is trusted. So is the code that a library of the user's environment runs on import. A format whose
reader executes the content is never opened, however well the file was checked first. The one exception is `regraft.load(path, trust=True)`,
and it says so.
"""

from __future__ import annotations

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
    reader: str
    danger: str  # what the reader does with a hostile file
    defence: str  # how regraft prevents that
    error: type[InputError] = DataError  # raised if such a file cannot be read
    largest: int | None = None  # maximum size in bytes; None sets no limit but the memory


_MIB = 2**20

FORMATS: dict[str, Format] = {
    "facts": Format(
        "file of a saved folder",
        ("regraft.json",),
        "`json.loads`, then a schema",
        "Wrong types, missing parts, numbers that are none: errors far from the cause, or predictions that are not numbers.",
        "Every value is checked against a schema before anything is built from it.",
        NetworkError,
        largest=512 * _MIB,
    ),
    "report": Format(
        "report of a saved folder",
        ("scores.json", "report.json"),
        "`json.loads`, then a schema",
        "Figures that are none; text that is no text, in a page of HTML.",
        "Every value is checked against a schema; the page escapes all text, has no scripts, and fetches nothing.",
        largest=512 * _MIB,
    ),
    "plan": Format(
        "plan",
        ("plan.json",),
        "`json.loads`, then `Plan.from_dict`",
        "Settings out of their range; text that reaches the terminal.",
        "Every name and value is checked before anything is started; nothing in a plan is a path to read, or code.",
        SettingError,
        largest=64 * _MIB,
    ),
    "profile": Format(
        "profile",
        ("profile.json",),
        "`json.loads`, then a schema",
        "Figures that are none; text that is no text, in a page of HTML.",
        "Every value is checked against a schema; the page escapes all text, has no scripts, and fetches nothing.",
        largest=64 * _MIB,
    ),
    "history": Format(
        "history of trainings",
        ("history.jsonl",),
        "`json.loads` on each line, then a schema",
        "Entries that are no mapping, or figures that are no numbers: the next training ends in an error after it has run.",
        "Every entry is checked when the folder is opened.",
        NetworkError,
        largest=512 * _MIB,
    ),
    "code": Format(
        "code of a condition",
        ("codes/*.safetensors",),
        "`safetensors.safe_open`",
        "A code of another network or length, or values that are not finite: scores that are none.",
        "It names the digest of its network and has a checksum; length and values are checked.",
        NetworkError,
        largest=64 * _MIB,
    ),
    "statistics": Format(
        "file of class statistics",
        ("statistics.safetensors", "unknown.safetensors"),
        "`safetensors.numpy.load_file`",
        "Arrays of other shapes, or numbers that are not finite.",
        "A checksum in `regraft.json`; shapes and numbers are checked before they are used.",
        NetworkError,
    ),
    "gone": Format(
        "list of the files that a replaced folder no longer has",
        (".regraft.committed/.gone.json",),
        "`json.loads`",
        "Names of files, which are deleted.",
        "Only files of regraft at the top of the same folder are deleted; all other names are passed over.",
        NetworkError,
        largest=16 * _MIB,
    ),
    "cache manifest": Format(
        "manifest of a feature cache",
        ("manifest.json",),
        "`json.loads`, then a schema",
        "Another folder is taken for a cache: `regraft cache clear` deletes it.",
        "Unknown keys are refused, and the folder's name must be the digest of the facts in it. A folder with anything else in it, or "
        "with links, is no cache.",
        CacheError,
        largest=16 * _MIB,
    ),
    "cache array": Format(
        "array of a feature cache",
        ("live*.npy", "done.npy"),
        "`numpy.memmap`; the header is not interpreted",
        "A pickle, or a header that is evaluated as Python or names a size that is not there; changed values give another result.",
        "Size and header, byte by byte, must be what this cache has; a checksum of every chunk; a random dozen rows are computed again. "
        "Any damage means that the cache is computed again.",
        CacheError,
    ),
    "checkpoint": Format(
        "checkpoint",
        ("run/*.pt",),
        "`torch.load(weights_only=True)`",
        "A pickle runs code; a flipped bit gives another result.",
        "Tensors and plain data only, and a checksum of the whole file.",
        SettingError,
    ),
    "hub config": Format(
        "configuration of a Hugging Face folder",
        ("config.json", "preprocessor_config.json", "tokenizer_config.json", "model.safetensors.index.json"),
        "`json.loads`, then the library's own class with the keys that are left",
        "Names code (`auto_map`), kernels, other repositories, adapters or paths, which the library fetches, imports or reads; declares "
        "sizes that fill the memory.",
        "The library never sees the folder. Keys by allow-list, values by type and size, text that could be a path or a repository is "
        "refused; an architecture is made under a limit that follows from the weights file.",
        NetworkError,
        largest=16 * _MIB,
    ),
    "tokenizer": Format(
        "tokenizer",
        ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model"),
        "`tokenizers` (native), or a class of transformers that reads vocabularies",
        "Names code or a class; a pattern that backtracks without end; rules that make texts grow without end; native panics and aborts.",
        "Files and keys by allow-list, no Python code and no pickles; growth is limited before use; encoding has a time limit, and a panic "
        "becomes one error.",
        largest=512 * _MIB,
    ),
    "onnx": Format(
        "network in ONNX form",
        (".onnx",),
        "`onnx` parses it, ONNX Runtime runs it on the CPU",
        "External data: reads any file. Operators of other domains. Sizes that are declared but not there, loops without an end.",
        "Checked node by node (`files/onnx_form.py`): no external data, the operators of ONNX alone, no loops, no functions, every tensor "
        "as long as it says. What was checked is written anew and handed on as bytes; the engine never sees the file. The first run is "
        "limited in time, every run in memory. Before a graph is made into a module, its operators are looked up by name among those of "
        "ONNX, and constants are computed up to 2**26 numbers only.",
        NetworkError,
        largest=2048 * _MIB,
    ),
    "program": Format(
        "PyTorch program",
        (".pt2",),
        "`torch.export.load`",
        "Runs code in many ways: it unpickles, evaluates expressions and imports the modules that the file names.",
        "Never opened out of a saved folder. A path that the user gives is refused unless he says `trust=True`.",
        NetworkError,
    ),
    "pmml": Format(
        "PMML file",
        (".pmml",),
        "`xml.parsers.expat`",
        "Entities that grow without end or name other files; elements within elements; layers that declare more weights than they hold.",
        "A document type is refused when it is met, before any entity of it; depth and sizes are limited, every number must be finite, and "
        "only a neural network whose layers follow one another becomes a network.",
        NetworkError,
        largest=256 * _MIB,
    ),
    "csv": Format(
        "CSV file",
        (".csv", ".tsv", ".tab", ".csv.gz"),
        "`pandas.read_csv`, else `csv.reader`",
        "A packed file that fills the disk; millions of columns, lines of unequal length or repeated names fill the memory or move values "
        "to another column; names of files that lie elsewhere; cells that a spreadsheet runs.",
        "What is unpacked is measured on the way. Encoding, columns and line lengths are checked; files are looked for below one folder; "
        "cells are escaped where they are printed.",
    ),
    "parquet": Format(
        "Parquet file",
        (".parquet",),
        "`pyarrow.parquet.ParquetFile`",
        "A few bytes that unpack to more than the memory; damage over which the reader raises any error, or ends the program.",
        "Declared sizes are checked first and the real ones while reading, one column after the other; a repeated text counts as often as "
        "it stands. Of nested columns only encoded pictures are read, a row group at a time; the details over which pyarrow aborts are not "
        "asked for.",
    ),
    "lines": Format(
        "JSON Lines file",
        (".jsonl", ".ndjson"),
        "`json.loads` of each line",
        "Values within values without end; names of files that lie elsewhere.",
        "Lists and objects within a line are not read; files are looked for below one folder.",
    ),
    "tar": Format(
        "WebDataset archive",
        (".tar",),
        "`tarfile.open(mode='r:')`",
        "Names that lead out of a folder, links and devices; packed parts that fill the memory; heads without end.",
        "Nothing is unpacked: regular members that are called as pictures or labels are read where they lie, by their size, the latter up "
        "to 4 KiB; packed archives are refused, and the rest is skipped.",
    ),
    "array": Format(
        ".npy file of numbers",
        (".npy",),
        "`numpy.load(allow_pickle=False)`",
        "An array of objects is a pickle, which runs code; a declared shape can be of any size.",
        "Arrays of objects are refused by their header, and the declared shape must fit the length of the file.",
    ),
    "arrays": Format(
        ".npz file of arrays",
        (".npz",),
        "`numpy.lib.format.read_array(allow_pickle=False)` of two of its parts",
        "As of a .npy file; and a part that unpacks to more than the memory, or stands for a place outside the archive.",
        "Names and sizes of the archive are checked before anything is unpacked; each array as that of a .npy file.",
    ),
    "picture": Format(
        "picture",
        (".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".avif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
        "`PIL.Image.open`",
        "A small file that declares billions of pixels; a format that another program is started for (PostScript).",
        "Only formats that PIL decodes itself, up to PIL's own limit of pixels; large pictures are decoded one at a time.",
    ),
    "recording": Format(
        "recording",
        (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".opus"),
        "`soundfile.SoundFile`",
        "A declared length, or a sampling rate, that makes hours of samples out of a few bytes.",
        "The declared length, also after resampling, is checked against the size of the file.",
    ),
    "text": Format(
        "text file in UTF-8",
        (".txt", ".csv", ".json"),
        "`str.splitlines`",
        "Control characters that a terminal obeys.",
        "Texts are escaped where they are printed.",
    ),
    "space": Format(
        "JSON file of a search space or a preprocessing",
        (".json",),
        "`json.loads`",
        "Names and values that are no settings.",
        "Names, choices and ranges are checked as if they had been given in the program.",
        SettingError,
        largest=512 * _MIB,
    ),
    "names": Format(
        "list of class names, one name a line or a JSON list",
        (".txt", ".json"),
        "`str.splitlines`, or `json.loads`",
        "Control characters in names that a terminal, a log or a page obeys.",
        "Names are kept as they are and escaped wherever they are shown.",
        InputError,
        largest=512 * _MIB,
    ),
    "study": Format(
        "database of a study",
        ("study.sqlite3",),
        "`sqlite3`, then Optuna's `RDBStorage`",
        "Triggers and views run with every statement; a journal beside it can have SQLite delete any file; values become settings of a "
        "training, folders to write into among them.",
        "Its tables must be those of the installed Optuna and nothing else, a journal may name no further file, and the values of each "
        "trial must be in the space that is searched. Nothing that it holds becomes a path.",
        SettingError,
        largest=1024 * _MIB,
    ),
    "keras": Format(
        "Keras model",
        (".keras",),
        "`keras.saving.load_model(safe_mode=True)`",
        "Classes that carry code (Lambda, wrapped torch, JAX and TensorFlow modules), names of any function of Keras, settings that name "
        "a file, parts that unpack to more than the memory, layers of any size, and all that an HDF5 file can do.",
        "Every name is looked up wherever Keras would look and must stand for a reviewed part of a network or for what the user "
        "registered; the archive, its HDF5 part and the memory for its layers are checked before Keras sees the file.",
        NetworkError,
    ),
    "h5_arrays": Format(
        "HDF5 file of arrays",
        (".h5", ".hdf5"),
        "`h5py.File`",
        "Numbers taken from any other file (external storage, external links, virtual data sets), groups that contain themselves, "
        "declared shapes larger than the memory, filters that are plugins.",
        "Looked through as a Keras file in HDF5 is, before one number is read; object arrays are refused.",
    ),
    "h5": Format(
        "Keras file in HDF5",
        (".h5", ".hdf5", ".weights.h5"),
        "`h5py.File`; of full models `keras.saving.load_model(safe_mode=True)` after that",
        "Numbers taken from any other file (external storage, external links, virtual data sets), groups that contain themselves, "
        "declared shapes larger than the memory, filters that are plugins; of full models what a Keras model can do.",
        "Links by name, parts that lie elsewhere, plugins and loops are refused; every declared size is compared with the bytes in the "
        "file before one is read. Architectures are checked as those of Keras models are.",
        NetworkError,
    ),
    "safetensors": Format(
        "safetensors file",
        (".safetensors",),
        "`safetensors.torch.load_file`",
        "Little: a header and numbers. Numbers that are none would spread.",
        "NaN and infinite numbers are said.",
        NetworkError,
    ),
    "weight arrays": Format(
        "weights file of arrays",
        (".npz", ".mat"),
        "`numpy.lib.format.read_array(allow_pickle=False)`, `scipy.io.loadmat`",
        "Arrays of objects are pickles, which run code. Sizes that are declared but not there; archives that grow without end.",
        "Arrays of objects, cells and structures are refused before they are read. Sizes are compared with the bytes in the file; what "
        "would grow more than a hundredfold is not unpacked.",
        NetworkError,
    ),
    "torch": Format(
        "PyTorch weights file",
        (".pt", ".pth", ".pth.tar", ".pt.tar", ".ckpt", ".bin"),
        "`torch.load(weights_only=True)`",
        "A pickle runs any code. Those of tensors alone can still ask for memory of any size and for tensors that are views of others.",
        "The names in the pickle are read without running it: only those of plain tensors are admitted. Sizes are compared with the bytes "
        "in the file; sparse, quantized and other special tensors are refused.",
        NetworkError,
    ),
}
"""Formats by reader. Each entry is a row of the table in `docs/security.md`."""


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
        raise error(
            f"The folder {printable(folder)!r} cannot be written: {reason_of(problem)}. Make room there, or choose another folder."
        ) from problem
