"""Networks that take several inputs by name: read, trained by every road, judged, saved, opened and predicted from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from torch import nn

import regraft
from regraft.data import PartsPreprocessing, TextPreprocessing, preprocessing_from_dict
from regraft.errors import DataError, NetworkError
from regraft.networks.keras.library import keras
from regraft.networks.network import Network

pytestmark = pytest.mark.usefixtures("without_onnx_form")

L = keras.layers
FAMILIES = ("torch", "keras")
COUNT = 60


class Headlines(nn.Module):
    """Token ids of a headline, and numbers of the time of day."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.side, self.mix = nn.Embedding(20, 8), nn.Linear(3, 6), nn.Linear(14, 12)
        self.out = nn.Linear(12, 2)

    def forward(self, main_input: torch.Tensor, aux_input: torch.Tensor) -> torch.Tensor:
        read = torch.cat([self.embed(main_input).mean(1), self.side(aux_input).relu()], 1)
        return self.out(self.mix(read).relu())


def made(family: str) -> Any:
    torch.manual_seed(0)
    if family == "torch":
        return Headlines()
    keras.utils.set_random_seed(0)
    main, aux = keras.Input((7,), dtype="int32", name="main_input"), keras.Input((3,), name="aux_input")
    read = [L.GlobalAveragePooling1D()(L.Embedding(20, 8)(main)), L.Dense(6, activation="relu")(aux)]
    hidden = L.Dense(12, activation="relu")(L.Concatenate()(read))
    return keras.Model([main, aux], L.Dense(2, name="out")(hidden))


def opened(family: str, **options: Any) -> Network:
    shapes = {"inputs": {"main_input": (7,), "aux_input": (3,)}} if family == "torch" else {}
    return regraft.load(made(family), classes=["early", "late"], **shapes, **options)


def again(family: str, folder: Path) -> Network:
    return regraft.load(folder, **({"architecture": Headlines} if family == "torch" else {}))


def arrays() -> tuple[dict[str, np.ndarray], np.ndarray]:
    draw = np.random.default_rng(0)
    inputs = {"main_input": draw.integers(0, 20, (COUNT, 7)), "aux_input": draw.normal(size=(COUNT, 3)).astype(np.float32)}
    return inputs, np.where(inputs["aux_input"][:, 0] + (inputs["main_input"][:, 0] > 9) > 0.5, "late", "early")


