"""Some of the episodes of every update, kept with the policy: what it said on the way, and what that was worth.

The columns are those that `alignpipe score` reads, so that another reward can be tried on a real policy's drift.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from torch import Tensor

from alignpipe.rows import write_parquet
from alignpipe.syncing import sync
from alignpipe.training.parallel import Team
from alignpipe_plugins.ppo.episodes import Episodes

FILE = "rollouts.parquet"
_PER_UPDATE = 16
"""Episodes kept of an update: enough to see what changes, and small beside a checkpoint after a thousand updates."""


class KeptEpisodes:
    """Lines in the work folder, which survive a kill, and a Parquet file in the payload at the end.

    Of the processes of `team` rank 0 keeps them.
    """

    def __init__(self, work: Path, team: Team) -> None:
        self._path = work / "rollouts.jsonl"
        self._leads = team.leads

    def rewind(self, update: int) -> None:
        """Forget what was kept after `update`; a line that cannot be read (a kill, a power cut) came after it."""
        if not self._leads or not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n") or _update_of(line) > update:
                break
            kept.append(line)
        draft = self._path.with_suffix(".draft")
        draft.write_text("".join(kept), encoding="utf-8")
        sync(draft)
        draft.replace(self._path)

    def add(self, update: int, episodes: Episodes, kl: Tensor) -> None:
        """Keep the first episodes of an update; `kl` [B] in nats per sequence."""
        if not self._leads:
            return
        with self._path.open("a", encoding="utf-8") as file:
            for row in range(min(_PER_UPDATE, len(episodes.samples))):
                # As ASCII: a raw model writes characters that end a line for `splitlines`.
                line = _line(update, episodes, row, float(kl[row]))
                file.write(json.dumps(line, default=str) + "\n")  # a row's own columns may hold dates and the like

    def write(self, payload: Path) -> None:
        """Leave `rollouts.parquet` in the payload, if anything was kept."""
        if not self._path.exists():
            return
        lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
        write_parquet(payload / FILE, lines)  # the prompts' own columns may hold anything


def _update_of(line: str) -> float:
    """The update that a line was kept of; infinity for one that was half on the disk when the power went."""
    try:
        return float(json.loads(line)["update"])
    except ValueError:
        return math.inf


def _line(update: int, episodes: Episodes, row: int, kl: float) -> dict[str, Any]:
    """One episode as a row of the table; a column of the prompt row that bears one of our names gives way."""
    sample = episodes.samples[row]
    own: dict[str, Any] = {
        "update": update,
        "prompt": sample.prompt,
        "completion": sample.response,
        "ended": sample.ended,
        "reward": float(episodes.scores[row]),
        "kl": kl,
        **{f"reward/part/{name}": _or_null(float(values[row])) for name, values in episodes.parts.items()},
    }
    if sample.messages:
        own["messages"] = [dict(message) for message in sample.messages]
    return {**own, **{name: value for name, value in sample.row.items() if name not in own}}


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
