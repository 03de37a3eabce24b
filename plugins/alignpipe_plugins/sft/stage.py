"""The stage of sft=standard: base model in, fine-tuned checkpoint out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from alignpipe.api import Artifact, BuildContext, StageContext
from alignpipe.dataset import Dataset, Row
from alignpipe.errors import DataError
from alignpipe.training import supervised
from alignpipe.training.batches import pad_rows, response_logprobs
from alignpipe.training.linear_dtype import apply_linear_dtype, tell_of_rounding
from alignpipe.training.models import Policy, limit_length, open_policy, save_checkpoint
from alignpipe.training.parallel import ALONE, Team, join
from alignpipe.training.tokens import fit_length, in_shares, prompt_ids, response_ids, text_of
from alignpipe_plugins.sft.config import LossOn, SFTConfig


@dataclass(frozen=True)
class Demonstration:
    """Token ids of one prompt and its response; the loss counts the response's tokens."""

    prompt: list[int]
    response: list[int]

    @property
    def length(self) -> int:
        """Tokens to compute."""
        return len(self.prompt) + len(self.response)

    @property
    def weight(self) -> int:
        """Tokens in the loss."""
        return len(self.response)


class SFTStage:
    """Fine-tunes the base model on the demonstrations."""

    def __init__(self, config: SFTConfig) -> None:
        self._config = config

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Train, and leave an ordinary Hugging Face checkpoint in the payload."""
        config, source = self._config, ctx.build(ctx.slots["model"])
        team = join(ctx, shard=source.shard)
        data = Dataset(inputs["dataset"].folder)
        rows = data.rows("demonstrations", "train")
        policy = open_policy(source, inputs.get("policy"), lambda: text_of(rows, "prompt", "completion"), ctx.seed)
        length = limit_length(config.max_length, policy.model)
        key = f"{ctx.stage}.max_length"
        train_set = tokenise(rows, policy, length, config.loss_on, key, team)
        if data.count("demonstrations", "heldout"):
            held_out = data.rows("demonstrations", "heldout")[: config.heldout]
            heldout = tokenise(held_out, policy, length, config.loss_on, key, team)
        else:
            heldout = []
            ctx.say("no held-out demonstrations, so no evaluation loss")
        apply_linear_dtype(policy.model, config.linear_dtype, ctx, team)  # before adapters hide the layers
        model = source.adapt(policy.model).to(ctx.device)
        tell_of_rounding(model, ctx)

        def loss(network: nn.Module, batch: Sequence[Demonstration]) -> supervised.LossSums:
            tokens = pad_rows(
                [row.prompt for row in batch],
                [row.response for row in batch],
                policy.tokenizer.pad_token_id,
                ctx.device,
            )
            logp, _ = response_logprobs(network, tokens)
            return supervised.LossSums(-logp.sum())

        def evaluate() -> dict[str, float]:
            if not heldout:
                return {}
            mean = supervised.mean_over(heldout, config.micro_batch_size, loss, model, team)["loss"]
            return {"eval_loss": mean, "eval_perplexity": math.exp(min(mean, 700.0))}

        supervised.train(model, train_set, loss, evaluate, config, ctx, ("loss", "eval_loss", "lr"), team)
        if team.leads:
            save_checkpoint(source.merge(model), policy.tokenizer, ctx.payload)


def tokenise(
    rows: Sequence[Row],
    policy: Policy,
    max_length: int,
    loss_on: LossOn,
    key: str = "sft.max_length",
    team: Team = ALONE,
) -> list[Demonstration]:
    """Token ids of the rows; with `LossOn.all` all tokens but the first are moved to the response side.

    `key` is where `max_length` is set. Each process of `team` encodes its share.

    Raises `DataError` if a prompt alone fills `max_length`.
    """

    def encode(own: list[Row]) -> list[tuple[list[int], list[int]]]:
        responses = response_ids(policy.tokenizer, [row["completion"] for row in own])
        return list(zip(prompt_ids(policy.tokenizer, own), responses, strict=True))

    examples = []
    for prompt, response in in_shares(team, rows, encode):
        if not prompt:  # plain text without a prompt: the first token has nothing to be predicted from
            prompt, response = response[:1], response[1:]
        prompt, response = fit_length(prompt, response, max_length, key)
        if loss_on is LossOn.all:
            prompt, response = prompt[:1], prompt[1:] + response
        if response:
            examples.append(Demonstration(prompt, response))
    if not examples:
        raise DataError("no demonstration has a token to learn from")
    return examples


def build(config: SFTConfig, context: BuildContext) -> SFTStage:
    """The component's factory."""
    return SFTStage(config)
