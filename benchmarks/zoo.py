"""Networks that are ordinary elsewhere, opened, adapted, saved and exported here: one process for each, with random weights.

    python benchmarks/zoo.py [--library timm] [--only NAME] [--columns open,probe] [--again failed] [--seconds 400]
    python benchmarks/zoo.py --table

Networks: the smallest one of every module of timm, every classifier of torchvision, the smallest one of every family of
keras.applications, and a tiny configuration of every Transformers class that classifies pictures, sound or texts. Results go to
`zoo.json` after every network, so that a run may be ended at any time and taken up again; what is there already is not run twice. A
column that fails has its reason in place of "ok": "refused" is an error of regraft's own, "foreign" is one of another library, which a
user should never see.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import filelock
import numpy as np
import torch
from zoo_networks import LIBRARIES, Case, NotBuilt

import regraft

RESULTS = Path(__file__).with_name("zoo.json")
CHEAP = ("open", "head found", "retarget", "probe", "save")
COLUMNS = (*CHEAP, "head", "partial", "full", "auto", "onnx")
CLASSES = ["a", "b", "c"]
CPU_SECONDS = 60
TOO_SLOW = "not within"
ONE_EPOCH: dict[str, Any] = {"epochs": 1, "batch_size": 8, "cache": "memory", "refit": False}
PLAIN_STEPS = {"optimizer": "sgd", "momentum": 0.0}  # for networks of more than HUGE weights: AdamW holds two more copies of them
HUGE = 500_000_000


class Differs(Exception):
    """A result that is not what the framework gives."""


class Trial:
    """One network, and what each column does with it; `folder` outlives the process, for the one that opens what was saved."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.folder = case, folder
        self.items = case.examples(24)
        self.data = regraft.read((self.items, np.array(CLASSES * 8)), **({"kind": "text"} if case.texts else {}))
        self.net: Any = None

    def open(self) -> None:
        """Open it."""
        self.net = self.case.opened(self.folder / "source")

    def head_found(self) -> None:
        """It has a head of as many rows as the framework's own network gives."""
        if not self.case.classes and not self.net.heads:
            return
        if not self.net.heads or len(self.net.head.weight) not in (self.case.classes, max(2, self.case.classes)):
            found = len(self.net.head.weight) if self.net.heads else None
            raise Differs(f"head of {found} rows; the network gives {self.case.classes}")

    def retarget(self) -> None:
        """Its weights are named and shaped as those that the framework makes for that number of classes.

        Heads that only training calls (torchvision's googlenet and inception_v3) keep their rows, and do not count.
        """
        changed = regraft.retarget(self.net, CLASSES)
        if not self.case.classes:  # it comes without a head, and where a head goes is not the library's to say
            return
        own, expected = shapes_of(changed), self.case.retargeted(self.net)
        own, expected = ([pair for pair in pairs if not pair[0].lower().startswith("aux")] for pairs in (own, expected))
        if own != expected:
            named = dict(expected)
            wrong = [f"{name} {shape} / {named.get(name)}" for name, shape in own if named.get(name) != shape][:2]
            raise Differs(f"{len(own)} weights, {len(expected)} in the framework's network; {wrong}")

    def adapted(self, strategy: str) -> Any:
        """Adapt it by a strategy, and use the result."""
        huge = sum(tensor.numel() for tensor in self.net.state().values()) > HUGE
        settings = {} if strategy == "probe" else ONE_EPOCH | (PLAIN_STEPS if huge else {})
        settings = settings | {"frozen": max(1, len(self.net.blocks) // 2)} if strategy == "partial" else settings
        result = regraft.adapt(self.net, self.data, strategy=strategy, validation=0.2, **{"cache": "memory", **settings})
        said = result.network.predict(self.items).probabilities
        if said.shape != (24, 3) or not np.isfinite(said).all():
            raise Differs(f"probabilities {said.shape}, {int(np.isfinite(said).sum())} of them finite")
        return result

    def save(self) -> None:
        """Save a network with another head; another process compares the logits."""
        changed = regraft.retarget(self.net, CLASSES, start="random")
        changed.save(self.folder / "saved")
        np.save(self.folder / "logits.npy", changed.logits(self.items))

    def onnx(self) -> None:
        """Export it; regraft compares what ONNX Runtime gives with its own logits."""
        self.net.export(self.folder / "network.onnx")

    def steps(self) -> dict[str, Callable[[], Any]]:
        """Return what is done, by column."""
        own = {"open": self.open, "head found": self.head_found, "retarget": self.retarget, "save": self.save, "onnx": self.onnx}
        return own | {name: (lambda name=name: self.adapted(name)) for name in ("probe", "head", "partial", "full", "auto")}


def shapes_of(net: Any) -> list[tuple[str, list[int]]]:
    """Return names and shapes of all weights of a network; those of Keras, whose names hold counters, without names."""
    if net.family == "keras":
        return [(str(index), list(weight.shape)) for index, weight in enumerate(net.module.weights)]
    return [(name, list(tensor.shape)) for name, tensor in net.module.state_dict().items()]


def reopened(case: Case, folder: Path) -> None:
    """In a fresh process: open what was saved; its logits are the same."""
    found = regraft.load(folder / "saved").logits(case.examples(24))
    expected = np.load(folder / "logits.npy")
    if not np.array_equal(found, expected):
        raise Differs(f"logits of the opened folder differ by up to {np.abs(found - expected).max():.2g}")


def attempted(step: Callable[[], Any]) -> str:
    """Return "ok", or why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step()
    except (regraft.RegraftError, Differs, NotBuilt) as error:
        kind = {Differs: "differs", NotBuilt: "not built"}.get(type(error), "refused")
        return f"{kind}: {' '.join(str(error).split())}"[:400]
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        place = next((frame for frame in reversed(where) if "regraft" in frame.filename), where[-1])
        return f"foreign: {type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"[:400]
    return "ok"


def in_process(work: Callable[[Callable[[str, str], None]], None], seconds: int) -> tuple[dict[str, str], str]:
    """Do `work` in a child that knows no other network, under a limit of CPU time; return what it told and how it ended ("": well)."""
    with tempfile.NamedTemporaryFile() as told:
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
            with open(told.name, "a", buffering=1) as file:
                code = 1
                try:
                    work(lambda column, result: print(json.dumps([column, result]), file=file, flush=True))
                    code = 0
                finally:
                    os._exit(code)
        status = os.waitpid(child, 0)[1]
        results = dict(json.loads(line) for line in Path(told.name).read_text().splitlines())
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number == signal.SIGXCPU:
        return results, f"{TOO_SLOW} {seconds} s of CPU time"
    return results, f"ended by {signal.Signals(number).name}" if number else "" if status == 0 else "ended"


def measured(case: Case, columns: Sequence[str], *, limit: int) -> dict[str, str]:
    """Return the result of each column for one network."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def work(tell: Callable[[str, str], None]) -> None:
            torch.manual_seed(0)
            trial = Trial(case, folder)
            for column in ("open", *(column for column in columns if column != "open")):
                tell(column, "began")
                result = attempted(trial.steps()[column]).replace(f"{folder}{os.sep}", "")
                tell(column, result)
                gc.collect()  # networks hold themselves
                if column == "open" and result != "ok":
                    return
            if case.note:
                tell("note", case.note)

        results, end = in_process(work, limit)
        results = {column: end or "ended" if result == "began" else result for column, result in results.items()}
        if results.get("save") == "ok":
            again, end = in_process(lambda tell: tell("save", attempted(lambda: reopened(case, folder))), limit)
            results["save"] = again.get("save", end)
    return results


def warm_up() -> None:
    """Import what every child needs, once."""
    net = regraft.load(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3)), inputs=(3, 2, 2))
    rows = np.random.default_rng(0).normal(size=(24, 3, 2, 2)).astype(np.float32)
    regraft.adapt(net, (rows, np.array(CLASSES * 8)), strategy="full", **ONE_EPOCH)


