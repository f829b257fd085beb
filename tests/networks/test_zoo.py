"""Networks by name, saved and opened again with the same scores to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import regraft
from regraft.errors import NetworkError
from regraft.networks.hub.opening import open_hub
from regraft.networks.sources.zoo import open_torchvision, unique_names

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 12}
TEXTS = ["a good bus", "bad tram", "good", "bad bus a"]


def _pictures(count: int = 6, side: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, side, side, 3), dtype=np.uint8)


def _small(net: Any) -> Any:
    """The network at small pictures, so that the tests are quick."""
    return regraft.load(net, preprocessing=net.preprocessing.to_dict() | {"height": 64, "width": 64})


def _offline(source: str) -> Any:
    """Open by name where no weights can be fetched: that is an error, unless random ones are asked for."""
    with pytest.raises(NetworkError, match=r"could not be fetched \(no network in tests\).*weights='random'"):
        regraft.load(source)
    net = regraft.load(source, weights="random")
    assert "RANDOM" in str(net.account)
    return net


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: Any, **_named: Any) -> Any:
        raise OSError("no network in tests")

    monkeypatch.setattr(timm, "create_model", _fails_when_pretrained(timm.create_model, "pretrained"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


def _fails_when_pretrained(make: Any, name: str) -> Any:
    def made(*args: Any, **named: Any) -> Any:
        if named.get(name):
            raise OSError("no network in tests")
        return make(*args, **named)

    return made


def test_timm_by_name(tmp_path: Path) -> None:
    _offline("timm:test_resnet")
    net = regraft.load("timm:test_resnet", weights="random", inputs=(3, 64, 64))
    assert net.origin["source"] == "timm:test_resnet"
    assert {name: net.preprocessing.to_dict()[name] for name in ("height", "width", "resize")} == {
        "height": 64,
        "width": 64,
        "resize": "crop",
    }
    assert net.classes is not None
    assert len(net.classes) == 1000
    result = regraft.adapt(net, (_pictures(12), list("abc") * 4), strategy="head", epochs=1, cache="memory", out=tmp_path / "out")
    again = regraft.load(tmp_path / "out")
    assert np.array_equal(again.logits(_pictures()), result.network.logits(_pictures()))
    assert again.classes == ("a", "b", "c")
    assert again.preprocessing.to_dict() == result.network.preprocessing.to_dict()
    assert again.account.to_dict() == result.account.to_dict()


def test_torchvision_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")
    monkeypatch.setattr(models, "get_model", _fails_when_pretrained(models.get_model, "weights"))
    net = _small(_offline("torchvision:squeezenet1_1"))
    assert net.head.layer == "classifier.1"
    changed = regraft.retarget(net, ["a", "b"])
    changed.save(tmp_path / "out")
    again = regraft.load(tmp_path / "out")
    assert np.array_equal(again.logits(_pictures()), changed.logits(_pictures()))


def _hub_folder(folder: Path, kind: str) -> Path:
    torch.manual_seed(0)
    getattr(transformers, kind)(transformers.BertConfig(**SIZES, num_labels=2)).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "bus", "tram"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["BertModel", pytest.param("BertForSequenceClassification", marks=pytest.mark.slow)])
def test_transformers_folder_with_texts(tmp_path: Path, kind: str) -> None:
    net = regraft.load(f"hf:{_hub_folder(tmp_path / 'hub', kind)}")
    assert bool(net.heads) == (kind != "BertModel")
    targets = ["good", "bad", "good", "bad"] * 4
    result = regraft.adapt(
        net, regraft.read((TEXTS * 4, targets), kind="text"), strategy="partial", frozen=1, epochs=1, cache="memory", out=tmp_path / "out"
    )
    assert result.network.classes == ("bad", "good")
    for path in (tmp_path / "hub").iterdir():
        path.unlink()  # the saved folder needs nothing of the source
    again = regraft.load(tmp_path / "out")
    assert np.array_equal(again.logits(TEXTS), result.network.logits(TEXTS))
    assert again.predict(TEXTS).labels == result.network.predict(TEXTS).labels


def test_an_encoder_averages_over_what_is_not_padding(tmp_path: Path) -> None:
    opened = open_hub(str(_hub_folder(tmp_path, "BertModel")), pretrained=True)
    ids = torch.tensor([[2, 5, 6, 3, 0, 0]])
    mask = (ids > 0).long()
    opened.module.eval()
    with torch.no_grad():
        padded = opened.module(input_ids=ids, attention_mask=mask)
        short = opened.module(input_ids=ids[:, :4], attention_mask=mask[:, :4])
    torch.testing.assert_close(padded, short, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("timm:resnet18x", "did you mean"),
        ("torchvision:resnet18x", "did you mean"),
        ("hf:/no/such/folder", "config.json"),
    ],
)
def test_unknown_names_list_the_near_ones(source: str, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        regraft.load(source)


def test_pickled_weights_in_a_hub_folder_are_not_opened(tmp_path: Path) -> None:
    folder = _hub_folder(tmp_path, "BertModel")
    state = transformers.BertModel.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(NetworkError, match="safetensors"):
        regraft.load(f"hf:{folder}")


def test_names_that_occur_twice_get_their_number() -> None:
    assert unique_names(["crane", "dog", "Crane "]) == ("crane (0)", "dog", "Crane  (2)")


def test_a_module_that_asks_for_the_version_of_its_names_is_opened_again(tmp_path: Path) -> None:
    """As torchvision's mnasnet does, which names of an earlier version mean something else to."""
    pytest.importorskip("torchvision")
    changed = regraft.retarget(_small(regraft.load("torchvision:mnasnet0_5", weights="random")), ["a", "b"])
    changed.save(tmp_path / "out")
    assert np.array_equal(regraft.load(tmp_path / "out").logits(_pictures(2)), changed.logits(_pictures(2)))


