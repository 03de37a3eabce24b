"""The stage of ppo=ppo: loads the players, trains, leaves an ordinary checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from alignpipe.api import Artifact, BuildContext, Selected, StageContext
from alignpipe.dataset import Dataset, Row
from alignpipe.errors import DataError
from alignpipe.rewarding.artifact import open_reward, reward_name
from alignpipe.training.models import (
    ModelSource,
    Policy,
    TokenScorer,
    context_length,
    load_tokenizer,
    open_policy,
    save_checkpoint,
)
from alignpipe.training.rollouts import episode_uniforms
from alignpipe.training.tokens import encode_prompt, fingerprint, text_of

from alignpipe_plugins.ppo.collect import Judge, Sampler
from alignpipe_plugins.ppo.config import PPOConfig
from alignpipe_plugins.ppo.episodes import Prompts
from alignpipe_plugins.ppo.loop import Players, train_ppo
from alignpipe_plugins.ppo.validation import Validation

_VALIDATION_STREAM = -1
"""The update number whose random stream belongs to held-out evaluation."""


class PPOStage:
    """Trains the policy port's model against the reward port's reward."""

    def __init__(self, config: PPOConfig) -> None:
        self._config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Train, and leave an ordinary Hugging Face checkpoint in the payload."""
        config = self._config
        data = Dataset(inputs["dataset"].folder)
        rows = data.rows("prompts", "train")
        source: ModelSource = ctx.build(ctx.slots["model"])
        policy = open_policy(source, inputs.get("policy"), lambda: text_of(rows, "prompt"), ctx.seed)
        reference = open_policy(source, inputs.get("reference"), lambda: text_of(rows, "prompt"), ctx.seed)
        judge = Judge(open_reward(inputs["reward"].folder, ctx), reward_name(inputs["reward"].folder))
        players = Players(
            policy=policy,
            network=source.adapt(policy.model).to(ctx.device),
            reference=reference.model.to(ctx.device).eval().requires_grad_(False),
            critic=_critic(inputs, policy, source, ctx).to(ctx.device),
            judge=judge,
            sampler=Sampler(ctx.build(ctx.slots["rollout"]), config.temperature, ctx.device),
            starts_as_reference=inputs.get("policy") == inputs.get("reference"),
        )
        prompts = self._prompts(rows, policy, f"{ctx.stage}.max_response_tokens")
        train_ppo(players, prompts, self._validation(data, policy, judge, ctx), config, ctx)
        save_checkpoint(source.merge(players.network), policy.tokenizer, ctx.payload)

    def _prompts(self, rows: Sequence[Row], policy: Policy, key: str) -> Prompts:
        """Tokenise prompts; raises `DataError` for one that leaves no room for a response."""
        ids = [encode_prompt(policy.tokenizer, row["prompt"], row["messages"]) for row in rows]
        longest, context = max(len(prompt) for prompt in ids), context_length(policy.model)
        if context is not None and longest + self._config.max_response_tokens > context:
            raise DataError(
                f"a prompt of {longest} tokens and {key}={self._config.max_response_tokens} do not fit into the model's "
                f"{context} tokens; lower {key} or data.max_prompt_tokens"
            )
        if any(not prompt for prompt in ids):
            raise DataError("an empty prompt cannot be answered: drop it from data.prompts")
        return Prompts(rows, ids)

    def _validation(self, data: Dataset, policy: Policy, judge: Judge, ctx: StageContext) -> Validation | None:
        config = self._config
        if not data.count("prompts", "heldout"):
            ctx.say(f"{ctx.stage}: no held-out prompts, so no evaluation on the way")
            return None
        prompts = self._prompts(data.rows("prompts", "heldout")[: config.eval_prompts], policy, f"{ctx.stage}.max_response_tokens")
        uniforms = episode_uniforms(ctx.seed, _VALIDATION_STREAM, len(prompts.ids), config.max_response_tokens)
        return Validation(prompts, uniforms, judge, open_gold(data, ctx))


def open_gold(data: Dataset, ctx: StageContext) -> Judge | None:
    """The reward that knows the truth about the data, if the data names one."""
    if data.gold is None:
        return None
    return Judge(ctx.build(Selected("reward", data.gold.name, dict(data.gold.config))), data.gold.name)


def _critic(inputs: Mapping[str, Artifact], policy: Policy, source: ModelSource, ctx: StageContext) -> TokenScorer:
    """The critic starts as the reward model, if that reads the policy's tokens, else as the policy with a zero head (D45)."""
    folder = inputs["reward"].folder
    if _reads_tokens_of(policy, folder):
        return TokenScorer(source.load_scorer(folder))
    start = ctx.work / "critic_start"
    save_checkpoint(policy.model, policy.tokenizer, start)
    model = source.load_scorer(start)
    with torch.no_grad():
        model.score.weight.zero_()  # type: ignore[operator,union-attr]
    return TokenScorer(model)


def _reads_tokens_of(policy: Policy, folder: Path) -> bool:
    """Whether a reward's payload is a model with the policy's own vocabulary."""
    if not (folder / "config.json").is_file():
        return False
    return fingerprint(load_tokenizer(folder)) == fingerprint(policy.tokenizer)


def build(config: PPOConfig, context: BuildContext) -> PPOStage:
    """The component's factory."""
    return PPOStage(config)
