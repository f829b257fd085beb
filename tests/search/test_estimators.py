"""The scikit-learn classifier: its checks, model selection, and refits that start from the network that was given."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from tests import torch_examples as examples
from tests.reliability import cases
from torch import nn

import regraft
from regraft.errors import SettingError
from regraft.training import Settings

QUICK: dict[str, Any] = {"strategy": "head", "epochs": 1, "learning_rate": 0.01, "cache": None, "device": "cpu"}
REPEATED = {"check_sample_weight_equivalence_on_dense_data": "examples that are repeated or left out change the split and the batches"}
EXPECTED = {
    "TransferClassifier": REPEATED
    | {"check_class_weight_classifiers": "the epoch is chosen by the plain loss, so that a weight of 1000 may not ruin the network"},
    "TransferRegressor": REPEATED
    | {
        "check_sample_weights_not_overwritten": "probes refuse weights",
        "check_methods_subset_invariance": "float32 products round otherwise in batches of another size",
    },
}


class Tiny(nn.Sequential):
    """A small network for rows of `width` numbers: a class, so that the names of the checks below are the same in every process."""

    def __init__(self, width: int) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 4))


@parametrize_with_checks(
    [regraft.TransferClassifier(Tiny, **QUICK), regraft.TransferRegressor(Tiny, **QUICK | {"strategy": "probe"})],
    expected_failed_checks=lambda estimator: EXPECTED[type(estimator).__name__],
)
def test_scikit_learn_accepts_it(estimator: Any, check: Any) -> None:
    check(estimator)


def _net() -> Any:
    torch.manual_seed(0)
    return regraft.load(examples.Cnn(), inputs=(1, 8, 8))


def test_a_refit_never_starts_from_other_weights() -> None:
    net, (pictures, labels) = _net(), examples.pictures(60)
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    model = regraft.TransferClassifier(net, **{**QUICK, "strategy": "full", "epochs": 2})
    one = model.fit(pictures[:30], labels[:30]).predict_proba(pictures)
    other = model.fit(pictures[30:], labels[30:]).predict_proba(pictures)
    fresh = clone(model).fit(pictures[30:], labels[30:]).predict_proba(pictures)
    assert np.array_equal(other, fresh) and not np.array_equal(one, other)
    assert np.array_equal(one, model.fit(pictures[:30], labels[:30]).predict_proba(pictures))
    assert examples.bit_equal(before, net.state())


def test_it_works_in_model_selection() -> None:
    (pictures, labels), model = examples.pictures(48), regraft.TransferClassifier(_net(), **QUICK)
    assert len(cross_val_score(model, pictures, labels, cv=2)) == 2
    grid = GridSearchCV(model, {"learning_rate": [1e-3, 1e-2]}, cv=2).fit(pictures, labels)
    drawn = RandomizedSearchCV(model, {"batch_size": [8, 16], "optimizer": ["sgd", "adamw"]}, n_iter=2, cv=2, random_state=0)
    assert grid.best_params_["learning_rate"] in (1e-3, 1e-2)
    assert drawn.fit(pictures, labels).best_estimator_.network_.classes == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    "source", [examples.Cnn(), examples.Cnn, lambda: _net(), lambda shape: examples.Cnn(4)], ids=["module", "class", "network", "of shape"]
)
def test_whatever_makes_a_network_serves(source: Any) -> None:
    pictures, _ = examples.pictures(30)
    model = regraft.TransferClassifier(source, **QUICK).fit(pictures, np.array([7, 3, 5])[np.arange(30) % 3])
    assert model.classes_.tolist() == [3, 5, 7] and set(model.predict(pictures)) <= {3, 5, 7}
    assert model.predict_proba(pictures).sum(1) == pytest.approx(1)


@pytest.mark.usefixtures("without_onnx_form")
def test_a_saved_folder_serves_and_the_fitted_one_can_be_pickled(tmp_path: Any) -> None:
    pictures, labels = examples.pictures(30)
    rows = pictures.reshape(30, -1)
    folder = regraft.load(Tiny(64), inputs=(64,)).save(tmp_path / "net")
    model = regraft.TransferClassifier(lambda: regraft.load(folder, architecture=Tiny(64)), **QUICK).fit(rows, labels)
    model.net = None
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(rows), model.predict(rows))
    assert model.n_features_in_ == 64


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_pickled_network_predicts_and_can_be_adapted(family: str) -> None:
    net, data = cases.network(family), cases.data(family)
    adapted = regraft.adapt(net, data, **QUICK).network
    for network in (net, adapted):
        again = pickle.loads(pickle.dumps(network))
        assert np.array_equal(again.logits(data.items), network.logits(data.items))
        assert np.array_equal(again.features(data.items), network.features(data.items)) and again.blocks == network.blocks
    result = regraft.adapt(pickle.loads(pickle.dumps(net)), data, **{**QUICK, "strategy": "full"})
    assert np.array_equal(
        result.network.logits(data.items), regraft.adapt(net, data, **{**QUICK, "strategy": "full"}).network.logits(data.items)
    )


def test_labels_whose_names_clash_stay_apart() -> None:
    pictures, _ = examples.pictures(30)
    labels = np.array(["a", "A", " a"])[np.arange(30) % 3]
    model = regraft.TransferClassifier(_net(), **QUICK).fit(pictures, labels)
    assert model.classes_.tolist() == [" a", "A", "a"] and model.score(pictures, labels) > 0.4


def test_it_takes_every_setting_at_its_own_default() -> None:
    taken = {name: one.default for name, one in inspect.signature(regraft.TransferClassifier).parameters.items()}
    left_out = {"task_weights", "baselines"}  # one task, and yardsticks are for the report
    settings = {field.name: field.default for field in fields(Settings) if field.name not in left_out}
    assert {name: taken.get(name, "missing") for name in settings} == settings


def test_names_of_other_libraries_are_told_by_their_name_here() -> None:
    for estimator in (regraft.TransferClassifier, regraft.TransferRegressor):
        with pytest.raises(SettingError, match=r"'lr'; here it is called 'learning_rate'; .*'epoch'; here it is called 'epochs'"):
            estimator(Tiny, lr=0.1, epoch=3)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="one class"):
        regraft.TransferClassifier(_net(), **QUICK).fit(examples.pictures(9)[0], np.zeros(9, int))


def test_both_work_in_the_tools_of_scikit_learn() -> None:
    (pictures, labels), width = examples.pictures(60), 64
    rows, values = pictures.reshape(60, width).astype(np.float64), pictures.reshape(60, 64)[:, :4].sum(1)
    calibrated = CalibratedClassifierCV(regraft.TransferClassifier(Tiny, **QUICK), cv=2).fit(rows, labels)
    assert calibrated.predict_proba(rows).shape == (60, 3) and set(calibrated.predict(rows)) <= set(labels)
    line = make_pipeline(StandardScaler(), regraft.TransferRegressor(Tiny, **QUICK | {"strategy": "probe"}))
    scores = cross_val_score(line, rows, values, cv=3, scoring="r2")
    assert len(scores) == 3 and scores.mean() > 0.2
    assert line.fit(rows, values).predict(rows).shape == (60,)


def test_weights_of_examples_decide_what_is_learned() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    labels = np.where(rows[:, 0] + rows[:, 1] > 0, "a", "b")
    model = regraft.TransferClassifier(Tiny, **QUICK | {"epochs": 5, "start": "zeros"})
    given = (None, np.ones(60), np.where(labels == "a", 2.0, 1.0))
    plain, equal, weighed = (model.fit(rows, labels, sample_weight=one).predict_proba(rows)[:, 0].mean() for one in given)
    assert plain == equal and weighed > plain + 0.01


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("strategy", ["probe", "full"])
def test_several_outputs_are_learned_together(family: str, strategy: str) -> None:
    net = cases.network(family)
    rows = np.random.default_rng(0).normal(size=(60, *net.input_shape)).astype(np.float32)
    first = rows.reshape(60, -1)[:, 0]
    targets = np.stack([first, 3 - 2 * first, 100 * first], 1)
    model = regraft.TransferRegressor(net, **QUICK | {"strategy": strategy, "epochs": 2})
    found = model.fit(rows, targets).predict(rows)
    assert found.shape == (60, 3) and list(model.network_.heads) == ["output 0", "output 1", "output 2"]
    assert model.score(rows, targets) > (0.1 if strategy == "probe" else -1)
    assert np.abs(found.mean(0) - targets.mean(0)).max() < 0.2 * targets.std(0).max()
    assert clone(model).fit(list(rows), targets[:, :1]).predict(rows).shape == (60, 1)


def test_several_labels_of_an_example_are_refused() -> None:
    rows = np.random.default_rng(0).normal(size=(12, 5))
    with pytest.raises(ValueError, match="1d array"):
        regraft.TransferClassifier(Tiny, **QUICK).fit(rows, np.eye(2, dtype=int)[np.arange(12) % 2] ^ (np.arange(12) % 3 == 0)[:, None])
