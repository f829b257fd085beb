"""Public functions of regraft: open a network, read data, adapt, evaluate and predict."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
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
    read,
    with_channels,
)
from .data.read import read_like
from .errors import DataError, NetworkError, SettingError, UnsafeFileError, checked_call
from .files.formats import reason_of
from .files.remote import at_hand, fetched, is_url
from .files.text import printable
from .freezing import whole_pass
from .heads import extend as extend_by_name
from .networks.account import Account
from .networks.names import by_number
from .networks.network import Network
from .networks.parts.head import HeadChoice
from .networks.predictions import Predictions
from .networks.samples import Shapes, differing_passes
from .networks.sources.opening import Architecture, open_source
from .networks.sources.zoo import is_recipe, recipe_spec
from .planning import Plan, Result, carry_out, holdout_share, make_plan
from .planning.checking import with_network
from .planning.conditions import ConditionOptions, FitSettings, TunedInput, fit_condition, fold, learn_input, saved_to
from .planning.extending import Extension, ExtensionOptions, extended
from .planning.plan import AdaptKeywords, SearchKeywords
from .planning.preparing import check_items, inferred_preprocessing, with_sound_shape, within_tokens
from .planning.profiling import Profile, measure_profile
from .planning.search import SearchOptions, Study, arguments_of, first_of, run_search
from .planning.setup import usable_device
from .planning.tasks import as_heads_say
from .probes import UnknownJudge
from .randomness import own_state, seeded
from .tasks.evaluating import Evaluation, evaluated, reading_for
from .training import Settings
from .training.settings import SettingKeywords

__all__ = ["adapt", "adapt_condition", "check", "evaluate", "extend", "fold", "load", "predict", "profile", "read", "search", "tune_input"]

_DRAWS = "the network draws at random, in inference too"
_MIXED = (
    "the result for an example depends on the others in its batch, as with BatchNorm that keeps no running statistics: predictions differ "
    "with the batch size and the order of the examples"
)
_DRAWS_MEANS = "Its predictions differ from call to call, and nothing of it is cached: each epoch draws anew."


@checked_call
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
        classes: class names in the order of the network's outputs. For a network with several tasks, a mapping from task to class names.
        weights: a weights-only file to load into `source` (arrays in `.npz` or `.mat` also work). The account lists what matched.
            "random" gives a network by name its library's random initialisation. Without it, weights that cannot be downloaded are an
            error.
        architecture: the module, or a function that builds it, for a weights-only `source` or a folder with your own torch class.
        inputs: shape of one example without the batch axis, when the source does not tell it; None for an axis of any length. For a module
            that takes several tensors by name, the shape of each: {"X": (40,), "Z": (8,)}.
        preprocessing: replaces the preprocessing of the source. Plain data, a `Preprocessing`, or an image function (Keras'
            `preprocess_input`, transforms of torchvision, timm or albumentations, a Hugging Face processor). For a network with several
            inputs, a mapping from input name to one of these.
        head: name of the head layer, if there are several candidates. To keep several outputs as tasks, give a list of their layers
            (main task first) or a mapping from task name to layer.
        channels: number of channels of your images or signals. The first layer's weights are summed (1 channel) or repeated, and the
            account records the change.
        trust: open a PyTorch program (`.pt2`). **This runs code from the file**: use it only for your own files or files from people you
            trust. Such a network can only predict. The option does not affect other formats.

    Returns:
        The network. A live object passed as `source` is not modified.

    Raises:
        NetworkError: if the network cannot be opened. The message says what to do.
        UnsafeFileError: if opening the file would run code or read other files.
        SettingError: if `channels` is not a whole number of 1 or more.

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
    classes = by_number(classes)
    one = None if isinstance(classes, Mapping) else classes
    layers = {str(name): str(name) for name in head} if isinstance(head, list | tuple) else cast(HeadChoice, head)
    opened = open_source(source, classes=one, weights=weights, architecture=architecture, inputs=inputs, head=layers, trust=trust)
    network = opened.network
    for task, names in classes.items() if isinstance(classes, Mapping) else ():
        network.name_classes_(names, task)
    if isinstance(preprocessing, dict) and isinstance(opened.preprocessing, dict) and not _names_a_kind(preprocessing, network):
        preprocessing = {**opened.preprocessing, **preprocessing}  # given values override the network's own
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
    network.account = network.account.with_frozen(sorted(network.body.held))
    share, mixed = differing_passes(network)
    network.body.draws = share > 0
    network.account = network.account.joined(Account(notes=(_MIXED,) if mixed and _MIXED not in network.account.notes else ()))
    if network.body.draws and not any(note.startswith(_DRAWS) for note in network.account.notes):
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
    """Return the user's preprocessing (plain data, a `Preprocessing` or a function) as a `Preprocessing`."""
    if isinstance(given, Preprocessing):
        return given
    given = recipe_spec(given) if is_recipe(given) else given
    if isinstance(given, Mapping) and isinstance(network.sample, dict) and set(given) <= set(network.sample):
        made = {name: _given_preprocessing(network, one, channels=None) for name, one in given.items()}
        return inferred_preprocessing(network, made)
    if isinstance(given, dict):
        return _preprocessing(_with_layout(given, network), channels)
    if callable(given):
        return preprocessing_of_function(given, network.input_shape, layout=network.layout)
    raise SettingError(
        f"preprocessing={given!r} is a {type(given).__name__}; expected plain data such as {{'kind': 'image', 'height': 224, "
        "'width': 224}, or a function of pictures."
    )


