"""Error handling of the commands: errors become one readable message and an exit code, warnings one line."""

import ast
import functools
import inspect
import itertools
import json
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from .shared import SETTINGS, word_of

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
    "net.to('keras')": "regraft convert DIR network.keras",
    "architecture=, a module or a function that makes it": "--architecture MODULE:NAME, a class or a function that makes it",
    "classes= when the network is loaded": "--source-classes",
    "preprocessing=TextPreprocessing(folder)": "--preprocessing FILE, a .json file of TextPreprocessing(folder).to_dict()",
}
_VALUE = r"'[^']*'|\[[^][]*\]|\([^()]*\)|\{[^{}]*\}|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|True|False|None|"
_KEYWORD = re.compile(rf"regraft\.\w+\([^()]*\)|(?<!--set )(?<![-\w])([a-z_]+)=({_VALUE})(?![^\s.,:;)])")
"""A keyword of the library in a message, alone or with its value: `kind='text'`, `holdout=0.2`, `inputs=(3, 8, 8)`, `kind=`; and a call
of a function that no command stands for, which is left as it is."""
_VERBS = {
    **{verb: f"regraft {verb.replace('_', '-')}" for verb in ("adapt", "adapt_condition", "combine", "extend", "profile", "search")},
    **{"retarget": "regraft adapt --classes", "join": "regraft adapt --join", "stack": "regraft adapt --hidden"},
    **{"fold": "regraft convert --condition", "load": "regraft convert"},
}
"""Function of the library -> its command."""
_CALL = re.compile(rf"\bregraft\.({'|'.join(_VERBS)})\b(?:\(((?:[^()]|\([^()]*\))*)\))?")
_KNOWN: ContextVar[Mapping[str, str] | None] = ContextVar("regraft_options", default=None)
"""Option -> "" if the running command has it, else the command that has it, such as " of regraft adapt"; None if no command runs."""

_WORDS: ContextVar[Sequence[str]] = ContextVar("regraft_words", default=())
"""Arguments of the running command, as they were given."""

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
            _KNOWN.set(None)


class _Command(TyperCommand):
    """Command that rejects an option as the value of the preceding option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the remaining arguments."""
        options = _words_of(self)
        others = getattr(ctx.parent and ctx.parent.command, "commands", {})
        elsewhere = {word: f" of regraft {name}" for name in ("adapt", "convert") if name in others for word in _words_of(others[name])}
        _KNOWN.set(elsewhere | dict.fromkeys(options, ""))
        for word, value in itertools.pairwise(args[: args.index("--")] if "--" in args else args):
            option: Any = options.get(word)
            if option is not None and not option.is_flag and value in options:
                raise _UsageError(f"Option '{word}' takes a value, {option.metavar}; received the option '{value}'.", ctx=ctx)
        _WORDS.set(tuple(args))  # the parser empties the list
        return super().parse_args(ctx, args)


def _words_of(command: Any) -> dict[str, Any]:
    return {name: option for option in command.params for name in option.opts if name.startswith("--")}


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
    """Replace keywords and functions of the library in a message by options of the running command, and by commands."""
    for keyword, option in _OPTIONS.items():
        message = message.replace(keyword, option + (_KNOWN.get() or {}).get(option, ""))
    return _KEYWORD.sub(_as_option, _CALL.sub(_as_command, message))


def _as_command(found: re.Match[str]) -> str:
    """Return the command for a call, with its keywords; for `regraft.load(…)` the options alone, which every command has."""
    verb, given = found[1], found[2] or ""
    words = [_as_option(one) for one in _KEYWORD.finditer(given)]
    if verb != "load" or not given:
        return " ".join([_VERBS[verb], *(word.partition(" of regraft ")[0] for word in words)])
    words += ["--architecture MODULE:NAME"] if given.startswith(("module", "model")) or "architecture=" in given else []
    return " ".join(words) or found[0]


def _as_option(found: re.Match[str]) -> str:
    """Return the option for a keyword: of the running command, if it has one, else of another."""
    if found[1] is None:
        return found[0]
    option, word = f"--{found[1].replace('_', '-')}", _as_word(found[2])
    forms = {option: f"{option} {word}".rstrip()}
    forms |= {"--set": f"--set {found[1]}={word or '…'}"} if found[1] in SETTINGS.split() else {}
    known = _KNOWN.get() or {option: ""}
    there = [(known[key] != "", at, text + known[key]) for at, (key, text) in enumerate(forms.items()) if key in known]
    return min(there)[2] if there else found[0]


def _as_word(text: str) -> str:
    """Return a value of Python as a word of the command line."""
    try:
        value = ast.literal_eval(text or "True")
        if isinstance(value, dict):
            return f"'{json.dumps(value)}'"
    except (SyntaxError, TypeError, ValueError):
        return text
    return "" if value is True else word_of(value)


@contextmanager
def _escaped_usage() -> Iterator[None]:
    """Escape the arguments in click's usage errors."""
    try:
        yield
    except _UsageError as error:
        error.message = printable(_with_value(error)) + _called_here(error)
        raise


def _with_value(error: Any) -> str:
    """Return the message of a usage error, with the value that the option was given."""
    options = getattr(getattr(error, "param", None), "opts", ())
    given = [repr(value) for word, value in itertools.pairwise(_WORDS.get()) if word in options]
    message: str = error.message
    return message if not given or given[-1] in message else f"{given[-1]}: {message[:1].lower()}{message[1:]}"


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
        every = getattr(getattr(error.ctx, "parent", None) and error.ctx.parent.command, "commands", {}) if asked else {}
        others = [name for name, one in every.items() if asked in _words_of(one)]
        return f". It is an option of regraft {', '.join(others)}" if others else ""
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
