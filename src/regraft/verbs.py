"""The verbs: plan, then carry out. Everything else is below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack, cast, overload

import numpy as np

from .data import (
    Dataset,
    Preprocessing,
    Summary,
    checked,
    preprocessing_from_dict,
    preprocessing_of_function,
    with_channels,
)
from .data import read as read_data
from .errors import DataError, NetworkError, SettingError, UnsafeFileError
from .files.formats import reason_of
from .files.remote import at_hand, fetched, is_url
from .files.text import printable
from .freezing import whole_pass
from .heads import extend as extend_by_name
from .networks.account import Account
from .networks.contract import Network
from .networks.parts.head import HeadChoice
from .networks.predictions import Predictions
from .networks.samples import differing_passes
from .networks.sources.opening import Architecture, Shapes, open_source
from .networks.sources.zoo import is_recipe, recipe_spec
from .planning import Plan, Result, carry_out, make_plan
from .planning.checking import with_network
from .planning.conditions import Asked as AskedCodes
from .planning.conditions import Fitting, TunedInput, fold, saved_to
from .planning.conditions import adapt_condition as fit_condition
from .planning.conditions import tune_input as learn_input
from .planning.extending import Asked as AskedClasses
from .planning.extending import Extension, extended
from .planning.plan import AdaptKeywords, SearchKeywords
from .planning.preparing import check_items, inferred_preprocessing, within_tokens
from .planning.profiling import Profile, measure_profile
from .planning.search import Asked, Study, run_search
from .planning.setup import usable_device
from .planning.tasks import as_heads_say
from .probes import UnknownJudge
from .randomness import own_state, seeded
from .tasks.evaluating import Evaluation, evaluated, heads_of, names_of
from .training import Settings
from .training.settings import SettingKeywords

__all__ = ["adapt", "adapt_condition", "check", "evaluate", "extend", "fold", "load", "predict", "profile", "read", "search", "tune_input"]

read = read_data
_DRAWS = "the network draws at random, in inference too"
_MIXED = (
    "the result for an example depends on the others in its batch, as with BatchNorm that keeps no running statistics: predictions differ "
    "with the batch size and the order of the examples"
)
_DRAWS_MEANS = "Its predictions differ from call to call, and nothing of it is cached: each epoch draws anew."


@own_state()
def load(  # noqa: PLR0913  # over the limit: the public contract
    source: Any,
    *,
    classes: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    weights: str | Path | None = None,
    architecture: Architecture = None,
    inputs: Shapes = None,
    preprocessing: Any = None,
    head: str | Sequence[str] | Mapping[str, str] | None = None,
    channels: int | None = None,
    trust: bool = False,
) -> Network:
    """Open a trained network.

    Args:
        source: a live `torch.nn.Module` or Keras 3 model, a path (`.keras`, `.h5`, `.hdf5`, `.pmml`, `.onnx`, `.safetensors`
            with `architecture`, a folder saved by regraft), "timm:NAME", "torchvision:NAME", "keras:NAME" or "hf:PATH_OR_ID".
        classes: class names in row order; of a network with several tasks, a mapping from task to class names.
        weights: a weights-only file put into `source`, arrays in `.npz` or `.mat` included; the account says what matched. "random": a
            network by name as its library draws it; without that, weights that cannot be fetched are an error.
        architecture: the module, or a function that makes it, for a weights-only `source` or a folder of your own torch class.
        inputs: shape of one item without the batch axis, when it cannot be known otherwise; of a module that takes several tensors by
            name, the shape of each: {"X": (40,), "Z": (8,)}.
        preprocessing: as plain data, a `Preprocessing` or a function of pictures (Keras' `preprocess_input`, transforms of torchvision,
            timm or albumentations, a processor of Hugging Face), in place of what the source knows; of a network of several inputs, a
            mapping from the name of an input to one of these.
        head: the name of the layer that is its head, where there are several candidates. To keep several outputs as tasks: their layers,
            the foremost first, or a mapping from the name of the task to its layer.
        channels: of the pictures or signals that it shall take: the first layer's weights are summed (1) or repeated, and accounted.
        trust: open a PyTorch program (`.pt2`) that `source` names. **This runs code of the file**: only for files of your own, or of people
            whom you trust. The network predicts and nothing else. No other file is opened in another way.

    Returns:
        The network; a live object given is not modified.

    Raises:
        NetworkError: if it cannot be opened; the message says what would do.
        UnsafeFileError: if opening it would run code, or read other files.
        SettingError: if `channels` is no number of channels.

    Example:
        >>> import torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> net.family, net.classes, [block.name for block in net.blocks]
        ('torch', ('ant', 'bee', 'cat'), ['0', '2'])
    """
    if channels is not None and (not isinstance(channels, int) or channels < 1):
        raise SettingError(f"channels={channels!r}: expected a whole number, 1 or more.")
    if is_url(source):
        how: dict[str, Any] = {"classes": classes, "weights": weights, "architecture": architecture, "inputs": inputs, "trust": trust}
        with fetched(source) as copy:
            return load(copy, preprocessing=preprocessing, head=head, channels=channels, **how)
    one = None if isinstance(classes, Mapping) else classes
    layers = {str(name): str(name) for name in head} if isinstance(head, list | tuple) else cast(HeadChoice, head)
    opened = open_source(source, classes=one, weights=weights, architecture=architecture, inputs=inputs, head=layers, trust=trust)
    network = opened.network
    for task, names in classes.items() if isinstance(classes, Mapping) else ():
        network.name_classes_(names, task)
    if isinstance(preprocessing, dict) and isinstance(opened.preprocessing, dict) and not _names_a_kind(preprocessing, network):
        preprocessing = {**opened.preprocessing, **preprocessing}  # the network's own, but for what is given
    given = preprocessing if preprocessing is not None else opened.preprocessing
    network = network if channels is None else network.with_channels(channels)
    if given is None:
        network.preprocessing = inferred_preprocessing(network)
    elif preprocessing is not None:
        network.preprocessing = _given_preprocessing(network, given, channels=channels)
    else:
        with _own_part(source, "preprocessing"):
            network.preprocessing = _preprocessing(given, channels)
            check_items(network, network.preprocessing)
    network.preprocessing = within_tokens(network, network.preprocessing)
    network.account = network.account.with_frozen(sorted(network.held))
    share, mixed = differing_passes(network)
    network.draws = share > 0
    network.account = network.account.joined(Account(notes=(_MIXED,) if mixed and _MIXED not in network.account.notes else ()))
    if network.draws and not any(note.startswith(_DRAWS) for note in network.account.notes):
        note = f"{_DRAWS}: two passes over the same examples differ by {share:.0%} of the largest score. {_DRAWS_MEANS}"
        network.account = network.account.joined(Account(notes=(note,)))
    if opened.unknown is not None and channels is None:
        with _own_part(source, "rule for unknown examples"):
            network.unknown = UnknownJudge.from_dict(*opened.unknown)
            network.unknown.check(network.head.features)
    return network


def _names_a_kind(preprocessing: dict[str, Any], network: Network) -> bool:
    named = set(network.sample) if isinstance(network.sample, dict) else set()
    return "kind" in preprocessing or is_recipe(preprocessing) or bool(set(preprocessing) & named)


def _given_preprocessing(network: Network, given: Any, *, channels: int | None) -> Preprocessing:
    """Return the preprocessing that a user gives for a network: plain data, a `Preprocessing`, or a function."""
    if isinstance(given, Preprocessing):
        return given
    given = recipe_spec(given) if is_recipe(given) else given
    if isinstance(given, Mapping) and isinstance(network.sample, dict) and set(given) <= set(network.sample):
        made = {name: _given_preprocessing(network, one, channels=None) for name, one in given.items()}
        return inferred_preprocessing(network, made)
    if isinstance(given, dict):
        return _preprocessing(given, channels)
    if callable(given):
        return preprocessing_of_function(given, network.input_shape, layout=network.layout)
    raise SettingError(
        f"preprocessing={given!r} is a {type(given).__name__}; expected plain data such as {{'kind': 'image', 'height': 224, "
        "'width': 224}, or a function of pictures."
    )


def _preprocessing(plain: dict[str, Any], channels: int | None) -> Preprocessing:
    """Return a preprocessing from its plain data, for another number of channels where one is given."""
    made = preprocessing_from_dict(plain)
    return made if channels is None else preprocessing_from_dict(with_channels(made.to_dict(), channels))


@contextmanager
def _own_part(source: Any, name: str) -> Iterator[None]:
    """Say of what is wrong with a part that a network brings that it is the network's."""
    try:
        yield
    except UnsafeFileError:
        raise
    except (DataError, NetworkError, RecursionError) as error:
        shown = printable(source) if isinstance(source, str | Path) else type(source).__name__
        raise NetworkError(f"The {name} of {shown!r} cannot be used: {reason_of(error)}. Save the network again.") from error


