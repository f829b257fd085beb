"""Arguments and options of the commands. Each is defined once and has the same meaning in every command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option

from ..files.remote import is_url


def place_of(text: str) -> Any:
    """Return a command-line word as a path, or unchanged if it is a URL such as "s3://bucket/run"."""
    return text.rstrip("/") if is_url(text) else Path(text)


def time_of(text: str) -> str:
    """Return a time limit such as "10m" as it is; raise a usage error for other texts."""
    if text != "auto" and not re.fullmatch(r"\d+(\.\d+)?[smh]", text):
        raise BadParameter(f"{text!r}: expected a time such as 30s, 10m or 1h.")
    return text


class Format(StrEnum):
    """Output format of predictions."""

    csv = "csv"
    jsonl = "jsonl"


_NETWORK = (
    "A file (.keras .h5 .hdf5 .onnx .pmml, or .safetensors .pt with --architecture), a saved folder, or a name: timm:NAME, "
    "torchvision:NAME, keras:NAME, hf:PATH."
)
_FILES = (
    "Files, folders or patterns such as 'inbox/**/*.jpg'; a CSV or Parquet file that contains or names the examples; a .txt file with one "
    "text per line; .npy or .npz for arrays; a .tar of pictures, or an address, alone. Row and line numbers start at 1."
)
_DATA = (
    "A folder of class folders; a CSV, JSON Lines or Parquet file; a WebDataset .tar; or arrays: .npz (X, y), .h5, or .npy with y.npy in "
    "the same folder. Addresses such as s3://… are read, too."
)

NetworkArgument = Annotated[str, Argument(metavar="NETWORK", help=_NETWORK)]
DataArgument = Annotated[str, Argument(metavar="DATA", help=_DATA)]
SavedArgument = Annotated[Path, Argument(metavar="DIR", help="A folder saved by adapt.")]
_RUN = "A folder saved by adapt, its address, or an .onnx file written by regraft export."
RunArgument = Annotated[Any, Argument(metavar="DIR", help=_RUN, parser=place_of)]
ItemsArgument = Annotated[list[Any] | None, Argument(metavar="FILES...", help=_FILES, show_default=False, parser=place_of)]

_network, _data, _setting, _output = (partial(Option, rich_help_panel=panel) for panel in ("Network", "Data", "Settings", "Output"))

# ── networks ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
_WEIGHTS = "A weights-only file to load into NETWORK. The account shows what matched."
Weights = Annotated[Path | None, _network("--weights", metavar="FILE", help=_WEIGHTS)]
_RANDOM = "Use the named NETWORK with random weights. Without this option, the command stops if trained weights cannot be fetched."
RandomWeights = Annotated[bool, _network("--random-weights", help=_RANDOM)]
_SOURCE_CLASSES = "Class names of NETWORK in the order of its outputs, one per line, if NETWORK has none."
SourceClasses = Annotated[Path | None, _network("--source-classes", metavar="FILE", help=_SOURCE_CLASSES)]
_OLD_CLASSES = "Class names of NETWORK in the order of its outputs, one per line, if NETWORK has none. The new classes come from DATA."
OldClasses = Annotated[Path | None, _network("--source-classes", "--classes", metavar="FILE", help=_OLD_CLASSES)]
_HEAD = "The head of NETWORK, if several layers are candidates. Repeat TASK=LAYER to keep several heads as tasks."
HeadLayer = Annotated[list[str] | None, _network("--head", metavar="LAYER", help=_HEAD, show_default=False)]
_INPUTS = "Shape of an example if NETWORK does not define it: 3,224,224. For several tensors, by name: X=40 Z=8 (repeatable)."
InputShapes = Annotated[list[str] | None, _network("--inputs", metavar="SHAPE", help=_INPUTS, show_default=False)]
_CHANNELS = "Number of channels of the images or signals. The weights of the first layer are summed or repeated to match."
Channels = Annotated[int | None, _network("--channels", metavar="N", min=1, help=_CHANNELS)]
_JOIN = "Columns of DATA that the head also reads, separated by commas. Their weights start at zero."
Join = Annotated[str | None, _network("--join", metavar="A,B", help=_JOIN)]
_HIDDEN = (
    "Additional layers below the new head, lowest first: units and activation, such as 1000:relu,150:sigmoid. The default activation is "
    "relu. For the strategies head and full."
)
Hidden = Annotated[str | None, _network("--hidden", metavar="N:A,…", help=_HIDDEN)]
_CLASSES = "Class names of the new head in the order of its outputs, one per line."
Classes = Annotated[Path | None, _network("--classes", metavar="FILE", help=_CLASSES)]
_PREVIEW = "New class names, one per line. Shows which class weights would be kept. Nothing is changed."
Preview = Annotated[Path | None, _network("--classes", metavar="FILE", help=_PREVIEW)]
_ARCHITECTURE = "Your class or function that builds NETWORK, if its folder or file contains only weights. MODULE is imported."
Architecture = Annotated[str | None, _network("--architecture", metavar="MODULE:NAME", help=_ARCHITECTURE)]
_TRUST = "Open a PyTorch program (.pt2), which can only predict. This runs code from the file. Use it only for files from people you trust."
Trust = Annotated[bool, _network("--trust", help=_TRUST)]

_PREPROCESSING = (
    'How raw data become the network\'s input, as JSON or a .json file: \'{"kind": "audio", "features": "mfcc", "n_mfcc": 13}\'. '
    "Values given here replace those of NETWORK."
)
Preprocessing = Annotated[str | None, _network("--preprocessing", metavar="JSON|FILE", help=_PREPROCESSING)]

# ── data ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
_TARGET = "Column of the label, or array of a .npz. Repeat it if an example can have several labels. For several tasks, repeat TASK=COL."
Target = Annotated[list[str] | None, _data("--target", metavar="COL", help=_TARGET, show_default=False)]
_GROUP = "Column of the group (speaker, patient, …). A group is never split. byte-equal keeps equal examples on one side of a split."
Group = Annotated[str | None, _data("--group", metavar="COL", help=_GROUP)]
_COLUMNS = "Numeric columns that belong to the examples, separated by commas. By default, the columns that the network reads."
Columns = Annotated[str | None, _data("--columns", metavar="A,B", help=_COLUMNS)]
Condition = Annotated[str | None, _data("--condition", metavar="COL", help="Column of the known nuisance of each example.")]
_SAMPLE_WEIGHT = "Column of the weight of each example in the loss."
SampleWeight = Annotated[str | None, _data("--sample-weight", metavar="COL", help=_SAMPLE_WEIGHT)]
_EACH = "Column of the condition of each example, or one condition for all: a name that the network knows, or mean for the mean code."
EachCondition = Annotated[str | None, _data("--condition", metavar="COL|NAME", help=_EACH)]
_ONE = "The condition of all examples: a name that the network knows, or mean for the mean code."
OneCondition = Annotated[str | None, _data("--condition", metavar="NAME", help=_ONE)]
_LAYOUT = "For .h5: keras2, which Keras 2 and other tools read, or keras3. Default: keras2; keras3 for weights alone (.weights.h5)."
WeightsFormat = Annotated[str | None, Option("--weights-format", metavar="keras2|keras3", help=_LAYOUT)]
Files = Annotated[Path | None, _data("--files", metavar="DIR", help="Folder of the files that a column of DATA names.")]
FilesFolder = Annotated[Path | None, _data("--files", metavar="DIR", help="Folder of the files that a column of the table names.")]
_OUTSIDE = "Allow DATA to name files outside the folder of --files: by absolute paths, by .. or through links."
Outside = Annotated[bool, _data("--outside", help=_OUTSIDE)]
Kind = Annotated[str | None, _data("--kind", metavar="K", help="Kind of example: array, image, audio or text. By default, it is detected.")]
SkipBad = Annotated[bool, _data("--skip-bad", help="Skip and list examples that cannot be used, instead of stopping.")]
_TASK = "Kind of task: classification, multi-label or regression. By default, it follows from the labels and the network's head."
Task = Annotated[str | None, _data("--task", metavar="KIND", help=_TASK)]
_MAX_LENGTH = "Maximum number of tokens per text in training. By default, the maximum that the network accepts."
MaxLength = Annotated[int | None, _data("--max-length", metavar="N", min=1, help=_MAX_LENGTH)]
_OF_TASK = "Task of DATA to use, if there are several."
OfTask = Annotated[str | None, _data("--of-task", metavar="TASK", help=_OF_TASK)]
Test = Annotated[str | None, _data("--test", metavar="DATA", help="Test set: additional data that are only used for evaluation.")]
_OLD_DATA = "Examples of the old classes. The new class weights are fitted to old and new examples."
OldData = Annotated[str | None, _data("--old-data", metavar="DATA", help=_OLD_DATA)]
_STATISTICS = "Solve the class weights of all classes again, from the class statistics of the old ones: those in DIR, or the network's own."
Statistics = Annotated[str | None, _data("--statistics", metavar="DIR|own", help=_STATISTICS)]
_HOLDOUT = "Share of the examples in the holdout set."
Holdout = Annotated[
    float, _data("--holdout", metavar="X", min=0, max=1, help=f"{_HOLDOUT} 0 shows the split of regraft adapt with --test.")
]
_OR_TEST = f"{_HOLDOUT} Default: 0.2; with --test, which judges instead, `adapt` and `extend` take 0."
HoldoutOrTest = Annotated[float | None, _data("--holdout", metavar="X", min=0, max=1, help=_OR_TEST)]

# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────
_STRATEGY = (
    "auto, probe, head, partial (with --frozen), full, surgical (with --block), scratch, bias, scale_shift, lora, lin or codes (with "
    "--condition). Set options of the last five with --set: form=lhuc, rank=4, size=20, training=direct, …"
)
Strategy = Annotated[str, _setting("--strategy", metavar="S", help=_STRATEGY)]
_BLOCK = "For surgical: the third of the blocks to train: first, middle, last, or auto (chosen by the gradients)."
Block = Annotated[str | None, _setting("--block", metavar="WHICH", help=_BLOCK)]
_PROBE = (
    "Method that solves the heads: auto, ridge, lda, logistic, svm or class_mean. For the strategies probe and head also "
    "random_projection (a layer of random weights below the head) or knn (a vote of the examples, which are stored in the network)."
)
Probe = Annotated[str | None, _setting("--probe", metavar="P", help=_PROBE)]
_BUDGET = "For auto: time limit, such as 90s, 10m or 1h. By default, it ends when no improvement is expected."
Budget = Annotated[str | None, _setting("--budget", metavar="TIME", help=_BUDGET, parser=time_of)]
_FROZEN = (
    "For partial: number of frozen blocks; or the last frozen block, layer or module; or layers:8, counted as in the library of NETWORK."
)
Frozen = Annotated[str | None, _setting("--frozen", metavar="N|NAME", help=_FROZEN)]
_TRAINABLE = (
    "Train exactly these layers: names or patterns separated by commas, such as 'layer4*'. all also trains layers frozen in NETWORK."
)
Trainable = Annotated[str | None, _setting("--trainable", metavar="A,B", help=_TRAINABLE)]
_FRESH = "Untrained layers below the head: names or patterns separated by commas. They are trained first, together with the head."
Fresh = Annotated[str | None, _setting("--fresh", metavar="A,B", help=_FRESH)]
_START = "Initial class weights of new classes: zeros, random, mean, imprint or probe."
Start = Annotated[str | None, _setting("--start", metavar="S", help=_START)]
_RENAME = "New name of an old class. Its class weights are kept. Repeatable."
Rename = Annotated[list[str] | None, _setting("--rename", metavar="OLD=NEW", help=_RENAME, show_default=False)]
_VIEWS = "Number of views (fixed augmented copies) of a training example, with the plain one. Default: 1; 4 with --augment light or photo."
Views = Annotated[int | None, _setting("--views", metavar="N", min=1, help=_VIEWS)]
_AUGMENT = (
    "How the views are made: auto, none, light (small changes of rotation, zoom and brightness; no mirroring) or photo (cropping, "
    "mirroring, colour changes)."
)
Augment = Annotated[str | None, _setting("--augment", metavar="A", help=_AUGMENT)]
Seed = Annotated[int, _setting("--seed", metavar="N", min=0, help="Random seed of the split, the order and dropout.")]
_EPOCHS = "Maximum number of epochs. By default, training stops when it no longer improves."
Epochs = Annotated[int | None, _setting("--epochs", metavar="N", min=0, help=_EPOCHS)]
BatchSize = Annotated[int | None, _setting("--batch-size", metavar="N", min=1, help="Examples per step.")]
LearningRate = Annotated[float | None, _setting("--learning-rate", metavar="X", min=0, help="By default, short training runs choose it.")]
_CACHE = "Feature cache for the outputs of the frozen part: a folder or an address. By default, the user's cache folder."
Cache = Annotated[str | None, _setting("--cache", metavar="DIR|memory|none", help=_CACHE)]
_ENGINE = "Engine that computes the frozen part or the predictions on a CPU: auto, eager, layers, compile, onnxruntime or openvino."
Engine = Annotated[str | None, _setting("--engine", metavar="NAME", help=_ENGINE)]
_CLUSTER = "Compute the frozen part or the predictions on a Ray cluster: ray://HOST:PORT, or auto for the cluster of this machine."
Cluster = Annotated[str | None, _setting("--cluster", metavar="ADDRESS", help=_CLUSTER)]
_BASELINES = "Also train the same architecture from scratch, as a baseline."
Baselines = Annotated[bool, _setting("--baselines", help=_BASELINES)]
NoResume = Annotated[bool, _setting("--no-resume", help="Start again, and replace the contents of the folder.")]
_SET = "Any other setting, such as optimizer=sgd. Repeatable."
Assigned = Annotated[list[str] | None, _setting("--set", metavar="NAME=VALUE", help=_SET, show_default=False)]
_OUT = "Folder or address for the adapted network, its report and the checkpoints."
Out = Annotated[Any, _output("--out", metavar="DIR", help=_OUT, parser=place_of)]

# ── output ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
AsJson = Annotated[bool, _output("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, _output("--quiet", help="Do not show progress.")]
Form = Annotated[Format, _output("--format", help="Format on stdout: CSV or JSON lines.")]
_RAW = "Print CSV cells unchanged: without an apostrophe before = + - @, and with control characters."
RawCells = Annotated[bool, _output("--raw-cells", help=_RAW)]
Probabilities = Annotated[bool, _output("--probabilities", help="Also print the probability of every class.")]
Unknown = Annotated[bool, _output("--unknown", help="Also print whether an example is out-of-distribution (of no known class).")]
_PASS = "Columns of the table to print beside each prediction, separated by commas. By default, the column id, if there is one."
Passed = Annotated[str | None, _output("--pass", metavar="A,B", help=_PASS)]
Texts = Annotated[list[str] | None, _output("--text", help="A text to classify. Repeatable.", show_default=False)]
CacheFolder = Annotated[Path | None, _output("--cache", metavar="DIR", help="Folder of feature caches. By default, the user's.")]
Older = Annotated[str | None, Option("--older", metavar="TIME", help="Only caches created longer ago than this, such as 30d or 12h.")]


# ── groups of options, each one parameter of a command ──────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class NetworkOptions:
    """Options for opening a network."""

    weights: Weights = None
    random_weights: RandomWeights = False
    head: HeadLayer = None
    channels: Channels = None
    architecture: Architecture = None
    inputs: InputShapes = None
    preprocessing: Preprocessing = None


@dataclass(frozen=True)
class ReadingOptions:
    """Options for reading data."""

    target: Target = None
    task: Task = None
    group: Group = None
    columns: Columns = None
    files: Files = None
    outside: Outside = False
    kind: Kind = None
    max_length: MaxLength = None
    skip_bad: SkipBad = False


@dataclass(frozen=True)
class TrainingOptions:
    """Options of a training: of `adapt`, and of every trial of `search`."""

    frozen: Frozen = None
    trainable: Trainable = None
    fresh: Fresh = None
    block: Block = None
    probe: Probe = None
    holdout: HoldoutOrTest = None
    test: Test = None
    condition: Condition = None
    sample_weight: SampleWeight = None
    start: Start = None
    rename: Rename = None
    join: Join = None
    hidden: Hidden = None
    views: Views = None
    augment: Augment = None
    seed: Seed = 0
    epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate: LearningRate = None
    cache: Cache = None
    engine: Engine = None
    cluster: Cluster = None
    classes: Classes = None
    source_classes: SourceClasses = None
    baselines: Baselines = False
    assigned: Assigned = None
