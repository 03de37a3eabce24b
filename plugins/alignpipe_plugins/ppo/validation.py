"""Held-out evaluation on the way: the same prompts and the same random stream every time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignpipe.rewarding.scoring import score
from alignpipe.training.batches import by_length, pad_rows
from alignpipe.training.models import Policy

from alignpipe_plugins.ppo.collect import Judge, Sampler, make_samples, reference_kl
from alignpipe_plugins.ppo.episodes import Prompts

_BATCH = 32


@dataclass(frozen=True)
class Validation:
    """What held-out evaluation needs; `gold` is the data's own judge, if it has one."""

    prompts: Prompts
    uniforms: Tensor
    judge: Judge
    gold: Judge | None

    def run(self, policy: Policy, network: nn.Module, reference: nn.Module, sampler: Sampler) -> dict[str, float]:
        """Held-out reward, gold and KL of the network as it is now; KL in nats per sequence."""
        responses = sampler.sample(policy, network, self.prompts, self.uniforms)
        samples = make_samples(policy, self.prompts, responses)
        pad_id = int(policy.tokenizer.pad_token_id)
        lengths = [len(ids) + len(response.ids) for ids, response in zip(self.prompts.ids, responses, strict=True)]
        batches = [
            pad_rows([self.prompts.ids[row] for row in rows], [responses[row].ids for row in rows], pad_id, sampler.device)
            for rows in by_length(lengths, _BATCH)
        ]
        figures = {
            "heldout/reward": _mean(score(self.judge.reward, samples, self.judge.name).total),
            "heldout/kl": float(reference_kl(network, reference, batches, sampler.temperature).mean()),
            "heldout/length": _mean([float(len(response.ids)) for response in responses]),
            "heldout/eos_rate": _mean([float(response.ended) for response in responses]),
        }
        if self.gold is not None:
            figures["heldout/gold"] = _mean(score(self.gold.reward, samples, self.gold.name).total)
        return figures


def _mean(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())
