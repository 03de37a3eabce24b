"""Diversity of generated text, from token lists; no tensors."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def distinct_n(sequences: Sequence[Sequence[Hashable]], n: int) -> float:
    """Distinct n-grams over all n-grams of a set of texts: |set| / count. N-grams do not cross texts.

    Args:
        sequences: token ids or words, one sequence per text.
        n: length of the n-grams, at least 1.

    Returns:
        In [0, 1]; 0 when no text is long enough to hold an n-gram. Falls as texts repeat, and as they get longer.

    Raises:
        ValueError: n is below 1.

    References:
        Li et al., arXiv 1510.03055, section 5.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    grams = [tuple(text[start : start + n]) for text in sequences for start in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
