"""Per-token rewards: where the penalty and where the score go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignpipe.ops.shaping import add_score_to_kl_penalty, clip_scores, last_kept, replace_missing_eos


def test_hand_numbers():
    scores = torch.tensor([2.0, -1.0])
    kl = torch.tensor([[0.5, -0.25, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0]])
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    expected = torch.tensor([[-0.1, 0.05 + 2.0, 0.0, 0.0], [-0.2, -0.4, -0.6, -0.8 - 1.0]])
    torch.testing.assert_close(add_score_to_kl_penalty(scores, kl, mask, 0.2), expected, rtol=1e-6, atol=1e-9)


def test_gaps_in_the_mask_get_nothing():
    mask = torch.tensor([[True, False, True, False]])
    rewards = add_score_to_kl_penalty(torch.tensor([5.0]), torch.full((1, 4), 1.0), mask, 0.5)
    assert rewards.tolist() == [[-0.5, 0.0, 4.5, 0.0]]


def random_rows(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(rows, columns, generator=generator) < 0.6
    mask[:, seed % columns] = True
    kl = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return torch.randn(rows, generator=generator, dtype=torch.float64), kl, mask


@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 999), st.floats(0, 2))
@settings(deadline=None, max_examples=50)
def test_agrees_with_a_loop_and_conserves_the_total(rows, columns, seed, kl_coef):
    scores, kl, mask = random_rows(rows, columns, seed)
    rewards = add_score_to_kl_penalty(scores, kl, mask, kl_coef)
    for row in range(rows):
        kept = [t for t in range(columns) if mask[row, t]]
        assert last_kept(mask)[row].item() == kept[-1]
        for t in range(columns):
            expected = (-kl_coef * kl[row, t].item() if t in kept else 0.0) + (
                scores[row].item() if t == kept[-1] else 0
            )
            assert rewards[row, t].item() == pytest.approx(expected, abs=1e-12)
        total = scores[row].item() - kl_coef * sum(kl[row, t].item() for t in kept)
        assert rewards[row].sum().item() == pytest.approx(total, abs=1e-9)


def test_padding_changes_nothing():
    scores, kl, mask = random_rows(4, 6, 3)
    padded = add_score_to_kl_penalty(
        scores,
        torch.cat([kl, torch.full((4, 2), torch.nan, dtype=torch.float64)], dim=1),
        torch.cat([mask, torch.zeros(4, 2, dtype=torch.bool)], dim=1),
        0.3,
    )
    assert torch.equal(padded[:, :6], add_score_to_kl_penalty(scores, kl, mask, 0.3))
    assert (padded[:, 6:] == 0).all()


def test_missing_eos_replaces_the_score():
    scores, ended = torch.tensor([3.0, 0.5, -4.0]), torch.tensor([True, False, False])
    # replaced, not lowered: the third response's -4 becomes -1 as well
    assert replace_missing_eos(scores, ended, -1.0).tolist() == [3.0, -1.0, -1.0]


def test_clipped_scores_stay_within_the_bound():
    assert clip_scores(torch.tensor([7.0, 1.5, -0.5, -9.0]), 2.0).tolist() == [2.0, 1.5, -0.5, -2.0]


def test_refusals():
    mask = torch.tensor([[True, False], [False, False]])
    with pytest.raises(ValueError, match=r"rows \[1\] of the mask keep no token"):
        last_kept(mask)
    with pytest.raises(ValueError, match=r"rows \[1\]"):
        add_score_to_kl_penalty(torch.zeros(2), torch.zeros(2, 2), mask, 0.1)
    with pytest.raises(ValueError, match="shapes must be equal"):
        add_score_to_kl_penalty(torch.zeros(1), torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), 0.1)
    with pytest.raises(ValueError, match="shapes must be equal"):
        add_score_to_kl_penalty(torch.zeros(2), torch.zeros(2, 2), torch.ones(2, 1, dtype=torch.bool), 0.1)
    with pytest.raises(ValueError, match="boolean"):
        last_kept(torch.ones(1, 2))
    with pytest.raises(ValueError, match="bound must be greater than 0"):
        clip_scores(torch.zeros(2), 0.0)
    with pytest.raises(ValueError, match="2 dimension"):
        last_kept(torch.ones(2, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean"):
        replace_missing_eos(torch.zeros(2), torch.ones(2), -1.0)
    with pytest.raises(ValueError, match="shapes must be equal"):
        replace_missing_eos(torch.zeros(2), torch.ones(1, dtype=torch.bool), -1.0)
