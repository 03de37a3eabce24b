"""The folders and files of a store.

index/<stage>/<key>.json               input key -> output digest, when, by whom, what went into it
objects/<stage>/<digest>/payload/      the artifact: read-only, the digest covers it and nothing else
objects/<stage>/<digest>/manifest.json path, size and sha256 of every payload file; written last
objects/<stage>/<digest>/records/<key> metrics.jsonl, timings.jsonl, record.json of the run that made it
work/<stage>-<key>/                    state/ (checkpoints), payload/ (emptied at each attempt), metrics so far,
                                       attempt.json (the code it runs with), failure.json (for those who wait),
                                       object/ (what is about to be published)
runs/<run_key>.json                    the attempts of a run, and the trackers' names for it
locks/  trash/  pins/                  one lock file per key and run; what gc may delete; what it must keep
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

METRICS, TIMINGS = "metrics.jsonl", "timings.jsonl"
"""Names of the files that metrics are logged to, in work folders, records and run folders."""


@dataclass(frozen=True)
class Layout:
    """The paths below a store's root; all on one file system, so that a rename publishes."""

    root: Path

    def index(self, stage: str, key: str) -> Path:
        """The index entry of a key."""
        return self.root / "index" / stage / f"{key}.json"

    def indexed(self, stage: str) -> list[Path]:
        """The index entries of all keys known for a stage."""
        return list((self.root / "index" / stage).glob("*.json"))

    def object(self, stage: str, digest: str) -> Path:
        """The folder of a published object."""
        return self.root / "objects" / stage / digest

    def work(self, stage: str, key: str) -> Path:
        """The work folder of a key."""
        return self.root / "work" / f"{stage}-{key}"

    def lock(self, name: str) -> Path:
        """The lock file of a name (`<stage>-<key>`, `run-<run_key>`)."""
        return self.root / "locks" / f"{name}.lock"

    def run(self, run_key: str) -> Path:
        """The record of a run."""
        return self.root / "runs" / f"{run_key}.json"

    @property
    def trash(self) -> Path:
        """Where damaged and discarded folders go."""
        return self.root / "trash"

    @property
    def pins(self) -> Path:
        """One empty file per digest that gc must keep."""
        return self.root / "pins"


def records_folder(obj: Path, key: str) -> Path:
    """The records of one key inside an object's folder."""
    return obj / "records" / key
