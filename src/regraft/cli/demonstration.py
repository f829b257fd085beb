"""The demo: adapt a network for printed digits to handwritten digits, with few and with many training examples.

The printed digits are drawn with the fonts of matplotlib and reduced to 8 x 8 images in the same way as the handwritten digits of
scikit-learn (UCI, "Optical Recognition of Handwritten Digits": a 32 x 32 bitmap whose 4 x 4 blocks are counted).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..console import progress, say, speaking
from ..errors import optional_import
from ..report.plots import new_figure, saved_figure

__all__ = ["ADAPTED", "Curves", "handwritten", "measured_curves", "printed", "printed_reader"]

ADAPTED, SCRATCH, MLP = "adapted by regraft", "the same network from scratch", "MLP on the pixels"
UNCHANGED, MAJORITY = "printed digit network, unchanged", "majority class"
DRAWS: Mapping[int | None, int] = {3: 5, 10: 5, 30: 4, 100: 3, None: 3}
"""Examples per class (None: all) -> number of random draws. Small sets vary more between draws and take less time."""
_TESTED = 500
_EPOCHS = 40
_FONTS = ("DejaVu", "STIXGeneral", "cmb10", "cmr10", "cmss10", "cmtt10")
_MARGIN = 0.01  # a gain of at most one point counts as small
_PURPOSE, _EXTRAS = "The demo", "vision,report"


@dataclass(frozen=True)
class Curves:
    """Test accuracy by the number of training examples per class."""

    sizes: tuple[int | None, ...]  # training examples per class; None for all
    shares: Mapping[str, Sequence[np.ndarray]]  # method name -> for each size, the accuracy of each draw, 0 to 1
    examples: tuple[float, ...]  # mean number of training examples per class at each size

    def gain(self, at: int) -> tuple[str, float, float, float]:
        """Return the best other method at size index `at`, and the gain over it: mean, lower and upper end of the 95 % interval."""
        other = max((name for name in self.shares if name != ADAPTED), key=lambda name: self.shares[name][at].mean())
        return other, *_interval(self.shares[ADAPTED][at] - self.shares[other][at])

    def named(self, at: int) -> str:
        """Return the label of the size with index `at`."""
        return f"all ({self.examples[at]:.0f})" if self.sizes[at] is None else str(self.sizes[at])

    def sentence(self) -> str:
        """Return a sentence on where transfer wins and where it stops to matter, as far as the intervals support it."""
        gains = [self.gain(at) for at in range(len(self.sizes))]
        clear = [at for at, (_, _, low, _) in enumerate(gains) if low > 0]
        if not clear:
            return "Transfer does not win at any number of examples: every 95 % interval of the gain over the best of the others holds 0."
        most = max(clear, key=lambda at: gains[at][1])
        other, mean, low, high = gains[most]
        said = (
            f"Transfer wins most at {self.named(most)} examples a class: {100 * self.shares[ADAPTED][most].mean():.1f} % of the test "
            f"digits are read correctly, {100 * mean:.1f} points more than by the best of the others ({other}; 95 % interval "
            f"{100 * low:.1f} to {100 * high:.1f})"
        )
        small = next((at for at in range(len(gains)) if all(mean <= _MARGIN for _, mean, _, _ in gains[at:])), None)
        if small is None:
            return f"{said}; with {self.named(len(gains) - 1)} it still wins {100 * gains[-1][1]:.1f} points."
        return f"{said}; from {self.named(small)} on it hardly matters: the gain is {100 * gains[small][1]:.1f} points there."

    def rows(self) -> list[tuple[str, ...]]:
        """Return the rows of a table: size, then mean and half-width of the 95 % interval of each method."""
        return [(self.named(at), *(_words(shares[at]) for shares in self.shares.values())) for at in range(len(self.sizes))]

    def to_dict(self) -> dict[str, Any]:
        """Return the curves as plain data, with the gain over the best other method at each size."""
        gains = [dict(zip(("over", "points", "low", "high"), self.gain(at), strict=True)) for at in range(len(self.sizes))]
        shares = {name: [draws.tolist() for draws in each] for name, each in self.shares.items()}
        return {"sizes": list(self.sizes), "examples": list(self.examples), "accuracies": shares, "gains": gains}

    def plot(self, path: Path) -> None:
        """Plot the learning curves with 95 % intervals to `path`; the suffix selects the format."""
        figure = new_figure(7.2, 4.4)
        axes = figure.add_subplot()
        styles = {ADAPTED: ("#0b6e4f", "o", 2.4), SCRATCH: ("#c44e12", "s", 1.6), MLP: ("#4c5fa8", "^", 1.6)}
        drawn = [name for name in self.shares if name != MAJORITY]  # far below the others, so only in the legend
        floor = min(10 * int(10 * draws.mean()) for name in drawn for draws in self.shares[name])
        for at, name in enumerate(drawn):
            colour, marker, width = styles.get(name, ("#777777", "", 1.2))
            mean, low, high = (100 * np.array(part) for part in zip(*(_interval(draws) for draws in self.shares[name]), strict=True))
            apart = np.array(self.examples) * 1.015 ** (at - 1)  # horizontal offset, so that the intervals do not overlap
            bars = [mean - np.clip(low, floor, 100), np.clip(high, floor, 100) - mean]
            style = {"color": colour, "marker": marker, "linewidth": width, "markersize": 5, "linestyle": "-" if marker else "--"}
            axes.errorbar(apart, mean, bars, label=name, capsize=3, elinewidth=1, clip_on=False, **style)
        if MAJORITY in self.shares:
            usual = np.mean([draws.mean() for draws in self.shares[MAJORITY]])
            axes.plot([], [], " ", label=f"{MAJORITY}: {100 * usual:.0f} %, below the axis")
        axes.set_xscale("log")
        named = [("\n" if size is None else "") + self.named(at) for at, size in enumerate(self.sizes)]
        axes.set_xticks(self.examples, named)
        axes.minorticks_off()
        axes.set(xlabel="training examples of each class", ylabel="test digits read correctly (%)", ylim=(floor, 100))
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.25), frameon=False)
        saved_figure(figure, path)


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of the draws and the ends of its 95 % interval (Student's t)."""
    from scipy.stats import t

    mean = float(values.mean())
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
    return mean, mean - half, mean + half


