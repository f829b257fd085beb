"""Large data: how time and memory grow with the number of examples. Each size runs in a process of its own; data are made on the way.

Run it with `python benchmarks/large_data.py [FOLDER] [--scale 0.1] [--strategy auto]`; the figures stand in `benchmarks/README.md`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COLUMNS, SIDE = 20, 32
ROWS, PICTURES = (100_000, 300_000, 1_000_000), (20_000, 50_000, 100_000)


def made(folder: Path, kind: str, count: int) -> Path:
    """Make a table (.csv, .npy) or class folders of pictures, and return where it lies."""
    draw, path = np.random.default_rng(0), folder / f"{kind}-{count}"
    if kind == "pictures":
        from PIL import Image

        for name, level in (("dark", 60), ("light", 180)):
            (path / name).mkdir(parents=True, exist_ok=True)
            for at in range(count // 2):
                pixels = np.clip(draw.normal(level, 40, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(path / name / f"{at}.png", compress_level=1)
        return path
    rows = draw.normal(size=(count, COLUMNS)).astype(np.float32)
    labels = np.where(rows[:, 0] + rows[:, 1] > 0, "up", "down")
    path = path.with_suffix(f".{kind}")
    if kind == "npy":
        path.parent.mkdir(exist_ok=True)
        np.save(path, rows)
        np.save(folder / f"labels-{count}.npy", labels)
        return path
    with path.open("w", encoding="utf-8") as stream:
        stream.write(",".join([*(f"c{at}" for at in range(COLUMNS)), "label"]) + "\n")
        for row, label in zip(rows, labels, strict=True):
            stream.write(",".join([*(f"{value:.5f}" for value in row), label]) + "\n")
    return path


def measured(path: Path, kind: str, *, count: int, strategy: str) -> dict[str, float]:
    """Read and adapt, and return seconds of CPU and the peak of the memory in MiB."""
    import torch
    from torch import nn

    import regraft

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if kind == "pictures":
        module = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
        net = regraft.load(module, inputs=(3, SIDE, SIDE), preprocessing={"kind": "image", "height": SIDE, "width": SIDE})
    else:
        net = regraft.load(nn.Sequential(nn.Linear(COLUMNS, 32), nn.ReLU(), nn.Linear(32, 3)), inputs=(COLUMNS,))
    started, base = time.process_time(), _peak()
    data = regraft.read(path, target=f"labels-{count}.npy") if kind == "npy" else regraft.read(path)
    read, read_peak = time.process_time(), _peak()
    strategy = strategy or ("head" if kind == "pictures" else "probe")
    result = regraft.adapt(net, data, strategy=strategy, cache=path.parent / f"cache-{kind}-{count}")
    ended = time.process_time()
    accuracy = float(result.scores["holdout"]["accuracy"])
    peaks = {"before": base, "read_peak": read_peak, "peak": _peak()}
    return {"read": read - started, "adapt": ended - read, "accuracy": accuracy, **peaks}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Run all sizes and print one line for each."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("folder", nargs="?", type=Path)
    asked.add_argument("--scale", type=float, default=1.0, help="share of the examples")
    asked.add_argument("--only", nargs="+", default=["csv", "npy", "pictures"], help="kinds of data")
    asked.add_argument("--strategy", default="", help="strategy of adapt; by default probe for rows and head for pictures")
    asked.add_argument("--sizes", type=int, nargs="+", help="numbers of examples in place of those in the table")
    asked.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = asked.parse_args()
    if options.one is not None:
        kind, count = options.one[0], int(options.one[1])
        print(json.dumps(measured(options.folder, kind, count=count, strategy=options.strategy)))
        return
    with tempfile.TemporaryDirectory() as made_folder:
        folder = options.folder or Path(made_folder)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, counts in (("csv", ROWS), ("npy", ROWS), ("pictures", PICTURES)):
            sizes = options.sizes or [int(full * options.scale) for full in counts]
            for count in sizes if kind in options.only else ():
                path = made(folder, kind, count)
                command = [sys.executable, __file__, str(path), "--one", kind, str(count), f"--strategy={options.strategy}"]
                ran = subprocess.run(command, capture_output=True, text=True, check=False)
                if ran.returncode:
                    print(f"{kind} {count:,}: {ran.stderr.strip().splitlines()[-1:]}", flush=True)
                    continue
                found = json.loads(ran.stdout.strip().splitlines()[-1])
                shown = "  ".join(f"{name} {value:,.2f}" for name, value in found.items())
                print(f"{kind:>8} {count:>9,}  {shown}", flush=True)


if __name__ == "__main__":
    main()
