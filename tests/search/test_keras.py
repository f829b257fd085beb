"""Search and the scikit-learn classifier around a Keras network: one cache, the closed form, and refits from the given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from tests import torch_examples

import regraft

keras = pytest.importorskip("keras")

RATES = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "batch_size": [8, 16]}
QUICK: dict[str, Any] = {"epochs": 1, "cache": "memory"}


def _model() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    body = [layers.Conv2D(6, 3, activation="relu", name="first"), layers.BatchNormalization(name="norm")]
    body += [layers.GlobalAveragePooling2D(name="pool"), layers.Dense(5, activation="softmax", name="scores")]
    return keras.Sequential([keras.Input((8, 8, 1)), *body])


def _pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = torch_examples.pictures(count)
    return pictures.transpose(0, 2, 3, 1), labels


def test_trials_share_one_cache_and_start_from_the_trained_weights(tmp_path: Path) -> None:
    net, data = regraft.load(_model()), _pictures(60)
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    study = regraft.search(net, data, space=RATES, trials=4, folds=2, sampler="random", pruner=None, out=tmp_path, **QUICK)
    assert study.cost["frozen_forward_examples"] - study.result.cost["frozen_forward_examples"] == 60 and not any(
        trial.error for trial in study.trials
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state().items())
    again = regraft.search(net, data, space=RATES, trials=4, folds=2, sampler="random", pruner=None, **QUICK)
    assert [(one.values, one.figure) for one in again.trials] == [(one.values, one.figure) for one in study.trials]
    saved = regraft.load(tmp_path / "best")
    assert study.result is not None
    assert np.allclose(saved.predict(data[0]).probabilities, study.result.network.predict(data[0]).probabilities, atol=1e-6)
    assert regraft.adapt(study.network, data, strategy=study.best).scores == study.scores


def test_the_default_space_begins_with_the_closed_form_and_trains_further_layers() -> None:
    study = regraft.search(regraft.load(_model()), _pictures(60), trials=3, sampler="random", **QUICK)
    assert study.trials[0].values["strategy"] == "probe" and not any(trial.error for trial in study.trials)
    space = {"head_layers": [1], "head_units": [5], "head_activation": ["relu"], "learning_rate": [0.01]}
    deeper = regraft.search(regraft.load(_model()), _pictures(60), space=space, trials=1, sampler="grid", **QUICK)
    assert deeper.trials[0].error == "" and deeper.network.head.features == 5


def test_the_classifier_works_in_model_selection_and_refits_from_the_given_weights() -> None:
    (pictures, labels), quick = _pictures(48), {"epochs": 1, "cache": None, "device": "cpu"}
    adapter = regraft.TransferClassifier(_model(), strategy="head", **quick)
    assert len(cross_val_score(adapter, pictures, labels, cv=2)) == 2
    grid = GridSearchCV(adapter, {"learning_rate": [1e-3, 1e-2]}, cv=2).fit(pictures, labels)
    drawn = RandomizedSearchCV(adapter, {"batch_size": [8, 16]}, n_iter=2, cv=2, random_state=0).fit(pictures, labels)
    assert grid.best_params_["learning_rate"] in (1e-3, 1e-2)
    assert drawn.best_estimator_.network_.family == "keras" and drawn.best_estimator_.network_.classes == ("class 0", "class 1", "class 2")
    tuned = regraft.TransferClassifier(_model(), strategy="full", learning_rate=0.01, **quick)
    one = tuned.fit(pictures[:24], labels[:24]).predict_proba(pictures)
    other = tuned.fit(pictures[24:], labels[24:]).predict_proba(pictures)
    again = tuned.fit(pictures[:24], labels[:24]).predict_proba(pictures)
    assert np.array_equal(one, again) and not np.allclose(one, other)
