"""The evaluation stage: its figures, its two files, and what it leaves out."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import alignpipe_plugins.evaluation
from alignpipe.api import Artifact, Sample, Scores, Selected
from alignpipe.dataset import Gold, write_dataset
from alignpipe.errors import DataError
from alignpipe.training.models import load_causal, load_tokenizer, save_checkpoint
from alignpipe_plugins.evaluation.config import EvalConfig
from alignpipe_plugins.evaluation.stage import build
from alignpipe_plugins.model_tiny.config import TinyConfig
from alignpipe_plugins.model_tiny.source import TinySource
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig
from alignpipe_plugins.rollout_local.sampler import LocalRollout
from support import ppo, tiny_models
from support.context import FakeContext

CONFIG = EvalConfig(prompts=6, max_response_tokens=5, resamples=200, samples=2)


class Own:
    """1 for an answer to the prompt it was made for, which only the ids of this policy's answers tell."""

    def __init__(self) -> None:
        self.first: dict[tuple[int, ...], str] = {}

    def score(self, samples: list[Sample]) -> Scores:
        values = [
            float(self.first.setdefault(tuple(sample.response_ids), sample.prompt) == sample.prompt)
            for sample in samples
        ]
        return Scores(total=values, parts={"own": values})


def prompts(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"Customer: case {row}.\nAgent:", "messages": [], "case": row} for row in range(count)]


def data(folder: Path, count: int = 8, *, gold: bool = True, demonstrations: bool = True) -> Artifact:
    tables: dict[Any, Any] = {"prompts": {"train": prompts(4), "heldout": prompts(count)}}
    if demonstrations:
        tables["demonstrations"] = {"heldout": [{**row, "completion": " Thank you."} for row in prompts(3)]}
    write_dataset(folder, tables, Gold("gold", 1) if gold else None)
    return Artifact("dataset", "data", folder, "digest")


def reward(folder: Path, name: str = "own") -> Artifact:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "reward.json").write_text(json.dumps({"name": name, "version": 1, "offered_by": "a test", "config": {}}))
    return Artifact("reward", "reward", folder, "digest")


def policy(stage: str, folder: Path | None = None) -> Artifact:
    return Artifact("policy", stage, folder or tiny_models.llama(), stage)


def other_policy(folder: Path) -> Artifact:
    model = load_causal(tiny_models.llama())
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(1.2)
    save_checkpoint(model, load_tokenizer(tiny_models.llama()), folder)
    return policy("ppo", folder)


def run(root: Path, config: EvalConfig = CONFIG, **inputs: Artifact | None) -> FakeContext:
    builders = {
        "reward/own": lambda config: Own(),
        "reward/nobody": lambda config: ppo.Rule(lambda sample: None),
        "reward/gold": lambda config: ppo.Rule(lambda sample: float(len(sample.response_ids))),
        "model/tiny": lambda config: TinySource(TinyConfig()),
        "rollout/local": lambda config: LocalRollout(LocalRolloutConfig()),
    }
    slots = {"model": Selected("model", "tiny", None), "rollout": Selected("rollout", "local", None)}
    ctx = FakeContext(root, stage="eval", slots=slots, builders=builders)
    ports = {"dataset": None, "policy": None, "baseline": policy("sft"), "reward": reward(root / "reward"), **inputs}
    ports["dataset"] = ports["dataset"] or data(root / "data")
    ports["policy"] = ports["policy"] or other_policy(root / "policy")
    build(config, ctx).run({name: port for name, port in ports.items() if port is not None}, ctx)
    return ctx


@pytest.mark.parametrize("port", ["policy", "baseline"])
def test_a_prompt_that_leaves_no_room_is_seen_beforehand(port: str, tmp_path: Path) -> None:
    """Of either side, once its tokens are known; a base model whose tokenizer is still to be trained has none."""
    long = replace(CONFIG, max_response_tokens=120)
    builders = {"model/tiny": lambda config: TinySource(TinyConfig())}
    ctx = FakeContext(tmp_path, stage="eval_2", slots={"model": Selected("model", "tiny", None)}, builders=builders)
    inputs = {"policy": policy("base", Path()), "baseline": policy("base", Path()), "dataset": data(tmp_path / "data")}
    build(long, ctx).check_ahead(inputs, ctx)
    with pytest.raises(DataError, match=r"tokens and eval_2\.max_response_tokens=120 do not fit into the model's 128"):
        build(long, ctx).check_ahead({**inputs, port: policy("sft")}, ctx)


def samples(ctx: FakeContext) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (ctx.payload / "samples.jsonl").read_text().splitlines()]


def report(ctx: FakeContext) -> dict[str, Any]:
    return json.loads((ctx.payload / "report.json").read_text())


def test_the_files(tmp_path: Path) -> None:
    ctx = run(tmp_path)
    figures = ctx.metrics()
    lines = samples(ctx)
    assert [line["prompt"] for line in lines] == [row["prompt"] for row in prompts(6)]
    both = {f"{side}_{title}" for side in ("policy", "baseline") for title in ("reward", "reward_own", "gold")}
    assert all(line.keys() == {"prompt", "policy", "baseline", "policy_kl", *both} for line in lines)
    assert figures["gold/mean"] == pytest.approx(sum(line["policy_gold"] for line in lines) / 6)
    assert figures["gold/baseline_mean"] == pytest.approx(sum(line["baseline_gold"] for line in lines) / 6)
    assert figures["kl"] == pytest.approx(sum(line["policy_kl"] for line in lines) / 6)
    assert figures["length"] == figures["gold/mean"]
    won = [
        1 if line["policy_gold"] > line["baseline_gold"] else 0.5 * (line["policy_gold"] == line["baseline_gold"])
        for line in lines
    ]
    assert figures["gold/win_rate"] == pytest.approx(sum(won) / 6)
    written = report(ctx)
    assert written["columns"] == ["sft", "ppo"]
    assert written["samples"] == lines[:2]
    assert [row[0] for row in written["rows"]] == [
        "reward",
        "  own",
        "reward win rate [95%]",
        "reward, prompts swapped",
        "gold",
        "gold win rate [95%]",
        "gold, prompts swapped",
        "KL to baseline (nats)",
        "length (tokens)",
        "ended by itself",
        "distinct-1",
        "distinct-2",
        "held-out perplexity",
    ]
    table = {row[0]: row[1:] for row in written["rows"]}
    assert table["gold"] == [figures["gold/baseline_mean"], figures["gold/mean"]]
    assert table["held-out perplexity"] == [figures["baseline_perplexity"], figures["perplexity"]]
    assert figures["perplexity"] != figures["baseline_perplexity"]


def test_an_answer_that_fits_its_prompt_only_loses_everything_when_prompts_are_swapped(tmp_path: Path) -> None:
    figures = run(tmp_path).metrics()
    assert figures["reward/mean"] == 1
    assert figures["reward/mismatched_mean"] == 0
    assert figures["gold/mismatched_mean"] == figures["gold/mean"]  # a length does not depend on the prompt


def test_a_single_prompt_cannot_be_swapped(tmp_path: Path) -> None:
    ctx = run(tmp_path, replace(CONFIG, prompts=1))
    assert not any("mismatched" in name for name in ctx.metrics())
    assert not any("swapped" in row[0] for row in report(ctx)["rows"])


def test_an_empty_baseline_leaves_its_rows_out(tmp_path: Path) -> None:
    ctx = run(tmp_path, baseline=None)
    names = set(ctx.metrics())
    assert not {name for name in names if "baseline" in name or "win_rate" in name or name == "kl"}
    assert {"reward/mean", "gold/mean", "length", "perplexity"} <= names
    written = report(ctx)
    assert written["columns"] == ["ppo"]
    assert all(len(row) == 2 and isinstance(row[1], float) for row in written["rows"])
    assert not any("win rate" in row[0] or "KL" in row[0] for row in written["rows"])
    assert all("baseline" not in line for line in samples(ctx))


def test_gold_only_where_the_data_names_it_and_a_reward_only_where_there_is_one(tmp_path: Path) -> None:
    ctx = run(tmp_path, dataset=data(tmp_path / "plain", gold=False, demonstrations=False), reward=None)
    assert not any(name.startswith(("gold", "reward")) or "perplexity" in name for name in ctx.metrics())
    assert ctx.metrics()["kl"] != 0
    assert not any(selected.group == "reward" for selected in ctx.built)


def test_a_reward_that_applies_to_nothing_has_no_figures(tmp_path: Path) -> None:
    ctx = run(tmp_path, reward=reward(tmp_path / "nobody", "nobody"))
    assert not any(name.startswith("reward") for name in ctx.metrics())
    assert "gold/win_rate" in ctx.metrics()
    assert any(line.startswith("no reward figures: reward nobody") for line in ctx.said)


def test_the_same_model_on_both_sides(tmp_path: Path) -> None:
    ctx = run(tmp_path, policy=policy("ppo"))
    figures = ctx.metrics()
    assert figures["kl"] == 0
    assert figures["perplexity"] == figures["baseline_perplexity"]
    lines = samples(ctx)
    assert any(line["policy"] != line["baseline"] for line in lines)  # two independent draws


def test_other_tokens_leave_the_kl_out(tmp_path: Path) -> None:
    ctx = run(tmp_path, baseline=policy("other", tiny_models.with_bos()))
    assert "policy and baseline have different tokenizers, so no KL between them" in ctx.said
    assert "kl" not in ctx.metrics()
    assert "gold/win_rate" in ctx.metrics()


def test_the_base_model_is_the_one_ppo_would_start_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = TinySource.tokenizer

    def tokenizer(source: TinySource, texts: list[str]) -> Any:
        seen.append(list(texts))
        return real(source, texts)

    monkeypatch.setattr(TinySource, "tokenizer", tokenizer)
    run(tmp_path, baseline=Artifact("policy", "base", Path(), "base"))
    assert seen == [[row["prompt"] for row in prompts(4)]]  # the training prompts


def test_no_held_out_prompts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no prompts in its heldout split"):
        run(tmp_path, dataset=data(tmp_path / "none", count=0))


def table_names() -> set[str]:
    text = (Path(alignpipe_plugins.evaluation.__file__).parent / "README.md").read_text()
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE))


def test_the_names_are_those_of_the_readme(tmp_path: Path) -> None:
    names = {re.sub(r"^(reward|gold)/", "<judge>/", name) for name in run(tmp_path).metrics()}
    found = {re.sub(r"part/own$", "part/<name>", name) for name in names}
    assert found | {"<judge>/failures"} == table_names(), "failures are logged where there are any"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": 0}, "prompts must be at least 1"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1, got 1.0"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"samples": -1}, "samples must be at least 0"),
    ],
)
def test_options_that_cannot_be_run_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvalConfig(**changes)