def stored() -> dict[str, dict[str, dict[str, str]]]:
    """Return the results of all runs, by library and case."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(library: str, key: str, found: dict[str, str]) -> None:
    """Put what was found for one network into the file; several runs may do so at a time."""
    with filelock.FileLock(f"{RESULTS}.lock"):
        results = stored()
        rows = results.setdefault(library, {})
        rows[key] = rows.get(key, {}) | found
        results[library] = dict(sorted(rows.items()))
        new = RESULTS.with_suffix(".new")
        new.write_text(json.dumps(results, indent=1) + "\n")
        new.replace(RESULTS)


def table(results: dict[str, Any]) -> Iterator[str]:
    """Yield the table as Markdown, and each failure with its reason.

    A cell has the number of networks that a column is right for, of all that the library builds, and how many of these are unknown, because
    the time limit ended them or they were not run. Where opening fails, every column does.
    """
    yield "| networks | " + " | ".join(COLUMNS) + " |"
    yield "| --- |" + " --- |" * len(COLUMNS)
    for library, every in results.items():
        rows = {name: row for name, row in every.items() if not row["open"].startswith("not built")}
        cells = []
        for column in COLUMNS:
            found = [row.get(column, TOO_SLOW) if row["open"] == "ok" else row["open"] for row in rows.values()]
            unknown = sum(result.startswith(TOO_SLOW) for result in found)
            cells.append(f"{found.count('ok')}/{len(rows)}" + (f", {unknown} unknown" if unknown else ""))
        yield f"| {library} ({len(rows)}) | " + " | ".join(cells) + " |"
    yield ""
    for library, rows in results.items():
        for name, row in rows.items():
            reasons: dict[str, list[str]] = {}
            for column in COLUMNS:
                if row.get(column, "ok") != "ok":
                    reasons.setdefault(row[column], []).append(column)
            for reason, columns in reasons.items():
                yield f"- {library} `{row.get('network', name)}`, {', '.join(columns)}: {' '.join(reason.split())[:220]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=[*LIBRARIES], action="append")
    parser.add_argument("--only", action="append", help="names of networks, modules, families or classes")
    parser.add_argument("--columns", default=",".join(CHEAP))
    parser.add_argument("--again", choices=["failed", "all"], help="run again what is there already")
    parser.add_argument("--seconds", type=float, default=400.0, help="of the whole run")
    parser.add_argument("--limit", type=int, default=CPU_SECONDS, help="seconds of CPU time of one network")
    parser.add_argument("--sample", type=float, default=1.0, help="this share of the networks, the same ones each time")
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(stored())))
        return
    warm_up()
    begun, wanted = time.monotonic(), options.columns.split(",")
    for library in options.library or LIBRARIES:
        rows = stored().get(library, {})
        cases = LIBRARIES[library]()
        chosen = np.random.default_rng(0).random(len(cases)) < options.sample
        for take, case in zip(chosen, cases, strict=True):
            row = rows.get(case.key, {})
            known = {name for name, result in row.items() if options.again is None or (options.again == "failed" and result == "ok")}
            missing = [column for column in wanted if column not in known]
            if not take or not missing or (options.only and not {case.key, case.name} & set(options.only)):
                continue
            if row.get("open", "ok") != "ok" and not options.again:
                continue
            if time.monotonic() - begun > options.seconds:
                return
            found = {"network": case.name, **measured(case, missing, limit=options.limit)}
            bad = {column: result for column, result in found.items() if column in ("open", *missing) and result != "ok"}
            print(library, case.name, bad or "ok", flush=True)
            keep(library, case.key, found)


if __name__ == "__main__":
    main()
