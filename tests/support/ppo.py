"""PPO on models with two layers: players, prompts and a reward that counts tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForSequenceClassification

from alignpipe.api import Sample, Scores
from alignpipe.errors import StageInterrupted
from alignpipe.options import Schedule
from alignpipe.rewarding.judge import Judge
from alignpipe.training.batches import last_token_scores, pad_rows
from alignpipe.training.models import Policy, TokenScorer, load_causal, load_scorer, load_tokenizer, save_checkpoint
from alignpipe.training.parallel import ALONE
from alignpipe.training.rollouts import Response
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe_plugins.ppo.config import GRPOConfig, LoopConfig, PPOConfig, ReinforcePPConfig, RLOOConfig
from alignpipe_plugins.ppo.episodes import Episodes, Prompts
from alignpipe_plugins.ppo.loop import train_ppo
from alignpipe_plugins.ppo.players import Players, make_samples
from alignpipe_plugins.ppo.validation import Validation
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig
from alignpipe_plugins.rollout_local.sampler import LocalRollout
from support import tiny_models
from support.context import FakeContext

EOS = 1
ROOM = 6
COMMON: dict[str, Any] = {
    "max_steps": 4,
    "episodes": 16,
    "epochs": 2,
    "minibatches": 2,
    "micro_batch_size": 5,
    "max_response_tokens": ROOM,
    "lr": 3e-3,
    "schedule": Schedule.linear,
    "eval_every": 2,
    "eval_prompts": 8,
    "save_every": 100,
    "missing_eos_score": None,
}
CONFIG = PPOConfig(**COMMON, critic_lr=3e-3)
GRPO, RLOO = GRPOConfig(**COMMON, group_size=4), RLOOConfig(**COMMON)
REINFORCE_PP = ReinforcePPConfig(**COMMON)
CONFIGS: dict[str, LoopConfig] = {"ppo": CONFIG, "grpo": GRPO, "rloo": RLOO, "reinforce_pp": REINFORCE_PP}


def even(token: int) -> bool:
    return token % 2 == 0


class Counting:
    """The share of even tokens, and in parts the share of even and of small ones."""

    def score(self, samples: Sequence[Sample]) -> Scores:
        shares = [sum(map(even, sample.response_ids)) / len(sample.response_ids) for sample in samples]
        small = [sum(token < 100 for token in sample.response_ids) / len(sample.response_ids) for sample in samples]
        return Scores(total=shares, parts={"even": shares, "small": small})


class Rule:
    """A reward from a function of one sample."""

    def __init__(self, rule: Callable[[Sample], float]) -> None:
        self._rule = rule
        self.seen: list[Sample] = []

    def score(self, samples: Sequence[Sample]) -> list[float]:
        self.seen += samples
        return [self._rule(sample) for sample in samples]


class Head:
    """A trained reward: gain * head + bias, read from a classifier's folder."""

    def __init__(
        self, gain: float = 1.0, bias: float = 0.0, shape: Callable[[Tensor], Tensor] = lambda raw: raw
    ) -> None:
        self.gain, self.bias, self.shape = gain, bias, shape

    def fit(self, inputs: Mapping[str, Any], ctx: Any) -> None:
        raise AssertionError("not trained in these tests")

    def save(self, folder: Path) -> None:
        save_scorer(folder)

    def load(self, folder: Path) -> None:
        self.scorer = TokenScorer(load_scorer(folder)).eval()

    def score(self, samples: Sequence[Sample]) -> list[float]:
        batch = pad_rows(
            [sample.prompt_ids for sample in samples], [sample.response_ids for sample in samples], 0, "cpu"
        )
        with torch.no_grad():
            return (self.gain * self.shape(last_token_scores(self.scorer, batch)) + self.bias).tolist()


