"""Networks that cannot be taken apart are adapted all the same, and the verdict says so."""

from __future__ import annotations

import importlib

import pytest
from tests.zoo.test_freeze_flags import adapted

from regraft.freezing import Refusal


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_the_verdict_says_that_nothing_was_cached(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib.import_module("regraft.planning.passes"), "find_cut", lambda *_args, **_named: Refusal("its examples are mixed")
    )
    result = adapted(family, strategy="partial", frozen=1, epochs=2, refit=False)
    assert "The network could not be taken apart: its frozen part ran in every epoch." in result.verdict
    assert result.verdict == result.report_facts()["verdict"]
    assert result.cost["frozen_forward_items"] > 36


def test_the_verdict_of_an_ordinary_network_does_not() -> None:
    assert "taken apart" not in adapted("torch", strategy="partial", frozen=1, epochs=1).verdict
