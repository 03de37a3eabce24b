"""Who takes part in a training: the models, the reward, and how responses are sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from alignpipe.api import Sample
from alignpipe.rewarding.judge import Judge
from alignpipe.training.models import Policy, TokenScorer
from alignpipe.training.parallel import Team
from alignpipe.training.rollouts import Response, Rollout, as_samples, sampled
from alignpipe_plugins.ppo.episodes import Prompts


@dataclass(frozen=True)
class Players:
    """The models, the reward and the sampler of a training.

    `network` is what is trained in the policy's place: `policy.model` itself, or that model with adapters in it.
    `critic` is None for an estimator without one. `starts_as_reference` says that policy and reference come from the
    same checkpoint, so that D65 applies.
    """

    policy: Policy
    network: nn.Module
    reference: nn.Module
    critic: TokenScorer | None
    judge: Judge
    rollout: Rollout
    temperature: float
    device: str
    starts_as_reference: bool
    team: Team
    """The processes that train together: each samples, scores and learns from its share."""

    @property
    def pad_id(self) -> int:
        """The token that fills up rows."""
        return int(self.policy.tokenizer.pad_token_id)

    def sample(self, prompts: Prompts, uniforms: Tensor) -> list[Response]:
        """One response per prompt by the network as it is now; `uniforms` [B, most response tokens].

        A response depends on its own row of uniforms only, so that it does not matter which process samples it (D28).
        """
        self.network.eval()
        eos_ids = self.policy.eos_ids

        def sample(rows: Sequence[int]) -> list[Response]:
            return sampled(
                self.rollout,
                self.network,  # type: ignore[arg-type]  # with adapters it is no PreTrainedModel, but is called as one
                [prompts.ids[row] for row in rows],
                uniforms[rows],
                temperature=self.temperature,
                eos_ids=eos_ids,
            )

        return self.team.spread([len(ids) for ids in prompts.ids], sample)


def make_samples(policy: Policy, prompts: Prompts, responses: Sequence[Response]) -> list[Sample]:
    """What the judges are given."""
    return as_samples(policy.tokenizer, prompts.rows, prompts.ids, responses)
