"""Imports that the garbage collector passes over."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alignpipe import importing
from alignpipe.importing import uncollected


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    yield
    gc.unfreeze()
    gc.enable()


def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Import a module with this text."""
    (tmp_path / "just_imported.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "just_imported", raising=False)
    with uncollected():
        importlib.import_module("just_imported")


def test_what_an_import_makes_is_set_aside_and_never_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.unfreeze()
    monkeypatch.setattr(importing, "_LARGE", 1)
    imported(tmp_path, monkeypatch, "import gc\nwas = gc.isenabled()\nmade = [[] for _ in range(100)]\n")
    module = sys.modules["just_imported"]
    assert module.was is False
    assert gc.isenabled()
    assert gc.get_freeze_count() > 100
    assert not any(found is module.made for found in gc.get_objects()), "the collector still goes through it"


def test_after_a_failure_the_collector_is_on_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        imported(tmp_path, monkeypatch, "1 / 0")
    assert gc.isenabled()


def test_who_has_switched_it_off_keeps_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.disable()
    imported(tmp_path, monkeypatch, "")
    assert not gc.isenabled()


def test_after_a_small_import_nothing_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.unfreeze()
    imported(tmp_path, monkeypatch, "made = []\n")
    assert gc.get_freeze_count() == 0
