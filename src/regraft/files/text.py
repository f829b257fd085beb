"""Text of unknown origin (class names, file names, columns), made safe for where it is shown."""

import html
import re
import unicodedata
from typing import Any

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Some language versions of spreadsheets also accept the full-width forms."""


def printable(text: object, *, width: int | None = None) -> str:
    """Return text as one line that a terminal, a log or a reader cannot mistake for anything but text.

    Control characters, lone surrogates, line separators and characters that change the direction of text become escapes such as `\\x1b`.
    All other characters, of any script, stay.

    `width` is the maximum length. Longer text ends in "…". None sets no limit.
    """
    line = _safe(str(text))
    return line if width is None or len(line) <= width else line[: width - 1] + "…"


def shown(value: Any, *, width: int = 60) -> str:
    """Return a value for a message: as Python writes it, up to `width` characters; arrays and tables by their type and shape."""
    if len(getattr(value, "shape", ())):
        return f"<{type(value).__name__} of the shape {tuple(value.shape)}>"
    if isinstance(value, tuple | list) and any(len(getattr(one, "shape", ())) for one in value):
        return f"({printable(', '.join(map(shown, value)), width=4 * width)})"
    return printable(repr(value), width=width)


def printable_lines(text: object) -> str:
    """Return multi-line text with each line made safe as in `printable`. It serves texts of regraft that contain names of others."""
    return "\n".join(_safe(line) for line in str(text).split("\n"))


def printable_json(text: str) -> str:
    """Return JSON text with all characters escaped that a terminal may interpret. It still parses to the same data."""
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


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts "img2" before "img10"."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text) if part]


def csv_cell(value: Any) -> Any:
    """Return a CSV cell that no spreadsheet runs as a formula: text that starts with `= + - @` is prefixed with an apostrophe.
    Numbers, and text that reads as a number, stay unchanged."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def notebook_html(text: object, *, title: str = "") -> str:
    """Return HTML for a notebook: a title, and the lines of the text in a monospaced font."""
    above = f"<p><b>{html.escape(printable(title))}</b></p>" if title else ""
    return f'<div>{above}<pre style="line-height:1.3">{html.escape(printable_lines(text))}</pre></div>'
