"""A reward tried on a file: its scores, what they look like, and the table of them."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from alignpipe.api import Failure, Sample
from alignpipe.authoring.rows import Answers, Pairs, Raw, extras
from alignpipe.errors import ConfigError
from alignpipe.rewarding.judge import Judge, Scored
from alignpipe.rewarding.report_card import card_of

_OURS = ("score", "failure", "side")
_PART = "part/"
_BINS = 10
_BAR = 40

Writer = Callable[[Path, Sequence[Raw]], None]


@dataclass(frozen=True)
class Tried:
    """The scores of all samples, one row each of the table, and for pairs the report card."""

    samples: Sequence[Sample]
    total: Sequence[float]
    parts: Mapping[str, Sequence[float]]
    failures: Mapping[int, Failure]
    table: Sequence[Raw]
    card: Mapping[str, float]

    def figures(self) -> list[tuple[str, float, float, float, float]]:
        """(part, mean, standard deviation, minimum, maximum) over the samples that have a score; the total first."""
        kept = [place for place in range(len(self.total)) if place not in self.failures]
        found = []
        for name, values in {"total": self.total, **self.parts}.items():
            numbers = [values[place] for place in kept if math.isfinite(values[place])]
            if numbers:
                found.append((name, fmean(numbers), pstdev(numbers), min(numbers), max(numbers)))
        return found

    def failure_kinds(self) -> list[tuple[str, int, str]]:
        """(kind, how many, what the first one says) of what has no score."""
        counts = Counter(failure.kind for failure in self.failures.values())
        first = {failure.kind: failure.message for failure in reversed(list(self.failures.values()))}
        return [(kind, count, first[kind].strip().splitlines()[0]) for kind, count in sorted(counts.items())]


def try_on(judge: Judge, data: Answers | Pairs, what: str) -> Tried:
    """Score everything; `what` names the data in messages.

    Raises `DataError` for a column that the reward reads and the data lacks, `RewardError` as the judge does.
    """
    hint = "add it to the file"
    if isinstance(data, Answers):
        judge.check_columns([dict(sample.row) for sample in data.samples], what, hint)
        scored = judge.score(data.samples)
        table = [_line(raw, {}, scored, place) for place, raw in enumerate(data.raw)]
        return Tried(data.samples, scored.total, scored.parts, scored.failures, table, {})
    judge.check_columns([extras(row) for row in data.rows], what, hint)
    sides = {column: data.side(column) for column in ("chosen", "rejected")}
    scores = {column: judge.score(samples) for column, samples in sides.items()}
    chosen, rejected = scores["chosen"], scores["rejected"]
    table = [
        _line(raw, {"side": column, "completion": row[column]}, scores[column], place)
        for place, (raw, row) in enumerate(zip(data.raw, data.rows, strict=True))
        for column in sides
    ]
    both = any(place not in rejected.failures for place in chosen.kept)
    count = len(data.rows)
    return Tried(
        [*sides["chosen"], *sides["rejected"]],
        [*chosen.total, *rejected.total],
        {
            name: [*chosen.parts.get(name, [math.nan] * count), *rejected.parts.get(name, [math.nan] * count)]
            for name in dict.fromkeys([*chosen.parts, *rejected.parts])
        },
        {**chosen.failures, **{count + place: failure for place, failure in rejected.failures.items()}},
        table,
        card_of(data.rows, chosen, rejected) if both else {},
    )


def _line(raw: Raw, more: Raw, scored: Scored, place: int) -> Raw:
    """A row of the table: the file's columns (an earlier try's aside), then the score, the parts and the failure."""
    own = {name: value for name, value in raw.items() if name not in _OURS and not name.startswith(_PART)}
    failure = scored.failures.get(place)
    found = {"score": None if failure else scored.total[place]}
    found |= {_PART + name: None if failure else values[place] for name, values in scored.parts.items()}
    return {**own, **more, **found, "failure": f"{failure.kind}: {failure.message}" if failure else None}


def histogram(values: Sequence[float]) -> list[str]:
    """The lines of a histogram in text."""
    low, high = min(values), max(values)
    if low == high:
        return [f"{low:>10.4g}              {'#' * _BAR} {len(values)}"]
    width = (high - low) / _BINS
    counts = Counter(min(int((value - low) / width), _BINS - 1) for value in values)
    most = max(counts.values())
    lines = []
    for place in range(_BINS):
        bar = "#" * math.ceil(_BAR * counts[place] / most)
        begin, end = low + place * width, low + (place + 1) * width
        lines.append(f"{begin:>10.4g} .. {end:<10.4g} {bar:<{_BAR}} {counts[place]}".rstrip())
    return lines


def writer_for(path: Path) -> Writer:
    """What writes a table under this name.

    Raises `ConfigError` for a name that does not say how.
    """
    writers: Mapping[str, Writer] = {".parquet": _to_parquet, ".jsonl": _to_jsonl, ".csv": _to_csv}
    if path.suffix not in writers:
        raise ConfigError(f"--out {path}: the name must end in {', '.join(writers)}")
    return writers[path.suffix]


def _to_parquet(path: Path, table: Sequence[Raw]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(table)), path)


def _to_jsonl(path: Path, table: Sequence[Raw]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table), encoding="utf-8")


def _to_csv(path: Path, table: Sequence[Raw]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in table for name in row)))
        writer.writeheader()
        for row in table:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else value
