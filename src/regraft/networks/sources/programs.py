"""Exported programs: a user's own torch class saved beside its folder, so that `predict` runs without the class.

`torch.export.load` was not made for files of strangers: it falls back to unpickling, and it evaluates size expressions. So the
archive is looked through first, and unpickling is forbidden while it is read.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...errors import NetworkError, UnsafeFileError
from ..account import Account
from ..contract import Head, Inputs, Network
from ..names import checked_classes
from ..parts.code_files import table_with_files
from ..torch_modules import PROGRAM_FILE, TorchNetwork

__all__ = ["open_program", "take_codes_"]

_EXPRESSION = re.compile(r"[A-Za-z0-9_+\-*/%(), <>=]*")
_SYMBOL = re.compile(r"Symbol\('([a-z]+\d+)'")
_WORD = re.compile(r"[A-Za-z_]\w*")
_SIZE = re.compile(r"[a-z]{1,2}\d+")
_WORDS = {
    *("Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Max", "Min", "Mod", "PythonMod", "FloorDiv", "CeilDiv", "CleanDiv"),
    *("IntTrueDiv", "TruncToInt", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "True", "False", "positive", "nonnegative", "integer", "real"),
}
"""All that a size expression may name: sympy evaluates the rest too, the functions of Python among it."""
_CODES = "codes.weight"
"""How the name of the table of codes ends among a program's parameters."""
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


def open_program(folder: Path, facts: Mapping[str, Any], *, sample: Inputs) -> Network:
    """Open the exported program of a user's own class: it predicts, but cannot be adapted further.

    Args:
        folder: saved by regraft.
        facts: its `regraft.json`.
        sample: two items to run it with.

    Returns:
        The network.

    Raises:
        NetworkError: if there is no program; the message names the class to give.
        UnsafeFileError: if the program is not one that regraft writes.
    """
    path, own = folder / PROGRAM_FILE, facts["network"]["origin"].get("class", "your class")
    if not path.is_file():
        raise NetworkError(
            f"The network in {str(folder)!r} is of the class {own}, which is never imported by itself. "
            "Give it with architecture=, a module or a function that makes it."
        )
    _check(path)
    with _no_unpickling():
        program = torch.export.load(path)
    network = TorchNetwork(
        _Program(program.module(), list(sample) if isinstance(sample, dict) else []), sample, origin={"source": "program", "class": own}
    )
    network.heads = {}
    for head in facts["heads"]:
        if head.get("groups"):
            continue
        rows = torch.zeros(head["rows"], head["features"]).numpy()
        classes = checked_classes(head["classes"]) if head["classes"] else None
        network.heads[head["task"]] = Head(head["task"], classes, head["kind"], "linear", "", rows, rows[:, 0].copy())
    network.account = Account(notes=(f"an exported program of {own}: it predicts; to adapt it further, give architecture=",))
    return network


def take_codes_(network: Network, folder: Path, *, digest: str) -> None:
    """Let an exported program know the conditions whose code files lie in its folder.

    Args:
        network: opened by `open_program`.
        folder: that it was opened from.
        digest: `code_digest` of the network that was exported; that of the program itself would be another.

    Raises:
        NetworkError: if a code file is refused.
    """
    program = network.module.__dict__.get("program")
    name = next((name for name, _ in program.named_parameters() if name.endswith(_CODES)), None) if program is not None else None
    if network.coding is None or name is None:
        return
    holder = program.get_submodule(name.rpartition(".")[0])
    names, table = table_with_files(network.coding, holder.weight.detach().cpu().numpy(), folder=folder, digest=digest)
    holder.weight = torch.nn.Parameter(torch.from_numpy(table).to(holder.weight), requires_grad=False)
    network.coding = replace(network.coding, conditions=names)


class _Program(torch.nn.Module):
    """Runs an exported program, which does not know training mode."""

    def __init__(self, program: torch.nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.__dict__["program"] = program
        self.names = names

    def forward(self, *tensors: torch.Tensor, **named: torch.Tensor) -> Any:
        """Return what the program returns for its tensors, which it takes in the order of the network's sample."""
        return self.__dict__["program"](*tensors, *(named[name] for name in self.names))


def _strings(value: Any, key: str) -> Iterator[str]:
    """Yield every text under a key, at any depth."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == key and isinstance(part, str):
                yield part
            yield from _strings(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part, key)


def _check(path: Path) -> None:
    """Raise unless every size expression is plain arithmetic and no weight is pickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")]
    except (zipfile.BadZipFile, ValueError) as error:
        raise NetworkError(f"{str(path)!r} is damaged: {error}. Open the folder with architecture=.") from error
    for content in texts:
        for expression in _strings(content, "expr_str"):
            if not _is_arithmetic(expression):
                raise UnsafeFileError(
                    f"{str(path)!r} holds the size expression {expression[:80]!r}, which is not plain arithmetic. It is not opened."
                )
        if '"use_pickle": true' in json.dumps(content):
            raise UnsafeFileError(f"{str(path)!r} holds pickled weights; opening them would run code. It is not opened.")


def _is_arithmetic(expression: str) -> bool:
    plain = _SYMBOL.sub(r"Symbol(\1", expression)
    return bool(_EXPRESSION.fullmatch(plain)) and all(word in _WORDS or _SIZE.fullmatch(word) for word in _WORD.findall(plain))


@contextmanager
def _no_unpickling() -> Iterator[None]:
    """Let torch.load read tensors only, whatever its caller asks for."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before
