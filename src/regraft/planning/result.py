"""Result of an adaptation, and the folder that it is saved in."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingExtraError, NetworkError, SettingError, optional_import, takes_paths
from ..files.formats import opening
from ..files.text import notebook_html
from ..files.writing import write_lines, write_text
from ..networks.account import Account
from ..networks.folders import FACTS_FILE, HISTORY_FILE, replacing, settled, versions, write_network
from ..networks.network import Network
from ..report import in_short, read_facts, report_page, verdict, write_facts, write_report
from ..report.facts import SCORES
from ..words import counted
from .plan import Plan

_COLUMNS = {"loss": "train_loss", "val_loss": "validation_loss", "val_accuracy": "validation_accuracy", "learning_rate": "learning_rate"}
"""Column name in Keras -> name in a history entry. Other figures of the validation set are "val_NAME", too."""


class History(list[dict[str, Any]]):
    """List of one mapping per epoch, over all trainings of the network ("run" counts them); string keys give Keras columns.
    `dict(history)` has the form of a Keras history: the columns of the last training and of the refit on all examples that follows it,
    without folds and the short trainings that were compared. `history.epoch` numbers these epochs, continuing after the training before. A
    missing figure is NaN; a column without figures is left out."""

    @property
    def epoch(self) -> list[int]:
        """Epoch numbers of the columns, from 0 as in Keras."""
        return [int(entry["epoch"]) - 1 for entry in self._epochs()]

    def __repr__(self) -> str:
        last = {name: round(self[name][-1], 4) for name in self.keys()}
        runs = counted(len({entry.get("run", 1) for entry in self}), "training")
        solved = sum("penalty" in entry for entry in self)  # a solved head has an entry for each penalty that was tried
        counts = [(len(self) - solved, "epoch"), (solved, "penalty")] if solved else [(len(self), "epoch")]
        said = " and ".join(counted(count, noun) for count, noun in counts if count or not solved)
        return f"<History of {said} in {runs}; last: {last}>"

    def _repr_html_(self) -> str:
        rows = [f"{name:<14}" + " ".join(f"{value:10.4g}" for value in self[name]) for name in self.keys()]
        return notebook_html("\n".join(rows) or "no epochs", title="History of the last training")

    def keys(self) -> list[str]:
        """Return the names of the columns: some of "loss", "val_loss", "val_accuracy", "learning_rate", and "val_NAME" of your metrics."""
        own = (name.replace("validation_", "val_", 1) for entry in self._epochs() for name in entry if name.startswith("validation_"))
        return [name for name in dict.fromkeys([*_COLUMNS, *own]) if not all(map(math.isnan, self._column(name)))]

    def __getitem__(self, key: Any) -> Any:  # an entry, a slice of entries, or a column
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self.keys():
            raise KeyError(f"{key!r}; the history has the columns {', '.join(map(repr, self.keys()))}")
        return self._column(key)

    def _column(self, name: str) -> list[float]:
        values = [entry.get(_COLUMNS.get(name, name.replace("val_", "validation_", 1))) for entry in self._epochs()]
        return [math.nan if value is None else float(value) for value in values]

    def _epochs(self) -> list[dict[str, Any]]:
        last = [entry for entry in self if entry.get("run", 1) == self[-1].get("run", 1)]
        return [entry for entry in last if not str(entry.get("phase", "")).startswith(("search", "fold"))]

    def to_frame(self) -> Any:
        """Return all entries as a pandas table with one row per epoch, including those of compared trainings."""
        return optional_import("pandas", "tables", purpose="A table of the history").DataFrame(list(self))


_DOUBTS = ("equal, byte by byte", "may contain a shortcut", "look freshly drawn", "same index in different orders", "the labels count from")
"""Words of the warnings that stand in the verdict."""


@dataclass(frozen=True)
class Result:
    """An adapted network with its plan, history, scores and baselines.

    Attributes:
        network: the adapted network.
        plan: what was done, and why.
        history: one mapping per epoch; `dict(history)` has Keras columns, `history.to_frame()` returns a pandas table.
        scores: {"holdout": figures, "test": figures of a test set, if given}.
        baselines: name -> figures on the same examples.
        cost: seconds of reading, the frozen part and training, and the number of examples that passed through the frozen part.
        facts: further contents of the report, as plain data.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> result = regraft.adapt(net, (rows, labels), strategy="head", epochs=2, seed=0)
        >>> len(result.history), sorted(result.baselines), result.network.classes
        (2, ['class_mean', 'majority', 'probe'], ('cold', 'warm'))
    """

    network: Network = field(repr=False)
    plan: Plan
    history: History = field(repr=False)
    scores: dict[str, Any] = field(repr=False)
    baselines: dict[str, Any] = field(repr=False)
    cost: dict[str, float]
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def account(self) -> Account:
        """Account of the change: class weights and weights that were kept, renamed, new or dropped."""
        return self.network.account

    @property
    def verdict(self) -> str:
        """Quality of the network and whether it beats the baselines.

        What changes the meaning of the figures stands before them: random weights, equal examples on both sides, a shortcut in the data,
        outputs that were dropped, no feature cache, assumed preprocessing. A training whose result was discarded stands after them.
        """
        facts, stage = self.facts, self.facts.get("kept_start")
        first = ["Started from RANDOM weights, so that nothing was transferred."] if facts.get("random_weights") else []
        for warning in facts.get("warnings", ()):
            if any(words in warning for words in _DOUBTS):
                first.append(in_short(warning))
        first += ["The network could not be taken apart: its frozen part ran in every epoch."] if facts.get("uncached") else []
        first += [str(facts[name]) for name in ("dropped", "attached", "weights_fit") if facts.get(name)]
        if facts.get("measured"):
            found, _, doubts = facts["measured"].partition(";")
            first.append(f"No preprocessing was stored with the network; it was {found}.")
            first += ["Give preprocessing= if you know it."] if doubts else []
        last = [f"Nothing of the training {stage!r} was kept."] if stage else []
        return " ".join([*first, verdict(self.scores, self.baselines), *last])

    def __repr__(self) -> str:
        return f"<Result of strategy {self.plan.strategy!r}: {self.verdict}>"

    def __str__(self) -> str:
        return f"{self.verdict}\n{self.plan}\n{self.account.beside(self.verdict)}"

    def _repr_html_(self) -> str:
        return notebook_html(f"{self.plan}\n\n{self.account.beside(self.verdict)}", title=self.verdict)

    def report_facts(self) -> dict[str, Any]:
        """Return all contents of the report, as plain data.

        Example:
            >>> result.report_facts()["data"]["classes"]
            2
        """
        settings = self.plan.options | self.plan.settings.to_dict()
        strategy = {"name": self.plan.strategy, "chosen": self.plan.chosen.get("strategy"), "reasons": list(self.plan.reasons)}
        return {
            **made_now("Adaptation report", self.verdict),
            "strategy": {**strategy, "settings": settings},
            "history": self.history,
            "scores": self.scores,
            "baselines": self.baselines,
            "account": self.account.to_dict(),
            "cost": self.cost,
            "call": self.plan.to_call(),
            **self.facts,
        }

    def report(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path.

        Example:
            >>> result.report("report.html").name
            'report.html'
        """
        return write_report(path, self.report_facts())

    @takes_paths
    def save(self, folder: str | Path) -> Path:
        """Save network, plan, history, scores and report in one atomic step.

        Args:
            folder: created if missing. A saved result is replaced as a whole: after a failure the folder holds either the old or the new
                result. Files of the user stay.

        Returns:
            The folder.

        Raises:
            NetworkError: if the folder cannot be written.

        Example:
            >>> result.save("saved").name
            'saved'
        """
        save_result(self, Path(folder))
        return Path(folder)


