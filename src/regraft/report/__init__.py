"""Report of an adaptation: a single HTML file made from plain data."""

from .facts import read_facts, write_facts
from .media import picture_uri, sound_uri
from .page import report_page, write_report
from .verdict import in_short, verdict

__all__ = ["in_short", "picture_uri", "read_facts", "report_page", "sound_uri", "verdict", "write_facts", "write_report"]
