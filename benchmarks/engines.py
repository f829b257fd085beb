"""Engines of the frozen part: CPU seconds of an example, of building, and of a frozen adaptation with all of it included.

    OMP_NUM_THREADS=1 python benchmarks/engines.py [--adapt] [NETWORK ...]

Networks have random weights: only time is measured. CPU seconds of this process on one thread, medians of five passes over one batch, taken
in turns. With --adapt, a frozen adaptation, `adapt(strategy="head", epochs=20)` in which everything is included, beside one pass of the
fastest engine over the same examples and beside a plain loop (of PyTorch; Keras' own `fit` for the network of Keras), which computes the
frozen part in every epoch and is measured over one of its twenty.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch
from torch import Tensor, nn

import regraft
from regraft.freezing import Cut, cacheable_layers, find_cut
from regraft.freezing.engines import Batch, EngineLog, chosen_engine, frozen_work
from regraft.networks.contract import Network
from regraft.networks.samples import placed

ENGINES = ("onnxruntime", "openvino")
BATCH, ROUNDS, EXAMPLES, EPOCHS = 32, 5, 500, 20


class MiniLM(nn.Module):
    """A network of MiniLM's size over 64 tokens, and a head."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        self.bert, self.head = BertModel(BertConfig(**sizes)), nn.Linear(384, 10)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.bert(input_ids=input_ids).last_hidden_state.mean(1))


def pictures(side: int, *, last: bool = False) -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(EXAMPLES, 3, side, side)).astype(np.float32)
    return np.ascontiguousarray(made.transpose(0, 2, 3, 1)) if last else made


def efficientnet() -> tuple[Network, np.ndarray]:
    from timm import create_model

    own = {"kind": "array", "shape": [3, 128, 128]}
    return regraft.load(create_model("tf_efficientnet_lite0"), inputs=(3, 128, 128), preprocessing=own), pictures(128)


def resnet() -> tuple[Network, np.ndarray]:
    from torchvision.models import resnet18

    return regraft.load(resnet18(), inputs=(3, 128, 128), preprocessing={"kind": "array", "shape": [3, 128, 128]}), pictures(128)


def vit() -> tuple[Network, np.ndarray]:
    from timm import create_model

    own = {"kind": "array", "shape": [3, 128, 128]}
    made = create_model("vit_tiny_patch16_224", img_size=128)
    return regraft.load(made, inputs=(3, 128, 128), preprocessing=own), pictures(128)


def minilm() -> tuple[Network, np.ndarray]:
    tokens = np.random.default_rng(0).integers(1000, 30000, (EXAMPLES, 64))
    net = regraft.load(MiniLM(), inputs=(64,), preprocessing={"kind": "array", "shape": [64], "integers": True})
    return net, tokens


def mobilenet() -> tuple[Network, np.ndarray]:
    import keras

    own = {"kind": "array", "shape": [128, 128, 3]}
    return regraft.load(keras.applications.MobileNetV2((128, 128, 3), weights=None), preprocessing=own), pictures(128, last=True)


NETWORKS: dict[str, Callable[[], tuple[Network, np.ndarray]]] = {
    "EfficientNet-Lite0": efficientnet,
    "ResNet-18": resnet,
    "ViT-Tiny": vit,
    "MiniLM": minilm,
    "Keras MobileNetV2": mobilenet,
}


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def engines_of(net: Network, examples: np.ndarray) -> dict[str, Any]:
    """Return milliseconds of an example by engine, seconds of building, differences, and from how many examples on building pays."""
    frozen = frozenset(layer.name for layer in net.layers) - set(net.head_layers)
    net.freeze_(frozen)
    batch = torch.from_numpy(examples[:BATCH])
    cut = find_cut(net, cacheable_layers(net, frozen), sample=batch[:3])
    assert isinstance(cut, Cut), cut
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


def adapted(net: Network, examples: np.ndarray, *, milliseconds: dict[str, float]) -> dict[str, float]:
    """Return the seconds of frozen adaptations by engine, of one pass of the fastest one, and of twenty epochs of a plain loop."""
    labels = np.array([f"class {one % 5}" for one in range(len(examples))])
    how = {"strategy": "head", "epochs": EPOCHS, "cache": "memory"}
    found = {name: seconds_of(lambda name=name: regraft.adapt(net, (examples, labels), engine=name, **how)) for name in ("eager", *ENGINES)}

    def fit() -> None:
        import keras

        base = keras.Model(net.module.inputs, net.module.layers[-2].output)
        base.trainable = False
        model = keras.Sequential([base, keras.layers.Dense(5)])
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        count = len(examples) * 4 // 5
        model.fit(examples[:count], np.arange(count) % 5, batch_size=BATCH, epochs=1, verbose=0)

    def epoch() -> None:
        head = nn.Linear(net.head.features, 5)
        steps = torch.optim.Adam(head.parameters())
        for start in range(0, len(examples) * 4 // 5, BATCH):
            with torch.no_grad():
                features = net.feature_batch(torch.from_numpy(examples[start : start + BATCH]))
            loss = nn.functional.cross_entropy(head(features), torch.arange(start, start + len(features)) % 5)
            steps.zero_grad()
            loss.backward()
            steps.step()

    net.mode_(False)
    one_pass = len(examples) * min(milliseconds.values()) / 1000
    return {**found, "one pass": one_pass, "plain loop": EPOCHS * seconds_of(fit if net.family == "keras" else epoch)}


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [name for name in sys.argv[1:] if not name.startswith("--")] or list(NETWORKS)
    for name in chosen:
        net, examples = NETWORKS[name]()
        found = {"network": name, **engines_of(net, examples)}
        if "--adapt" in sys.argv:
            found["adapted"] = adapted(net, examples, milliseconds=found["milliseconds"])
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