@own_state()
def adapt(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    data: Any,
    *,
    strategy: str | Plan = "auto",
    holdout: float = 0.2,
    validation: float = 0.15,
    test: Any = None,
    budget: str | None = None,
    views: int = 1,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = True,
    task: str | None = None,
    max_length: int | None = None,
    sample_weight: Any = None,
    **settings: Unpack[AdaptKeywords],
) -> Result:
    """Adapt a network to data.

    Args:
        net: a `Network`, or whatever `load` opens.
        data: a `Dataset`, or whatever `read` reads.
        strategy: "auto", "probe", "head", "partial" (with frozen=), "full", "surgical" (with block=), "scratch", "bias", "scale_shift",
            "lora", "lin", "codes" (for data with conditions), or a `Plan`.
        holdout: share of the examples kept aside to judge, from 0 to below 1; 0 goes with `test`.
        validation: share of the others that chooses the epoch, the learning rate and, for "auto", the strategy.
        test: further data that only judge.
        budget: for "auto": "30s", "10m" or "1h"; None or "auto": until nothing that is left can be expected to do better.
        views: fixed versions of each fitting item, the plain one included.
        seed: decides splits, order, dropout and views.
        out: folder for checkpoints and the saved result.
        resume: go on after an interruption; where `out` holds the finished result of the same network, data and plan, return that.
        task: what the labels are: "classification", "multi-label" or "regression"; without it, where they could be of several kinds (whole
            numbers, rows with one 1 each), that of the network's own head, and a note says so.
        max_length: of texts, in tokens, as of `read`.
        sample_weight: as of `read`: a column name or an array of a number for each example, how much it counts in what is minimised.
        settings: frozen, trainable (exactly these layers, by name or pattern such as "layer4*", in place of those that are not frozen by
            their own flags; "all": any), fresh (layers below the head that were never trained), classes, rename (old class -> new one),
            start (how rows of new classes start; "auto": the closed-form probe where that is better), probe (how heads are solved:
            "ridge", "lda", "logistic", "svm", "class_mean", "random_projection", "knn"), augment (how views are made: "auto", "none",
            "light", "photo" or a callable of one picture; but for the first two, 4 views where views= does not say how many),
            statistics (whether class statistics are kept with the network), skip_bad,
            the options of the methods (form, blocks, rank, alpha, layers, size, training), and those of `regraft.training.Settings`;
            unknown names are an error that lists the near ones.

    Returns:
        The adapted network with its plan, history, scores, baselines, account and cost.

    Raises:
        InputError: if something does not fit; nothing has been started then.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> result = regraft.adapt(net, (rows, labels), strategy="head", seed=0)
        >>> result.network.classes, sorted(result.scores), result.plan.strategy
        (('cold', 'warm'), ['holdout'], 'head')
    """
    skip_bad = bool(settings.pop("skip_bad", False))
    given = {"holdout": (holdout, 0.2), "validation": (validation, 0.15), "views": (views, 1), "seed": (seed, 0), "budget": (budget, None)}
    plan = make_plan(strategy, {**{name: value for name, (value, default) in given.items() if value != default}, **settings})
    dataset = _usable(data, skip_bad, task=task, max_length=max_length, sample_weight=sample_weight)
    network = net if isinstance(net, Network) else _opened_for(net, dataset)
    dataset = dataset if plan.classes else as_heads_say(network, dataset)
    judges = None if test is None else _usable(test, skip_bad, task=task)
    return carry_out(network, dataset, plan=plan, test=judges, out=out, resume=resume, reopen=lambda folder: _reopened(folder, network))


