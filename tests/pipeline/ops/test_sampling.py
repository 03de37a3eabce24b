"""Inverse-CDF sampling: which uniform gives which token, the ends, and the shares over many draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignpipe.ops.sampling import _monotone, inverse_cdf_sample, surprise_z

ALMOST_ONE = 1.0 - 2.0**-53


def draw(probabilities, uniforms, temperature=1.0):
    logits = torch.log(torch.tensor(probabilities, dtype=torch.float64)).expand(len(uniforms), -1)
    return inverse_cdf_sample(logits, torch.tensor(uniforms, dtype=torch.float64), temperature).tolist()


def test_hand_numbers():
    # prefixes 0.1, 0.3, 1
    uniforms = [0.0, 0.099, 0.101, 0.299, 0.301, 0.999]
    assert draw([0.1, 0.2, 0.7], uniforms) == [0, 0, 1, 1, 2, 2]


def test_temperature_hand_numbers():
    # probabilities 1/5 and 4/5 at temperature 0.5: squares 1/17 and 16/17
    assert draw([0.2, 0.8], [0.058, 0.059], 0.5) == [0, 1]
    assert draw([0.2, 0.8], [0.199, 0.201]) == [0, 1]


def test_ends_never_give_an_impossible_token():
    probabilities = [0.0, 0.0, 0.4, 0.0, 0.6, 0.0]
    assert draw(probabilities, [0.0, 5e-324, 0.4 - 1e-9, 0.4 + 1e-9, ALMOST_ONE, 1.0]) == [2, 2, 2, 4, 4, 4]


@given(st.lists(st.sampled_from([0.0, 1e-30, 1e-3, 0.2, 1.0, 3.0]), min_size=1, max_size=12), st.floats(0, ALMOST_ONE))
@settings(deadline=None, max_examples=200)
def test_agrees_with_a_loop(weights, uniform):
    if not sum(weights):
        weights = [*weights, 1.0]
    logits = torch.log(torch.tensor([weights], dtype=torch.float64))
    token = inverse_cdf_sample(logits, torch.tensor([uniform], dtype=torch.float64)).item()
    assert weights[token] > 0
    below, total = sum(weights[:token]), sum(weights)
    assert below <= uniform * total * (1 + 1e-12)
    assert below + weights[token] >= uniform * total * (1 - 1e-12)


def test_shares_follow_the_softmax():
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, -torch.inf])
    uniforms = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = inverse_cdf_sample(logits.expand(200_000, 5), uniforms, 0.7)
    shares = torch.bincount(tokens, minlength=5) / 200_000
    torch.testing.assert_close(shares, torch.softmax(logits / 0.7, 0), rtol=0, atol=4e-3)
    assert shares[4] == 0


def test_rare_tokens_survive_a_large_vocabulary():
    # 2^25 weights of 1 would be needed to stall a float32 sum; weights of 2^-26 after a 1 do it at once
    logits = torch.cat([torch.zeros(1), torch.full((4096,), -26 * math.log(2.0))]).unsqueeze(0)
    share = 4096 * 2.0**-26 / (1 + 4096 * 2.0**-26)
    token = inverse_cdf_sample(logits, torch.tensor([1.0 - share / 2], dtype=torch.float64)).item()
    assert abs(token - 2048) <= 2


def test_a_row_depends_on_nothing_but_itself():
    generator = torch.Generator().manual_seed(1)
    logits, uniforms = torch.randn(16, 50, generator=generator), torch.rand(16, generator=generator)
    together = inverse_cdf_sample(logits, uniforms, 0.7)
    order = torch.randperm(16, generator=generator)
    assert torch.equal(inverse_cdf_sample(logits[order], uniforms[order], 0.7), together[order])
    alone = [inverse_cdf_sample(logits[row : row + 1], uniforms[row : row + 1], 0.7).item() for row in range(16)]
    assert alone == together.tolist()


def test_repair_of_a_parallel_scan():
    weights = torch.tensor([[0.0, 0.5, 0.0, 0.25, 0.25]])
    scanned = torch.tensor([[0.1, 0.5, 0.5001, 0.4999, 1.0]], dtype=torch.float64)  # rises at 0s and falls once
    assert _monotone(scanned, weights).tolist() == [[0.0, 0.5, 0.5, 0.5, 1.0]]


def test_extreme_logits_do_not_overflow():
    logits = torch.tensor([[1e4, 1e4, -1e4], [0.0, 0.0, 0.0], [-1e4, -1e4, -1e4]])
    assert inverse_cdf_sample(logits, torch.tensor([0.75, 0.4, 0.7])).tolist() == [1, 1, 2]


def test_refusals():
    with pytest.raises(ValueError, match=r"logits \[B, V\] and uniforms \[B\]"):
        inverse_cdf_sample(torch.zeros(2, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"logits \[B, V\]"):
        inverse_cdf_sample(torch.zeros(2, 1, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="temperature must be greater than 0"):
        inverse_cdf_sample(torch.zeros(2, 3), torch.zeros(2), 0.0)


def test_surprise_hand_numbers():
    logprobs, entropies = torch.tensor([[-1.0, -3.0], [-0.5, 9.0]]), torch.tensor([[0.5, 1.0], [1.0, 9.0]])
    mask = torch.tensor([[True, True], [True, False]])
    # excesses 0.5, 2 and -0.5: sum 2, squares 4.5
    assert surprise_z(logprobs, entropies, mask).item() == pytest.approx(2 / math.sqrt(4.5 + 3e-6))
    assert surprise_z(-entropies, entropies, mask).item() == 0
    certain = torch.full((10, 100), 1e-6)  # rounding of one sign, a thousand times
    assert 0 < surprise_z(-certain, torch.zeros(10, 100), torch.ones(10, 100, dtype=torch.bool)).item() < 0.1


def test_surprise_is_standard_normal_for_the_distribution_itself_and_large_for_another():
    generator = torch.Generator().manual_seed(0)
    table = torch.log_softmax(3 * torch.randn(400, 60, generator=generator), -1)
    entropies = -(table.exp() * table).sum(-1)[None]
    mask = torch.ones_like(entropies, dtype=torch.bool)

    def z(drawn_from):
        drawn = torch.multinomial(drawn_from.exp(), 1, generator=generator)
        return surprise_z(table.gather(1, drawn).T, entropies, mask).item()

    faithful = torch.tensor([z(table) for _ in range(500)])
    assert abs(faithful.mean()) < 0.15
    assert faithful.std() == pytest.approx(1, abs=0.1)
    assert z(torch.log_softmax(table / 2, -1)) > 5
    assert z(torch.log_softmax(table * 2, -1)) < -5
    top = table.masked_fill(table < table.topk(6).values[:, -1:], -math.inf)
    assert z(top) < -5


def test_surprise_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="shape"):
        surprise_z(torch.zeros(2, 3), torch.zeros(2, 2), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean"):
        surprise_z(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3))
