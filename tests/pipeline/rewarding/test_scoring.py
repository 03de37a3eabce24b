"""Scores are checked: one finite number per sample, or an error that names the reward."""

from __future__ import annotations

import pytest

from alignpipe.api import Failure, Sample, Scores
from alignpipe.errors import RewardError
from alignpipe.rewarding.scoring import score

SAMPLES = [Sample("a prompt", f"answer {index}") for index in range(3)]
NAN = float("nan")


class Fixed:
    """Gives one answer, whatever it is asked."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def score(self, samples):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_plain_floats_and_scores_with_parts() -> None:
    plain = score(Fixed([1, 2.5, -3]), SAMPLES, "acme")
    assert (plain.total, plain.parts) == ([1.0, 2.5, -3.0], {})
    rich = score(Fixed(Scores(total=(1.0, 2.0, 3.0), parts={"tone": [0, 1, 0]})), SAMPLES, "acme")
    assert (rich.total, rich.parts) == ([1.0, 2.0, 3.0], {"tone": [0.0, 1.0, 0.0]})


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0, 2.0], "reward acme gave 2 scores for 3 samples"),
        ([1.0, NAN, 2.0], "reward acme gave nan, which is no finite number; .*begins 'answer 1'"),
        ([1.0, 2.0, float("inf")], "reward acme gave inf.*begins 'answer 2'"),
        (Scores([0.0] * 3, parts={"tone": [1.0]}), "part 'tone' of reward acme gave 1 scores for 3 samples"),
        (Scores([0.0] * 3, parts={"tone": [NAN] * 3}), "part 'tone' of reward acme gave nan"),
        (
            Scores([0.0] * 3, failures={2: Failure("timeout", "took 10 s")}),
            r"reward acme failed on a sample \(timeout: took 10 s\).*begins 'answer 2'",
        ),
        (KeyError("answer_key"), r"reward acme raised KeyError: 'answer_key' \(.*test_scoring.py:\d+\)"),
    ],
)
def test_anything_else_names_the_reward(answer, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        score(Fixed(answer), SAMPLES, "acme")


def test_a_rewards_own_error_is_passed_on() -> None:
    with pytest.raises(RewardError, match=r"^the row has no answer$"):
        score(Fixed(RewardError("the row has no answer")), SAMPLES, "acme")


def test_what_is_no_number_names_the_reward() -> None:
    for answer in (["a", "b", "c"], [None] * 3, None, 1.0):
        with pytest.raises(RewardError, match="reward acme"):
            score(Fixed(answer), SAMPLES, "acme")
