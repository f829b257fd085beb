"""What is told of a training: callbacks, metrics of the user's choice, the figure that chooses the epoch, trackers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from accelerate.tracking import GeneralTracker
from sklearn.metrics import balanced_accuracy_score, mean_absolute_error
from tests.reliability import cases

import regraft
from regraft.errors import MissingExtraError, SettingError
from regraft.planning import make_plan
from regraft.planning.result import History, Result
from regraft.report.sections import context
from regraft.training.courses import monitored_by

pytestmark = pytest.mark.usefixtures("without_onnx_form")

ONE_QUICK = ["torch", pytest.param("keras", marks=pytest.mark.slow)]
QUICK: dict[str, Any] = {
    **{"epochs": 3, "batch_size": 16, "cache": "memory", "learning_rate": 1e-2, "layer_decay": 1.0, "patience": None},
    **{"strategy": "partial", "frozen": 1, "batch_norm": "batch"},
}
_LAMBDA = "test_hooks_are_called_in_the_order_of_keras_and_change_nothing.<locals>.<lambda>"


class Told:
    """Takes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def on_train_begin(self, logs: Mapping[str, Any]) -> None:
        self.heard.append(("begin", dict(logs)))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any]) -> None:
        self.heard.append(("epoch", epoch))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        self.heard.append(("batch", logs["loss"]))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        self.heard.append(("end", (epoch, dict(logs))))

    def on_train_end(self, logs: Mapping[str, Any]) -> None:
        self.heard.append(("over", dict(logs)))


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_hooks_are_called_in_the_order_of_keras_and_change_nothing(family: str) -> None:
    net, data, told, seen = cases.network(family), cases.data(family), Told(), list[tuple[int, float]]()
    kept = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, logs["loss"])))
    plain = regraft.adapt(net, data, **QUICK, refit=False)
    result = regraft.adapt(net, data, **QUICK, refit=False, callbacks=[told, kept, lambda epoch, logs: seen.append((epoch, logs["loss"]))])
    assert [entry["train_loss"] for entry in result.history] == [entry["train_loss"] for entry in plain.history]
    words = [word for word, _ in told.heard]
    trainings = words.count("begin")
    assert trainings == words.count("over") >= 2 and words[:3] == ["begin", "epoch", "batch"] and words[-2:] == ["end", "over"]
    ended = [given for word, given in told.heard if word == "end"]
    assert [epoch for epoch, _ in ended] == [entry["epoch"] - 1 for entry in result.history]
    assert [logs["loss"] for _, logs in ended] == [entry["train_loss"] for entry in result.history]
    assert [logs.get("val_loss") for _, logs in ended] == [entry.get("validation_loss") for entry in result.history]
    assert seen == [(epoch, logs["loss"]) for epoch, logs in ended for _ in range(2)]
    losses = [loss for word, loss in told.heard if word == "batch"]
    assert len(losses) > len(ended) and np.isfinite(losses).all()
    assert hasattr(result.network.module, "stop_training") == hasattr(net.module, "stop_training")
    assert result.plan.to_dict()["settings"]["callbacks"] == ["callable Told", "callable LambdaCallback", f"callable {_LAMBDA}"]


def test_callbacks_of_keras_write_their_files_as_in_keras(tmp_path: Path) -> None:
    log, stored = tmp_path / "log.csv", str(tmp_path / "{epoch:02d}.weights.h5")
    given = [keras.callbacks.CSVLogger(log), keras.callbacks.ModelCheckpoint(stored, save_weights_only=True)]
    result = regraft.adapt(cases.network("keras"), cases.data("keras"), **QUICK, refit=False, callbacks=given)
    epochs = [entry["epoch"] for entry in result.history if entry["stage"] == "partial"]
    assert log.read_text().splitlines()[0].split(",").count("epoch") == 1
    assert epochs and all((tmp_path / f"{epoch:02d}.weights.h5").is_file() for epoch in epochs)


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_a_run_that_a_callback_ends_goes_on_from_there(family: str, tmp_path: Path) -> None:
    net, data, trained = cases.network(family), cases.data(family), list[tuple[str, int]]()

    def ends(epoch: int, logs: Mapping[str, Any]) -> None:
        trained.append((logs["stage"], epoch))
        if logs["stage"] == "partial" and epoch == 1 and len(trained) < 10:
            raise RuntimeError("enough for today")

    given = {**QUICK, "refit": False, "validation": 0.5, "epochs": 4}
    whole = regraft.adapt(net, data, **given, callbacks=lambda epoch, logs: None)
    with pytest.raises(RuntimeError, match="enough for today"):
        regraft.adapt(net, data, **given, callbacks=ends, out=tmp_path / "out")
    before = len(trained)
    trained += [("", 0)] * 10
    again = regraft.adapt(net, data, **given, callbacks=ends, out=tmp_path / "out")
    assert [epoch for stage, epoch in trained[before + 10 :] if stage == "partial"] == [2, 3]
    strip = [{name: value for name, value in entry.items() if name != "seconds"} for entry in whole.history]
    assert [{name: value for name, value in entry.items() if name != "seconds"} for entry in again.history] == strip


