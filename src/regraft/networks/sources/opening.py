"""Open a network from any source: a live object, a file, a name, or a saved folder."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import Module

from ...errors import MissingExtraError, NetworkError, UnsafeFileError, optional_import
from ...files.formats import FORMATS, content_of, member, opening
from ...files.given import LIBRARIES, missing_network
from ...files.text import printable
from ...words import counted
from ..account import Account
from ..edits import Cut, edit_from_dict
from ..family import Family
from ..folders import FACTS_FILE, UNKNOWN_FILE, check_files, read_facts, read_heads_, read_learned_, read_statistics
from ..hub.opening import hub_module, live_hub, open_hub
from ..hub.samples import suited_sample
from ..layers.graph import SOURCE as LAYERS_SOURCE
from ..layers.graph import graph_module
from ..network import Coding, Inputs, Network
from ..onnx.trainable import SOURCE as ONNX_SOURCE
from ..onnx.trainable import open_onnx, read_onnx_module
from ..parts.code_files import naming_conditions, with_code_files
from ..parts.head import HeadChoice, told_binary
from ..samples import Shapes, check_shapes, named_sample, sample_of
from ..torch.exporting import PROGRAM_FILE
from ..torch.family import open_torch
from ..torch.former import present_names, with_present_facts, with_present_names
from .arrays import ARRAY_ENDINGS, refuse_pickle
from .building import Limits, building
from .combining import COMBINED, ConcatenatedOutputs, torch_side_by_side
from .dense import dense_module, open_dense
from .programs import open_program, open_torch_program
from .torch_files import TORCH_ENDINGS, is_torch_file, read_torch_weights
from .zoo import SourceModule, live_timm, open_timm, open_torchvision

_KERAS_FILES = (".keras", ".h5", ".hdf5")
_PROGRAM, _DENSE, _ONNX = ".pt2", ".pmml", ".onnx"
_SIZED = {"timm": open_timm, "torchvision": open_torchvision}  # Libraries that can make a network for pictures of one size
RANDOM = "random"  # Value of `weights` that keeps the random initial weights of the library
_REPLACED = 5  # Attempts to open a folder that another process keeps replacing
Architecture = Module | Callable[[], Any] | None
Rule = tuple[Mapping[str, Any], Mapping[str, np.ndarray]]
"""Rule for out-of-distribution examples as plain data, and the arrays of its statistics."""


@dataclass
class Source:
    """Opened network with the facts that its source knows.
    `preprocessing` is plain data, or None if it must be inferred. `unknown` is the rule for out-of-distribution examples."""

    network: Network
    preprocessing: dict[str, Any] | None = None
    unknown: Rule | None = None


def open_source(
    source: Any,
    *,
    classes: Sequence[str] | None = None,
    weights: str | Path | None = None,
    architecture: Architecture = None,
    inputs: Shapes = None,
    head: HeadChoice = None,
    trust: bool = False,
) -> Source:
    """Open a network from any source.
    `inputs` is the shape of one example without the batch axis, or a mapping of input name to shape. The returned network carries the
    account of its weights file. `weights="random"` is valid for names only."""
    check_shapes(inputs)
    drawn = weights == RANDOM
    if drawn and str(source).partition(":")[0] not in LIBRARIES:
        raise NetworkError(f"weights={RANDOM!r} goes with a name such as 'timm:resnet18'; received {printable(str(source))[:80]!r}.")
    opened = _open(source, architecture, inputs=inputs, pretrained=weights is None, head=head, trust=trust)
    if drawn:
        opened.network.origin["weights"] = RANDOM
        opened.network.account = opened.network.account.joined(Account(notes=("its weights are RANDOM, as asked: nothing is trained",)))
    elif weights is not None:
        opened.network.body.refuse_change("given other weights")
        _put_file_(opened.network, Path(weights))
    if classes is not None:
        opened.network.name_classes_(classes)
    opened.network.account = opened.network.account.joined(Account(notes=_wrong_numbers(opened.network)))
    return opened


def _wrong_numbers(network: Network) -> tuple[str, ...]:
    """Return a note on weights that are not finite; buffers such as masks may hold infinity."""
    learned = {name for own in network.layer_parameters().values() for name in own}
    wrong = [
        printable(name, width=120)
        for name, values in network.state().items()
        if values.is_floating_point() and bool(values.isnan().any() if name not in learned else not values.isfinite().all())
    ]
    more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
    note = f"NaN or infinite weights: {', '.join(wrong[:6])}{more}. Outputs that depend on them are NaN or infinite."
    return (note,) if wrong and note not in network.account.notes else ()


def _open(source: Any, architecture: Architecture, *, inputs: Shapes, pretrained: bool, head: HeadChoice, trust: bool) -> Source:
    if isinstance(source, Network):
        return Source(source.copy(), source.preprocessing.to_dict())
    if isinstance(source, Module) or _is_keras(source):
        return _of_live(source, inputs, head=head)
    if not isinstance(source, (str, Path)):
        raise NetworkError(
            f"A network cannot be opened from {f'the class {source.__name__}' if isinstance(source, type) else type(source).__name__}: "
            f"expected a torch module, a Keras model, a path, or a name such as 'timm:resnet18'.{_instead_of(source)}"
        )
    source = str(source)
    kind, _, name = source.partition(":")
    if name and kind in LIBRARIES:  # the library has its own list of names
        if isinstance(inputs, Mapping):
            raise NetworkError(f"{source!r} does not need the names of its inputs; received inputs={dict(inputs)}. Give one shape.")
        if kind == "keras":
            with _keras_needed():
                from .keras_zoo import open_application
            return Source(*open_application(source, pretrained=pretrained, inputs=inputs))
        if kind == "hf":
            return _of_opened(source, open_hub(name, pretrained=pretrained), inputs=inputs, head=head)
        return _of_opened(source, _SIZED[kind](name, pretrained=pretrained, inputs=inputs), inputs=inputs, head=head)
    wrong = missing_network(source)
    if wrong:
        raise NetworkError(wrong)
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, architecture)
    _check_content(path)
    if path.suffix.lower() == _PROGRAM:
        return Source(open_torch_program(path, trust=trust))
    return _open_file(path, architecture, inputs=inputs, head=head)


def _is_keras(source: Any) -> bool:
    """Return whether `source` is a Keras model, without importing keras."""
    return any(kind.__module__.split(".")[0] == "keras" and kind.__name__ == "Layer" for kind in type(source).__mro__)


@contextmanager
def _keras_needed() -> Iterator[None]:
    """Convert a missing keras or h5py into a MissingExtraError.
    Functions import the Keras modules inside this context, so that users of PyTorch do not pay for it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in {"keras", "h5py"}:
            raise
        raise MissingExtraError(
            f"Keras networks need '{error.name}', which is not installed. Install it with: pip install 'regraft[keras]'"
        ) from error


