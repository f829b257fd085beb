"""The pages as a browser shows them: at three widths, light and dark, nothing is cut, overlaps, is too small to read or too pale."""

from __future__ import annotations

import html
import itertools
import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.report import picture_uri, write_report
from regraft.report.profile import write_profile

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS, SCHEMES, HEIGHT = (1400, 768, 390), ("light", "dark"), 3000
LONG = (
    "a class whose name is as long as those of diagnoses, with/a/path/that_has_no_place_to_break_0123456789012345678901234567890123456789"
)
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
"""Where the tests leave PAGE-WIDTH-SCHEME.png, the first 3000 pixels of each page: kept after the tests, for whoever runs them."""
MEASURE = Path(__file__).with_name("measure.js")


def judged(accuracy: float, **more: Any) -> dict[str, Any]:
    return {"examples": 360, "accuracy": accuracy, "accuracy_interval": [accuracy - 0.05, min(accuracy + 0.03, 1.0)], **more}


def report_facts(classes: int) -> dict[str, Any]:
    """All that a report can show; class names are long."""
    rng, names = np.random.default_rng(0), [f"{LONG} {k}" if k == 1 else f"class {k}" for k in range(classes)]
    table = np.eye(classes, dtype=int) * 1234 + rng.integers(0, 4, (classes, classes))
    true, predicted = np.nonzero(table)
    cells = {"true": true.tolist(), "predicted": predicted.tolist(), "count": table[true, predicted].tolist()}
    figures = judged(0.9, macro_f1=0.89, log_loss=19.74, ece=0.02, brier=0.15, confusion=cells)
    figures["per_class"] = {name: {"recall": 0.9, "interval": [0.8, 0.95], "examples": 120} for name in names}
    bins = [{"probability": p, "accuracy": p, "interval": [p - 0.05, p + 0.05], "examples": 40} for p in (0.3, 0.6, 0.9)]
    stages = ("head", "full", "full, refit")
    losses = [{"train_loss": 40 * math.exp(-epoch / 3), "validation_loss": 3 + math.cos(epoch)} for epoch in range(1, 61)]
    history = [
        {"epoch": k, "stage": stages[k // 21], "validation_accuracy": 0.9 + k / 1000, **row} for k, row in enumerate(losses, start=1)
    ]
    tried = {"predicted": 2.0, "seconds": 3.0, "estimate": 0.9, "interval": [0.85, 0.93], "figure": "accuracy", "losses": [1.2, 0.7, 0.65]}
    others = ("head", LONG, "full, from the probe")
    return {
        "title": "Adaptation report",
        "verdict": f"The adapted network classifies 90.0 % of the 360 held-out examples correctly, above {LONG}.",
        "created": "2026-01-02",
        "call": f"regraft.adapt({LONG!r}, 'data', strategy='auto', seed=0)",
        "versions": {"regraft": "0.1.0", "torch": "2.9.1+cpu"},
        "network": {"name": f"/home/{LONG}/net.pt", "family": "torch", "parameters": 3400000, "blocks": 17, "head": LONG},
        "data": {
            "examples": 1797,
            "classes": names,
            "counts": dict.fromkeys(names, 5000),
            "split": {"training": 9, "holdout": 3},
            "notes": [LONG],
        },
        "preprocessing": LONG,
        "strategy": {"name": "auto", "chosen": LONG, "reasons": [LONG], "settings": {LONG: LONG, "clip": None}},
        "history": history,
        "scores": {"holdout": figures, "test": figures},
        "baselines": {"majority": judged(0.4), LONG: judged(0.8), "probe": judged(0.895)},
        "account": {"kept": [LONG], "dropped": [f"old {k}" for k in range(50)], "rules": {"bus": LONG}, "notes": [LONG]},
        "cost": {"read": 1.0, "frozen": 2.0, "train": 3.0, "total": 7000.0, "frozen_forward_examples": 900},
        "worst": [
            {"name": LONG, "true": LONG, "predicted": "bus", "probability": 0.9, "media": picture_uri(np.eye(8)), "media_kind": "image"}
        ]
        * 3,
        "candidates": [{**tried, "name": name, "why": "chosen" if name == "head" else f"not as good: {LONG}"} for name in others],
        "reliability": bins,
        "random_weights": True,
        "warnings": [LONG],
    }


def profile_facts(kind: str) -> dict[str, Any]:
    """All that a profile can show."""
    regression = kind == "regression"
    depths = [{"block": f"{LONG} {k}" if k == 3 else f"features.{k}", "value": 0.9 - 0.02 * k, "error": 0.01} for k in range(24)]
    beside = [{"name": name, "value": 0.95, "error": 0.01, "words": "the better of 2"} for name in ("all depths together", LONG)]
    return {
        "network": LONG,
        "kind": kind,
        "metric": "R²" if regression else "accuracy",
        "examples": 300,
        "judged": 300,
        "classes": [] if regression else ["cat", LONG],
        "counts": {} if regression else {"cat": 1234, LONG: 5},
        "groups": 0,
        "held_out": "leave-one-out",
        "chance": -0.02 if regression else 0.22,
        "depths": depths,
        "best": "features.0",
        "honest": [0.97, 0.01],
        "holds_to": "features.8",
        "beside": beside,
        "similarity": 0.927,
        "per_class": 60,
        "size": "small",
        "likeness": "similar",
        "scenario": "Small data (60 examples per class), similar to what the network was trained on.",
        "advice": "train a head on the deepest features; fine-tuning would overfit.",
        "agrees": False,
        "findings": [
            "The measurement disagrees: a probe on all depths together is better than the deepest features, 99.7 % against 94.0 %.",
            LONG,
        ],
        "warnings": [LONG],
        "notes": [LONG],
        "curve": [[30, 0.5, 0.02], [74, 0.7, 0.012], [15000, 0.8, 0.004]],
        "more": 60,
        "gain": [0.002, -0.0003, 0.004],
        "seconds": {"read": 0.0, "pass": 0.484, "total": 1.06},
        "passed": 300,
    }


PAGES: dict[str, Callable[[Path], object]] = {
    "report": lambda path: write_report(path, report_facts(5)),
    "report_of_many_classes": lambda path: write_report(path, report_facts(40)),
    "report_of_nothing": lambda path: write_report(path, {"verdict": "v", "history": [{"epoch": 1, "stage": "head", "train_loss": 1.0}]}),
    "profile": lambda path: write_profile(path, profile_facts("classification")),
    "profile_of_regression": lambda path: write_profile(path, profile_facts("regression")),
}


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("name", [name if name in ("report", "profile") else pytest.param(name, marks=pytest.mark.slow) for name in PAGES])
def test_page_in_a_browser(name: str, tmp_path: Path) -> None:
    PAGES[name](tmp_path / "page.html")
    page = html.escape((tmp_path / "page.html").read_text(encoding="utf-8"))
    looks = [(width, scheme) for width in WIDTHS for scheme in SCHEMES]
    ends = list(itertools.accumulate(width for width, _ in looks))
    frames = "".join(
        f'<iframe width="{width}" height="{HEIGHT}" srcdoc="{page}"'
        f' style="position:absolute;top:0;left:{end - width}px;border:0;color-scheme:{scheme}"></iframe>'
        for (width, scheme), end in zip(looks, ends, strict=True)
    )
    script = f"window.onload = () => {{\n{MEASURE.read_text(encoding='utf-8')} }};"
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{frames}<script>{script}</script></body>', encoding="utf-8")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'user'}")
    kept = (f"--screenshot={tmp_path / 'all.png'}", f"--window-size={ends[-1]},{HEIGHT}", "--dump-dom")
    done = subprocess.run([str(CHROMIUM), *options, *kept, wrapper.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(html.unescape(done.stdout.partition("<title>FOUND")[2].partition("END</title>")[0]))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with Image.open(tmp_path / "all.png") as everything:
        for (width, scheme), end in zip(looks, ends, strict=True):
            picture = everything.crop((end - width, 0, end, HEIGHT)).convert("RGB")
            picture.save(SCREENSHOTS / f"{name}-{width}-{scheme}.png")
            assert len(picture.resize((width // 4, HEIGHT // 4)).getcolors(HEIGHT * width) or []) > 20, "blank"
    assert [(int(each["width"]), each["scheme"]) for each in found] == looks
    assert {f"{each['width']} {each['scheme']}": each["faults"] for each in found if each["faults"]} == {}
    assert len({each["ground"] for each in found}) == 2  # light and dark differ
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
