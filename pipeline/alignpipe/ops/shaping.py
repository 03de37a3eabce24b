"""From one score per sequence and a KL per token to a reward per token (D25, D30, D31, D39)."""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.shapes import require_dims, require_mask, require_positive, require_same_shape


def add_score_to_kl_penalty(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Per-token reward: r_t = -kl_coef * kl_t at every kept token, plus the score at the last one (D30, D31).

    The score sits on the last kept token (the EOS, or the last token of a response that was cut), which is the token
    whose choice ended the episode; OpenRLHF, DeepSpeed-Chat, NeMo RL and torchtune place it so.

    Args:
        scores: Shape [B], one score per sequence.
        kl: Shape [B, T], per-token KL estimates.
        mask: Shape [B, T], boolean; at least one kept token in every row.
        kl_coef: beta, the weight of the KL penalty.

    Returns:
        Shape [B, T], 0 at masked positions.

    Raises:
        ValueError: shapes that do not fit, a mask that is not boolean, or a row without kept tokens.

    Example:
        >>> kl = torch.tensor([[0.5, -0.25, 9.0]])
        >>> add_score_to_kl_penalty(torch.tensor([2.0]), kl, torch.tensor([[True, True, False]]), kl_coef=0.2)
        tensor([[-0.1000,  2.0500,  0.0000]])
    """
    require_dims(2, kl=kl)
    require_same_shape(kl=kl, mask=mask)
    last = last_kept(mask)
    require_same_shape(scores=scores, last=last)
    penalty = torch.where(mask, -kl_coef * kl, 0.0)
    return penalty.scatter_add(1, last.unsqueeze(1), scores.to(penalty.dtype).unsqueeze(1))


def last_kept(mask: Tensor) -> Tensor:
    """Index of the last True of every row: max over {t : m_t}.

    Args:
        mask: Shape [B, T], boolean.

    Returns:
        Shape [B], int64.

    Raises:
        ValueError: the mask is not a boolean matrix, or a row keeps nothing.
    """
    require_mask(mask)
    require_dims(2, mask=mask)
    if not bool(mask.any(dim=1).all()):
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"rows {empty[:8]} of the mask keep no token, so they have no last kept one")
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, -1).amax(dim=1)


def clip_scores(scores: Tensor, bound: float) -> Tensor:
    """Keep scores within +-bound, so that single outliers do not rule an update (D39).

    Args:
        scores: any shape.
        bound: greater than 0; DeepSpeed-Chat takes 5, OpenRLHF 10.

    Returns:
        The shape of `scores`.

    Raises:
        ValueError: the bound is not positive.
    """
    require_positive(bound=bound)
    return scores.clamp(-bound, bound)


def replace_missing_eos(scores: Tensor, ended: Tensor, penalty_score: float) -> Tensor:
    """Replace the score of every response that did not end by itself: s_i if ended_i else penalty_score (D25).

    Replaces, as LHP and N+ do, where TRL subtracts: no score is good enough to make endless text pay.

    Args:
        scores: Shape [B].
        ended: Shape [B], boolean, True where the response ended with EOS.
        penalty_score: the score of a response without EOS; LHP and N+ take -1.

    Returns:
        Shape [B].

    Raises:
        ValueError: the shapes differ or `ended` is not boolean.
    """
    require_mask(ended)
    require_same_shape(scores=scores, ended=ended)
    return torch.where(ended, scores, penalty_score)
