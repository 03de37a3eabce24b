"""reward=similarity: every metric against values computed by hand."""

from __future__ import annotations

import math
import sys
from importlib import metadata

import pytest

from alignpipe.api import Sample
from alignpipe.errors import ConfigError, DataError
from alignpipe.rewarding.judge import Judge
from alignpipe_plugins.similarity.config import Metric, SimilarityConfig
from alignpipe_plugins.similarity.reward import SimilarityReward, build

REFERENCE = "the cat sat on the mat"


def scored(response: str, reference, metric: str, **options) -> float:
    reward = SimilarityReward(SimilarityConfig(metric=Metric[metric], **options))
    return reward.score([Sample("prompt", response, row={"reference": reference})]).total[0]


BY_HAND = {
    # 1-grams 5/5, 2-grams 3/4, 3-grams 2/3, 4-grams 1/2; five words for six: exp(1 - 6/5)
    "bleu": (1 * 3 / 4 * 2 / 3 * 1 / 2) ** (1 / 4) * math.exp(1 - 6 / 5),
    "rouge1": 2 * 1 * (5 / 6) / (1 + 5 / 6),
    "rouge2": 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5),
    "rougeL": 2 * 1 * (5 / 6) / (1 + 5 / 6),
    "wer": 1 - 1 / 6,  # one word of six left out
    "cer": 1 - 4 / 22,  # four characters of 22
}


@pytest.mark.parametrize("metric", BY_HAND)
def test_one_word_left_out(metric: str) -> None:
    assert scored("the cat sat on mat", REFERENCE, metric) == pytest.approx(BY_HAND[metric], abs=1e-6)


def test_chrf_by_hand() -> None:
    """Of the orders 1 to 6 only three are in both: precision 1; recall 3/4, 2/3, 1/2."""
    recall = (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert scored("abc", "abcd", "chrf") == pytest.approx(5 * recall / (4 + recall), abs=1e-6)
    # chrF++ has two word orders more: neither word fits, and there are no word pairs
    precision, recall = 3 / 4, (3 / 4 + 2 / 3 + 1 / 2) / 4
    assert scored("abc", "abcd", "chrf_pp") == pytest.approx(
        5 * precision * recall / (4 * precision + recall), abs=1e-6
    )


@pytest.mark.parametrize("metric", [metric.name for metric in Metric])
def test_the_ends_of_the_scale(metric: str) -> None:
    assert scored(f" {REFERENCE}\n", REFERENCE, metric) == pytest.approx(1.0)
    assert scored("", REFERENCE, metric) == 0.0
    assert scored("zzz", REFERENCE, metric) == pytest.approx(0.0)


def test_error_rates_may_be_below_zero() -> None:
    assert scored("a b c", "x", "wer") == 1 - 3
    assert scored("xab", "x", "cer") == 1 - 2


@pytest.mark.parametrize("metric", [metric.name for metric in Metric])
def test_several_references(metric: str) -> None:
    assert scored("a dog", ["the cat", "a dog", None], metric) == pytest.approx(1.0)


def test_case_and_punctuation() -> None:
    assert scored("A dog!", "a dog", "wer") == 0.0
    assert scored("A dog", "a dog", "wer", ignore_case=True) == 1.0
    assert scored("A dog!", "a dog", "wer", ignore_case=True, ignore_punctuation=True) == 1.0
    assert scored("refunds", "refund", "rouge1") == 0.0
    assert scored("refunds", "refund", "rouge1", stem=True) == 1.0
    assert scored("ab", "ac", "bleu") == 0.0
    assert scored("我的猫在家里", "我的狗在家里", "bleu", bleu_tokenizer="zh") > 0.3


def test_a_row_without_a_reference_is_a_failure() -> None:
    rows = [{"reference": "a b"}, {}, {"reference": None}, {"reference": " "}, {"reference": []}, {"reference": 3}]
    scores = SimilarityReward(SimilarityConfig()).score([Sample("p", "a b", row=row) for row in rows])
    assert {index: failure.kind for index, failure in scores.failures.items()} == dict.fromkeys(range(1, 6), "refused")
    assert scores.total[0] == 1.0
    dots = SimilarityReward(SimilarityConfig(ignore_punctuation=True, metric=Metric.wer))
    assert list(dots.score([Sample("p", "a", row={"reference": "..."})]).failures) == [0]


def test_batches_change_nothing_and_columns_are_checked() -> None:
    reward = build(SimilarityConfig(metric=Metric.bleu, column="gold"), None)
    samples = [Sample("p", text, row={"gold": REFERENCE}) for text in ("the cat", "on the mat sat", REFERENCE)]
    judge = Judge(reward, "similarity")
    assert judge.score(samples).total == [judge.score([sample]).total[0] for sample in samples]
    with pytest.raises(DataError, match="reads the column 'gold'"):
        judge.check_columns([{"prompt": "p"}], "training prompts")


@pytest.mark.parametrize(
    ("metric", "module"), [("bleu", "sacrebleu.metrics.bleu"), ("rouge1", "rouge_score.rouge_scorer"), ("wer", "jiwer")]
)
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, metric: str, module: str) -> None:
    config = SimilarityConfig(metric=Metric[metric])
    library = config.metric.library
    assert config.revision() == {library: metadata.version(library)}
    monkeypatch.setitem(sys.modules, module, None)
    told = f"metric={metric} needs {library}, which is not installed: pip install 'alignpipe\\[similarity\\]'"
    with pytest.raises(ConfigError, match=told):
        SimilarityReward(config)

    def nothing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing)
    with pytest.raises(ConfigError, match=told):  # when planning, before any work
        config.revision()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"column": ""}, "column is empty"),
        ({"stem": True}, "stem=true is for the rouge metrics, but metric=chrf"),
        ({"bleu_tokenizer": "zh"}, "bleu_tokenizer=zh is for bleu, but metric=chrf"),
        ({"bleu_tokenizer": "flores200", "metric": Metric.bleu}, "bleu_tokenizer must be one of 13a, intl, char"),
    ],
)
def test_options_that_make_no_sense(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimilarityConfig(**options)
