"""Token batches: prompt and response in one right-padded row, and the window of positions where responses lie.

With right padding a causal model needs neither an attention mask nor position ids. Models of known families are run
without the padding, and read a prompt that comes several times once (`packed`); of others logits are computed only in
the window that holds response tokens.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignpipe.ops.logprobs import entropy, token_logprobs, widened
from alignpipe.training.adapters import Adapted
from alignpipe.training.models import TokenScorer
from alignpipe.training.packed.forward import packed_logprobs, packed_output
from alignpipe.training.packed.layout import Layout, SharedPrefixes
from alignpipe.training.packed.models import Parts, packable


@dataclass(frozen=True)
class TokenBatch:
    """B rows of prompt + response.

    `input_ids` [B, L] right-padded; `response_mask` [B, T] True where a response token stands, T the longest response;
    `prompt_lengths` [B]. Response token t of row b stands at `input_ids[b, prompt_lengths[b] + t]`. `prefix_owners` [B]
    are the first rows with the same prompt, None if no prompt comes twice.
    """

    input_ids: Tensor
    response_mask: Tensor
    prompt_lengths: Tensor
    prefix_owners: Tensor | None = None

    @property
    def window(self) -> tuple[int, int]:
        """First and last+1 position that predict a response token in any row."""
        return int(self.prompt_lengths.min()) - 1, self.input_ids.shape[1] - 1

    def aligned(self, windowed: Tensor) -> Tensor:
        """Move values [B, window] of the predicting positions to response tokens [B, T]; 0 where the mask is False."""
        steps = torch.arange(self.response_mask.shape[1], device=windowed.device)
        index = (self.prompt_lengths - 1 - self.window[0])[:, None] + steps[None, :]
        taken = windowed.gather(1, index.clamp(max=windowed.shape[1] - 1))
        return torch.where(self.response_mask, taken, taken.new_zeros(()))

    def filled(self, values: Tensor) -> Tensor:
        """Values of the response tokens, one row's after the other's, as a table [B, T]; 0 off the mask."""
        return values.new_zeros(self.response_mask.shape).masked_scatter(self.response_mask, values)

    @property
    def lengths(self) -> Tensor:
        """[B] the real tokens of each row."""
        return self.prompt_lengths + self.response_mask.sum(1)

    @property
    def response_tokens(self) -> Tensor:
        """The response tokens of all rows, one row's after the other's."""
        steps = torch.arange(self.response_mask.shape[1], device=self.input_ids.device)
        positions = (self.prompt_lengths[:, None] + steps).clamp(max=self.input_ids.shape[1] - 1)
        return self.input_ids.gather(1, positions)[self.response_mask]


def pad_rows(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], pad_id: int, device: str
) -> TokenBatch:
    """Lay out ragged prompts and responses; raises `ValueError` for an empty prompt or response."""
    if not all(len(prompt) and len(response) for prompt, response in zip(prompts, responses, strict=True)):
        raise ValueError("every prompt and every response needs at least one token")
    length = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    longest = max(len(response) for response in responses)
    ids = torch.full((len(prompts), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.bool)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids[row, : len(prompt) + len(response)] = torch.tensor([*prompt, *response])
        mask[row, : len(response)] = True
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    groups = prompt_groups(prompts)
    owners = torch.tensor(groups, device=device) if len(set(groups)) < len(prompts) else None
    return TokenBatch(ids.to(device), mask.to(device), lengths.to(device), owners)


def prompt_groups(prompts: Sequence[Sequence[int]]) -> list[int]:
    """For each prompt the index of the first one with the same ids."""
    firsts: dict[tuple[int, ...], int] = {}
    return [firsts.setdefault(tuple(prompt), row) for row, prompt in enumerate(prompts)]


def shared_prompt_groups(model: nn.Module, groups: Sequence[int]) -> Sequence[int] | None:
    """`groups` if `model` reads a prompt once for all rows of a batch; None if it is run with padding."""
    # Of width 1: whether it is such a model at all. Whether its rows are short enough, every batch asks.
    return None if packable(model, 1) is None else groups


def response_logprobs(
    model: nn.Module, batch: TokenBatch, temperature: float = 1.0, *, with_entropy: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [B, T] of the response tokens under `model`, 0 off the mask; entropies if asked for."""
    found = _packing(model, batch, read=batch.lengths - 1, wanted_from=batch.prompt_lengths - 1)
    if found is not None:
        parts, layout = found
        logp, entropies = packed_logprobs(
            parts, batch.input_ids, layout, batch.response_tokens, temperature, with_entropy
        )
        return batch.filled(logp), None if entropies is None else batch.filled(entropies)
    first, last = batch.window
    logits = response_logits(model, batch)
    logp = batch.aligned(token_logprobs(logits, batch.input_ids[:, first + 1 : last + 1], temperature))
    if not with_entropy:
        return logp, None
    with torch.no_grad():
        return logp, batch.aligned(entropy(logits, temperature))


