"""The adaptive KL coefficient."""

from __future__ import annotations

import pytest

from alignpipe.ops.control import adaptive_kl_coef


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.6, 0.15 * (1 + 0.1 * 512 / 10000)),  # 10 % above
        (5.4, 0.15 * (1 - 0.1 * 512 / 10000)),
        (60.0, 0.15 * (1 + 0.2 * 512 / 10000)),  # far above: the error is cut at 20 %
        (-1.0, 0.15 * (1 - 0.2 * 512 / 10000)),
        (6.0, 0.15),
    ],
)
def test_hand_numbers(kl, expected):
    assert adaptive_kl_coef(0.15, kl, target=6.0, episodes=512, horizon=10000) == pytest.approx(expected, rel=1e-9)


def test_steers_a_policy_to_its_target():
    coef = 0.05
    for _ in range(2000):
        coef = adaptive_kl_coef(coef, kl=0.9 / coef, target=6.0, episodes=512, horizon=10000)  # more weight, less KL
    assert coef == pytest.approx(0.15, rel=1e-3)


def test_refusals():
    with pytest.raises(ValueError, match="target must be greater than 0, got 0"):
        adaptive_kl_coef(0.1, 1.0, 0.0, 10, 100)
    with pytest.raises(ValueError, match="coef must be greater than 0"):
        adaptive_kl_coef(-0.1, 1.0, 6.0, 10, 100)
    with pytest.raises(ValueError, match="kl must be finite, got nan"):
        adaptive_kl_coef(0.1, float("nan"), 6.0, 10, 100)
    with pytest.raises(ValueError, match="horizon must be greater than"):
        adaptive_kl_coef(0.1, 1.0, 6.0, 1000, 200)
