"""The golden file: what today's code computes, to the bit, so that a change of its shape is seen not to change what it does.

    PYTHONPATH=src python scripts/golden.py [--write] [PATTERN]

For four networks of `tests/test_families` × every edit of `tests/edits` × two seeds: hashes of the state, of the account, and of the
scores as edited, stirred (what the edit added is moved away from its start), saved and opened, and folded; for fourteen trainings: plan,
losses and the hash of the final weights. Prints what differs from `tests/golden.json`, or writes it; of all entries, or of those whose
name matches a regular expression ("run: ", ".*, seed 0").

The bits depend on the maker of the processor, for which MKL chooses its products of matrices, on its instructions and on the libraries.
One thread is used, and no instructions beyond AVX2, so that all processors of one maker with AVX2 compute the same bits. Elsewhere, the
numbers are compared within a tolerance: the outputs of the edited networks, not the trainings, in which Adam turns a rounding into a whole
step.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
os.environ |= {
    "KERAS_BACKEND": "torch",
    "OMP_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
sys.path.insert(0, str(ROOT))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import scipy  # noqa: E402
import sklearn  # noqa: E402
import torch  # noqa: E402
from tests import test_families, torch_examples  # noqa: E402
from tests.edits import CONDITIONS, EDITS, batch, outputs, stirred_  # noqa: E402

import regraft  # noqa: E402

FILE = ROOT / "tests" / "golden.json"
SEEDS = (0, 1)
QUICK: dict[str, Any] = {"epochs": 2, "learning_rate": 1e-2, "cache": "memory", "patience": None}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "probe": ("torch", {"strategy": "probe"}),
    "head": ("torch", {"strategy": "head", **QUICK}),
    "partial": ("functional", {"strategy": "partial", "frozen": "norm1", "views": 2, "augment": "light", **QUICK}),
    "full": ("torch", {"strategy": "full", "distill": 0.5, **QUICK}),
    "full of Keras": ("functional", {"strategy": "full", "layer_decay": 0.8, "optimizer": "sgd", **QUICK}),
    "surgical": ("torch", {"strategy": "surgical", "block": "middle", **QUICK}),
    "scratch": ("sequential", {"strategy": "scratch", "dropout": 0.1, **QUICK}),
    "bias": ("subclassed", {"strategy": "bias", **QUICK}),
    "scale and shift": ("torch", {"strategy": "scale_shift", **QUICK}),
    "low rank": ("torch", {"strategy": "lora", "rank": 2, **QUICK}),
    "low rank of Keras": ("functional", {"strategy": "lora", "rank": 2, **QUICK}),
    "input layer": ("functional", {"strategy": "lin", **QUICK}),
    "codes": ("torch", {"strategy": "codes", "size": 3, **QUICK}),
    "numbers": ("numbers", {"strategy": "full", **QUICK}),
}
"""What it is called -> (network, or "numbers" for a regression; settings of `regraft.adapt`)."""


def environment() -> dict[str, str]:
    """Return what the bits depend on beside the code."""
    libraries = {library.__name__: library.__version__ for library in (torch, keras, np, scipy, sklearn)}
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.exists() else []
    maker = next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), platform.processor())
    return {"machine": platform.machine(), "maker": maker, "instructions": torch.backends.cpu.get_cpu_capability(), **libraries}


def digest(*parts: Any) -> str:
    """Return a short hash of tensors, by their bits, and of plain data."""
    made = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            values = part.detach().cpu().contiguous().numpy()
            made.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
        else:
            made.update(json.dumps(part, sort_keys=True, default=str).encode())
    return made.hexdigest()[:16]


def of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    return digest(*(part for name, values in tensors.items() for part in (name, values)))


def of_outputs(net: regraft.Network, inputs: Any) -> list[Any]:
    """Return the hash of a network's outputs, and their weighted sum, which other processors and libraries give within rounding."""
    found = outputs(net, inputs)
    values = torch.cat([part.flatten().double() for part in found.values()]).tolist()
    return [of_tensors(found), math.fsum(value * math.cos(place) for place, value in enumerate(values))]


def of_state(net: regraft.Network) -> str:
    """Return the hash of a network's numbers by their names of format 1, so that stable names are no difference."""
    former = net.body.former_names()
    return of_tensors({former.get(name, name): values for name, values in net.state().items()})


def attempt(work: Callable[[], Any]) -> Any:
    """Return what some work returns, or the kind of the error that it raises."""
    try:
        return work()
    except Exception as error:
        return type(error).__name__


