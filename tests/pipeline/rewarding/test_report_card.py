"""The report card on pairs whose figures can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from alignpipe.api import Scores, Scoring
from alignpipe.errors import RewardError
from alignpipe.rewarding import report_card as module
from alignpipe.rewarding.judge import Judge


def report_card(reward, rows, name: str = "reward lookup", scoring: Scoring | None = None) -> dict[str, float]:
    return module.report_card(Judge(reward, name, scoring), rows)


class Lookup:
    """Scores an answer by the number it begins with; counts the batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, samples):
        self.batches.append(len(samples))
        return [float(sample.response.split()[0]) for sample in samples]


def pair(chosen: str, rejected: str, **extra):
    return {"prompt": "p", "messages": [], "chosen": chosen, "rejected": rejected, **extra}


def test_figures_by_hand() -> None:
    rows = [pair("2 a b", "0"), pair("1", "1 a"), pair("-1 a", "1"), pair("3", "0 a b c")]
    card = report_card(Lookup(), rows)
    margins = [2.0, 0.0, -2.0, 3.0]
    assert card["accuracy"] == pytest.approx(2.5 / 4)
    assert card["margin"] == pytest.approx(sum(margins) / 4)
    assert card["pairs"] == 4
    scores = [2, 1, -1, 3, 0, 1, 1, 0]
    mean = sum(scores) / 8
    assert card["score_mean"] == pytest.approx(mean)
    assert card["score_std"] == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in scores) / 8))
    assert card["accuracy_low"] < card["accuracy"] < card["accuracy_high"]
    assert -1 <= card["length_correlation"] <= 1
    assert all(math.isfinite(value) for value in card.values())


def test_length_correlation_sees_a_reward_that_counts_words() -> None:
    class Counting:
        def __init__(self, sign: float) -> None:
            self.sign = sign

        def score(self, samples):
            return [self.sign * len(sample.response.split()) for sample in samples]

    rows = [pair("a b c", "a"), pair("a b c d e", "a b"), pair("a b c d", "a b c d e f")]
    assert report_card(Counting(1.0), rows)["length_correlation"] == pytest.approx(1)
    assert report_card(Counting(-1.0), rows)["length_correlation"] == pytest.approx(-1)


def test_a_constant_reward_is_half_right_and_correlates_with_nothing() -> None:
    card = report_card(Lookup(), [pair("1 a", "1"), pair("1 b c", "1 d")])
    assert card["accuracy"] == 0.5
    assert "length_correlation" not in card
    assert all(math.isfinite(value) for value in card.values())


def test_calibration_of_certain_mistakes() -> None:
    assert report_card(Lookup(), [pair("50", "-50")])["calibration_error"] == pytest.approx(0)
    assert report_card(Lookup(), [pair("-50", "50")])["calibration_error"] == pytest.approx(1)


def test_accuracy_apart_by_source_and_confidence() -> None:
    rows = [
        pair("1", "0", source="web", confidence=1),
        pair("0", "1", source="web", confidence=2),
        pair("1", "0", source="shop", confidence=2),
    ]
    card = report_card(Lookup(), rows)
    by = {name: value for name, value in card.items() if "_by_" in name}
    assert by == {
        "accuracy_by_source/web": 0.5,
        "accuracy_by_source/shop": 1.0,
        "accuracy_by_confidence/1": 1.0,
        "accuracy_by_confidence/2": 0.5,
    }


class Parted:
    """The total is the first number of the answer, the parts are the first and the second."""

    def score(self, samples):
        numbers = [[float(word) for word in sample.response.split()] for sample in samples]
        first, second = zip(*numbers, strict=True)
        return Scores(list(first), parts={"first": list(first), "rival/second": list(second)})


def test_accuracy_of_every_part_by_itself() -> None:
    card = report_card(Parted(), [pair("2 0", "1 5"), pair("3 3", "1 3"), pair("0 7", "1 0"), pair("4 0", "3 1")])
    assert card["accuracy"] == card["accuracy_by_part/first"] == 3 / 4
    assert card["accuracy_by_part/rival/second"] == (0 + 0.5 + 1 + 0) / 4


def test_a_part_that_is_missing_for_some_samples_has_no_accuracy() -> None:
    class Sometimes(Parted):
        def score(self, samples):
            scores = super().score(samples)
            parts = scores.parts if len(samples) == 512 else {"first": scores.parts["first"]}
            return Scores(scores.total, parts=parts)

    rows = [pair("2 0", "1 5")] * 513
    assert "accuracy_by_part/first" in report_card(Parted(), rows)
    named = [name for name in report_card(Sometimes(), rows) if "_by_part/" in name]
    assert named == ["accuracy_by_part/first"]


def test_no_groups_where_there_is_one_or_too_many_or_a_gap() -> None:
    one = [pair("1", "0", source="web")] * 3
    many = [pair("1", "0", source=str(index)) for index in range(13)]
    gap = [pair("1", "0", source="web"), pair("1", "0", source="shop"), pair("1", "0", source=None)]
    for rows in (one, many, gap):
        assert not [name for name in report_card(Lookup(), rows) if "_by_" in name]


def test_batches_are_bounded_and_cover_everything() -> None:
    reward = Lookup()
    report_card(reward, [pair("1", "0")] * 600)
    assert reward.batches == [512, 88, 512, 88]


def test_samples_carry_the_rows_own_columns_and_messages() -> None:
    seen = []

    class Looking:
        def score(self, samples):
            seen.extend(samples)
            return [0.0] * len(samples)

    messages = [{"role": "user", "content": "hi"}]
    report_card(Looking(), [{**pair("1", "0", answer="42"), "messages": messages}])
    assert [(sample.response, sample.row, list(sample.messages)) for sample in seen] == [
        ("1", {"answer": "42"}, messages),
        ("0", {"answer": "42"}, messages),
    ]


def test_a_broken_reward_is_named() -> None:
    with pytest.raises(RewardError, match=r"^reward lookup failed on 1 of 1 samples[^$]*ValueError"):
        report_card(Lookup(), [pair("x", "0")])


def test_a_pair_with_a_side_that_has_no_score_counts_nowhere() -> None:
    rows = [pair("2", "0"), pair("0", "1", source="b"), pair("x", "9"), pair("9", "x")]
    card = report_card(Lookup(), rows, scoring=Scoring(failure_budget=0.5))
    assert (card["accuracy"], card["pairs"], card["failures"]) == (0.5, 2, 2)
    assert card["score_mean"] == pytest.approx(3 / 4)
