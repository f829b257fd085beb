"""A frozen VGG16, DenseNet121 or own network below a head of 1000, 500 and 150 units, for a table and a folder of pictures.

    python examples/deep_head.py [FOLDER] [--network keras:VGG16] [--weights imagenet|random] [--size 48] [--quick]

`--network` takes what `regraft.load` takes: "keras:DenseNet121", "timm:resnet18", "torchvision:densenet121", a file such as network.keras.
ImageNet weights are fetched by Keras, timm or torchvision; without them, `--weights random` shows the road, not a good network. Pictures
are scikit-learn's 1,797 handwritten digits.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")  # before keras is imported: regraft runs Keras on its torch backend

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

import regraft


def write(folder: Path, *, count: int) -> Path:
    """Write pictures of digits and a table with the columns file and digit. Return the path of the table."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    pictures, digits = load_digits(return_X_y=True)
    with open(folder / "train.csv", "w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["file", "digit"])
        for index, (pixels, digit) in enumerate(zip(pictures[:count], digits[:count], strict=True)):
            Image.fromarray((pixels.reshape(8, 8) * 255 / 16).astype(np.uint8)).save(folder / "pictures" / f"{index}.png")
            writer.writerow([f"{index}.png", f"digit {digit}"])
    return folder / "train.csv"


def main(folder: Path, *, network: str = "keras:VGG16", weights: str = "random", size: int = 48, quick: bool = False) -> regraft.Result:
    """Adapt `network` at `size` x `size` pixels to the digits, and print what was reached and what ran. `quick`: few examples."""
    data = regraft.read(write(folder, count=60 if quick else 1797), files=folder / "pictures", target="digit")
    named = ":" in network
    zoo = {"inputs": (size, size, 3) if network.startswith("keras:") else (3, size, size)} if named else {}
    net = regraft.load(network, weights="random" if named and weights == "random" else None, **zoo)
    deep = regraft.retarget(net, data.classes, hidden=[(1000, "relu"), (500, "relu"), (150, "sigmoid")], dropout=0.3)
    result = regraft.adapt(
        deep,
        data,
        strategy="head",
        epochs=2 if quick else 20,
        learning_rate=1e-3,
        refit=not quick,
        cache=str(folder / "features"),
        out=folder / "adapted",
    )
    print(f"{network}: {net.summary().splitlines()[0]}")
    print(result.verdict)
    print(f"{result.cost['frozen_forward_examples']:.0f} pictures went through the frozen part, in all epochs together")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=None)
    parser.add_argument("--network", default="keras:VGG16")
    parser.add_argument("--weights", choices=("imagenet", "random"), default="imagenet")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--quick", action="store_true")
    given = vars(parser.parse_args())
    main(given.pop("folder") or Path(tempfile.mkdtemp()), **given)
