"""Distinct-n."""

from __future__ import annotations

import pytest

from alignpipe.ops.text import distinct_n


def test_hand_numbers():
    texts = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(texts, 2) == 3 / 5  # 12 21 12 | 12 23
    assert distinct_n(texts, 3) == 3 / 3
    assert distinct_n([["a", "b"], ["b", "a"]], 2) == 1.0  # no "b b" across the texts


def test_short_texts_hold_no_ngram():
    assert distinct_n([[1], []], 2) == 0.0
    assert distinct_n([], 1) == 0.0


def test_refuses_n_below_one():
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        distinct_n([[1]], 0)
