"""Other names of rows: by the habit of a list, and by WordNet where the list is ImageNet's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from regraft.errors import MissingExtraError
from regraft.heads import synonyms
from regraft.heads.synonyms import alias_form, aliases

timm_data = pytest.importorskip("timm.data")
torchvision_meta = pytest.importorskip("torchvision.models._meta")


@pytest.fixture
def timm_names() -> list[str]:
    return list(timm_data.ImageNetInfo().label_descriptions())


@pytest.fixture
def torchvision_names() -> list[str]:
    return list(torchvision_meta._IMAGENET_CATEGORIES)


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def missing(module: str, extra: str, *, purpose: str) -> None:
        raise MissingExtraError(f"{module} {extra} {purpose}")

    monkeypatch.setattr(synonyms, "optional_import", missing)
    synonyms._imagenet_lemmas.cache_clear()
    yield
    synonyms._imagenet_lemmas.cache_clear()


def test_alias_form() -> None:
    assert alias_form("  Golden_Retriever ") == alias_form("golden  retriever") == "golden retriever"


def test_parts_of_a_list_with_the_habit() -> None:
    found = aliases(["Tabby, tabby_cat", "zebra", "horse, Equus caballus, ", "mare, horse"])
    assert found == {
        "tabby": 0,
        "tabby cat": 0,
        "tabby, tabby cat": 0,
        "zebra": 1,
        "equus caballus": 2,
        "horse, equus caballus,": 2,
        "mare": 3,
        "mare, horse": 3,
    }


def test_a_comma_here_and_there_is_part_of_the_name() -> None:
    names = ["Smith, John", "Mia", "Noah", "Ada", "Kai"]
    assert aliases(names) == {alias_form(name): row for row, name in enumerate(names)}
    assert aliases(names[:4])["john"] == 0
    assert aliases(["1,5 volt", "9,0 volt"]) == {"1,5 volt": 0, "9,0 volt": 1}


def test_a_full_name_is_no_alias_of_another_row() -> None:
    assert aliases(["projectile, missile", "missile"]) == {"projectile": 0, "projectile, missile": 0, "missile": 1}
    assert aliases(["grass_snake", "grass snake", "cat, grass snake"]) == {"cat": 2, "cat, grass snake": 2}


def test_nothing_to_look_up() -> None:
    assert aliases([]) == {}


def test_timms_names(timm_names: list[str]) -> None:
    found = aliases(timm_names)
    assert [found.get(alias_form(name)) for name in ("tabby cat", "tabby", "golden retriever", "golden_retriever")] == [281, 281, 207, 207]
    assert found["missile"] == 657 and found["projectile"] == 744
    assert "zebra crossing" not in found
    assert "crane" not in found  # the bird and the machine
    assert "panther" not in found  # leopard and jaguar


def test_torchvisions_and_keras_names_are_found_by_all_lemmas(timm_names: list[str], torchvision_names: list[str]) -> None:
    keras_names = [name.replace(" ", "_") for name in torchvision_names]
    for names in (torchvision_names, keras_names):
        found = aliases(names)
        assert [found[name] for name in ("tabby cat", "golden retriever", "projectile", "missile")] == [281, 207, 744, 657]
        rows = [found.get(alias_form(name)) for name in names]
        assert {names[row] for row in range(1000) if rows[row] != row} == {"Cardigan", "cardigan"}  # the corgi and the garment
        rows = [found.get(alias_form(name)) for name in timm_names]
        differing = {name: rows[row] for row, name in enumerate(timm_names) if rows[row] != row}
        assert differing == {"crane": 517, "cardigan": None, "maillot, tank suit": None}  # rows that torchvision renamed, or two


def test_names_with_a_running_number_leave_the_list_what_it_is(timm_names: list[str]) -> None:
    timm_names[134], timm_names[517] = "crane (134)", "crane (517)"
    found = aliases(timm_names)
    assert found["tabby cat"] == 281 and found["crane (517)"] == 517 and "crane" not in found


def test_a_row_that_was_given_another_class_gets_no_lemmas(torchvision_names: list[str]) -> None:
    torchvision_names[281] = "widget"
    found = aliases(torchvision_names)
    assert "tabby cat" not in found and found["widget"] == 281 and found["thunder snake"] == 52


def test_a_thousand_other_names_get_no_lemmas(torchvision_names: list[str]) -> None:
    assert "tabby cat" not in aliases(torchvision_names[::-1])
    assert "tabby cat" not in aliases(torchvision_names[:999])


@pytest.mark.usefixtures("without_timm")
def test_without_timm_the_list_speaks_for_itself(timm_names: list[str], torchvision_names: list[str]) -> None:
    assert "tabby cat" not in aliases(torchvision_names)
    assert aliases(timm_names)["tabby cat"] == 281