def scorer(seed: int = 7) -> TokenScorer:
    """A classifier on the tiny llama with a head of its own."""
    model = load_scorer(tiny_models.llama())
    assert isinstance(model, LlamaForSequenceClassification)
    drawn = torch.randn(model.score.weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.score.weight.copy_(0.1 * drawn)
    return TokenScorer(model).eval()


def save_scorer(folder: Path, seed: int = 7) -> None:
    save_checkpoint(scorer(seed).model, load_tokenizer(tiny_models.llama()), folder)


def make_prompts(count: int = 24) -> Prompts:
    """Prompts of one to five tokens."""
    ids = [[2 + (7 * row + step) % 300 for step in range(1 + row % 5)] for row in range(count)]
    return Prompts([{"prompt": f"prompt {row}", "messages": [], "case": row} for row in range(count)], ids)


@cache
def _loaded() -> tuple[Policy, TokenScorer]:
    """Read from disk once; every training gets copies."""
    return Policy(load_causal(tiny_models.llama()), load_tokenizer(tiny_models.llama())), scorer()


def make_players(
    reward: Any = None, *, temperature: float = 0.7, starts_as_reference: bool = True, critic: bool = True
) -> Players:
    loaded, scorer = _loaded()
    policy = Policy(deepcopy(loaded.model), loaded.tokenizer)
    return Players(
        policy=policy,
        network=policy.model,
        reference=deepcopy(loaded.model).eval().requires_grad_(False),
        critic=deepcopy(scorer) if critic else None,
        judge=Judge(reward or Counting(), "counting"),
        rollout=LocalRollout(LocalRolloutConfig()),
        temperature=temperature,
        device="cpu",
        starts_as_reference=starts_as_reference,
        team=ALONE,
    )


def make_validation(count: int = 8, gold: Judge | None = None, missing_eos_score: float | None = None) -> Validation:
    prompts = make_prompts(50).select(range(50 - count, 50))
    return Validation(prompts, episode_uniforms(stream(0, "held-out"), count, ROOM), gold, None, missing_eos_score)


def train(
    root: Path,
    players: Players | None = None,
    validation: Validation | None = None,
    stop_after: int | None = None,
    config: LoopConfig = CONFIG,
    **changes: Any,
) -> tuple[Players, FakeContext, StageInterrupted | None]:
    """Train under `root`, from the checkpoint that is there; `changes` are fields of the config."""
    players = players or make_players(critic=isinstance(config, PPOConfig))
    ctx = FakeContext(root, stage="ppo", stop_after=stop_after)
    interrupted = None
    try:
        train_ppo(players, make_prompts(), validation, replace(config, **changes), ctx)
    except StageInterrupted as error:
        interrupted = error
    return players, ctx, interrupted


def make_episodes(players: Players, seed: int = 0, *, noise: float = 0.3) -> Episodes:
    """Episodes of uneven lengths whose old log-probabilities and values are a little off the networks' own."""
    random = torch.Generator().manual_seed(seed)
    prompts = make_prompts(9)
    responses = [
        Response([2 + (11 * row + 5 * step) % 300 for step in range(1 + row * 2 % 7)], row % 3 > 0) for row in range(9)
    ]
    width = max(len(response.ids) for response in responses)
    mask = torch.zeros((9, width), dtype=torch.bool)
    logprobs, ref_logprobs, values = (torch.zeros((9, width)) for _ in range(3))
    with torch.no_grad():
        for row, response in enumerate(responses):
            length = len(response.ids)
            mask[row, :length] = True
            for table, model in ((logprobs, players.network), (ref_logprobs, players.reference)):
                own = naive_logprobs(model, prompts.ids[row], response.ids, players.temperature)
                table[row, :length] = own + noise * torch.randn(length, generator=random)
            own = naive_values(players.critic, prompts.ids[row], response.ids)
            values[row, :length] = own + noise * torch.randn(length, generator=random)
    ended = torch.tensor([response.ended for response in responses])
    scores = torch.randn(9, generator=random)
    parts = {"half": scores / 2}
    return Episodes(
        prompts=prompts,
        responses=responses,
        samples=make_samples(players.policy, prompts, responses),
        mask=mask,
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        entropies=torch.where(mask, 1.5, 0.0),
        values=values,
        scores=scores,
        ended=ended,
        parts=parts,
        token_scores=None,
        numbers=range(9),
        failures={},
        sampling_z=0.0,
    )


def naive_logprobs(model: Any, prompt: list[int], response: list[int], temperature: float) -> Tensor:
    """One row, no padding, the whole distribution at every position."""
    logits = model(torch.tensor([prompt + response])).logits[0]
    table = torch.log_softmax(logits / temperature, -1)
    return torch.stack([table[len(prompt) + step - 1, token] for step, token in enumerate(response)])


def naive_values(critic: TokenScorer, prompt: list[int], response: list[int]) -> Tensor:
    """One row, no padding: the head over the backbone's states in which each token was chosen."""
    hidden = critic.model.model(torch.tensor([prompt + response])).last_hidden_state[0]
    return (hidden @ critic.model.score.weight[0])[len(prompt) - 1 : -1]


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
