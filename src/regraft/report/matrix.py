"""The confusion matrix, in the order of the classes or by their errors: one drawing, cells placed anew by a switch, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .figures import tag, text_tag

__all__ = ["CELL", "confusion_cells", "confusion_matrix"]

CELL = ("true", "predicted", "count")
Confusion = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]


def confusion_cells(confusion: Confusion) -> list[tuple[int, int, int]]:
    """Return (true, predicted, count) of the cells that are not 0.

    Args:
        confusion: the cells, as `judge` gives them; or, of earlier versions, (C, C) counts, rows true.
    """
    if isinstance(confusion, Mapping):
        return list(zip(*(confusion[name] for name in CELL), strict=True))
    return [(i, j, number) for i, row in enumerate(confusion) for j, number in enumerate(row) if number]


def confusion_matrix(confusion: Confusion, names: Sequence[str], *, title: str) -> str:
    """Return a confusion matrix, each row coloured by its own shares, with a switch to the order by errors.

    Args:
        confusion: as for `confusion_cells`.
        title: for those who do not see it.

    Returns:
        Markup; counts stand in the cells where there is room, and in a hint for each cell.
    """
    cells, count = confusion_cells(confusion), len(names)
    totals, errors = [0] * count, [0] * count
    for i, j, number in cells:
        totals[i] += number
        errors[i] += number * (i != j)
    ranked = sorted(range(count), key=lambda which: (-errors[which], which))
    place = {which: rank for rank, which in enumerate(ranked)}
    parts = []
    for which, name in enumerate(names):
        own, other = which + 2, place[which] + 2
        hint = f"{name}: {errors[which]} of {totals[which]} examples are errors"
        parts.append(text_tag("span", name, class_="name", style=f"--r:{own};--s:{other}", title=hint))
        parts.append(tag("span", text_tag("span", name), class_="head", style=f"--c:{own};--d:{other}", title=name))
    for i, j, number in cells:
        parts.append(_cell(i, j, number=number, share=number / totals[i], names=names, place=place))
    frame = tag("div", class_="frame")
    grid = tag("div", frame + "".join(parts), class_="cells", style=f"--n:{count}", role="img", aria_label=title)
    choices = (("as-given", "", "as given"), ("by-errors", None, "most errors first"))
    shown = [tag("label", tag("input", type="radio", name="order", class_=kind, checked=state) + words) for kind, state, words in choices]
    switch = tag("div", "Order of classes: " + "".join(shown), class_="switch")
    return tag("div", switch + tag("div", grid, class_="scroll", tabindex="0", role="group", aria_label=title), class_="matrix")


def _cell(i: int, j: int, *, number: int, share: float, names: Sequence[str], place: Mapping[int, int]) -> str:
    kind = ("cell right" if i == j else "cell wrong") + (" light" if share > 0.5 else "")
    style = f"--r:{i + 2};--c:{j + 2};--s:{place[i] + 2};--d:{place[j] + 2};--p:{10 + 90 * share:.0f}"
    hint = f"{names[i]}, predicted {names[j]}: {number} ({100 * share:.0f} %)"
    return tag("span", text_tag("b", str(number), class_=f"digits{min(len(str(number)), 4)}"), class_=kind, style=style, title=hint)
