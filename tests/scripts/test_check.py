# ruff: noqa: E501  (each broken tree stands on one line)
"""The gate, on small trees that each break one rule."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check.py"
GOOD = {
    "__init__.py": '"""Top."""\n',
    "errors.py": '"""Errors."""\n\n__all__ = ["Wrong"]\n\n\nclass Wrong(Exception):\n    """Root."""\n',
    "networks/__init__.py": '"""Networks."""\n\nfrom .contract import Net\n\n__all__ = ["Net"]\n',
    "networks/contract.py": (
        '"""Contract."""\n\nfrom ..errors import Wrong\n\n__all__ = ["Net"]\n\n\nclass Net:\n    """A network."""\n\n'
        '    def opened(self, path: str) -> str:\n        """Return what lies at `path`.\n\n        Raises:\n            Wrong: if it is empty.\n'
        '        """\n        if not path:\n            raise Wrong(f"received {path!r}")\n        return path\n'
    ),
    "networks/keras/__init__.py": '"""Keras."""\n',
    "networks/keras/family.py": '"""Keras."""\n\nimport keras\n\n__all__ = ["Net"]\n\nNet = keras.Model\n',
    "data/__init__.py": '"""Data."""\n\nfrom ..networks import Net\n\n__all__ = ["Net"]\n',
    "training/__init__.py": '"""Loop."""\n\n\ndef _loop(loss, optimizer, scheduler):  # over the limit: a fixture\n'
    "    loss.backward()\n    optimizer.step()\n    scheduler.step()\n",
}


def gate(root: Path, *, red: Path | None = None, **files: str) -> tuple[int, str]:
    """Write the good tree with some files put over it, and run the gate on it, with a red list."""
    package = root / "thing"
    for name, text in {**GOOD, **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(package), *filter(None, [red and str(red)])], capture_output=True, text=True, check=False
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def with_use(text: str) -> str:
    """Return a file that uses the private names that it defines."""
    names = re.findall(r"^(?:def|class) (_\w+)", text, flags=re.MULTILINE)
    return f"{text}[{', '.join(names)}]\n" if names else text


def test_a_good_tree_passes(tmp_path: Path) -> None:
    code, text = gate(tmp_path)
    assert code == 0, text
    assert "BROKEN" not in text and "<= 60" in text
    assert "over the limit with a reason" in text and "(a fixture)" in text


