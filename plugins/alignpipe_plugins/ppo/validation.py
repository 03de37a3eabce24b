"""Held-out evaluation on the way: the same prompts and the same random stream every time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignpipe.ops.shaping import replace_missing_eos
from alignpipe_plugins.ppo.collect import reference_kl
from alignpipe_plugins.ppo.episodes import Prompts
from alignpipe_plugins.ppo.players import Judge, Players, make_samples


@dataclass(frozen=True)
class Validation:
    """What held-out evaluation needs; `gold` is the data's own judge, if it has one."""

    prompts: Prompts
    uniforms: Tensor
    gold: Judge | None
    missing_eos_score: float | None

    def run(self, players: Players) -> dict[str, float]:
        """Held-out reward, gold and KL of the network as it is now; KL in nats per sequence.

        The reward is the one that is trained on, a missing end replaced (D25); gold is the judge's own word.
        """
        responses = players.sample(self.prompts, self.uniforms)
        samples = make_samples(players.policy, self.prompts, responses)
        scores = torch.tensor(players.judge.score(samples).total, dtype=torch.float64)
        ended = torch.tensor([response.ended for response in responses])
        if self.missing_eos_score is not None:
            scores = replace_missing_eos(scores, ended, self.missing_eos_score)
        figures = {
            "heldout/reward": float(scores.mean()),
            "heldout/kl": float(reference_kl(players, self.prompts, responses).mean()),
            "heldout/length": sum(len(response.ids) for response in responses) / len(responses),
            "heldout/eos_rate": float(ended.double().mean()),
        }
        if self.gold is not None:
            gold = self.gold.score(samples).total
            figures["heldout/gold"] = sum(gold) / len(gold)
        return figures