def save_result(
    result: Result,
    folder: Path,
    *,
    finish: Callable[[Path], None] | None = None,
    cost: Callable[[], dict[str, float]] | None = None,
    error: type[InputError] = NetworkError,
) -> None:
    """Save a result into a folder in one atomic step."""
    with replacing(folder, finish=finish, error=error) as staged:
        write_network(result.network, staged)
        write_text(staged / "plan.json", result.plan.to_json())
        if not result.network.history:  # otherwise the network's folder contains it
            write_lines(staged / HISTORY_FILE, result.history)
        result.cost.update(cost() if cost else {})
        write_facts_and_page(staged, result.report_facts())


def write_facts_and_page(folder: Path, facts: dict[str, Any], *, scores: Sequence[str] = SCORES) -> None:
    """Write the `facts` of a report to a folder, and its page. `scores`: keys that stand in a file of their own."""
    write_facts(folder, facts, scores=scores)
    with suppress(MissingExtraError):  # `regraft report` writes the page after the extra is installed
        write_text(folder / "report.html", report_page(facts))


def network_facts(network: Network) -> dict[str, Any]:
    """Return what a report says of the structure of a `network`."""
    blocks, name = network.blocks, str(network.origin.get("source", network.family))
    sizes = {"parameters": sum(block.parameters for block in blocks), "blocks": len(blocks)}
    return {"name": name, "family": network.family, **sizes, "head": network.head.layer}


def made_now(title: str, verdict: str) -> dict[str, Any]:
    """Return the fields that begin every report."""
    return {"title": title, "verdict": verdict, "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "versions": versions()}


def check_unfinished(folder: Path, resume: bool = True, *, shown: object, remedy: str = "") -> None:
    """Raise if a folder holds a finished network that must not be replaced."""
    settled(folder)
    if resume and (folder / FACTS_FILE).is_file():
        raise SettingError(f"{str(shown)!r} already holds a finished network. Give another folder with out={remedy}.")


def finished_run(folder: Path) -> str | None:
    """Return the digest of the run whose finished result a folder holds; None if it holds none or the digest is not stored."""
    settled(folder)
    if not (folder / FACTS_FILE).is_file() or not (folder / "plan.json").is_file():
        return None
    found = read_facts(folder).get("run")
    return found if isinstance(found, str) else None


def saved_plan(folder: Path) -> Plan:
    """Return the plan saved in a folder."""
    with opening(folder / "plan.json", "plan"):
        return Plan.from_json((folder / "plan.json").read_text(encoding="utf-8"))


def reopened(folder: Path, network: Network) -> Result:
    """Return the result saved in a folder."""
    facts = read_facts(folder)
    made = {"title", "verdict", "created", "versions", "strategy", "history", "scores", "baselines", "account", "cost", "call"}
    own = {name: value for name, value in facts.items() if name not in made}
    history = History(network.history or facts.get("history") or ())
    plan, (scores, baselines, cost) = saved_plan(folder), (facts.get(name) or {} for name in ("scores", "baselines", "cost"))
    return Result(network, plan, history, scores, baselines, cost, own)
