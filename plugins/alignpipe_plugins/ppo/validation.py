"""Held-out evaluation on the way: the same prompts and the same random stream every time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from alignpipe.api import Sample
from alignpipe.rewarding.judge import Judge, TooFewScores
from alignpipe.training.rollouts import Response
from alignpipe_plugins.ppo.collect import reference_kl, rows_replaced, rows_with_score, shape_scores
from alignpipe_plugins.ppo.episodes import Prompts
from alignpipe_plugins.ppo.players import Players, make_samples
from alignpipe_plugins.ppo.together import score_together


@dataclass(frozen=True)
class Validation:
    """What held-out evaluation needs; `gold` is the data's own judge, if it has one."""

    prompts: Prompts
    uniforms: Tensor
    gold: Judge | None
    score_clip: float | None
    missing_eos_score: float | None

    def run(self, players: Players) -> dict[str, float]:
        """Held-out reward, gold and KL of the network as it is now; KL in nats per sequence.

        The reward is the one that is trained on, clipped (D39) and a missing end replaced (D25); gold is the judge's
        own word. What a judge could not score does not count; one that applies to no sample gives no figure.
        """
        responses = players.sample(self.prompts, self.uniforms)
        samples = make_samples(players.policy, self.prompts, responses)
        figures = {
            "heldout/kl": float(reference_kl(players, self.prompts, responses).mean()),
            "heldout/length": sum(len(response.ids) for response in responses) / len(responses),
            "heldout/eos_rate": sum(response.ended for response in responses) / len(responses),
        }
        with suppress(TooFewScores):
            figures["heldout/reward"] = self._reward(players, samples, responses)
        if self.gold is not None:
            with suppress(TooFewScores):
                gold = score_together(players.team, self.gold, samples)
                figures["heldout/gold"] = sum(gold.total[index] for index in gold.kept) / len(gold.kept)
        return figures

    def _reward(self, players: Players, samples: Sequence[Sample], responses: Sequence[Response]) -> float:
        replaced = rows_replaced(responses, self.missing_eos_score)
        scored = score_together(players.team, players.judge, samples, replaced)
        ended = torch.tensor([response.ended for response in responses])
        scores = torch.tensor(scored.total, dtype=torch.float64)
        scores = shape_scores(scores, ended, self.score_clip, self.missing_eos_score)
        return float(scores[rows_with_score(scored, replaced)].mean())
