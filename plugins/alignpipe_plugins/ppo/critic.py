"""How the critic starts: as the reward model where that is possible, else as the policy with a head of zeros (D45)."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import nn

from alignpipe.ops.correlation import pearson
from alignpipe.rewarding.judge import Judge
from alignpipe.training.batches import last_token_scores, pad_rows
from alignpipe.training.models import ModelSource, Policy, TokenScorer, load_tokenizer, save_checkpoint
from alignpipe.training.parallel import Team
from alignpipe.training.rollouts import Response
from alignpipe.training.tokens import fingerprint
from alignpipe_plugins.ppo.episodes import Prompts
from alignpipe_plugins.ppo.players import make_samples

_PROBES = 32
_SAME = 0.99
"""The correlation from which on a reward is taken to be its model's head in other units; half precision rounds."""


def start_critic(
    policy: Policy,
    source: ModelSource,
    judge: Judge,
    folder: Path,
    prompts: Prompts,
    work: Path,
    device: str,
    team: Team,
) -> TokenScorer:
    """The critic before training; `folder` is the reward's payload, `work` a folder for intermediate files.

    `policy.model` must not carry adapters yet: its weights are what the critic starts from without a reward model.
    """
    if _reads_tokens_of(policy, folder):
        critic = TokenScorer(source.load_scorer(folder)).to(device).eval()
        if _read_as_reward(critic, policy, judge, prompts, device, team):
            return critic
    start = work / "critic_start"
    if team.leads:
        save_checkpoint(policy.model, policy.tokenizer, start)
    team.wait()
    critic = TokenScorer(source.load_scorer(start)).to(device).eval()
    for parameter in cast(nn.Module, critic.model.score).parameters():
        nn.init.zeros_(parameter)
    return critic


def _reads_tokens_of(policy: Policy, folder: Path) -> bool:
    """Whether a reward's payload is a checkpoint with the policy's own vocabulary."""
    if not ((folder / "config.json").is_file() and (folder / "tokenizer_config.json").is_file()):
        return False
    return fingerprint(load_tokenizer(folder)) == fingerprint(policy.tokenizer)


def _read_as_reward(
    critic: TokenScorer, policy: Policy, judge: Judge, prompts: Prompts, device: str, team: Team
) -> bool:
    """Scale and shift the critic's head until it gives the reward's own scores; False if it never would.

    A reward may normalise what its head says (D15, D16) and a critic must predict the normalised score: it is clipped
    to small moves (D50), so a start in other units would take many updates to make good. What the reward does with its
    head is found out by asking both about the same few texts, empty answers to the first prompts.
    """
    probes = prompts.select(range(min(_PROBES, len(prompts.ids))))
    if len(probes.ids) < 2:
        return False
    ends = [Response([int(policy.tokenizer.eos_token_id)], ended=True) for _ in probes.ids]
    # `score_all`, since a reward may refuse empty answers and be sound; rank 0's word, so that all find the same.
    scored = team.from_leader(judge.score_all(make_samples(policy, probes, ends)))
    if scored.failures:
        return False
    wanted = torch.tensor(scored.total, dtype=torch.float64)
    batch = pad_rows(probes.ids, [end.ids for end in ends], int(policy.tokenizer.pad_token_id), device)
    with torch.no_grad():
        raw = last_token_scores(critic, batch).double().cpu()
    if not pearson(raw, wanted) >= _SAME:
        return False
    gain = float(wanted.std() / raw.std())
    old = cast(nn.Linear, critic.model.score)
    head = nn.Linear(old.in_features, 1, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        head.weight.copy_(gain * old.weight)
        head.bias.fill_(float(wanted.mean()) - gain * (float(raw.mean()) - _bias(old)))
    critic.model.score = head
    return True


def _bias(head: nn.Linear) -> float:
    """The head's bias, which most classifiers do not have."""
    return 0.0 if head.bias is None else float(head.bias.detach().squeeze())