def test_a_callback_of_keras_stops_a_training() -> None:
    net, data = cases.network("keras"), cases.data("keras")
    stops = keras.callbacks.EarlyStopping(monitor="loss", patience=0, min_delta=10)
    result = regraft.adapt(net, data, **{**QUICK, "epochs": 9}, refit=False, callbacks=stops)
    assert {entry["epoch"] for entry in result.history} == {1, 2}


def _half(truth: np.ndarray, predicted: np.ndarray) -> float:
    return 0.5 * float((truth == predicted).mean())


@pytest.mark.parametrize("family", ONE_QUICK)
def test_metrics_are_in_history_scores_and_report(family: str, tmp_path: Path) -> None:
    net, data = cases.network(family), cases.data(family)
    metrics = ["balanced_accuracy", "roc_auc_ovr", _half]
    result = regraft.adapt(net, data, **QUICK, refit=False, metrics=metrics, out=tmp_path / "out")
    entry = next(entry for entry in result.history if "validation_accuracy" in entry)
    assert entry["validation__half"] == pytest.approx(entry["validation_accuracy"] / 2)
    assert {"validation_balanced_accuracy", "validation_roc_auc_ovr"} <= entry.keys()
    figures = result.scores["holdout"]
    held = data.subset(data.split_indices(0.2, seed=0)[1])
    named = [data.classes[target] for target in held.targets]
    assert figures["metrics"]["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(named, result.network.predict(held.items).labels)
    )
    assert figures["metrics"]["_half"] == pytest.approx(figures["accuracy"] / 2)
    assert "balanced_accuracy" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_metrics_of_numbers_and_labels() -> None:
    net, data = cases.network("torch"), cases.data("torch")
    draw = np.random.default_rng(0)
    numbers = draw.normal(0, 1, len(data)).astype(np.float32)
    found = regraft.adapt(net, (np.asarray(data.items), numbers), **QUICK, metrics=["neg_mean_absolute_error", mean_absolute_error])
    figures = found.scores["holdout"]
    assert -figures["metrics"]["neg_mean_absolute_error"] == pytest.approx(figures["mae"], rel=1e-5)
    assert figures["metrics"]["mean_absolute_error"] == pytest.approx(figures["mae"], rel=1e-5)
    labels = draw.integers(0, 2, (len(data), 3))
    found = regraft.adapt(net, (np.asarray(data.items), labels), **QUICK, task="multi-label", metrics="f1_macro")
    assert found.scores["holdout"]["metrics"].keys() == {"f1_macro"}


def test_the_epoch_is_chosen_by_what_is_monitored() -> None:
    assert monitored_by("val_accuracy", "auto") == ("validation_accuracy", -1.0)
    assert monitored_by("loss", "auto") == ("train_loss", 1.0)
    assert monitored_by("f1_macro", "auto") == ("validation_f1_macro", -1.0)
    assert monitored_by("neg_mean_absolute_error", "auto") == ("validation_neg_mean_absolute_error", -1.0)
    assert monitored_by("anything", "min") == ("validation_anything", 1.0)
    net, data = cases.network("torch"), cases.data("torch")
    given = {**QUICK, "epochs": 6, "refit": False, "validation": 0.5, "schedule": "constant"}
    noted: list[dict[str, Any]] = []

    def zigzag(truth: np.ndarray, predicted: np.ndarray) -> float:
        return float(len(noted) % 3)

    result = regraft.adapt(
        net, data, **given, metrics=zigzag, monitor="val_zigzag", mode="max", callbacks=lambda epoch, logs: noted.append(dict(logs))
    )
    tuned = [entry for entry in result.history if entry["stage"] == "partial"]
    best = max(range(len(tuned)), key=lambda at: tuned[at]["validation_zigzag"])
    held = data.subset(data.split_indices(0.2, seed=0)[1])
    short = regraft.adapt(net, data, **{**given, "epochs": best + 1}, monitor="loss", mode="min", callbacks=lambda epoch, logs: None)
    assert tuned[best]["validation_zigzag"] == 2.0
    assert tuned[: best + 1][-1]["train_loss"] == [entry for entry in short.history if entry["stage"] == "partial"][best]["train_loss"]
    assert len(result.network.predict(held.items).labels) == len(held)


