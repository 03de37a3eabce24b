"""The start checks: what they let pass in each precision, and what they say."""

from __future__ import annotations

import pytest
import torch

from alignpipe.errors import TrainingError
from alignpipe.training.linears import BFloat16Linear
from alignpipe_plugins.ppo.checks import check_finite, check_first_kl, check_first_ratio, check_sampling

PRODUCTS = "float32 weights, products in bfloat16"
Precision = torch.dtype | str


def network(precision: Precision) -> torch.nn.Module:
    return torch.nn.Linear(1, 1, dtype=precision) if isinstance(precision, torch.dtype) else BFloat16Linear(1, 1)


@pytest.mark.parametrize(
    ("precision", "worst", "mean"),
    [
        (torch.float32, 1e-4, 1e-6),
        (PRODUCTS, 0.06, 4e-4),
        (torch.bfloat16, 0.4, 0.01),
        (torch.float16, 0.1, 1e-3),
    ],
)
def test_rounding_passes(precision: Precision, worst: float, mean: float) -> None:
    check_first_ratio(worst, mean, network(precision))


@pytest.mark.parametrize(
    ("precision", "worst", "mean"),
    [
        (torch.float32, 2e-3, 1e-6),  # a single token is enough
        (PRODUCTS, 0.06, 0.016),  # a temperature of 0.98 in place of 1
        (torch.bfloat16, 0.2, 0.04),  # of 0.95
        (torch.float16, 0.2, 0.016),
        (torch.float32, float("nan"), 0.0),
        (torch.bfloat16, float("nan"), float("nan")),
    ],
)
def test_a_real_difference_stops_the_training(precision: Precision, worst: float, mean: float) -> None:
    with pytest.raises(TrainingError, match=r"start check D64 failed: .*dropout"):
        check_first_ratio(worst, mean, network(precision))


def test_the_message_names_the_precision() -> None:
    with pytest.raises(TrainingError, match=r"by 0\.03 \(allowed in bfloat16 products: 0\.002\)"):
        check_first_ratio(0.1, 0.03, network(PRODUCTS))


@pytest.mark.parametrize(
    ("precision", "passes", "fails"),
    [
        (torch.float32, 0.009, 0.02),
        (torch.float64, 0.009, 0.02),
        (PRODUCTS, 0.04, 0.06),
        (torch.bfloat16, 0.04, 0.06),
        (torch.float16, 0.04, 0.06),
    ],
)
def test_the_kl_of_a_copy(precision: Precision, passes: float, fails: float) -> None:
    check_first_kl(torch.tensor([0.0, -passes]), network(precision))
    for wrong in (fails, -fails, float("nan")):
        with pytest.raises(TrainingError, match="start check D65 failed"):
            check_first_kl(torch.tensor([0.0, wrong]), network(precision))


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
