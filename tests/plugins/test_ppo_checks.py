"""The start checks: what they let pass in each precision, and what they say."""

from __future__ import annotations

import pytest
import torch

from alignpipe.errors import TrainingError
from alignpipe_plugins.ppo.checks import check_finite, check_first_kl, check_first_ratio, check_sampling


def network(dtype: torch.dtype) -> torch.nn.Module:
    return torch.nn.Linear(1, 1, dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "worst", "mean"),
    [(torch.float32, 1e-4, 1e-6), (torch.bfloat16, 0.4, 0.02), (torch.float16, 0.1, 0.004)],
)
def test_rounding_passes(dtype: torch.dtype, worst: float, mean: float) -> None:
    check_first_ratio(worst, mean, network(dtype))


@pytest.mark.parametrize(
    ("dtype", "worst", "mean"),
    [
        (torch.float32, 2e-3, 1e-6),  # a single token is enough
        (torch.bfloat16, 0.2, 0.06),
        (torch.float16, 0.2, 0.02),
        (torch.float32, float("nan"), 0.0),
        (torch.bfloat16, float("nan"), float("nan")),
    ],
)
def test_a_real_difference_stops_the_training(dtype: torch.dtype, worst: float, mean: float) -> None:
    with pytest.raises(TrainingError, match=r"start check D64 failed: .*dropout"):
        check_first_ratio(worst, mean, network(dtype))


@pytest.mark.parametrize(
    ("dtype", "passes", "fails"),
    [(torch.float32, 0.009, 0.02), (torch.bfloat16, 0.4, 0.6), (torch.float16, 0.1, 0.3), (torch.float64, 0.009, 0.02)],
)
def test_the_kl_of_a_copy(dtype: torch.dtype, passes: float, fails: float) -> None:
    check_first_kl(torch.tensor([0.0, -passes]), network(dtype))
    for wrong in (fails, -fails, float("nan")):
        with pytest.raises(TrainingError, match="start check D65 failed"):
            check_first_kl(torch.tensor([0.0, wrong]), network(dtype))


@pytest.mark.parametrize(("z", "how"), [(6.5, "less likely"), (-6.5, "likelier"), (float("nan"), "")])
def test_a_sampler_with_a_will_of_its_own(z: float, how: str) -> None:
    check_sampling(5.5)
    check_sampling(-5.5)
    with pytest.raises(TrainingError, match=f"does not sample from the policy: its tokens are {how}.*rollout slot"):
        check_sampling(z)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    good, bad = network(torch.float32), network(torch.bfloat16)
    check_finite({"policy": good, "critic": bad}, 3)
    with torch.no_grad():
        bad.bias.fill_(value)
    with pytest.raises(TrainingError, match="the critic's weights are not finite after update 3"):
        check_finite({"policy": good, "critic": bad}, 3)
