"""Every public name has an example in its docstring, and the examples run: those of methods go on from that of their class."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path
from typing import Any

import pytest

import regraft
from regraft import verbs
from regraft.networks.network import Network

PARSER = doctest.DocTestParser()
NAMES = [*regraft.__all__, *sorted(set(verbs.__all__) - set(regraft.__all__))]
FACE = ("copy", "export", "features", "head_of", "logits", "predict", "save", "summary", "to")
"""Of a network, what its users call; the rest is for those who add a family."""


def _public(name: str) -> Any:
    return getattr(regraft, name, None) or getattr(verbs, name)


def _methods(kind: type) -> list[str]:
    if kind is Network:
        return list(FACE)
    own = {name for base in kind.__mro__ if base.__module__.startswith("regraft.") for name in vars(base) if name[0] != "_"}
    return sorted(name for name in own if inspect.isroutine(part := getattr(kind, name)) and part.__module__.startswith("regraft."))


def _run(words: str | None, where: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the example of a docstring, and return the names that it leaves."""
    assert ">>> " in (words or ""), f"{where} has no Example in its docstring"
    test = PARSER.get_doctest(inspect.cleandoc(words or ""), names, where, None, None)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append, clear_globs=False)
    assert not said, "".join(said)
    return test.globs


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    what = _public(name)
    names = _run(what.__doc__, name, {})
    for method in _methods(what) if inspect.isclass(what) else []:
        _run(getattr(what, method).__doc__, f"{name}.{method}", dict(names))