def test_no_package(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "no python files" in done.stderr


def body(lines: int) -> str:
    return "def _long():\n" + "    x = 1\n" * (lines - 1)


DOC = '"""Doc."""\n\n'
TYPING = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from {} import Net\n"
DOOR = "import importlib\n\n\ndef _library(room: str = ''):\n    return importlib.import_module(f'thing.{room}' if room else 'thing')\n\n\n"
FORMULA = '__all__ = ["f"]\n\n\ndef f() -> int:\n    """Return 1 (2020)."""\n    return 1\n'
BROKEN = {
    "circle of types": (
        {"networks/a.py": DOC + "from .b import Net\n", "networks/b.py": DOC + TYPING.format(".a")},
        "b.py:6: typing import on a circle: thing.networks.a",
    ),
    "types of a room above": ({"networks/a.py": DOC + TYPING.format("..data")}, "a.py:6: room networks may not import data"),
    "import by string": (
        {"data/a.py": DOC + "import importlib\nimportlib.import_module('thing.networks')\n"},
        "a.py:4: import by string: thing.networks",
    ),
    "relative import by string": (
        {"data/a.py": DOC + "from importlib import import_module\nimport_module('..networks', __package__)\n"},
        "a.py:4: import by string: thing.networks",
    ),
    "import through a door": ({"data/a.py": DOC + DOOR + "_library('networks')\n"}, "a.py:10: import by string: thing.networks"),
    "the top through a door": ({"data/a.py": DOC + DOOR + "_library()\n"}, "a.py:10: import by string: thing"),
    "a door of another file": (
        {
            "data/b.py": DOC + DOOR.replace("_library", "library") + "__all__ = ['library']",
            "data/a.py": DOC + "from .b import library\nlibrary('networks').x()\n",
        },
        "a.py:4: import by string: thing.networks",
    ),
    **{
        f"import by string: {how}": (
            {"data/a.py": DOC + lines + "\n"},
            f"a.py:{2 + len(lines.splitlines())}: import by string: thing.networks",
        )
        for how, lines in {
            "under another name": "from importlib import import_module as opened\nopened('thing.networks')",
            "a name of the file": "import importlib\nNAME = 'thing.networks'\nimportlib.import_module(NAME)",
            "put together": "import importlib\nimportlib.import_module('thing' + '.networks')",
            "joined": "import importlib\nimportlib.import_module('.'.join(['thing', 'networks']))",
            "by keyword": "import importlib\nimportlib.import_module(name='thing.networks')",
            "with pkgutil": "import pkgutil\npkgutil.resolve_name('thing.networks:Net')",
            "what is loaded": "import sys\nsys.modules['thing.networks']",
        }.items()
    },
    "import by string: beside the file": (
        {"networks/b.py": DOC + "import importlib\nimportlib.import_module(f'{__package__}.a')\n"},
        "b.py:4: import by string: thing.networks.a",
    ),
    "private attribute": (
        {"networks/a.py": DOC + "class _A:\n    _x = 1\n", "data/a.py": DOC + "def _f(a):\n    return a._x\n"},
        "data/a.py:4: private name of another file: _x",
    ),
    "private attribute set within": (
        {"networks/a.py": DOC + "class _A:\n    def _f(self):\n        self._x = 1\n", "data/a.py": DOC + "def _f(a):\n    a._x = 1\n"},
        "data/a.py:4: private name of another file: _x",
    ),
    "private attribute by string": (
        {"networks/a.py": DOC + "class _A:\n    _x = 1\n", "data/a.py": DOC + "def _f(a):\n    return getattr(a, '_x', None)\n"},
        "data/a.py:4: private name of another file: _x",
    ),
    "private attribute of a namespace": (
        {"networks/a.py": DOC + "class _A:\n    _x = 1\n", "data/a.py": DOC + "def _f(a):\n    return vars(a)['_x'] + a.__dict__['_x']\n"},
        "data/a.py:4: private name of another file: _x",
    ),
    "private function that nothing uses": ({"data/a.py": DOC + "def _f():\n    return _f()\n"}, "data/a.py:3: nothing uses _f"),
    "system": ({"data/a.py": DOC + "import fcntl\n"}, "data/a.py:3: fcntl is not there on every system"),
    "class of formulas that nothing runs": (
        {"methods/a.py": DOC + '__all__ = ["F"]\n\n\nclass F:\n    """One (2020)."""\n'},
        "methods/a.py:6: formula that nothing runs: F",
    ),
    "private import": (
        {"networks/a.py": DOC + "_x = 1\n", "data/a.py": DOC + "from ..networks.a import _x\n"},
        "data/a.py:3: private name of another file: _x",
    ),
    "participle": ({"data/a.py": DOC + "class _Trained: ...\n"}, "data/a.py:3: class _Trained: a participle; name the thing with a noun"),
    "participle at the end": ({"data/a.py": DOC + "class _TrialKept: ...\n"}, "data/a.py:3: class _TrialKept: a participle"),
    "formula that nothing runs": ({"methods/a.py": DOC + FORMULA}, "methods/a.py:6: formula that nothing runs: f"),
    "formula of networks that nothing runs": (
        {"networks/parts/a.py": DOC + FORMULA},
        "networks/parts/a.py:6: formula that nothing runs: f",
    ),
    "formula that is only exported": (
        {"probes/a.py": DOC + FORMULA, "probes/__init__.py": DOC + "from .a import f\n\n__all__ = ['f']\n"},
        "probes/a.py:6: formula that nothing runs: f",
    ),
    "formula of a dead formula": (
        {"probes/a.py": DOC + FORMULA.replace('["f"]', '["f", "g"]') + '\n\ndef g() -> int:\n    """Return 1."""\n    return f()\n'},
        "probes/a.py:6: formula that nothing runs: f",
    ),
    "long function": ({"networks/a.py": DOC + body(61)}, "a.py:3: function _long has 61 code lines; at most 60"),
    "long file": ({"networks/a.py": DOC + "X = 1\n" * 799}, "a.py:1: the file has 801 lines; at most 800"),
    "full folder": ({f"data/m{k}.py": DOC for k in range(16)}, "folder data holds 17 python files; at most 16"),
    "deep folder": ({"data/a/b/c/d.py": DOC}, "folder data/a/b/c lies 4 below the package; at most 3"),
    "many arguments": ({"data/a.py": DOC + "def _f(a, b, *, c, d, e, f, g, h): ...\n"}, "a.py:3: function _f has 8 arguments; at most 7"),
    "third positional": ({"data/a.py": DOC + "class _A:\n    def f(self, a, b, c): ...\n"}, "a.py:4: function f: make c keyword-only"),
    "cycle": (
        {"data/a.py": DOC + "from .b import x\n", "data/b.py": DOC + "from . import a\nx = 1\n"},
        "import cycle: thing.data.a -> thing.data.b -> thing.data.a",
    ),
    "cycle by the init": (
        {"data/__init__.py": DOC + "from .a import x\n", "data/a.py": DOC + "from . import x\n"},
        "import cycle: thing.data",
    ),
    "hidden import": (
        {"data/a.py": DOC + "def _f():\n    from ..networks import Net\n"},
        "a.py:4: import of thing.networks inside a function",
    ),
    "hidden absolute import": (
        {"data/a.py": DOC + "def _f():\n    import thing.errors\n"},
        "a.py:4: import of thing.errors inside a function",
    ),
    "circle of a command": (
        {"cli/a.py": DOC + "def _f():\n    from .b import x\n", "cli/b.py": DOC + "from . import a\nx = 1\n"},
        "import cycle: thing.cli.a -> thing.cli.b -> thing.cli.a",
    ),
    "upward import": ({"networks/a.py": DOC + "from .. import data\n"}, "a.py:3: room networks may not import data (thing.data)"),
    "sideways import": (
        {"exchange/__init__.py": DOC, "search/a.py": DOC + "from ..exchange import x\n"},
        "room search may not import exchange",
    ),
    "import of the top": ({"networks/a.py": DOC + "from .. import load\n"}, "room networks may not import the top of the package"),
    "unknown room": ({"utils/a.py": DOC}, "room utils is not in the list ROOMS"),
    "keras outside": ({"data/a.py": DOC + "def _f():\n    from keras.layers import Dense\n"}, "a.py:4: keras is imported outside"),
    "unsorted all": ({"data/a.py": DOC + '__all__ = ["b", "a"]\na = b = 1\n'}, "a.py:3: __all__ is not sorted"),
    "all of objects": ({"data/a.py": DOC + "a = 1\n__all__ = [a]\n"}, "a.py:4: __all__ holds something that is not a string"),
    "no all": ({"data/a.py": DOC + 'def shown() -> None:\n    """Show."""\n'}, "a.py:1: no other file uses shown; begin with"),
    "not in all": ({"data/a.py": DOC + '__all__ = []\n\n\nclass Shown:\n    """S."""\n'}, "public but not in __all__: Shown"),
    "assert": ({"data/a.py": DOC + "assert True\n"}, "a.py:3: assert; raise an error"),
    "ignore": ({"data/a.py": DOC + "x = 1  # type: ignore\n"}, "a.py:3: 'type: ignore' without a code"),
    "bare raises": ({"data/a.py": DOC + 'def _f():\n    raise ValueError("no")\n'}, "a.py:4: an error whose message carries no value"),
    "second backward": (
        {"methods/a.py": DOC + "def _f(loss):  # 2020\n    loss.backward()\n"},
        "training/__init__.py:5: a second .backward( site",
    ),
    "second step": ({"verbs.py": DOC + "def _f(opt):\n    opt.step()\n"}, "verbs.py:4: a second .step( site"),
    "method without source": ({"methods/a.py": DOC + "X = 1\n"}, "a.py:1: a method without its source"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_told_with_its_place(tmp_path: Path, name: str) -> None:
    files, expected = BROKEN[name]
    code, text = gate(tmp_path, **files)
    assert code == 1
    assert expected in text, text


FUNCTION = (
    DOC + '__all__ = ["f"]\n\n\ndef f(a: int, b: int) -> int:\n    {doc}\n    if a:\n        raise ValueError(f"{{a}}")\n    return b\n'
)


@pytest.mark.parametrize(
    ("doc", "faults"),
    [
        ('"""Return the sum of `a` and `b`.\n\n    Raises:\n        ValueError: never.\n    """', []),
        (
            '"""Sum.\n\n    Args:\n        a: one.\n        b: two.\n\n    Returns:\n        It.\n\n    Raises:\n        ValueError: no.\n    """',
            [],
        ),
        ("pass", ["function f has no docstring"]),
        (
            '"""Add `a`."""',
            ["does not describe the argument b", "does not describe what it returns", "raises ValueError and does not list it"],
        ),
        (
            '"""Return the sum.\n\n    Args:\n        a: the a.\n        b: two.\n\n    Raises:\n        ValueError: never.\n    """',
            ["says of a nothing but its name"],
        ),
        (
            '"""Return the sum of `a` and another.\n\n    Raises:\n        ValueError: never.\n\n    Example:\n        >>> f(1, b=2)\n        2\n    """',
            ["does not describe the argument b"],
        ),
    ],
)
def test_docstrings(tmp_path: Path, doc: str, faults: list[str]) -> None:
    code, text = gate(tmp_path, **{"data/a.py": FUNCTION.format(doc=doc)})
    assert (code, text.count("data/a.py:6: function f")) == (int(bool(faults)), len(faults)), text
    for fault in faults:
        assert fault in text


def test_outside_of_what_the_package_exports_one_line_is_enough_and_sections_are_too_much(tmp_path: Path) -> None:
    for names, expected in (('["Net"]', 0), ('["f"]', 4)):
        _, text = gate(tmp_path, **{"data/a.py": FUNCTION.format(doc='"""It."""'), "__init__.py": DOC + f"__all__ = {names}\n"})
        assert len(re.findall("does not describe|does not list", text)) == expected, text
    doc = '"""Return it.\n\n    Args:\n        a: (N,) numbers.\n\n    Raises:\n        ValueError: no.\n    """'
    code, text = gate(tmp_path, **{"data/a.py": FUNCTION.format(doc=doc), "__init__.py": DOC + '__all__ = ["Net"]\n'})
    assert code == 1 and re.findall(r"needs no section (\w+)", text) == ["Args", "Raises"], text


def test_public_names_and_methods_have_an_example(tmp_path: Path) -> None:
    top = DOC + 'from .data.a import Own\n\n__all__ = ["Own"]\n'
    own = (
        DOC
        + '__all__ = ["Own"]\n\n\nclass Own:\n    """It.\n\n    Example:\n        >>> 1\n        1\n    """\n\n    def f(self) -> int:\n        """Return {}"""\n        return 1\n'
    )
    code, text = gate(tmp_path, **{"__init__.py": top, "data/a.py": own.format("one.")})
    assert code == 1 and "public name without an example: Own.f" in text, text
    assert "without an example: " not in gate(tmp_path, **{"__init__.py": top, "data/a.py": own.format("one: >>> Own().f()")})[1]


def test_a_public_name_has_its_docstring_in_a_file_without_all(tmp_path: Path) -> None:
    top = DOC + 'from .data import f\n\n__all__ = ["f"]\n'
    held = DOC + 'def f(a: int) -> int:\n    """Return it."""\n    return a\n'
    text = gate(tmp_path, **{"__init__.py": top, "data/__init__.py": DOC + "from .a import f\n", "data/a.py": held})[1]
    assert "public name without an example: f.f" in text and "function f does not describe the argument a" in text, text


def test_docstrings_of_methods_are_inherited(tmp_path: Path) -> None:
    derived = (
        DOC
        + 'from ..networks import Net\n\n__all__ = ["Own"]\n\n\nclass Own(Net):\n    """Own."""\n\n    def {name}(self, path: str) -> str:\n        return path\n'
    )
    assert gate(tmp_path, **{"data/a.py": derived.format(name="opened")})[0] == 0
    code, text = gate(tmp_path, **{"data/a.py": derived.format(name="closed")})
    assert code == 1 and "a.py:11: function closed (class Own) has no docstring" in text


ALLOWED = {
    "of one system": "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None\n",
    "a private function that a decorator hands on": "import atexit\n\n\n@atexit.register\ndef _f(): ...\n",
    "another library's module that is loaded": "import sys\n\nsys.modules['thinging']\n",
    "type checking": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from ..errors import Wrong\n",
    "foreign import by string": "import importlib\n\nimportlib.import_module('thinging.a')\n",
    "private names of one's own": "class _A:\n    def _f(self, other):\n        self._x = other._x\n",
    "private names of other libraries": "import torch\n\ntorch._C\n",
    "names of things": "class _Feed: ...\n\n\nclass _AddedBias: ...\n",
    "positional only": "def _f(a, b, c, /, d=None, *, e): ...\n".replace("d=None, ", ""),
    "callback": "def _f():\n    def hook(module, args, output): ...\n    return hook\n",
    "context manager": "class _C:\n    def __exit__(self, kind, value, trace): ...\n",
    "reraise": "def _f():\n    try:\n        _f()\n    except OSError as error:\n        raise error\n",
    "coded ignore": "x = 1  # type: ignore[assignment]\n",
    "ruff's order": '__all__ = ["MOST", "Mean", "mean"]\nMOST = Mean = mean = 1\n',
    "docstrings, comments and blank lines do not count": 'def _f():\n    """'
    + "a\n" * 70
    + '"""\n'
    + "    # why\n\n" * 70
    + "    return 1\n",
    "assert with a reason": "assert True  # over the limit: the type checker needs it\n",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_allowed(tmp_path: Path, name: str) -> None:
    code, text = gate(tmp_path, **{"networks/a.py": DOC + with_use(ALLOWED[name])})
    assert code == 0, text


def test_a_file_needs_no_all_where_other_files_use_its_names(tmp_path: Path) -> None:
    files = {
        "networks/a.py": DOC + 'def shown() -> None:\n    """Show."""\n',
        "data/b.py": DOC + "from ..networks.a import shown\n\nX = shown\n",
    }
    assert gate(tmp_path, **files)[0] == 0


def test_a_command_imports_the_library_where_it_runs(tmp_path: Path) -> None:
    late = DOC + "def _f():\n    from ..networks import Net\n\n    return Net\n"
    assert gate(tmp_path, **{"cli/a.py": with_use(late)})[0] == 0
    upward = DOC + "def _f():\n    from ...data import Net\n\n    return Net\n"
    code, text = gate(tmp_path, **{"networks/sources/opening.py": upward})
    assert code == 1 and "opening.py:4: room networks may not import data" in text


USERS = {
    "import": "from ..methods import f\n\nf()\n",
    "module": "from ..methods import a\n\na.f()\n",
    "value": "from ..methods.a import f as formula\n\nTABLE = {'f': formula}\n",
    "door": DOOR + "_library('methods').f()\n",
    "door with a name": DOOR + "def _g():\n    shown, methods = 1, _library('methods')\n    return methods.f() + shown\n",
}


@pytest.mark.parametrize("name", USERS)
def test_a_formula_is_run_by_whoever_calls_it(tmp_path: Path, name: str) -> None:
    text = gate(
        tmp_path, **{"methods/a.py": DOC + FORMULA, "methods/__init__.py": DOC + "from .a import f\n", "planning/a.py": DOC + USERS[name]}
    )[1]
    assert "nothing runs: f" not in text, text


def test_the_red_list_only_shrinks(tmp_path: Path) -> None:
    files, red = {"methods/a.py": DOC + FORMULA}, tmp_path / "red.txt"
    red.write_text("# known\nformula that nothing runs | methods/a.py | f\n", encoding="utf-8")
    assert gate(tmp_path, red=red, **files)[0] == 0
    code, text = gate(tmp_path, red=red, **files, **{"methods/b.py": DOC + FORMULA})
    assert code == 1 and "methods/b.py:6: formula that nothing runs: f" in text and "methods/a.py:6" not in text
    code, text = gate(tmp_path, red=red, **{name: DOC + "X = 2020\n" for name in ("methods/a.py", "methods/b.py")})
    assert code == 1 and "red.txt:2: no longer needed; remove the line: formula that nothing runs | methods/a.py | f" in text


def test_lengths_with_a_reason(tmp_path: Path) -> None:
    long = "# over the limit: a table of names\n" + "X = 1\n" * 900 + "\n# over the limit: one table\n" + with_use(body(70))
    _, text = gate(tmp_path, **{"data/a.py": long} | {f"data/f{k}.py": DOC + with_use("def _f():\n    return 1\n") for k in range(10)})
    assert "data/a.py:1: the file has 974 lines; at most 800 (a table of names)" in text, text
    assert "data/a.py:904: function _long has 70 code lines; at most 60 (one table)" in text
    assert "BROKEN" not in text.split("function code lines, max")[1], text


def test_percentiles_are_limits_too(tmp_path: Path) -> None:
    code, text = gate(tmp_path, **{"data/a.py": DOC + with_use("".join(body(9).replace("_long", f"_f{k}") for k in range(9)))})
    assert code == 1 and "function code lines, median" in text
    assert text.count("BROKEN") == 1
