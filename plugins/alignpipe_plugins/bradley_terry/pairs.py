"""Preference pairs as token ids, and their loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignpipe.dataset import Row
from alignpipe.ops.pairs import bradley_terry_loss, wins
from alignpipe.training.batches import last_token_scores, pad_rows
from alignpipe.training.models import TokenScorer
from alignpipe.training.parallel import ALONE, Team
from alignpipe.training.supervised import LossSums
from alignpipe.training.tokens import fit_length, in_shares, prompt_ids, response_ids

MAX_LENGTH = "reward.max_length"
"""Where the length of a row is set, for messages."""


@dataclass(frozen=True)
class Pair:
    """Token ids of one prompt with the preferred and the other response; each pair counts once (D12)."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """Tokens to compute."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))

    @property
    def weight(self) -> int:
        """One pair."""
        return 1


def tokenise(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, max_length: int, team: Team = ALONE
) -> list[Pair]:
    """Token ids of the rows, responses cut to fit; each process of `team` encodes its share.

    Raises `DataError` if a prompt alone fills `max_length`.
    """

    def encode(own: list[Row]) -> list[tuple[list[int], list[int], list[int]]]:
        sides = [response_ids(tokenizer, [row[side] for row in own]) for side in ("chosen", "rejected")]
        return list(zip(prompt_ids(tokenizer, own), *sides, strict=True))

    return [
        Pair(prompt, *(fit_length(prompt, response, max_length, MAX_LENGTH)[1] for response in both))
        for prompt, *both in in_shares(team, rows, encode)
    ]


def score_ids(
    scorer: TokenScorer, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: str
) -> Tensor:
    """Raw scores [B] at the last token of each response (D11)."""
    return last_token_scores(scorer, pad_rows(prompts, responses, pad_id, device))


def pair_loss(scorer: TokenScorer, pairs: Sequence[Pair], pad_id: int, device: str) -> LossSums:
    """Summed Bradley-Terry loss of a micro-batch, both sides in one forward pass."""
    prompts = [pair.prompt for pair in pairs] * 2
    responses = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    chosen, rejected = score_ids(scorer, prompts, responses, pad_id, device).chunk(2)
    with torch.no_grad():
        figures = {"accuracy": float(wins(chosen, rejected).sum()), "margin": float((chosen - rejected).sum())}
    return LossSums(bradley_terry_loss(chosen, rejected).sum(), figures)


def layout_mismatch(
    scorer: TokenScorer, pairs: Sequence[Pair], pad_id: int, device: str, tolerance: float = 0.01
) -> float:
    """Share of chosen texts whose score differs by more than `tolerance` between left- and right-padded rows (D07)."""
    right = score_ids(scorer, [pair.prompt for pair in pairs], [pair.chosen for pair in pairs], pad_id, device)
    rows = [pair.prompt + pair.chosen for pair in pairs]
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(row)
        mask[index, width - len(row) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    left = scorer(ids.to(device), attention_mask=mask.to(device), position_ids=positions.to(device))[:, -1]
    return float(((left - right).abs() > tolerance).float().mean())
