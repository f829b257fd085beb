"""Account: a readable record of what a change of weights kept, and by which rule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..files.text import notebook_html, printable
from ..words import ENTRIES, account_figures

_ORDER = ("matched", "reshaped", "missing", "unexpected", "kept", "renamed", "new", "dropped", "frozen")
UNUSED = "outputs of the network that are not used"  # Part of the note on outputs that are no task
UNNAMED = "had no class names, so no class weights were carried over"  # Part of the note on a head that is replaced as a whole


@dataclass(frozen=True)
class Account:
    """Record of the weights and class weights that were kept, renamed, new or dropped, and by which rule.
    `entries`: heading -> names. The headings are "matched", "reshaped", "missing", "unexpected", "kept", "renamed", "new", "dropped" and
    "frozen"; headings without names may be absent."""

    entries: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rules: Mapping[str, str] = field(default_factory=dict)  # name -> the rule by which it was matched
    notes: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)  # name -> a measured value, for example "max_score_change"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: the headings present, then "rules", "notes" and "figures" if not empty."""
        plain: dict[str, Any] = {key: list(self.entries[key]) for key in _ORDER if key in self.entries}
        further = {"rules": dict(self.rules), "notes": list(self.notes), "figures": dict(self.figures)}
        return plain | {name: held for name, held in further.items() if held}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Account:
        """Return the account from the `plain` data that `to_dict` wrote."""
        entries = {key: list(plain[key]) for key in _ORDER if key in plain}
        return cls(entries, dict(plain.get("rules", {})), tuple(plain.get("notes", ())), dict(plain.get("figures", {})))

    def of_weights(self) -> Account:
        """Return the entries about weights files, without those of an earlier change of the head and without its notes."""
        rows = {"kept", "renamed", "new", "dropped"}
        weights = {key: names for key, names in self.entries.items() if key not in (*rows, "frozen")}
        return Account(weights, dict(self.rules), () if rows & set(self.entries) else self.notes)

    def with_frozen(self, names: Iterable[str]) -> Account:
        """Return the account with "frozen" replaced by these `names`."""
        entries = {key: list(listed) for key, listed in self.entries.items() if key != "frozen"}
        frozen = list(names)
        return replace(self, entries=entries | ({"frozen": frozen} if frozen else {}))

    def joined(self, later: Account) -> Account:
        """Return one account of two changes: this one, then the `later` one; a note of both stands once."""
        entries = {
            key: [*self.entries.get(key, ()), *later.entries.get(key, ())] for key in _ORDER if key in self.entries or key in later.entries
        }
        return Account(
            entries, {**self.rules, **later.rules}, tuple(dict.fromkeys((*self.notes, *later.notes))), {**self.figures, **later.figures}
        )

    def beside(self, text: str) -> Account:
        """Return the account without the notes that a `text` beside it contains."""
        return replace(self, notes=tuple(note for note in self.notes if note.removesuffix(".") not in text))

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.entries[key])} {key}" for key in _ORDER if self.entries.get(key))
        return f"<Account: {counts or 'nothing was changed'}>"

    def _repr_html_(self) -> str:
        return notebook_html(self, title="Account")

    def __str__(self) -> str:
        lines = []
        for key in _ORDER:
            if key not in self.entries:
                continue
            names = list(self.entries[key])
            shown = ", ".join(names[:6]) + (f", … ({len(names) - 6} more)" if len(names) > 6 else "")
            lines.append(f"{key:<11}{len(names):>6,}  {ENTRIES[key]:<36} {shown}".rstrip())
        lines += [f"{'rule':<11}{count:>6,}  {rule}" for rule, count in Counter(self.rules.values()).items()]
        lines += [f"{name:<18} {value}" for name, value in account_figures(self.figures).items()]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(map(printable, lines)) if lines else "nothing was changed"


def unused_outputs(head: object, others: Sequence[str]) -> tuple[str, ...]:
    """Return the note that lists the unused outputs `others` if a `head` was chosen explicitly; else nothing."""
    if head is None or not others:
        return ()
    return (f"head={head!r} was chosen; {UNUSED}: {', '.join(map(repr, others))}",)
