"""What an evaluation found, and the two files it leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignpipe_plugins.evaluation.answers import Answers
from alignpipe_plugins.evaluation.comparison import Line


@dataclass
class Report:
    """The two sides, and what is found out about them step by step."""

    ours: Answers
    theirs: Answers | None
    figures: dict[str, float] = field(default_factory=dict)
    """The metrics to log."""
    table: list[Line] = field(default_factory=list)
    """The lines shown at the end of a run."""
    columns: dict[str, tuple[Sequence[float], Sequence[float] | None]] = field(default_factory=dict)
    """Per title one number per prompt, for us and for them."""

    def write(self, folder: Path, shown: int) -> None:
        """Write `samples.jsonl`, every pair of answers side by side, and `report.json` with `shown` of them."""
        samples = [self._sample(index) for index in range(len(self.ours.samples))]
        with (folder / "samples.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        names, rows = [self.ours.name], [[label, own] for label, _, own in self.table]
        if self.theirs is not None:
            names, rows = [self.theirs.name, self.ours.name], [list(line) for line in self.table]
        report = {"columns": names, "rows": rows, "samples": samples[:shown]}
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8")

    def _sample(self, index: int) -> dict[str, Any]:
        sample = self.ours.samples[index]
        line: dict[str, Any] = {"prompt": sample.prompt, "policy": sample.response}
        if self.theirs is not None:
            line["baseline"] = self.theirs.samples[index].response
        for title, (own, other) in self.columns.items():
            line[f"policy_{title}"] = _or_null(own[index])
            if other is not None:
                line[f"baseline_{title}"] = _or_null(other[index])
        return line


def _or_null(value: float) -> float | None:
    """A number for JSON, which has no NaN: what an answer without a score has."""
    return None if math.isnan(value) else value
