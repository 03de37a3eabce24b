"""TAB behind `key=`: which types name their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import pytest

from alignpipe.api import Component
from alignpipe.cli import suggestions
from alignpipe.cli.suggestions import value_words


class Form(Enum):
    plain = "a"
    rich = "b"


@dataclass
class Inner:
    strict: bool = True


@dataclass
class Config:
    form: Form = Form.plain
    maybe: Form | None = None
    switch: bool | None = None
    steps: int | None = None
    word: str = "x"
    inner: Inner = field(default_factory=Inner)


class Offer:
    component = Component("ppo", "mine", Config, "here:build", "a fake")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    class Registry:
        def groups(self) -> list[str]:
            return ["other", "ppo"]

        def offers(self, group: str, name: str) -> list[Offer]:
            return [Offer()] if (group, name) == ("ppo", "mine") else []

    monkeypatch.setattr(suggestions, "registry", Registry)
    there = {
        "ppo.name=": ["ppo.name=mine"],
        "ppo_2.name=": ["ppo_2.name=mine"],
        "odd.name=": ["odd.name=mine"],
        "ppor.name=": ["ppor.name=mine"],
    }
    return lambda current: value_words(current, lambda word: there.get(word, []))


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        ("ppo.form=", ["ppo.form=plain", "ppo.form=rich"]),
        ("ppo_2.form=r", ["ppo_2.form=rich"]),
        ("ppo.form=plain,", ["ppo.form=plain,rich"]),
        ("ppo.maybe=", ["ppo.maybe=plain", "ppo.maybe=rich", "ppo.maybe=null"]),
        ("ppo.switch=", ["ppo.switch=true", "ppo.switch=false", "ppo.switch=null"]),
        ("ppo.inner.strict=f", ["ppo.inner.strict=false"]),
        ("ppo.steps=", []),
        ("ppo.word=", []),
        ("ppo.nothing=", []),
        ("ppo.inner.nothing.strict=", []),
        ("ppo.form", []),
        ("odd.form=", []),
        ("ppor.form=", []),
        ("code_change=r", ["code_change=rerun"]),
        ("seed=", []),
    ],
)
def test_values_that_a_type_names(current: str, expected: list[str], words) -> None:
    assert words(current) == expected
