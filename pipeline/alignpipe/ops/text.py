"""Text as such: its diversity, from token lists, and forms in which spellings compare as equal; no tensors."""

from __future__ import annotations

import unicodedata
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


def folded(text: str, *, case: bool = False, white_space: bool = False, punctuation: bool = False) -> str:
    """A text without the differences that are not to count.

    Always: Unicode's composed form (NFC), so that an accent is one character however it was typed.

    Args:
        text: any text.
        case: whether case is not to count (`str.casefold`).
        white_space: whether the amount and kind of white space is not to count: none at the ends, one space within.
        punctuation: whether punctuation (Unicode's categories P*) is not to count: it is taken out, so that `it's` is
            `its` and `well-known` is `wellknown`.
    """
    text = unicodedata.normalize("NFC", text)
    if case:
        text = unicodedata.normalize("NFC", text.casefold())
    if punctuation:
        text = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
    return " ".join(text.split()) if white_space else text
