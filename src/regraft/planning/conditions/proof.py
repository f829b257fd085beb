"""Account of new codes: what was fitted, and the proof that nothing else has changed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np

from ...data.items import listed
from ...errors import NetworkError
from ...networks.account import Account
from ...networks.contract import Network
from ...networks.parts.code_files import code_digest, shared_state
from .fitting import Fitted, Fitting


def proved(known: Network, table: np.ndarray, *, digest: str, changed: Collection[str]) -> Account:
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
            f"bit-equal before and after: {count} parameters and {len(compared) - count} buffers ({numbers:,} numbers, digest {digest}), "
            f"the mean code and {len(rows) - 1} other codes",
        ),
        figures={"parameters_equal": float(count), "buffers_equal": float(len(compared) - count), "codes_equal": float(len(rows))},
    )


def told(fitted: Fitted, counts: Mapping[str, int], *, fitting: Fitting, proof: Account) -> Account:
    """Return the account of the fitted codes. `counts`: condition -> number of examples, in the order of the codes."""
    ways = {"pseudo": "labels that the network guessed", "entropy": "the entropy of its predictions"}
    how = f" without their labels (unsupervised: {ways[fitting.unsupervised]})" if fitting.unsupervised else ""
    rule = f"fitted, unsupervised ({fitting.unsupervised})" if fitting.unsupervised else "fitted"
    idle = (fitted.before == fitted.after) & np.isfinite(fitted.weights)
    lines = [
        f"the code of {name!r} was fitted to {count} examples{how}: loss {fitted.before[row]:.4g} -> {fitted.after[row]:.4g}; "
        f"{_prior_words(float(fitted.weights[row]), fitting)}{'; no better code was found' if idle[row] else ''}"
        for row, (name, count) in enumerate(counts.items())
    ]
    more = len(lines) - 20
    notes = (*lines[:20], *([f"and {more} further conditions: {listed(list(counts)[20:])}"] if more > 0 else []), *proof.notes)
    figures = {
        "conditions": float(len(counts)),
        "loss_before": float(fitted.before.mean()),
        "loss_after": float(fitted.after.mean()),
        "code_evaluations": float(fitted.evaluations),
        **proof.figures,
    }
    return Account({"new": [f"code {name}" for name in counts]}, {f"code {name}": rule for name in counts}, notes, figures)


def _prior_words(weight: float, fitting: Fitting) -> str:
    if math.isinf(weight):
        return "examples left out in turn were best told with the mean code, which was kept"
    if not weight:
        return "no prior" if fitting.prior is None or fitting.prior == 0 else "no prior: the network has not learned two codes or more"
    return f"prior weight {weight:g}"