def _with_layout(given: dict[str, Any], network: Network) -> dict[str, Any]:
    """Return a preprocessing of pictures or sounds with the layout that the network reads, where the user named none."""
    if given.get("kind") != "image":
        return with_sound_shape(network, given) if given.get("kind") == "audio" else given
    ends, count = network.input_shape[:1] + network.input_shape[-1:], given.get("channels", 3)
    fits = [layout for layout, size in zip(("channels_first", "channels_last"), ends, strict=False) if size == count]
    return {"layout": fits[0] if len(fits) == 1 else network.layout, **given}


def _preprocessing(plain: dict[str, Any], channels: int | None) -> Preprocessing:
    """Build a preprocessing from plain data, with `channels` channels if given."""
    made = preprocessing_from_dict(plain)
    return made if channels is None else preprocessing_from_dict(with_channels(made.to_dict(), channels))


@contextmanager
def _own_part(source: Any, name: str) -> Iterator[None]:
    """Re-raise errors in a part stored with a network as a `NetworkError` that names the network."""
    try:
        yield
    except UnsafeFileError:
        raise
    except (DataError, NetworkError, RecursionError) as error:
        shown = printable(source) if isinstance(source, str | Path) else type(source).__name__
        raise NetworkError(f"The {name} of {shown!r} cannot be used: {reason_of(error)}. Save the network again.") from error