def opened(name: str, seed: int) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """Return a network of the table with weights drawn from a seed, and its examples; layers of Keras are numbered from one."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    net, data = test_families.opened(name)
    if name == "torch":
        net = net.reinitialised(seed)
    return net, data


def edited(name: str, edit: str, *, seed: int) -> dict[str, Any]:
    """Return the hashes of one edit, fewer where it is refused."""
    found: dict[str, Any] = {}
    net, _ = opened(name, seed)
    twin = attempt(lambda: EDITS[edit](net, seed))
    if isinstance(twin, str):
        return {"refused": twin}
    inputs = batch(twin, seed=seed)
    found["start"] = of_outputs(twin, inputs)
    stirred_(twin, net, seed=seed)
    found |= {"state": of_state(twin), "stirred": of_outputs(twin, inputs), "account": digest(twin.account.to_dict())}
    settled = twin.settled()
    found["settled"] = of_outputs(settled, inputs)
    if twin.coding is not None:
        for condition in ("mean", CONDITIONS[1]):
            plain = {key: values for key, values in inputs.items() if key != "condition"}
            folded = twin.folded(condition)
            found[f"folded {condition}"] = of_outputs(folded, plain if len(plain) > 1 else next(iter(plain.values())))
    if name != "torch" or seed == SEEDS[0]:  # to write the form in which PyTorch opens without its class takes seconds
        with tempfile.TemporaryDirectory() as folder:
            saved = attempt(lambda: settled.save(folder))
            if isinstance(saved, str):
                return found | {"not saved": saved}
            for way, architecture in (("opened", None), ("opened with its architecture", test_families.NETWORKS[name])):
                found[way] = attempt(lambda given=architecture: of_outputs(regraft.load(folder, architecture=given), inputs))
    return found


def ran(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the plan, the losses and the hash of the final weights of one training."""
    if name == "numbers":
        torch.manual_seed(0)
        rows = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
        net = regraft.load(torch_examples.SharedRelu(), inputs=(6,))
        data = regraft.read((rows, rows[:, :2] @ np.array([[1.0], [0.5]], np.float32)), kind="array", target=None)
    else:
        net, data = opened(name, 0)
    if settings["strategy"] == "codes":
        data = regraft.read(data, condition=np.array(CONDITIONS * 20))
    result = regraft.adapt(net, data, **settings)
    losses = [{key: value for key, value in entry.items() if "loss" in key} for entry in result.history]
    plan, account = json.loads(result.plan.to_json()), result.account.to_dict()
    del plan["settings"]["engine"]  # came after the file; what it decides stands in the weights
    return {"plan": digest(plan), "account": digest(account), "losses": losses, "weights": of_state(result.network)}


def work() -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what computes each entry of the golden file, by name."""
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in test_families.NETWORKS:
        for seed in SEEDS:
            for edit in EDITS:
                found[f"{name}, {edit}, seed {seed}"] = partial(edited, name, edit, seed=seed)
    return found | {f"run: {run}": partial(ran, name, settings) for run, (name, settings) in RUNS.items()}


def computed(pattern: str) -> dict[str, Any]:
    """Return the golden file, or the entries whose names match, as today's code makes it."""
    torch.set_num_threads(1)
    entries = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, work_of in work().items():
            if re.match(pattern, name):
                entries[name] = work_of()
                print(name, file=sys.stderr, flush=True)
    return json.loads(json.dumps({"environment": environment(), "entries": entries}))


def differences(found: dict[str, Any], expected: dict[str, Any], *, pattern: str) -> list[str]:
    """Return one line for every value that differs, or stands on one side only."""
    lines, exact = [], found["environment"] == expected["environment"]
    for name in {**expected["entries"], **found["entries"]}:
        if re.match(pattern, name):
            first, second = expected["entries"].get(name, {}), found["entries"].get(name, {})
            changed = [key for key in {**first, **second} if differ(first.get(key), second.get(key), exact=exact)]
            lines += [f"{name}: {key}: was {first.get(key)}, is {second.get(key)}" for key in changed]
    return lines


def differ(first: Any, second: Any, *, exact: bool) -> bool:
    """Return whether two values differ. Not `exact`: outputs within a tolerance; hashes and losses are not compared."""
    if exact or type(first) is not type(second):
        return bool(first != second)
    outputs_of_both = isinstance(first, list) and bool(first) and isinstance(first[0], str)  # else losses, of which a probe has none
    return outputs_of_both and not math.isclose(first[1], second[1], rel_tol=1e-3, abs_tol=1e-3)


def main(arguments: list[str]) -> int:
    """Write the golden file, or print what differs from it; return the exit code."""
    pattern = next((argument for argument in arguments if argument != "--write"), "")
    found = computed(pattern)
    expected = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"environment": found["environment"], "entries": {}}
    if "--write" in arguments:
        kept = {name: entry for name, entry in expected["entries"].items() if not re.match(pattern, name)}
        whole = {"environment": found["environment"], "entries": {**kept, **found["entries"]}}
        FILE.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        return 0
    if found["environment"] != expected["environment"]:
        print(f"made with {expected['environment']}; this is {found['environment']}: within a tolerance", file=sys.stderr)
    lines = differences(found, expected, pattern=pattern)
    print("\n".join([*lines, f"{len(lines)} values differ from {FILE.relative_to(ROOT)}"]))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
