"""Who takes part in a PPO training: the models, the reward, and how responses are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from alignpipe.api import Reward, Sample
from alignpipe.rewarding.scoring import Scored, score
from alignpipe.training.models import Policy, TokenScorer
from alignpipe.training.rollouts import Response, Rollout, as_samples
from alignpipe_plugins.ppo.episodes import Prompts


@dataclass(frozen=True)
class Judge:
    """A reward with its option's name, for messages."""

    reward: Reward
    name: str

    def score(self, samples: Sequence[Sample]) -> Scored:
        """One finite score per sample; raises `RewardError` naming the reward if it does not give that."""
        return score(self.reward, samples, self.name)


@dataclass(frozen=True)
class Players:
    """The models, the reward and the sampler of a PPO training.

    `network` is what is trained in the policy's place: `policy.model` itself, or that model with adapters in it.
    `starts_as_reference` says that policy and reference come from the same checkpoint, so that D65 applies.
    """

    policy: Policy
    network: nn.Module
    reference: nn.Module
    critic: TokenScorer
    judge: Judge
    rollout: Rollout
    temperature: float
    device: str
    starts_as_reference: bool

    @property
    def pad_id(self) -> int:
        """The token that fills up rows."""
        return int(self.policy.tokenizer.pad_token_id)

    def sample(self, prompts: Prompts, uniforms: Tensor) -> list[Response]:
        """One response per prompt by the network as it is now; `uniforms` [B, most response tokens]."""
        self.network.eval()
        eos_id = int(self.policy.tokenizer.eos_token_id)
        return self.rollout.sample(
            self.network,  # type: ignore[arg-type]  # with adapters it is no PreTrainedModel, but is called as one
            prompts.ids,
            uniforms,
            temperature=self.temperature,
            eos_id=eos_id,
        )


def make_samples(policy: Policy, prompts: Prompts, responses: Sequence[Response]) -> list[Sample]:
    """What the judges are given."""
    return as_samples(policy.tokenizer, prompts.rows, prompts.ids, responses)
