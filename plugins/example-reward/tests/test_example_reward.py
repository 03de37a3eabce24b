"""The reward by hand, and the contract that alignpipe asks of every reward."""

from __future__ import annotations

import pytest
from alignpipe.rewards import Sample
from alignpipe.testing import reward_contract

from example_reward import Options, score

test_contract = reward_contract("example_reward")
test_contract_with_another_word = reward_contract("example_reward", "reward.word=thanks")


def test_scores_by_hand() -> None:
    samples = [Sample("Hi", "Please sit. Please."), Sample("Hi", "Please", ended=False), Sample("Hi", "No.")]
    scores = score(Options(), None).score(samples)
    assert scores.parts == {"word": [1.0, 0.5, 0.0], "cut": [0.0, -0.5, 0.0]}
    assert scores.total == [1.0, 0.0, 0.0]


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        Options(most=0)
