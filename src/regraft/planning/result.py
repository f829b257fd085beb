"""What an adaptation gives back, and the folder it is saved in."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import MissingExtraError
from ..networks.account import Account
from ..networks.contract import Network
from ..networks.folders import versions, write_json, write_lines
from ..report import verdict, write_facts, write_report
from .plan import Plan

__all__ = ["Result"]


@dataclass(frozen=True)
class Result:
    """An adapted network and what is known of it.

    Attributes:
        network: the adapted network.
        plan: what was done, and why.
        history: one dict an epoch.
        scores: {"valid": figures, "test": figures where a test set was given}.
        baselines: name -> figures on the same items.
        cost: seconds for reading, the frozen part and training, and how many items went through the frozen part.
        facts: what the report shows besides, as plain data.
    """

    network: Network = field(repr=False)
    plan: Plan
    history: list[dict[str, Any]] = field(repr=False)
    scores: dict[str, Any] = field(repr=False)
    baselines: dict[str, Any] = field(repr=False)
    cost: dict[str, float]
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def account(self) -> Account:
        """Which rows and weights were kept, renamed, new or dropped."""
        return self.network.account

    @property
    def verdict(self) -> str:
        """One sentence: how good it is, and whether it beats the baselines."""
        return verdict(self.scores, self.baselines)

    def __str__(self) -> str:
        return f"{self.verdict}\n{self.plan}\n{self.account}"

    def report_facts(self) -> dict[str, Any]:
        """Return all that the report shows, as plain data."""
        settings = self.plan.options | self.plan.settings.to_dict()
        strategy = {"name": self.plan.strategy, "chosen": self.plan.chosen.get("strategy"), "reasons": list(self.plan.reasons)}
        return {
            "title": "Adaptation report",
            "verdict": self.verdict,
            "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "versions": versions(),
            "strategy": {**strategy, "settings": settings},
            "history": self.history,
            "scores": self.scores,
            "baselines": self.baselines,
            "account": self.account.to_dict(),
            "cost": self.cost,
            **self.facts,
        }

    def report(self, path: str | Path) -> Path:
        """Write the report, one self-contained HTML file, and return its path."""
        return write_report(path, self.report_facts())

    def save(self, folder: str | Path) -> Path:
        """Save network, plan, history, scores and report; `regraft.json` comes last, so that a folder that has it is whole.

        Args:
            folder: made where it is not there.

        Returns:
            The folder.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / "plan.json").write_text(self.plan.to_json(), encoding="utf-8")
        write_lines(target / "history.jsonl", self.history)
        write_json(target / "scores.json", {"scores": self.scores, "baselines": self.baselines, "cost": self.cost, "verdict": self.verdict})
        facts = self.report_facts()
        write_facts(target, facts)
        with suppress(MissingExtraError):  # the figures are all in scores.json; `regraft report` makes the page once the extra is there
            write_report(target / "report.html", facts)
        self.network.save(target)
        return target
