"""Error handling of the commands: errors become one readable message and an exit code, warnings one line."""

from __future__ import annotations

import functools
import inspect
import itertools
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ..console import progress, rewording, speaking, tell
from ..errors import InputError, MissingExtraError, RegraftError, name_here
from ..files.text import printable
from .shared import SETTINGS

__all__ = ["Commands", "as_options", "command", "guarded", "spread"]

_PACKAGE = str(Path(__file__).resolve().parent.parent)
_DEBUG: ContextVar[bool] = ContextVar("regraft_debug", default=False)

_OPTIONS = {
    "weights='random'": "--random-weights",
    "skip_bad=True": "--skip-bad",
    "outside=True": "--outside",
    "resume=False": "--no-resume",
    "replace=True": "--replace",
    "trust=True": "--trust",
    "unknown=True": "--unknown",
    "what='head'": "regraft export --what head",
    "preprocessing=True": "--with-preprocessing",
    "statistics=True": "--statistics own",
    "architecture=, a module or a function that makes it": "--architecture MODULE:NAME, a class or a function that makes it",
    "classes= when the network is loaded": "--source-classes",
}
_KEYWORD = re.compile(r"regraft\.\w+\([^)]*\)|\b([a-z_]+)=('[^']*'|(?=[\s.,;)]|$))")
"""A keyword of the library in a message: `kind='text'`, or `kind=` alone; and a call, which is matched to be left as it is."""
_BUILT = re.compile(r"Build the (network|model) in code and pass [^:]*: regraft\.load\(\w+, weights='[^']*'\)")
"""Advice of the library on a weights file, which contains no architecture."""
_OWN: ContextVar[frozenset[str] | None] = ContextVar("regraft_options", default=None)
"""Options of the running command; None if no command runs."""

_UsageError: Any = typer.BadParameter.__mro__[1]  # click's UsageError. Newer versions of Typer contain their own copy of click

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Commands(TyperGroup):
    """Command group that accepts `--debug` at any position and escapes invalid arguments in messages."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the remaining arguments for `ctx`. `--debug` before a `--` is removed from `args` and recorded."""
        end = args.index("--") if "--" in args else len(args)
        _DEBUG.set("--debug" in args[:end])
        rest = [part for part in args[:end] if part != "--debug"] + args[end:]
        with _escaped_usage() if rest else nullcontext():  # without arguments the "error" is the help
            return super().parse_args(ctx, rest)

    def invoke(self, ctx: Any) -> Any:
        """Run the command of `ctx` and return its result. Arguments quoted in usage errors are escaped."""
        try:
            with _escaped_usage():
                return super().invoke(ctx)
        finally:
            _OWN.set(None)


class _Command(TyperCommand):
    """Command that rejects an option as the value of the preceding option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the remaining arguments."""
        options = {name: option for option in self.params for name in option.opts if name.startswith("--")}
        _OWN.set(frozenset(options))
        for word, value in itertools.pairwise(args[: args.index("--")] if "--" in args else args):
            option: Any = options.get(word)
            if option is not None and not option.is_flag and value in options:
                raise _UsageError(f"Option '{word}' takes a value, {option.metavar}; received the option '{value}'.", ctx=ctx)
        return super().parse_args(ctx, args)


def command(  # over the limit: all parts of a command
    app: typer.Typer,
    name: str,
    run: Callable[..., None],
    *,
    panel: str | None = None,
    examples: Sequence[str] = (),
    interrupted: Callable[[Any], str] | None = None,
) -> None:
    """Add a command to `app`."""
    epilog, run = "\n\n".join(("Examples:", *examples)) if examples else None, spread(run)
    app.command(name, cls=_Command, rich_help_panel=panel, epilog=epilog)(guarded(run, interrupted=interrupted, shown=f"regraft {name}"))


