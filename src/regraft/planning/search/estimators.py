"""Scikit-learn estimators whose `fit` adapts a trained network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data

from ...data import Dataset, default_preprocessing, preprocessing_from_dict, read
from ...errors import DataError, NetworkError, SettingError, unknown_setting
from ...networks.network import Network
from ...networks.sources.opening import open_source
from ...randomness import seeded
from ...training import Settings
from ...words import counted
from ..plan import FitKeywords, Plan, make_plan
from ..preparing import prepared_for
from ..setup import learning_parts
from .bench import carried_out


class _Keywords(FitKeywords, total=False):
    strategy: str
    views: int
    validation: float
    seed: int
    kind: str | None


class _Transfer(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of both estimators: opens the network and adapts a copy of it."""

    def __init__(self, net: Any, **settings: Unpack[_Keywords]) -> None:
        wrong = [unknown_setting(name, list(_SIGNATURE.parameters)[1:]) for name in settings if name not in _SIGNATURE.parameters]
        if wrong:
            raise SettingError("; ".join(wrong))
        given = _SIGNATURE.bind(self, net, **settings)
        given.apply_defaults()
        self.__dict__.update(list(given.arguments.items())[1:])

    def _read(self, items: Any, targets: Any, *, sample_weight: Any, **how: Any) -> Dataset:
        """Read the examples of `fit` with their weights, if any are given and not all equal."""
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, items if _are_numbers(items) else np.empty((len(items), 1)))
            how |= {"sample_weight": weights} if np.ptp(weights) else {}
        return read((items, targets), kind=self.kind, **how)

    def _adapted(self, network: Network, data: Dataset, *, options: Mapping[str, Any]) -> None:
        """Adapt a copy of a network to all data, and store it with its history."""
        plan = make_plan(self.strategy, options)
        everything = np.arange(len(data))
        parts = learning_parts(data, plan, rest=everything, holdout=everything[:0])
        outcome = carried_out(network, prepared_for(network, data, plan=plan, rows=parts.training), plan=plan, parts=parts)
        self.network_, self.history_ = outcome.network, outcome.history

    def _options(self) -> dict[str, Any]:
        return {name: own for name in _DEFAULTS if (own := getattr(self, name)) is not None or name in _NONE_MEANS}

    def _checked(self, X: Any, y: Any = "no_validation", *, reset: bool = True, **options: Any) -> Any:
        return validate_data(self, X, y, reset=reset, allow_nd=True, **options)

    def _unlabelled(self, X: Any) -> Dataset:
        """Return the examples to predict, checked against those given to `fit`."""
        check_is_fitted(self)
        items = self._checked(X, reset=False) if _are_numbers(X) else list(X)
        return read((items, np.zeros(len(items), np.float32)), kind=self.kind, task="regression")

    def _opened(self, items: Any) -> Network:
        shape, source = np.shape(items)[1:] if isinstance(items, np.ndarray) else None, self.net
        with seeded(self.seed):
            if any(makes(source) for makes in (inspect.isfunction, inspect.ismethod, inspect.isclass)):
                given = inspect.signature(source).parameters.values()
                width = None if shape is None else shape[0] if len(shape) == 1 else shape
                source = source(width) if any(one.default is one.empty and one.kind in _POSITIONAL for one in given) else source()
            return _network_of(source, shape)


