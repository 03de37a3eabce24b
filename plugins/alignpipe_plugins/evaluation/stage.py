"""The stage of eval=standard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from alignpipe.api import Artifact, BuildContext, Reward, Selected, StageContext
from alignpipe.dataset import Dataset, Row
from alignpipe.rewarding.artifact import open_reward, reward_name
from alignpipe.training.models import ModelSource, Policy, context_length, open_policy
from alignpipe.training.rollouts import Rollout, episode_uniforms
from alignpipe.training.tokens import fingerprint, text_of

from alignpipe_plugins.evaluation.answers import Answers, answer, kl_to, perplexity, scores_of
from alignpipe_plugins.evaluation.comparison import compare, rows_of
from alignpipe_plugins.evaluation.config import EvalConfig

_POLICY_STREAM, _BASELINE_STREAM = -2, -3
"""The update numbers whose random streams belong to the two sides: their samples are independent (one each)."""


class EvalStage:
    """Compares the policy with the baseline on held-out prompts."""

    def __init__(self, config: EvalConfig) -> None:
        self._config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Log the figures, and leave `report.json` and `samples.jsonl` in the payload."""
        config = self._config
        data = Dataset(inputs["dataset"].folder)
        rows = data.rows("prompts", "heldout")[: config.prompts]
        policy = self._open(inputs["policy"], rows, ctx)
        ours = self._answer(policy, inputs["policy"].stage, rows, _POLICY_STREAM, ctx)
        ctx.progress(1, 3, unit="part")
        baseline = theirs = None
        if "baseline" in inputs:
            baseline = self._open(inputs["baseline"], rows, ctx)
            theirs = self._answer(baseline, inputs["baseline"].stage, rows, _BASELINE_STREAM, ctx)
        ctx.progress(2, 3, unit="part")

        figures: dict[str, float] = {}
        table: list[list[str | float | None]] = []
        columns: dict[str, tuple[list[float], list[float] | None]] = {}
        for title, (name, reward) in self._judges(inputs, data, ctx).items():
            our_scores = scores_of(ours, reward, name)
            their_scores = scores_of(theirs, reward, name) if theirs is not None else None
            compared = compare(
                our_scores, their_scores, seed=ctx.seed, confidence=config.confidence, resamples=config.resamples
            )
            figures.update({f"{title}/{key}": value for key, value in compared.items()})
            table += rows_of(title, compared, config.confidence)
            columns[title] = (our_scores.total, their_scores.total if their_scores is not None else None)
        self._compare_texts(ours, theirs, policy, baseline, figures, table, ctx)
        self._perplexities(data, policy, baseline, figures, table, ctx)
        ctx.log(figures, step=0)
        ctx.progress(3, 3, unit="part")
        _write(ctx, table, ours, theirs, columns, config.samples)

    def _open(self, artifact: Artifact, rows: Sequence[Row], ctx: StageContext) -> Policy:
        source: ModelSource = ctx.build(ctx.slots["model"])
        policy = open_policy(source, artifact, lambda: text_of(rows, "prompt"), ctx.seed)
        policy.model.to(ctx.device).eval()  # type: ignore[arg-type]
        return policy

    def _answer(self, policy: Policy, name: str, rows: Sequence[Row], stream: int, ctx: StageContext) -> Answers:
        config = self._config
        rollout: Rollout = ctx.build(ctx.slots["rollout"])
        uniforms = episode_uniforms(ctx.seed, stream, len(rows), config.max_response_tokens)
        return answer(policy, name, rows, rollout, uniforms, config.temperature, config.max_response_tokens)

    def _judges(self, inputs: Mapping[str, Artifact], data: Dataset, ctx: StageContext) -> dict[str, tuple[str, Reward]]:
        """The rewards to score with: the run's, and the data's gold one."""
        judges: dict[str, tuple[str, Reward]] = {}
        if "reward" in inputs:
            folder = inputs["reward"].folder
            judges["reward"] = (reward_name(folder), open_reward(folder, ctx))
        if data.gold is not None:
            gold = ctx.build(Selected("reward", data.gold.name, dict(data.gold.config)))
            judges["gold"] = (data.gold.name, gold)
        return judges

    def _compare_texts(
        self,
        ours: Answers,
        theirs: Answers | None,
        policy: Policy,
        baseline: Policy | None,
        figures: dict[str, float],
        table: list[list[str | float | None]],
        ctx: StageContext,
    ) -> None:
        """KL to the baseline, length, ends, variety."""
        if baseline is not None:
            if fingerprint(policy.tokenizer) == fingerprint(baseline.tokenizer):
                kl = kl_to(policy, baseline, ours, self._config.temperature, ctx.device)
                figures["kl"] = sum(kl) / len(kl)
                table.append(["KL to baseline (nats)", None, figures["kl"]])
            else:
                ctx.say(f"{ctx.stage}: policy and baseline have different tokenizers, so no KL between them")
        own, other = ours.figures(), theirs.figures() if theirs is not None else {}
        figures.update(own)
        figures.update({f"baseline_{name}": value for name, value in other.items()})
        labels = {"length": "length (tokens)", "eos_rate": "ended by itself", "distinct_1": "distinct-1", "distinct_2": "distinct-2"}
        table += [[label, other.get(name), own[name]] for name, label in labels.items()]

    def _perplexities(
        self,
        data: Dataset,
        policy: Policy,
        baseline: Policy | None,
        figures: dict[str, float],
        table: list[list[str | float | None]],
        ctx: StageContext,
    ) -> None:
        if not data.count("demonstrations", "heldout"):
            return
        rows = data.rows("demonstrations", "heldout")[: self._config.perplexity_rows]
        length = context_length(policy.model) or 1024
        figures["perplexity"] = perplexity(policy, rows, length, ctx.device)
        theirs = perplexity(baseline, rows, length, ctx.device) if baseline is not None else None
        if theirs is not None:
            figures["baseline_perplexity"] = theirs
        table.append(["held-out perplexity", theirs, figures["perplexity"]])


def _write(
    ctx: StageContext,
    table: list[list[str | float | None]],
    ours: Answers,
    theirs: Answers | None,
    columns: Mapping[str, tuple[list[float], list[float] | None]],
    shown: int,
) -> None:
    """The report, and every pair of answers side by side, one JSON object a line."""
    samples: list[dict[str, Any]] = []
    for index, sample in enumerate(ours.samples):
        line: dict[str, Any] = {"prompt": sample.prompt, "policy": sample.response}
        if theirs is not None:
            line["baseline"] = theirs.samples[index].response
        for title, (mine, other) in columns.items():
            line[f"policy_{title}"] = mine[index]
            if other is not None:
                line[f"baseline_{title}"] = other[index]
        samples.append(line)
    with (ctx.payload / "samples.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in samples)
    names = [theirs.name if theirs is not None else "-", ours.name]
    report = {"columns": names, "rows": table, "samples": samples[:shown]}
    (ctx.payload / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def build(config: EvalConfig, context: BuildContext) -> EvalStage:
    """The component's factory."""
    return EvalStage(config)
