"""A network of either family: what it is, what it computes, how it is saved.

Shape letters, used in the whole project: N examples, d features, C classes.
`family.py` defines what each framework implements. No code above this folder asks which family a network belongs to.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import torch
from torch import Tensor

from ..errors import NetworkError, SettingError, near_names, takes_paths
from ..files.formats import writable
from ..files.given import NO_RULE
from ..files.text import notebook_html, printable
from ..randomness import own_state
from ..words import counted
from .dense_files import write_pmml
from .editing.editable import Editable
from .folders import replacing, write_network
from .names import checked_classes
from .onnx_files import write_onnx
from .parts.coding import Coding, in_condition, without_conditions
from .parts.head import Head, one_row
from .parts.protocols import Inputs, Preprocessing, Scores, Unknowns, by_name
from .parts.structure import Block, Layer, Point, prefixes
from .parts.taps import Tap, TapSlice
from .predictions import Predictions, Run, concatenated, predictions, result_head, together

__all__ = ["Block", "Coding", "Head", "Inputs", "Layer", "Network", "Point", "Preprocessing", "Scores", "Tap", "TapSlice", "Unknowns"]


_PROGRAM = ".pt2"
_LAYOUTS = ("keras2", "keras3")  # Values of `weights_format=`
_NAMED = 5  # Number of classes that `repr` of a network names


@final
class Network(Editable):
    """A trained network behind one contract. Methods whose name ends in `_` change it in place; all others leave it unchanged.

    `heads` holds the heads by task name. The first one is `head`; the others are branches.
    `history` covers all training runs so far. `statistics` holds per-class sums of the features, if a training run kept them.
    `coding` describes how the network takes the codes of conditions, or is None. `draws` is True if two passes over the same examples
    differ even in inference. `edits` lists the changes since the network was opened from its source, in order.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> examples = np.zeros((5, 4), "float32")
        >>> net.family, net.head.weight.shape, net.classes
        ('torch', (3, 8), ('ant', 'bee', 'cat'))
    """

    def __repr__(self) -> str:
        numbers = sum(tensor.numel() for tensor in self.state().values())
        heads = []
        for task, head in self.heads.items():
            names = head.classes or ()
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            called = f"({', '.join(map(printable, names[:_NAMED]))}{more})" if names else "without names"
            heads.append(f"{task}: {head.kind}, {counted(len(head.weight), 'class' if names else 'output')} {called}")
        kind = f"{self.family} network of {type(self.module).__name__}"
        return f"<{kind}, {counted(len(self.blocks), 'block')}, {numbers:,} weights; {'; '.join(heads) or 'no head'}>"

    def _repr_html_(self) -> str:
        return notebook_html(self.summary())

    @property
    def takes_integers(self) -> bool:
        """Whether all inputs are integers, for example token ids."""
        return not any(tensor.is_floating_point() for tensor in by_name(self.sample).values())

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names of the first head, in row order, or None if they are unknown."""
        return self.outputs if self.outputs and not self.heads else self.head.classes

    def name_classes_(self, classes: Sequence[str], task: str | None = None) -> None:
        """Set the class names of a head, or of the outputs of a network without one.

        Args:
            classes: in row order.
            task: which head; None for the first.

        Raises:
            NetworkError: if the number of names differs from the number of rows, or a network without a head gives no scores.
        """
        names = checked_classes(classes)
        if not self.heads and task is None:
            count = len(self.answering()["main"].weight)
            if len(names) != count:
                raise NetworkError(
                    f"Received {counted(len(names), 'class name')} for a network without a head: it gives {counted(count, 'number')} for "
                    "each example, which no linear layer makes. Give as many names, or a head of these classes with regraft.retarget(net, "
                    "classes)."
                )
            self.outputs = names
            return
        head = self.head_of(task)
        head = head.as_binary() if len(names) == 2 and len(head.weight) == 1 and head.layer else head
        if len(names) != len(head.weight):
            raise NetworkError(
                f"Received {counted(len(names), 'class name')}; the head '{head.layer}' has {counted(len(head.weight), 'output')}. Give "
                "one name per output, or two where one output tells two classes apart."
            )
        self.heads = {**self.heads, head.task: replaced(head, classes=names)}

    # over the limit: items and batch size go together, as everywhere
    @own_state()
    def logits(self, items: Any, batch_size: int = 64, task: str | None = None, *, run: Run = concatenated) -> np.ndarray:
        """Return the logits of one task.

        Args:
            items: files, texts, arrays, or a Dataset; any kind of example that the preprocessing reads.
            batch_size: number of examples per batch.
            task: which head; None for the first.
            run: the function that runs the batches; `regraft.evaluate` and `regraft.predict` pass other engines and clusters here.

        Returns:
            (N, C) float32.

        Raises:
            NetworkError: if the network has no such task.

        Example:
            >>> net.logits(examples).shape
            (5, 3)
        """
        wanted = self.head_of(task).task if task else next(iter(self.answering()))
        return run(lambda network, batch: network.scores(batch)[wanted], self, items=items, batch_size=batch_size)

    def answering(self) -> dict[str, Head]:
        """Return the heads, or, for a network without one, a head that stands for its output.

        Raises:
            NetworkError: if that output is not one score per class for each example.
        """
        if self.heads:
            return self.heads
        self.mode_(False)
        with torch.no_grad():
            made = result_head(self.scores(self.sample)["main"])
        return {"main": replaced(made, classes=self.outputs if len(self.outputs) == len(made.weight) else None)}

    @own_state()
    def features(self, items: Any, batch_size: int = 64) -> np.ndarray:
        """Return the features (N, d) of `items`, `batch_size` at a time: what the head reads, or the pooled output without a head.

        Example:
            >>> net.features(examples).shape
            (5, 8)
        """
        return concatenated(lambda network, batch: network.feature_batch(batch), self, items=items, batch_size=batch_size)

    @own_state()
    def predict(self, items: Any, condition: str | None = None, *, unknown: bool = False, run: Run = concatenated) -> Predictions:
        """Return labels and probabilities for every task. A network without a head is read at its output.

        Args:
            items: files, texts, arrays, or a Dataset.
            condition: the condition of all examples: a name that the network knows, or "mean" for the mean code. None: each example's own
                condition if `items` is a Dataset with conditions, else the mean code.
            unknown: also mark the examples that belong to no class of the first task (out-of-distribution).
            run: the function that runs the batches; `regraft.predict` passes other engines and clusters here.

        Returns:
            The predictions of the first task; `tasks` holds those of all tasks.

        Raises:
            NetworkError: if `condition` is given to a network without conditions, or `unknown` to a network for which no rule was learned.

        Example:
            >>> net.predict(examples).probabilities.shape
            (5, 3)
        """
        if condition is not None and self.coding is None:
            raise NetworkError(f"Received condition={condition!r}; this network knows no conditions. Train codes with strategy='codes'.")
        if unknown and self.unknown is None:
            raise NetworkError(NO_RULE)
        if self.body.draws:
            warnings.warn("This network draws at random, in inference too: its predictions differ from call to call.", stacklevel=2)
        row = self.coding.row(condition) if self.coding is not None and condition is not None else None
        heads = self.answering()
        widths = np.cumsum([len(head.weight) for head in heads.values()])
        items = without_conditions(items) if row is not None else items

        def function(network: Network, batch: Inputs) -> Tensor:
            inputs = in_condition(batch, row)
            return torch.cat([*network.scores(inputs).values(), *([network.feature_batch(inputs)] if unknown else [])], 1)

        whole = run(function, self, items=items, batch_size=64)
        features = max(whole.shape[1] - self.head.features, 0) if unknown else whole.shape[1]
        probable = not self.heads and heads["main"].activation == "softmax"
        raw = np.log(np.maximum(whole, np.finfo(np.float32).tiny)) if probable else whole[:, :features]
        wrong = int(np.isnan(raw).any(1).sum())
        if wrong:
            warnings.warn(
                f"The scores of {counted(wrong, 'example', of=len(raw))} are no numbers, so that their labels mean nothing. Look for NaN "
                "or infinity in these examples, or in the weights of the network.",
                stacklevel=2,
            )
        parts = np.split(raw, widths[:-1], axis=1)
        found = {task: predictions(part, head) for (task, head), part in zip(heads.items(), parts, strict=True)}
        if unknown and self.unknown is not None:
            found[self.head.task] = replaced(found[self.head.task], unknown=self.unknown(whole[:, features:]))
        return together(found)

    def summary(self) -> str:
        """Return a readable table of the blocks and the heads.

        Example:
            >>> print(net.summary().splitlines()[0])
            torch network module: 67 parameters in 2 blocks
        """
        total = sum(block.parameters for block in self.blocks)
        lines = [f"{self.family} network {self.origin.get('source', '')}: {total:,} parameters in {counted(len(self.blocks), 'block')}"]
        lines += [
            f"{index + 1:>4}  {block.name:<40}{block.parameters:>12,}{'  frozen' if block.frozen else ''}"
            for index, block in enumerate(self.blocks)
        ]
        for head in self.heads.values():
            names = (
                "without class names" if head.classes is None else ", ".join(head.classes[:6]) + (", …" if len(head.classes) > 6 else "")
            )
            outputs = "one output for two classes" if head.binary else counted(len(head.weight), "output")
            where = f"{head.layer}: {counted(head.features, 'feature')}, {outputs}" if head.groups is None else "sums of probabilities"
            task = f"{head.task}: " if len(self.heads) > 1 else ""
            lines.append(f"head  {task}{where}, {head.kind}, {head.activation}; {names}")
        lines.append(f"takes {self.preprocessing.describe()}")
        return "\n".join(map(printable, lines))

    def reinitialised(self, seed: int) -> Self:
        """Return a copy with newly initialised weights, for training from scratch. Held layers and parameters keep theirs.

        The framework draws the weights from its random generator, seeded with `seed`.

        Raises:
            NetworkError: if the family cannot initialise weights.
        """
        twin = self.copy()
        twin.body.redraw_(seed)
        own, held = twin.state(), self.body.held
        with torch.no_grad():
            for name, values in self.state().items():
                if not held.isdisjoint(prefixes(name)):
                    own[name].copy_(values)
        twin.body.refresh_heads_()
        return twin

    def scores_of_features(self, features: Tensor) -> Scores:
        """Return the logits (N, C) by task for the heads' input `features` (N, d); NaN for heads that read other features."""
        near = {task: self.body.layers_of(task)[0] for task, head in self.heads.items() if head.groups is None and not head.apart}
        own = {task: self.body.scores_of_layer(layer, features) for task, layer in near.items()}
        apart = {task: head for task, head in self.heads.items() if head.apart}
        missing = {task: features.new_full((len(features), len(head.in_layer().weight)), torch.nan) for task, head in apart.items()}
        return self.body.with_derived(missing | own)

    def sample_features(self) -> Tensor:
        """Return the features (2, d), in inference mode, of the two synthetic examples that the network was inspected with."""
        self.mode_(False)
        with torch.no_grad():
            return self.feature_batch(self.sample)

    def set_rows_(self, layer: str, weight: np.ndarray, *, bias: np.ndarray) -> bool:
        """Set the weights of a linear layer. The two rows of a binary head are converted to the single row of its layer.

        Args:
            layer: name of the layer.
            weight: (C, d).
            bias: (C,).

        Returns:
            False if the layer cannot hold them; nothing is changed then.
        """
        one = self.body.is_binary(layer) and len(weight) == 2
        weight, bias = one_row(weight, bias) if one else (weight, bias)
        return self.body.set_layer_rows_(layer, weight, bias=bias)

    @takes_paths
    @own_state()
    def save(self, folder: str | Path) -> Path:
        """Save the network with its class names and preprocessing; `regraft.load(folder)` opens it again.

        Args:
            folder: created if it does not exist. A network saved there before is replaced atomically: the folder holds the old or the
                new one even after a crash. Files that regraft wrote for the old one are removed; all other files stay.

        Returns:
            The folder.

        Example:
            >>> regraft.load(net.save("kept"), architecture=lambda: module).classes
            ('ant', 'bee', 'cat')
        """
        folder = Path(folder)
        with replacing(folder) as staged:
            write_network(self, staged)
        return folder

    @takes_paths
    @own_state()
    def export(  # noqa: PLR0913  # over the limit: the options of every format
        self,
        path: str | Path,
        *,
        condition: str | None = None,
        preprocessing: bool = False,
        pmml_version: str | None = None,
        columns: Sequence[str] | None = None,
        target: str | None = None,
        what: str | None = None,
        weights_format: str | None = None,
    ) -> Path:
        """Write one file that works without regraft.

        Args:
            path: the ending sets the format. `.onnx`: logits and probabilities of every head, with class names and preprocessing as
                metadata, for ONNX Runtime and others. `.pmml`: dense layers over numeric columns, for Weka, KNIME and others. `.keras` for
                a Keras network, or `.h5`; its weights alone: `.weights.h5`. `.pt2`: an exported program of PyTorch.
            condition: for a network with codes: write the plain network for this condition, with its code folded into the weights. Default:
                the file takes the condition as a further input, if its format can.
            preprocessing: for `.onnx`: make it part of the graph, which then takes images (N, H, W, C) as uint8 of any size, or raw rows
                of numbers. It is always part of `.pmml`.
            pmml_version: "3.2", "4.1" or "4.4" (default).
            columns: for `.pmml`: the names of the inputs. Default: x1, x2, …, or feature1, feature2, … for the head alone.
            target: for `.pmml`: the name of the predicted column. Default: "class", or "value" for a regression.
            what: for `.pmml`: "head" for the head alone, on its features, or "network" (default).
            weights_format: for `.h5`: "keras2", the layout that Keras 2 and other tools read, or "keras3", that of Keras 3 itself. Default:
                "keras2" for a network; "keras3" for `.weights.h5`, which Keras 3 opens in no other layout.

        Returns:
            The path.

        Raises:
            NetworkError: if the path has another ending, or the network cannot be written in that format; nothing is written then.
            MissingExtraError: if the libraries for `.onnx` are not installed.
            SettingError: if an option belongs to another ending, or its value is unknown.

        Example:
            >>> net.export("net.pt2").name
            'net.pt2'
        """
        aim = Path(path)
        if not aim.parent.is_dir():
            raise NetworkError(f"The folder {printable(aim.parent)!r} is not there; expected one for {aim.name!r}. Make it first.")
        ending = aim.suffix.lower()
        of_pmml: dict[str, Any] = {"pmml_version": pmml_version, "columns": columns, "target": target, "what": what}
        given: dict[str, dict[str, Any]] = {".onnx": {"preprocessing": preprocessing or None}, ".pmml": of_pmml}
        given[".h5"] = {"weights_format": weights_format}
        for form, options in given.items():
            wrong = [name for name, value in options.items() if value is not None and form != ending]
            if wrong:
                said = f"{wrong[0]}={options[wrong[0]]!r}"
                raise SettingError(f"{said} goes with a path that ends in {form!r}; received {printable(aim.name)!r}.")
        if weights_format not in (None, *_LAYOUTS):
            raise SettingError(f"weights_format={printable(weights_format)!r} is unknown{near_names(str(weights_format), _LAYOUTS)}")
        if condition is not None:
            plain = self.folded(condition)
            plain.preprocessing = self.preprocessing.without_conditions()
            return plain.export(aim, preprocessing=preprocessing, weights_format=weights_format, **of_pmml)
        if ending == ".onnx":
            return write_onnx(self, aim, preprocessing=preprocessing)
        if ending == ".pmml":
            return write_pmml(self, aim, version=pmml_version or "4.4", what=what or "network", columns=columns, target=target)
        if ending not in self.kind.own_endings:
            raise NetworkError(
                f"Received the path {str(path)!r}; a network of the family {self.family!r} is written to a file that ends in "
                f"{', '.join(map(repr, self.kind.own_endings))}, '.onnx' or '.pmml'."
                + (" Convert it first: net.to('keras')." if ending in (".keras", ".h5") else "")
            )
        self.body.refuse_change("exported")
        self.refuse_training_form()
        with writable(aim.parent, error=NetworkError):
            if ending != _PROGRAM or self.family == "torch" or any(head.groups for head in self.heads.values()):
                return self.kind.export_own(self.body, aim, weights_format=weights_format)
            try:  # as PyTorch's layers, like an ONNX file
                made: Network = self.kind.becomes["torch"](self, "as it is")
                return made.kind.export_own(made.body, aim)
            except NetworkError as reason:
                try:
                    return self.kind.export_own(self.body, aim)
                except NetworkError as problem:
                    raise NetworkError(f"{problem} As layers of PyTorch: {reason}") from problem

    def to(self, family: str) -> Network:
        """Convert the network to another family, with heads, class names and preprocessing.

        Args:
            family: "torch" or "keras"; "keras:NAME" for the network of that name in keras.applications, if it computes the same function.

        Returns:
            The converted network; its account gives the difference of the outputs on random inputs. A copy if the family is the same.

        Raises:
            NetworkError: if the family is unknown, or a layer has no counterpart in it; the message names the layer.
            MissingExtraError: if Keras is requested and not installed.

        Example:
            >>> net.to("torch").family
            'torch'
        """
        kind, _, name = family.partition(":")
        if family == self.family:
            return self.copy()
        if kind not in self.kind.becomes or (name and kind != "keras"):
            raise NetworkError(f"The family {printable(family)!r} is unknown{near_names(family, self.kind.becomes)}")
        made: Network = self.kind.becomes[kind](self, name)
        return made
