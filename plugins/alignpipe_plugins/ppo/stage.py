"""The stage of every ppo option: loads the players, trains, leaves an ordinary checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from alignpipe.api import Artifact, BuildContext, CheckContext, StageContext
from alignpipe.dataset import Dataset, Row
from alignpipe.errors import ConfigError, ModelError, TrainingError
from alignpipe.rewarding.artifact import open_gold, open_judge
from alignpipe.training.adapters import without_adapters
from alignpipe.training.checkpoint import latest_step
from alignpipe.training.linear_dtype import apply_linear_dtype, tell_of_rounding
from alignpipe.training.models import ModelSource, Policy, context_length, open_policy, save_checkpoint
from alignpipe.training.parallel import Team, join
from alignpipe.training.room import check_room, known_tokenizer
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe.training.tokens import encode_prompts, fingerprint, text_of
from alignpipe_plugins.ppo.config import LoopConfig, PPOConfig, Select
from alignpipe_plugins.ppo.critic import start_critic
from alignpipe_plugins.ppo.episodes import Prompts
from alignpipe_plugins.ppo.kept import KeptEpisodes
from alignpipe_plugins.ppo.loop import train_ppo
from alignpipe_plugins.ppo.players import Players
from alignpipe_plugins.ppo.validation import Validation


class PPOStage:
    """Trains the policy port's model against the reward port's reward."""

    def __init__(self, config: LoopConfig) -> None:
        self._config = config

    def check_ahead(self, inputs: Mapping[str, Artifact], ctx: CheckContext) -> None:
        """Raise what `run` raises for prompts, `select` and a reference, as far as their tokens are known."""
        data = Dataset(inputs["dataset"].folder)
        rows = data.rows("prompts", "train") + self._held_out(data, ctx)
        room, key = self._room(ctx)
        source: ModelSource = ctx.build(ctx.slots["model"])
        policy_from = inputs.get("policy")
        check_room(source, policy_from, rows, room, key)
        reference_from = inputs.get("reference", policy_from)
        if reference_from != policy_from:
            ours, theirs = (known_tokenizer(source, each) for each in (policy_from, reference_from))
            if ours is not None and theirs is not None:
                _check_same_tokens(ours, theirs, ctx)

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Train, and leave an ordinary Hugging Face checkpoint in the payload.

        Raises `DataError` for prompts that cannot be answered within the model's context, `ModelError` for a reference
        with other tokens than the policy, `ConfigError` for `select=best` without held-out prompts, and what
        `train_ppo` raises.
        """
        config = self._config
        source: ModelSource = ctx.build(ctx.slots["model"])
        team = join(ctx, shard=source.shard)
        data = Dataset(inputs["dataset"].folder)
        rows = data.rows("prompts", "train")
        policy_from = inputs.get("policy")
        reference_from = inputs.get("reference", policy_from)  # an emptied port: the policy as it was given
        policy = open_policy(source, policy_from, lambda: text_of(rows, "prompt"), ctx.seed)
        prompts = self._prompts(rows, policy, ctx)
        validation = self._validation(data, policy, ctx)
        judge = open_judge(inputs["reward"], ctx)
        judge.check_columns(rows, "training prompts")
        if validation is not None:
            judge.check_columns(validation.prompts.rows, "held-out prompts")
        apply_linear_dtype(policy.model, config.linear_dtype, ctx, team)
        # Before `adapt`, which may put adapters into the policy's model.
        critic = None
        if isinstance(config, PPOConfig):
            critic = start_critic(policy, source, judge, inputs["reward"].folder, prompts, ctx.work, ctx.device, team)
            apply_linear_dtype(critic.model, config.linear_dtype, ctx, team, tell=False)
        network = _without_dropout(source.adapt(policy.model)).to(ctx.device)
        tell_of_rounding(network, ctx)
        same = policy_from == reference_from
        reference = without_adapters(network) if same else None
        if reference is None:  # another checkpoint, or there are no adapters to switch off
            reference = self._reference(reference_from, policy, source, ctx, rows, team).to(ctx.device)
        players = Players(
            policy=policy,
            network=network,
            reference=reference.eval().requires_grad_(False),
            critic=critic,
            judge=judge,
            rollout=ctx.build(ctx.slots["rollout"]),
            temperature=config.temperature,
            device=ctx.device,
            starts_as_reference=same,
            team=team,
        )
        try:
            train_ppo(players, prompts, validation, config, ctx)
        except TrainingError as error:
            ctx.alert("failed", str(error), level="error")
            raise TrainingError(f"{error}{what_is_left(ctx)}") from error
        if team.leads:
            KeptEpisodes(ctx.work, team).write(ctx.payload)
            save_checkpoint(source.merge(players.network), policy.tokenizer, ctx.payload)

    def _reference(
        self,
        reference_from: Artifact | None,
        policy: Policy,
        source: ModelSource,
        ctx: StageContext,
        rows: Sequence[Row],
        team: Team,
    ) -> nn.Module:
        reference = open_policy(source, reference_from, lambda: text_of(rows, "prompt"), ctx.seed)
        _check_same_tokens(policy.tokenizer, reference.tokenizer, ctx)
        apply_linear_dtype(reference.model, self._config.linear_dtype, ctx, team, tell=False)
        return reference.model

    def _prompts(self, rows: Sequence[Row], policy: Policy, ctx: StageContext) -> Prompts:
        room, key = self._room(ctx)
        return Prompts(rows, encode_prompts(policy.tokenizer, rows, room, context_length(policy.model), key))

    def _room(self, ctx: CheckContext) -> tuple[int, str]:
        """How many tokens an answer may take, and where that is set."""
        return self._config.max_response_tokens, f"{ctx.stage}.max_response_tokens"

    def _held_out(self, data: Dataset, ctx: CheckContext) -> list[dict[str, Any]]:
        """The prompts that are answered on the way; none if the data has none, which `select=best` needs."""
        config = self._config
        if data.count("prompts", "heldout"):
            return data.rows("prompts", "heldout")[: config.eval_prompts]
        if config.select is Select.best:
            raise ConfigError(f"{ctx.stage}.select=best needs held-out prompts, and the data has none; use last")
        return []

    def _validation(self, data: Dataset, policy: Policy, ctx: StageContext) -> Validation | None:
        config = self._config
        rows = self._held_out(data, ctx)
        if not rows:
            ctx.say("no held-out prompts, so no evaluation on the way")
            return None
        prompts = self._prompts(rows, policy, ctx)
        uniforms = episode_uniforms(stream(ctx.seed, "held-out"), len(prompts.ids), config.max_response_tokens)
        return Validation(prompts, uniforms, open_gold(data, ctx), config.score_clip, config.missing_eos_score)


def what_is_left(ctx: StageContext) -> str:
    """What a training that failed leaves, as the end of its message."""
    step = latest_step(ctx.work)
    if step is None:
        return ""
    return (
        f". The newest checkpoint, of update {step}, stays in {ctx.work / 'checkpoints'}; the same command would go on "
        "from there and come to the same point"
    )


def _check_same_tokens(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, ctx: CheckContext) -> None:
    """Refuse a reference whose tokens are not the policy's."""
    if fingerprint(ours) != fingerprint(theirs):
        raise ModelError(
            f"inputs.{ctx.stage}.reference has another tokenizer than the policy, so there is no KL between them; "
            "name a checkpoint with the policy's own tokens"
        )


def _without_dropout(network: nn.Module) -> nn.Module:
    """Switch off the dropout that adapters may have brought; the models' own is off already (D19)."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def build(config: LoopConfig, context: BuildContext) -> PPOStage:
    """The component's factory."""
    return PPOStage(config)
