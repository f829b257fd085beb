"""docs/architecture.md: the files from `regraft.adapt` to the loss, the walk of data and plan, and the tree, are what the source is."""

from __future__ import annotations

import re
import sys
import traceback
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.data import Dataset, PreparedData
from regraft.planning.plan import Plan
from regraft.training import loop

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from tree import first_sentence, tree, with_tree  # noqa: E402

SOURCE = ROOT / "src" / "regraft"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_file_and_function_on_the_way_to_the_loss_is_there() -> None:
    steps = re.findall(r"^\d\. `(src/[^`]+)` — (.+?)(?:$|:)", PAGE, flags=re.MULTILINE)
    assert len(steps) == 5
    for path, words in steps:
        source = (ROOT / path).read_text(encoding="utf-8")
        names = re.findall(r"`(\w+)`", words)
        assert names and all(re.search(rf"^\s*def {name}\(", source, flags=re.MULTILINE) for name in names), (path, names)


STRATEGIES: dict[str, dict[str, Any]] = {
    "head": {},
    "partial": {"frozen": 1},
    "full": {"refit": True},
    "surgical": {"block": "auto"},
    "scratch": {},
    "scale_shift": {},
    "codes": {},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_loss_is_reached_through_the_five_files_of_the_page(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ways, loss = set(), loop._loss

    def noted(*args: Any, **named: Any) -> Any:
        frames = [frame.f_code for frame, _ in traceback.walk_stack(None)]
        files = [Path(code.co_filename) for code in frames if "checked_call" not in code.co_qualname]  # the decorator
        ways.add(tuple(dict.fromkeys(f"src/regraft/{one.relative_to(SOURCE)}" for one in reversed(files) if one.is_relative_to(SOURCE))))
        return loss(*args, **named)

    monkeypatch.setattr(loop, "_loss", noted)
    adapted(strategy)
    page = re.findall(r"^\d\. `(src/[^`]+)`", PAGE, flags=re.MULTILINE)
    heads = [*page[:3], "src/regraft/planning/passes.py", page[4]]
    assert ways == {"head": {tuple(heads)}, "scratch": {tuple(page)}}.get(strategy, {tuple(page), tuple(heads)})


def adapted(strategy: str) -> None:
    rows = np.random.default_rng(0).normal(size=(30, 4)).astype("float32")
    labels, speakers = np.where(rows[:, 0] > 0, "a", "b"), [f"speaker {row % 3}" for row in range(30)]
    net = regraft.load(torch.nn.Sequential(*[torch.nn.Linear(4, 4), torch.nn.ReLU()] * 3, torch.nn.Linear(4, 3)), inputs=(4,))
    data = regraft.read((rows, labels), condition=speakers if strategy == "codes" else None)
    regraft.adapt(net, data, strategy=strategy, epochs=1, cache="memory", **STRATEGIES[strategy])


WALKS = {
    "data": ["data", "verbs > data", "verbs > planning > data", "verbs > planning > freezing > data", "verbs > planning > training > data"],
    "plan": ["planning"],
}
"""Name -> the packages that receive it, each from the one before."""
KINDS = {"data": (Dataset, PreparedData), "plan": (Plan,)}


def holds(frame: FrameType, kinds: tuple[type, ...]) -> bool:
    """Return whether a function of regraft has an object of these kinds as an argument, or as an attribute of an argument."""
    code = frame.f_code
    if not code.co_filename.startswith(str(SOURCE)):
        return False
    given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
    return any(isinstance(part, kinds) for value in given for part in (value, *getattr(value, "__dict__", {}).values()))


@pytest.mark.parametrize("strategy", ["head", "partial", "codes"])
def test_the_walk_of_data_and_of_plan_enters_no_package_twice(strategy: str) -> None:
    found: dict[str, set[str]] = {"data": set(), "plan": set()}

    def called(frame: FrameType, event: str, _argument: Any) -> None:
        for name, kinds in KINDS.items():
            if event == "call" and holds(frame, kinds):
                files = [Path(one.f_code.co_filename) for one, _ in traceback.walk_stack(frame) if holds(one, kinds)]
                packages = [file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in reversed(files)]
                found[name].add(" > ".join(package for package, _ in groupby(packages)))

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        adapted(strategy)
    finally:
        sys.setprofile(before)
    for name, walks in found.items():
        assert walks and all(any(known.startswith(walk) for known in WALKS[name]) for walk in walks), (name, walks)
    assert "verbs > planning > data" in found["data"]


def test_the_tree_is_that_of_the_source() -> None:
    drawn = tree(SOURCE)
    assert len(drawn.splitlines()) == len(list(SOURCE.rglob("*.py"))), "a folder without __init__.py is missing in the tree"
    assert with_tree(PAGE, drawn) == PAGE, "The tree is stale: run `python scripts/tree.py` and commit docs/architecture.md."


def test_every_file_says_what_it_holds_in_one_line() -> None:
    said = {path: first_sentence(path) for path in SOURCE.rglob("*.py")}
    assert not [path for path, words in said.items() if not 10 <= len(words) <= 160]


def test_the_table_of_layers_has_every_package_and_nothing_else() -> None:
    table = PAGE[PAGE.index("## Layers") : PAGE.index("## Where the frozen part ends")]
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", table.split("| --- | --- |")[1]))
    there = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} | {path.stem for path in SOURCE.glob("[!_]*.py")}
    assert named == there
