"""Kill a run at any moment at which it touches the disk, go on from what it left, and compare with a run that nobody disturbed.

    python -m tests.reliability.kills MODULE:FUNCTION '{"argument": …}' FOLDER MOMENTS TIMES

The function is given a folder and the arguments, and returns plain data: what must be equal. It runs once undisturbed, so that all
libraries are imported and warm; each further run is a forked child, gone at once at the moment that is chosen, as after `kill -9`.
A moment is a call that opens for writing, writes, flushes, renames, removes, links, truncates or makes something in the folder, or a
statement that a database in it is given. Of what it writes at that moment, half is written.
"""

from __future__ import annotations

import builtins
import importlib
import io
import json
import os
import random
import sqlite3
import sqlite3.dbapi2
import subprocess
import sys
import traceback
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

KILLED = 137
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


def compared(job: str, arguments: dict[str, Any], folder: Path, *, moments: int | None, times: int = 1) -> dict[str, Any]:
    """Kill a job at moments spread over its course, and go on each time, in a process of its own.

    Args:
        job: "module:function".
        arguments: of the function, beside the folder.
        folder: for all runs.
        moments: how many, two at the least; None: all.
        times: how often each run is killed before it may come to its end.

    Returns:
        "moments": how many there are; "killed": those at which it was killed; "different": moment -> both outcomes.
    """
    words = [job, json.dumps(arguments), str(folder), str(moments or 0), str(times)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.reliability.kills", *words], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class _Moments:
    """Counts the moments of this process, in one folder, and ends it at one of them."""

    def __init__(self, folder: Path, at: int) -> None:
        self.folder = str(folder) + os.sep
        self.at = at
        self.count = 0

    def is_own(self, path: Any) -> bool:
        if isinstance(path, int):
            try:
                path = os.readlink(f"/proc/self/fd/{path}")
            except OSError:
                return False
        return isinstance(path, str | bytes | os.PathLike) and unquote(os.fsdecode(path)).removeprefix("file://").startswith(self.folder)

    def moment(self, half: Callable[[], object] | None = None) -> None:
        self.count += 1
        if self.count == self.at:
            if half is not None:
                half()
            os._exit(KILLED)

    def hook(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            flags = given[2] if isinstance(given[2], int) else 0
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and self.is_own(given[0]):
                self.moment()
        elif event in _EVENTS and any(self.is_own(part) for part in given):
            self.moment()

    def install(self) -> None:
        plain_open, plain_flush, plain_write, plain_connect, moments = io.open, os.fsync, os.write, sqlite3.connect, self

        class Raw(io.FileIO):
            def write(self, content: Any) -> int:
                data = bytes(content)
                moments.moment(lambda: io.FileIO.write(self, data[: len(data) // 2]))
                return super().write(data)

        def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
            writes = set(mode) & set("wax+")
            if not writes or not moments.is_own(file):
                return plain_open(file, mode, buffering, *rest, **named)
            raw = Raw(file, mode.replace("b", "").replace("t", ""), closefd=named.pop("closefd", True), opener=named.pop("opener", None))
            if buffering == 0:
                return raw
            buffer: Any = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffer
            text = io.TextIOWrapper(buffer, *rest, **named)
            text.mode = mode  # type: ignore[misc]
            return text

        def flushed(handle: int) -> None:
            if self.is_own(handle):
                self.moment()
            plain_flush(handle)

        def written(handle: int, content: Any) -> int:
            if self.is_own(handle):
                self.moment(lambda: plain_write(handle, bytes(content)[: len(bytes(content)) // 2]))
            return plain_write(handle, content)

        def connected(*given: Any, **named: Any) -> sqlite3.Connection:
            connection = plain_connect(*given, **named)
            if self.is_own((given or (named["database"],))[0]):
                connection.set_trace_callback(lambda _statement: self.moment())
            return connection

        sqlite3.connect = sqlite3.dbapi2.connect = connected  # type: ignore[assignment]
        io.open = builtins.open = opened  # type: ignore[assignment]
        os.fsync, os.write = flushed, written  # type: ignore[assignment]
        sys.addaudithook(self.hook)


def _run(job: Callable[..., Any], arguments: dict[str, Any], folder: Path, *, at: int) -> tuple[int, dict[str, Any]]:
    """Run a job in a child, killed at a moment (0: never); return its exit code, and what it told: its outcome and its moments."""
    told = folder.with_name(folder.name + ".json")
    told.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    child = os.fork()
    if not child:
        code = 1
        try:
            moments = _Moments(folder, at)  # of what is put beside the job's folder, too
            moments.install()
            outcome = job(folder / "out", **arguments)
            told.write_text(json.dumps({"outcome": outcome, "moments": moments.count}, sort_keys=True), encoding="utf-8")
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), f"the run in {folder} failed at moment {at}"
    return code, json.loads(told.read_text(encoding="utf-8")) if code == 0 else {}


def _spread(count: int, wanted: int) -> list[int]:
    """Return `wanted` moments of `count`, two at the least: the first, the last and one, drawn, of each equal stretch between; 0: all."""
    if not wanted or wanted >= count:
        return list(range(1, count + 1))
    draw, edges = random.Random(count), [2 + (count - 2) * place // max(wanted - 2, 1) for place in range(wanted - 1)]
    return [1, *(draw.randrange(*stretch) for stretch in pairwise(edges)), count]


def _main(name: str, arguments: str, folder: str, moments: str, times: str) -> None:
    module, _, function = name.partition(":")
    job, given, place = getattr(importlib.import_module(module), function), json.loads(arguments), Path(folder).resolve()
    (place / "first").mkdir(parents=True, exist_ok=True)
    first = job(place / "first" / "out", **given)
    whole = _run(job, given, place / "whole", at=0)[1]
    assert whole["outcome"] == first, "two undisturbed runs differ"
    found: dict[str, Any] = {"moments": whole["moments"], "killed": [], "different": {}}
    for at in _spread(whole["moments"], int(moments)):
        here = place / f"at-{at}"
        for number in range(int(times)):
            ended, told = _run(job, given, here, at=at if number == 0 else max(1, at // 2))
            if ended == KILLED and number == 0:
                found["killed"].append(at)
            if ended == 0:
                break
        else:
            told = _run(job, given, here, at=0)[1]
        if told["outcome"] != whole["outcome"]:
            found["different"][at] = [told["outcome"], whole["outcome"]]
    print(json.dumps(found))


if __name__ == "__main__":
    _main(*sys.argv[1:])