@own_state()
def check(data: Any, net: Any = None, *, holdout: float = 0.2, validation: float = 0.15, seed: int = 0, **reading: Any) -> Summary:
    """Tell what was read and how, and with a network what `adapt` would make of it. Nothing is trained or written.

    Args:
        data: a `Dataset`, or whatever `read` reads.
        net: a `Network`, or whatever `load` opens; None: the data alone.
        holdout: as of `adapt`.
        validation: as of `adapt`.
        seed: as of `adapt`.
        reading: keywords of `read`.

    Returns:
        The summary; `print` shows it in words. What cannot be used is left out and listed; `adapt` stops at it without skip_bad=True.

    Raises:
        InputError: if nothing can be read, or the network cannot be opened.

    Example:
        >>> import numpy as np, regraft
        >>> table = np.array([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [4.0, 5.0]])
        >>> print(regraft.check((table, ["a", "b", "a", "b"])))
        examples    4, of the kind 'array'
        items       shape 2; dtype float64; least 0; most 5
        labels      classification, 2 classes
        classes     a: 2, b: 2
        byte-equal  1 copies of 1 examples: item 0 = item 2
    """
    whole = data if isinstance(data, Dataset) and not reading else read(data, **{"skip_bad": True, **reading})
    usable = checked(whole, True)
    if net is None:
        return usable.summary()
    plan = make_plan("auto", {"holdout": holdout, "validation": validation, "seed": seed})
    return with_network(net if isinstance(net, Network) else _opened_for(net, usable), usable, plan=plan)


