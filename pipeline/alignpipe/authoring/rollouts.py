"""What a policy said while PPO trained it, as the run kept it, and what another reward makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeGuard

from alignpipe.errors import ConfigError, DataError

FILE = "rollouts.parquet"
_MOST_GROUPS = 20


@dataclass(frozen=True)
class Stretch:
    """Some updates in a row: the mean of the reward that was trained on, and of the new score."""

    first: int
    last: int
    samples: int
    reward: float
    score: float


def rollouts_of(run: Path) -> Path:
    """The file in which a run kept its rollouts; of several such stages, the last one's.

    Raises `ConfigError` if the folder is no run, `DataError` if the run kept none.
    """
    summary = run / "summary.json"
    if not summary.is_file():
        raise ConfigError(f"--run {run}: that is no run folder, it has no summary.json (see outputs/runs)")
    stages: dict[str, Any] = json.loads(summary.read_text())["stages"]
    kept = [Path(stage["artifact"]) / FILE for stage in stages.values() if stage.get("artifact")]
    there = [path for path in kept if path.is_file()]
    if not there:
        raise DataError(f"--run {run}: none of its stages ({', '.join(stages)}) has kept rollouts ({FILE})")
    return there[-1]


def by_update(table: Sequence[dict[str, Any]]) -> list[Stretch]:
    """The scored rollouts, update by update, neighbours together where there are many.

    Raises `DataError` for a table without `update` and `reward`.
    """
    lacking = [column for column in ("update", "reward") if any(column not in row for row in table)]
    if lacking:
        raise DataError(f"these are no rollouts of PPO: the column {' and '.join(lacking)} is not there")
    updates = sorted({int(row["update"]) for row in table})
    size = math.ceil(len(updates) / _MOST_GROUPS)
    groups = [updates[start : start + size] for start in range(0, len(updates), size)]
    found = []
    for group in groups:
        rows = [row for row in table if group[0] <= int(row["update"]) <= group[-1]]
        reward, score = (_mean([row[column] for row in rows]) for column in ("reward", "score"))
        found.append(Stretch(group[0], group[-1], len(rows), reward, score))
    return found


def agreement(table: Sequence[dict[str, Any]]) -> float:
    """Spearman's correlation of the two over all samples that have both; NaN where there is none."""
    import torch  # only here: a reward on a file is scored without it

    from alignpipe.ops.correlation import spearman

    both = [(row["reward"], row["score"]) for row in table if _is_number(row["reward"]) and _is_number(row["score"])]
    if len(both) < 2:
        return math.nan
    trained, scores = (torch.tensor(values, dtype=torch.float64) for values in zip(*both, strict=True))
    return float(spearman(trained, scores))


def _mean(values: Sequence[float | None]) -> float:
    numbers = [value for value in values if _is_number(value)]
    return fmean(numbers) if numbers else math.nan


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
