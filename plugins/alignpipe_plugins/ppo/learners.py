"""Who learns: the policy, and the critic where the estimator has one, each with an optimiser of its own (D51)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from alignpipe.training.learner import Learner, adamw
from alignpipe.training.models import TokenScorer
from alignpipe.training.parallel import Team
from alignpipe_plugins.ppo.config import LoopConfig, PPOConfig


@dataclass(frozen=True)
class Critic:
    """How the critic learns: values move within `clip_range` (D50), alone in the first `warmup` updates (D46)."""

    learner: Learner
    clip_range: float | None
    warmup: int


@dataclass(frozen=True)
class Learners:
    """Everybody who learns; `critic` is None for an estimator without one."""

    policy: Learner
    critic: Critic | None

    @property
    def named(self) -> dict[str, Learner]:
        """Each by its name in checkpoints."""
        return {"policy": self.policy} | ({} if self.critic is None else {"critic": self.critic.learner})

    def critic_alone(self, update: int) -> bool:
        """Whether the policy waits in 0-based `update` while the critic warms up (D46)."""
        return self.critic is not None and update < self.critic.warmup

    def __iter__(self) -> Iterator[Learner]:
        return iter(self.named.values())


def critic_of(scorer: TokenScorer | None, config: LoopConfig, team: Team) -> Critic | None:
    """The critic's learner; None for an estimator without a critic."""
    if scorer is None or not isinstance(config, PPOConfig):
        return None
    return Critic(adamw(scorer, config, config.critic_lr, team), config.clip_range_value, config.critic_warmup)
