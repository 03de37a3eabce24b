"""Flags and overrides in any order, as Hydra 1.3 and 1.4 can read them."""

from __future__ import annotations

import pytest
from hydra._internal.utils import get_args_parser

from alignpipe.cli.words import for_jobs, in_order, is_sweep

_READ = ("parse_args", "parse_intermixed_args")
"""How Hydra 1.3 and 1.4 read a command line."""


@pytest.mark.parametrize(
    ("argv", "flags", "overrides"),
    [
        (["seed=0"], {}, ["seed=0"]),
        (["a=1", "-m", "seed=0,1"], {"multirun": True}, ["a=1", "seed=0,1"]),
        (["a=1", "--cfg", "job", "~b", "-p", "ppo", "+c=2"], {"cfg": "job", "package": "ppo"}, ["a=1", "~b", "+c=2"]),
        (["a=1", "--info"], {"info": "all"}, ["a=1"]),
        (["a=1", "--info", "defaults", "b=1"], {"info": "defaults"}, ["a=1", "b=1"]),
        (["a=1", "--help"], {"help": True}, ["a=1"]),
        (["--config-dir", "x=y", "x=y", "--run"], {"config_dir": "x=y", "run": True}, ["x=y"]),
        (["a=1", "-m", "--", "b=1"], {"multirun": True}, ["a=1", "b=1"]),
        ([], {}, []),
    ],
)
def test_both_hydras_read_the_words(argv: list[str], flags: dict[str, object], overrides: list[str]) -> None:
    for method in _READ:
        read = vars(getattr(get_args_parser(), method)(in_order(argv)))
        assert read.pop("overrides") == overrides
        assert {name: value for name, value in read.items() if value} == flags


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ppo=grpo,rloo", "ppo.group_size=4"], ["ppo=grpo,rloo", "ppo.group_size=choice(4)"]),
        (["ppo.group_size=4", "ppo=choice(grpo,rloo)"], ["ppo.group_size=choice(4)", "ppo=choice(grpo,rloo)"]),
        (["+ppo@ppo_2=ppo,grpo", "ppo_2.lr=1e-4"], ["+ppo@ppo_2=ppo,grpo", "ppo_2.lr=choice(1e-4)"]),
        (["reward=a,b", "reward.wanted=['a b',c]"], ["reward=a,b", "reward.wanted=choice(['a b',c])"]),
        (["reward=a,b", "++reward.deep.key={x: 1}"], ["reward=a,b", "++reward.deep.key=choice({x: 1})"]),
        (["experiment=a,b", "ppo.group_size=4", "seed=1"], ["experiment=a,b", "ppo.group_size=choice(4)", "seed=1"]),
        (["ppo=grpo,rloo", "sft.lr=1", "seed=1,2"], ["ppo=grpo,rloo", "sft.lr=1", "seed=1,2"]),
        (["ppo=grpo,rloo", "~ppo.lr", "ppo.lr=1,2"], ["ppo=grpo,rloo", "~ppo.lr", "ppo.lr=1,2"]),
        (["ppo=grpo", "ppo.group_size=4"], ["ppo=grpo", "ppo.group_size=4"]),
        (["ppo.lr=1,2", "ppo.epochs=1"], ["ppo.lr=1,2", "ppo.epochs=1"]),
    ],
)
def test_what_depends_on_an_option_that_is_swept_over_is_left_to_the_jobs(
    words: list[str], expected: list[str]
) -> None:
    assert for_jobs(words) == expected


def test_behind_two_dashes_there_are_no_flags() -> None:
    assert in_order(["a=1", "--cfg", "job", "--", "-m", "b=1"]) == ["--cfg", "job", "--", "a=1", "-m", "b=1"]


@pytest.mark.parametrize(
    "argv",
    [
        ["-m", "seed=0,1"],
        ["seed=0,1", "--multirun"],
        ["seed=0,1", "--multi"],
        ["hydra.mode=MULTIRUN", "seed=0,1"],
        ["--", "seed=0,1", "++hydra.mode='MULTIRUN'"],
        ["hydra.mode=RUN", "hydra.mode=RunMode.MULTIRUN"],
    ],
)
def test_every_way_to_ask_for_a_sweep(argv: list[str]) -> None:
    assert is_sweep(argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["seed=0"],
        ["--", "-m"],
        ["hydra.mode=RUN"],
        ["hydra.mode=MULTIRUN", "hydra.mode=RUN"],
        ["reward.text=hydra.mode=MULTIRUN"],
    ],
)
def test_what_asks_for_no_sweep(argv: list[str]) -> None:
    assert not is_sweep(argv)
