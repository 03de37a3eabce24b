"""The user's own files and the user's own model: the same chain, without a gold reward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

from support.checkpoints import write_checkpoint
from support.commands import alignpipe, statuses, succeed, summaries

CHAIN = dict.fromkeys(["data", "sft", "reward", "ppo", "eval"], "ran")
FRUIT = ("apple", "pear", "plum", "quince", "cherry", "fig", "grape", "lemon", "lime", "mango")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")


def pairs() -> list[dict[str, str]]:
    """Small preferences: name the fruit that was asked for."""
    return [
        {
            "prompt": f"User: I would like a {colour} {fruit}.\nShop:",
            "chosen": f" Here is your {colour} {fruit}.",
            "rejected": f" We have no {fruit}, go away.",
        }
        for fruit in FRUIT
        for colour in COLOURS
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's preferences in it."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    return folder


def test_own_preferences_with_the_tiny_model(folder):
    command = ["experiment=smoke", "data=files", "data.preferences=pairs.jsonl", "outputs=tiny"]
    done = succeed(alignpipe(folder, *command))
    summary = json.loads(next(folder.glob("tiny/runs/*/summary.json")).read_text())
    assert statuses(summary) == CHAIN
    assert summary["metrics"]["data/rows/preferences/train"] + summary["metrics"]["data/rows/preferences/heldout"] == 60
    assert "eval/reward/win_rate" in summary["metrics"]
    assert not [name for name in summary["metrics"] if "gold" in name], "the user's data has no gold reward"
    assert "gold" not in done.stdout


def test_own_preferences_and_own_checkpoint(folder):
    write_checkpoint(folder / "mine", [row["prompt"] + row["chosen"] for row in pairs()])
    model = ["model=pretrained", "model.path=mine"]
    succeed(alignpipe(folder, "experiment=smoke", "data=files", "data.preferences=pairs.jsonl", *model))
    summary = summaries(folder)[0]
    assert statuses(summary) == CHAIN
    trained = AutoModelForCausalLM.from_pretrained(summary["stages"]["ppo"]["artifact"])
    assert isinstance(trained, GPT2LMHeadModel), "it is the user's architecture that was trained"


def test_ppo_straight_on_the_users_checkpoint(folder):
    """A shortened run: no sft, a written reward."""
    write_checkpoint(folder / "plain", [row["prompt"] + row["chosen"] for row in pairs()])
    done = succeed(
        alignpipe(
            folder,
            "experiment=smoke",
            "stages=[data,reward,ppo,eval]",
            "data=files",
            "data.prompts=pairs.jsonl",
            "data.drop_columns=[chosen,rejected]",
            "model=pretrained",
            "model.path=plain",
            "reward=rules",
            "reward.wanted=[here]",
            "outputs=straight",
        )
    )
    summary = json.loads(next(folder.glob("straight/runs/*/summary.json")).read_text())
    assert statuses(summary) == {"data": "ran", "reward": "ran", "ppo": "ran", "eval": "ran"}
    assert "win rate" in done.stdout
