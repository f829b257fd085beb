"""Parser for the pickles inside PyTorch files. It reads them as a list of steps and never runs them.

`torch.load(weights_only=True)` runs no code, but it hashes what it builds. The cost of a key of nested tuples grows exponentially with the
depth, and a very deep one overflows the process stack.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from typing import IO

_LARGEST = 100_000
_DEEPEST = 50
_MARK = (-1, -1)
_LEAF = (1, 0)
_TUPLES = ("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3")
_OTHERS = {
    *("MARK", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "NONE", "NEWFALSE", "NEWTRUE"),
    *("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"),
    *("BINPERSID", "PROTO", "STOP", "GLOBAL", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT"),
}
"""All other opcodes that `torch.save` writes, and that `torch.load` handles without running code."""


def archived_names(archive: zipfile.ZipFile) -> list[str]:
    """Return "module name" of every object that the pickle in a PyTorch archive names."""
    folders = {name.partition("/")[0] for name in archive.namelist()}
    if len(folders) != 1:
        raise ValueError(f"it has {len(folders)} folders, expected one")
    with archive.open(f"{folders.pop()}/data.pkl") as file:
        return list(names_in(file))


def names_in(file: IO[bytes]) -> Iterator[str]:
    """Yield "module name" of every object that a pickle names. Also yield the name of each opcode that `torch.save` does not write."""
    stack: list[tuple[int, int]] = []
    known: dict[int, tuple[int, int]] = {}
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            yield str(argument)
        elif opcode.name not in _OTHERS and opcode.name not in _TUPLES:
            yield opcode.name
        try:
            _step_(stack, known, opcode=opcode, argument=argument)
        except (IndexError, KeyError) as error:
            raise ValueError(f"its step {opcode.name} finds nothing to work on") from error
        if stack and (stack[-1][0] > _LARGEST or stack[-1][1] > _DEEPEST):
            raise ValueError("it builds tuples within tuples without measure")


def _step_(stack: list[tuple[int, int]], known: dict[int, tuple[int, int]], *, opcode: pickletools.OpcodeInfo, argument: object) -> None:
    """Update the stack as one pickle step does. Of each object only size and depth are kept, as if nothing were shared."""
    if opcode.name in ("BINGET", "LONG_BINGET"):
        stack.append(known[int(str(argument))])
    elif opcode.name in ("BINPUT", "LONG_BINPUT"):
        known[int(str(argument))] = stack[-1]
    elif opcode.name == "MARK":
        stack.append(_MARK)
    else:
        parts = _taken_(stack, opcode)
        if opcode.name in _TUPLES:
            stack.append((1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0)))
        else:
            stack += [_LEAF] * len(opcode.stack_after)


def _taken_(stack: list[tuple[int, int]], opcode: pickletools.OpcodeInfo) -> list[tuple[int, int]]:
    """Pop and return the operands of a step."""
    parts, count = [], len(opcode.stack_before)
    if pickletools.markobject in opcode.stack_before:
        count = opcode.stack_before.index(pickletools.markobject)
        while (top := stack.pop()) != _MARK:
            parts.append(top)
    return parts + [stack.pop() for _ in range(count)]