@own_state()
def evaluate(
    net: Any, data: Any, *, skip_bad: bool = False, engine: str = "auto", cluster: str | None = None, **reading: Any
) -> Evaluation:
    """Judge a network on labelled data. Nothing is trained or written.

    Class names are matched by name, whatever their order in the data.

    Args:
        net: a `Network`, or whatever `load` opens; it is not changed.
        data: a `Dataset`, or whatever `read` reads, with labels. Several tasks are judged by the heads of their names.
        skip_bad: leave out examples that cannot be used, instead of stopping.
        engine: what computes the network on a CPU, as of `predict`.
        cluster: as of `predict`.
        reading: keywords of `read`, such as target="species"; for data that are not read yet.

    Returns:
        The figures of each task with 95 % intervals, the confusion matrix and the recall of each class.

    Raises:
        SettingError: if keywords of `read` are given for a `Dataset`, or there is no such engine.
        MissingExtraError: if the engine is not installed.
        InputError: if the data do not fit the network.

    Example:
        >>> import numpy as np, torch, regraft
        >>> net = regraft.load(torch.nn.Sequential(torch.nn.Linear(2, 2)), classes=["left", "right"], inputs=(2,))
        >>> rows = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
        >>> evaluation = regraft.evaluate(net, (rows, ["left", "right"] * 10))
        >>> evaluation.scores["items"], evaluation.confusion().shape
        (20, (2, 2))
    """
    run = whole_pass(engine, cluster)
    network = net if isinstance(net, Network) else load(net)
    if "max_length" in reading:
        raise SettingError("max_length= is decided when a network is adapted, and saved with it. Leave it out.")
    if isinstance(data, Dataset) and set(reading) == {"task"}:
        data, reading = read(data, **reading), {}
    if isinstance(data, Dataset) and reading:
        given = ", ".join(f"{name}=" for name in reading)
        raise SettingError(f"{given} say how data are read; received a Dataset, which is read already. Leave them out.")
    if not isinstance(data, Dataset):
        target = reading.get("target")
        heads = heads_of(network, list(target)) if isinstance(target, Mapping) else {None: network.head}
        data = read(data, skip_bad=skip_bad, **{"classes": names_of(heads), **reading})
    usable = checked(data, skip_bad)
    found = evaluated(network, usable, named=len(usable.tasks) > 1 or usable.name != "main", run=run)
    return replace(found, notes=(*found.notes, *run.notes))