class Summed:
    """A metric as torchmetrics has them: it adds up all that it is called with."""

    def __call__(self, truth: np.ndarray, predicted: np.ndarray) -> float:
        return 0.0

    def reset(self) -> None:
        pass


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"metrics": "f2"}, r"metrics: scikit-learn has no scorer 'f2'; did you mean 'r2', 'f1'"),
        ({"metrics": ["r2", 3]}, r"expected names of scorers of scikit-learn"),
        ({"metrics": [lambda truth, predicted: truth.nothing]}, r"'<lambda>' does not go with a task of the kind 'classification'"),
        ({"monitor": "val_f1"}, r"monitor='val_f1' is no figure of an epoch; here these are: train_loss, validation_loss, validation_acc"),
        ({"mode": "best"}, r"mode='best': expected 'auto', 'min' or 'max'"),
        ({"callbacks": [3]}, r"expected objects with hooks"),
        ({"callbacks": [keras.callbacks.Callback]}, r"expected objects with hooks"),
        ({"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, r"ReduceLROnPlateau of Keras needs .* set schedule='plateau'"),
        (
            {"callbacks": [keras.callbacks.LearningRateScheduler(float)]},
            r"set learning_rate= and schedule=",
        ),
        (
            {"metrics": keras.metrics.SparseCategoricalAccuracy()},
            r"; here it is called 'accuracy'",
        ),
        ({"metrics": keras.metrics.AUC()}, r"metrics: 'AUC' is an object of Keras or torchmetrics, which adds up all calls"),
        ({"metrics": Summed()}, r"metrics: 'Summed' is an object of Keras or torchmetrics, which adds up all calls"),
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy()},
            r"loss: SparseCategoricalCrossentropy is",
        ),
        ({"loss": keras.losses.KLDivergence()}, r"loss: KLDivergence is a loss of Keras, which takes targets first"),
        ({"loss": {"main": keras.losses.poisson}}, r"loss: poisson is a loss of Keras, which takes targets first"),
        ({"log_with": "tensorbord"}, r"log_with='tensorbord' is no tracker that accelerate knows; did you mean 'tensorboard'"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_starts(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        regraft.adapt(cases.network("torch"), cases.data("torch"), **QUICK, **given)


def test_a_call_and_a_plan_name_their_functions() -> None:
    plan = make_plan("full", {"metrics": ["f1", _half], "callbacks": [_half], "loss": {"main": _half}})
    assert "metrics=['f1', _half]" in plan.to_call() and "callbacks=[_half]" in plan.to_call() and "{'main': _half}" in plan.to_call()
    assert "callbacks=['callable _half']" in plan.of_the_loop()


class Kept(GeneralTracker):  # type: ignore[misc]
    """A tracker that keeps what it is told."""

    name = "kept"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.told: dict[str, Any] = {}
        self.over = False
        self.begun = self.failed = False

    @property
    def tracker(self) -> Kept:
        return self

    def __exit__(self, kind: Any, *_raised: Any) -> None:
        self.failed = kind is not None

    def start(self) -> None:
        self.begun = True

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.told = values

    def log(self, values: dict[str, float], step: int | None = None, **_further: Any) -> None:
        self.logged.append((step or 0, values))

    def finish(self) -> None:
        self.over = True


@pytest.mark.parametrize("family", ONE_QUICK)
def test_a_tracker_is_told_of_every_epoch_and_of_the_figures(family: str) -> None:
    kept = Kept()
    result = regraft.adapt(cases.network(family), cases.data(family), **QUICK, log_with=kept, metrics="f1_macro")
    assert kept.over and not kept.failed and (kept.told["batch_size"], kept.told["strategy"]) == (16, "partial")
    told = [values for _, values in kept.logged[:-1]]
    for values, entry in zip(told, result.history, strict=True):
        phase = "" if entry["phase"] == "train" else f"{entry['phase']}/"  # "fold 1", "refit"
        assert values[f"{entry['stage']}/{phase}train_loss"] == entry["train_loss"]
    plain = [entry for entry in result.history if not entry["phase"].startswith("fold")]
    np.testing.assert_array_equal(dict(result.history)["val_f1_macro"], [one.get("validation_f1_macro", np.nan) for one in plain])
    assert [step for step, _ in kept.logged] == [*range(1, len(told) + 1), len(told)]
    assert kept.logged[-1][1]["holdout/accuracy"] == result.scores["holdout"]["accuracy"]
    assert kept.logged[-1][1]["holdout/f1_macro"] == result.scores["holdout"]["metrics"]["f1_macro"]


def _fail(epoch: int, _logs: Any) -> None:
    if epoch:
        raise RuntimeError("of the callback")


def test_a_refused_adaptation_begins_no_tracked_run_and_a_failed_one_is_marked() -> None:
    refused, failed = Kept(), Kept()
    with pytest.raises(SettingError, match="monitor"):
        regraft.adapt(cases.network("torch"), cases.data("torch"), **QUICK, log_with=refused, monitor="val_f1")
    assert not refused.begun and not refused.over
    with pytest.raises(RuntimeError, match="of the callback"):
        regraft.adapt(cases.network("torch"), cases.data("torch"), **QUICK, log_with=failed, callbacks=[_fail])
    assert failed.begun and failed.failed and not failed.over


def test_what_changes_the_meaning_of_the_figures_stands_before_them() -> None:
    warnings = ["Warning: 2 of 9 examples are equal, byte by byte (a, b).", "Warning: Your data may contain a shortcut (colour).", "other"]
    facts = {"random_weights": True, "uncached": True, "kept_start": "full", "dropped": "outputs that are not used: 'aux'."}
    facts |= {"measured": "measured: 0..1 fits best; ask", "weights_fit": "Warning: by order.", "warnings": warnings}
    scores = {"holdout": {"examples": 9, "accuracy": 0.9, "accuracy_interval": [0.8, 1.0]}}
    result = Result(cases.network("torch"), make_plan("full", {}), History(), scores, {}, {}, facts)
    before, figures, after = result.verdict.partition("The adapted network classifies")
    found = [
        before.index(words) for words in ("RANDOM", "byte by byte: the figures may", "shortcut", "in every epoch", "'aux'", "order", "0..1")
    ]
    assert figures and found == sorted(found) and "other" not in before and after.endswith("Nothing of the training 'full' was kept.")
    told = context({**facts, "verdict": result.verdict, "scores": scores})["warnings"]
    for words in ("byte by byte (a, b)", "a shortcut (colour)", "ther", "RANDOM", "Nothing of the training"):  # each once, as a whole
        assert [words.partition(" (")[0] in one for one in told].count(True) == 1 and any(words in one for one in told)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.training.callbacks.get_available_trackers", lambda: [])
    with pytest.raises(MissingExtraError, match=r"log_with='mlflow' needs its library, which is not installed.*pip install mlflow"):
        regraft.adapt(cases.network("torch"), cases.data("torch"), **QUICK, log_with="mlflow")


@pytest.mark.parametrize(
    ("family", "store"),
    [("torch", "file://{}/mlruns"), pytest.param("keras", "sqlite:///{}/runs.db", marks=pytest.mark.slow)],
)
def test_mlflow_reads_what_was_written(family: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow's own question before it writes to a folder of files
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(store.format(tmp_path))
    net, data = cases.network(family), cases.data(family)
    result = regraft.adapt(net, data, **QUICK, log_with="mlflow", out=tmp_path / "out")
    with pytest.raises(RuntimeError, match="of the callback"):
        regraft.adapt(net, data, **QUICK, log_with="mlflow", callbacks=[_fail])
    assert mlflow.active_run() is None
    failed, finished = mlflow.search_runs(experiment_names=["regraft"], output_format="list")
    assert (failed.info.status, finished.info.status) == ("FAILED", "FINISHED")
    assert finished.data.params["strategy"] == "partial" and finished.data.params["learning_rate"] == "0.01"
    assert finished.data.metrics["holdout/accuracy"] == pytest.approx(result.scores["holdout"]["accuracy"])
    kept = mlflow.MlflowClient().list_artifacts(finished.info.run_id)
    assert {one.path for one in kept} == {"plan.json", "report.html"}
    steps = mlflow.MlflowClient().get_metric_history(finished.info.run_id, "partial/fold 1/train_loss")
    tuned = [entry["train_loss"] for entry in result.history if entry["stage"] == "partial" and entry["phase"] == "fold 1"]
    assert [one.value for one in sorted(steps, key=lambda one: one.step)] == pytest.approx(tuned)


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    result = regraft.adapt(cases.network("torch"), cases.data("torch"), **QUICK, log_with="tensorboard", out=tmp_path / "out")
    events = next((tmp_path / "out" / "logs").rglob("events.*"))
    read = reading.EventAccumulator(str(events.parent))
    read.Reload()
    tuned = [entry["train_loss"] for entry in result.history if entry["stage"] == "partial" and entry["phase"] == "fold 1"]
    assert [one.value for one in read.Scalars("partial/fold 1/train_loss")] == pytest.approx(tuned, rel=1e-6)
    assert read.Scalars("holdout/accuracy")[0].value == pytest.approx(result.scores["holdout"]["accuracy"])