def _instead_of(source: Any) -> str:
    """Return the end of a message that says what to give in place of a class or of weights; "" for anything else."""
    if isinstance(source, type):
        return f" Make a network of it first: {source.__name__}(…)."
    if isinstance(source, Mapping) and source and all(isinstance(value, torch.Tensor | np.ndarray) for value in source.values()):
        return " Weights alone have no layers: build the module, give it the weights with module.load_state_dict, and give the module."
    return ""


def _open_live(source: Any, inputs: Shapes, *, head: HeadChoice = None) -> Network:
    if _is_keras(source):
        with _keras_needed():
            from ..keras.family import open_keras
        return open_keras(source, inputs=inputs, head=head)
    if isinstance(inputs, Mapping):
        network = open_torch(source, sample=suited_sample(source, named_sample(source, inputs)), head=head)
        network.body.open_(inputs)
        return network
    return open_torch(source, inputs=inputs, head=head)


def _as_torch(network: Network, axes: str) -> Network:
    with _keras_needed():
        from ..layers.converting import as_torch
    return as_torch(network, turn=not axes)


def _as_keras(network: Network, name: str) -> Network:
    with _keras_needed():
        from ..layers.converting import as_application, as_keras
        from .keras_zoo import application
    plain = network if network.family == "keras" else as_keras(network)
    return as_application(network, plain, architecture=application(name, plain.input_shape, head=plain.head)) if name else plain


