"""The stage of eval=standard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignpipe.api import Artifact, BuildContext, CheckContext, Split, StageContext
from alignpipe.dataset import Dataset, Row
from alignpipe.rewarding.artifact import open_gold, open_judge
from alignpipe.rewarding.judge import Judge, TooFewScores
from alignpipe.training.lanes import Lanes
from alignpipe.training.models import ModelSource, Policy, open_policy
from alignpipe.training.rollouts import Rollout
from alignpipe.training.room import check_room
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe.training.tokens import fingerprint, text_of
from alignpipe_plugins.evaluation.answers import Answers, answer, kl_to, perplexity, swapped
from alignpipe_plugins.evaluation.comparison import compare, rows_of
from alignpipe_plugins.evaluation.config import EvalConfig
from alignpipe_plugins.evaluation.report import Report

_LABELS = {
    "length": "length (tokens)",
    "eos_rate": "ended by itself",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}


class EvalStage:
    """Compares the policy with the baseline on held-out prompts."""

    def __init__(self, config: EvalConfig) -> None:
        self._config = config

    def check_ahead(self, inputs: Mapping[str, Artifact], ctx: CheckContext) -> None:
        """Raise `DataError` for a prompt that leaves no room for an answer."""
        config = self._config
        rows = Dataset(inputs["dataset"].folder).rows("prompts", "heldout")[: config.prompts]
        source: ModelSource = ctx.build(ctx.slots["model"])
        for origin in (inputs[port] for port in ("policy", "baseline") if port in inputs):
            check_room(source, origin, rows, config.max_response_tokens, _room_key(ctx))

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Log the figures, and leave `report.json` and `samples.jsonl` in the payload.

        Raises `DataError` without held-out prompts, or for one that leaves no room for an answer.
        """
        data = Dataset(inputs["dataset"].folder)
        rows = data.rows("prompts", "heldout")[: self._config.prompts]
        policy = self._open(inputs["policy"], data, ctx)
        ours = self._answer(policy, inputs["policy"].stage, rows, "policy", ctx)
        ctx.progress(1, 3, unit="part")
        baseline = theirs = None
        if "baseline" in inputs:
            baseline = self._open(inputs["baseline"], data, ctx)
            theirs = self._answer(baseline, inputs["baseline"].stage, rows, "baseline", ctx)
        ctx.progress(2, 3, unit="part")

        report = Report(ours, theirs)
        for title, judge in _judges(inputs, data, ctx).items():
            judge.check_columns(rows, "held-out prompts")
            try:
                self._judge(title, judge, report, ctx.seed)
            except TooFewScores as error:
                ctx.say(f"no {title} figures: {error}")
        self._measure_kl(policy, baseline, report, ctx)
        _describe(report)
        self._perplexities(data, policy, baseline, report, ctx)
        ctx.log(report.figures, step=0)
        ctx.progress(3, 3, unit="part")
        report.write(ctx.payload, shown=self._config.samples)

    def _open(self, artifact: Artifact, data: Dataset, ctx: StageContext) -> Policy:
        source: ModelSource = ctx.build(ctx.slots["model"])
        split: Split = "train" if data.count("prompts", "train") else "heldout"
        # A base model's tokenizer may be trained: on the texts PPO trains it on, so that it is the very same model.
        policy = open_policy(source, artifact, lambda: text_of(data.rows("prompts", split), "prompt"), ctx.seed)
        policy.model.to(ctx.device).eval()  # type: ignore[arg-type]
        return policy

    def _answer(self, policy: Policy, name: str, rows: Sequence[Row], side: str, ctx: StageContext) -> Answers:
        rollout: Rollout = ctx.build(ctx.slots["rollout"])
        # Each side has a stream of its own: their answers are independent.
        random = stream(ctx.seed, f"answers of the {side}")
        uniforms = episode_uniforms(random, len(rows), self._config.max_response_tokens)
        return answer(policy, name, rows, rollout, uniforms, self._config.temperature, _room_key(ctx))

    def _judge(self, title: str, judge: Judge, report: Report, seed: int) -> None:
        """Score both sides, and our answers to each other's prompts."""
        config, ours, theirs = self._config, report.ours.samples, report.theirs
        our_scores = judge.score(ours)
        their_scores = judge.score(theirs.samples) if theirs is not None else None
        compared = compare(
            our_scores,
            their_scores,
            judge.score(swapped(ours)) if len(ours) > 1 else None,
            seed=seed,
            confidence=config.confidence,
            resamples=config.resamples,
        )
        report.figures.update({f"{title}/{key}": value for key, value in compared.items()})
        report.table += rows_of(title, compared, config.confidence)
        report.columns[title] = (our_scores.total, their_scores.total if their_scores is not None else None)
        for part, values in our_scores.parts.items():
            report.columns[f"{title}_{part}"] = (values, their_scores.parts.get(part) if their_scores else None)

    def _measure_kl(self, policy: Policy, baseline: Policy | None, report: Report, ctx: StageContext) -> None:
        if baseline is None:
            return
        if fingerprint(policy.tokenizer) != fingerprint(baseline.tokenizer):
            ctx.say("policy and baseline have different tokenizers, so no KL between them")
            return
        kl = kl_to(policy, baseline, report.ours, self._config.temperature, ctx.device, Lanes.of(ctx))
        report.figures["kl"] = sum(kl) / len(kl)
        report.table.append(["KL to baseline (nats)", None, report.figures["kl"]])
        report.columns["kl"] = (kl, None)

    def _perplexities(
        self, data: Dataset, policy: Policy, baseline: Policy | None, report: Report, ctx: StageContext
    ) -> None:
        if not data.count("demonstrations", "heldout"):
            return
        rows = data.rows("demonstrations", "heldout")[: self._config.perplexity_rows]
        own = perplexity(policy, rows, ctx.device, Lanes.of(ctx))
        other = None if baseline is None else perplexity(baseline, rows, ctx.device, Lanes.of(ctx))
        both = {"perplexity": own, "baseline_perplexity": other}
        found = {name: value for name, value in both.items() if value is not None}
        report.figures.update(found)
        if found:
            report.table.append(["held-out perplexity", other, own])


def _describe(report: Report) -> None:
    """Length, ends, variety."""
    own = report.ours.figures()
    other = report.theirs.figures() if report.theirs is not None else {}
    report.figures.update(own)
    report.figures.update({f"baseline_{name}": value for name, value in other.items()})
    report.table += [[label, other.get(name), own[name]] for name, label in _LABELS.items()]


def _room_key(ctx: CheckContext) -> str:
    return f"{ctx.stage}.max_response_tokens"


def _judges(inputs: Mapping[str, Artifact], data: Dataset, ctx: StageContext) -> dict[str, Judge]:
    """The rewards to score with: the run's, and the data's gold one."""
    gold = open_gold(data, ctx)
    return {
        **({"reward": open_judge(inputs["reward"], ctx)} if "reward" in inputs else {}),
        **({"gold": gold} if gold is not None else {}),
    }


def build(config: EvalConfig, context: BuildContext) -> EvalStage:
    """The component's factory."""
    return EvalStage(config)
