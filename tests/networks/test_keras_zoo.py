"""keras.applications by name: preprocessing as the networks were trained with, and what cannot be made."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import regraft
from regraft.data import preprocessing_from_dict
from regraft.errors import NetworkError

keras = pytest.importorskip("keras")
from regraft.networks.sources.keras_zoo import _spec  # noqa: E402  # needs keras


@pytest.mark.parametrize("name", ["VGG16", "DenseNet121", "MobileNetV2", "EfficientNetB0"])
def test_pictures_reach_the_network_as_preprocess_input_makes_them(name: str) -> None:
    """VGG16 wants blue first and the means taken off, DenseNet the ImageNet standard deviations, MobileNet -1 to 1."""
    home = sys.modules[getattr(keras.applications, name).__module__]
    picture = np.random.default_rng(0).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    made = preprocessing_from_dict(_spec(home, (9, 9, 3))).batch([picture])[0].numpy()
    np.testing.assert_allclose(made, np.asarray(home.preprocess_input(picture[None].astype(np.float32)))[0], atol=2e-3)


def test_what_is_not_there_is_one_error() -> None:
    with pytest.raises(NetworkError, match="did you mean 'VGG16'"):
        regraft.load("keras:VG16", weights="random")
    with pytest.raises(NetworkError, match="NASNetMobile"):
        regraft.load("keras:NASNetMobile")


def test_weights_that_cannot_be_fetched_are_an_error_and_random_ones_have_to_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NetworkError, match=r"'keras:MobileNetV2' could not be fetched.*weights='random'"):
        regraft.load("keras:MobileNetV2", inputs=(32, 32, 3))
    net = regraft.load("keras:MobileNetV2", inputs=(32, 32, 3), weights="random")
    assert "RANDOM" in str(net.account) and not net.heads
    assert capsys.readouterr().out == ""  # Keras tells of its downloads on stderr, where they do not mix with results
