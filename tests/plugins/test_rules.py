"""reward=rules: every part by hand."""

from __future__ import annotations

import math

import pytest

from alignpipe.api import Reward, Sample, Scores, TrainableReward
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.rules import reward as rules_reward
from alignpipe_plugins.rules.config import RulesConfig
from alignpipe_plugins.rules.reward import RulesReward


def scored(answer: str, **options) -> Scores:
    return RulesReward(RulesConfig(**options)).score([Sample("prompt", answer)])


def part(answer: str, name: str, **options) -> float:
    return scored(answer, **options).parts[name][0]


def test_parts_and_their_sum_by_hand() -> None:
    found = scored(
        "Thank you, a refund is sadly on its way.", wanted=["refund", "hello"], unwanted=["sadly"], max_words=6
    )
    assert found.parts == {"wanted": [0.5], "unwanted": [-1.0], "length": [pytest.approx(-3 / 6)]}
    assert found.total == [pytest.approx(0.5 - 1.0 - 0.5)]


def test_weights_count_in_the_total_only() -> None:
    found = scored(
        "ok ok ok",
        wanted=["ok"],
        repetition=1,
        patterns={"short": "^.{0,9}$"},
        weights={"wanted": 3.0, "repetition": 0.5, "short": 0},
    )
    assert found.parts == {"wanted": [1.0], "repetition": [pytest.approx(-2 / 3)], "short": [1.0]}
    assert found.total == [pytest.approx(3.0 - 1 / 3)]


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


@pytest.mark.parametrize(
    ("words", "least", "most", "expected"),
    [
        (0, None, 4, 0.0),
        (4, None, 4, 0.0),
        (5, None, 4, -0.25),
        (8, None, 4, -1.0),
        (400, None, 4, -1.0),
        (0, 4, None, -1.0),
        (3, 4, None, -0.25),
        (4, 4, 4, 0.0),
        (9, 2, 6, -0.5),
    ],
)
def test_length_is_free_inside_the_band_and_bounded(words, least, most, expected) -> None:
    assert scored("word " * words, min_words=least, max_words=most).parts == {"length": [expected]}
    letters = scored(f"\n{'x' * words} ", min_characters=least, max_characters=most)
    assert letters.parts == {"characters": [expected]}


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (' {"a": [1, 2.5, null]}\n', 1.0),
        ("17", 1.0),
        ('{"a": 1} and more', 0.0),
        ("{'a': 1}", 0.0),
        ("NaN", 0.0),
        ("", 0.0),
        ("[" * 100_000, 0.0),
    ],
)
def test_json(answer: str, value: float) -> None:
    assert part(answer, "json", json=True) == value


def test_beginning_end_and_whole() -> None:
    assert part("  Dear Ann, hello", "starts_with", starts_with="Dear ") == 1.0
    assert part("My Dear", "starts_with", starts_with="Dear") == 0.0
    assert part("... goodbye.\n", "ends_with", ends_with="goodbye.") == 1.0
    assert part("goodbye. Or not", "ends_with", ends_with="goodbye.") == 0.0
    assert part(" <a>x</a> ", "matches", matches="<a>.*</a>") == 1.0
    assert part("see <a>x</a>", "matches", matches="<a>.*</a>") == 0.0


def test_patterns_are_found_anywhere_or_should_not_be() -> None:
    options = {"patterns": {"number": r"\d+"}, "unwanted_patterns": {"link": "(?i)https?://"}}
    assert scored("see HTTP://x", **options).parts == {"number": [0.0], "link": [-1.0]}
    assert scored("it costs 12", **options).parts == {"number": [1.0], "link": [0.0]}


@pytest.mark.parametrize(
    ("answer", "n", "value"),
    [
        ("a b a b a b", 2, -3 / 5),  # ab ba ab ba ab: two different ones among five
        ("a b c d", 2, 0.0),
        ("A a", 1, -0.5),
        ("one", 2, 0.0),
        ("", 1, 0.0),
    ],
)
def test_repetition_is_the_share_of_repeated_sequences(answer: str, n: int, value: float) -> None:
    assert part(answer, "repetition", repetition=n) == pytest.approx(value)


def test_a_pattern_that_never_ends_is_a_failure_of_the_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules_reward, "PATTERN_SECONDS", 0.05)
    reward = RulesReward(RulesConfig(patterns={"slow": "(a|aa)+$", "x": "x"}, min_words=1))
    scores = reward.score([Sample("p", "x"), Sample("p", "a" * 60 + "b"), Sample("p", "aa")])
    assert {index: failure.kind for index, failure in scores.failures.items()} == {1: "timeout"}
    assert [scores.total[0], scores.total[2]] == [1.0, 1.0]
    assert math.isnan(scores.total[1])


def test_many_samples_keep_their_order() -> None:
    reward = RulesReward(RulesConfig(wanted=["a", "b"]))
    answers = ["a b", "", "b", "c"]
    assert Judge(reward, "rules").score([Sample("p", answer) for answer in answers]).total == [1.0, 0.0, 0.5, 0.0]
    assert isinstance(reward, Reward)
    assert not isinstance(reward, TrainableReward)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "every answer would score the same: set at least one of wanted, unwanted, min_words"),
        ({"max_words": 0}, "max_words must be at least 1, got 0"),
        ({"min_words": 5, "max_words": 4}, r"min_words \(5\) is above max_words \(4\)"),
        ({"wanted": ["  "]}, "wanted holds an entry without a letter or digit"),
        ({"unwanted": ["Bad", "bad"]}, "unwanted names a word twice"),
        ({"wanted": ["thank  you"], "unwanted": ["Thank you"]}, "both wanted and unwanted: thank you"),
        ({"repetition": 0}, "repetition must be at least 1, got 0"),
        ({"patterns": {"x": "("}}, r"patterns.x is no regular expression: missing \)"),
        ({"patterns": {"x": ""}}, "patterns.x is empty"),
        ({"patterns": {"length": "a"}}, "patterns.length: length is the name of a part of its own"),
        ({"patterns": {"a/b": "a"}}, "patterns.a/b: a part's name is made of"),
        ({"patterns": {"x": "a"}, "unwanted_patterns": {"x": "b"}}, "both in patterns and in unwanted_patterns: x"),
        ({"matches": "["}, "matches is no regular expression"),
        ({"starts_with": " "}, "starts_with is empty"),
        ({"wanted": ["a"], "weights": {"lenght": 1}}, "weights.lenght: there is no such part; .* make wanted"),
        ({"wanted": ["a"], "weights": {"wanted": 0}}, "weights are all 0"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RulesConfig(**options)
