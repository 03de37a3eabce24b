"""All of a training that changes from update to update, and its checkpoints.

Random streams are functions of seed, purpose and update, so an update's number stands for them.
"""

from __future__ import annotations

from collections.abc import Mapping

from alignpipe.api import StageContext
from alignpipe.errors import RewardError
from alignpipe.rewarding.judge import Judge, TooFewScores
from alignpipe.training.checkpoint import Checkpoints
from alignpipe.training.learner import Learner
from alignpipe.training.parallel import Team
from alignpipe_plugins.ppo.alarms import Watch
from alignpipe_plugins.ppo.best import Best
from alignpipe_plugins.ppo.checks import check_finite

PATIENCE = 10
"""Updates in a row that may learn nothing: one whose few prompts the reward does not apply to is no fault yet."""


class Progress:
    """Networks, optimisers, the KL coefficient, the best policy so far, what alarms have seen and judges failed on.

    `learnt_last` is the last update that learnt something, 0 before there is one.
    """

    def __init__(
        self,
        ctx: StageContext,
        learners: Mapping[str, Learner],
        judges: Mapping[str, Judge],
        kl_coef: float,
        team: Team,
    ) -> None:
        self.kl_coef = kl_coef
        self.learnt_last = 0
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
        self.learnt_last = extra.get("learnt_last", done)  # older checkpoints do not say, for all updates learnt
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
            "learnt_last": self.learnt_last,
            "best_value": self.best.value,
            "best_step": self.best.step,
            "alarms": self.watch.state(),
            "failures": {name: list(judge.earlier) for name, judge in self._judges.items()},
        }
        self._checkpoints.save(done, self._networks, self._optimizers, extra)
        self.best.saved()

    def nothing_learnt(self, done: int, last: bool, why: TooFewScores) -> None:
        """Raise `RewardError` if too many updates have learnt nothing, now that `done`, perhaps the `last`, has not."""
        idle = done - self.learnt_last
        if idle >= PATIENCE or (last and self.learnt_last == 0):
            raise RewardError(
                f"{idle} updates in a row had no episodes to learn from: choose prompts that the reward applies to, or "
                f"more episodes an update. In the last of them: {why}"
            ) from why

    def check(self, done: int) -> None:
        """Raise `TrainingError` if a weight is not finite."""
        check_finite(self._networks, done)
