"""The Bradley-Terry reward model: trained on pairs, normalised, saved as an ordinary sequence classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from alignpipe.api import Artifact, BuildContext, Sample, StageContext
from alignpipe.dataset import Dataset, Row
from alignpipe.errors import DataError, RewardError
from alignpipe.training import supervised
from alignpipe.training.lanes import Lanes
from alignpipe.training.linear_dtype import apply_linear_dtype
from alignpipe.training.linears import multiply_as_stored
from alignpipe.training.models import (
    ModelSource,
    Policy,
    TokenScorer,
    fit_tokenizer,
    limit_length,
    load_scorer,
    load_tokenizer,
    new_score_head,
    open_policy,
    save_checkpoint,
)
from alignpipe.training.ordering import by_length
from alignpipe.training.parallel import Team, join
from alignpipe.training.rollouts import Rollout, as_samples, sampled
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe.training.tokens import encode_prompt, fingerprint, fit_length, prompt_ids, response_ids, text_of
from alignpipe_plugins.bradley_terry.config import BradleyTerryConfig, Normalise
from alignpipe_plugins.bradley_terry.pairs import MAX_LENGTH, Pair, layout_mismatch, pair_loss, score_ids, tokenise

_NORMALISATION = "normalisation.json"
_BATCH = 64


class BradleyTerryReward:
    """Scores with a trained model: gain * head output at the last token + bias."""

    def __init__(self, config: BradleyTerryConfig, device: str, lanes: Lanes) -> None:
        self._config = config
        self._device = device
        self._lanes = lanes
        self._scorer: TokenScorer | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._vocabulary = ""
        self._length = config.max_length
        self._gain, self._bias = 1.0, 0.0

    def fit(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Train from the policy port's model on the training pairs, then normalise.

        Raises `DataError` if there are no pairs, or a prompt is too long.
        """
        config = self._config
        source: ModelSource = ctx.build(ctx.slots["model"])
        team = join(ctx, shard=source.shard)
        data = Dataset(inputs["dataset"].folder)
        rows = data.rows("preferences", "train")
        policy = open_policy(
            source, inputs.get("policy"), lambda: text_of(rows, "prompt", "chosen", "rejected"), ctx.seed
        )
        scorer = _scorer_from(policy, source, inputs.get("policy"), ctx, team)
        apply_linear_dtype(scorer.model, config.linear_dtype, ctx, team)
        self._use(scorer, policy.tokenizer)
        pad_id = int(policy.tokenizer.pad_token_id)
        train_set = tokenise(rows, policy.tokenizer, self._length, team)
        heldout = []
        if data.count("preferences", "heldout"):
            some = data.rows("preferences", "heldout")[: config.heldout]
            heldout = tokenise(some, policy.tokenizer, self._length, team)

        def loss(network: nn.Module, batch: Sequence[Pair]) -> supervised.LossSums:
            return pair_loss(cast(TokenScorer, network), batch, pad_id, ctx.device)

        def evaluate() -> dict[str, float]:
            if not heldout:
                return {}
            means = supervised.mean_over(heldout, config.micro_batch_size, loss, scorer, team)
            return {f"eval_{name}": value for name, value in means.items()}

        watch = ("loss", "accuracy", "eval_accuracy")
        supervised.train(scorer, train_set, loss, evaluate, config, ctx, watch, team)
        scorer.eval()
        multiply_as_stored(scorer.model)  # so that the normalisation is of the scores that the stored model gives
        if not team.leads:
            return
        self._normalise(policy, data, rows, ctx)
        with torch.no_grad():
            mismatch = layout_mismatch(scorer, (heldout or train_set)[:_BATCH], pad_id, ctx.device)
        ctx.log({"layout_mismatch": mismatch, "gain": self._gain, "bias": self._bias})

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One normalised score per sample; the policy's own ids are read where the tokenizer is the same."""
        scorer, tokenizer = self._ready()
        texts = self._ids(samples, tokenizer)
        raw = torch.zeros(len(texts))

        def score(group: list[int]) -> None:
            prompts, responses = [texts[index][0] for index in group], [texts[index][1] for index in group]
            raw[group] = score_ids(scorer, prompts, responses, int(tokenizer.pad_token_id), self._device).cpu()

        lengths = [len(prompt) + len(response) for prompt, response in texts]
        with torch.no_grad():
            self._lanes.map(score, list(by_length(lengths, self._lanes.rows_at_once(_BATCH, len(texts)))))
        return (self._gain * raw + self._bias).tolist()

    def save(self, folder: Path) -> None:
        """Write the classifier (it loads with `AutoModelForSequenceClassification`) and the normalisation (D17)."""
        scorer, tokenizer = self._ready()
        save_checkpoint(scorer.model, tokenizer, folder)
        record = {"gain": self._gain, "bias": self._bias, "max_length": self._length}
        (folder / _NORMALISATION).write_text(json.dumps(record, sort_keys=True) + "\n")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises `RewardError` if the normalisation is missing: raw scores would pass for normalised ones (D17).
        """
        path = folder / _NORMALISATION
        if not path.is_file():
            raise RewardError(f"{folder} holds no bradley_terry reward: it has no {_NORMALISATION}")
        record = json.loads(path.read_text())
        self._use(TokenScorer(load_scorer(folder)).to(self._device).eval(), load_tokenizer(folder))
        self._gain, self._bias, self._length = record["gain"], record["bias"], record["max_length"]

    def _use(self, scorer: TokenScorer, tokenizer: PreTrainedTokenizerBase) -> None:
        self._scorer, self._tokenizer = scorer, tokenizer
        self._vocabulary = fingerprint(tokenizer)
        self._length = limit_length(self._config.max_length, scorer.model)

    def _ready(self) -> tuple[TokenScorer, PreTrainedTokenizerBase]:
        if self._scorer is None or self._tokenizer is None:
            raise RewardError("reward bradley_terry has not been trained: it scores after fit or load")
        return self._scorer, self._tokenizer

    def _ids(self, samples: Sequence[Sample], tokenizer: PreTrainedTokenizerBase) -> list[tuple[list[int], list[int]]]:
        known = [self._known_ids(sample) for sample in samples]
        others = [sample for sample, ids in zip(samples, known, strict=True) if ids is None]
        rows = [{"prompt": sample.prompt, "messages": sample.messages} for sample in others]
        responses = response_ids(tokenizer, [sample.response for sample in others])
        # A response that was cut has no end-of-sequence token.
        cut = [
            ids[:-1] if not sample.ended and len(ids) > 1 else ids
            for sample, ids in zip(others, responses, strict=True)
        ]
        encoded = zip(prompt_ids(tokenizer, rows), cut, strict=True)
        return [fit_length(*(next(encoded) if ids is None else ids), self._length, MAX_LENGTH) for ids in known]

    def _known_ids(self, sample: Sample) -> tuple[list[int], list[int]] | None:
        """The sample's own ids, if they mean the same to this reward model."""
        if sample.vocabulary != self._vocabulary or sample.prompt_ids is None or sample.response_ids is None:
            return None
        return list(sample.prompt_ids), list(sample.response_ids)

    def _normalise(self, policy: Policy, data: Dataset, pairs: Sequence[Row], ctx: StageContext) -> None:
        """Set gain and bias (D15, D16); scores before this call are raw."""
        config = self._config
        if config.normalise is Normalise.none:
            return
        if config.normalise is Normalise.demonstrations:
            rows = data.rows("demonstrations", "train") if data.count("demonstrations", "train") else pairs
            column = "completion" if data.count("demonstrations", "train") else "chosen"
            samples = [
                Sample(row["prompt"], row[column], messages=row["messages"]) for row in rows[: config.normalise_samples]
            ]
            self._bias = -float(torch.tensor(self.score(samples)).mean())
            return
        scores = torch.tensor(self.score(self._policy_samples(policy, pairs, ctx)))
        spread = float(scores.std(correction=0))
        if spread == 0:
            raise DataError(
                "reward.normalise=samples: every sampled answer scores the same, so there is no scale to set"
            )
        self._gain = 1.0 / spread
        self._bias = -float(scores.mean()) / spread

    def _policy_samples(self, policy: Policy, pairs: Sequence[Row], ctx: StageContext) -> list[Sample]:
        """What the starting policy answers to the pairs' prompts."""
        config = self._config
        rollout: Rollout = ctx.build(ctx.slots["rollout"])
        fitting = (
            (row, prompt)
            for row in pairs
            for prompt in [encode_prompt(policy.tokenizer, row["prompt"], row["messages"])]
            if len(prompt) + config.sample_tokens <= self._length
        )
        chosen = list(islice(fitting, config.normalise_samples))
        if len(chosen) < 2:
            raise DataError(
                f"reward.normalise=samples: no two prompts leave room for reward.sample_tokens={config.sample_tokens} "
                f"within {self._length} tokens (reward.max_length, or the model's context); lower reward.sample_tokens"
            )
        rows, prompts = [row for row, _ in chosen], [prompt for _, prompt in chosen]
        cast(nn.Module, policy.model).to(ctx.device)
        responses = sampled(
            rollout,
            policy.model,
            prompts,
            episode_uniforms(stream(ctx.seed, "normalise"), len(prompts), config.sample_tokens),
            temperature=config.sample_temperature,
            eos_ids=policy.eos_ids,
        )
        return as_samples(policy.tokenizer, rows, prompts, responses)


def _scorer_from(
    policy: Policy, source: ModelSource, artifact: Artifact | None, ctx: StageContext, team: Team
) -> TokenScorer:
    """The policy's backbone with a new head (D09, D10)."""
    folder = artifact.folder if artifact is not None and artifact.stage != "base" else ctx.work / "base"
    if team.leads and (not (folder / "config.json").is_file() or folder == ctx.work / "base"):
        save_checkpoint(policy.model, policy.tokenizer, folder)
    team.wait()
    model = source.load_scorer(folder)
    fit_tokenizer(model, policy.tokenizer)
    new_score_head(model, stream(ctx.seed, "score head"))
    return TokenScorer(model).to(ctx.device)


def build(config: BradleyTerryConfig, context: BuildContext) -> BradleyTerryReward:
    """The component's factory."""
    return BradleyTerryReward(config, context.device, Lanes.of(context))