@own_state()
def predict(
    net: Any, examples: Any, *, condition: str | None = None, unknown: bool = False, engine: str = "auto", cluster: str | None = None
) -> Predictions:
    """Return labels and probabilities of many examples, on the engine that is fastest for them.

    Args:
        net: a `Network`, or whatever `load` opens; it is not changed.
        examples: files, texts, arrays, or a `Dataset`.
        condition: as of `Network.predict`.
        unknown: as of `Network.predict`.
        engine: what computes the network on a CPU: "eager" (PyTorch as it is, as in `Network.predict`), "compile" (torch.compile),
            "onnxruntime" or "openvino"; an engine is used once it has given PyTorch's values on the first examples, else PyTorch runs.
            "auto": the fastest one where the examples are so many that building it pays.
        cluster: of Ray, whose workers run PyTorch on 256 examples a task: "ray://HOST:PORT", or "auto" for the one that this machine is a
            part of; None: this machine alone.

    Returns:
        The predictions; their notes say what ran in place of PyTorch, and how much faster.

    Raises:
        SettingError: if there is no such engine or cluster.
        MissingExtraError: if the engine, or Ray, is not installed.
        NetworkError: as of `Network.predict`.

    Example:
        >>> import numpy as np, torch, regraft
        >>> net = regraft.load(torch.nn.Sequential(torch.nn.Linear(2, 2)), classes=["left", "right"], inputs=(2,))
        >>> regraft.predict(net, np.zeros((3, 2), "float32"), engine="eager").probabilities.shape
        (3, 2)
    """
    run = whole_pass(engine, cluster)
    network = net if isinstance(net, Network) else load(net)
    return replace(network.predict(examples, condition, unknown=unknown, run=run), notes=tuple(run.notes))


def _reopened(folder: Path, network: Network) -> Network:
    """Open the network of a finished folder; its module, where the folder holds weights alone, is made as that of the given network."""
    try:
        return load(folder)
    except NetworkError:
        return load(folder, architecture=network.body.copied_module)


@overload
def extend(
    net: Network,
    classes: Sequence[str],
    data: Any = None,
    *,
    start: str | None = None,
    old_data: Any = None,
    statistics: Any = None,
    test: Any = None,
    seed: int = 0,
) -> Network: ...


@overload
def extend(
    net: Any,
    data: Any,
    /,
    *,
    start: str | None = None,
    old_data: Any = None,
    statistics: Any = None,
    test: Any = None,
    holdout: float = 0.2,
    seed: int = 0,
    out: str | Path | None = None,
    skip_bad: bool = False,
) -> Extension: ...


