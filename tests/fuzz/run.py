"""`make fuzz`: 10,000 changed files of every kind, each of which must end in a right result or in one error of regraft.

    python -m tests.fuzz.run [--cases 10000] [--seed 0] [--work .fuzz] [KIND …]

Every kind runs in a process of its own, so that a crash or a hang is a case like another; what has run stands in `.fuzz/` and is not run
again. Prints a table; exit code 1 if anything but right results and errors of regraft was seen, or a case took more than 20 s.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.fuzz.kinds import KINDS, cases

LONGEST = 20.0
STARTING = 240.0
MEMORY = 8 * 2**30


def _work(kind: str, *, seed: int, numbers: range, log: Path) -> None:
    """Run the cases of a kind, and write each one down before and after it."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    with tempfile.TemporaryDirectory() as folder, log.open("a", encoding="utf-8") as file:
        case = cases(kind, Path(folder))
        for number in numbers:
            print(json.dumps({"begun": number}), file=file, flush=True)
            begun = time.monotonic()
            came = case(seed, number)
            print(json.dumps({"number": number, "came": came, "seconds": time.monotonic() - begun}), file=file, flush=True)


def _entries(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _watched(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for a process; return what stopped it within a case, or nothing."""
    size, changed, allowed = -1, time.monotonic(), STARTING
    while process.poll() is None:
        time.sleep(0.2)
        now = log.stat().st_size if log.exists() else 0
        if now != size:
            allowed = STARTING if size < 0 else LONGEST + 10
            size, changed = now, time.monotonic()
        elif time.monotonic() - changed > allowed:
            process.kill()
            process.wait()
            return f"more than {allowed:.0f} s"
    return f"ended with {process.returncode}" if process.returncode else ""


def run(kind: str, *, seed: int, count: int, work: Path) -> list[dict[str, Any]]:
    """Run what has not run of a kind; return the cases, each with "number", "came" and "seconds".

    Raises:
        RuntimeError: if the whole file is not used as expected.
    """
    log = work / f"{kind.strip('.').replace(' ', '_')}.{seed}.jsonl"
    while True:
        done = {entry["number"] for entry in _entries(log) if "number" in entry}
        first = next((number for number in range(count) if number not in done), count)
        if first == count:
            return [entry for entry in _entries(log) if entry.get("number", count) < count]
        command = [sys.executable, "-m", "tests.fuzz.run", kind, "--seed", str(seed), "--worker", str(log), str(first), str(count)]
        before = len(_entries(log))
        stopped = _watched(subprocess.Popen(command), log)
        entries = _entries(log)
        if stopped and len(entries) == before:
            raise RuntimeError(f"{kind}: the whole file cannot be used: {stopped}")
        if stopped and "begun" in entries[-1]:
            with log.open("a", encoding="utf-8") as file:
                print(json.dumps({"number": entries[-1]["begun"], "came": f"stopped: {stopped}", "seconds": LONGEST}), file=file)


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return a table in Markdown of all kinds."""
    lines = ["| kind | cases | right results | errors of regraft | others | slowest, s |", "| --- | --- | --- | --- | --- | --- |"]
    total: Counter[str] = Counter()
    for kind, entries in results.items():
        count = Counter({"right": "right", "-": "error"}.get(entry["came"].split("-")[0] or "-", "other") for entry in entries)
        total += count
        slowest = max((entry["seconds"] for entry in entries), default=0.0)
        lines.append(f"| {kind} | {len(entries)} | {count['right']} | {count['error']} | {count['other']} | {slowest:.1f} |")
    slowest = max((entry["seconds"] for entries in results.values() for entry in entries), default=0.0)
    lines.append(f"| all | {sum(total.values())} | {total['right']} | {total['error']} | {total['other']} | {slowest:.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--cases", type=int, default=10_000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(".fuzz"))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        log, first, count = Path(given.worker[0]), int(given.worker[1]), int(given.worker[2])
        _work(given.kinds[0], seed=given.seed, numbers=range(first, count), log=log)
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    each = -(-given.cases // len(KINDS))
    results = {kind: run(kind, seed=given.seed, count=each, work=given.work) for kind in given.kinds or KINDS}
    print(table(results))
    faults = [
        f"{kind} {entry['number']}: {entry['came']} ({entry['seconds']:.1f} s)"
        for kind, entries in results.items()
        for entry in entries
        if entry["came"].startswith(("foreign", "stopped")) or entry["seconds"] > LONGEST
    ]
    print(*faults, sep="\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
