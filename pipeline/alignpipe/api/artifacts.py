"""Artifacts: the immutable results that stages hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alignpipe.api.components import Kind


@dataclass(frozen=True)
class Artifact:
    """A stage's published result: a folder nobody writes to again.

    `folder` is the payload: of a dataset what `alignpipe.dataset.write_dataset` writes, of a policy an ordinary Hugging
    Face checkpoint. A report is anything; the table and the samples at the end of a run are those of its `report.json`:
    `{"columns": ["sft", "ppo"], "rows": [["reward", 0.1, 1.2], ...], "samples": [{"prompt", "policy", "baseline"}]}`,
    a row being a label and a value for each column (null for none). `stage` names who made it, or is `base`
    for the run's base model and `checkpoint` for a folder the user named. `digest` covers the payload's bytes. The base
    model lies nowhere yet: its `folder` is `Path()`, its `digest` the word base.
    """

    kind: Kind
    stage: str
    folder: Path
    digest: str