def _lead_by_layers_(body: Any, layers: Collection[str], *, watched: Collection[str]) -> list[Module]:
    from ..layers.leading import lead_by_layers_

    return lead_by_layers_(body, layers, watched=watched)


Family.becomes.update(torch=_as_torch, keras=_as_keras)
Family.leading.update(keras=_lead_by_layers_)


def side_by_side(networks: Sequence[Network]) -> Network:
    """Return one headless network whose features are the concatenated outputs of `networks`. All of them read the same inputs."""
    families = sorted({network.family for network in networks})
    if families not in (["torch"], ["keras"]):
        raise NetworkError(f"Received networks of the families {families}; expected PyTorch or Keras alone. Convert some: net.to('torch').")
    if families == ["torch"]:
        return torch_side_by_side(networks)
    with _keras_needed():
        from ..keras.family import open_keras
        from ..keras.flat_graph import beside
    return open_keras(beside([network.body.copied_module() for network in networks]), take=True, origin={"source": COMBINED}, heads=())


def _of_live(source: Any, inputs: Shapes, *, head: HeadChoice) -> Source:
    """Return the network of a live object. Models of Transformers and timm bring their own class names and preprocessing."""
    known = None if _is_keras(source) else live_hub(source) or live_timm(source)
    if known is None:
        return Source(_open_live(source, inputs, head=head))
    network: Network | None = None
    if inputs is None:
        with suppress(Exception):  # a Python forward may fail in any way, for instance if the module was built for another input size
            network = open_torch(known.module, sample=known.sample, head=head)
    network = _open_live(known.module, inputs, head=head) if network is None else network
    read = {name: value for name, value in network.origin.items() if name == "read"}
    network.origin = {**known.origin, **read} if known.origin else network.origin
    _named_(network, known.classes)
    network.account = Account(notes=(*known.notes, *network.account.notes))
    return Source(network, _at_size(known.preprocessing, network.input_shape))


def _at_size(preprocessing: dict[str, Any] | None, shape: Sequence[int | None]) -> dict[str, Any] | None:
    """Return image preprocessing adapted to the shape (channels, height, width) of the network; None if the channels differ."""
    if preprocessing is None or len(shape) != 3:
        return preprocessing
    return None if shape[0] != preprocessing["channels"] else preprocessing | {"height": shape[1], "width": shape[2]}


def _of_opened(source: str, opened: SourceModule, *, inputs: Sequence[int] | None, head: HeadChoice) -> Source:
    """Return the network of an opened PyTorch module with its origin, class names, tasks and notes."""
    sample = opened.sample if inputs is None else sample_of(inputs)
    with building(repr(printable(source)), Limits.of_memory()):
        network = open_torch(opened.module, sample=sample, origin=opened.origin, take=True, head=head)
    if inputs is None:
        network.body.open_(opened.open)
    notes = list(opened.notes)
    if not _named_(network, opened.classes):
        notes.append(
            f"{counted(len(opened.classes or ()), 'class name')} come with it, and it has another number of outputs: they stay without "
            "names"
        )
    _tell_heads_(network, opened.tasks)
    network.account = Account(notes=(*notes, *network.account.notes))
    return Source(network, opened.preprocessing if inputs is None else _at_size(opened.preprocessing, network.input_shape))


