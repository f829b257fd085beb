"""Code files: the code of one condition in a few hundred bytes, saved with its network or separately.

A saved folder holds one code file per condition that the network was adapted to; the codes of the training conditions are stored only in
the weights. Opening a folder reads all code files: a code overwrites the row of its condition in the table, or adds a row.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from ...errors import NetworkError
from ...files.formats import named_in_utf8, opening, reason_of, within
from ...files.text import printable
from ...files.writing import write_bytes
from ..editing.editable import Editable
from .coding import Coding
from .record import Record

N = TypeVar("N", bound=Editable)
CODES_FOLDER = "codes"
_KIND = "regraft code 1"
_ENDING = ".safetensors"
_REMEDY = "Remove it, or adapt to its condition again."
COUNTER = "seed_generator_state"  # State of a Keras layer that draws at random; it changes with every training step and is not saved


def code_digest(network: Record) -> str:
    """Return a digest of the parameters and buffers that `shared_state` returns."""
    digest = hashlib.blake2b(digest_size=16)
    former = network.body.former_names()
    named = {former.get(name, name): tensor for name, tensor in shared_state(network).items()}
    for name, tensor in sorted(named.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def shared_state(network: Record) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers of a network except its table of codes and the random-generator states of Keras."""
    table = None if network.coding is None else network.body.code_table().data_ptr()
    kept = {name: tensor for name, tensor in network.state().items() if not name.endswith(COUNTER)}
    return {name: tensor for name, tensor in kept.items() if table is None or tensor.data_ptr() != table}


def write_code(network: Record, folder: Path, *, condition: str, digest: str | None = None) -> Path:
    """Write the code of one condition into a saved folder; return the path, `codes/NAME.safetensors`."""
    if network.coding is None:
        raise NetworkError(f"The condition {condition!r} has no code: this network knows no conditions. Train codes with strategy='codes'.")
    network.coding.row(condition)
    code = np.ascontiguousarray(network.codes[condition], np.float32)
    path = folder / CODES_FOLDER / f"{_file_name(condition)}{_ENDING}"
    try:
        condition.encode()
        named = {"condition": condition}
    except UnicodeEncodeError:  # a name with lone surrogates
        named = {"condition_json": json.dumps(condition)}
    told = {"kind": _KIND, **named, "network": digest or code_digest(network), "sha256": _checksum(code)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({"code": code}, told))
    except OSError as error:
        raise NetworkError(f"The code file {printable(path)!r} cannot be written: {reason_of(error)}. Make room there.") from error
    return path


def _checksum(code: np.ndarray) -> str:
    return hashlib.sha256(code.tobytes()).hexdigest()


def write_codes(network: Record, folder: Path) -> str | None:
    """Write a code file for each condition that was adapted to after training; return `code_digest(network)`, or None without codes."""
    if network.coding is None:
        return None
    digest = code_digest(network)
    for condition in network.coding.conditions:
        if condition not in network.coding.learned:
            write_code(network, folder, condition=condition, digest=digest)
    return digest


def with_code_files(network: N, folder: Path) -> N:
    """Return an opened network with the conditions of the code files in its folder."""
    files = _files(folder)
    if not files:
        return network
    if network.coding is None:
        raise NetworkError(f"{str(files[0])!r} is the code of a condition, but this network takes no codes. Remove the file.")
    old = network.body.code_table().detach().cpu().numpy()
    names, table = table_with_files(network.coding, old, folder=folder, digest=code_digest(network))
    if len(table) == len(old) and np.array_equal(table, old):
        return network
    return network.recoded(names, table)


def table_with_files(coding: Coding, table: np.ndarray, *, folder: Path, digest: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the condition names and table of codes, (1 + K, size), extended by the code files in a folder."""
    return coding.joined(table, dict(_read(path, coding.size, digest=digest) for path in _files(folder)))


def naming_conditions(preprocessing: Any, names: tuple[str, ...]) -> Any:
    """Return a preprocessing (plain data) with the condition names replaced, also in an inner preprocessing."""
    if not isinstance(preprocessing, dict):
        return preprocessing
    if preprocessing.get("kind") == "conditions":
        return {**preprocessing, "names": list(names)}
    return {key: naming_conditions(value, names) if key == "inner" else value for key, value in preprocessing.items()}


def _files(folder: Path) -> list[Path]:
    return [within(folder, path) for path in sorted((folder / CODES_FOLDER).glob(f"*{_ENDING}"))]


def _file_name(condition: str) -> str:
    """Return a file name for a condition; a name that must be changed gets digits of its digest to stay unique."""
    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,59}", condition):
        return condition
    plain = re.sub(r"[^a-z0-9_-]+", "-", condition.lower()).strip("-")[:40]
    digits = hashlib.blake2b(condition.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return f"{plain or 'condition'}.{digits}"


def _read(path: Path, size: int, *, digest: str) -> tuple[str, np.ndarray]:
    """Return the condition and code (size,) of one file, after checking that they belong to the network with this `digest`."""
    with opening(path, "code", remedy=_REMEDY), named_in_utf8(path) as plain, safe_open(plain, framework="numpy") as file:
        told, code = dict(file.metadata() or {}), file.get_tensor("code")
    with opening(path, "code", remedy=_REMEDY):
        name = json.loads(told["condition_json"]) if "condition_json" in told else told.get("condition")
    if told.get("kind") != _KIND or not isinstance(name, str):
        kind = printable(told.get("kind"))
        raise NetworkError(f"{printable(path)!r} is not a code file of regraft: its kind is {kind!r}, expected {_KIND!r}. Remove it.")
    about = f"The code file {printable(path)!r} of the condition {printable(name)!r}"
    if told.get("network") != digest:
        raise NetworkError(
            f"{about} is of another network: it goes with {told.get('network')!r}, this one is {digest!r}. Remove it, or adapt this "
            "network to its condition."
        )
    if code.shape != (size,):
        raise NetworkError(f"{about} holds values of shape {code.shape}; expected ({size},). Remove it, or adapt to its condition again.")
    if not np.isfinite(code).all():
        wrong = int((~np.isfinite(code)).sum())
        raise NetworkError(f"{about} holds NaN or infinity in {wrong} of {size} places. Remove it, or adapt to its condition again.")
    if told.get("sha256", _checksum(code)) != _checksum(code):
        raise NetworkError(f"{about} is damaged: its values are not those that were saved. {_REMEDY}")
    return name, code