@own_state()
def extend(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    classes: Any = None,
    data: Any = None,
    *,
    start: str | None = None,
    old_data: Any = None,
    statistics: Any = None,
    test: Any = None,
    holdout: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    skip_bad: bool = False,
) -> Network | Extension:
    """Add classes to a network; everything before the head stays as it is.

    The class weights and the logits of the old classes stay bit-identical, which is measured on the examples given and stands in the
    account as `max_score_change`. Only `statistics=` solves all class weights anew.

    Two calls: `extend(net, classes, data)` adds the classes that are named and returns the network. `extend(net, data)` adds those that
    the data show and the network lacks, judges the result on a share of the examples that is kept aside, and returns an `Extension`
    with network, scores and report.

    Args:
        net: a `Network` with class names; with data alone also whatever `load` opens. It is not changed.
        classes: the names to add, none of which is there already; or the data.
        data: examples of the new classes: a `Dataset`, or whatever `read` reads. Without `classes` old classes may be among them.
        start: how the new class weights start: "imprint" (the default where only new classes are shown), the direction from the old
            classes to the new one; "probe", the closed-form solution among the new classes, aligned to the old ones; "random", "mean"
            or "zeros" (the default without data).
        old_data: some examples of the old classes: the new class weights are then fitted to old and new ones, every class weighing the
            same.
        statistics: class statistics of the old classes: a folder saved by regraft, its arrays, or True for those of `net`. The weights
            of all classes are then the closed-form joint solution (linear discriminant analysis): nothing is forgotten, and the order
            of extensions does not matter.
        test: examples of old or new classes that only judge.
        holdout: with data alone, the share of the examples that only judges; None: 0.2.
        seed: of "random", and of the choice of what judges.
        out: with data alone, the folder that network, scores and report are saved in.
        skip_bad: with data alone, leave out examples that cannot be used, instead of stopping.

    Returns:
        A new network, new classes after the old ones; or, with data alone, the `Extension` that holds it.

    Raises:
        SettingError: if arguments do not go together.
        InputError: if anything else does not fit; nothing has been written then.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> examples = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
        >>> wider = regraft.extend(net, ["dog"], (examples, ["dog"] * 6))
        >>> wider.classes, bool((wider.logits(examples)[:, :3] == net.logits(examples)).all())
        (('ant', 'bee', 'cat', 'dog'), True)
    """
    if classes is not None and (data is not None or not _are_data(classes)):
        if holdout is not None or out is not None or skip_bad:
            raise SettingError(
                "holdout=, out= and skip_bad= go with data alone: extend(net, data, holdout=0.2). Leave out the class names."
            )
        return extend_by_name(net, classes, data, start=start, old_data=old_data, statistics=statistics, test=test, seed=seed)
    if classes is None and data is None:
        raise SettingError("extend needs the names of new classes, or data that show them; received neither.")
    asked = AskedClasses(start, old_data, statistics, 0.2 if holdout is None else holdout, seed)
    shown = _read(data if classes is None else classes, skip_bad)
    stored, tests = (None if one is None else _read(one, skip_bad) for one in (old_data, test))
    network = net if isinstance(net, Network) else _opened_for(net, shown)
    return extended(network, shown, asked=replace(asked, old_data=stored), test=tests, out=out, skip_bad=skip_bad)


def _read(data: Any, skip_bad: bool) -> Dataset:
    return data if isinstance(data, Dataset) else read(data, skip_bad=skip_bad)


def _are_data(given: Any) -> bool:
    """Tell data from a list of class names."""
    if isinstance(given, list | tuple):
        return any(not isinstance(one, str | int | float | np.generic) for one in given)
    return not (isinstance(given, Set | Iterator | range) or getattr(given, "ndim", None) == 1)


@own_state()
def adapt_condition(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    data: Any,
    name: str | Sequence[str] | None = None,
    *,
    start: str = "mean",
    fit: str = "lbfgs",
    steps: int | None = None,
    step: float | None = None,
    prior: str | float | None = "auto",
    unsupervised: str | None = None,
    input: str | None = None,
    replace: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    skip_bad: bool = False,
    device: str | None = None,
) -> Network:
    """Learn the code of a new condition from a few examples of it. Nothing else of the network changes, and the account proves that.

    Args:
        net: a `Network` with codes (`adapt` with strategy="codes"), or whatever `load` opens.
        data: a `Dataset`, or whatever `read` reads; one item will do.
        name: what to call the condition that all items are of; where the data have conditions, which of them, one or several; None for
            all. Several are fitted in one batch, each as it would be alone.
        start: "mean", "zero" or "nearest", the known code under which the items have the least loss.
        fit: "lbfgs", "adam", or "normalised": z <- z - step * g / (rms(g) + 1e-5), full batches all.
        steps: at most so many; None: as suits the fit.
        step: the size of one; None: as suits the fit.
        prior: the codes learned before say where a new one is to be expected. "auto": with the weight 1 for one or two items, else 0.3,
            unless leaving items out in turn speaks for another (from five items on); a weight; or None for no prior.
        unsupervised: None: the labels count; "pseudo": those that the network gives now; "entropy": it is to become sure.
        input: the name of the network's input that is the code, for a network that was trained with one beside its items.
        replace: fit the codes of known conditions anew.
        seed: decides which items are left out together, where there are more than five.
        out: the folder of this network, or a copy of it: the code files are written there, and nothing else; or a new folder, into which
            the whole network is saved.
        skip_bad: leave out items that cannot be used, instead of stopping.
        device: where the network runs; None: the fastest there is.

    Returns:
        A network that also knows these conditions: `codes[name]`, `predict(items, condition=name)`.

    Raises:
        InputError: if something does not fit; nothing has been written then.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> rooms = np.where(np.arange(60) % 2, "hall", "yard")
        >>> data = regraft.read((rows, labels), condition=rooms)
        >>> coded = regraft.adapt(net, data, strategy="codes", epochs=2, seed=0).network
        >>> known = regraft.adapt_condition(coded, (rows[:4], labels[:4]), "cave", steps=5)
        >>> sorted(known.codes), known.predict(rows, condition="cave").probabilities.shape
        (['cave', 'hall', 'yard'], (60, 2))
    """
    fitting = Fitting(start, fit, steps, step, prior, unsupervised, seed)
    network = net if isinstance(net, Network) else load(net)
    dataset = _usable(_read_for(network, data, unlabelled=unsupervised is not None, skip_bad=skip_bad), skip_bad)
    known = fit_condition(network, dataset, asked=AskedCodes(name, input, replace, device), fitting=fitting)
    if out is not None:
        given = [] if dataset.conditions is None else dict.fromkeys(map(str, dataset.conditions))
        saved_to(known, out, conditions=[name] if isinstance(name, str) else list(name or given))
    return known


