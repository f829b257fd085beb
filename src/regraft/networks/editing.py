"""What is changed in a network, whatever its family: every edit is checked, carried out and noted here.

A family says how one edit changes a body of its own (`Family.edit`) and how what it added is folded into the weights (`Family.unedit`).
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import NetworkError, near_names
from .edits import FORMS, TRAINING, Biased, Channels, Codes, Columns, Cut, Edit, Folded, InputLayer, LowRank, Rows, ScaleShift, Stack, Taps
from .family import Body
from .parts.coding import Coding
from .parts.head import Head
from .parts.points import Point
from .parts.record import Record
from .parts.taps import Tap, checked_points, refuse_read_input
from .samples import sample_facts
from .torch.programs import refuse_program

__all__ = ["Editable"]


class Editable(Record):
    """A network as far as edits are concerned. Each operation returns a new network and leaves this one as it is."""

    def with_body(self, body: Body) -> Self:
        """Return a network around a changed `body`, with all else that this one has."""
        twin = copy.copy(self)
        twin.body, twin.origin = body, dict(self.origin)
        twin.account = self.account.joined(body.account)
        return twin

    def unedited(self, edit: Edit, *, code: Tensor | None = None) -> tuple[Self, tuple[str, ...]]:
        """Return a copy in which what an edit has added is folded into the weights, and the names of layers that got a bias for it.

        `code`: (size,), which is to stand for that of every item, of a `Codes`.
        """
        body, biased = self.kind.unedit(self.body, edit, code=code)
        return self.with_body(body), biased

    def edited(self, edit: Edit, *, head: Head | None = None, seed: int = 0) -> Self:
        """Return a copy with one more edit."""
        refuse_program(self.origin, edit.done)
        if isinstance(edit, Folded):
            body = self.kind.edit(self.body, Biased(edit.biased), head=None, seed=seed)
            body, _ = self.kind.unedit(body, Codes(cast(Coding, self.coding)), code=torch.zeros_like(self.code_table()[0]))
        else:
            if isinstance(edit, Rows | Stack) and head is None:  # the first head may have been renamed since the edit was noted
                head = edit.empty(edit.task if not self.heads or (isinstance(edit, Rows) and edit.branch) else self.head.task)
            body = self.kind.edit(self.body, edit, head=head, seed=seed)
        twin = self.with_body(body)
        twin.origin.setdefault("sample", sample_facts(self.sample))  # of the module before any edit
        twin.edits = (*self.edits, Codes(cast(Coding, twin.coding)) if isinstance(edit, Codes) else edit)
        return twin

    def with_head(self, head: Head) -> Self:
        """Return a copy whose head of that task has these rows, multiplied in the head's parts.

        A network without a head gets one on its pooled output; a task that is not there yet becomes a branch on the same features. A
        derived head is only noted.
        """
        refuse_program(self.origin, Rows.done)
        if head.parts and sum(head.parts) != len(head.weight):
            raise NetworkError(f"Received parts={head.parts} for {len(head.weight)} rows; expected sizes that add up to their number.")
        if head.groups is not None:
            twin = self.copy()
            twin.heads[head.task] = head
            return twin
        old = self.heads.get(head.task, self.head) if self.heads else head
        if old.features != head.features:
            raise NetworkError(
                f"The rows have {head.features} features; the head {old.layer!r} reads {old.features}. Give rows of that length."
            )
        return self.edited(Rows.of(head, branch=bool(self.heads) and head.task != self.head.task), head=head)

    def with_stack(self, head: Head, activation: str, *, dropout: float = 0.0) -> Self:
        """Return a copy with a new head on top of the first head's raw scores, which become features.

        `head`: rows (M, C): the new head reads C activated scores.
        """
        return self.edited(Stack.of(head, between=activation, dropout=dropout or None), head=head)._without_learned()

    def _without_learned(self) -> Self:
        """Return this network, which is new, without what was learned from other features than it has."""
        self.statistics = self.unknown = None
        return self

    def ended(self, block: str) -> Self:
        """Return a copy that ends at the output of the block of that name, without what comes after, and mostly without a head."""
        refuse_program(self.origin, Cut.done)
        names = [known.name for known in self.blocks]
        if block not in names:
            raise NetworkError(f"The network has no block {block!r}{near_names(block, names)}")
        return self.edited(Cut(block))._without_learned()

    def tapped(self, points: Sequence[Tap]) -> Self:
        """Return a copy without a head whose output is one vector (N, D): the pooled outputs of several blocks side by side.

        What gives no real numbers for each item (token ids) is left out; `tap_slices` tells what is there. What runs only after the
        last of the blocks is left out as well.
        """
        refuse_program(self.origin, Taps.done)
        return self.edited(Taps(checked_points(points, [block.name for block in self.blocks])))._without_learned()

    def with_channels(self, count: int) -> Self:
        """Return a copy that takes pictures (or signals) of `count` channels: its first convolution's weights summed or repeated.

        One channel takes the sum over the old ones; more or fewer take them in turn, scaled by old / new count. The account says so.
        """
        refuse_program(self.origin, Channels.done)
        if count < 1:
            raise NetworkError(f"Received {count} channels; expected 1 or more.")
        refuse_read_input(self.tap_slices, f"channels={count}")
        return self.edited(Channels(count))

    def with_columns(self, count: int) -> Self:
        """Return a copy whose head also reads `count` numbers beside each item: new weights are zero, so scores are as before.

        Its batches are named tensors: "columns" (N, count) beside what the network takes ("inputs" where that is one tensor).
        """
        refuse_program(self.origin, Columns.done)
        if len(self.heads) != 1 or count < 1:
            heads = ", ".join(map(repr, self.heads)) or "none"
            raise NetworkError(
                f"Received {count} columns for a network with {len(self.heads)} heads ({heads}); expected one head, and 1 column or more."
            )
        return self.edited(Columns(count))._without_learned()

    def adjusted(self, points: Sequence[Point], *, form: str) -> Self:
        """Return a copy to be trained: the values at these points are scaled and shifted by channel; at first nothing changes."""
        refuse_program(self.origin, ScaleShift.done)
        self.refuse_training_form()
        if form not in FORMS:
            raise NetworkError(f"form={form!r} is unknown{near_names(form, FORMS)}")
        if not points:
            raise NetworkError(f"form={form!r} received no points; expected some of points(): this network has {len(self.points())}.")
        return self.edited(ScaleShift(form, tuple(point.name for point in points)))

    def low_rank(self, rank: int, *, alpha: float, layers: Collection[str], seed: int = 0) -> Self:
        """Return a copy to be trained: W + (alpha / rank) B A in place of W in these layers, B zero; `settled` adds it to W."""
        refuse_program(self.origin, LowRank.done)
        self.refuse_training_form()
        if rank < 1 or not alpha > 0:
            raise NetworkError(f"rank={rank}, alpha={alpha}: expected a rank of 1 or more and an alpha above 0.")
        if not layers:
            raise NetworkError("layers=() leaves nothing to change by low-rank matrices; expected the names of linear layers.")
        return self.edited(LowRank(rank, float(alpha), tuple(layers)), seed=seed)

    def refuse_training_form(self) -> None:
        """Raise if the network holds what `adjusted` or `low_rank` added."""
        if any(isinstance(edit, TRAINING) for edit in self.edits):
            raise NetworkError("The network is in its training form; expected a plain one. Change or save what settled() returns.")

    def settled(self) -> Self:
        """Return a copy with whatever `adjusted` or `low_rank` added folded into the weights: the architecture is as it was before."""
        training = [edit for edit in self.edits if isinstance(edit, TRAINING)]
        twin = self if training else self.copy()
        for edit in training:
            twin, biased = twin.unedited(edit)
            twin.edits = (*(one for one in twin.edits if one is not edit), *([Biased(biased)] if biased else []))
        return twin

    def with_entrance(self) -> Self:
        """Return a copy with a linear layer over the features (channels) before the input, the identity at first; it stays there."""
        return self.edited(InputLayer())

    def coded(self, coding: Coding, *, seed: int = 0) -> Self:
        """Return a copy that takes a condition beside each item: named inputs with "condition", (N,) row numbers of its table of codes.

        The scores are those of the network as it is, to the bit: codes are small and random, what reads them is zero (or adds zero).
        """
        refuse_program(self.origin, Codes.done)
        if self.coding is not None:
            raise NetworkError(f"The network takes codes already, of {len(self.coding.conditions)} conditions; use recoded for other ones.")
        coding.refuse_unfit(self.sample)
        return self.edited(Codes(coding), seed=seed)

    def recoded(self, conditions: Sequence[str], table: np.ndarray) -> Self:
        """Return a copy that knows these K conditions, with another table of codes, (1 + K, size); all else is as it was, to the bit."""
        values, expected = np.asarray(table, np.float32), (1 + len(conditions), self.code_table().shape[1])
        wrong, names = int((~np.isfinite(values)).sum()), set(conditions)
        if values.shape != expected or len(names) != len(conditions) or wrong:
            raise NetworkError(
                f"Received a table of codes of shape {values.shape} with {wrong} numbers that are not finite, for {len(names)} different "
                f"conditions; expected finite numbers of shape {expected}: the mean code, then one row each."
            )
        twin = self.copy()
        twin.body.put_codes_(values)
        twin.coding = replace(cast(Coding, self.coding), conditions=tuple(conditions))
        twin.edits = tuple(Codes(twin.coding) if isinstance(edit, Codes) else edit for edit in self.edits)
        return twin

    def folded(self, condition: str) -> Self:
        """Return a plain network: the code of a known condition (or "mean") folded into the biases, the input "condition" gone."""
        table, coding = self.code_table().detach(), cast(Coding, self.coding)
        twin, biased = self.unedited(Codes(coding), code=table[coding.row(condition)].clone())
        twin.edits = (*self.edits, Folded(biased))
        return twin
