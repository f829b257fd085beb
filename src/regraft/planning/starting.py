"""Start of the heads from a closed-form probe on features, before training."""

import numpy as np
import torch
from torch import Tensor

from ..files.room import taken
from ..heads.starts import aligned_rows, imprinted_rows
from ..probes import fit_ridge
from ..training import Feed, all_logits
from ..words import counted
from .choosing.solving import LARGEST, drawn, held_out_loss, named_probe
from .setup import ClosedFormHead, Log, Setup


def solve_heads_(setup: Setup, log: Log, *, feed: Feed, features: Tensor, scored: Feed | None = None) -> dict[str, ClosedFormHead]:
    """Solve the closed-form probe of each task on the heads' inputs `features` (N, d), and start the heads in place as the plan says.
    With start="auto", a head takes the probe's class weights if its leave-one-out loss is lower than the loss of the present ones, some of
    which may have been carried over by name. Both losses are on examples that the weights have not seen. With "probe" and "imprint", only
    the class weights of new classes are filled in. Returns task of the data -> probe."""
    asked = setup.plan.start
    if setup.settings.epochs == 0 and asked not in ("probe", "imprint"):
        return {}
    fit = drawn(setup.parts.training, seed=setup.plan.seed)
    before = all_logits(setup.network, scored or feed, indices=fit) if asked == "auto" else {}
    found = solved_heads_of(setup, features)
    for name, part in zip(setup.tasks, setup.objective().parts, strict=True):
        known = part.known(fit).numpy()
        if name not in setup.open_tasks:
            continue
        solved = found.get(name)
        if solved is not None and setup.plan.probe not in ("auto", "ridge"):
            data = setup.data_of(name)
            probe = named_probe(setup, name, rows=solved.rows, table=features[solved.rows].numpy())
            solved = ClosedFormHead(probe.softened(data.targets[solved.rows], kind=data.task), solved.rows)
        if asked == "auto" and solved is not None:
            present = part.loss(torch.from_numpy(before[part.task][known]), part.targets[solved.rows])
            if held_out_loss(setup, name, probe=solved.probe, rows=solved.rows) < float(present):
                start_from_(setup, part.task, solved=solved, feed=feed, features=features)
        elif asked in ("probe", "imprint"):
            _fill_(setup, log, name=name, solved=solved, rows=fit[known], features=features)
    return found


def solved_heads_of(setup: Setup, features: Tensor) -> dict[str, ClosedFormHead]:
    """Return the closed-form probe of each task of a `setup` on the heads' inputs `features` (N, d); the heads do not change."""
    fit, found = drawn(setup.parts.training, seed=setup.plan.seed), dict[str, ClosedFormHead]()
    for name, part in zip(setup.tasks, setup.objective().parts, strict=True):
        rows = fit[part.known(fit).numpy()]
        if len(rows) < 3 or min(len(rows), features.shape[1]) > LARGEST:
            continue
        data = setup.data_of(name)
        probe = fit_ridge(taken(features.numpy(), rows), data.targets[rows], kind=data.task, classes=len(data.classes))
        found[name] = ClosedFormHead(probe.softened(data.targets[rows], kind=data.task), rows)
    return found


def start_from_(setup: Setup, task: str, *, solved: ClosedFormHead, feed: Feed, features: Tensor) -> bool:
    """Put the probe's class weights into a head in place; return False, without a change, if the network's logits differ.
    If a ReLU follows the head (SqueezeNet), all logits are shifted by the same amount to keep it open. A softmax is not affected.
    `features` (N, d) are the head's inputs."""
    network, head, probe, few = setup.network, setup.network.heads[task], solved.probe, solved.rows[:64]
    rows = network.rows(head.layer)
    expected = features[few].numpy() @ probe.weight.T + probe.bias
    scale = float(np.abs(expected).max()) + 1e-6
    for shift in (0.0, 2 * scale, 8 * scale, 32 * scale) if head.kind == "classification" else (0.0,):
        if not network.set_rows_(head.layer, probe.weight, bias=probe.bias + shift):
            return False
        real = all_logits(network, feed, indices=few)[task] - shift
        if np.allclose(real, expected, rtol=1e-2, atol=1e-2 * scale):
            return True
    network.set_rows_(head.layer, rows[0], bias=rows[1])
    return False


def _fill_(  # over the limit: what new rows are made of
    setup: Setup, log: Log, *, name: str, solved: ClosedFormHead | None, rows: np.ndarray, features: Tensor
) -> None:
    """Fill in a head's class weights of new classes from the probe, or from the mean directions of their classes."""
    task = setup.tasks[name]
    head, new = setup.network.heads[task], setup.new_rows[task]
    kept = np.setdiff1d(np.arange(len(head.weight)), new)
    carried = (head.weight[kept], head.bias[kept])
    made = None
    if setup.plan.start == "imprint":
        targets = setup.data_of(name).targets[rows]
        inside = np.isin(targets, new)
        shown = features[rows[inside]].numpy()
        made = imprinted_rows(shown, np.searchsorted(new, targets[inside]), count=len(new), kept=carried)
    elif setup.plan.start == "probe" and solved is not None:
        made = aligned_rows(solved.probe.weight[new], solved.probe.bias[new], kept=carried)
    weight, bias = head.weight.copy(), head.bias.copy()
    if made is not None:
        weight[new], bias[new] = made
    if len(new) and (made is None or not setup.network.set_rows_(head.layer, weight, bias=bias)):
        why = (
            "the head has no place for them"
            if made is not None
            else f"{counted(len(rows), 'example')} with {counted(features.shape[1], 'feature')}"
        )
        log.notes.append(f"New class weights of {name!r} start at zero, not as {setup.plan.start!r}: {why}.")
