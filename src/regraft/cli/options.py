"""Arguments and options of the commands. Each is defined once and has the same meaning in every command."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from ..files.remote import is_url

__all__ = ["Format", "place_of"]


def place_of(text: str) -> Any:
    """Return a command-line word as a path, or unchanged if it is a URL such as "s3://bucket/run"."""
    return text.rstrip("/") if is_url(text) else Path(text)


class Format(StrEnum):
    """Output format of predictions."""

    csv = "csv"
    jsonl = "jsonl"


_NETWORK = "A file (.keras .h5 .hdf5 .pmml), a saved folder, or a name: timm:NAME, torchvision:NAME, keras:NAME, hf:PATH."
_FILES = (
    "Files, folders or patterns such as 'inbox/**/*.jpg'; one CSV or Parquet file that holds or names the examples; .txt with one text a "
    "line; .npy or .npz for arrays. Rows and lines are counted from 1."
)
_DATA = "A folder of class folders, a CSV or Parquet file, or arrays: .npz (X, y), .npy with y.npy beside it."

NetworkArgument = Annotated[str, Argument(metavar="NETWORK", help=_NETWORK)]
DataArgument = Annotated[str, Argument(metavar="DATA", help=_DATA)]
SavedArgument = Annotated[Path, Argument(metavar="DIR", help="A folder saved by adapt.")]
_RUN = "A folder saved by adapt, or its address; or an .onnx file of regraft export."
RunArgument = Annotated[Any, Argument(metavar="DIR", help=_RUN, parser=place_of)]
ItemsArgument = Annotated[list[Path] | None, Argument(metavar="FILES...", help=_FILES, show_default=False)]

_network, _data, _done, _printed = (
    partial(Option, rich_help_panel=panel) for panel in ("Network", "Data", "What is done", "What is printed")
)

# ── networks ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────
Weights = Annotated[
    Path | None, _network("--weights", metavar="FILE", help="A weights-only file put into NETWORK; the account says what matched.")
]
_RANDOM = "Take NETWORK, a name, with random weights; without this, trained weights that cannot be fetched stop the command."
RandomWeights = Annotated[bool, _network("--random-weights", help=_RANDOM)]
_SOURCE_CLASSES = "Class names of the rows that NETWORK has, one a line, where it carries none."
SourceClasses = Annotated[Path | None, _network("--source-classes", metavar="FILE", help=_SOURCE_CLASSES)]
_OLD_CLASSES = "Class names of the rows that NETWORK has, one a line, where it carries none; new ones are those of DATA."
OldClasses = Annotated[Path | None, _network("--source-classes", "--classes", metavar="FILE", help=_OLD_CLASSES)]
_HEAD = "The layer that is the head of NETWORK, where there are several candidates; TASK=LAYER, repeated, keeps several as tasks."
HeadLayer = Annotated[list[str] | None, _network("--head", metavar="LAYER", help=_HEAD, show_default=False)]
_INPUTS = "Shape of an example where NETWORK does not say it: 3,224,224; of several tensors by name: X=40 Z=8, repeatable."
InputShapes = Annotated[list[str] | None, _network("--inputs", metavar="SHAPE", help=_INPUTS, show_default=False)]
_CHANNELS = "Channels of the pictures or signals that NETWORK shall take: its first layer is summed or repeated."
Channels = Annotated[int | None, _network("--channels", metavar="N", help=_CHANNELS)]
_JOIN = "Columns of DATA that the head shall also read, with commas between; their weights start at zero."
Join = Annotated[str | None, _network("--join", metavar="A,B", help=_JOIN)]
_HIDDEN = (
    "Further layers below the new head, lowest first: units and what follows them, such as 1000:relu,150:sigmoid; relu where nothing is "
    "named. With strategy head or full."
)
Hidden = Annotated[str | None, _network("--hidden", metavar="N:A,…", help=_HIDDEN)]
Classes = Annotated[Path | None, _network("--classes", metavar="FILE", help="Class names of the new head in row order, one a line.")]
_PREVIEW = "New class names, one a line: shows which rows would be kept; nothing is changed."
Preview = Annotated[Path | None, _network("--classes", metavar="FILE", help=_PREVIEW)]
_ARCHITECTURE = "A class or function of yours that makes NETWORK, where its folder or file holds weights alone; MODULE is imported."
Architecture = Annotated[str | None, _network("--architecture", metavar="MODULE:NAME", help=_ARCHITECTURE)]
_TRUST = "Open a PyTorch program (.pt2), which predicts and nothing else. This runs code of the file: only for files of people you trust."
Trust = Annotated[bool, _network("--trust", help=_TRUST)]

# ── data ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
_TARGET = "Column of the label, or array of a .npz; repeat it where an example may have several. TASK=COL for each of several tasks."
Target = Annotated[list[str] | None, _data("--target", metavar="COL", help=_TARGET, show_default=False)]
_GROUP = "Column (speaker, patient, …) never on both sides of a split; byte-equal keeps equal examples on one side."
Group = Annotated[str | None, _data("--group", metavar="COL", help=_GROUP)]
_COLUMNS = "Columns of numbers beside the examples, with commas between; without it, those that the network reads."
Columns = Annotated[str | None, _data("--columns", metavar="A,B", help=_COLUMNS)]
Condition = Annotated[str | None, _data("--condition", metavar="COL", help="Column of the known nuisance of each example.")]
_EACH = "Column of the condition of each example; or the one of all: a name that the network knows, or mean for the mean code."
EachCondition = Annotated[str | None, _data("--condition", metavar="COL|NAME", help=_EACH)]
_ONE = "The condition of all items: one that the network knows, or mean for the mean code."
OneCondition = Annotated[str | None, _data("--condition", metavar="NAME", help=_ONE)]
Files = Annotated[Path | None, _data("--files", metavar="DIR", help="Folder of the files that a column of DATA names.")]
FilesFolder = Annotated[Path | None, _data("--files", metavar="DIR", help="Folder of the files that a column of the table names.")]
_OUTSIDE = "Let DATA name files outside the folder of --files: by absolute paths, by .. or through links."
Outside = Annotated[bool, _data("--outside", help=_OUTSIDE)]
Kind = Annotated[str | None, _data("--kind", metavar="K", help="array, image, audio or text, where it is not to be found out.")]
SkipBad = Annotated[bool, _data("--skip-bad", help="Leave out what cannot be used, and list it, instead of stopping.")]
_TASK = "What the labels are: classification, multi-label or regression; without it, what they and the network's head say."
Task = Annotated[str | None, _data("--task", metavar="KIND", help=_TASK)]
_MAX_LENGTH = "Of texts, in tokens: the network learns from so many of each at most; without it, from as many as it takes."
MaxLength = Annotated[int | None, _data("--max-length", metavar="N", help=_MAX_LENGTH)]
_OF_TASK = "Which task of DATA, where there are several."
OfTask = Annotated[str | None, _data("--of-task", metavar="TASK", help=_OF_TASK)]
Test = Annotated[str | None, _data("--test", metavar="DATA", help="Further data that only judge.")]
_OLD_DATA = "Some examples of the old classes: the new class weights are fitted to old and new ones."
OldData = Annotated[str | None, _data("--old-data", metavar="DATA", help=_OLD_DATA)]
_STATISTICS = "Solve the class weights of all classes anew from the class statistics of the old ones: those in DIR, or the network's own."
Statistics = Annotated[str | None, _data("--statistics", metavar="DIR|own", help=_STATISTICS)]
Holdout = Annotated[float, _data("--holdout", metavar="X", help="Share of the examples kept aside to judge; 0 goes with --test.")]

# ── what is done ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
_STRATEGY = (
    "auto, probe, head, partial (with --frozen), full, surgical (with --block), scratch, bias, scale_shift, lora, lin or codes (with "
    "--condition). Options of the last five with --set: form=lhuc, rank=4, size=20, training=direct, …"
)
Strategy = Annotated[str, _done("--strategy", metavar="S", help=_STRATEGY)]
_BLOCK = "For surgical: which third of the blocks is trained, first, middle, last, or auto (by the gradients)."
Block = Annotated[str | None, _done("--block", metavar="WHICH", help=_BLOCK)]
_PROBE = (
    "How heads are solved: auto, ridge, lda, logistic, svm, class_mean or, for the strategies probe and head, random_projection (a layer "
    "of random weights below the head) or knn (a vote of the examples, which the network then holds)."
)
Probe = Annotated[str | None, _done("--probe", metavar="P", help=_PROBE)]
_BUDGET = "For auto: the time it may take, such as 90s, 10m or 1h; without it, until nothing better is to be expected."
Budget = Annotated[str | None, _done("--budget", metavar="TIME", help=_BUDGET)]
_FROZEN = "For partial: so many blocks, up to this block, layer or module, that one included, or layers:8, counted as in its library."
Frozen = Annotated[str | None, _done("--frozen", metavar="N|NAME", help=_FROZEN)]
_TRAINABLE = "Exactly these layers, names or patterns with commas between, such as 'layer4*'; all: whatever their owner has frozen."
Trainable = Annotated[str | None, _done("--trainable", metavar="A,B", help=_TRAINABLE)]
_FRESH = "Layers below the head that were never trained, names or patterns with commas between: trained first, with the head."
Fresh = Annotated[str | None, _done("--fresh", metavar="A,B", help=_FRESH)]
_START = "How the class weights of new classes start: zeros, random, mean, imprint or probe."
Start = Annotated[str | None, _done("--start", metavar="S", help=_START)]
_RENAME = "An old class by its new name, so that its row is kept; repeatable."
Rename = Annotated[list[str] | None, _done("--rename", metavar="OLD=NEW", help=_RENAME, show_default=False)]
Views = Annotated[int, _done("--views", metavar="N", help="Fixed versions of each example to learn from, the plain one included.")]
_AUGMENT = (
    "How these versions are made: auto, none, light (turned, zoomed and lit a little, never mirrored) or photo (cropped, mirrored, "
    "coloured); with light or photo, 4 versions where --views does not say how many."
)
Augment = Annotated[str | None, _done("--augment", metavar="A", help=_AUGMENT)]
Seed = Annotated[int, _done("--seed", metavar="N", help="Decides split, order and dropout.")]
Epochs = Annotated[int | None, _done("--epochs", metavar="N", help="At most so many passes; without it, until nothing is gained.")]
BatchSize = Annotated[int | None, _done("--batch-size", metavar="N", help="Examples a step.")]
LearningRate = Annotated[float | None, _done("--learning-rate", metavar="X", help="Without it, short trainings choose one.")]
_CACHE = "Where the frozen part's outputs are kept, a folder or an address; without it, the user's cache folder."
Cache = Annotated[str | None, _done("--cache", metavar="DIR|memory|none", help=_CACHE)]
_ENGINE = "What computes frozen parts, or the network that predicts, on a CPU: auto, eager, compile, onnxruntime or openvino."
Engine = Annotated[str | None, _done("--engine", metavar="NAME", help=_ENGINE)]
_CLUSTER = "Compute that on a cluster of Ray: ray://HOST:PORT, or auto for the one that this machine is a part of."
Cluster = Annotated[str | None, _done("--cluster", metavar="ADDRESS", help=_CLUSTER)]
_BASELINES = "Also train the same architecture from scratch, as a baseline."
Baselines = Annotated[bool, _done("--baselines", help=_BASELINES)]
NoResume = Annotated[bool, _done("--no-resume", help="Begin anew, and replace what the folder holds.")]
_SET = "Any other setting, such as optimizer=sgd; repeatable."
Assigned = Annotated[list[str] | None, _done("--set", metavar="NAME=VALUE", help=_SET, show_default=False)]
_OUT = "Folder, or address, for the adapted network, its report, and checkpoints on the way."
Out = Annotated[Any, _done("--out", metavar="DIR", help=_OUT, parser=place_of)]

# ── what is printed ────────────────────────────────────────────────────────────────────────────────────────────────────────────
AsJson = Annotated[bool, _printed("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, _printed("--quiet", help="Show no progress.")]
Form = Annotated[Format, _printed("--format", help="CSV or JSON lines, on stdout.")]
_RAW = "Print CSV cells as they are: without an apostrophe before = + - @, and with control characters."
RawCells = Annotated[bool, _printed("--raw-cells", help=_RAW)]
Probabilities = Annotated[bool, _printed("--probabilities", help="Also print the probability of every class.")]
Unknown = Annotated[bool, _printed("--unknown", help="Also print whether an example belongs to no class that the network knows.")]
_PASS = "Columns of the table to print beside each prediction, with commas between; without it its column id, where it has one."
Passed = Annotated[str | None, _printed("--pass", metavar="A,B", help=_PASS)]
Texts = Annotated[list[str] | None, _printed("--text", help="A text to classify; repeatable.", show_default=False)]
CacheFolder = Annotated[Path | None, _printed("--cache", metavar="DIR", help="Folder of feature caches; without it, the user's.")]
Older = Annotated[str | None, Option("--older", metavar="TIME", help="Only those made longer ago than this, such as 30d or 12h.")]
