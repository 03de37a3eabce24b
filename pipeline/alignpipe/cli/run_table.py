"""The table of several runs: what each was given, how it ended, the figures that people watch; and means over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from alignpipe.tables import cell, show_table

_WATCHED: Mapping[str, Sequence[str]] = {
    "gold win rate": ("gold/win_rate",),
    "gold": ("gold/mean", "heldout/gold"),
    "reward": ("reward/mean", "heldout/reward", "objective/scores"),
    "KL": ("kl", "heldout/kl", "objective/kl"),
    "pairs right": ("heldout/accuracy",),
    "eval loss": ("eval_loss",),
}
"""The figures that people watch, best source first: of a run that ends before `eval`, those of the stages it has."""
_COLUMNS = 4
_OVERRIDES = 6
"""Of what a run was given, as many are shown: runs of quite different configs differ in dozens of keys."""
_SEED = "seed="


@dataclass(frozen=True)
class Line:
    """A run in the table."""

    name: str
    given: Sequence[str]
    """What it was given, each as `key=value`."""
    status: str
    stages: Sequence[str]
    metrics: Mapping[str, float | None]

    def figure(self, title: str) -> float | None:
        """The best source of a figure that the run has, of the last stage that has it."""
        keys = (f"{stage}/{name}" for name in _WATCHED[title] for stage in reversed(self.stages))
        return next((value for key in keys if (value := self.metrics.get(key)) is not None), None)


def differences(given: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of what each run was given, what not all of them were; of a single run everything."""
    shared = set.intersection(*map(set, given)) if len(given) > 1 else set()
    return [[word for word in words if word not in shared] for words in given]


def show_runs(lines: Sequence[Line], what: str, title: str) -> None:
    """Write the table; `what` heads the column of names. Of what the runs were given, that in which they differ."""
    differing = differences([line.given for line in lines])
    found = (title for title in _WATCHED if any(line.figure(title) is not None for line in lines))
    shown = list(found)[:_COLUMNS]
    rows = [
        [line.name, _shown(words), line.status, *(cell(line.figure(figure)) for figure in shown)]
        for line, words in zip(lines, differing, strict=True)
    ]
    show_table([what, "overrides", "status", *shown], rows, title)
    _show_means(lines, differing, shown)


def _show_means(lines: Sequence[Line], differing: Sequence[Sequence[str]], shown: Sequence[str]) -> None:
    """Mean and deviation over the seeds, where some runs differ in nothing else."""
    groups: dict[tuple[str, ...], list[Line]] = {}
    for line, words in zip(lines, differing, strict=True):
        if line.status == "finished" and any(word.startswith(_SEED) for word in words):
            groups.setdefault(tuple(word for word in words if not word.startswith(_SEED)), []).append(line)
    several = {words: group for words, group in groups.items() if len(group) > 1}
    if not several or not shown:
        return
    rows = [
        [
            _shown(words) or "all",
            str(len(group)),
            *(_spread([line.figure(figure) for line in group]) for figure in shown),
        ]
        for words, group in several.items()
    ]
    show_table(["over seeds", "runs", *shown], rows, "\nmean +- standard deviation")


def _shown(words: Sequence[str]) -> str:
    """The first of what a run was given, and how many more there are."""
    more = f" (and {len(words) - _OVERRIDES} more)" if len(words) > _OVERRIDES else ""
    return " ".join(words[:_OVERRIDES]) + more


def _spread(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2:
        return "-"
    return f"{cell(fmean(numbers))} +- {cell(stdev(numbers))}"
