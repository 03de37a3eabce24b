"""reward=exact_match: the reference, a wrong answer, and what does not count as different."""

from __future__ import annotations

import pytest

from alignpipe.api import Reward, Sample, TrainableReward
from alignpipe.errors import DataError
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.exact_match.config import ExactMatchConfig
from alignpipe_plugins.exact_match.reward import ExactMatchReward, build


def scored(response: str, answer, **options) -> float:
    reward = ExactMatchReward(ExactMatchConfig(**options))
    return reward.score([Sample("prompt", response, row={"answer": answer})]).total[0]


@pytest.mark.parametrize(
    ("response", "options", "value"),
    [
        ("Paris", {}, 1.0),
        (" paris\n", {}, 1.0),
        ("paris", {"ignore_case": False}, 0.0),
        (" Paris", {"ignore_white_space": False}, 0.0),
        ("Paris.", {}, 0.0),
        ("Paris.", {"ignore_punctuation": True}, 1.0),
        ("It is Paris", {}, 0.0),
        ("Rome", {}, 0.0),
        ("", {}, 0.0),
    ],
)
def test_what_is_the_same(response: str, options, value: float) -> None:
    assert scored(response, "Paris", **options) == value


def test_numbers_and_lists_as_references() -> None:
    assert scored(" 7", 7) == 1.0
    assert scored("7.0", 7) == 0.0
    assert [scored(text, ["Holland", None, "the Netherlands"]) for text in ("The  Netherlands", "None")] == [1.0, 0.0]


def test_a_row_without_a_reference_is_a_failure() -> None:
    rows = [{"answer": "a"}, {"answer": None}, {}, {"answer": []}, {"answer": ""}]
    scores = ExactMatchReward(ExactMatchConfig()).score([Sample("p", "a", row=row) for row in rows])
    assert {index: failure.kind for index, failure in scores.failures.items()} == dict.fromkeys((1, 2, 3), "refused")
    assert "no reference in its column 'answer'" in scores.failures[1].message
    assert (scores.total[0], scores.total[4]) == (1.0, 0.0)


def test_a_column_that_is_not_there_is_found_before_any_work() -> None:
    reward = build(ExactMatchConfig(column="solution"), None)
    assert isinstance(reward, Reward)
    assert not isinstance(reward, TrainableReward)
    with pytest.raises(DataError, match="reads the column 'solution', which 1 of 1 training prompts do not have"):
        Judge(reward, "exact_match").check_columns([{"prompt": "p", "answer": "a"}], "training prompts")


def test_an_empty_column_is_refused() -> None:
    with pytest.raises(ValueError, match="column is empty"):
        ExactMatchConfig(column=" ")
