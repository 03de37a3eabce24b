"""A reward tried on a file: its scores, what they look like, and the table of them."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from alignpipe.api import Sample
from alignpipe.authoring.rows import Data
from alignpipe.errors import ConfigError
from alignpipe.rewarding.judge import Judge, Scored
from alignpipe.rows import Raw, as_json, columns_of, write_parquet

_OURS = ("score", "failure")
_PART = "part/"
_FEW = 100
_BINS = 10
_BAR = 40

Writer = Callable[[Path, Sequence[Raw]], None]


@dataclass(frozen=True)
class Tried:
    """The samples with their scores, one row of the table for each, and for pairs the report card."""

    samples: Sequence[Sample]
    scored: Scored
    table: Sequence[Raw]
    card: Mapping[str, float]

    @property
    def totals(self) -> list[float]:
        """The totals that there are."""
        return [self.scored.total[index] for index in self.scored.kept]

    def figures(self) -> list[tuple[str, float, float, float, float]]:
        """(part, mean, standard deviation, minimum, maximum) over the samples that have a score; the total first."""
        found = []
        for name, values in [("total", self.scored.total), *self.scored.parts.items()]:
            numbers = [values[index] for index in self.scored.kept if math.isfinite(values[index])]
            if numbers:
                found.append((name, fmean(numbers), pstdev(numbers), min(numbers), max(numbers)))
        return found

    def failure_kinds(self) -> list[tuple[str, int, str]]:
        """(kind, how many, what the first one says) of what has no score."""
        first: dict[str, str] = {}
        for failure in self.scored.failures.values():
            first.setdefault(failure.kind, failure.message.strip().partition("\n")[0])
        return [(kind, count, first[kind]) for kind, count in self.scored.failure_counts().items()]


def try_on(judge: Judge, data: Data, what: str) -> Tried:
    """Score everything; `what` names the data in messages.

    Of a few samples all are looked at, however many fail; what is said of many is over at the budget for failures.

    Raises `DataError` for a column that the reward reads and the data lacks, `RewardError` as the judge does.
    """
    rows = [sample.row for sample in data.samples]
    judge.check_columns(rows[::2] if data.pairs else rows, what, "add it to the file")
    scored = judge.score_all(data.samples) if len(data.samples) <= _FEW else judge.score(data.samples)
    table = [_line(raw, scored, index) for index, raw in enumerate(data.raw)]
    return Tried(data.samples, scored, table, _card(data.pairs, scored))


def _card(pairs: Sequence[Raw], scored: Scored) -> Mapping[str, float]:
    """The report card; empty without a pair of which both sides have a score."""
    chosen, rejected = (
        Scored(
            scored.total[side::2],
            {name: values[side::2] for name, values in scored.parts.items()},
            failures={index // 2: failure for index, failure in scored.failures.items() if index % 2 == side},
        )
        for side in (0, 1)
    )
    if not pairs or not any(index not in rejected.failures for index in chosen.kept):
        return {}
    from alignpipe.rewarding.report_card import card_of  # with torch, which answers alone do not need

    return card_of(pairs, chosen, rejected)


def _line(raw: Raw, scored: Scored, index: int) -> Raw:
    """A row of the table: the file's columns (an earlier try's aside), then the score, the parts and the failure."""
    own = {name: value for name, value in raw.items() if name not in _OURS and not name.startswith(_PART)}
    failure = scored.failures.get(index)
    found = {"score": None if failure else scored.total[index]}
    found |= {_PART + name: None if failure else values[index] for name, values in scored.parts.items()}
    return {**own, **found, "failure": f"{failure.kind}: {failure.message}" if failure else None}


def histogram(values: Sequence[float]) -> list[str]:
    """The lines of a histogram in text."""
    low, high = min(values), max(values)
    if low == high:
        return [f"{low:>z10.4g}              {'#' * _BAR} {len(values)}"]
    width = (high - low) / _BINS
    counts = Counter(min(int((value - low) / width), _BINS - 1) for value in values)
    most = max(counts.values())
    lines = []
    for index in range(_BINS):
        bar = "#" * math.ceil(_BAR * counts[index] / most)
        begin, end = low + index * width, low + (index + 1) * width
        lines.append(f"{begin:>z10.4g} .. {end:<z10.4g} {bar:<{_BAR}} {counts[index]}".rstrip())
    return lines


def writer_for(path: Path) -> Writer:
    """What writes a table under this name.

    Raises `ConfigError` for a name that does not say how.
    """
    writers: Mapping[str, Writer] = {".parquet": write_parquet, ".jsonl": _to_jsonl, ".csv": _to_csv}
    if path.suffix not in writers:
        raise ConfigError(f"--out {path}: the name must end in {', '.join(writers)}")
    return writers[path.suffix]


def _to_jsonl(path: Path, table: Sequence[Raw]) -> None:
    path.write_text("".join(as_json(row) + "\n" for row in table), encoding="utf-8")


def _to_csv(path: Path, table: Sequence[Raw]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns_of(table))
        writer.writeheader()
        for row in table:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    return as_json(value) if isinstance(value, dict | list) else value
