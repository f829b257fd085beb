"""The report page: a self-contained HTML file made from plain data."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import DataError, optional_import
from ..files.formats import reason_of
from ..files.text import printable
from ..files.writing import write_text
from .sections import context

_VERBATIM = re.compile("(<pre>.*?</pre>)", re.DOTALL)  # text for copying
_SHARE = re.compile(r"(?<=\d) %")  # no line break between a number and its unit


def write_report(path: str | Path, facts: Mapping[str, Any]) -> Path:
    """Write the report as one HTML file without scripts or external resources, for light mode, dark mode and print."""
    target = Path(path) / "report.html" if Path(path).is_dir() else Path(path)
    return written(target, report_page(facts))


def report_page(facts: Mapping[str, Any]) -> str:
    """Return the HTML of the report of `facts`."""
    if not facts.get("verdict"):
        raise DataError(f"A report needs a 'verdict'; received {sorted(facts)}. Make one with regraft.report.verdict(scores, baselines).")
    return page_of("template.html", context(facts))


def page_of(template: str, content: Mapping[str, Any]) -> str:
    """Return the HTML of a template of this folder."""
    jinja = optional_import("jinja2", "report", purpose="The report")
    page: str = _templates(jinja).get_template(template).render(content).lstrip()
    pieces = _VERBATIM.split(page)
    return "".join(piece if number % 2 else _SHARE.sub("\u00a0%", piece) for number, piece in enumerate(pieces))


@cache
def _templates(jinja: Any) -> Any:
    """Return the templates of this folder; each is compiled once a process."""
    loader = jinja.FileSystemLoader(Path(__file__).parent)
    return jinja.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja.StrictUndefined)


def written(target: Path, page: str) -> Path:
    """Write a page atomically, and return its path."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, page)
    except OSError as error:
        raise DataError(f"The page {printable(target)!r} cannot be written: {reason_of(error)}. Give another path.") from error
    return target
