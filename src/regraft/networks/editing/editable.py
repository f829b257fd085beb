"""Edits of a network, the same for every family: this module checks, applies and records them.

A family applies an edit to its body (`Family.edit`) and folds the added layers into the weights (`Family.unedit`).
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError, near_names
from ...words import counted
from ..edits import (
    FORMS,
    TRAINING,
    AddedBiases,
    Channels,
    Codes,
    Columns,
    Cut,
    Edit,
    FoldedCode,
    InputLayer,
    LowRank,
    Rows,
    ScaleShift,
    Stack,
    Taps,
)
from ..family import Body
from ..parts.coding import Coding
from ..parts.head import Head
from ..parts.record import Record
from ..parts.structure import Point
from ..parts.taps import INPUT, Tap, checked_points
from ..samples import sample_facts


class Editable(Record):
    """The edits of a network. Each operation returns a new network and leaves this one unchanged."""

    def with_body(self, body: Body) -> Self:
        """Return a copy of this network around a changed `body`, with the body's account added."""
        twin = copy.copy(self)
        twin.body, twin.origin = body, dict(self.origin)
        twin.account = self.account.joined(body.account)
        return twin

    def unedited(self, edit: Edit, *, code: Tensor | None = None) -> tuple[Self, tuple[str, ...]]:
        """Return a copy with the layers that `edit` added folded into the weights, and the names of layers that gained a bias.
        For `Codes`, `code` (size,) replaces the code of every example."""
        body, biased = self.kind.unedit(self.body, edit, code=code)
        return self.with_body(body), biased

    def edited(self, edit: Edit, *, head: Head | None = None, seed: int = 0) -> Self:
        """Return a copy with one more edit."""
        self.body.refuse_change(edit.done)
        if isinstance(edit, FoldedCode):
            body = self.kind.edit(self.body, AddedBiases(edit.biased), head=None, seed=seed)
            body, _ = self.kind.unedit(body, Codes(cast(Coding, self.coding)), code=torch.zeros_like(self.body.code_table()[0]))
        else:
            if isinstance(edit, Rows | Stack) and head is None:  # the first head may have been renamed since the edit was noted
                head = edit.empty(edit.task if not self.heads or (isinstance(edit, Rows) and edit.branch) else self.head.task)
            if head is not None and (self.heads or isinstance(edit, Stack)):
                old = self.heads.get(head.task, self.head) if isinstance(edit, Rows) else self.head
                there, verb = (len(old.in_layer().weight), "gives") if isinstance(edit, Stack) else (old.features, "reads")
                if head.features != there:
                    raise NetworkError(
                        f"The class weights have {counted(head.features, 'feature')}; the head {old.layer!r} {verb} {there}. "
                        "Give weights of that length."
                    )
            body = self.kind.edit(self.body, edit, head=head, seed=seed)
        twin = self.with_body(body)
        twin.origin.setdefault("sample", sample_facts(self.sample))  # of the module before any edit
        if isinstance(edit, Stack | Cut | Taps | Columns):
            twin.statistics = twin.unknown = None  # of other features
        twin.edits = (*self.edits, Codes(cast(Coding, twin.coding)) if isinstance(edit, Codes) else edit)
        return twin

    def with_head(self, head: Head) -> Self:
        """Return a copy with `head` in place of the head of the same task; its class weights are multiplied in the groups `head.parts`.
        A network without a head gets one on its pooled output. A new task becomes a branch on the same features. A derived head adds no
        layer."""
        self.body.refuse_change(Rows.done)
        if head.parts and sum(head.parts) != len(head.weight):
            raise NetworkError(f"Received parts={head.parts} for {len(head.weight)} classes; expected sizes that add up to their number.")
        if head.groups is not None:
            twin = self.copy()
            twin.heads[head.task] = head
            return twin
        return self.edited(Rows.of(head, branch=bool(self.heads) and head.task != self.head.task), head=head)

    def with_stack(self, head: Head, activation: str, *, dropout: float = 0.0) -> Self:
        """Return a copy with a new head, class weights (M, C), that reads the C activated logits of the first head as its features."""
        return self.edited(Stack.of(head, between=activation, dropout=dropout or None), head=head)

    def ended(self, block: str) -> Self:
        """Return a copy that ends at the output of the named block; later layers are removed, usually including the head."""
        self.body.refuse_change(Cut.done)  # a program has no blocks to name
        names = [known.name for known in self.blocks]
        if block not in names:
            raise NetworkError(f"The network has no block {block!r}{near_names(block, names)}")
        return self.edited(Cut(block))

    def tapped(self, points: Sequence[Tap]) -> Self:
        """Return a copy without a head whose output (N, D) concatenates the pooled outputs of several blocks.
        Outputs that are not real numbers per example (token ids) are skipped; `tap_slices` lists the ones that are present. Layers that run
        only after the last of the blocks are removed."""
        self.body.refuse_change(Taps.done)
        return self.edited(Taps(checked_points(points, [block.name for block in self.blocks])))

    def with_channels(self, count: int) -> Self:
        """Return a copy that takes images (or signals) with `count` channels, by adapting the weights of the first convolution.
        A single channel gets the sum over the old ones. Other counts repeat the old ones cyclically, scaled by old / new count. The account
        records this."""
        if count < 1:
            raise NetworkError(f"Received {count} channels; expected 1 or more.")
        if any(part.block == INPUT for part in self.body.tap_slices):
            raise NetworkError(
                f"Received channels={count} for a network of which the input is read beside its blocks; give channels= when it is loaded."
            )
        return self.edited(Channels(count))

    def with_columns(self, count: int) -> Self:
        """Return a copy whose head also reads `count` extra numbers per example. Their weights start at zero, so the logits do not change.
        Its batches are named tensors: "columns" (N, count) and the network's own inputs ("inputs" if it takes one unnamed tensor)."""
        if len(self.heads) != 1 or count < 1:
            heads = ", ".join(map(repr, self.heads)) or "none"
            raise NetworkError(
                f"Received {counted(count, 'column')} for a network with {counted(len(self.heads), 'head')} ({heads}); expected one "
                "head, and 1 column or more."
            )
        return self.edited(Columns(count))

    def adjusted(self, points: Sequence[Point], *, form: str) -> Self:
        """Return a copy in training form with a per-channel scale and shift at these hook points, starting as the identity."""
        self.body.refuse_change(ScaleShift.done)  # nor hook points
        self.refuse_training_form()
        if form not in FORMS:
            raise NetworkError(f"form={form!r} is unknown{near_names(form, FORMS)}")
        if not points:
            raise NetworkError(f"form={form!r} received no points; expected some of points(): this network has {len(self.points())}.")
        return self.edited(ScaleShift(form, tuple(point.name for point in points)))

    def low_rank(self, rank: int, *, alpha: float, layers: Collection[str], seed: int = 0) -> Self:
        """Return a copy in training form with W + (alpha / rank) B A in place of W in these layers, B = 0; `settled` adds it to W."""
        self.refuse_training_form()
        if rank < 1 or not alpha > 0:
            raise NetworkError(f"rank={rank}, alpha={alpha}: expected a rank of 1 or more and an alpha above 0.")
        if not layers:
            raise NetworkError("layers=() leaves nothing to change by low-rank matrices; expected the names of linear layers.")
        return self.edited(LowRank(rank, float(alpha), tuple(layers)), seed=seed)

    def refuse_training_form(self) -> None:
        """Raise if the network is in the training form that `adjusted` and `low_rank` return."""
        if any(isinstance(edit, TRAINING) for edit in self.edits):
            raise NetworkError("The network is in its training form; expected a plain one. Change or save what settled() returns.")

    def settled(self) -> Self:
        """Return a copy with the additions of `adjusted` and `low_rank` folded into the weights, which restores the architecture."""
        training = [edit for edit in self.edits if isinstance(edit, TRAINING)]
        twin = self if training else self.copy()
        for edit in training:
            twin, biased = twin.unedited(edit)
            twin.edits = (*(one for one in twin.edits if one is not edit), *([AddedBiases(biased)] if biased else []))
        return twin

    def with_entrance(self) -> Self:
        """Return a copy with a permanent linear layer over the input features (channels), which starts as the identity."""
        return self.edited(InputLayer())

    def coded(self, coding: Coding, *, seed: int = 0) -> Self:
        """Return a copy that takes a condition for each example: named inputs with "condition", (N,) row numbers of its table of codes.
        The logits are bit-identical to those of this network: codes start small and random, and the weights that read them at zero."""
        if self.coding is not None:
            raise NetworkError(
                f"The network takes codes already, of {counted(len(self.coding.conditions), 'condition')}; use recoded for other ones."
            )
        coding.refuse_unfit(self.sample)
        return self.edited(Codes(coding), seed=seed)

    def recoded(self, conditions: Sequence[str], table: np.ndarray) -> Self:
        """Return a copy with these K conditions and this table of codes, (1 + K, size); everything else stays bit-identical."""
        values, expected = np.asarray(table, np.float32), (1 + len(conditions), self.body.code_table().shape[1])
        wrong, names = int((~np.isfinite(values)).sum()), set(conditions)
        if values.shape != expected or len(names) != len(conditions) or wrong:
            raise NetworkError(
                f"Received a table of codes of shape {values.shape} with {counted(wrong, 'number')} that are not finite, for {len(names)} "
                f"different conditions; expected finite numbers of shape {expected}: the mean code, then one row each."
            )
        twin = self.copy()
        twin.body.put_codes_(values)
        twin.coding = replace(cast(Coding, self.coding), conditions=tuple(conditions))
        twin.edits = tuple(Codes(twin.coding) if isinstance(edit, Codes) else edit for edit in self.edits)
        return twin

    def folded(self, condition: str) -> Self:
        """Return a copy without the input "condition": the code of a known condition (or "mean") is folded into the biases."""
        table, coding = self.body.code_table().detach(), cast(Coding, self.coding)
        twin, biased = self.unedited(Codes(coding), code=table[coding.row(condition)].clone())
        twin.edits = (*self.edits, FoldedCode(biased))
        return twin