def _words(draws: np.ndarray) -> str:
    mean, low, _ = _interval(draws)
    return f"{100 * mean:.1f} ± {100 * (mean - low):.1f}"


def handwritten() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's handwritten digits: images (1797, 1, 8, 8) in [0, 1] and class names (1797,)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.images[:, None] / 16).astype(np.float32), bunch.target.astype(str)


def printed(count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return `count` printed digits, slightly rotated and slanted: images (count, 1, 8, 8) in [0, 1] and class names (count,)."""
    library = optional_import("matplotlib", _EXTRAS, purpose=_PURPOSE)
    maker = optional_import("PIL.ImageFont", _EXTRAS, purpose=_PURPOSE)
    folder = Path(library.get_data_path(), "fonts", "ttf")
    fonts = [maker.truetype(str(path), 40) for path in sorted(folder.glob("*.ttf")) if path.name.startswith(_FONTS)]
    draw = np.random.default_rng(seed)
    names = draw.integers(0, 10, count).astype(str)
    return np.stack([_square(name, fonts[draw.integers(len(fonts))], draw=draw) for name in names])[:, None], names


def _square(name: str, font: Any, *, draw: np.random.Generator) -> np.ndarray:
    """Return one digit (8, 8) in [0, 1]: the share of ink in each 4 x 4 block of its bitmap."""
    images = optional_import("PIL.Image", _EXTRAS, purpose=_PURPOSE)
    canvas = images.new("L", (96, 96))
    pen = optional_import("PIL.ImageDraw", _EXTRAS, purpose=_PURPOSE).Draw(canvas)
    pen.text((48, 48), name, fill=255, font=font, anchor="mm", stroke_width=int(draw.integers(0, 3)))
    angle, slant = np.deg2rad(draw.normal(0, 8)), draw.normal(0.1, 0.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.array([[1, slant], [0, 1]])
    shift = 48 - turn @ np.array([48, 48])
    affine = (*turn[0], shift[0], *turn[1], shift[1])
    turned = canvas.transform((96, 96), images.Transform.AFFINE, affine, images.Resampling.BILINEAR)
    turned = turned.crop(turned.getbbox())
    width = int(np.clip(32 * turned.width / turned.height * draw.uniform(0.8, 1.3), 6, 32))
    bitmap, left = np.zeros((32, 32), np.float32), (32 - width) // 2
    bitmap[:, left : left + width] = np.asarray(turned.resize((width, 32), images.Resampling.BILINEAR)) > 127
    counted: np.ndarray = bitmap.reshape(8, 4, 8, 4).mean((1, 3))
    return counted


def _small_cnn(seed: int) -> Any:
    """Return a randomly initialised network with two convolutions."""
    from torch import nn

    from .. import verbs
    from ..randomness import seeded

    with seeded(seed):
        module = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 4 * 4, 10)),
        )
    return verbs.load(module, inputs=(1, 8, 8))


def printed_reader(*, count: int = 4000, epochs: int = 10, seed: int = 0) -> Any:
    """Return a small network trained on printed digits."""
    from .. import verbs

    training: dict[str, Any] = {"epochs": epochs, "learning_rate": 1e-3, "holdout": 0.05, "seed": seed, "cache": "memory"}
    shown = printed(count, seed=seed)
    with speaking(False):
        return verbs.adapt(_small_cnn(seed), shown, strategy="scratch", **training).network


def measured_curves(net: Any, draws: Mapping[int | None, int] = DRAWS, *, seed: int = 0) -> tuple[Curves, Any]:
    """Train all methods on the same handwritten digits and evaluate them on the same test set.
    `draws`: examples per class (None: all except the test set) -> number of draws, each with its own test set. Return the learning curves
    and the result of `regraft.adapt` for the first draw of the second size, or of the only one."""
    pictures, names = handwritten()
    shares: dict[str, list[np.ndarray]] = {name: [] for name in (ADAPTED, SCRATCH, MLP, UNCHANGED, MAJORITY)}
    results: list[Any] = []
    examples: list[float] = []
    with progress("adapted and from scratch", sum(draws.values())) as done:
        for size, count in draws.items():
            say(f"Learning from {'all' if size is None else size} examples of each class, {count} times …")
            found: list[dict[str, float]] = []
            for draw in range(seed, seed + count):
                learned, tested = _split(names, size, seed=draw)
                with speaking(False):
                    accuracies, result = _trial(net, pictures, names=names, learned=learned, tested=tested, seed=draw)
                found.append(accuracies | {"examples": len(learned) / len(set(names))})
                results += [result] if draw == seed else []
                done(1)
            examples.append(float(np.mean([each["examples"] for each in found])))
            for name, each in shares.items():
                each.append(np.array([accuracies[name] for accuracies in found]))
    return Curves(tuple(draws), shares, tuple(examples)), results[:2][-1]


def _split(names: np.ndarray, size: int | None, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of `size` training examples per class and of 500 test examples."""
    order = np.random.default_rng(seed).permutation(len(names))
    tested, rest = order[:_TESTED], order[_TESTED:]
    return np.concatenate([rest[names[rest] == name][:size] for name in np.unique(names)]), tested


def _trial(
    net: Any, pictures: np.ndarray, *, names: np.ndarray, learned: np.ndarray, tested: np.ndarray, seed: int
) -> tuple[dict[str, float], Any]:
    """Train each method on the `learned` examples. Return method name -> accuracy on the `tested` ones, and the result of `adapt`."""
    from sklearn.neural_network import MLPClassifier

    from .. import verbs

    shown, truth = (pictures[learned], names[learned]), names[tested]
    common: dict[str, Any] = {"holdout": 0.0, "test": (pictures[tested], truth), "seed": seed, "cache": "memory"}
    adapted = verbs.adapt(net, shown, **common)
    scratch = verbs.adapt(_small_cnn(seed), shown, strategy="scratch", epochs=_EPOCHS, **common)
    mlp = MLPClassifier(max_iter=1000, random_state=seed).fit(shown[0].reshape(len(learned), -1), shown[1])
    found, counts = np.unique(shown[1], return_counts=True)
    return {
        ADAPTED: adapted.scores["test"]["accuracy"],
        SCRATCH: scratch.scores["test"]["accuracy"],
        MLP: float(mlp.score(pictures[tested].reshape(len(tested), -1), truth)),
        UNCHANGED: float(np.mean(np.array(net.predict(pictures[tested]).labels) == truth)),
        MAJORITY: float(np.mean(truth == found[counts.argmax()])),
    }, adapted