@own_state()
def tune_input(
    net: Any,
    data: Any,
    *,
    input: str | None = None,
    start: Any = None,
    fit: str = "normalised",
    steps: int | None = None,
    step: float | None = None,
) -> TunedInput:
    """Learn an input of a frozen network by gradient: all of it, or one named input beside given items. Codes are one case of that.

    Args:
        net: a `Network`, or whatever `load` opens; it is not changed.
        data: without `input`, the names of classes: each gets an input that the network takes for it. With `input`, a `Dataset`, or
            whatever `read` reads: its items stand beside the input, which is one for all of them, or for each of their conditions.
        input: the name of the input; None: all that the network takes.
        start: an array in the shape of the input; None: zeros.
        fit: "normalised": z <- z - step * g / (rms(g) + 1e-5), "adam" or "lbfgs", full batches all.
        steps: at most so many; None: as suits the fit.
        step: the size of one; None: as suits the fit.

    Returns:
        `values` (V, ...), what they are for in `names`, and the `path` of their losses.

    Raises:
        InputError: if something does not fit.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> tuned = regraft.tune_input(net, ["bee"], steps=3)
        >>> tuned.names, tuned.values.shape
        (('bee',), (1, 4))
    """
    wanted = data if input is None or isinstance(data, Dataset) else _usable(data, False)
    network = net if isinstance(net, Network) else load(net)
    return learn_input(network, wanted, name=input, start=start, fit=fit, steps=steps, step=step)


@own_state()
def search(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    data: Any,
    *,
    space: Mapping[str, Any] | None = None,
    trials: int = 50,
    sampler: str = "tpe",
    pruner: str | None = "median",
    folds: int | None = None,
    holdout: float = 0.2,
    metric: str | None = None,
    seed: int = 0,
    test: Any = None,
    budget: str | None = None,
    out: str | Path | None = None,
    task: str | None = None,
    max_length: int | None = None,
    **settings: Unpack[SearchKeywords],
) -> Study:
    """Search for the plan that adapts a network best. Every trial starts from the trained weights.

    A share of the items is kept aside: no trial sees it, and the best plan alone is judged by it, once, at the end. The others try the
    plans. Trials with the same freeze boundary share one feature cache.

    Args:
        net: a `Network`, or whatever `load` opens.
        data: a `Dataset`, or whatever `read` reads.
        space: name of a setting -> list of choices, or {"low", "high", "log", "step", "points"}; None for a sensible one.
        trials: how many, over all processes that work on the study.
        sampler: "tpe", "random" or "grid".
        pruner: "median" or "hyperband" stops trials that fall behind, None none.
        folds: try every plan on so many folds, stratified, and by group where there are groups; None for one split.
        holdout: share of the items that judge the best plan; without folds also of the others that try the plans.
        metric: the figure that chooses; None: accuracy, macro_f1 (multi-label) or rmse (regression).
        seed: decides splits and trials; one process repeats them.
        test: further data that judge the best plan besides.
        budget: "30s", "10m" or "1h": no trial is begun after that; None: all are.
        out: folder of the study (SQLite): a further call goes on there, and several processes may work on it at once.
        task: as of `read`.
        max_length: as of `read`.
        settings: as of `adapt`, the same in every trial.

    Returns:
        The study: `study.table()`, `study.best` (a plan for `adapt`), `study.result`, `study.plot(path)`.

    Raises:
        InputError: if something does not fit; nothing has been started then, or if no trial came to its end.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> space = {"strategy": ["probe", "head"], "weight_decay": [0.01, 0.1]}
        >>> study = regraft.search(net, (rows, labels), space=space, trials=2, sampler="random", epochs=2)
        >>> len(study.trials), study.metric, study.best.strategy in space["strategy"]
        (2, 'accuracy', True)
    """
    skip_bad = bool(settings.pop("skip_bad", False))
    dataset = _usable(data, skip_bad, task=task, max_length=max_length)
    network = net if isinstance(net, Network) else _opened_for(net, dataset)
    dataset = dataset if settings.get("classes") else as_heads_say(network, dataset)
    asked = Asked(space, trials, sampler, pruner, folds, holdout, metric, seed, out, budget)
    judges = None if test is None else _usable(test, skip_bad, task=task)
    return run_search(network, dataset, asked=asked, settings=settings, test=judges)


