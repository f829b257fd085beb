"""Adding conditions to a network, and folding it to one condition. Only codes are fitted; the account proves that the rest is unchanged."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...data import Dataset, PreparedData, preprocessing_from_dict, with_conditions
from ...data.items import listed
from ...errors import NetworkError, SettingError, checked_call, near_names
from ...methods.prior import code_prior
from ...networks.account import Account
from ...networks.folders import FACTS_FILE, read_facts
from ...networks.network import Coding, Network
from ...networks.parts.code_files import code_digest, shared_state, write_code
from ...networks.parts.coding import INPUT
from ...words import counted
from ..preparing import preprocessing_for
from ..setup import usable_device
from .fitting import FitSettings, FittedCodes, fit_codes, rows_needed
from .items import CodedItems
from .losses import CodeLosses
from .matching import aims_of, condition_groups, scaled, with_heads_of


@dataclass(frozen=True)
class ConditionOptions:
    """Arguments of the fit of new conditions."""

    names: str | Sequence[str] | None = None  # one condition or several; None: all conditions of the data
    input: str | None = None  # name of the network's input that takes the code, for a network without learned codes
    again: bool = False  # refit conditions that are already known, instead of refusing them
    device: str | None = None  # device of the network; None: the fastest one available


def fit_condition(net: Network, data: Dataset, *, asked: ConditionOptions, fitting: FitSettings) -> Network:
    """Return a copy of a network with codes for the asked conditions of labelled examples (unlabelled for an unsupervised fit).
    Its account records what was fitted, and that nothing else has changed."""
    net = _coded(net, asked.input)
    coding = _coding(net)
    groups = condition_groups(data, asked.names, known=() if asked.again else coding.conditions)
    counts, chosen = [len(part) for part in groups.values()], np.concatenate(list(groups.values()))
    kept = with_heads_of(net, data.subset(chosen), supervised=fitting.unsupervised is None)
    digest, table = code_digest(net), net.body.code_table().detach().cpu().numpy().copy()
    learned = [coding.row(one) for one in coding.learned]
    without = fitting.prior is None or (fitting.prior == "auto" and len(learned) < 2)
    prior = None if without else code_prior(table[learned].astype(np.float64), table[0])  # around the mean code
    rows = rows_needed(counts, choosing=prior is not None and fitting.prior == "auto")
    items = PreparedData(kept, with_conditions(preprocessing_for(net, kept), coding.conditions, lenient=True))
    blank = net.recoded([f"row {row}" for row in range(rows)], np.zeros((1 + rows, coding.size), np.float32))
    held = CodedItems(blank, items, device=usable_device(asked.device))
    members = np.split(np.arange(len(chosen)), np.cumsum(counts)[:-1])
    losses, start = _started(held, kept, fitting=fitting, table=table, members=members)
    fitted = fit_codes(losses, fitting, prior=prior, start=start)
    known = net.recoded(*coding.joined(table, dict(zip(groups, fitted.codes, strict=True))))
    known.preprocessing = with_conditions(items.preprocessing, _coding(known).conditions)
    proof = _proved(known, table, digest=digest, changed=groups)
    account = _told(fitted, {name: len(part) for name, part in groups.items()}, fitting=fitting, proof=proof)
    account = replace(account, figures={**account.figures, "items_through_once": float(held.counter.items)})
    known.account = net.account.joined(account)
    return known


def saved_to(known: Network, folder: str | Path, *, conditions: Sequence[str]) -> list[Path]:
    """Write the codes of some conditions to the folder of the network, or save the whole network if the folder has none.
    Return the written paths. Raises `NetworkError` if the folder holds another network."""
    where = Path(folder)
    if not (where / FACTS_FILE).is_file():
        return [known.save(where)]
    digest = code_digest(known)
    found = read_facts(where).get("digest")
    if found != digest:
        raise NetworkError(
            f"{str(where)!r} holds another network: its digest is {found!r}, that of this one {digest!r}. Choose the folder that the "
            "network was loaded from, or a new one."
        )
    return [write_code(known, where, condition=name, digest=digest) for name in conditions]


def _coding(net: Network) -> Coding:
    if net.coding is None:
        raise NetworkError(
            f"This network ({net.family}, {counted(len(net.blocks), 'block')}) takes no codes of conditions. Train some on data of many "
            "conditions, regraft.adapt(net, data, strategy='codes'), or name its input that is the code, input='Z', where it has one "
            "beside its examples."
        )
    return net.coding


def _coded(net: Network, name: str | None) -> Network:
    """Return the network with codes. `name`: input that takes the code; None: the network has codes already."""
    if name is None or (net.coding is not None and net.coding.into == f"{INPUT}{name}"):
        return net
    inputs = net.sample if isinstance(net.sample, dict) else {}
    if net.coding is not None:
        raise SettingError(f"input={name!r}: this network takes its codes into {net.coding.into!r} already. Leave input= out.")
    if name not in inputs:
        raise SettingError(f"input={name!r}: the network has no input of that name{near_names(name, inputs) or '; it takes one tensor.'}")
    rest = [other for other in inputs if other != name]
    if not inputs[name].is_floating_point() or not rest:
        raise SettingError(f"input={name!r} cannot be a code: expected real numbers, {inputs[name].dtype} given, beside another input.")
    coded = net.coded(Coding(int(np.prod(inputs[name].shape[1:])), (), f"{INPUT}{name}"))
    coded.preprocessing = with_conditions(preprocessing_from_dict(net.preprocessing.to_dict()), (), inputs=rest[0])
    return coded


def _started(
    held: CodedItems, data: Dataset, *, fitting: FitSettings, table: np.ndarray, members: Sequence[np.ndarray]
) -> tuple[CodeLosses, np.ndarray]:
    """Return the losses to minimise, and the initial code of each condition, (V, M)."""
    count = len(members)
    named = isinstance(fitting.start, str)
    code = np.asarray(fitting.start, np.float64) if not named else np.zeros_like(table[0]) if fitting.start == "zero" else table[0]
    if code.shape != table[0].shape or not np.isfinite(code).all():
        raise SettingError(
            f"start has the shape {code.shape}; expected {counted(len(table[0]), 'finite number')}, as a code of this network has."
        )
    start = np.tile(code, (count, 1)).astype(np.float64)
    mean = np.tile(table[0], (count, 1)).astype(np.float64)
    aims = aims_of(held, data, how=fitting.unsupervised, codes=start, members=members)
    losses = CodeLosses(held, scaled(held, aims, codes=mean, members=members), members=members)
    if named and fitting.start == "nearest":
        found = [[part.mean() for part in losses.each(np.tile(code, (count, 1)).astype(np.float64), members)] for code in table]
        start = table[np.argmin(found, axis=0)].astype(np.float64)
    return losses, start


@checked_call
def fold(net: Network, condition: str) -> Network:
    """Return a network for one condition, with its code folded into the biases.

    Args:
        net: network with codes; it is not changed.
        condition: a known condition, or "mean" for the mean code.

    Returns:
        A plain network without codes. It takes examples without conditions, can be exported, and is as fast as before it had codes.

    Raises:
        NetworkError: if the network takes no codes, or does not know the condition; the message lists the known ones.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> rooms = np.where(np.arange(60) % 2, "hall", "yard")
        >>> coded = regraft.adapt(net, regraft.read((rows, labels), condition=rooms), strategy="codes", epochs=2, seed=0).network
        >>> plain = regraft.fold(coded, "hall")
        >>> same = plain.predict(rows).probabilities - coded.predict(rows, condition="hall").probabilities
        >>> bool(abs(same).max() < 1e-5)
        True
    """
    plain = net.folded(condition)
    plain.preprocessing = net.preprocessing.without_conditions()
    plain.account = net.account.joined(Account(notes=(f"the code of {condition!r} was folded into the biases",)))
    return plain


def _proved(known: Network, table: np.ndarray, *, digest: str, changed: Collection[str]) -> Account:
    """Return the account that the network with new codes is bit-identical to the original one, except for these codes.
    `table`: (1 + K, M) original codes; `digest`: of the original network; `changed`: fitted conditions. Raises `NetworkError` if anything
    else differs."""
    after, parameters = code_digest(known), {name for held in known.layer_parameters().values() for name in held}
    own = known.body.code_table()
    compared = shared_state(known)
    now, rows = own.detach().cpu().numpy(), [0]
    if known.coding is not None:
        rows += [row for row, name in enumerate(known.coding.conditions, start=1) if row < len(table) and name not in changed]
    if after != digest or not np.array_equal(now[rows], table[rows]):
        raise NetworkError(
            f"The network changed while codes were fitted ({digest} before, {after} after); nothing is handed back. This is a fault of "
            "regraft: report it with the network's summary."
        )
    count = sum(name in parameters for name in compared)
    numbers = sum(tensor.numel() for tensor in compared.values())
    return Account(
        notes=(
            f"bit-equal before and after: {counted(count, 'parameter')} and {counted(len(compared) - count, 'buffer')} "
            f"({counted(numbers, 'number')}, digest {digest}), the mean code and {counted(len(rows) - 1, 'other code')}",
        ),
        figures={"parameters_equal": float(count), "buffers_equal": float(len(compared) - count), "codes_equal": float(len(rows))},
    )


def _told(fitted: FittedCodes, counts: Mapping[str, int], *, fitting: FitSettings, proof: Account) -> Account:
    """Return the account of the fitted codes. `counts`: condition -> number of examples, in the order of the codes."""
    ways = {"pseudo": "labels that the network guessed", "entropy": "the entropy of its predictions"}
    how = f" without their labels (unsupervised: {ways[fitting.unsupervised]})" if fitting.unsupervised else ""
    rule = f"fitted, unsupervised ({fitting.unsupervised})" if fitting.unsupervised else "fitted"
    idle = (fitted.before == fitted.after) & np.isfinite(fitted.weights)
    lines = [
        f"the code of {name!r} was fitted to {counted(count, 'example')}{how}: loss {fitted.before[row]:.4g} -> {fitted.after[row]:.4g}; "
        f"{_prior_words(float(fitted.weights[row]), fitting)}{'; no better code was found' if idle[row] else ''}"
        for row, (name, count) in enumerate(counts.items())
    ]
    more = len(lines) - 20
    notes = (*lines[:20], *([f"and {counted(more, 'further condition')}: {listed(list(counts)[20:])}"] if more > 0 else []), *proof.notes)
    figures = {
        "conditions": float(len(counts)),
        "loss_before": float(fitted.before.mean()),
        "loss_after": float(fitted.after.mean()),
        "code_evaluations": float(fitted.evaluations),
        **proof.figures,
    }
    return Account({"new": [f"code {name}" for name in counts]}, {f"code {name}": rule for name in counts}, notes, figures)


def _prior_words(weight: float, fitting: FitSettings) -> str:
    if math.isinf(weight):
        return "examples left out in turn were best told with the mean code, which was kept"
    if not weight:
        return "no prior" if fitting.prior is None or fitting.prior == 0 else "no prior: the network has not learned two codes or more"
    return f"prior weight {weight:g}"