def own_logits(family: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
    module = made(family)
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    with torch.no_grad():
        found = module(**tensors) if family == "torch" else module(list(tensors.values()))
    return np.asarray(found.detach())


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_come_as_a_dict_of_columns_or_a_list_of_dicts(family: str) -> None:
    net, (inputs, labels) = opened(family), arrays()
    expected = own_logits(family, inputs)
    listed = [{name: values[row] for name, values in inputs.items()} for row in range(COUNT)]
    turned = {name: inputs[name] for name in reversed(inputs)}
    for given in (inputs, turned, listed, regraft.read(inputs, target=labels), regraft.read((inputs, labels))):
        np.testing.assert_allclose(net.logits(given), expected, atol=1e-5)
    assert net.predict(listed[:3]).labels == [("early", "late")[row] for row in expected[:3].argmax(1)]
    assert net.features(inputs).shape == (COUNT, 12)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("probe", {}),
        ("head", {}),
        ("partial", {"frozen": 1, "epochs": 2}),
        ("full", {"epochs": 2}),
        ("lora", {"epochs": 2}),
        ("auto", {"epochs": 2}),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_road_leads_from_reading_to_a_saved_network(family: str, strategy: str, options: dict[str, Any], tmp_path: Path) -> None:
    inputs, labels = arrays()
    result = regraft.adapt(opened(family), regraft.read(inputs, target=labels), strategy=strategy, cache="memory", out=tmp_path, **options)
    assert 0 <= result.scores["holdout"]["accuracy"] <= 1
    assert isinstance(result.network.preprocessing, PartsPreprocessing) and not result.network.preprocessing.inferred
    saved = again(family, tmp_path)
    np.testing.assert_array_equal(saved.logits(inputs), result.network.logits(inputs))
    if strategy == "head":
        assert result.cost["frozen_forward_examples"] == COUNT
    if strategy == "full":
        before = opened(family).logits(inputs)
        assert not np.allclose(saved.logits(inputs), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_inputs_decide(family: str) -> None:
    inputs, labels = arrays()
    net = regraft.adapt(opened(family), regraft.read(inputs, target=labels), strategy="full", epochs=2, cache="memory").network
    for name in inputs:
        other = inputs | {name: inputs[name][::-1].copy()}
        assert not np.allclose(net.logits(other), net.logits(inputs))


def test_the_cache_depends_on_every_part() -> None:
    inputs, labels = arrays()
    first, digests = regraft.read(inputs, target=labels), set()
    for name in inputs:
        other = inputs | {name: inputs[name].copy()}
        other[name][0, 0] += 1
        data = regraft.read(other, target=labels)
        digests.add(data.digest(0))
        assert data.digest(1) == first.digest(1)
    assert len(digests | {first.digest(0)}) == 3
    assert "main_input (array)" in str(first.summary()) and (first.duplicates() == np.arange(COUNT)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_table_whose_columns_are_assigned_to_the_inputs(family: str, tmp_path: Path) -> None:
    """The saved network reads other tables by the same columns."""
    inputs, labels = arrays()
    columns = {f"word{at}": inputs["main_input"][:, at] for at in range(7)} | {f"hour{at}": inputs["aux_input"][:, at] for at in range(3)}
    rows = [",".join([*columns, "note", "label"])]
    rows += [",".join([*(repr(values[row].item()) for values in columns.values()), "x", labels[row]]) for row in range(COUNT)]
    path = tmp_path / "table.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    chosen = {"main_input": [f"word{at}" for at in range(7)], "aux_input": [f"hour{at}" for at in range(3)]}
    data = regraft.read(path, inputs=chosen, target="label")
    np.testing.assert_allclose(opened(family).logits(data), own_logits(family, inputs), atol=1e-4)
    net = regraft.adapt(opened(family), data, strategy="head", cache="memory", out=tmp_path / "out").network
    np.testing.assert_allclose(again(family, tmp_path / "out").logits(path), net.logits(data), atol=1e-6)
    with pytest.raises(DataError, match="no column 'hour9' for the input 'aux_input'"):
        regraft.read(path, inputs={**chosen, "aux_input": ["hour9"]}, target="label")


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_and_numbers(family: str, tmp_path: Path) -> None:
    headlines = [("stocks rise", "rain falls")[row % 2] for row in range(COUNT)]
    numbers, labels = np.random.default_rng(0).normal(size=(COUNT, 3)).astype(np.float32), np.array(["late", "early"] * (COUNT // 2))
    words = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "stocks", "rise", "rain", "falls"])}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    reader = TextPreprocessing(own.to_str(), max_length=7, special=(("pad_token", "[PAD]"), ("unk_token", "[UNK]")))
    net = opened(family, preprocessing={"main_input": reader})
    data = regraft.read({"main_input": headlines, "aux_input": numbers}, target=labels)
    assert data.kind == "parts" and data.part("main_input").kind == "text"
    result = regraft.adapt(net, data, strategy="full", epochs=2, cache="memory", out=tmp_path / "out")
    given = {"main_input": headlines[:2], "aux_input": numbers[:2]}
    np.testing.assert_array_equal(again(family, tmp_path / "out").logits(given), result.network.logits(given))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_fit_is_said_before_any_work(family: str) -> None:
    net, (inputs, labels) = opened(family), arrays()
    ids, hours = inputs["main_input"], inputs["aux_input"]
    with pytest.raises(DataError, match=r"part 'aux_imput'.*did you mean 'aux_input'"):
        net.logits({"main_input": ids, "aux_imput": hours})
    with pytest.raises(DataError, match=r"the network takes the inputs 'main_input', 'aux_input'"):
        regraft.adapt(net, regraft.read({"main_input": ids, "hour": hours}, target=labels))
    with pytest.raises(NetworkError, match="do not give 'aux_input'"):
        regraft.adapt(net, regraft.read({"main_input": ids}, target=labels))
    with pytest.raises(NetworkError, match="shape and type"):
        net.logits({"main_input": ids, "aux_input": hours[:, :2]})
    with pytest.raises(DataError, match="differ in length"):
        regraft.read({"main_input": ids, "aux_input": hours[:5]}, target=labels)
    with pytest.raises(DataError, match="differ in length"):
        net.logits({"main_input": ids, "aux_input": hours[:5]})
    with pytest.raises(DataError, match="no target"):
        regraft.read(inputs)
    with pytest.raises(DataError, match="takes one input"):
        regraft.adapt(
            regraft.load(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), inputs=(3,)), regraft.read(inputs, target=labels)
        )
    hours[3, 1] = np.nan
    with pytest.raises(DataError, match=r"example 3 \('aux_input': NaN or infinity\)"):
        regraft.read(inputs, target=labels)
    assert len(regraft.read(inputs, target=labels, skip_bad=True)) == COUNT - 1


def test_an_input_that_a_module_does_not_take_is_named() -> None:
    with pytest.raises(NetworkError, match=r"takes no input 'aux'.*'aux_input'"):
        regraft.load(Headlines(), inputs={"main_input": (7,), "aux": (3,)})


def test_an_input_that_can_be_left_out() -> None:
    class Optional(Headlines):
        def forward(self, main_input: torch.Tensor, aux_input: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(main_input, torch.zeros(len(main_input), 3) if aux_input is None else aux_input)

    net, (inputs, labels) = regraft.load(Optional(), inputs={"main_input": (7,), "aux_input": (3,)}), arrays()
    result = regraft.adapt(net, regraft.read({"main_input": inputs["main_input"]}, target=labels), strategy="head", cache="memory")
    assert result.network.logits({"main_input": inputs["main_input"]}).shape == (COUNT, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_exported_files_take_the_inputs_by_name(family: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    inputs, _ = arrays()
    program = regraft.load(opened(family).export(tmp_path / "net.pt2"), trust=True)
    assert set(program.sample) == set(inputs)
    for rows in (slice(0, 5), slice(0, 1)):
        some = {name: values[rows] for name, values in inputs.items()}
        np.testing.assert_allclose(program.logits(some), own_logits(family, some), atol=1e-5)
    path = opened(family).export(tmp_path / "net.onnx")
    session = runtime.InferenceSession(str(path))
    assert {one.name for one in session.get_inputs()} == set(inputs)
    found = session.run(None, {name: values[:4] for name, values in inputs.items()})
    np.testing.assert_allclose(found[0], own_logits(family, inputs)[:4], atol=1e-4)


class _Texts(nn.Module):
    """Token ids alone, as a named tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(20, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.mix(self.embed(ids).mean(1)).relu())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_input_may_be_named_in_examples(family: str, tmp_path: Path) -> None:
    entry = keras.Input((7,), dtype="int32", name="ids")
    module: Any = _Texts()
    if family == "keras":
        pooled = L.GlobalAveragePooling1D()(L.Embedding(20, 8)(entry))
        module = keras.Model(entry, L.Dense(2)(L.Dense(6, activation="relu")(pooled)))
    net = regraft.load(module, classes=["early", "late"], inputs={"ids": (7,)} if family == "torch" else None)
    rows, labels = arrays()[0]["main_input"], arrays()[1]
    assert np.array_equal(net.logits({"ids": rows}), net.logits(rows))
    wider = regraft.extend(net, ["never"], ({"ids": rows[:9]}, ["never"] * 9))
    assert np.array_equal(wider.logits({"ids": rows})[:, :2], net.logits(rows))
    shown = np.where(np.arange(COUNT) % 3 == 0, "never", labels)
    assert regraft.extend(net, ({"ids": rows}, shown)).network.classes == ("early", "late", "never")
    named = ({"ids": rows}, labels)
    result = regraft.adapt(net, named, strategy="probe", test=named, cache="memory", out=tmp_path / "out")
    plain = regraft.adapt(net, (rows, labels), strategy="probe", test=(rows, labels), cache="memory").network
    again = regraft.load(tmp_path / "out", **({"architecture": _Texts} if family == "torch" else {}))
    for given in (rows, {"ids": rows}):
        assert np.array_equal(again.logits(given), result.network.logits(given))
        np.testing.assert_allclose(plain.logits(given), result.network.logits(given), atol=1e-5)
    assert "byte by byte" in " ".join(result.plan.reasons)  # the test set holds the training set
    assert regraft.profile(net, named).depths
    assert not regraft.check(named, net).facts["problems"]
    data = regraft.read(named, condition=np.where(np.arange(COUNT) % 2, "hall", "yard"))
    coded = regraft.adapt(net, data, strategy="codes", epochs=1, cache="memory").network
    known = regraft.adapt_condition(coded, ({"ids": rows[:4]}, labels[:4]), "cave", steps=2)
    assert known.predict({"ids": rows}, condition="cave").probabilities.shape == (COUNT, 2)


def test_columns_of_a_single_part_keep_their_order(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(COUNT, 2)).astype(np.float32)
    path = tmp_path / "table.csv"
    lines = [f"{first!r},{second!r},{'late' if first > 0 else 'early'}" for first, second in rows.tolist()]
    path.write_text("\n".join(["first,second,label", *lines]), encoding="utf-8")
    data = regraft.read(path, inputs={"x": ["second", "first"]}, target="label")
    assert data.part("x").row_columns == ("second", "first")
    net = regraft.load(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), inputs=(2,))
    made = regraft.adapt(net, data, strategy="probe", cache="memory").network
    np.testing.assert_allclose(made.logits(path), made.logits(rows[:, ::-1].copy()), atol=1e-5)


class _Mixed(nn.Module):
    """Two inputs that are columns of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(3, 8), nn.Linear(2, 6), nn.Linear(14, 2)

    def forward(self, body: torch.Tensor, blood: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat([self.first(body).relu(), self.second(blood).relu()], 1))


def _of_columns(family: str) -> Network:
    torch.manual_seed(0)
    module: Any = _Mixed()
    if family == "keras":
        keras.utils.set_random_seed(0)
        body, blood = keras.Input((3,), name="body"), keras.Input((2,), name="blood")
        read = L.Concatenate()([L.Dense(8, activation="relu")(body), L.Dense(6, activation="relu")(blood)])
        module = keras.Model([body, blood], L.Dense(2, name="out")(read))
    return regraft.load(module, inputs={"body": (3,), "blood": (2,)} if family == "torch" else None)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_columns_of_each_input_are_read_by_name(family: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    draw = np.random.default_rng(0)
    columns = {"body": ["age", "height", "weight"], "blood": ["iron", "sugar"]}
    table = pandas.DataFrame(draw.normal(size=(COUNT, 5)) * [20, 3, 9, 1, 2], columns=[*columns["body"], *columns["blood"]])
    table["label"] = np.where(table["age"] > table["iron"], "old", "young")
    turned = table[["label", "sugar", "weight", "iron", "age", "height"]].assign(remark="none")
    table.to_csv(tmp_path / "table.csv", index=False)
    turned.to_csv(tmp_path / "turned.csv", index=False)
    frames = {name: table[own] for name, own in columns.items()}
    arrays = {name: frame.to_numpy(np.float32) for name, frame in frames.items()}
    mixed = {name: turned[own[::-1]] for name, own in columns.items()}
    backwards = {name: own[::-1] for name, own in columns.items()}
    ways = {
        "frames": (frames, table["label"]),
        "frames and target": regraft.read(frames, target=table["label"]),
        "file": regraft.read(tmp_path / "table.csv", inputs=columns, target="label"),
    }
    for way, data in ways.items():
        made = regraft.adapt(_of_columns(family), data, strategy="probe", cache="memory", out=tmp_path / way).network
        told = made.predict(arrays).probabilities
        saved = regraft.load(tmp_path / way, **({"architecture": _Mixed} if family == "torch" else {}))
        for net in (made, saved):
            later = (table, turned, mixed, regraft.read(turned, inputs=backwards, target="label"), regraft.read((mixed, turned["label"])))
            for given in (*later, tmp_path / "turned.csv"):
                np.testing.assert_allclose(net.predict(given).probabilities, told, atol=1e-6, err_msg=way)
        accuracy = np.mean(np.array(made.predict(arrays).labels) == table["label"])
        for judged in (regraft.read((mixed, turned["label"])), turned, tmp_path / "turned.csv"):
            found = regraft.evaluate(made, judged, **({} if isinstance(judged, regraft.data.Dataset) else {"target": "label"}))
            assert found.scores["accuracy"] == pytest.approx(accuracy)
        for wrong in ({**mixed, "blood": mixed["blood"].rename(columns={"iron": "zinc"})}, turned.rename(columns={"iron": "zinc"})):
            with pytest.raises(DataError, match="no column 'iron' for the"):
                made.predict(wrong)
        with pytest.raises(DataError, match=r"Input 'blood': .* no numbers called 'iron'"):
            made.predict(regraft.read({**mixed, "blood": mixed["blood"].rename(columns={"iron": "zinc"})}, target=turned["label"]))
        pairs = ((mixed, turned["label"]), (frames, table["label"]))
        again, same = (regraft.adapt(made, pair, strategy="probe", cache="memory").network for pair in pairs)
        np.testing.assert_allclose(again.predict(table).probabilities, same.predict(arrays).probabilities, atol=1e-5)
        renamed = {name: frame.rename(columns=str.upper) for name, frame in frames.items()}
        other = regraft.adapt(made, (renamed, table["label"]), strategy="probe", cache="memory").network
        assert other.predict({name: frame[frame.columns[::-1]] for name, frame in renamed.items()}).labels == other.predict(arrays).labels


def test_a_folder_from_before_the_parts_knew_their_columns_reads_them_by_name() -> None:
    plain: dict[str, Any] = {
        "kind": "parts",
        "names": ["body", "blood"],
        "parts": [{"kind": "array", "shape": [3], "spread": 1.0}, {"kind": "array", "shape": [2], "spread": 1.0}],
        "columns": [["age", "height", "weight"], ["iron", "sugar"]],
    }
    own = preprocessing_from_dict(plain)
    given = {"body": np.arange(6.0).reshape(2, 3), "blood": np.arange(4.0).reshape(2, 2)}
    pandas = pytest.importorskip("pandas")
    named = {"blood": pandas.DataFrame(given["blood"], columns=["iron", "sugar"])[["sugar", "iron"]], "body": given["body"]}
    for read in (given, named):
        batch = own.batch_of(own.dataset(read), [0, 1])
        assert isinstance(batch, dict)
        np.testing.assert_array_equal(batch["blood"].numpy(), given["blood"])
    with pytest.raises(DataError, match="has the columns of 1 input; expected those of 2"):
        preprocessing_from_dict({**plain, "columns": [["age", "height", "weight"]]})
    without = preprocessing_from_dict({**plain, "columns": []})
    assert without.input_columns == {"body": ("body",), "blood": ("blood",)} and preprocessing_from_dict(own.to_dict()) == own


def test_columns_stay_known_where_later_data_have_no_names() -> None:
    own = preprocessing_from_dict(
        {
            "kind": "parts",
            "names": ["body", "photo"],
            "parts": [{"kind": "array", "shape": [2]}, {"kind": "image", "height": 4, "width": 4}],
            "columns": [["age", "height"], ["file"]],
        }
    )
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 255, (6, 4, 4, 3)).astype(np.uint8)
    data = regraft.read(({"body": draw.normal(size=(6, 2)), "photo": pictures}, list("ab") * 3), kind={"photo": "image"})
    assert own.fit(data).input_columns == {"body": ("age", "height"), "photo": ("file",)}


class _InOneDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(5, 8), nn.Linear(3, 8), nn.Linear(16, 3)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.out(torch.cat([self.first(batch["X"]).relu(), self.second(batch["Z"]).relu()], 1))


class _Packed(nn.Module):
    """A recurrent network over sequences that are packed by their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(4, 6, batch_first=True, bidirectional=True), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (state, _) = self.lstm(packed)
        return self.out(torch.cat([state[0], state[1]], 1))


DRAW = np.random.default_rng(0)
WITH_ONE_ARGUMENT = {
    "dict": (_InOneDict, {"X": (5,), "Z": (3,)}, {"X": DRAW.normal(size=(24, 5)), "Z": DRAW.normal(size=(24, 3))}),
    "packed": (_Packed, {"x": (6, 4), "lengths": ()}, {"x": DRAW.normal(size=(24, 6, 4)), "lengths": np.arange(24) % 5 + 1}),
}


@pytest.mark.parametrize("kind", WITH_ONE_ARGUMENT)
@pytest.mark.parametrize("strategy", ["head", "auto"])
def test_inputs_in_one_dict_and_lengths(kind: str, strategy: str, tmp_path: Path) -> None:
    make, shapes, examples = WITH_ONE_ARGUMENT[kind]
    examples = {name: values.astype(np.float32 if values.dtype == float else np.int64) for name, values in examples.items()}
    torch.manual_seed(0)
    module = make().eval()
    net = regraft.load(module, inputs=shapes, classes=["a", "b", "c"])
    tensors = {name: torch.from_numpy(values) for name, values in examples.items()}
    with torch.no_grad():
        expected = module(tensors) if kind == "dict" else module(**tensors)
    assert np.allclose(net.logits(examples), expected.numpy(), atol=1e-5)
    labels = np.array(["a", "b", "d"])[np.arange(24) % 3]
    made = regraft.adapt(net, (examples, labels), strategy=strategy, epochs=1, batch_size=8).network
    made.save(tmp_path / "made")
    assert np.array_equal(regraft.load(tmp_path / "made", architecture=make).logits(examples), made.logits(examples))


def test_a_name_that_no_input_has_is_told_also_where_one_argument_is_taken() -> None:
    with pytest.raises(NetworkError, match=r"takes no input 'Y'; valid: 'batch'. With all of them in one mapping it does not run: 'X'"):
        regraft.load(_InOneDict(), inputs={"Y": (5,), "Z": (3,)})
