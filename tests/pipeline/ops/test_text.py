"""Distinct-n and folding."""

from __future__ import annotations

import pytest

from alignpipe.ops.text import distinct_n, folded


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


def test_folding_takes_out_what_is_not_to_count():
    text = " It’s\tÉTÉ,  well-known!\n"
    assert folded(text) == text
    assert folded(text, white_space=True) == "It’s ÉTÉ, well-known!"
    assert folded(text, case=True, white_space=True) == "it’s été, well-known!"
    assert folded(text, case=True, white_space=True, punctuation=True) == "its été wellknown"
    assert folded("a , b", white_space=True, punctuation=True) == "a b"


def test_an_accent_is_the_same_however_it_was_typed():
    assert folded("e\u0301") == folded("\u00e9") == "\u00e9"
    assert folded("STRASSE", case=True) == folded("straße", case=True)