@checked_call
@own_state()
def adapt(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    data: Any,
    *,
    strategy: str | Plan = "auto",
    holdout: float | None = None,
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
        net: a `Network`, or anything that `load` opens.
        data: a `Dataset`, or anything that `read` reads.
        strategy: "auto", "probe", "head", "partial" (with frozen=), "full", "surgical" (with block=), "scratch", "bias", "scale_shift",
            "lora", "lin", "codes" (for data with conditions), or a `Plan`.
        holdout: share of the examples in the holdout set, from 0 to below 1. None means 0.2, and 0 with `test`, which judges instead.
        validation: share of the remaining examples in the validation set. It selects the epoch, the learning rate and, for "auto", the
            strategy.
        test: labelled data for evaluation only. All examples of `data` are then learned from, unless `holdout` is given.
        budget: time limit for "auto": "30s", "10m" or "1h". None or "auto" stops when no remaining candidate is expected to do better.
        views: number of fixed augmented copies of each training example, including the plain one.
        seed: seed for splits, order, dropout and augmentation.
        out: folder for checkpoints and the saved result.
        resume: continue an interrupted run. If `out` holds the finished result of the same network, data and plan, return it.
        task: kind of the labels: "classification", "multi-label" or "regression". If it is omitted and the labels are ambiguous (whole
            numbers, rows with a single 1), the kind of the network's own head is used and a note says so.
        max_length: maximum length of texts in tokens, as in `read`.
        sample_weight: weight of each example in the loss: a column name or an array, as in `read`.
        settings: further options. An unknown name raises an error that lists similar names.
            `frozen`: where the freeze boundary lies.
            `trainable`: train only these layers (names or patterns such as "layer4*") and heads with new classes. By default, layers that
            their own flags freeze stay frozen; "all" ignores the flags.
            `fresh`: layers below the head that were never trained.
            `classes`, `rename` (old class -> new class): the classes of the new head.
            `start`: initialisation of new class weights; "auto" uses the closed-form probe where that is better.
            `probe`: solver for heads: "ridge", "lda", "logistic", "svm", "class_mean", "random_projection" or "knn".
            `augment`: "auto", "none", "light", "photo" or a callable of one image. The last three make 4 views unless `views` is given.
            `statistics`: whether class statistics are saved with the network. `skip_bad`: leave out unusable examples, without an error.
            Also the options of the methods (form, blocks, rank, alpha, layers, size, training) and of `regraft.training.Settings`.

    Returns:
        The adapted network with its plan, history, scores, baselines, account and cost.

    Raises:
        InputError: if the input is invalid. It is checked before training starts.

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
    given = {"holdout": (holdout, None), "validation": (validation, 0.15), "views": (views, 1), "seed": (seed, 0), "budget": (budget, None)}
    chosen = {name: value for name, (value, usual) in given.items() if not isinstance(value, int | float | str | None) or value != usual}
    plan = make_plan(strategy, {**chosen, **settings}, tested=test is not None)
    dataset = _usable(data, skip_bad, task=task, max_length=max_length, sample_weight=sample_weight)
    network = net if isinstance(net, Network) else _opened_for(net, dataset)
    dataset = dataset if plan.classes else as_heads_say(network, dataset)
    judges = None if test is None else _usable(read_like(dataset, test, skip_bad=skip_bad), skip_bad, task=task)
    return carry_out(network, dataset, plan=plan, test=judges, out=out, resume=resume, reopen=lambda folder: _reopened(folder, network))


@checked_call
@own_state()
def check(data: Any, net: Any = None, *, holdout: float = 0.2, validation: float = 0.15, seed: int = 0, **reading: Any) -> Summary:
    """Summarise a data set and, with a network, what `adapt` would do with it. Nothing is trained or written.

    Args:
        data: a `Dataset`, or anything that `read` reads.
        net: a `Network`, or anything that `load` opens. None checks the data alone.
        holdout: as in `adapt`.
        validation: as in `adapt`.
        seed: as in `adapt`.
        reading: keywords of `read`.

    Returns:
        The summary; `print` shows it as text. Unusable examples are left out and listed. `adapt` raises an error for them unless
        skip_bad=True.

    Raises:
        InputError: if nothing can be read, or the network cannot be opened.

    Example:
        >>> import numpy as np, regraft
        >>> table = np.array([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [4.0, 5.0]])
        >>> print(regraft.check((table, ["a", "b", "a", "b"])))
        examples    4, of the kind 'array'
        values      shape 2; dtype float64; least 0; most 5
        labels      classification, 2 classes
        classes     a: 2, b: 2
        byte-equal  1 copy of 1 example: example 0 = example 2
    """
    usable = checked(data if isinstance(data, Dataset) and not reading else read(data, **{"skip_bad": True, **reading}), True)
    if net is None:
        return usable.summary()
    plan = make_plan("auto", {"holdout": holdout, "validation": validation, "seed": seed})
    return with_network(net if isinstance(net, Network) else _opened_for(net, usable), usable, plan=plan)


@checked_call
@own_state()
def evaluate(
    net: Any, data: Any, *, skip_bad: bool = False, engine: str = "auto", cluster: str | None = None, **reading: Any
) -> Evaluation:
    """Evaluate a network on labelled data. Nothing is trained or written.

    Classes are matched by name; their order in the data does not matter.

    Args:
        net: a `Network`, or anything that `load` opens. It is not changed.
        data: a `Dataset`, or anything that `read` reads, with labels. Each task is evaluated with the head of the same name.
        skip_bad: leave out unusable examples instead of raising an error.
        engine: inference engine on the CPU, as in `predict`.
        cluster: as in `predict`.
        reading: keywords of `read`, for example target="species", if `data` is not a `Dataset`.

    Returns:
        The metrics of each task with 95 % intervals, the confusion matrix and the recall of each class.

    Raises:
        SettingError: if keywords of `read` are given with a `Dataset`, or the engine is unknown.
        MissingExtraError: if the engine is not installed.
        InputError: if the data do not fit the network.

    Example:
        >>> import numpy as np, torch, regraft
        >>> net = regraft.load(torch.nn.Sequential(torch.nn.Linear(2, 2)), classes=["left", "right"], inputs=(2,))
        >>> rows = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
        >>> evaluation = regraft.evaluate(net, (rows, ["left", "right"] * 10))
        >>> evaluation.scores["examples"], evaluation.confusion().shape
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
        data = read(data, skip_bad=skip_bad, **{**reading_for(network, data, target=reading.get("target")), **reading})
    usable = checked(data, skip_bad)
    found = evaluated(network, usable, named=len(usable.tasks) > 1 or usable.name != "main", run=run)
    return replace(found, notes=(*found.notes, *run.notes))


@checked_call
@own_state()
def predict(
    net: Any, examples: Any, *, condition: str | None = None, unknown: bool = False, engine: str = "auto", cluster: str | None = None
) -> Predictions:
    """Predict labels and probabilities of many examples with the fastest inference engine.

    Args:
        net: a `Network`, or anything that `load` opens. It is not changed.
        examples: files, texts, arrays, or a `Dataset`.
        condition: as in `Network.predict`.
        unknown: as in `Network.predict`.
        engine: inference engine on the CPU: "eager" (plain PyTorch, as in `Network.predict`), "layers" (layers of PyTorch for
            Keras' own), "compile" (torch.compile), "onnxruntime" or "openvino". The engine is used only if it reproduces PyTorch's
            values on the first examples. "auto" chooses the fastest if there are enough examples to repay its build time.
        cluster: address of a Ray cluster, "ray://HOST:PORT", or "auto" for the cluster that this machine belongs to. Its workers run
            PyTorch on 256 examples per task. None runs on this machine.

    Returns:
        The predictions. Their notes name the engine that replaced PyTorch and its speed-up.

    Raises:
        SettingError: if the engine or the cluster does not exist.
        MissingExtraError: if the engine, or Ray, is not installed.
        NetworkError: as in `Network.predict`.

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
    """Load the network of a finished folder. If that needs its class, to open at all or to be changed, use that of the given network."""
    with suppress(NetworkError):
        (found := load(folder)).body.refuse_change("adapted")
        return found
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
    holdout: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    skip_bad: bool = False,
) -> Extension: ...


@checked_call
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
    """Add classes to a network. Everything before the head stays unchanged.

    The class weights and the logits of the old classes stay bit-identical. The change is measured on the given examples, and the account
    records it as `max_score_change`. Only `statistics=` solves all class weights again.

    There are two calls. `extend(net, classes, data)` adds the named classes and returns the network. `extend(net, data)` adds the classes
    that occur in the data but not in the network, evaluates the result on a holdout set, and returns an `Extension` with network, scores
    and report.

    Args:
        net: a `Network` with class names. With data alone, also anything that `load` opens. It is not changed.
        classes: names of the classes to add, none of which the network has; or the data.
        data: examples of the new classes: a `Dataset`, or anything that `read` reads. Without `classes` it may contain old classes.
        start: initialisation of the new class weights. "imprint" (default if only new classes have examples): the direction from the old
            classes to the new one. "probe": the closed-form solution among the new classes, aligned to the old ones. "random", "mean" or
            "zeros" (default without data).
        old_data: some examples of the old classes. The new class weights are then fitted to old and new examples, and every class has
            the same total weight.
        statistics: class statistics of the old classes: a folder saved by regraft, its arrays, or True for those stored in `net`. The
            weights of all classes are then solved jointly in closed form (linear discriminant analysis). No class is forgotten, and the
            order of extensions does not matter.
        test: examples of old or new classes for evaluation only.
        holdout: with data alone, as in `adapt`: None means 0.2, and 0 with `test`.
        seed: seed for "random" and for the split.
        out: with data alone, the folder where network, scores and report are saved.
        skip_bad: with data alone, leave out unusable examples instead of raising an error.

    Returns:
        A new network with the new classes after the old ones; with data alone, the `Extension` that holds it.

    Raises:
        SettingError: if the arguments do not go together.
        InputError: if any other input is invalid. Nothing has been written in that case.

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
    asked = ExtensionOptions(start, old_data, statistics, holdout_share(holdout, tested=test is not None), seed)
    shown = _read_for(net, data if classes is None else classes, skip_bad=skip_bad)
    beside = (read_like(shown, one, skip_bad=skip_bad) for one in (old_data, test))
    stored, tests = (None if one is None else _read_for(net, one, skip_bad=skip_bad) for one in beside)
    network = net if isinstance(net, Network) else _opened_for(net, shown)
    return extended(network, shown, asked=replace(asked, old_data=stored), test=tests, out=out, skip_bad=skip_bad)


def _are_data(given: Any) -> bool:
    """Return whether the argument is data and not a list of class names."""
    if isinstance(given, list | tuple):
        return any(not isinstance(one, str | int | float | np.generic) for one in given)
    return not (isinstance(given, Set | Iterator | range) or getattr(given, "ndim", None) == 1)


@checked_call
@own_state()
def adapt_condition(  # noqa: PLR0913  # over the limit: the public contract
    net: Any,
    data: Any,
    name: str | Sequence[str] | None = None,
    *,
    start: Any = "mean",
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
    """Learn the code of a new condition from a few examples of it. Nothing else in the network changes, and the account proves it.

    Args:
        net: a `Network` with codes (`adapt` with strategy="codes"), or anything that `load` opens.
        data: a `Dataset`, or anything that `read` reads. One example is enough.
        name: name for the condition of all examples. If the data have conditions: which of them to learn, one or several; None for all.
            Several conditions are fitted in one batch, each independently of the others.
        start: initial code: "mean", "zero", "nearest" (the known code with the lowest loss on the examples), or its numbers, (size,).
        fit: full-batch optimiser: "lbfgs", "adam", or "normalised", z <- z - step * g / (rms(g) + 1e-5).
        steps: maximum number of steps. None uses the default of the optimiser.
        step: step size. None uses the default of the optimiser.
        prior: weight of a prior given by the codes learned before. "auto": 1 for one or two examples, otherwise 0.3; from five examples
            on, cross-validation may choose another weight. None for no prior.
        unsupervised: None uses the labels, "pseudo" the network's current predictions as labels, "entropy" entropy minimisation.
        input: name of the input that holds the code, for a network that was trained with a code as a second input.
        replace: fit the codes of known conditions again.
        seed: seed for the cross-validation folds if there are more than five examples.
        out: the folder of this network, or a copy of it: only the code files are written. Or a new folder: the whole network is saved.
        skip_bad: leave out unusable examples instead of raising an error.
        device: device to run on. None chooses the fastest available.

    Returns:
        A network that also has these conditions: `codes[name]`, `predict(examples, condition=name)`.

    Raises:
        InputError: if the input is invalid. Nothing has been written in that case.

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
    fitting = FitSettings(start, fit, steps, step, prior, unsupervised, seed)
    network = net if isinstance(net, Network) else load(net)
    dataset = _usable(_read_for(network, data, unlabelled=unsupervised is not None, skip_bad=skip_bad), skip_bad)
    known = fit_condition(network, dataset, asked=ConditionOptions(name, input, replace, device), fitting=fitting)
    if out is not None:
        given = [] if dataset.conditions is None else dict.fromkeys(map(str, dataset.conditions))
        saved_to(known, out, conditions=[name] if isinstance(name, str) else list(name or given))
    return known


@checked_call
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
    """Optimise an input of a frozen network by gradient descent: the whole input, or one named input. Codes are a special case.

    Args:
        net: a `Network`, or anything that `load` opens. It is not changed.
        data: without `input`, class names: for each, an input is learned that the network assigns to this class. With `input`, a
            `Dataset`, or anything that `read` reads: its examples are the other inputs. One value is learned for all examples, or one for
            each of their conditions.
        input: name of the input to optimise. None optimises the whole input.
        start: initial value, in the shape of the input. None: zeros.
        fit: full-batch optimiser: "normalised", z <- z - step * g / (rms(g) + 1e-5), "adam" or "lbfgs".
        steps: maximum number of steps. None uses the default of the optimiser.
        step: step size. None uses the default of the optimiser.

    Returns:
        The learned `values` (V, ...), their `names` (classes or conditions), and the `path` of their losses.

    Raises:
        InputError: if the input is invalid.

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


@checked_call
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
    resume: bool = True,
    task: str | None = None,
    max_length: int | None = None,
    sample_weight: Any = None,
    **settings: Unpack[SearchKeywords],
) -> Study:
    """Search for the best plan to adapt a network. Every trial starts from the trained weights.

    A holdout set is split off first. No trial sees it; only the best plan is evaluated on it, once, at the end. The trials use the
    remaining examples. Trials with the same freeze boundary share one feature cache.

    Args:
        net: a `Network`, anything that `load` opens, or a function that builds one of these: its arguments are names of the space, such
            as `lambda activation, units: …`.
        data: a `Dataset`, or anything that `read` reads.
        space: setting name -> list of choices, or {"low", "high", "log", "step", "points"}. None uses a default space.
        trials: number of trials, counted over all processes that work on the study.
        sampler: "tpe", "random" or "grid".
        pruner: "median" or "hyperband" stops unpromising trials early. None runs every trial to its end.
        folds: number of cross-validation folds per trial (stratified; grouped if the data have groups). None uses a single split.
        holdout: share of the examples in the holdout set. Without folds, also the share of the remaining examples that evaluate the trials.
        metric: metric that selects the best trial. None: accuracy, macro_f1 (multi-label) or rmse (regression).
        seed: seed for splits and trials. Runs are reproducible in a single process.
        test: additional labelled data to evaluate the best plan on.
        budget: "30s", "10m" or "1h": no trial starts after this time. None sets no limit.
        out: folder of the study (SQLite). A later call continues the study, and several processes may share it.
        resume: False removes the study in `out` and starts again; no other process may work on it then.
        task: as in `read`.
        max_length: as in `read`.
        sample_weight: as in `read`.
        settings: as in `adapt`, the same in every trial.

    Returns:
        The study: `study.table()`, `study.best` (a plan for `adapt`), `study.result`, `study.plot(path)`.

    Raises:
        InputError: if the input is invalid (checked before the first trial), or if no trial finished.

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
    dataset = _usable(data, skip_bad, task=task, max_length=max_length, sample_weight=sample_weight)
    built = arguments_of(net, space or {})

    def build(values: Mapping[str, Any]) -> Network:
        with seeded(seed):
            made = net(**values)
        return made if isinstance(made, Network) else _opened_for(made, dataset)

    network = build(first_of(space, built, fixed=settings)) if built else net if isinstance(net, Network) else _opened_for(net, dataset)
    dataset = dataset if settings.get("classes") else as_heads_say(network, dataset)
    asked = SearchOptions(space, trials, sampler, pruner, folds, holdout, metric, seed, out, budget, resume)
    judges = None if test is None else _usable(read_like(dataset, test, skip_bad=skip_bad), skip_bad, task=task)
    return run_search(network, dataset, asked=asked, settings=settings, test=judges, build=build if built else None, built=built)


@checked_call
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
    """Measure how well the features at each depth of a network predict the labels: one forward pass, then closed-form probes.

    Args:
        net: a `Network`, or anything that `load` opens. It is not changed.
        data: a `Dataset`, or anything that `read` reads. If it has groups, cross-validation leaves out whole groups.
        task: as in `read`.
        of_task: the task to profile, if the data have several. None for the first.
        max_length: as in `read`.
        seed: seed for the subsets of the learning curve.
        out: folder for profile.json and profile.html.
        skip_bad: leave out unusable examples instead of raising an error.
        settings: cache and device, as in `regraft.training.Settings`.

    Returns:
        The profile: profile.table(), .summary(), .plot(path), .plan(), .report(path), .to_dict().

    Raises:
        InputError: if the input is invalid.

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
    """Read data unless they are a `Dataset`, and check every example. With `skip_bad`, leave out unusable examples."""
    given = {name: value for name, value in reading.items() if value is not None}
    return checked(data if isinstance(data, Dataset) and not given else read(data, skip_bad=skip_bad, **given), skip_bad)


def _read_for(net: Any, data: Any, *, unlabelled: bool = False, skip_bad: bool) -> Dataset:
    """Read data for a network. Unlabelled data that are not a tuple are read with the network's preprocessing, as in `predict`."""
    if isinstance(data, Dataset):
        return data
    if not unlabelled or isinstance(data, tuple):
        return read(data, skip_bad=skip_bad)
    return preprocessing_from_dict(net.preprocessing.to_dict()).dataset(data)


@seeded()
def _opened_for(source: Any, data: Dataset) -> Network:
    """Open a network. If a live source does not tell its input shape, use the shape of the first example."""
    try:
        return load(source)
    except NetworkError:
        if isinstance(source, str | Path) or data.kind != "array":
            raise
        return load(source, inputs=np.shape(data[0]))
