"""reward=keywords: shares of words, by hand."""

from __future__ import annotations

import pytest

from alignpipe.api import Reward, Sample, TrainableReward
from alignpipe.rewarding.scoring import score
from alignpipe_plugins.keywords.config import KeywordsConfig
from alignpipe_plugins.keywords.reward import KeywordsReward


def scored(answer: str, **options):
    return score(KeywordsReward(KeywordsConfig(**options)), [Sample("prompt", answer)], "keywords")


def test_parts_and_their_sum_by_hand() -> None:
    found = scored(
        "Thank you, a refund is sadly on its way.", wanted=["refund", "hello"], unwanted=["sadly"], max_words=6
    )
    assert found.parts == {"wanted": [0.5], "unwanted": [-1.0], "length": [pytest.approx(-3 / 6)]}
    assert found.total == [pytest.approx(0.5 - 1.0 - 0.5)]


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("a refund.", 1.0),
        ("Refund", 1.0),
        ("refunded", 0.0),
        ("the prerefund", 0.0),
        ("refund_id", 0.0),
        ("refund refund refund", 1.0),
        ("(refund)", 1.0),
        ("", 0.0),
    ],
)
def test_whole_words_count_once(answer: str, share: float) -> None:
    assert scored(answer, wanted=["refund"]).total == [share]


def test_phrases_and_signs() -> None:
    assert scored("so thank\n you", wanted=["thank you"]).total == [1.0]
    assert scored("thankyou", wanted=["thank you"]).total == [0.0]
    assert scored("we use C++ here", wanted=["C++"]).total == [1.0]
    assert scored("any (a.c) text", wanted=["abc"]).total == [0.0]
    assert scored("any abc text", wanted=["a.c"]).total == [0.0]  # not a pattern


def test_case_counts_where_it_should() -> None:
    assert scored("refund", wanted=["Refund"], ignore_case=False).total == [0.0]
    assert scored("Refund", wanted=["Refund"], ignore_case=False).total == [1.0]


@pytest.mark.parametrize(("words", "part"), [(0, 0.0), (4, 0.0), (5, -0.25), (8, -1.0), (400, -1.0)])
def test_length_is_free_up_to_the_limit_and_bounded(words: int, part: float) -> None:
    assert scored("word " * words, max_words=4).total == [part]


def test_only_what_is_set_is_a_part() -> None:
    assert scored("x", unwanted=["x"]).parts == {"unwanted": [-1.0]}
    assert scored("x", max_words=1).parts == {"length": [0.0]}


def test_many_samples_keep_their_order() -> None:
    reward = KeywordsReward(KeywordsConfig(wanted=["a", "b"]))
    answers = ["a b", "", "b", "c"]
    assert reward.score([Sample("p", answer) for answer in answers]).total == [1.0, 0.0, 0.5, 0.0]
    assert isinstance(reward, Reward)
    assert not isinstance(reward, TrainableReward)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "every answer would score the same: set wanted, unwanted or max_words"),
        ({"max_words": 0}, "max_words must be at least 1, got 0"),
        ({"wanted": ["  "]}, "wanted holds an entry without a letter or digit"),
        ({"unwanted": ["Bad", "bad"]}, "unwanted names a word twice"),
        ({"wanted": ["thank  you"], "unwanted": ["Thank you"]}, "both wanted and unwanted: thank you"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KeywordsConfig(**options)
