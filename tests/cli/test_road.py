"""The road by commands: inspect, adapt, evaluate, predict, report, cache."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from regraft.cli import app

from .conftest import SETTINGS, TINY, run

Adapted = tuple[Path, Path, Result]


def test_inspect_shows_blocks_head_and_that_weights_are_random() -> None:
    result = run("inspect", TINY)
    assert result.exit_code == 0
    assert "parameters in 16 blocks" in result.stdout and ", 1,000 outputs, classification" in result.stdout
    assert "its weights are RANDOM" in result.stdout


def test_inspect_previews_other_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("goldfish, Carassius auratus\nzebra crossing\n", encoding="utf-8")
    plain = json.loads(run("inspect", TINY, "--classes", tmp_path / "classes.txt", "--json").stdout)
    assert plain["preview"]["kept"] == ["goldfish, Carassius auratus"] and plain["preview"]["new"] == ["zebra crossing"]
    assert len(plain["preview"]["dropped"]) == 999 and plain["heads"][0]["rows"] == 1000
    shown = run("inspect", TINY, "--classes", tmp_path / "classes.txt").stdout
    assert "nothing was changed" in shown and "class weights of new classes" in shown


def test_adapt_prints_verdict_account_cost_and_report(adapted: Adapted) -> None:
    folder, _, result = adapted
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Started from RANDOM weights, so that nothing was transferred. The adapted network classifies")
    beginnings = {line.split()[0]: line.split() for line in lines if line}
    assert beginnings["strategy"] == ["strategy", "head"] and beginnings["new"][1] == "2" and beginnings["dropped"][1] == "1,000"
    (cost,) = (line for line in lines if line.startswith("Cost: "))
    assert "16 examples went through the frozen part" in cost and "until PyTorch was imported" in cost
    assert lines[lines.index("Next:") - 2] == f"Report: {folder / 'report.html'}"
    saved = lines[lines.index("Next:") - 1]
    assert saved.startswith(f"Saved in {folder}: ") and "network" in saved and "plan.json" in saved
    assert lines[lines.index("Next:") + 1 :] == [
        f"  regraft {line}" for line in (f"evaluate {folder} DATA", f"predict {folder} FILES", f"export {folder} network.onnx")
    ]
    assert {path.name for path in folder.iterdir()} >= {"regraft.json", "plan.json", "history.jsonl", "scores.json", "report.html"}
    assert not (folder / "run").exists()


def test_adapt_prints_json_alone_on_stdout(pictures: Path, tmp_path: Path) -> None:
    test = ["--test", pictures, "--set", "optimizer=sgd", "--learning-rate", 0.01, "--frozen", "layer3", "--strategy", "partial"]
    result = run("adapt", TINY, pictures, "--out", tmp_path / "out", "--epochs", 1, "--json", "--quiet", *test, *SETTINGS)
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert plain["scores"]["test"]["examples"] == 16 and plain["baselines"]["majority"]["examples"] == 16
    assert plain["plan"]["settings"]["optimizer"] == "sgd" and plain["plan"]["frozen"] == "layer3"
    assert Path(plain["report"]).is_file()


def test_adapt_takes_a_table_with_files_and_groups(pictures: Path, tmp_path: Path) -> None:
    rows = [f"{name}/{index}.png,{name},{index % 4},{1 + index},{-1 - index}" for name in ("bright", "dark") for index in range(8)]
    (tmp_path / "train.csv").write_text("filename,label,session,much,wrong\n" + "\n".join(rows), encoding="utf-8")
    options = ["--files", pictures, "--target", "label", "--group", "session", "--strategy", "head", "--epochs", 1, "--json"]
    refused = run("adapt", TINY, tmp_path / "train.csv", "--out", tmp_path / "out", "--sample-weight", "wrong", *options, *SETTINGS)
    assert refused.exit_code == 2 and "example 0 has -1" in refused.stderr
    (tmp_path / "test.csv").write_text("filename,label,session\nbright/0.png,bright,0\ndark/0.png,dark,0", encoding="utf-8")
    options += ["--sample-weight", "much", "--test", tmp_path / "test.csv"]  # what judges needs no weights
    result = run("adapt", TINY, tmp_path / "train.csv", "--out", tmp_path / "out", *options, *SETTINGS)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["scores"]["test"]["examples"] == 2


def test_evaluate_gives_figures_with_intervals(adapted: Adapted) -> None:
    folder, pictures, _ = adapted
    plain = json.loads(run("evaluate", folder, pictures, "--json").stdout)
    assert plain["examples"] == 16 and set(plain["per_class"]) == {"bright", "dark"}
    low, high = plain["accuracy_interval"]
    assert low <= plain["accuracy"] <= high
    shown = run("evaluate", folder, pictures).stdout
    assert "95 % interval" in shown and "macro F1" in shown and "bright" in shown
    assert "100.0 %" in shown and "Confusion matrix" in shown


def test_predict_gives_one_row_for_each_file_of_a_folder(adapted: Adapted) -> None:
    folder, pictures, _ = adapted
    result = run("predict", folder, pictures / "dark", pictures / "bright" / "0.png", "--probabilities")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert result.exit_code == 0 and len(rows) == 9
    assert rows[0]["file"] == str(pictures / "dark" / "0.png") and rows[-1]["file"] == str(pictures / "bright" / "0.png")
    for row in rows:
        chances = {name: float(row[f"p({name})"]) for name in ("bright", "dark")}
        assert max(chances, key=lambda name: chances[name]) == row["label"]
        assert float(row["probability"]) == max(chances.values())
        assert sum(chances.values()) == pytest.approx(1, abs=1e-5)


def test_predict_gives_json_lines_equal_to_the_library(adapted: Adapted) -> None:
    regraft = pytest.importorskip("regraft")
    folder, pictures, _ = adapted
    lines = [
        json.loads(line) for line in run("predict", folder, pictures / "dark", "--format", "jsonl", "--probabilities").stdout.splitlines()
    ]
    found = regraft.load(folder).predict(pictures / "dark")
    assert [line["label"] for line in lines] == found.labels
    assert np.array([[line["probabilities"][name] for name in found.classes] for line in lines]) == pytest.approx(found.probabilities)


def test_report_is_made_again(adapted: Adapted) -> None:
    folder, _, _ = adapted
    (folder / "report.html").unlink()
    result = run("report", folder)
    assert result.exit_code == 0 and result.stdout.strip() == str(folder / "report.html")
    assert (folder / "report.html").read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")


def test_caches_are_listed_and_cleared(pictures: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert "no feature caches" in run("cache", "list", "--cache", cache).stdout
    options = ["--strategy", "head", "--epochs", 1, "--quiet", "--set", "device=cpu"]
    assert run("adapt", TINY, pictures, "--out", tmp_path / "out", "--cache", cache, *options).exit_code == 0
    (cache / "notes.txt").write_text("mine", encoding="utf-8")
    (entry,) = json.loads(run("cache", "list", "--cache", cache, "--json").stdout)
    assert entry["rows"] == entry["done"] == 16 and entry["bytes"] > 0
    listed = run("cache", "list", "--cache", cache).stdout
    assert "100%" in listed and "network" in listed and "made" in listed
    assert entry["network"] == TINY and entry["data"].startswith("16 image from ") and entry["made"].startswith("20")
    assert run("cache", "clear", "--cache", cache, "--older", "1h").stdout.startswith("Deleted 0 feature caches older than 1h in ")
    assert run("cache", "clear", "--cache", cache, "--older", "tomorrow").exit_code == 2
    old = tmp_path / "old"
    shutil.copytree(cache, old)
    for days, deleted in ((29, "0 feature caches"), (31, "1 feature cache")):
        for file in (old / Path(entry["folder"]).name).iterdir():
            os.utime(file, (time.time() - days * 86400,) * 2)
        assert run("cache", "clear", "--cache", old, "--older", "30d").stdout.startswith(f"Deleted {deleted} older than 30d in ")
    assert [path.name for path in old.iterdir()] == ["notes.txt"]
    assert run("cache", "clear", "--cache", cache).stdout.startswith("Deleted 1 feature cache in ")
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]


def test_weights_that_cannot_be_fetched_stop_a_command(pictures: Path, tmp_path: Path) -> None:
    """Random ones have to be asked for; beside a file of weights they are refused."""
    for words in (["adapt", TINY, str(pictures), "--out", str(tmp_path / "out")], ["inspect", TINY], ["profile", TINY, str(pictures)]):
        stopped = CliRunner().invoke(app, words)
        assert stopped.exit_code == 2 and "could not be fetched" in stopped.stderr and "--random-weights" in stopped.stderr
    assert not (tmp_path / "out").exists()
    both = CliRunner().invoke(app, ["inspect", TINY, "--random-weights", "--weights", "some.safetensors"])
    assert both.exit_code == 2 and "give one of them" in both.stderr
    (tmp_path / "some.keras").write_bytes(b"")
    other = CliRunner().invoke(app, ["inspect", str(tmp_path / "some.keras"), "--random-weights"])
    assert other.exit_code == 2 and "goes with a name" in other.stderr
