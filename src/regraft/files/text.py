"""Text of unknown origin (class names, file names, columns), made safe for the place where it is shown."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

__all__ = ["csv_cell", "notebook_html", "printable", "printable_json", "printable_lines"]

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Wide forms count too in some languages."""


def printable(text: object, *, width: int | None = None) -> str:
    """Return text as one line without anything that a terminal, a log or a reader could take for more than text.

    Control characters, lone surrogates, line separators and characters that change the direction of text become escapes such as
    `\\x1b`. All other characters, of any script, stay.

    `width`: the greatest length; longer text ends in "…". None: no limit.
    """
    line = _safe(str(text))
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def printable_lines(text: object) -> str:
    """Return text of several lines with each of them as `printable` gives it: for text of our own that has names of others in it."""
    return "\n".join(_safe(line) for line in str(text).split("\n"))


def printable_json(text: str) -> str:
    """Return JSON text in which nothing is left that a terminal could take for more than text; it reads back as the same data."""
    return "\n".join(line if line.isprintable() else "".join(map(_json_escaped, line)) for line in text.split("\n"))


def _safe(line: str) -> str:
    return line if line.isprintable() else "".join(map(_escaped, line))


def _json_escaped(character: str) -> str:
    if _escaped(character) == character:
        return character
    units = character.encode("utf-16-be", errors="surrogatepass").hex()
    return "".join(f"\\u{unit}" for unit in re.findall("....", units))


def _escaped(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and character not in "\u200c\u200d"):  # joiners belong to spelling
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def csv_cell(value: Any) -> Any:
    """Return a cell for a CSV file that no spreadsheet runs as a formula: text that begins with `= + - @` gets an apostrophe in front.

    Numbers, and text that reads as a number, stay as they are.
    """
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def notebook_html(text: object, *, title: str = "") -> str:
    """Return text as a notebook shows it: a title, and lines as they are, in letters of one width."""
    above = f"<p><b>{html.escape(printable(title))}</b></p>" if title else ""
    return f'<div>{above}<pre style="line-height:1.3">{html.escape(printable_lines(text))}</pre></div>'
