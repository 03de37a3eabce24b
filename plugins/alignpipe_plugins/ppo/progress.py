"""All of a training that changes from update to update, and its checkpoints.

Random streams are functions of seed, purpose and update, so an update's number stands for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignpipe.api import StageContext
from alignpipe.rewarding.judge import Judge
from alignpipe.training.checkpoint import Checkpoints
from alignpipe.training.learner import Learner
from alignpipe.training.parallel import Team
from alignpipe_plugins.ppo.alarms import Watch
from alignpipe_plugins.ppo.best import Best
from alignpipe_plugins.ppo.checks import check_finite


class Progress:
    """Networks, optimisers, the KL coefficient, the best policy so far, what alarms have seen and judges failed on."""

    def __init__(
        self,
        ctx: StageContext,
        learners: Mapping[str, Learner],
        judges: Mapping[str, Judge],
        kl_coef: float,
        team: Team,
    ) -> None:
        self.kl_coef = kl_coef
        self.best = Best(ctx.work, team)
        self.watch = Watch()
        self._checkpoints = Checkpoints(ctx.work, team, ctx.sync_log)
        self._judges = judges
        self._networks = {name: learner.network for name, learner in learners.items()}
        self._optimizers = {name: learner.optimizer for name, learner in learners.items()}

    def load(self) -> int:
        """Take up the newest checkpoint, if there is one; gives the updates that are done."""
        done, extra = self._checkpoints.load(self._networks, self._optimizers)
        if done == 0:
            return 0
        self.kl_coef = extra["kl_coef"]
        self.best.resume(extra["best_value"], extra["best_step"])
        self.watch.restore(extra["alarms"])
        for name, judge in self._judges.items():
            judge.earlier.extend(extra.get("failures", {}).get(name, ()))  # older checkpoints do not say
        return done

    def save(self, done: int) -> None:
        """Write a checkpoint; raises `TrainingError` instead if a weight is not finite."""
        self.check(done)
        extra = {
            "kl_coef": self.kl_coef,
            "best_value": self.best.value,
            "best_step": self.best.step,
            "alarms": self.watch.state(),
            "failures": {name: list(judge.earlier) for name, judge in self._judges.items()},
        }
        self._checkpoints.save(done, self._networks, self._optimizers, extra)
        self.best.saved()

    def check(self, done: int) -> None:
        """Raise `TrainingError` if a weight is not finite."""
        check_finite(self._networks, done)