@pytest.mark.parametrize("name", ["vit_b_32", "vit_h_14"])
def test_a_vision_transformer_without_weights_takes_the_size_that_its_weights_would(name: str) -> None:
    """vit_h_14's best weights are of pictures of 518 pixels; torchvision makes one for 224 where none are asked for."""
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        module: Any = open_torchvision(name, pretrained=False).module
        small: Any = open_torchvision(name, pretrained=False, inputs=(3, 224, 224)).module
        with pytest.raises(NetworkError, match=rf"{name}' cannot be made for pictures of the shape \(3, 90, 90\): .*patch size"):
            open_torchvision(name, pretrained=False, inputs=(3, 90, 90))
    assert module.image_size == models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
    assert small.image_size == 224


def test_a_size_that_timm_makes_no_network_for_is_a_clear_error() -> None:
    with pytest.raises(NetworkError, match=r"nest_tiny' cannot be made for pictures of the shape \(3, 100, 100\): First level blocks"):
        regraft.load("timm:nest_tiny", weights="random", inputs=(3, 100, 100))


@pytest.mark.parametrize(("name", "resized"), [("deit_tiny_patch16_224", True), ("gmlp_ti16_224", False)])
def test_trained_weights_of_timm_at_another_size(name: str, resized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm resizes position embeddings, and not the layers of an MLP over the positions."""
    made = timm.create_model(name)
    save_file(made.state_dict(), tmp_path / "trained.safetensors")

    def from_file(*args: Any, pretrained: bool, **named: Any) -> Any:
        return timm.models.create_model(
            *args, pretrained=pretrained, pretrained_cfg_overlay={"file": tmp_path / "trained.safetensors"}, **named
        )

    monkeypatch.setattr(timm, "create_model", from_file)
    if not resized:
        with pytest.raises(
            NetworkError, match=r"gmlp_ti16_224' cannot be made for pictures of the shape \(3, 64, 64\): timm does not resize"
        ):
            regraft.load(f"timm:{name}", inputs=(3, 64, 64))
        return
    net = regraft.load(f"timm:{name}", inputs=(3, 64, 64))
    assert net.module.pos_embed.shape[1] < made.pos_embed.shape[1]
    assert torch.equal(net.module.head.weight, made.head.weight)
    assert "made for pictures of 64 x 64: timm resized its trained pos_embed" in net.account.notes


@pytest.mark.parametrize("name", [pytest.param("torchvision:vit_b_32", marks=pytest.mark.slow), "timm:test_vit", "timm:pit_ti_224"])
def test_a_network_for_one_size_of_picture_is_made_and_opened_again_for_the_size_given(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    made = regraft.load(name, weights="random", inputs=(3, 64, 64))
    assert ("made for pictures of 64 x 64" in made.account.notes) == (name == "timm:pit_ti_224")  # test_vit runs on any size
    net = regraft.retarget(made, ["a", "b"], start="random")
    assert (net.preprocessing.height, net.preprocessing.width) == (64, 64)
    net.save(tmp_path / "out")
    assert np.array_equal(regraft.load(tmp_path / "out").logits(_pictures(2)), net.logits(_pictures(2)))


def test_a_network_that_runs_on_any_size_of_picture_stays_as_it_is() -> None:
    """timm would give it other position embeddings, and does not resize trained ones to them."""
    net = regraft.load("timm:crossvit_tiny_240", weights="random", inputs=(3, 96, 96))
    assert {name: one.shape for name, one in net.module.state_dict().items()} == {
        name: one.shape for name, one in timm.create_model("crossvit_tiny_240").state_dict().items()
    }
