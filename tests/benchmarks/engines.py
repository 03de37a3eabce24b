"""The two sides of a comparison: alignpipe, and TRL in a Python of its own, each measured as processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from export import export
from running import HERE, alignpipe, copied_store, once, process
from workloads import Recipe, Size

BEFORE = {
    "sft": ["data"],
    "reward": ["data", "sft"],
    "ppo": ["data", "sft", "reward"],
    "grpo": ["data", "sft", "reward"],
}

NOT_THE_SAME = """\
The same on both sides: token ids of every table, initial weights, tokenizer, sizes, batch and minibatch sizes, steps,
learning rates and schedules, AdamW with its epsilon and no decay, temperature, KL coefficient and estimator, clip
ranges, gamma, lambda, float32 (if `--ours` says nothing else), no missing-end score, no normalised reward, no
checkpoint on the way.
Not the same: the order of the data and the sampled tokens (other random streams); the warm-up, (step + 1) / (n + 1)
with ours and step / n with TRL; our micro-batches are sorted by length. TRL is given token ids and need not tokenise
(but prompts of GRPO). PPO: TRL never clips gradients (ours: 1.0), puts the score one token later, takes old
log-probabilities from generation; ours samples by inverse CDF. GRPO: TRL puts the KL into the loss (k3), ours into
the reward (k1); TRL's rate falls every optimiser step, ours every update.
"""


def prepare(work: Path, name: str, size: Size, recipe: Recipe, more: Sequence[str]) -> dict[str, str]:
    """Data, sft and reward by alignpipe (stored, so that it costs once), and the export: the paths of it all."""
    prepared = work / f"prepared-{name}"
    overrides = [*size.overrides(), *recipe.overrides(), *more]
    run = alignpipe(prepared, overrides, BEFORE["ppo"])
    paths = {stage: run.artifact(stage) for stage in BEFORE["ppo"]}

    def write() -> dict[str, Any]:
        folder = work / f"export-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        export(Path(paths["data"]), Path(paths["sft"]), size, recipe.seed, folder)
        return {"folder": str(folder)}

    folder = once(work, f"export-{name}", {"paths": paths}, write)["folder"]
    return {**paths, "store": str(prepared), "export": folder, "base": f"{folder}/base"}


def ours(work: Path, paths: dict[str, str], task: str, recipe: Recipe, overrides: Sequence[str]) -> dict[str, Any]:
    """One stage by alignpipe: `steps` in seconds, the process, and how well it learned."""
    stage = "ppo" if task == "grpo" else task
    outputs = copied_store(Path(paths["store"]), work / "round", again=[stage, "eval"])
    run = alignpipe(outputs, overrides, [*BEFORE[task], stage])
    last = run.lines("metrics.jsonl", stage)[-1]
    found: dict[str, Any] = {**run.used}
    if stage == "ppo":
        phases = run.phases()
        found |= {"steps": [line["update"] for line in phases], "apart": sum(line["evaluate"] for line in phases)}
        tokens = sum(line["tokens"] for line in phases) / len(phases) / recipe.episodes
        score = last["ppo/objective/scores"]
        return found | {"score": score, "kl": last["ppo/objective/kl"], "tokens": tokens}
    seconds = [line[f"{stage}/time/step"] for line in run.lines("timings.jsonl", stage)]
    seconds[-1] = sorted(seconds)[len(seconds) // 2]  # the last one holds the evaluation
    found |= {"steps": seconds}
    metrics = run.summary["metrics"]
    figures = {"loss": metrics.get(f"{stage}/eval_loss"), "accuracy": metrics.get(f"{stage}/eval_accuracy")}
    return found | {key: value for key, value in figures.items() if value is not None}


def trl(python: str, task: str, spec: dict[str, Any], out: Path) -> dict[str, Any]:
    """One trainer of TRL: `steps` in seconds, the process, and how well it learned; its model is `<out>/model`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    path = out / "spec.json"
    path.write_text(json.dumps({**spec, "out": str(out)}, indent=1) + "\n")
    used = process([python, str(HERE / f"trl_{task}.py"), str(path)], out / "log")
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return {**result, **used}


def specs(paths: dict[str, str], recipe: Recipe, *, judge: bool) -> dict[str, dict[str, Any]]:
    """What each driver reads when it starts from alignpipe's own checkpoints."""
    common = {**recipe.spec(), "data": paths["export"], "judge": judge, "save_every": 0}
    return {
        "sft": {**common, "model": paths["base"]},
        "reward": {**common, "model": paths["sft"]},
        "ppo": {**common, "model": paths["sft"], "reward_model": paths["reward"]},
        "grpo": {**common, "model": paths["sft"], "reward_model": paths["reward"]},
    }
