"""Interpretation of a profile's figures in sentences: the scenario, where transfer breaks, and warnings."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...report.profile import MANY, SIMILAR
from ...words import counted, probe_words
from .judging import ProbeEvaluation

INPUT, BEFORE_HEAD = "input", "before the head"
ENOUGH = 0.97  # Figure from which there is little left to gain
CLEAR, WORTH = 2.0, 0.01  # Minimum difference that is reported: in standard errors, and absolute
FEW = 5
_ADVICE = {
    ("small", "similar"): "train a head on the deepest features; fine-tuning would overfit.",
    ("small", "different"): "train a head on features of an earlier block; the deepest features are specific to the old task.",
    ("large", "similar"): "fine-tune the whole network; there are enough examples to avoid overfitting.",
    ("large", "different"): "fine-tune the whole network, or train it from scratch.",
}


@dataclass(frozen=True)
class ProfileFigures:
    """Measured figures of one data set."""

    depths: Mapping[str, ProbeEvaluation]  # block -> evaluation of the probe on it, in order
    joint: ProbeEvaluation  # evaluation of the probe on all depths together
    honest: ProbeEvaluation  # nested evaluation of the choice of the best depth
    chance: float
    kind: str
    per_class: int  # median number of examples per class (number of all examples for regression)

    @property
    def best(self) -> str:
        """Depth with the highest figure."""
        return max(self.depths, key=lambda block: self.depths[block].value)

    @property
    def deepest(self) -> str:
        """Last depth."""
        return list(self.depths)[-1]

    @property
    def holds_to(self) -> str:
        """Deepest depth within one standard error of the best (Breiman et al., 1984, section 3.4.3)."""
        best = self.depths[self.best]
        return [block for block, held in self.depths.items() if held.value >= best.value - best.error][-1]

    @property
    def attainable(self) -> ProbeEvaluation:
        """Better one of the joint probe and the nested choice of one depth."""
        return self.joint if self.joint.value >= self.honest.value else self.honest

    @property
    def similarity(self) -> float | None:
        """Share of the attainable figure above chance that the deepest features give, 0 to 1; None if nothing is above chance."""
        top = self.attainable
        if top.value - self.chance <= CLEAR * top.error:
            return None
        return float(np.clip((self.depths[self.deepest].value - self.chance) / (top.value - self.chance), 0, 1))

    def is_below_chance(self, held: ProbeEvaluation) -> bool:
        """Return whether a figure is clearly below chance; False for regression, where R² below 0 is common."""
        return self.kind != "regression" and self.chance - held.value > CLEAR * held.error

    def clearly(self, better: ProbeEvaluation, other: ProbeEvaluation) -> bool:
        """Return whether `better` exceeds `other` significantly, and by enough to matter."""
        difference, error = better.over(other)
        return difference > max(CLEAR * error, WORTH)


@dataclass(frozen=True)
class _Interpretation:
    """Interpretation of the figures."""

    size: str  # "small" or "large"
    likeness: str  # "similar", "different" or "unknown"
    scenario: str  # size and likeness in words
    advice: str  # the textbook's advice for the scenario
    agrees: bool  # whether the figures agree with the advice
    findings: tuple[str, ...]  # sentences, the most important first


def points_of(difference: float, kind: str) -> str:
    """Return a difference of figures as text: in percentage points, or as a number for regression."""
    shown = f"{difference:+.3f}" if kind == "regression" else f"{100 * difference:+.1f}"
    return shown.replace("-", "−")


def read_figures(found: ProfileFigures) -> _Interpretation:
    """Return the interpretation of the figures."""
    size = "large" if found.per_class >= MANY[found.kind] else "small"
    share = found.similarity
    unit = "examples" if found.kind == "regression" else "examples per class"
    many = f"{size.capitalize()} data ({found.per_class:,} {unit})"
    if share is None:
        said = f"{many}. No probe on the network predicts the targets better than chance."
        advice = "check the labels; then fine-tune, or train from scratch."
        return _Interpretation(
            size, "unknown", said, advice, True, (f"No depth is clearly above chance ({_figure(found, found.chance)}).",)
        )
    likeness = "similar" if share >= SIMILAR else "different"
    compared = "similar to" if likeness == "similar" else "different from"
    said = (
        f"{many}, {compared} the data that the network was trained on. The deepest features give {100 * share:.0f} % of the attainable "
        "gain over chance."
    )
    objection = _objection(found, size, likeness=likeness)
    sentences = [sentence for sentence in (objection, _break(found), _choice(found)) if sentence]
    return _Interpretation(size, likeness, said, _ADVICE[size, likeness], not objection, tuple(sentences))


def _figure(found: ProfileFigures, value: float) -> str:
    return probe_words(value, found.kind)


def _objection(found: ProfileFigures, size: str, *, likeness: str) -> str:
    """Return a sentence on how the figures disagree with the textbook, or ""."""
    deepest, joint, honest = found.depths[found.deepest], found.joint, found.honest
    if size == "large" and found.attainable.value >= ENOUGH:
        top = _figure(found, found.attainable.value)
        return f"The measurement disagrees: a probe without training already gives {top}, so fine-tuning can gain little."
    textbook, where = (deepest, "the deepest features") if likeness == "similar" else (honest, "the best single depth")
    better = found.attainable
    if not found.clearly(better, textbook):
        return ""
    name = "a probe on all depths together" if better is joint else f"'{found.best}' alone"
    values = f"{_figure(found, better.value)} against {_figure(found, textbook.value)}"
    return f"The measurement disagrees: {name} is better than {where}, {values}."


def _break(found: ProfileFigures) -> str:
    deepest, best = _figure(found, found.depths[found.deepest].value), _figure(found, found.depths[found.best].value)
    if found.best == INPUT:
        return f"No depth is better than simple input statistics ({best}). The deepest features give {deepest}."
    if found.holds_to == found.deepest:
        return f"Transfer holds to the end: the deepest features ({deepest}) are within one standard error of the best depth ({best})."
    if not found.clearly(found.depths[found.best], found.depths[found.deepest]):
        return f"The deepest features ({deepest}) are not significantly worse than the best depth, '{found.best}' ({best})."
    return f"Transfer breaks after '{found.holds_to}': the deepest features give {deepest}, and the best depth gives {best}."


def _choice(found: ProfileFigures) -> str:
    best, honest = _figure(found, found.depths[found.best].value), _figure(found, found.honest.value)
    count = len(found.depths)
    if count < 2:
        return ""
    return (
        f"The best of {counted(count, 'depth')} is '{found.best}' with {best}. Chosen without the examples that evaluate it, it gives "
        f"{honest}."
    )


def warnings_of(
    found: ProfileFigures, *, counts: Mapping[str, int], naive: ProbeEvaluation | None, constant: list[str], rows: bool
) -> tuple[str, ...]:
    """Return warnings about the meaning of the figures.
    `naive`: evaluation of the joint probe by leave-one-out although there are groups, or None. `constant`: depths with constant features.
    `rows`: whether the data are rows of numbers."""
    said, shallow = [], found.depths.get(INPUT)
    top = found.attainable.value - found.chance
    if shallow is not None and found.similarity is not None and shallow.value - found.chance >= 0.9 * top:
        given = _figure(found, shallow.value)
        said.append(
            f"The columns themselves already give {given}, nearly the best result. A linear model on the columns needs no network."
            if rows
            else f"Simple input statistics already give {given}, nearly the best result. Your data may contain a shortcut (brightness, "
            "loudness, background, recording channel). Check it on data from another source."
        )
    if naive is not None and naive.value - found.joint.value > max(CLEAR * found.joint.error, 2 * WORTH):
        said.append(
            f"Examples of one group resemble each other. Leaving out one example at a time gives {_figure(found, naive.value)}. Leaving "
            f"out whole groups gives {_figure(found, found.joint.value)}. Only the second figure holds for new groups. Split by group."
        )
    low = [repr(name) for name, held in found.depths.items() if found.is_below_chance(held)]
    low += ["all depths together"] if found.is_below_chance(found.joint) else []
    if low:
        said.append(
            f"Clearly below chance ({_figure(found, found.chance)}): {', '.join(low[:6])}{', …' if low[6:] else ''}. With classes of "
            "similar size, the remaining examples contain fewer of the class of the example left out. A probe without information then "
            "predicts another class. Such a figure means no more than chance does."
        )
    few = [name for name, count in counts.items() if 0 < count < FEW]
    if few:
        names = ", ".join(few[:6]) + (f", … ({len(few) - 6} more)" if len(few) > 6 else "")
        lone = sum(counts[name] == 1 for name in few)
        end = f" Classes with a single example: {lone}. No probe can predict a single example when it is left out." if lone else ""
        said.append(f"Fewer than {FEW} examples of {names}: their figures are unreliable.{end}")
    if constant:
        said.append(
            f"All examples give the same features at {', '.join(map(repr, constant[:6]))}. The network does not use such input there."
        )
    return tuple(said)