class TransferClassifier(ClassifierMixin, _Transfer):  # type: ignore[misc]  # scikit-learn has no types
    """Scikit-learn classifier from a trained network. Every `fit` starts from the original network.

    `fit` uses all given examples: a share (`validation`) chooses the epoch, the others are learned from. No holdout set is split off,
    because `cross_val_score`, `GridSearchCV` and similar tools do that.

    Args:
        net: a `Network`, a module or Keras model, a path, or a function that returns one of these. A function with one argument
            receives the number of columns, or the shape of an example if examples are not rows of numbers.
        strategy: as in `adapt`.
        frozen: as in `adapt`.
        block: as in `adapt`.
        probe: as in `adapt`.
        views: as in `adapt`.
        augment: as in `adapt`.
        validation: share of the examples that choose the epoch, the learning rate and, for "auto", the strategy.
        seed: seed of split, order and dropout.
        start: initialisation of the class weights of new classes.
        kind: "array", "image", "audio" or "text"; None: detected from the examples.
        class_weight: as in `adapt`, or a mapping from label to weight.
        epochs: this and the following arguments are those of `regraft.training.Settings`, with the same defaults.

    Example:
        >>> import numpy as np, regraft, torch
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
        >>> model = regraft.TransferClassifier(net, strategy="probe").fit(rows, labels)
        >>> model.predict(rows[:2]).shape, model.predict_proba(rows).shape
        ((2,), (60, 2))
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TransferClassifier:  # over the limit: as in scikit-learn
        """Adapt a copy of the network to labelled examples.

        Args:
            X: N examples: rows of numbers (N, k), arrays (N, ...), texts, or file paths.
            y: (N,) labels of any type.
            sample_weight: (N,) weight of each example in the loss, 0 or more. None for equal weights.

        Returns:
            This estimator, with `network_` (a `Network`), `classes_`, `history_`, and `n_features_in_` for rows of numbers.

        Raises:
            DataError: if there are fewer than two classes, or examples cannot be used.

        Example:
            >>> model.fit(rows, labels) is model
            True
        """
        items, labels = self._items_and_labels(X, y)
        classes, rows = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"y has one class, {classes.tolist()}; expected two or more classes. Add examples of another one.")
        names = _names_of(classes.tolist())
        options = self._options()
        if isinstance(self.class_weight, Mapping):
            options["class_weight"] = [self.class_weight.get(label, 1.0) for label in classes.tolist()]
        data = self._read(items, [names[row] for row in rows], sample_weight=sample_weight, classes=names)
        self._adapted(self._opened(items), data, options=options)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the class probabilities of the examples X, (N, C), in the order of `classes_`.

        Example:
            >>> model.predict_proba(rows[:3]).sum(axis=1).round(3)
            array([1., 1., 1.])
        """
        data = self._unlabelled(X)
        return np.asarray(self.network_.predict(data).probabilities, np.float64)

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted labels of the examples X, (N,), in the type of the labels given to `fit`.

        Example:
            >>> model.predict(rows[:3]).shape
            (3,)
        """
        chosen = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[chosen])

    def _items_and_labels(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        if _are_numbers(X):
            items, labels = self._checked(X, y, ensure_min_samples=2)
        else:
            items, labels = list(X), np.asarray(y)
        check_classification_targets(labels)
        if labels.ndim > 1:
            raise DataError(f"y has the shape {labels.shape}; expected one label for each example. For several labels use regraft.adapt.")
        if len(items) != len(labels):
            raise DataError(f"X has {counted(len(items), 'example')} and y has {len(labels)}; expected one label for each example.")
        return items, labels


class TransferRegressor(RegressorMixin, _Transfer):  # type: ignore[misc]  # scikit-learn has no types
    """Scikit-learn regressor, of one or several outputs, from a trained network. Every `fit` starts from the original network.

    `fit` uses all given examples: a share (`validation`) chooses the epoch, the others are learned from. No holdout set is split off,
    because `cross_val_score`, `GridSearchCV` and similar tools do that.

    The settings are those of `TransferClassifier`, except that `class_weight` has no effect.

    Example:
        >>> import numpy as np, regraft, torch
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
        >>> model = regraft.TransferRegressor(net, strategy="probe").fit(rows, 2 * rows[:, 0] + 3)
        >>> model.predict(rows).shape
        (60,)
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TransferRegressor:  # over the limit: as in scikit-learn
        """Adapt a copy of the network to examples with numeric targets.

        Args:
            X: N examples: rows of numbers (N, k), arrays (N, ...), texts, or file paths.
            y: (N,) numbers, or (N, k) for k outputs. A network with one head of k outputs, without class names, keeps it. Else each output
                gets a head of its own on the same features.
            sample_weight: (N,) weight of each example in the loss, 0 or more. None for equal weights.

        Returns:
            This estimator, with `network_` (a `Network`), `history_`, and `n_features_in_` for rows of numbers.

        Raises:
            DataError: if X and y differ in length, or examples cannot be used.

        Example:
            >>> model.fit(rows, 2 * rows[:, 0]) is model
            True
        """
        if _are_numbers(X):
            items, targets = self._checked(X, y, y_numeric=True, multi_output=True, ensure_min_samples=2)
        else:
            items, targets = list(X), check_array(y, ensure_2d=False, dtype="numeric", input_name="y")
        if len(items) != len(targets):
            raise DataError(f"X has {counted(len(items), 'example')} and y has {len(targets)}; expected one target for each example.")
        values = np.asarray(targets, np.float32).reshape(len(targets), -1)
        network = self._opened(items)
        alone = network.head if len(network.heads) == 1 else None
        known = alone is not None and (alone.classes is None or alone.kind == "regression") and len(alone.in_layer().weight)
        named: Any = values if values.shape[1] in (1, known) else {f"output {at}": values[:, at] for at in range(values.shape[1])}
        data = self._read(items, named, sample_weight=sample_weight, task="regression")
        self._adapted(network, data, options=self._options())
        self._target_shape = targets.shape[1:]
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted values of the examples X, (N,) or (N, k) float64, as y was in `fit`.

        Example:
            >>> model.predict(rows[:3]).shape
            (3,)
        """
        data = self._unlabelled(X)
        found = self.network_.predict(data)
        outputs = [one.probabilities for one in (found.tasks or {"": found}).values()]
        return np.concatenate(outputs, 1).astype(np.float64).reshape(-1, *self._target_shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


_NONE_MEANS = ("patience", "cache")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_OF_PLAN = ("frozen", "block", "probe", "views", "augment", "validation", "seed", "start")
_LEFT_OUT = ("task_weights", "baselines")  # Settings for several tasks, and for a report
_DEFAULTS = {one.name: one.default for one in fields(Plan) if one.name in _OF_PLAN}
_DEFAULTS |= {one.name: one.default for one in fields(Settings) if one.name not in _LEFT_OUT}
_SIGNATURE = inspect.Signature(
    [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("self", "net")]
    + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=usual)
        for name, usual in ({"strategy": "auto", "kind": None} | _DEFAULTS).items()
    ]
)
"""The signature of both estimators: scikit-learn asks for every setting by name."""
_Transfer.__init__.__signature__ = _SIGNATURE  # type: ignore[attr-defined]


def _network_of(source: Any, shape: Sequence[int] | None) -> Network:
    """Open the network source; if it does not define the input shape, use the `shape` of the data."""
    if isinstance(source, Network):
        return source
    try:
        opened = open_source(source)
    except NetworkError:
        if isinstance(source, str | Path) or shape is None:
            raise
        opened = open_source(source, inputs=shape)
    network, known = opened.network, opened.preprocessing
    inferred = default_preprocessing("array", network.input_shape or None, network.layout)
    network.preprocessing = inferred if known is None else preprocessing_from_dict(known)
    return network


def _are_numbers(X: Any) -> bool:
    """Return whether X is not a list of texts, paths or PIL images: numbers, or anything that scikit-learn should reject."""
    first = X[0] if isinstance(X, list | tuple) and len(X) else None
    if isinstance(first, str | Path) or type(first).__module__.split(".")[0] == "PIL":
        return False
    return not (isinstance(X, np.ndarray) and X.ndim == 1 and X.dtype.kind in "OU" and len(X) and isinstance(X[0], str | Path))


def _names_of(labels: list[Any]) -> list[str]:
    """Return a unique class name for each label of any type; "0: label", … if their texts are empty or not unique."""
    texts = [str(label).strip() for label in labels]
    if len(set(texts)) == len(texts) and all(texts):
        return [str(label) for label in labels]
    return [f"{index}: {label}" for index, label in enumerate(labels)]
