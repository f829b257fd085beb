"""A fixed small sample of the networks that `benchmarks/zoo.py` measures, with the same steps."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

import regraft

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SLOW = (
    "BartForSequenceClassification",
    "GPT2ForSequenceClassification",
    "SegformerForImageClassification",
    "SwiftFormerForImageClassification",
)
SAMPLE = (
    *(("timm", name) for name in ("convnext", "vision_transformer")),
    *(("Hugging Face", f"{name}ForSequenceClassification") for name in ("Bert", "GPT2", "Bart", "Wav2Vec2")),
    *(("Hugging Face", f"{name}ForImageClassification") for name in ("ResNet", "Segformer", "CLIP", "SwiftFormer")),
)


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> Any:
    for library in ("timm", "torchvision", "transformers"):
        pytest.importorskip(library)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("zoo")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("library", "key"), [pytest.param(*one, marks=[pytest.mark.slow] if one[1] in SLOW else [], id=one[1]) for one in SAMPLE]
)
def test_a_network_of_the_zoo(library: str, key: str, zoo: Any, tmp_path: Path) -> None:
    case = next(case for case in zoo.LIBRARIES[library]() if case.key == key)
    trial = zoo.Trial(case, tmp_path)
    assert [(column, zoo.attempted(trial.steps()[column])) for column in zoo.CHEAP] == [(column, "ok") for column in zoo.CHEAP]
    assert zoo.attempted(lambda: zoo.reopened(case, tmp_path)) == "ok"
    assert regraft.load(tmp_path / "saved").classes == ("a", "b", "c")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("library", "key"),
    [
        ("timm", "vision_transformer"),
        ("Hugging Face", "BertForSequenceClassification"),
        pytest.param("torchvision", "mobilenet_v3_small", marks=pytest.mark.slow),
        pytest.param("keras.applications", "MobileNetV3Small", marks=pytest.mark.slow),
    ],
)
def test_every_strategy_for_one_epoch(library: str, key: str, zoo: Any, tmp_path: Path) -> None:
    """The other columns of the table, for a network of each library."""
    trial = zoo.Trial(next(case for case in zoo.LIBRARIES[library]() if case.key == key), tmp_path)
    trial.open()
    strategies = ("head", "partial", "full", "auto")
    assert [(one, zoo.attempted(lambda one=one: trial.adapted(one))) for one in strategies] == [(one, "ok") for one in strategies]


def test_the_table_counts_what_ran_and_names_what_failed(zoo: Any) -> None:
    rows = {
        "one": {"network": "n1", "open": "ok", "probe": "ok"},
        "two": {"network": "n2", "open": "ok", "probe": "refused: too small"},
        "three": {"network": "n3", "open": "not built: no library"},
        "four": {"network": "n4", "open": "ok", "probe": "not within 60 s of CPU time"},
        "five": {"network": "n5", "open": "refused: of parts"},
    }
    lines = list(zoo.table({"lib": rows}))
    assert lines[2].startswith("| lib (4) | 3/4 | 0/4, 3 unknown | 0/4, 3 unknown | 1/4, 1 unknown |")
    assert [line for line in lines if line.startswith("- ")] == [
        "- lib `n2`, probe: refused: too small", "- lib `n3`, open: not built: no library",
        "- lib `n4`, probe: not within 60 s of CPU time", "- lib `n5`, open: refused: of parts",
    ]  # fmt: skip