def state_values(critic: TokenScorer, batch: TokenBatch) -> Tensor:
    """Values [B, T] of the states in which each response token was chosen (query + prefix, D45); 0 off the mask."""
    found = _packing(critic, batch, read=batch.lengths - 1, wanted_from=batch.prompt_lengths - 1)
    if found is not None:
        parts, layout = found
        return batch.filled(packed_output(parts, batch.input_ids, layout).squeeze(1))
    first, last = batch.window
    return batch.aligned(critic(batch.input_ids[:, :last])[:, first:last])


def last_token_scores(scorer: TokenScorer, batch: TokenBatch) -> Tensor:
    """Scores [B] read at each row's last real token (D11)."""
    found = _packing(scorer, batch, read=batch.lengths, wanted_from=batch.lengths - 1)
    if found is not None:
        parts, layout = found
        return packed_output(parts, batch.input_ids, layout).squeeze(1)
    scores: Tensor = scorer(batch.input_ids)
    return scores.gather(1, batch.lengths[:, None] - 1).squeeze(1)


def _other_than_padding(record: logging.LogRecord) -> bool:
    """Whether a remark of transformers is not that on padding without a mask, which some models make once a run.

    Rows are filled up at their end, where no token of theirs looks.
    """
    return "passing in an `attention_mask` since your input_ids may be padded" not in record.getMessage()


logging.getLogger("transformers.modeling_utils").addFilter(_other_than_padding)


def response_logits(model: nn.Module, batch: TokenBatch) -> Tensor:
    """Logits [B, window, V] of the positions that predict response tokens, by the model's own forward."""
    first, last = batch.window
    positions = torch.arange(first, last, device=batch.input_ids.device)
    ids = batch.input_ids[:, :last]
    if _keeps_logits(model):
        return _logits(model(ids, use_cache=False, logits_to_keep=positions))
    return _logits(model(ids, use_cache=False))[:, first:last]


def _packing(model: nn.Module, batch: TokenBatch, *, read: Tensor, wanted_from: Tensor) -> tuple[Parts, Layout] | None:
    """What the packed forward needs to read the first `read` [B] tokens of each row, for outputs from a position on.

    The last token predicts none, so log-probabilities and values do without it. None for a model that is run by its
    own forward.
    """
    parts = packable(model.model if isinstance(model, TokenScorer) else model, batch.input_ids.shape[1])
    if parts is None:
        return None
    owners = batch.prefix_owners
    prefixes = None if owners is None else SharedPrefixes(owners, batch.prompt_lengths)
    return parts, Layout.of(read, wanted_from, parts.padding, prefixes)


def _logits(output: object) -> Tensor:
    logits: Tensor = output.logits  # type: ignore[attr-defined]
    return widened(logits)


def _keeps_logits(model: nn.Module) -> bool:
    inner = model.get_base_model() if isinstance(model, Adapted) else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters
