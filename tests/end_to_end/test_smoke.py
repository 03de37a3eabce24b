"""The whole chain through the console script, from a folder that has nothing to do with the repository."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from support.commands import alignpipe, run, statuses, succeed, summaries

STAGES = ["data", "sft", "reward", "ppo", "eval"]
SMOKE = ("experiment=smoke",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one smoke run was made."""
    folder = tmp_path_factory.mktemp("smoke")
    done = succeed(alignpipe(folder, *SMOKE))
    (folder / "stdout").write_text(done.stdout)
    (folder / "stderr").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> dict[str, Any]:
    """The summary of that run."""
    return summaries(folder)[0]


def test_the_summary_says_how_every_stage_went(first):
    assert set(first) == {"schema", "status", "run_key", "attempt", "stages", "metrics"}
    assert (first["schema"], first["status"], first["attempt"]) == (1, "finished", 1)
    assert statuses(first) == dict.fromkeys(STAGES, "ran")
    for stage in first["stages"].values():
        assert set(stage) == {"status", "key", "digest", "artifact", "seconds", "error"}
        assert stage["error"] is None
        assert Path(stage["artifact"]).is_dir()
        assert stage["digest"] in stage["artifact"]


def test_the_summary_has_the_promised_metrics(first):
    metrics = first["metrics"]
    assert all(math.isfinite(value) for value in metrics.values())
    gold = {f"eval/gold/{name}" for name in ("mean", "win_rate", "win_rate_low", "win_rate_high")}
    assert gold | {"eval/kl", "reward/heldout/accuracy", "ppo/objective/kl", "ppo/objective/scores"} <= set(metrics)
    assert "ppo/policy/approxkl_avg" in metrics
    assert any(name.startswith("eval/reward/") for name in metrics)
    assert metrics["eval/gold/win_rate_low"] <= metrics["eval/gold/win_rate"] <= metrics["eval/gold/win_rate_high"]
    assert {name.partition("/")[0] for name in metrics} == set(STAGES)


def test_metrics_are_lines_of_the_stage_that_logged_them(folder):
    path = next(folder.glob("outputs/runs/*/metrics.jsonl"))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["stage"] for line in lines} == set(STAGES)
    for line in lines:
        names = set(line) - {"stage", "step"}
        assert names
        assert all(name.startswith(f"{line['stage']}/") for name in names)
    steps = [line["step"] for line in lines if line["stage"] == "sft"]
    assert steps == sorted(set(steps))


def test_the_policies_are_ordinary_checkpoints(first):
    for stage in ("sft", "ppo"):
        folder = first["stages"][stage]["artifact"]
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.pad_token_id != tokenizer.eos_token_id
        logits = model(torch.tensor([tokenizer.encode("My parcel is late.")])).logits
        assert torch.isfinite(logits).all()


def test_the_reward_model_loads_as_a_classifier(first):
    folders = sorted(path.parent for path in Path(first["stages"]["reward"]["artifact"]).rglob("model.safetensors"))
    assert len(folders) == 1
    model = AutoModelForSequenceClassification.from_pretrained(folders[0])
    assert model.config.num_labels == 1


def test_the_end_shows_the_comparison_samples_and_places(folder):
    shown = (folder / "stdout").read_text()
    assert shown.count("prompt    ") == 3
    assert "win rate" in shown
    assert "run folder" in shown
    assert "alignpipe experiment=smoke seed=1" in shown
    assert "\x1b" not in shown + (folder / "stderr").read_text(), "no terminal, no escape sequences"


def test_every_estimator_in_one_sweep(folder, first):
    """Data, sft and reward are the first run's; each estimator learns something else."""
    estimators = ["grpo", "rloo", "reinforce_pp"]
    chosen = f"ppo={','.join(estimators)}"
    succeed(alignpipe(folder, "-m", *SMOKE, chosen, "stages=[data,sft,reward,ppo]", "tracker=[]"))
    paths = sorted(folder.glob("outputs/sweeps/*/*/summary.json"))
    made = [json.loads(path.read_text()) for path in paths]
    cached = dict.fromkeys(["data", "sft", "reward"], "cached")
    assert [statuses(summary) for summary in made] == [{**cached, "ppo": "ran"}] * 3
    assert len({summary["stages"]["ppo"]["digest"] for summary in (first, *made)}) == 4
    for summary in made:
        assert "ppo/objective/kl" in summary["metrics"]
        assert "ppo/loss/value_avg" not in summary["metrics"]


# The next three change the store of the first run, so they stand last and build on each other in this order.


def test_the_same_command_again_does_no_work_and_does_not_import_torch(folder, first):
    script = (
        "import json, sys\n"
        "from alignpipe.cli.main import main\n"
        "sys.argv[0] = 'alignpipe'\n"
        "status = main()\n"
        "json.dump(sorted(sys.modules), open('modules.json', 'w'))\n"
        "sys.exit(status)\n"
    )
    (folder / "run.py").write_text(script)
    succeed(run([sys.executable, "run.py", *SMOKE], folder))
    again = summaries(folder)[-1]
    assert statuses(again) == dict.fromkeys(STAGES, "cached")
    assert again["metrics"] == first["metrics"]
    digests = {name: stage["digest"] for name, stage in again["stages"].items()}
    assert digests == {name: stage["digest"] for name, stage in first["stages"].items()}
    assert not {"torch", "transformers", "datasets"} & set(json.loads((folder / "modules.json").read_text()))


def test_a_changed_option_reruns_its_stage_and_what_follows(folder):
    plan = succeed(alignpipe(folder, "plan", *SMOKE, "ppo.kl_coef=0.1")).stdout
    assert [line.split()[1].rstrip(":") for line in plan.splitlines() if line.split()[0] in STAGES][:3] == ["hit"] * 3
    succeed(alignpipe(folder, *SMOKE, "ppo.kl_coef=0.1"))
    expected = {"data": "cached", "sft": "cached", "reward": "cached", "ppo": "ran", "eval": "ran"}
    assert statuses(summaries(folder)[-1]) == expected


def test_the_store_is_sound(folder):
    assert "0 damaged" in succeed(alignpipe(folder, "store", "verify")).stdout
    listed = succeed(alignpipe(folder, "store", "ls")).stdout
    assert {line.split()[0] for line in listed.splitlines()[1:]} == set(STAGES)
