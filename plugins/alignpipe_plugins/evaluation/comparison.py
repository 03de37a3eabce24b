"""Two sets of scores on the same prompts: means, win rate, and how sure we can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alignpipe.ops.intervals import bootstrap_interval
from alignpipe.ops.pairs import wins
from alignpipe.rewarding.judge import Scored
from alignpipe.training.streams import stream

_MOST_PARTS = 8
"""Parts of a reward that are shown at the end of a run; the metrics hold all."""

Line = list[str | float | None]
"""A line of the report's table: label, baseline, policy."""


def compare(
    ours: Scored,
    theirs: Scored | None,
    mismatched: Scored | None,
    *,
    seed: int,
    confidence: float,
    resamples: int,
) -> dict[str, float]:
    """Mean, parts and, against `theirs`, the win rate with its bootstrap interval over prompts (ties count half).

    `mismatched` are the scores of our answers to other prompts than their own. An answer without a score counts
    nowhere, its prompt not in the win rate; `failures` is how many there are.
    """
    scores = _numbers(ours.total, ours.kept)
    figures = {"mean": float(scores.mean()), "std": float(scores.std(correction=0))}
    figures.update({f"part/{name}": _mean(values) for name, values in ours.parts.items()})
    failures = sum(len(side.failures) for side in (ours, theirs, mismatched) if side is not None)
    if failures:
        figures["failures"] = float(failures)
    if mismatched is not None:
        figures["mismatched_mean"] = _mean(mismatched.total)
    if theirs is None:
        return figures
    figures |= {
        "baseline_mean": _mean(theirs.total),
        **{f"baseline_part/{name}": _mean(values) for name, values in theirs.parts.items()},
    }
    both = [index for index in ours.kept if index not in theirs.failures]
    if not both:  # a reward may apply to other answers of ours than of theirs
        return figures
    outcome = wins(_numbers(ours.total, both), _numbers(theirs.total, both))
    low, high = bootstrap_interval(outcome, stream(seed, "bootstrap"), confidence, resamples)
    return {
        **figures,
        "win_rate": float(outcome.mean()),
        "win_rate_low": low,
        "win_rate_high": high,
    }


def rows_of(title: str, figures: Mapping[str, float], confidence: float) -> list[Line]:
    """The report's lines about one reward."""
    lines: list[Line] = [[title, figures.get("baseline_mean"), figures["mean"]], *_part_rows(figures)]
    if "win_rate" in figures:
        interval = f"{figures['win_rate']:.3f} [{figures['win_rate_low']:.3f}, {figures['win_rate_high']:.3f}]"
        lines.append([f"{title} win rate [{confidence:.0%}]", None, interval])
    if "mismatched_mean" in figures:
        lines.append([f"{title}, prompts swapped", None, figures["mismatched_mean"]])
    return lines


def _part_rows(figures: Mapping[str, float]) -> list[Line]:
    """A line for each part, indented below its reward: of many the first ones, and how many more there are."""
    names = [name.removeprefix("part/") for name in figures if name.startswith("part/")]
    lines: list[Line] = [
        [f"  {name}", figures.get(f"baseline_part/{name}"), figures[f"part/{name}"]] for name in names[:_MOST_PARTS]
    ]
    if len(names) > _MOST_PARTS:
        lines.append([f"  ... {len(names) - _MOST_PARTS} more in summary.json", "", ""])
    return lines


def _numbers(values: Sequence[float], kept: Sequence[int]) -> Tensor:
    return torch.tensor([values[index] for index in kept], dtype=torch.float64)


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are there; NaN stands for a missing one."""
    return float(torch.tensor(values, dtype=torch.float64).nanmean())
