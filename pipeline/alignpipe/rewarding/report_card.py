"""The report card every reward gets, trained or written: how it fares on held-out preferences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from alignpipe.dataset import Dataset, Row
from alignpipe.ops.calibration import expected_calibration_error
from alignpipe.ops.correlation import spearman
from alignpipe.ops.intervals import wilson_interval
from alignpipe.ops.pairs import wins
from alignpipe.rewarding.judge import Judge, Scored

_GROUPINGS = ("source", "confidence")
"""Columns of the pairs by which accuracy is given apart (D18): where a pair came from, how sure its labeller was."""
_MOST_GROUPS = 12


def report_card(judge: Judge, rows: Sequence[Row]) -> dict[str, float]:
    """Figures on held-out preference rows; a pair counts if both its sides have a score, `failures` is the rest.

    There are none if there is no such pair.

    Raises `RewardError` as the judge does.
    """
    chosen, rejected = (judge.score([Dataset.sample(row, column) for row in rows]) for column in ("chosen", "rejected"))
    return card_of(rows, chosen, rejected)


def card_of(rows: Sequence[Row], preferred: Scored, other: Scored) -> dict[str, float]:
    """The figures from the scores of both sides of each pair; none if no pair has both."""
    kept = [index for index in preferred.kept if index not in other.failures]
    if not kept:
        return {}
    failures = len(rows) - len(kept)
    rows = [rows[index] for index in kept]
    sides = (preferred, other)
    chosen, rejected = (torch.tensor([side.total[index] for index in kept], dtype=torch.float64) for side in sides)
    right = wins(chosen, rejected)
    low, high = wilson_interval(float(right.sum()), len(rows))
    both = torch.cat([chosen, rejected])
    lengths = torch.tensor([float(len(row[column].split())) for column in ("chosen", "rejected") for row in rows])
    card = {
        "accuracy": float(right.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "margin": float((chosen - rejected).mean()),
        "calibration_error": expected_calibration_error(chosen - rejected),
        "score_mean": float(both.mean()),
        "score_std": float(both.std(correction=0)),
        "pairs": float(len(rows)),
        "failures": float(failures),
    }
    correlation = spearman(both, lengths)
    if not math.isnan(correlation):  # undefined where all scores, or all lengths, are equal
        card["length_correlation"] = correlation
    for column in _GROUPINGS:
        card.update(_accuracy_by(column, rows, right))
    return card | _accuracy_by_part(preferred.parts, other.parts, kept)


def _accuracy_by_part(
    preferred: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], kept: Sequence[int]
) -> dict[str, float]:
    """What the accuracy would be if one part alone were the score; of a mix, one of its members."""
    found = {}
    for name in preferred.keys() & other.keys():
        chosen, rejected = (torch.tensor([part[name][row] for row in kept]) for part in (preferred, other))
        if not (chosen.isnan() | rejected.isnan()).any():  # a part may be there for some of the batches only
            found[f"accuracy_by_part/{name}"] = float(wins(chosen, rejected).mean())
    return dict(sorted(found.items()))


def _accuracy_by(column: str, rows: Sequence[Mapping[str, Any]], right: torch.Tensor) -> dict[str, float]:
    """Accuracy per value of a column, where it has a few values."""
    values = [str(row.get(column)) for row in rows if row.get(column) is not None]
    groups = sorted(set(values))
    if len(values) < len(rows) or not 2 <= len(groups) <= _MOST_GROUPS:
        return {}
    flags = right.tolist()
    return {
        f"accuracy_by_{column}/{group}": sum(flag for flag, value in zip(flags, values, strict=True) if value == group)
        / values.count(group)
        for group in groups
    }