def _named_(network: Network, classes: Sequence[str] | None) -> bool:
    """Name the classes of a network; return False if they do not fit its outputs."""
    try:
        if classes is not None:
            network.name_classes_(classes)
    except NetworkError:
        return False
    return True


def _tell_heads_(network: Network, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    """Apply the facts of the first task to the first head: name, kind, classes, activation and thresholds; without a head, the classes."""
    if not tasks:
        return
    task, told = next(iter(tasks.items()))
    if not network.heads:
        _named_(network, told["classes"])
        return
    if told.get("binary"):
        network.heads = {**network.heads, network.head.task: told_binary(network.head, told)}
    if told["classes"]:
        network.name_classes_(told["classes"])
    network.rename_task_(network.head.task, task)
    limits = tuple(told["thresholds"]) if told["thresholds"] else None
    if limits is not None and len(limits) != len(network.head.weight):
        raise NetworkError(
            f"{counted(len(limits), 'threshold', verb='were')} received for {counted(len(network.head.weight), 'label')}. Export the "
            "network again."
        )
    head = replace(network.head, kind=told["kind"], activation=told["activation"], thresholds=limits)
    network.heads = {**network.heads, task: head}


def _made(architecture: Architecture) -> Any:
    """Return the live object of `architecture`: the object itself, or the result of calling the function."""
    return (
        architecture() if callable(architecture) and not isinstance(architecture, Module) and not _is_keras(architecture) else architecture
    )


def _open_file(path: Path, architecture: Architecture, *, inputs: Shapes, head: HeadChoice) -> Source:
    suffix = path.suffix.lower()
    if suffix in _KERAS_FILES:
        with _keras_needed():
            from ..keras.family import open_keras
            from .keras_files import is_full_model, open_keras_file
        if architecture is None or is_full_model(path):
            return Source(open_keras(open_keras_file(path), inputs=inputs, origin={"source": path.name}, take=True, head=head))
    elif suffix in (_DENSE, _ONNX):
        return _of_opened(path.name, open_dense(path) if suffix == _DENSE else open_onnx(path), inputs=None, head=head)
    elif not is_torch_file(path) and suffix not in ARRAY_ENDINGS:
        refuse_pickle(path)
        known = ", ".join((*_KERAS_FILES, _DENSE, _ONNX, *TORCH_ENDINGS))
        raise NetworkError(f"{path.name!r} has the ending {suffix!r}; expected one of {known}.")
    elif architecture is None:
        if suffix not in (".safetensors", *ARRAY_ENDINGS):
            read_torch_weights(path)  # refuse a pickle of objects before asking for an architecture
        raise NetworkError(
            f"{path.name!r} holds weights only; give the network that they belong to with architecture=, "
            "a module or a function that makes it. If it has a name, such as 'timm:resnet18', give that name as the network, and this file "
            "as weights=."
        )
    network = _open_live(_made(architecture), inputs, head=head)
    _put_file_(network, path)
    return Source(network)


def _check_content(path: Path) -> None:
    """Raise if a file is empty, or holds something else than its ending says, before it is asked what to do with it."""
    kind = next((name for name, form in FORMATS.items() if path.suffix.lower() in form.suffixes and form.error is NetworkError), None)
    found = content_of(path, kind) if kind else ""
    if found:
        raise NetworkError(f"{printable(path.name)!r} cannot be read as a {FORMATS[kind or ''].title}: {found}. Copy or export it again.")


def _put_file_(network: Network, path: Path) -> None:
    if not path.is_file():
        raise NetworkError(f"There is no weights file {str(path)!r}.")
    refuse_pickle(path)
    network.account = network.account.joined(network.kind.put_file_(network.body, path))
    network.body.refresh_heads_()


def _open_folder(folder: Path, architecture: Architecture) -> Source:
    """Open a saved folder. Retry if another process replaced it meanwhile, because files of two saves do not belong together."""
    facts = read_facts(folder)
    for _ in range(_REPLACED):
        try:
            source: Source | NetworkError = _opened_folder(folder, facts, architecture=_made(architecture))
        except NetworkError as error:
            source = error
        before, facts = facts, read_facts(folder)
        if facts != before:
            continue
        if isinstance(source, NetworkError):
            raise source
        return source
    raise NetworkError(f"{printable(folder)!r} was replaced again and again while it was opened. Open it when the other process has ended.")


def _opened_folder(folder: Path, facts: Mapping[str, Any], *, architecture: Any) -> Source:
    try:
        with opening(folder / FACTS_FILE, "facts"):  # values that fit the schema may still contradict each other, and then fail in any way
            source = _open_facts(folder, facts, architecture=architecture)
    except UnsafeFileError:
        raise
    except NetworkError as error:
        check_files(folder, facts)  # a changed file is the cause, whatever error it led to
        if printable(folder) in str(error):
            raise
        raise type(error)(f"The network in {printable(folder)!r} cannot be opened: {error}") from error
    check_files(folder, facts)
    return source


def _open_facts(folder: Path, facts: Mapping[str, Any], *, architecture: Any) -> Source:
    if facts["family"] == "keras":
        path = member(folder, str(facts["network"]["file"]))
        with _keras_needed():
            from .keras_files import open_saved_keras
        network: Network = open_saved_keras(path, facts, model=architecture)
    else:
        network = _open_torch_folder(folder, facts, architecture=architecture)
        if facts.get("format", 1) == 1 and not network.body.only_predicts:
            facts = with_present_facts(facts, network.module, coding=network.coding)
    read_heads_(network, facts)
    read_learned_(network, folder, facts=facts)
    if not network.body.only_predicts:  # a program has already taken its codes from the folder
        network.coding = Coding.from_dict(facts["coding"]) if facts.get("coding") else None
        network = with_code_files(network, folder)
    network.account = Account.from_dict(facts["account"]).joined(network.account)
    names = () if network.coding is None else network.coding.conditions
    return Source(network, naming_conditions(facts["preprocessing"], names), _rule_for_unknown(network, facts, folder=folder))


def _rule_for_unknown(network: Network, facts: Mapping[str, Any], *, folder: Path) -> Rule | None:
    """Return the out-of-distribution rule and its statistics. The folder's own statistics take precedence over those of the network."""
    rule = facts.get("unknown")
    if rule is None:
        return None
    known = facts.get("files")
    own = UNKNOWN_FILE in known if known is not None else rule.get("every", 1) > 1 or (folder / UNKNOWN_FILE).is_file()
    arrays = read_statistics(folder, UNKNOWN_FILE) if own else network.statistics
    return None if arrays is None else (rule, arrays)


def _sample_from(facts: Mapping[str, Any]) -> Inputs:
    tensors = {name: sample_of(shape, integers="int" in dtype) for name, (shape, dtype) in facts.items()}
    for name, tensor in tensors.items():
        if "mask" in name:
            tensors[name] = torch.ones_like(tensor)
        if name == "condition" and not tensor.is_floating_point():
            tensors[name] = torch.zeros_like(tensor)  # every table of codes has row 0
    return tensors[""] if list(tensors) == [""] else tensors


def _made_again(folder: Path, origin: Mapping[str, Any], *, sample: Mapping[str, Any], limits: Limits) -> Module:
    """Rebuild the bare module of a saved folder from its ONNX graph or from its origin. Its weights are placeholders.
    Nothing is downloaded, whatever the origin names. timm and torchvision build their networks by name, and dense layers follow from their
    sizes. A Hugging Face network is built from the configuration in the folder, and its name is not used."""
    what, source, config = repr(printable(folder)), origin["source"], origin.get("config")
    kind, _, name = source.partition(":")
    if source == ONNX_SOURCE:
        return read_onnx_module(member(folder, PROGRAM_FILE), what=what)
    if source == COMBINED:
        return ConcatenatedOutputs(
            [_edited(folder, part, sample=part.get("sample") or sample, limits=limits).module for part in origin["parts"]]
        )
    if kind == "hf" and isinstance(config, Mapping):
        return hub_module(config, what=what, limits=limits)
    if kind not in (*_SIZED, "dense", LAYERS_SOURCE):
        received = f"the origin {printable(repr(source), width=100)}" + (" without its configuration" if kind == "hf" else "")
        raise NetworkError(
            f"{what} has {received}; expected 'timm:NAME', 'torchvision:NAME', 'dense:SIZES', or 'hf:…' with a configuration. "
            "It was changed since it was saved: save the network again, or open it with architecture=."
        )
    if kind in _SIZED:
        optional_import(kind, "vision", purpose=what)  # sets the switch of the hub client, so it must come before `building`
    with building(what, limits, drawn=False):
        if kind == LAYERS_SOURCE:
            return graph_module(origin)
        if kind == "dense":
            return dense_module(name)
        if kind == "timm":
            return open_timm(name, pretrained=False, img_size=origin.get("img_size")).module
        return open_torchvision(name, pretrained=False, inputs=sample[""][0] if "" in sample else None).module


def _edited(  # over the limit: what a folder says of a network, and what is given beside it
    folder: Path, facts: Mapping[str, Any], *, sample: Mapping[str, Any], limits: Limits, architecture: Any = None, former: bool = False
) -> Network:
    """Rebuild a network from the origin and edits in its folder. Its weights are placeholders.
    `sample` holds the input shapes before any edit."""
    origin = {"read": None} | {name: value for name, value in facts.items() if name not in {"edits", "sample"}}
    edits, what = [edit_from_dict(edit) for edit in facts.get("edits", ())], repr(printable(folder))
    limits.check(edits, what=what)
    with building(what, Limits.of({})):
        batch = _sample_from(sample)
    module = architecture if architecture is not None else _made_again(folder, origin, sample=sample, limits=limits)
    remedy = "Its regraft.json is damaged, or the architecture is another one. Save the network again."
    with building(what, Limits.of_memory(), remedy=remedy):
        sized = open_torch(module, sample=suited_sample(module, batch), origin=origin, take=architecture is None)
        for edit in edits:
            sized = sized.edited(with_present_names(edit, sized.module) if former else edit)
    return sized


def _open_torch_folder(folder: Path, facts: Mapping[str, Any], *, architecture: Any) -> Network:
    former, origin = facts.get("format", 1) == 1, facts["network"]["origin"]
    if architecture is None and origin["source"] == "module":
        return open_program(folder, facts, sample=_sample_from(facts["network"]["sample"]))
    tensors = read_torch_weights(member(folder, str(facts["network"]["file"])))
    cut = any(isinstance(edit, Cut) for one in (origin, *origin.get("parts", ())) for edit in map(edit_from_dict, one.get("edits", ())))
    limits = Limits.of_memory() if cut else Limits.of(tensors)
    sample = origin.get("sample") or facts["network"]["sample"]
    sized = _edited(folder, origin, sample=sample, limits=limits, architecture=architecture, former=former)
    if former:
        names = present_names(sized.module)
        tensors = {names.get(name, name): tensor for name, tensor in tensors.items()}
    state = sized.module.state_dict()  # the state also carries version metadata, which some modules need to load
    if set(state) == set(tensors):
        state.update(tensors)
        tensors = state
    try:
        sized.module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise NetworkError(
            f"The weights in {str(folder)!r} do not fit the architecture given ({origin.get('class', origin['source'])}): {error}"
        ) from error
    held = facts["network"].get("held")
    if held is not None:
        sized.body.given = frozenset(names.get(name, name) for name in held) if former else frozenset(held)
    sized.body.open_(facts["network"].get("open", {}))
    sized.body.refresh_heads_()
    return sized