@own_state()
def profile(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    data: Any,
    *,
    task: str | None = None,
    of_task: str | None = None,
    max_length: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    skip_bad: bool = False,
    **settings: Unpack[SettingKeywords],
) -> Profile:
    """Measure what each depth of a network knows of data, before anything is adapted: one pass over the data, then closed-form probes.

    Args:
        net: a `Network`, or whatever `load` opens; it is not changed.
        data: a `Dataset`, or whatever `read` reads; where it has groups, whole groups are left out.
        task: as of `read`.
        of_task: which task, where the data have several; None for the first.
        max_length: as of `read`.
        seed: of the draws of the learning curve.
        out: folder for profile.json and profile.html.
        skip_bad: leave out items that cannot be used, instead of stopping.
        settings: cache and device, as in `regraft.training.Settings`.

    Returns:
        The profile: profile.table(), .summary(), .plot(path), .plan(), .report(path), .to_dict().

    Raises:
        InputError: if something does not fit.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> profile = regraft.profile(net, (rows, labels))
        >>> profile.metric, [depth.block for depth in profile.depths]
        ('accuracy', ['input', '0'])
    """
    chosen = Settings.of(settings)
    dataset = _usable(data, skip_bad, task=task, max_length=max_length)
    network = net if isinstance(net, Network) else _opened_for(net, dataset)
    dataset = as_heads_say(network, dataset)
    one = dataset.of_task(dataset.name if of_task is None else of_task)
    measured = measure_profile(network, one, settings=chosen, device=usable_device(chosen.device), seed=seed)
    if out is not None:
        with at_hand(out) as folder:
            measured.save(folder)
    return measured


def _usable(data: Any, skip_bad: bool, **reading: Any) -> Dataset:
    """Read data that are not read yet, and see that every item can be used; those that cannot are left out where that was asked."""
    given = {name: value for name, value in reading.items() if value is not None}
    return checked(data if isinstance(data, Dataset) and not given else read(data, skip_bad=skip_bad, **given), skip_bad)


def _read_for(net: Network, data: Any, *, unlabelled: bool, skip_bad: bool) -> Dataset:
    """Read data for a network; without labels, as it reads items to predict, unless they are given in pairs."""
    if isinstance(data, Dataset):
        return data
    if not unlabelled or isinstance(data, tuple):
        return read(data, skip_bad=skip_bad)
    own: Dataset = preprocessing_from_dict(net.preprocessing.to_dict()).dataset(data)
    return own


@seeded()
def _opened_for(source: Any, data: Dataset) -> Network:
    """Open a network; where its source does not tell the shape of its items, take that of the data."""
    try:
        return load(source)
    except NetworkError:
        if isinstance(source, str | Path) or data.kind != "array":
            raise
        return load(source, inputs=np.shape(data[0]))