def spread(run: Callable[..., None]) -> Callable[..., None]:
    """Return the command with each parameter that is a group of options, a dataclass, replaced by its options."""
    signature = inspect.signature(run, eval_str=True)
    groups: dict[str, Any] = {name: one.annotation for name, one in signature.parameters.items() if is_dataclass(one.annotation)}
    kept = [one for name, one in signature.parameters.items() if name not in groups]
    hints: dict[str, Any] = {name: hint for kind in groups.values() for name, hint in get_type_hints(kind, include_extras=True).items()}
    options = [(one.name, one.default) for kind in groups.values() for one in fields(kind)]
    kept += [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[name]) for name, default in options]

    @functools.wraps(run)
    def collected(*args: Any, **named: Any) -> None:
        made = {name: kind(**{one.name: named.pop(one.name) for one in fields(kind)}) for name, kind in groups.items()}
        run(*args, **named, **made)

    changed: Any = collected
    changed.__signature__ = signature.replace(parameters=kept)
    changed.__annotations__ = {one.name: one.annotation for one in kept} | {"return": None}
    return collected


def guarded(
    command: Callable[..., None], *, interrupted: Callable[[Any], str] | None = None, shown: str = "regraft"
) -> Callable[..., None]:
    """Wrap a command: show progress, and end with one message and an exit code instead of a traceback.
    `interrupted` receives the folder of `--out` and returns a message for a user who pressed Ctrl-C. `shown` is the progress text before
    the first step. A command with `--quiet` also prints sentences about its steps."""

    @functools.wraps(command)
    @rewording(as_options)
    def run(*args: Any, **named: Any) -> None:
        quiet = named.get("quiet")
        try:
            with _readable_warnings(), speaking(not quiet, words=quiet is not None), progress(shown):
                command(*args, **named)
        except (typer.Exit, BrokenPipeError):
            raise
        except KeyboardInterrupt:
            tell(f"Interrupted. {interrupted(named['out']) if interrupted and named.get('out') else ''}".rstrip())
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            tell(_message(error), lines=True)
            if _DEBUG.get():
                tell(traceback.format_exc(), lines=True)
            raise typer.Exit(BAD_INPUT if isinstance(error, InputError | MissingExtraError) else FAILED) from None

    return run


def _message(error: Exception) -> str:
    if isinstance(error, RegraftError):
        return f"Error: {error}"
    what = " ".join(str(error).split()) or "no further message"
    hint = "" if _DEBUG.get() else " Run the same command with --debug to see where it happened."
    return f"Error: {type(error).__name__}: {what}.{hint}".replace("..", ".")


def as_options(message: str) -> str:
    """Replace keywords of the library in a message by the options of the running command."""
    for keyword, option in _OPTIONS.items():
        message = message.replace(keyword, option)
    message = _BUILT.sub("Give the function that builds it: --architecture MODULE:NAME", message)
    return _KEYWORD.sub(_as_option, message)


def _as_option(found: re.Match[str]) -> str:
    if found[1] is None:
        return found[0]  # a call of Python stays as it is
    option, own = f"--{found[1].replace('_', '-')}", _OWN.get()
    if own is None or option in own:
        return f"{option} {found[2].strip(chr(39))}".rstrip()
    return f"--set {found[1]}={found[2].strip(chr(39)) or '…'}" if "--set" in own and found[1] in SETTINGS.split() else found[0]


@contextmanager
def _escaped_usage() -> Iterator[None]:
    """Escape the arguments in click's usage errors."""
    try:
        yield
    except _UsageError as error:
        error.message = printable(error.message) + _called_here(error)
        raise


def _called_here(error: Any) -> str:
    """Return a message suffix that names regraft's option for an option of other tools, or an empty string."""
    asked, command = getattr(error, "option_name", None), getattr(getattr(error, "ctx", None), "command", None)
    known = {option for one in getattr(command, "params", ()) for option in one.opts if option.startswith("--")}
    plain = "" if asked is None else asked.removeprefix("--")
    setting = name_here(plain) or plain.replace("-", "_")
    named = (f"--{setting}".replace("_", "-"), f"--with-{plain}")
    here = next((name for name in named if name in known), None)
    if here is None and "--set" in known and setting in SETTINGS.split():
        here = f"--set {setting}=…"
    if here is None:
        return ""
    error.possibilities = []  # names that merely look alike
    return f". Here it is called {here!r}"


@contextmanager
def _readable_warnings() -> Iterator[None]:
    """Show each warning of regraft as one line, and warnings of other libraries only with `--debug`."""
    told = set()

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        if filename.startswith(_PACKAGE):
            shown = f"Warning: {message}"
        elif _DEBUG.get():
            shown = f"{filename}:{lineno}: {category.__name__}: {message}"
        else:
            return
        if shown not in told:
            told.add(shown)
            tell(shown)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
