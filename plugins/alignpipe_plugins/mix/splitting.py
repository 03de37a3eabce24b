"""Splitting the mix's total over the tokens of a response, where members do that with theirs."""

from __future__ import annotations

from collections.abc import Sequence


def split(total: float, shares: Sequence[tuple[float, Sequence[float]]], length: int | None) -> list[float]:
    """One number per token, which add up to `total`.

    `shares` are the members' own splits with what they count; everything else the total is made of (members without a
    split, the bias of a normalisation) falls on the last token, where PPO puts totals anyway. `length` is the number
    of tokens; where nobody knows it, that of the longest split.
    """
    row = [0.0] * max(length or 1, *(len(tokens) for _, tokens in shares), 1)
    for factor, tokens in shares:
        for position, value in enumerate(tokens):
            row[position] += factor * value
    row[-1] += total - sum(row)
    return row
