"""What a user is told to write instead of an override that cannot be read; what is told can be read."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alignpipe.cli.unreadable import advice


@pytest.mark.parametrize(
    ("override", "told", "value"),
    [
        ("reward.x=a b(1)", "this value needs quotes that reach Hydra: ", "a b(1)"),
        ('reward.x=say "hi"!', "this value needs quotes that reach Hydra: ", 'say "hi"!'),
        ("reward.x = don't", "there must be no spaces around the =: write ", "don't"),
        ("reward.x=[für]", "texts between [ and ] need quotes of their own: ", ["für"]),
        ("reward.x=[don't]", "texts between [ and ] need quotes of their own: ", ["don't"]),
        ("reward.x=[thank you, please!]", "texts between [ and ] need quotes of their own: ", ["thank you", "please!"]),
        ("reward.x=[don't $X!]", "texts between [ and ] need quotes of their own: ", ["don't $X!"]),
        ("reward.x=[1,1.5,a-b,ü]", "texts between [ and ] need quotes of their own: ", [1, 1.5, "a-b", "ü"]),
        ("outputs=~/x", "a ~ cannot be read here: write ", str(Path.home() / "x")),
        ("outputs=~/x (1)", "a ~ cannot be read here: write ", str(Path.home() / "x (1)")),
    ],
)
def test_what_to_write_instead(override: str, told: str, value: object) -> None:
    found = advice(override)
    assert found is not None
    assert found.startswith(told)
    (word,) = shlex.split(found.removeprefix(told))
    assert OverridesParser.create().parse_override(word).value() == value


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("ppo.lr=1e-4 seed=1", "2 overrides stand in one word; each is a word of its own: ppo.lr=1e-4 seed=1"),
        ("seed=1  +ppo@ppo_2=ppo ppo_2.lr=1", "3 overrides stand in one word; each is a word of its own: seed=1 +ppo@"),
        ("reward.x=they say a=b", "this value needs quotes that reach Hydra: 'reward.x=\"they say a=b\"'"),
        ("seed=0,", "there must be no space behind a comma, and no comma at the end"),
        ("stages=[data,", "there must be no space behind a comma"),
        ("reward.x=[thank", "the [ is not closed; if the value has spaces, quote the word for the shell"),
        ("reward.x=[['für'], ü]", "texts between [ and ] need quotes of their own"),
        ("reward.x=['für, don't]", "texts between [ and ] need quotes of their own"),
        ("reward.x='a", "the ' is not closed"),
        ("reward.x=[don't]", 'texts between [ and ] need quotes of their own: "reward.x=[\\"don\'t\\"]"'),
        ("reward.x={a:ü}", "texts between { and } need quotes of their own"),
    ],
)
def test_what_is_wrong(override: str, told: str) -> None:
    assert str(advice(override)).startswith(told)


def test_quotes_that_do_not_help_are_not_advised() -> None:
    assert advice("reward.x='a' b'c") is None
    assert advice("reward.x=both ' and \"") is None
